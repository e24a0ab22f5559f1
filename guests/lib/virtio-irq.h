/*
 * For a program that drives one virtio device: its interrupts, sleep until it has used a buffer, and
 * the features of the rings that a parameter leaves alone. It comes with the program's trap handler.
 */
#ifndef GUEST_VIRTIO_IRQ_H
#define GUEST_VIRTIO_IRQ_H

#include "virtio.h"

/* Interrupts of the device so far. */
extern volatile u64 virtio_interrupts;

/* The queues are set up: interrupts come to `hart`, and the device may begin. */
void virtio_start(struct virtio_device *device, u64 hart);

/* VIRTIO_RING_FEATURES but some: 1 packed, 2 indirect, 4 event index, 8 notification data. */
u64 virtio_ring_features(u64 left_alone);

/* As virtq_get(), but sleeps until there is a buffer. */
void *virtq_wait(struct virtq *queue, u32 *written);

#endif
