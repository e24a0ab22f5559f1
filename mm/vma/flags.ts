/** Bits of mmap(), mprotect() and of a VMA's flags, with Linux's values (include/linux/mm.h, uapi mman.h). */
import type { Vma } from '../types.ts';

export const PROT_NONE = 0;
export const PROT_READ = 1;
export const PROT_WRITE = 2;
export const PROT_EXEC = 4;

export const MAP_SHARED = 0x01;
export const MAP_PRIVATE = 0x02;
export const MAP_FIXED = 0x10;
export const MAP_ANONYMOUS = 0x20;
export const MAP_FIXED_NOREPLACE = 0x10_0000;

export const VM_READ = 0x1;
export const VM_WRITE = 0x2;
export const VM_EXEC = 0x4;
export const VM_SHARED = 0x8;
export const VM_MAYREAD = 0x10;
export const VM_MAYWRITE = 0x20;
export const VM_MAYEXEC = 0x40;
export const VM_MAYSHARE = 0x80;
export const VM_UFFD_MISSING = 0x200;
export const VM_PFNMAP = 0x400;
/** userfaultfd wants to know of writes (CONFIG_HAVE_ARCH_USERFAULTFD_WP). */
export const VM_UFFD_WP = 0x1000;
export const VM_LOCKED = 0x2000;
export const VM_IO = 0x4000;
export const VM_DONTCOPY = 0x2_0000;
export const VM_DONTEXPAND = 0x4_0000;
export const VM_HUGETLB = 0x40_0000;
/** Writes are tracked by soft-dirty bits. */
export const VM_SOFTDIRTY = 0x800_0000;
export const VM_MIXEDMAP = 0x1000_0000;
export const VM_HUGEPAGE = 0x2000_0000;
export const VM_NOHUGEPAGE = 0x4000_0000;
/** Bit 31: negative as a number, like every int32 with that bit. */
export const VM_MERGEABLE = 1 << 31;

export const VM_ACCESS_FLAGS = VM_READ | VM_WRITE | VM_EXEC;
/** VM_MAYx = VM_x << VM_MAY_SHIFT. */
export const VM_MAY_SHIFT = 4;

/** Private and possibly writable: writes go to a copy. Compare is_cow_mapping(). */
export const isCowMapping = (vmFlags: number): boolean =>
  (vmFlags & (VM_SHARED | VM_MAYWRITE)) === VM_MAYWRITE;

/** Anonymous memory: no backing object. */
export const vmaIsAnonymous = (vma: Vma): boolean => vma.mapping === null;

/** Offset in the backing object (anonymous: address-like number), in pages. */
export const linearPageIndex = (vma: Vma, hva: number): number =>
  vma.pgoff + Math.floor((hva - vma.start) / 4096);
