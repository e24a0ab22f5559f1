/*
 * The packed ring (virtio 1.2, 2.8): one ring in which a descriptor goes to the device and comes back.
 * Whose it is say two bits of its flags, against a wrap counter that each side turns over with every
 * lap. Buffers are known by ids, free ones chained by link[].
 */
#include "virtio.h"

#define DESC_F_AVAIL (1 << 7)
#define DESC_F_USED (1 << 15)

#define EVENT_ENABLE 0
#define EVENT_DISABLE 1
#define EVENT_DESC 2

void virtq_packed_setup(struct virtq *queue)
{
    queue->next_wrap = 1;
    queue->next_used_wrap = 1;
}

/* Flags that make a descriptor available in this lap. */
static u16 available(const struct virtq *queue)
{
    return queue->next_wrap ? DESC_F_AVAIL : DESC_F_USED;
}

/* One entry further. */
static void advance(struct virtq *queue)
{
    queue->added++;
    if (++queue->next == queue->size) {
        queue->next = 0;
        queue->next_wrap ^= 1;
    }
}

int virtq_packed_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token)
{
    int indirect = count > 1 && virtq_has(queue, VIRTIO_F_INDIRECT_DESC);
    u32 needed = indirect ? 1 : count;
    if (queue->nr_free < needed || count > VIRTQ_MAX_SEGMENTS)
        return 0;
    u32 id = queue->free, first = queue->next;
    u16 first_flags = 0;
    queue->free = queue->link[id];
    queue->nr_free -= needed;
    queue->token[id] = token;
    queue->entries[id] = (u16)needed;
    struct virtq_segment table = { 0, count * (u32)sizeof(struct virtq_desc), 0 };
    if (indirect) {
        table.address = virtq_fill_table(queue, id, segments, count, 1);
        segments = &table;
    }
    for (u32 i = 0; i < needed; i++) {
        struct virtq_desc *d = &queue->desc[queue->next];
        u16 flags = available(queue) | (segments[i].device_writes ? VIRTQ_DESC_F_WRITE : 0) |
                    (i + 1 < needed ? VIRTQ_DESC_F_NEXT : 0) |
                    (indirect ? VIRTQ_DESC_F_INDIRECT : 0);
        d->address = (u64)segments[i].address;
        d->len = segments[i].len;
        d->flags_or_id = (u16)id;
        /* The first descriptor's flags hand over all of them, so they come last. */
        if (i == 0)
            first_flags = flags;
        else
            d->next_or_flags = flags;
        advance(queue);
    }
    fence_all();
    *(volatile u16 *)&queue->desc[first].next_or_flags = first_flags;
    return 1;
}

int virtq_packed_wants(struct virtq *queue)
{
    volatile struct virtq_packed_event *event = &queue->areas.packed.device;
    u16 offset_wrap = event->offset_wrap;
    switch (event->flags & 3) {
    case EVENT_DISABLE:
        return 0;
    case EVENT_DESC: {
        /* Is the entry that it waits for among those added since it was told last? */
        u32 same_lap = (u32)offset_wrap >> 15 == queue->next_wrap;
        u32 ahead = queue->next + (same_lap ? 0 : queue->size) - (offset_wrap & 0x7fff);
        return ahead - 1 < queue->added;
    }
    default:
        return 1;
    }
}

static int is_used(const struct virtq *queue)
{
    u16 flags = *(const volatile u16 *)&queue->desc[queue->next_used].next_or_flags;
    u32 avail = (flags & DESC_F_AVAIL) != 0, used = (flags & DESC_F_USED) != 0;
    return avail == used && used == queue->next_used_wrap;
}

void *virtq_packed_get(struct virtq *queue, u32 *written)
{
    if (!is_used(queue)) {
        /* Ask first and look again: a buffer that is used in between must not be missed. */
        volatile struct virtq_packed_event *event = &queue->areas.packed.driver;
        event->offset_wrap = (u16)(queue->next_used | queue->next_used_wrap << 15);
        fence_all();
        event->flags = virtq_has(queue, VIRTIO_F_EVENT_IDX) ? EVENT_DESC : EVENT_ENABLE;
        fence_all();
        if (!is_used(queue))
            return 0;
    }
    fence_all(); /* the flags before the rest */
    const volatile struct virtq_desc *d = &queue->desc[queue->next_used];
    u32 id = d->flags_or_id;
    *written = d->len; /* VIRTQ_DESC_F_WRITE would say that it counts: not every device sets it */
    queue->next_used += queue->entries[id];
    if (queue->next_used >= queue->size) {
        queue->next_used -= queue->size;
        queue->next_used_wrap ^= 1;
    }
    queue->link[id] = (u16)queue->free;
    queue->free = id;
    queue->nr_free += queue->entries[id];
    return queue->token[id];
}
