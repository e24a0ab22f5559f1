/*
 * virtio-rng: asks for random bytes in buffers of every shape, many at a time, and looks at what came.
 *
 * A buffer is up to MAX_SEGMENTS pieces of memory with guard bytes around each. What the device says
 * it wrote must be there and nothing else changed; all the bytes together must look random: every
 * value about as often as any other.
 *
 * Parameter 0 = features of the rings that are left alone: 1 packed, 2 indirect, 4 event index,
 * 8 notification data. Parameter 1 = requests (default 400). Parameter 2 = 1: the device is behind the
 * IOMMU, which lets it have the image of this program and nothing else; a buffer elsewhere must come
 * back as it was, and be in the fault queue.
 */
#include "fdt.h"
#include "iommu.h"
#include "print.h"
#include "runtime.h"
#include "sv39.h"
#include "virtio-irq.h"

#define DEFAULT_REQUESTS 400
#define NR_BUFFERS 24 /* out at a time */
#define MAX_SEGMENTS 4
#define SEGMENT_BYTES 300
#define GUARD_BYTES 16
#define GUARD 0xa5
#define SEED 0x726e67UL

/* The IOMMU's device_id of the device in virtio slot 0, and the address space it gets. */
#define FIRST_DEVICE 8
#define SPACE 3UL
#define PTE_U (1UL << 4) /* a device is a user */

struct buffer {
    u8 bytes[MAX_SEGMENTS][GUARD_BYTES + SEGMENT_BYTES + GUARD_BYTES];
    struct virtq_segment segment[MAX_SEGMENTS];
    u32 nr_segments, total;
};

static struct virtio_device device;
static struct virtq queue;
static struct buffer buffers[NR_BUFFERS];
static sv39_table root, middle;
static u64 hart, random_state = SEED;
static u64 failures, seen[256], total;

static void failed(const char *what, u64 got)
{
    if (failures++ < 8)
        print("virtio-rng: %s: %u\n", what, got);
}

/* Pieces of any length at any place between the guards, all of them the device's to write. */
static void plan(struct buffer *b)
{
    b->nr_segments = 1 + random_below(&random_state, MAX_SEGMENTS);
    b->total = 0;
    for (u32 i = 0; i < b->nr_segments; i++) {
        u32 len = 1 + random_below(&random_state, SEGMENT_BYTES);
        u32 offset = random_below(&random_state, SEGMENT_BYTES - len + 1);
        memset(b->bytes[i], GUARD, sizeof b->bytes[i]);
        b->segment[i] = (struct virtq_segment){ &b->bytes[i][GUARD_BYTES + offset], len, 1 };
        b->total += len;
    }
}

/* Counts the bytes that were written; everything else must be as it was. */
static void check(struct buffer *b, u32 written)
{
    if (written == 0 || written > b->total)
        failed("bytes written", written);
    u32 left = written;
    for (u32 i = 0; i < b->nr_segments; i++) {
        const u8 *first = b->segment[i].address;
        u32 len = b->segment[i].len < left ? b->segment[i].len : left;
        for (u32 j = 0; j < sizeof b->bytes[i]; j++) {
            const u8 *byte = &b->bytes[i][j];
            if (byte >= first && byte < first + len)
                seen[*byte]++;
            else if (*byte != GUARD)
                failed("a byte beside the buffer", *byte);
        }
        left -= len;
    }
    total += written;
}

/* Chi squared over 255 degrees of freedom: beyond 360 is rarer than once in ten thousand. */
static void check_distribution(void)
{
    u64 sum = 0, expected = total / 256;
    for (u32 i = 0; i < 256; i++) {
        s64 off = (s64)seen[i] - (s64)expected;
        sum += (u64)(off * off);
    }
    if (expected == 0 || sum / expected > 360)
        failed("chi squared", expected == 0 ? 0 : sum / expected);
}

/* Lets the device reach the image, where it is, and nothing else. */
static int put_behind_iommu(void)
{
    if ((device.features & VIRTIO_F_ACCESS_PLATFORM) == 0 || !iommu_init())
        return 0;
    sv39_map_image(root, middle);
    for (u32 i = 0; i < 512; i++)
        if (middle[i] != 0)
            middle[i] |= PTE_U;
    iommu_set_context(FIRST_DEVICE + (u32)((device.base >> 12) - 0x10001), 0, 0, SPACE,
                      SATP_MODE_SV39 | (u64)root >> 12);
    iommu_enable();
    return 1;
}

/* Nothing may be written to memory that the IOMMU keeps the device from. */
static void try_elsewhere(u8 *elsewhere)
{
    struct iommu_fault fault;
    struct virtq_segment segment = { elsewhere, 64, 1 };
    u32 written = 1;
    memset(elsewhere, GUARD, 64);
    virtq_add(&queue, &segment, 1, elsewhere);
    virtq_kick(&queue);
    while (virtq_get(&queue, &written) == 0)
        ;
    if (written != 0)
        failed("bytes written elsewhere", written);
    for (u32 i = 0; i < 64; i++)
        if (elsewhere[i] != GUARD)
            failed("a byte elsewhere", elsewhere[i]);
    if (!iommu_take_fault(&fault) || (fault.what & 0xfff) != IOMMU_CAUSE_WRITE_PAGE ||
        fault.iova != (u64)elsewhere)
        failed("the fault's address", fault.iova);
    print("virtio-rng: kept from elsewhere by the IOMMU\n");
}

int main(u64 this_hart, const void *fdt)
{
    hart = this_hart;
    u64 requests = parameter(1, DEFAULT_REQUESTS), left_alone = parameter(0, 0);
    u64 wanted = virtio_ring_features(left_alone) | VIRTIO_F_ACCESS_PLATFORM;
    if (!virtio_find(VIRTIO_ID_ENTROPY, &device) || !virtio_negotiate(&device, wanted) ||
        !virtq_setup(&queue, &device, 0, 0)) {
        print("virtio-rng: no device\n");
        return 1;
    }
    if (parameter(2, 0) && !put_behind_iommu()) {
        print("virtio-rng: it is not behind an IOMMU\n");
        return 1;
    }
    virtio_start(&device, hart);
    print("virtio-rng: %s ring, indirect %u, event index %u\n",
          virtq_has(&queue, VIRTIO_F_RING_PACKED) ? "packed" : "split",
          (u64)virtq_has(&queue, VIRTIO_F_INDIRECT_DESC),
          (u64)virtq_has(&queue, VIRTIO_F_EVENT_IDX));

    u64 asked = 0, got = 0;
    struct buffer *spare[NR_BUFFERS];
    u32 nr_spare = NR_BUFFERS;
    for (u32 i = 0; i < NR_BUFFERS; i++)
        spare[i] = &buffers[i];
    while (got < requests) {
        while (asked < requests && nr_spare > 0) {
            struct buffer *b = spare[nr_spare - 1];
            plan(b);
            if (!virtq_add(&queue, b->segment, b->nr_segments, b))
                break;
            nr_spare--;
            asked++;
        }
        virtq_kick(&queue);
        /* Interrupts are off between the look and the sleep; wfi wakes for a pending one. */
        csr_clear(sstatus, SSTATUS_SIE);
        u32 written;
        struct buffer *b;
        u64 before = got;
        while ((b = virtq_get(&queue, &written)) != 0) {
            check(b, written);
            spare[nr_spare++] = b;
            got++;
        }
        if (got == before)
            wait_for_interrupt();
        csr_set(sstatus, SSTATUS_SIE);
    }
    check_distribution();
    if (parameter(2, 0))
        try_elsewhere((u8 *)(fdt_memory_end(fdt) - PAGE_SIZE));
    if (virtio_interrupts == 0)
        failed("interrupts", 0);
    if (failures != 0) {
        print("virtio-rng: FAILED\n");
        return 1;
    }
    print("virtio-rng: %u requests\nvirtio-rng: ok\n", got);
    return 0;
}
