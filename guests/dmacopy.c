/*
 * dmacopy: has the DMA engine copy a few megabytes in many pieces, and checks every byte.
 *
 * Each round queues NR_SLOTS descriptors. A slot of the destination is 32 KiB; slots alternate
 * between the lower and the upper half of memory. Inside a slot, one to MAX_SEGMENTS ranges of any
 * length and alignment are the engine's; everything between them is the program's, which keeps
 * storing there while the engine is at work, in the same pages and never in the same bytes.
 *
 * A shadow of the destination says what must be there: the program updates it with the same
 * ranges, read from a source whose contents are arithmetic. After each round it compares the whole
 * destination with the shadow and the whole source with the arithmetic.
 *
 * Parameter 0 = the engine's latency in instructions (default 30,000).
 */
#include "dma.h"
#include "fdt.h"
#include "print.h"
#include "runtime.h"
#include "sbi.h"

#define NR_ROUNDS 8
#define NR_SLOTS 48 /* even: the last descriptor interrupts */
#define RING_SIZE 64 /* larger than a round: HEAD and TAIL wrap at places that move */
#define SLOT_BYTES (8 * PAGE_SIZE)
#define MAX_SEGMENTS 5
#define MAX_SEGMENT_BYTES 6000
#define DMA_LATENCY_INSTRUCTIONS 30000
#define SHADOW_BYTES 256 /* copied between two looks at the engine */

#define HALF_BYTES (NR_SLOTS / 2 * SLOT_BYTES) /* of the destination, and of the source */
#define SOURCE_BYTES (512UL << 10) /* in each half */

#define SEED 0x646d61636f7079UL
#define MAX_REPORTS 8

/* Interrupts of S-mode on hart h go to context 2h + 1 of the PLIC (QEMU's virt board). */
#define PLIC_BASE 0x0c000000UL
#define PLIC_PRIORITY(source) (PLIC_BASE + 4 * (source))
#define PLIC_ENABLE(context, source) (PLIC_BASE + 0x2000 + 0x80 * (context) + (source) / 32 * 4)
#define PLIC_THRESHOLD(context) (PLIC_BASE + 0x200000 + 0x1000 * (context))
#define PLIC_CLAIM(context) (PLIC_BASE + 0x200004 + 0x1000 * (context))

/* One piece of a transfer, in a slot: offsets from its first byte. */
struct segment {
    u32 offset, len;
};

struct slot {
    u8 *bytes;  /* the destination */
    u8 *shadow; /* what must be there */
    u32 nr_segments, total;
    struct segment segment[MAX_SEGMENTS];
    u32 nr_sources;
    struct {
        const u8 *bytes;
        u32 len;
    } source[MAX_SEGMENTS];
};

static struct dma_descriptor ring[RING_SIZE];
static struct dma_sg src_list[NR_SLOTS][MAX_SEGMENTS] __attribute__((aligned(16)));
static struct dma_sg dst_list[NR_SLOTS][MAX_SEGMENTS] __attribute__((aligned(16)));
static struct slot slots[NR_SLOTS];
static u8 *source_half[2];

/* Apart, so that what is planned does not depend on how often there was time for a store. */
static u64 plan_state = SEED, poke_state = SEED + 1;
static u64 plic_context;
static volatile u64 interrupts;
static u64 mismatches, bytes_copied, pokes, sg_lists;

static void mismatch(const char *what, const void *gpa, u64 expected, u64 got)
{
    if (mismatches++ < MAX_REPORTS)
        print("dmacopy: MISMATCH in %s at gpa 0x%x expected 0x%x got 0x%x\n", what, (u64)gpa,
              expected, got);
}

static u32 reg_read(u32 reg) { return mmio_read32(DMA_BASE + reg); }
static void reg_write(u32 reg, u32 value) { mmio_write32(DMA_BASE + reg, value); }

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause == CAUSE_EXTERNAL_INTERRUPT) {
        u32 source = mmio_read32(PLIC_CLAIM(plic_context));
        if (source == DMA_IRQ) {
            reg_write(DMA_IRQ_STATUS, reg_read(DMA_IRQ_STATUS));
            interrupts++;
        }
        if (source != 0)
            mmio_write32(PLIC_CLAIM(plic_context), source);
        return;
    }
    if (frame->scause == CAUSE_LOAD_ACCESS && frame->stval == DMA_BASE) {
        print("dmacopy: no DMA engine at 0x%x\n", DMA_BASE);
        guest_exit(1);
    }
    trap_unexpected(frame);
}

/* ---- the source: arithmetic by place and round ---- */

static u64 source_word(u32 round, u32 half, u64 index)
{
    return (SEED + round * 2 + half) * 0x9e3779b97f4a7c15UL + index * 0xd1b54a32d192ed03UL;
}

static void fill_source(u32 round)
{
    for (u32 half = 0; half < 2; half++) {
        u64 *word = (u64 *)source_half[half];
        for (u64 i = 0; i < SOURCE_BYTES / 8; i++)
            word[i] = source_word(round, half, i);
    }
}

static void check_source(u32 round)
{
    for (u32 half = 0; half < 2; half++) {
        const u64 *word = (const u64 *)source_half[half];
        for (u64 i = 0; i < SOURCE_BYTES / 8; i++)
            if (word[i] != source_word(round, half, i))
                mismatch("source", &word[i], source_word(round, half, i), word[i]);
    }
}

/* ---- planning a transfer ---- */

/* Cuts a slot into ranges for the engine, with at least one byte before, between and after them. */
static void plan_destination(struct slot *slot)
{
    u32 offset = 0;
    u32 wanted = 1 + random_below(&plan_state, MAX_SEGMENTS);
    slot->nr_segments = 0;
    slot->total = 0;
    while (slot->nr_segments < wanted) {
        u32 len = 1 + random_below(&plan_state, MAX_SEGMENT_BYTES);
        offset += 1 + random_below(&plan_state, 500);
        if (offset + len >= SLOT_BYTES)
            break;
        slot->segment[slot->nr_segments++] = (struct segment){ offset, len };
        slot->total += len;
        offset += len;
    }
}

/* The same number of bytes, from one to MAX_SEGMENTS places of the source. */
static void plan_source(struct slot *slot)
{
    u32 left = slot->total;
    u32 wanted = 1 + random_below(&plan_state, MAX_SEGMENTS);
    slot->nr_sources = 0;
    while (left > 0) {
        u32 last = slot->nr_sources + 1 == wanted;
        u32 len = last ? left : 1 + random_below(&plan_state, left);
        const u8 *half = source_half[random_below(&plan_state, 2)];
        slot->source[slot->nr_sources].bytes =
            half + random_below(&plan_state, (u32)SOURCE_BYTES - len);
        slot->source[slot->nr_sources++].len = len;
        left -= len;
    }
}

static void write_descriptor(u32 index, struct slot *slot, u32 number, u32 flags)
{
    struct dma_descriptor *d = &ring[index % RING_SIZE];
    d->src = (u64)slot->source[0].bytes;
    d->dst = (u64)(slot->bytes + slot->segment[0].offset);
    if (slot->nr_sources > 1) {
        for (u32 i = 0; i < slot->nr_sources; i++)
            src_list[number][i] = (struct dma_sg){ (u64)slot->source[i].bytes, slot->source[i].len,
                                                   i + 1 == slot->nr_sources ? DMA_SG_LAST : 0 };
        d->src = (u64)src_list[number];
        flags |= DMA_FLAG_SRC_SG;
        sg_lists++;
    }
    if (slot->nr_segments > 1) {
        for (u32 i = 0; i < slot->nr_segments; i++)
            dst_list[number][i] =
                (struct dma_sg){ (u64)(slot->bytes + slot->segment[i].offset), slot->segment[i].len,
                                 i + 1 == slot->nr_segments ? DMA_SG_LAST : 0 };
        d->dst = (u64)dst_list[number];
        flags |= DMA_FLAG_DST_SG;
        sg_lists++;
    }
    d->len = slot->total;
    d->flags = flags;
    d->status = 0;
}

/* ---- while the engine works ---- */

/* How far the shadow has been brought up to date in this round. */
struct cursor {
    u32 slot;
    u32 segment, done; /* the segment of the slot, and how much of it */
    u32 source, used;
};

/* Does to the shadow what the engine does to the slots, at most SHADOW_BYTES of it. 0 = all done. */
static int copy_to_shadow(struct cursor *at)
{
    if (at->slot == NR_SLOTS)
        return 0;
    struct slot *slot = &slots[at->slot];
    struct segment *segment = &slot->segment[at->segment];
    u32 len = segment->len - at->done;
    if (len > slot->source[at->source].len - at->used)
        len = slot->source[at->source].len - at->used;
    if (len > SHADOW_BYTES)
        len = SHADOW_BYTES;
    memcpy(slot->shadow + segment->offset + at->done, slot->source[at->source].bytes + at->used,
           len);
    at->done += len;
    at->used += len;
    if (at->used == slot->source[at->source].len) {
        at->source++;
        at->used = 0;
    }
    if (at->done == segment->len) {
        at->segment++;
        at->done = 0;
    }
    if (at->segment == slot->nr_segments)
        *at = (struct cursor){ .slot = at->slot + 1 };
    return 1;
}

static void poke_byte(struct slot *slot, u32 offset)
{
    u8 value = (u8)++pokes;
    ((volatile u8 *)slot->bytes)[offset] = value;
    slot->shadow[offset] = value;
}

/* Stores beside the engine's ranges: the bytes next to each, and one anywhere between. */
static void poke_slot(struct slot *slot)
{
    u32 end = 0; /* of the range before */
    for (u32 i = 0; i <= slot->nr_segments; i++) {
        u32 next = i < slot->nr_segments ? slot->segment[i].offset : (u32)SLOT_BYTES;
        poke_byte(slot, end);
        poke_byte(slot, next - 1);
        poke_byte(slot, end + random_below(&poke_state, next - end));
        end = next + (i < slot->nr_segments ? slot->segment[i].len : 0);
    }
}

/*
 * Until HEAD has moved on from `head`: sleeps if an interrupt has ever come, else just asks again.
 * Interrupts are off between the question and the sleep, so that none is missed; wfi wakes for a
 * pending one all the same.
 */
static void wait_for_progress(u32 head)
{
    csr_clear(sstatus, SSTATUS_SIE);
    if (reg_read(DMA_HEAD) == head && interrupts != 0)
        wait_for_interrupt();
    csr_set(sstatus, SSTATUS_SIE);
}

static void run_round(u32 round, u32 first)
{
    for (u32 i = 0; i < NR_SLOTS; i++) {
        plan_destination(&slots[i]);
        plan_source(&slots[i]);
        /* Odd descriptors interrupt, the last is one: see wait_for_progress(). */
        write_descriptor(first + i, &slots[i], i, (i & 1) != 0 ? DMA_FLAG_IRQ : 0);
        bytes_copied += slots[i].total;
    }
    fence_all();
    reg_write(DMA_TAIL, first + NR_SLOTS);

    struct cursor cursor = { 0 };
    u32 head;
    while ((head = reg_read(DMA_HEAD)) != first + NR_SLOTS) {
        u32 current = head - first;
        poke_slot(&slots[current]);
        if (current + 1 < NR_SLOTS)
            poke_slot(&slots[current + 1]);
        if (!copy_to_shadow(&cursor) && (current & 1) != 0)
            wait_for_progress(head);
    }
    fence_all();
    while (copy_to_shadow(&cursor))
        ;
    for (u32 i = 0; i < NR_SLOTS; i++) {
        struct dma_descriptor *d = &ring[(first + i) % RING_SIZE];
        if (d->status != DMA_DONE)
            mismatch("descriptor status", d, DMA_DONE, d->status);
    }
    check_source(round);
}

/* Compares every byte of the destination with the shadow. */
static void check_destination(void)
{
    for (u32 s = 0; s < NR_SLOTS; s++) {
        const u64 *word = (const u64 *)slots[s].bytes, *shadow = (const u64 *)slots[s].shadow;
        for (u64 i = 0; i < SLOT_BYTES / 8; i++) {
            u64 got = word[i];
            if (got != shadow[i])
                mismatch("destination", &word[i], shadow[i], got);
        }
    }
}

/*
 * A checksum of what the engine has written, by the words that are its own altogether. It depends
 * on nothing but the plan: the same in every run, whatever the host does and however fast.
 */
static u64 checksum_transfers(void)
{
    u64 checksum = 0;
    for (u32 s = 0; s < NR_SLOTS; s++)
        for (u32 i = 0; i < slots[s].nr_segments; i++) {
            struct segment segment = slots[s].segment[i];
            const u64 *word = (const u64 *)(slots[s].bytes + ((segment.offset + 7) & ~7U));
            const u64 *end = (const u64 *)(slots[s].bytes + ((segment.offset + segment.len) & ~7U));
            for (; word < end; word++)
                checksum = (checksum << 1 | checksum >> 63) + *word;
        }
    return checksum;
}

static void setup_engine(u64 hart)
{
    if (reg_read(DMA_ID) != DMA_ID_VALUE) {
        print("dmacopy: no DMA engine at 0x%x\n", DMA_BASE);
        guest_exit(1);
    }
    reg_write(DMA_CONTROL, DMA_CONTROL_RESET);
    reg_write(DMA_RING_LO, (u32)(u64)ring);
    reg_write(DMA_RING_HI, (u32)((u64)ring >> 32));
    reg_write(DMA_RING_SIZE, RING_SIZE);
    reg_write(DMA_LATENCY, (u32)parameter(0, DMA_LATENCY_INSTRUCTIONS));
    reg_write(DMA_CONTROL, DMA_CONTROL_ENABLE | DMA_CONTROL_IRQ_ENABLE);

    plic_context = 2 * hart + 1;
    mmio_write32(PLIC_PRIORITY(DMA_IRQ), 1);
    mmio_write32(PLIC_ENABLE(plic_context, DMA_IRQ), 1U << DMA_IRQ % 32);
    mmio_write32(PLIC_THRESHOLD(plic_context), 0);
    csr_set(sie, SIE_SEIE);
    csr_set(sstatus, SSTATUS_SIE);
}

/*
 * Where everything is: the destination's even slots, half of the source and the shadow of the odd
 * slots in the lower half of memory; the rest in the upper half. Returns 0 where it does not fit.
 */
static int place_buffers(u64 memory_end)
{
    u64 need = SOURCE_BYTES + 2 * HALF_BYTES;
    u64 low = (u64)_image_end;
    u64 high = low + (memory_end - low) / 2 / PAGE_SIZE * PAGE_SIZE;
    if (memory_end < low || low + need > high) {
        print("dmacopy: does not fit into memory up to 0x%x\n", memory_end);
        return 0;
    }
    u8 *start[2] = { (u8 *)low, (u8 *)high };
    for (u32 half = 0; half < 2; half++) {
        source_half[half] = start[half];
        for (u32 i = half; i < NR_SLOTS; i += 2) {
            u64 offset = SOURCE_BYTES + i / 2 * SLOT_BYTES;
            slots[i].bytes = start[half] + offset;
            slots[i].shadow = start[1 - half] + offset + HALF_BYTES;
        }
    }
    return 1;
}

/* Both the destination and its shadow begin as a pattern, so that a store too many shows. */
static void fill_destination(void)
{
    for (u32 s = 0; s < NR_SLOTS; s++)
        for (u64 i = 0; i < SLOT_BYTES / 8; i++)
            ((u64 *)slots[s].bytes)[i] = ((u64 *)slots[s].shadow)[i] = mix64(SEED ^ s) + i;
}

int main(u64 hart, const void *fdt)
{
    u64 instructions = csr_read(instret);
    if (!place_buffers(fdt_memory_end(fdt)))
        return 1;
    setup_engine(hart);
    print("dmacopy: %u rounds of %u transfers, buffers at gpa 0x%x and 0x%x\n", (u64)NR_ROUNDS,
          (u64)NR_SLOTS, (u64)source_half[0], (u64)source_half[1]);
    fill_destination();

    for (u32 round = 0; round < NR_ROUNDS; round++) {
        fill_source(round);
        run_round(round, round * NR_SLOTS);
        check_destination();
        print("dmacopy: round %u checksum %p\n", (u64)round + 1, checksum_transfers());
    }

    print("dmacopy: %u bytes in %u transfers, %u lists, %u stores beside them, %s\n", bytes_copied,
          (u64)NR_ROUNDS * NR_SLOTS, sg_lists, pokes,
          interrupts != 0 ? "by interrupt" : "by polling");
    print("dmacopy: %u instructions\n", csr_read(instret) - instructions);
    if (mismatches != 0) {
        print("dmacopy: FAILED, %u mismatches\n", mismatches);
        return 1;
    }
    print("dmacopy: ok\n");
    return 0;
}
