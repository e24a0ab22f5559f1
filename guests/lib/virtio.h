/*
 * A driver for virtio-mmio devices (virtio 1.2, modern interface): finding one, agreeing on features,
 * and queues of either ring format behind the same few calls.
 *
 *   virtio_find(), virtio_negotiate()     the device, and what both sides can do
 *   virtq_setup(), virtio_ready()         its queues, then it is up
 *   virtq_add(), virtq_kick()             buffers to the device
 *   virtq_get()                           buffers back, in the order in which it is done with them
 *
 * Guest-virtual addresses are taken for guest-physical ones: pages of buffers are mapped where they
 * are, or not at all.
 */
#ifndef GUEST_VIRTIO_H
#define GUEST_VIRTIO_H

#include "runtime.h"

/* ---- transport ---- */

#define VIRTIO_ID_BLOCK 2
#define VIRTIO_ID_CONSOLE 3
#define VIRTIO_ID_ENTROPY 4
#define VIRTIO_ID_BALLOON 5
#define VIRTIO_ID_PMEM 27

/* Features of rings and transport, as masks. */
#define VIRTIO_F_INDIRECT_DESC (1UL << 28)
#define VIRTIO_F_EVENT_IDX (1UL << 29)
#define VIRTIO_F_VERSION_1 (1UL << 32)
#define VIRTIO_F_ACCESS_PLATFORM (1UL << 33) /* addresses are those of an IOMMU */
#define VIRTIO_F_RING_PACKED (1UL << 34)
#define VIRTIO_F_NOTIFICATION_DATA (1UL << 38)
/* What virtqueues here can use. */
#define VIRTIO_RING_FEATURES                                                                      \
    (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_RING_PACKED |                         \
     VIRTIO_F_NOTIFICATION_DATA)

struct virtio_device {
    u64 base;     /* of its registers */
    u32 irq;      /* its source at the PLIC */
    u64 features; /* those that were agreed on */
};

/* The first device of this type on the board. Returns 0 when there is none. */
int virtio_find(u32 device_id, struct virtio_device *device);

/*
 * Resets the device and takes those of `wanted` that it offers, VERSION_1 always among them.
 * Returns 0 when the device does not agree.
 */
int virtio_negotiate(struct virtio_device *device, u64 wanted);

/* The queues are set up: the device may begin. */
void virtio_ready(struct virtio_device *device);

/* What the interrupt was for (bit 0 used buffers, bit 1 configuration), which is acknowledged. */
u32 virtio_acknowledge(struct virtio_device *device);

/* Fields of the configuration space, by byte offset. */
u8 virtio_config8(const struct virtio_device *device, u32 offset);
u16 virtio_config16(const struct virtio_device *device, u32 offset);
u32 virtio_config32(const struct virtio_device *device, u32 offset);
/* Two halves of one moment: read until the generation is the same before and after. */
u64 virtio_config64(const struct virtio_device *device, u32 offset);
void virtio_config_write32(struct virtio_device *device, u32 offset, u32 value);

/* Where shared memory region `id` is. Returns 0 when there is no such region. */
int virtio_shared_memory(struct virtio_device *device, u32 id, u64 *gpa, u64 *len);

/* ---- queues ---- */

#define VIRTQ_MAX_SIZE 64
/* Segments of a buffer, at most. */
#define VIRTQ_MAX_SEGMENTS 8

#define VIRTQ_DESC_F_NEXT 1
#define VIRTQ_DESC_F_WRITE 2
#define VIRTQ_DESC_F_INDIRECT 4

/* A descriptor of either format: the last two fields change places. */
struct virtq_desc {
    u64 address;
    u32 len;
    u16 flags_or_id; /* split: flags; packed: buffer id */
    u16 next_or_flags; /* split: next; packed: flags */
};

/* One piece of a buffer. Those that the device writes come last. */
struct virtq_segment {
    const void *address;
    u32 len;
    int device_writes;
};

/* Driver's and device's half of the split ring behind the descriptors. */
struct virtq_split {
    struct {
        u16 flags, idx;
        u16 ring[VIRTQ_MAX_SIZE + 1]; /* ring[size] = used_event */
    } avail;
    struct {
        u16 flags, idx;
        struct {
            u32 id, len;
        } ring[VIRTQ_MAX_SIZE + 1]; /* first half of ring[size] = avail_event */
    } used __attribute__((aligned(4)));
};

/* Who wants to be told of what, in a packed ring. */
struct virtq_packed_event {
    u16 offset_wrap, flags;
};
struct virtq_packed {
    struct virtq_packed_event driver, device;
};

struct virtq {
    struct virtq_desc desc[VIRTQ_MAX_SIZE] __attribute__((aligned(16)));
    volatile union {
        struct virtq_split split;
        struct virtq_packed packed;
    } areas __attribute__((aligned(16)));
    /* One table for each buffer that may be out. */
    struct virtq_desc table[VIRTQ_MAX_SIZE][VIRTQ_MAX_SEGMENTS] __attribute__((aligned(16)));

    struct virtio_device *device;
    u32 index;
    u32 size;
    u32 nr_free; /* descriptors */
    u32 free;    /* split: first of the free descriptors; packed: first free id; chained by link[] */
    u16 link[VIRTQ_MAX_SIZE];
    void *token[VIRTQ_MAX_SIZE];   /* by head or id: what virtq_get() returns */
    u16 entries[VIRTQ_MAX_SIZE];   /* by head or id: descriptors that the buffer takes */
    u32 next;                      /* packed: next entry; split: next index of the available ring */
    u32 next_used;
    u32 next_wrap, next_used_wrap; /* packed */
    u32 kicked;                    /* `next` when the device was told last */
    u32 added;                     /* packed: entries since then */
};

/*
 * Sets up queue `index` of a device whose features have been agreed on, with at most `size` entries
 * (0 = as many as fit). Returns 0 when the device has no such queue, or does not take it.
 */
int virtq_setup(struct virtq *queue, struct virtio_device *device, u32 index, u32 size);

/*
 * Makes a buffer of `count` segments available. `token` (not 0) comes back when it has been used.
 * Returns 0 when there is no room at the moment.
 */
int virtq_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token);

/* Tells the device of what was added, if it wants to know. */
void virtq_kick(struct virtq *queue);

/*
 * The token of a buffer that the device is done with, and in *written how many bytes it wrote. 0 =
 * none; then it has been asked to interrupt for the next.
 */
void *virtq_get(struct virtq *queue, u32 *written);

/* ---- between virtio.c and the two formats ---- */

#define VIRTIO_QUEUE_NOTIFY 0x050

static inline int virtq_has(const struct virtq *queue, u64 feature)
{
    return (queue->device->features & feature) != 0;
}
/* Has `next` come past `event` since `before`? All of them modulo 2^16 (virtio 1.2, 2.7.10). */
static inline int virtq_past_event(u16 event, u16 next, u16 before)
{
    return (u16)(next - event - 1) < (u16)(next - before);
}
/* Segments into a table of `queue`, as descriptors of either format. Returns the table. */
struct virtq_desc *virtq_fill_table(struct virtq *queue, u32 id, const struct virtq_segment *segments,
                                    u32 count, int packed);

void virtq_split_setup(struct virtq *queue);
int virtq_split_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token);
/* Does the device want to be told? */
int virtq_split_wants(struct virtq *queue);
void *virtq_split_get(struct virtq *queue, u32 *written);

void virtq_packed_setup(struct virtq *queue);
int virtq_packed_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token);
int virtq_packed_wants(struct virtq *queue);
void *virtq_packed_get(struct virtq *queue, u32 *written);

#endif
