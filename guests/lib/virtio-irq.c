/* The interrupts of a program's one virtio device. */
#include "virtio-irq.h"

#include "plic.h"

volatile u64 virtio_interrupts;
static struct virtio_device *the_device;
static u64 the_hart;

void trap_handler(struct trap_frame *frame)
{
    if (frame->scause != CAUSE_EXTERNAL_INTERRUPT)
        trap_unexpected(frame);
    u32 source = plic_claim(the_hart);
    if (source == the_device->irq) {
        virtio_acknowledge(the_device);
        virtio_interrupts++;
    }
    if (source != 0)
        plic_complete(the_hart, source);
}

void virtio_start(struct virtio_device *device, u64 hart)
{
    the_device = device;
    the_hart = hart;
    plic_enable(hart, device->irq);
    virtio_ready(device);
}

u64 virtio_ring_features(u64 left_alone)
{
    static const u64 choices[] = { VIRTIO_F_RING_PACKED, VIRTIO_F_INDIRECT_DESC, VIRTIO_F_EVENT_IDX,
                                   VIRTIO_F_NOTIFICATION_DATA };
    u64 features = VIRTIO_RING_FEATURES;
    for (u32 i = 0; i < 4; i++)
        if (left_alone >> i & 1)
            features &= ~choices[i];
    return features;
}

void *virtq_wait(struct virtq *queue, u32 *written)
{
    void *token;
    /* Interrupts are off between the look and the sleep; wfi wakes for a pending one all the same. */
    csr_clear(sstatus, SSTATUS_SIE);
    while ((token = virtq_get(queue, written)) == 0) {
        wait_for_interrupt();
        csr_set(sstatus, SSTATUS_SIE); /* it is taken here */
        csr_clear(sstatus, SSTATUS_SIE);
    }
    csr_set(sstatus, SSTATUS_SIE);
    return token;
}
