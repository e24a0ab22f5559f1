/*
 * virtio-blk: reads and writes a disk by many requests at a time, and checks every sector.
 *
 * The disk is cut into NR_SLOTS zones; a slot has one request under way in its zone at a time, of up to
 * MAX_SECTORS sectors, in one to MAX_PIECES pieces of memory of any alignment. Every write gives its
 * sectors a new version, and each word of a sector follows from sector and version, so that any read
 * can be checked; what was discarded may be anything until it is written again. In between requests
 * that must fail do so. At the end everything is flushed, read once more and compared.
 *
 * Parameter 0 = features of the rings that are left alone: 1 packed, 2 indirect, 4 event index,
 * 8 notification data. Parameter 1 = requests of each slot (default 60). Parameter 2 = 1: nothing is
 * written; every sector must be zeroes or what one run of this program has left there.
 */
#include "print.h"
#include "runtime.h"
#include "virtio-irq.h"

#define F_RO (1UL << 5)
#define F_FLUSH (1UL << 9)
#define F_DISCARD (1UL << 13)
#define F_WRITE_ZEROES (1UL << 14)

#define T_IN 0
#define T_OUT 1
#define T_FLUSH 4
#define T_GET_ID 8
#define T_DISCARD 11
#define T_WRITE_ZEROES 13
#define T_NONSENSE 77
#define S_OK 0
#define S_IOERR 1
#define S_UNSUPP 2

#define SECTOR_BYTES 512
#define SECTOR_WORDS (SECTOR_BYTES / 8)
#define NR_SLOTS 8
#define MAX_SECTORS 24
#define MAX_PIECES 4
#define GUARD_BYTES 32
#define GUARD 0xa5
#define MAX_ZONE_SECTORS 512
#define SEED 0x626c6bUL
#define MAX_REPORTS 8

#define ANYTHING (~0U) /* the version of a sector whose bytes nobody knows */
#define ZEROES 0U

struct request_header {
    u32 type, reserved;
    u64 sector;
};

struct range {
    u64 sector;
    u32 nr_sectors, flags;
};

/* A slot: its zone, and its request under way. */
struct slot {
    u64 first; /* sector */
    u64 random;
    u32 left; /* requests still to come */
    u32 version[MAX_ZONE_SECTORS];
    u32 last_version;

    struct request_header header;
    struct range range;
    volatile u8 status;
    u8 expected; /* status */
    u32 type, sector, nr; /* of the zone */
    u8 *data;
    /* The data, with guards before and behind it: at the second sector, or up to a sector later. */
    u8 room[(2 + MAX_SECTORS) * SECTOR_BYTES + GUARD_BYTES] __attribute__((aligned(512)));
};

static struct virtio_device device;
static struct virtq queue;
static struct slot slots[NR_SLOTS];
static u64 hart, zone_sectors, capacity;
static u64 failures, done[16], refused;

static void failed(const char *what, u64 sector, u64 got)
{
    if (failures++ < MAX_REPORTS)
        print("virtio-blk: %s at sector %u: %x\n", what, sector, got);
}

/* ---- the bytes of a sector ---- */

static u64 sector_word(u64 sector, u32 version, u32 index)
{
    if (version == ZEROES)
        return 0;
    /* The first word tells the version, so that what another run has left can be checked too. */
    return index == 0 ? (u64)version << 32 | (u32)mix64(sector + SEED)
                      : mix64(sector << 32 | version) + index;
}

/* Words at any alignment. */
static u64 load64(const u8 *at)
{
    u64 value;
    if (((u64)at & 7) == 0)
        return *(const u64 *)at;
    memcpy(&value, at, sizeof value);
    return value;
}

static void store64(u8 *at, u64 value)
{
    if (((u64)at & 7) == 0)
        *(u64 *)at = value;
    else
        memcpy(at, &value, sizeof value);
}

static void fill_sector(u8 *at, u64 sector, u32 version)
{
    for (u32 i = 0; i < SECTOR_WORDS; i++)
        store64(at + 8 * i, sector_word(sector, version, i));
}

static void check_sector(const u8 *at, u64 sector, u32 version)
{
    if (version == ANYTHING)
        return;
    for (u32 i = 0; i < SECTOR_WORDS; i++)
        if (load64(at + 8 * i) != sector_word(sector, version, i)) {
            failed("other bytes", sector, load64(at + 8 * i));
            return;
        }
}

/* ---- requests ---- */

/* Sends a request of a slot, its data cut into pieces of any length. */
static void submit(struct slot *slot, u32 data_bytes, int device_writes)
{
    struct virtq_segment segments[MAX_PIECES + 2];
    u32 count = 0;
    u8 *data = slot->data;
    slot->header.type = slot->type;
    slot->header.sector = slot->first + slot->sector;
    slot->status = 0xff;
    segments[count++] = (struct virtq_segment){ &slot->header, sizeof slot->header, 0 };
    for (u32 piece = 1; data_bytes > 0; piece++) {
        u32 len = piece == MAX_PIECES ? data_bytes : 1 + random_below(&slot->random, data_bytes);
        if (random_below(&slot->random, 2) == 0)
            len = data_bytes;
        segments[count++] = (struct virtq_segment){ data, len, device_writes };
        data += len;
        data_bytes -= len;
    }
    segments[count++] = (struct virtq_segment){ (const void *)&slot->status, 1, 1 };
    if (!virtq_add(&queue, segments, count, slot)) {
        print("virtio-blk: the ring is full\n");
        guest_exit(1);
    }
}

static void submit_range(struct slot *slot)
{
    slot->range = (struct range){ slot->first + slot->sector, slot->nr, 0 };
    if (slot->type == T_WRITE_ZEROES)
        slot->range.flags = random_below(&slot->random, 2); /* may it be given up? */
    slot->data = (u8 *)&slot->range;
    u32 sector = slot->sector;
    slot->sector = 0;
    submit(slot, sizeof slot->range, 0);
    slot->sector = sector;
}

/* Room for `nr` sectors from `sector` of the zone on, between guards. */
static void choose_buffer(struct slot *slot, u32 sector, u32 nr)
{
    u32 offset = random_below(&slot->random, 3) == 0 ? random_below(&slot->random, SECTOR_BYTES) : 0;
    slot->sector = sector;
    slot->nr = nr;
    slot->data = slot->room + SECTOR_BYTES + offset;
    memset(slot->data - GUARD_BYTES, GUARD, nr * SECTOR_BYTES + 2 * GUARD_BYTES);
    slot->expected = S_OK;
}

static void choose_place(struct slot *slot)
{
    u32 nr = 1 + random_below(&slot->random, MAX_SECTORS);
    choose_buffer(slot, random_below(&slot->random, (u32)zone_sectors - nr + 1), nr);
}

/* A request that the device has to refuse, and how. */
static void submit_refused(struct slot *slot)
{
    u32 dice = random_below(&slot->random, 3);
    u64 first = slot->first;
    slot->type = dice == 2 ? T_NONSENSE : T_IN;
    slot->expected = dice == 2 ? S_UNSUPP : S_IOERR;
    slot->nr = 0;
    if (dice == 0)
        slot->first = capacity - slot->sector; /* right behind the end */
    submit(slot, dice == 1 ? SECTOR_BYTES - 1 : SECTOR_BYTES, 1);
    slot->first = first;
}

static void submit_next(struct slot *slot)
{
    u32 dice = random_below(&slot->random, 100);
    slot->left--;
    choose_place(slot);
    if (dice < 45) {
        slot->type = T_OUT;
        slot->last_version++;
        for (u32 i = 0; i < slot->nr; i++) {
            slot->version[slot->sector + i] = slot->last_version;
            fill_sector(slot->data + i * SECTOR_BYTES, slot->first + slot->sector + i,
                        slot->last_version);
        }
        submit(slot, slot->nr * SECTOR_BYTES, 0);
    } else if (dice < 86) {
        slot->type = T_IN;
        submit(slot, slot->nr * SECTOR_BYTES, 1);
    } else if (dice < 89 && (device.features & F_FLUSH) != 0) {
        slot->type = T_FLUSH;
        slot->sector = 0;
        submit(slot, 0, 0);
    } else if (dice < 93 && (device.features & F_WRITE_ZEROES) != 0) {
        slot->type = T_WRITE_ZEROES;
        for (u32 i = 0; i < slot->nr; i++)
            slot->version[slot->sector + i] = ZEROES;
        submit_range(slot);
    } else if (dice < 96 && (device.features & F_DISCARD) != 0) {
        slot->type = T_DISCARD;
        for (u32 i = 0; i < slot->nr; i++)
            slot->version[slot->sector + i] = ANYTHING;
        submit_range(slot);
    } else {
        submit_refused(slot);
    }
}

/* Every sector that a run of this program can have left says itself what it must be. */
static void check_left(const u8 *at, u64 sector)
{
    u64 word = load64(at);
    if (word != 0 && (u32)word != (u32)mix64(sector + SEED))
        failed("nothing of ours", sector, word);
    else
        check_sector(at, sector, (u32)(word >> 32));
}

static void finished(struct slot *slot, u32 written, int verify)
{
    if (slot->expected == S_OK)
        done[slot->type]++;
    else
        refused++;
    if (slot->status != slot->expected)
        failed("status", slot->first + slot->sector, slot->status);
    if (slot->type != T_IN || slot->expected != S_OK)
        return;
    if (written != slot->nr * SECTOR_BYTES + 1)
        failed("bytes written", slot->first + slot->sector, written);
    for (u32 i = 0; i < slot->nr; i++) {
        u64 sector = slot->first + slot->sector + i;
        const u8 *at = slot->data + i * SECTOR_BYTES;
        if (verify)
            check_left(at, sector);
        else
            check_sector(at, sector, slot->version[slot->sector + i]);
    }
    const u8 *end = slot->data + slot->nr * SECTOR_BYTES;
    for (u32 i = 0; i < GUARD_BYTES; i++)
        if (*(slot->data - 1 - i) != GUARD || end[i] != GUARD)
            failed("a byte beside the buffer", slot->first + slot->sector, i);
}

/* The next part of a zone, in order. */
static void submit_read_back(struct slot *slot, u32 from)
{
    u32 rest = (u32)zone_sectors - from;
    choose_buffer(slot, from, rest < MAX_SECTORS ? rest : MAX_SECTORS);
    slot->type = T_IN;
    submit(slot, slot->nr * SECTOR_BYTES, 1);
}

static void run_requests(void)
{
    u32 under_way = 0, written;
    for (u32 i = 0; i < NR_SLOTS; i++, under_way++)
        submit_next(&slots[i]);
    virtq_kick(&queue);
    while (under_way > 0) {
        struct slot *slot = virtq_wait(&queue, &written);
        finished(slot, written, 0);
        if (slot->left == 0) {
            under_way--;
            continue;
        }
        submit_next(slot);
        virtq_kick(&queue);
    }
}

static void run_one(struct slot *slot, u32 type)
{
    u32 written;
    choose_place(slot);
    slot->type = type;
    slot->sector = 0;
    submit(slot, type == T_GET_ID ? 20 : 0, 1);
    virtq_kick(&queue);
    finished(virtq_wait(&queue, &written), written, 0);
}

static void read_back(int verify)
{
    u32 at[NR_SLOTS], under_way = 0, written;
    for (u32 i = 0; i < NR_SLOTS; i++, under_way++) {
        submit_read_back(&slots[i], 0);
        at[i] = slots[i].nr;
    }
    virtq_kick(&queue);
    while (under_way > 0) {
        struct slot *slot = virtq_wait(&queue, &written);
        u32 i = (u32)(slot - slots);
        finished(slot, written, verify);
        if (at[i] == zone_sectors) {
            under_way--;
            continue;
        }
        submit_read_back(slot, at[i]);
        at[i] += slot->nr;
        virtq_kick(&queue);
    }
}

/* What every slot has written, in one number that is the same wherever this runs. */
static u64 state_of_disk(void)
{
    u64 state = 0;
    for (u32 i = 0; i < NR_SLOTS; i++)
        for (u32 s = 0; s < zone_sectors; s++)
            state = mix64(state ^ slots[i].version[s]);
    return state;
}

static int setup(u64 left_alone)
{
    u64 wanted = virtio_ring_features(left_alone) | F_RO | F_FLUSH | F_DISCARD | F_WRITE_ZEROES;
    if (!virtio_find(VIRTIO_ID_BLOCK, &device) || !virtio_negotiate(&device, wanted) ||
        !virtq_setup(&queue, &device, 0, 0))
        return 0;
    virtio_start(&device, hart);
    return 1;
}

int main(u64 this_hart, const void *fdt)
{
    (void)fdt;
    hart = this_hart;
    int verify = parameter(2, 0) == 1;
    if (!setup(parameter(0, 0))) {
        print("virtio-blk: no disk\n");
        return 1;
    }
    capacity = virtio_config64(&device, 0);
    zone_sectors = capacity / NR_SLOTS;
    if (zone_sectors > MAX_ZONE_SECTORS)
        zone_sectors = MAX_ZONE_SECTORS;
    if (zone_sectors < MAX_SECTORS) {
        print("virtio-blk: a disk of %u sectors is too small\n", capacity);
        return 1;
    }
    for (u32 i = 0; i < NR_SLOTS; i++) {
        slots[i].first = i * zone_sectors;
        slots[i].random = SEED + i;
        slots[i].left = (u32)parameter(1, 60);
        for (u32 s = 0; s < zone_sectors; s++)
            slots[i].version[s] = ANYTHING;
    }
    run_one(&slots[0], T_GET_ID);
    slots[0].data[20] = 0;
    print("virtio-blk: %u sectors, \"%s\"%s, %s ring\n", capacity, slots[0].data,
          (device.features & F_RO) != 0 ? ", read-only" : "",
          virtq_has(&queue, VIRTIO_F_RING_PACKED) ? "packed" : "split");

    if (!verify) {
        run_requests();
        if ((device.features & F_FLUSH) != 0)
            run_one(&slots[0], T_FLUSH);
        print("virtio-blk: %u reads, %u writes, %u flushes, %u ranges zeroed, %u discarded, %u refused\n",
              done[T_IN], done[T_OUT], done[T_FLUSH], done[T_WRITE_ZEROES], done[T_DISCARD], refused);
    }
    read_back(verify);
    if (virtio_interrupts == 0)
        failed("interrupts", 0, 0);
    if (failures != 0) {
        print("virtio-blk: FAILED, %u times\n", failures);
        return 1;
    }
    if (!verify)
        print("virtio-blk: state %p\n", state_of_disk());
    print("virtio-blk: ok\n");
    return 0;
}
