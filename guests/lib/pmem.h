/* Persistent memory, whichever device has it: an NVDIMM or a virtio-pmem. */
#ifndef GUEST_PMEM_H
#define GUEST_PMEM_H

#include "runtime.h"

#define PMEM_NVDIMM 1
#define PMEM_VIRTIO 2

#define PMEM_LINE 64UL

/* Finds it. Returns the address of its first byte, with its size in *len; 0 = there is none. */
u64 pmem_find(u64 kind, u64 *len);

/*
 * Begins to write the lines of a range back. Nothing is durable before pmem_drain(); on a virtio-pmem
 * this does nothing at all, because its flush covers everything.
 */
void pmem_flush(const volatile void *from, u64 len);

/* What was flushed, or on a virtio-pmem all that was stored, is durable on return. */
void pmem_drain(void);

/* Zeroes a whole line at once (CBO.ZERO): what a line of bad memory needs to be good again. */
static inline void pmem_zero_line(u64 line)
{
    __asm__ volatile(".insn i 0x0f, 2, x0, %0, 4" ::"r"(line) : "memory");
}

#endif
