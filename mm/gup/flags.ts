/**
 * The FOLL_* flags of get_user_pages() and which of them a caller may pass.
 *
 * Bit values as in include/linux/mm_types.h (external) and mm/internal.h (internal), so that a trace
 * reads like one of Linux. The rules that combine flags are in legality.ts.
 */
export const FOLL_WRITE = 1 << 0; // the entry must be writable, else take a write fault
export const FOLL_GET = 1 << 1; // raise the reference count by one per page
export const FOLL_DUMP = 1 << 2; // core dump: holes and the zero page are errors
export const FOLL_FORCE = 1 << 3; // override the permissions of the VMA (debuggers)
export const FOLL_NOWAIT = 1 << 4; // never sleep in the fault; may return 0 pages
export const FOLL_NOFAULT = 1 << 5; // -EFAULT where a fault would be needed
export const FOLL_HWPOISON = 1 << 6; // poisoned pages give -EHWPOISON instead of -EFAULT
export const FOLL_ANON = 1 << 7; // only anonymous VMAs
export const FOLL_LONGTERM = 1 << 8; // the pin may last for ever; only with FOLL_PIN
export const FOLL_SPLIT_PMD = 1 << 9; // split a huge mapping first
export const FOLL_PCI_P2PDMA = 1 << 10; // pages of PCI peer memory are wanted too
export const FOLL_INTERRUPTIBLE = 1 << 11; // any signal ends a waiting fault
export const FOLL_HONOR_NUMA_FAULT = 1 << 12; // PROT_NONE hint entries count as absent

export const FOLL_TOUCH = 1 << 16; // mark accessed, and dirty when writing
export const FOLL_TRIED = 1 << 17; // a retry: the fault has been tried before
export const FOLL_REMOTE = 1 << 18; // not the current address space
export const FOLL_PIN = 1 << 19; // a DMA pin: see mm/folio/pin.ts
export const FOLL_FAST_ONLY = 1 << 20; // no fall-back to the slow path
export const FOLL_UNLOCKABLE = 1 << 21; // the mmap lock may be dropped and retaken
export const FOLL_MADV_POPULATE = 1 << 22; // madvise(MADV_POPULATE_*): its own error numbers

/** Flags that only the wrappers in mm/gup/ set. FOLL_GET is not one of them, though few pass it. */
export const FOLL_INTERNAL =
  FOLL_TOUCH |
  FOLL_TRIED |
  FOLL_REMOTE |
  FOLL_PIN |
  FOLL_FAST_ONLY |
  FOLL_UNLOCKABLE |
  FOLL_MADV_POPULATE;

/** What the fast entry takes; anything else is refused there (compare gup_fast_fallback()). */
export const FOLL_FAST_ALLOWED =
  FOLL_WRITE |
  FOLL_LONGTERM |
  FOLL_FORCE |
  FOLL_PIN |
  FOLL_GET |
  FOLL_FAST_ONLY |
  FOLL_NOFAULT |
  FOLL_PCI_P2PDMA |
  FOLL_HONOR_NUMA_FAULT;
