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
/** As mlock() afterwards, without its errors. */
export const MAP_LOCKED = 0x2000;
/** No reservation of huge pages; of other memory nothing is reserved anyway. */
export const MAP_NORESERVE = 0x4000;
/** Fault everything in at once. */
export const MAP_POPULATE = 0x8000;
/** Huge pages of a pool; log2 of their bytes at MAP_HUGE_SHIFT, 0 = the default size. */
export const MAP_HUGETLB = 0x4_0000;
export const MAP_HUGE_SHIFT = 26;
export const MAP_HUGE_MASK = 0x3f;
export const MAP_FIXED_NOREPLACE = 0x10_0000;

export const MREMAP_MAYMOVE = 1;
export const MREMAP_FIXED = 2;
export const MREMAP_DONTUNMAP = 4;

export const MADV_DONTNEED = 4;
export const MADV_REMOVE = 9;
export const MADV_DONTFORK = 10;
export const MADV_DOFORK = 11;
export const MADV_MERGEABLE = 12;
export const MADV_UNMERGEABLE = 13;
export const MADV_HUGEPAGE = 14;
export const MADV_NOHUGEPAGE = 15;
export const MADV_PAGEOUT = 21;
export const MADV_POPULATE_READ = 22;
export const MADV_POPULATE_WRITE = 23;
export const MADV_COLLAPSE = 25;

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
/** Without a reservation of huge pages. */
export const VM_NORESERVE = 0x20_0000;
export const VM_HUGETLB = 0x40_0000;
/**
 * Shared, and its file wants to know of the first write to each page: entries are made without W.
 * Linux keeps this in vm_page_prot, from vma_set_page_prot().
 */
export const VM_WRITENOTIFY = 0x100_0000;
/** All of it counts as written: it is new. Without the flag each entry's soft-dirty bit says. */
export const VM_SOFTDIRTY = 0x800_0000;
export const VM_MIXEDMAP = 0x1000_0000;
export const VM_HUGEPAGE = 0x2000_0000;
export const VM_NOHUGEPAGE = 0x4000_0000;
/** Bit 31: negative as a number, like every int32 with that bit. */
export const VM_MERGEABLE = 1 << 31;

/** Not ordinary memory: neither merged with neighbours nor expanded nor locked. */
export const VM_SPECIAL = VM_IO | VM_DONTEXPAND | VM_PFNMAP | VM_MIXEDMAP;
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
