/*
 * The split ring (virtio 1.2, 2.7): a table of descriptors, a ring of those that are available, a ring
 * of those that were used. Free descriptors are chained by link[], which the device never sees.
 */
#include "virtio.h"

#define USED_F_NO_NOTIFY 1

void virtq_split_setup(struct virtq *queue)
{
    (void)queue; /* all zero: both rings begin at 0, and used_event asks for the first buffer */
}

/* Fills the free descriptor at the head of the chain, and takes it. Returns which one it was. */
static u32 take_descriptor(struct virtq *queue, const void *address, u32 len, u16 flags)
{
    u32 at = queue->free;
    queue->free = queue->link[at];
    queue->nr_free--;
    queue->desc[at] = (struct virtq_desc){ (u64)address, len, flags, queue->link[at] };
    return at;
}

int virtq_split_add(struct virtq *queue, const struct virtq_segment *segments, u32 count, void *token)
{
    int indirect = count > 1 && virtq_has(queue, VIRTIO_F_INDIRECT_DESC);
    u32 needed = indirect ? 1 : count;
    if (queue->nr_free < needed || count > VIRTQ_MAX_SEGMENTS)
        return 0;
    u32 head = queue->free;
    if (indirect)
        take_descriptor(queue, virtq_fill_table(queue, head, segments, count, 0),
                        count * (u32)sizeof(struct virtq_desc), VIRTQ_DESC_F_INDIRECT);
    for (u32 i = 0; !indirect && i < count; i++)
        take_descriptor(queue, segments[i].address, segments[i].len,
                        (segments[i].device_writes ? VIRTQ_DESC_F_WRITE : 0) |
                            (i + 1 < count ? VIRTQ_DESC_F_NEXT : 0));
    queue->token[head] = token;
    queue->entries[head] = (u16)needed;

    volatile struct virtq_split *split = &queue->areas.split;
    split->avail.ring[queue->next % queue->size] = (u16)head;
    queue->next = (u16)(queue->next + 1);
    fence_all(); /* the entry before the index */
    split->avail.idx = (u16)queue->next;
    return 1;
}

int virtq_split_wants(struct virtq *queue)
{
    volatile struct virtq_split *split = &queue->areas.split;
    if (!virtq_has(queue, VIRTIO_F_EVENT_IDX))
        return (split->used.flags & USED_F_NO_NOTIFY) == 0;
    u16 avail_event = (u16)split->used.ring[queue->size].id;
    return virtq_past_event(avail_event, (u16)queue->next, (u16)queue->kicked);
}

void *virtq_split_get(struct virtq *queue, u32 *written)
{
    volatile struct virtq_split *split = &queue->areas.split;
    if ((u16)queue->next_used == split->used.idx) {
        /* Ask first and look again: a buffer that is used in between must not be missed. */
        split->avail.ring[queue->size] = (u16)queue->next_used; /* used_event */
        fence_all();
        if ((u16)queue->next_used == split->used.idx)
            return 0;
    }
    fence_all(); /* the index before the entry */
    u32 slot = queue->next_used % queue->size;
    u32 head = split->used.ring[slot].id, last = head;
    *written = split->used.ring[slot].len;
    queue->next_used = (u16)(queue->next_used + 1);
    for (u32 i = 1; i < queue->entries[head]; i++)
        last = queue->link[last];
    queue->link[last] = (u16)queue->free;
    queue->free = head;
    queue->nr_free += queue->entries[head];
    return queue->token[head];
}
