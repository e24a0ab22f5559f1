/* The virtio-mmio transport (virtio 1.2, 4.2), and what both ring formats have in common. */
#include "virtio.h"

/* The board has eight slots (QEMU's virt). */
#define VIRTIO_BASE 0x10001000UL
#define VIRTIO_STRIDE 0x1000UL
#define VIRTIO_SLOTS 8
#define VIRTIO_IRQ_BASE 1

#define MAGIC_VALUE 0x000
#define VERSION 0x004
#define DEVICE_ID 0x008
#define DEVICE_FEATURES 0x010
#define DEVICE_FEATURES_SEL 0x014
#define DRIVER_FEATURES 0x020
#define DRIVER_FEATURES_SEL 0x024
#define QUEUE_SEL 0x030
#define QUEUE_NUM_MAX 0x034
#define QUEUE_NUM 0x038
#define QUEUE_READY 0x044
#define INTERRUPT_STATUS 0x060
#define INTERRUPT_ACK 0x064
#define STATUS 0x070
#define QUEUE_DESC 0x080 /* low half; the high one follows */
#define QUEUE_DRIVER 0x090
#define QUEUE_DEVICE 0x0a0
#define SHM_SEL 0x0ac
#define SHM_LEN 0x0b0
#define SHM_BASE 0x0b8
#define CONFIG_GENERATION 0x0fc
#define CONFIG 0x100

#define MAGIC 0x74726976 /* "virt" */
#define STATUS_ACKNOWLEDGE 1
#define STATUS_DRIVER 2
#define STATUS_DRIVER_OK 4
#define STATUS_FEATURES_OK 8

static u32 reg_read(const struct virtio_device *d, u32 reg) { return mmio_read32(d->base + reg); }
static void reg_write(struct virtio_device *d, u32 reg, u32 value)
{
    mmio_write32(d->base + reg, value);
}

static u64 reg_read64(const struct virtio_device *d, u32 reg)
{
    return reg_read(d, reg) | (u64)reg_read(d, reg + 4) << 32;
}

static void reg_write64(struct virtio_device *d, u32 reg, u64 value)
{
    reg_write(d, reg, (u32)value);
    reg_write(d, reg + 4, (u32)(value >> 32));
}

int virtio_find(u32 device_id, struct virtio_device *device)
{
    for (u32 slot = 0; slot < VIRTIO_SLOTS; slot++) {
        device->base = VIRTIO_BASE + slot * VIRTIO_STRIDE;
        device->irq = VIRTIO_IRQ_BASE + slot;
        device->features = 0;
        if (reg_read(device, MAGIC_VALUE) == MAGIC && reg_read(device, VERSION) == 2 &&
            reg_read(device, DEVICE_ID) == device_id)
            return 1;
    }
    return 0;
}

int virtio_negotiate(struct virtio_device *device, u64 wanted)
{
    reg_write(device, STATUS, 0);
    while (reg_read(device, STATUS) != 0)
        ; /* until the reset is complete */
    reg_write(device, STATUS, STATUS_ACKNOWLEDGE);
    reg_write(device, STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER);
    u64 offered = 0;
    for (u32 half = 0; half < 2; half++) {
        reg_write(device, DEVICE_FEATURES_SEL, half);
        offered |= (u64)reg_read(device, DEVICE_FEATURES) << 32 * half;
    }
    device->features = offered & (wanted | VIRTIO_F_VERSION_1);
    for (u32 half = 0; half < 2; half++) {
        reg_write(device, DRIVER_FEATURES_SEL, half);
        reg_write(device, DRIVER_FEATURES, (u32)(device->features >> 32 * half));
    }
    reg_write(device, STATUS, STATUS_ACKNOWLEDGE | STATUS_DRIVER | STATUS_FEATURES_OK);
    return (reg_read(device, STATUS) & STATUS_FEATURES_OK) != 0;
}

void virtio_ready(struct virtio_device *device)
{
    reg_write(device, STATUS, reg_read(device, STATUS) | STATUS_DRIVER_OK);
}

u32 virtio_acknowledge(struct virtio_device *device)
{
    u32 status = reg_read(device, INTERRUPT_STATUS);
    reg_write(device, INTERRUPT_ACK, status);
    return status;
}

u8 virtio_config8(const struct virtio_device *device, u32 offset)
{
    return *(volatile u8 *)(device->base + CONFIG + offset);
}

u16 virtio_config16(const struct virtio_device *device, u32 offset)
{
    return *(volatile u16 *)(device->base + CONFIG + offset);
}

u32 virtio_config32(const struct virtio_device *device, u32 offset)
{
    return reg_read(device, CONFIG + offset);
}

u64 virtio_config64(const struct virtio_device *device, u32 offset)
{
    u32 before;
    u64 value;
    do {
        before = reg_read(device, CONFIG_GENERATION);
        value = reg_read64(device, CONFIG + offset);
    } while (reg_read(device, CONFIG_GENERATION) != before);
    return value;
}

void virtio_config_write32(struct virtio_device *device, u32 offset, u32 value)
{
    reg_write(device, CONFIG + offset, value);
}

int virtio_shared_memory(struct virtio_device *device, u32 id, u64 *gpa, u64 *len)
{
    reg_write(device, SHM_SEL, id);
    *len = reg_read64(device, SHM_LEN);
    *gpa = reg_read64(device, SHM_BASE);
    return *len != ~0UL;
}

/* ---- queues ---- */

int virtq_setup(struct virtq *queue, struct virtio_device *device, u32 index, u32 size)
{
    reg_write(device, QUEUE_SEL, index);
    u32 max = reg_read(device, QUEUE_NUM_MAX);
    if (max == 0 || reg_read(device, QUEUE_READY) != 0)
        return 0;
    if (size == 0 || size > VIRTQ_MAX_SIZE)
        size = VIRTQ_MAX_SIZE;
    if (size > max)
        size = max;
    memset(queue, 0, sizeof *queue);
    queue->device = device;
    queue->index = index;
    queue->size = size;
    queue->nr_free = size;
    for (u32 i = 0; i < size; i++)
        queue->link[i] = (u16)(i + 1);
    reg_write(device, QUEUE_NUM, size);
    reg_write64(device, QUEUE_DESC, (u64)queue->desc);
    if (virtq_has(queue, VIRTIO_F_RING_PACKED)) {
        virtq_packed_setup(queue);
        reg_write64(device, QUEUE_DRIVER, (u64)&queue->areas.packed.driver);
        reg_write64(device, QUEUE_DEVICE, (u64)&queue->areas.packed.device);
    } else {
        virtq_split_setup(queue);
        reg_write64(device, QUEUE_DRIVER, (u64)&queue->areas.split.avail);
        reg_write64(device, QUEUE_DEVICE, (u64)&queue->areas.split.used);
    }
    fence_all();
    reg_write(device, QUEUE_READY, 1);
    return reg_read(device, QUEUE_READY) == 1;
}

int virtq_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token)
{
    int packed = virtq_has(queue, VIRTIO_F_RING_PACKED);
    return packed ? virtq_packed_add(queue, segments, count, token)
                  : virtq_split_add(queue, segments, count, token);
}

void virtq_kick(struct virtq *queue)
{
    int packed = virtq_has(queue, VIRTIO_F_RING_PACKED);
    fence_all(); /* what was added is seen before we look whether the device wants to know */
    int wants = packed ? virtq_packed_wants(queue) : virtq_split_wants(queue);
    queue->kicked = queue->next;
    queue->added = 0;
    if (!wants)
        return;
    u32 value = queue->index;
    if (virtq_has(queue, VIRTIO_F_NOTIFICATION_DATA))
        value |= (queue->next | (packed ? queue->next_wrap << 15 : 0)) << 16;
    reg_write(queue->device, VIRTIO_QUEUE_NOTIFY, value);
}

void *virtq_get(struct virtq *queue, u32 *written)
{
    return virtq_has(queue, VIRTIO_F_RING_PACKED) ? virtq_packed_get(queue, written)
                                                  : virtq_split_get(queue, written);
}

struct virtq_desc *virtq_fill_table(struct virtq *queue, u32 id, const struct virtq_segment *segments,
                                    u32 count, int packed)
{
    struct virtq_desc *table = queue->table[id];
    for (u32 i = 0; i < count; i++) {
        u16 flags = segments[i].device_writes ? VIRTQ_DESC_F_WRITE : 0;
        if (!packed && i + 1 < count)
            flags |= VIRTQ_DESC_F_NEXT;
        table[i].address = (u64)segments[i].address;
        table[i].len = segments[i].len;
        table[i].flags_or_id = packed ? 0 : flags;
        table[i].next_or_flags = packed ? flags : (u16)(i + 1);
    }
    return table;
}
