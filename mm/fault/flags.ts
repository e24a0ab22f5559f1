/** Flags of a fault and what one may end with, with Linux's values (include/linux/mm_types.h). */
export const FAULT_FLAG_WRITE = 1 << 0;
/** The fault may drop mmap_lock where it would sleep, and ask to be tried again (VM_FAULT_RETRY). */
export const FAULT_FLAG_ALLOW_RETRY = 1 << 2;
/** It may ask to be tried again, but neither sleeps nor drops the lock. */
export const FAULT_FLAG_RETRY_NOWAIT = 1 << 3;
/** A fatal signal ends its sleep. */
export const FAULT_FLAG_KILLABLE = 1 << 4;
/** It has been tried before: this time it sleeps with the lock held. */
export const FAULT_FLAG_TRIED = 1 << 5;
export const FAULT_FLAG_USER = 1 << 6;
/** Not the address space of who faults. */
export const FAULT_FLAG_REMOTE = 1 << 7;
export const FAULT_FLAG_INSTRUCTION = 1 << 8;
/** Any signal ends its sleep. */
export const FAULT_FLAG_INTERRUPTIBLE = 1 << 9;
/** Break COW for reading: the page becomes exclusive, the mapping stays read-only. */
export const FAULT_FLAG_UNSHARE = 1 << 10;

/** What a fault of user code begins with. */
export const FAULT_FLAG_DEFAULT =
  FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE | FAULT_FLAG_INTERRUPTIBLE;

/**
 * A fault answers 0 (done), a negative errno, or one of these two. Both say that mmap_lock has been
 * dropped (by VM_FAULT_RETRY not where FAULT_FLAG_RETRY_NOWAIT was set) and the VMA may be gone.
 */
/** It had to wait: to be tried again, with FAULT_FLAG_TRIED. */
export const VM_FAULT_RETRY = 0x400;
/** It is done: nothing is left to be tried again. */
export const VM_FAULT_COMPLETED = 0x4000;
