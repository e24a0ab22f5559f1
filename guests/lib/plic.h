/*
 * The PLIC of QEMU's virt board, as S-mode sees it (SiFive PLIC specification 1.0.0). Interrupts of
 * S-mode on hart h go to context 2h + 1.
 */
#ifndef GUEST_PLIC_H
#define GUEST_PLIC_H

#include "runtime.h"

#define PLIC_BASE 0x0c000000UL
#define PLIC_PRIORITY(source) (PLIC_BASE + 4 * (source))
#define PLIC_ENABLE(context, source) (PLIC_BASE + 0x2000 + 0x80 * (context) + (source) / 32 * 4)
#define PLIC_THRESHOLD(context) (PLIC_BASE + 0x200000 + 0x1000 * (context))
#define PLIC_CLAIM(context) (PLIC_BASE + 0x200004 + 0x1000 * (context))

static inline u64 plic_context(u64 hart) { return 2 * hart + 1; }

/* Lets `source` interrupt S-mode on `hart`, and turns such interrupts on there. */
static inline void plic_enable(u64 hart, u32 source)
{
    u64 enable = PLIC_ENABLE(plic_context(hart), source);
    mmio_write32(PLIC_PRIORITY(source), 1);
    mmio_write32(enable, mmio_read32(enable) | 1U << source % 32);
    mmio_write32(PLIC_THRESHOLD(plic_context(hart)), 0);
    csr_set(sie, SIE_SEIE);
    csr_set(sstatus, SSTATUS_SIE);
}

/* The source that interrupts, which then waits to be completed; 0 = none. */
static inline u32 plic_claim(u64 hart) { return mmio_read32(PLIC_CLAIM(plic_context(hart))); }
static inline void plic_complete(u64 hart, u32 source)
{
    mmio_write32(PLIC_CLAIM(plic_context(hart)), source);
}

#endif
