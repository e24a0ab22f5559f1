/** Flags of a fault, with Linux's values (include/linux/mm_types.h). */
export const FAULT_FLAG_WRITE = 1 << 0;
export const FAULT_FLAG_USER = 1 << 6;
/** Not the address space of who faults. */
export const FAULT_FLAG_REMOTE = 1 << 7;
export const FAULT_FLAG_INSTRUCTION = 1 << 8;
/** Break COW for reading: the page becomes exclusive, the mapping stays read-only. */
export const FAULT_FLAG_UNSHARE = 1 << 10;
