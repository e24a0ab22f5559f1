/*
 * The DMA engine: registers and descriptors.
 *
 * The driver writes descriptors into a ring in memory, then the index after the last one to TAIL,
 * the doorbell. The engine takes them in order: it reads a descriptor when its turn comes, moves
 * the bytes LATENCY instructions later, writes the descriptor's status, advances HEAD and, where
 * the descriptor asks for it, raises its interrupt. HEAD and TAIL run freely; entry = index modulo
 * RING_SIZE. All addresses are bus addresses: for a guest, guest-physical ones.
 */
#ifndef GUEST_DMA_H
#define GUEST_DMA_H

#define DMA_BASE 0x10010000UL
/* Its source number at the PLIC. */
#define DMA_IRQ 16

/* Registers, 32 bits each. */
#define DMA_ID 0x00 /* RO: DMA_ID_VALUE */
#define DMA_ID_VALUE 0x616d6447
#define DMA_VERSION 0x04 /* RO: 1 */
#define DMA_CONTROL 0x08
#define DMA_CONTROL_ENABLE (1U << 0)
#define DMA_CONTROL_IRQ_ENABLE (1U << 1)
#define DMA_CONTROL_RESET (1U << 31) /* write 1: as after power-on */
#define DMA_STATUS 0x0c /* RO */
#define DMA_STATUS_BUSY (1U << 0)
#define DMA_STATUS_ERROR (1U << 1)
#define DMA_RING_LO 0x10 /* address of the ring, 32-byte aligned */
#define DMA_RING_HI 0x14
#define DMA_RING_SIZE 0x18 /* entries: a power of two, at most 4096 */
#define DMA_HEAD 0x1c /* RO: next descriptor to complete */
#define DMA_TAIL 0x20 /* next descriptor the driver will write */
#define DMA_IRQ_STATUS 0x24 /* write 1 to clear */
#define DMA_IRQ_COMPLETION (1U << 0)
#define DMA_IRQ_ERROR (1U << 1)
#define DMA_LATENCY 0x28 /* instructions from submission to completion */

/* Flags of a descriptor. */
#define DMA_FLAG_IRQ (1U << 0) /* interrupt when done */
#define DMA_FLAG_SRC_SG (1U << 1) /* src is the address of a scatter-gather list */
#define DMA_FLAG_DST_SG (1U << 2) /* dst is */

/* Status of a descriptor, written by the engine. */
#define DMA_DONE 1
#define DMA_BUS_ERROR 2
#define DMA_BAD_DESCRIPTOR 3

#define DMA_MAX_BYTES (1U << 20)

struct dma_descriptor {
    unsigned long src;
    unsigned long dst;
    unsigned int len; /* bytes in all, 1..DMA_MAX_BYTES */
    unsigned int flags;
    volatile unsigned int status;
    unsigned int reserved;
} __attribute__((aligned(32)));

/* One entry of a scatter-gather list. The lists of a descriptor add up to its `len`. */
struct dma_sg {
    unsigned long address;
    unsigned int len;
    unsigned int flags;
};
#define DMA_SG_LAST (1U << 0)

#endif
