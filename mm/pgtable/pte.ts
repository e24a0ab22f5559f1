/**
 * Entries of the host's page tables as the kernel sees them: the hardware's own format (emu/pte.ts)
 * with Linux's software bits. Compare arch/riscv/include/asm/pgtable.h.
 *
 * RAM ends below physical 8 GiB, so that the high half of every entry is zero and the low half
 * says all: an entry is one i32 here.
 *
 *   present       V=1 (or V=0 and PROT_NONE), page number at bit 10
 *   none          0
 *   not present   V=0, PROT_NONE=0: a swap or migration entry, or a marker (swapops.ts)
 *
 * A leaf of a directory (2 MiB, 1 GiB) has the same form; where V is set, G is free for software.
 */
import {
  PTE_A,
  PTE_D,
  PTE_G,
  PTE_PPN_SHIFT,
  PTE_R,
  PTE_RSW_SHIFT,
  PTE_U,
  PTE_V,
  PTE_W,
  PTE_X,
  RAM_PFN_BASE,
} from '#emu';
import type { Vma } from '../types.ts';
import {
  VM_EXEC,
  VM_HUGETLB,
  VM_MAYSHARE,
  VM_READ,
  VM_SHARED,
  VM_SOFTDIRTY,
  VM_UFFD_WP,
  VM_WRITE,
  VM_WRITENOTIFY,
} from '../vma/flags.ts';

/** Present for the kernel, invalid for the hardware: memory that nobody may access. */
export const PTE_PROT_NONE = PTE_G;
/** No struct page to count: the zero page, memory that is no RAM of the kernel's. */
export const PTE_SPECIAL = 1 << PTE_RSW_SHIFT;
/** userfaultfd wants to know of the next write. */
export const PTE_UFFD_WP = 2 << PTE_RSW_SHIFT;
/** Written since the last clear_refs. The hardware's G bit, which means nothing to our harts where V is set. */
export const PTE_SOFT_DIRTY = PTE_G;
/**
 * What a change of protection replaces. Not G: between two entries with V the soft-dirty bit stays,
 * and coming from PROT_NONE, where nobody knows, it is set.
 */
const PTE_PROT_BITS = PTE_V | PTE_R | PTE_W | PTE_X | PTE_U;

const PTE_RWX = PTE_R | PTE_W | PTE_X;

/** An entry of a directory that maps memory by itself: 2 MiB, 1 GiB. Present, PROT_NONE included. */
export const pteLeaf = (entry: number): boolean =>
  (entry & PTE_RWX) !== 0 && (entry & (PTE_V | PTE_PROT_NONE)) !== 0;
/** An entry of a directory that points to a table. */
export const pteTable = (entry: number): boolean => (entry & (PTE_V | PTE_RWX)) === PTE_V;
export const pteNone = (pte: number): boolean => pte === 0;
export const ptePresent = (pte: number): boolean => (pte & (PTE_V | PTE_PROT_NONE)) !== 0;
export const pteProtnone = (pte: number): boolean =>
  (pte & (PTE_V | PTE_PROT_NONE)) === PTE_PROT_NONE;
export const pteWrite = (pte: number): boolean => (pte & PTE_W) !== 0;
export const pteDirty = (pte: number): boolean => (pte & PTE_D) !== 0;
export const pteYoung = (pte: number): boolean => (pte & PTE_A) !== 0;
export const pteSpecial = (pte: number): boolean => (pte & PTE_SPECIAL) !== 0;
export const ptePfn = (pte: number): number => pte >>> PTE_PPN_SHIFT;
/** Frame of a present entry. */
export const ptePage = (pte: number): number => (pte >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
/** Frame of a present entry whose references are counted, -1 for a special one. Compare vm_normal_page(). */
export const vmNormalPage = (pte: number): number =>
  (pte & PTE_SPECIAL) !== 0 ? -1 : ptePage(pte);

/** An entry for a frame. */
export const mkPte = (page: number, prot: number): number =>
  ((page + RAM_PFN_BASE) << PTE_PPN_SHIFT) | prot;
export const pteWrprotect = (pte: number): number => pte & ~PTE_W;
export const pteMkwrite = (pte: number): number => pte | PTE_W | PTE_R;
/** Written to by software, which soft-dirty tracking wants to know as well. */
export const pteMkdirty = (pte: number): number => pte | PTE_D | PTE_SOFT_DIRTY;
export const pteMkclean = (pte: number): number => pte & ~PTE_D;
export const pteMkyoung = (pte: number): number => pte | PTE_A;
export const pteMkold = (pte: number): number => pte & ~PTE_A;
export const pteMkspecial = (pte: number): number => pte | PTE_SPECIAL;
export const pteUffdWp = (pte: number): boolean => (pte & PTE_UFFD_WP) !== 0;
export const pteMkuffdWp = (pte: number): number => (pte | PTE_UFFD_WP) & ~PTE_W;
export const pteClearUffdWp = (pte: number): number => pte & ~PTE_UFFD_WP;
/** Of a PROT_NONE entry, whose bit says something else, the careful answer. */
export const pteSoftDirty = (pte: number): boolean => (pte & PTE_SOFT_DIRTY) !== 0;
export const pteMksoftDirty = (pte: number): number => pte | PTE_SOFT_DIRTY;
export const pteClearSoftDirty = (pte: number): number =>
  (pte & PTE_V) !== 0 ? pte & ~PTE_SOFT_DIRTY : pte;

/** Must the entry stay read-only so that userfaultfd hears of the next write? Compare userfaultfd_pte_wp(). */
export const pteNeedsUffdWp = (vma: Vma, pte: number): boolean =>
  (vma.flags & VM_UFFD_WP) !== 0 && pteUffdWp(pte);

/** Must it stay read-only so that the next write sets the soft-dirty bit? Compare pte_needs_soft_dirty_wp(). */
export const pteNeedsSoftDirtyWp = (vma: Vma, pte: number): boolean =>
  (vma.flags & VM_SOFTDIRTY) === 0 && !pteSoftDirty(pte);

/** The same frame, A and D under another protection. */
export const pteModify = (pte: number, prot: number): number => (pte & ~PTE_PROT_BITS) | prot;

/**
 * Somebody wants to know of the first write to each page of a shared mapping. Compare
 * vma_wants_writenotify().
 */
const wantsWritenotify = (vmFlags: number): boolean =>
  (vmFlags & (VM_SOFTDIRTY | VM_HUGETLB)) === 0 || (vmFlags & (VM_UFFD_WP | VM_WRITENOTIFY)) !== 0;

/**
 * Protection bits of a new entry of a VMA with these VM_* flags. A private mapping never gets W
 * from here: its first write has to make the page its own. Compare vm_get_page_prot().
 */
export const vmPageProt = (vmFlags: number): number => {
  if ((vmFlags & (VM_READ | VM_WRITE | VM_EXEC)) === 0) return PTE_PROT_NONE | PTE_R | PTE_U;
  // W without R is reserved in hardware, and riscv's write-only mappings are readable.
  const readable = (vmFlags & (VM_READ | VM_WRITE)) !== 0 ? PTE_R : 0;
  const executable = (vmFlags & VM_EXEC) !== 0 ? PTE_X : 0;
  const shared = (vmFlags & (VM_SHARED | VM_MAYSHARE)) !== 0;
  const writable = shared && (vmFlags & VM_WRITE) !== 0 && !wantsWritenotify(vmFlags) ? PTE_W : 0;
  return PTE_V | PTE_U | readable | writable | executable;
};

/** W where the VMA may be written to. Compare maybe_mkwrite(). */
export const maybeMkwrite = (pte: number, vmFlags: number): number =>
  (vmFlags & VM_WRITE) !== 0 ? pteMkwrite(pte) : pte;
