/**
 * faultInPfn(): the frame behind a user's page, for a secondary MMU's entry, without holding it.
 *
 * One signature and two insides: where the policy says `get` for the user it takes FOLL_GET and keeps
 * the reference until releasePfn, as hva_to_pfn() of virt/kvm/kvm_main.c does today; where it says
 * `secondary` it takes none. What comes back is true if the invalidate sequence says so, in both.
 */
import { readOnce } from '#cells';
import { EAGAIN, EFAULT, EHWPOISON, EINTR, ENOMEM } from '../errno.ts';
import { FAULT_FLAG_WRITE } from '../fault/flags.ts';
import { folioMarkDirty, folioOf, folioPut } from '../folio/folio.ts';
import { pageToPfn, pfnToPage } from '../frames/table.ts';
import { getUserPagesFastOnly } from '../gup/fast.ts';
import { fixupUserFault } from '../gup/fault-in.ts';
import { FOLL_HONOR_NUMA_FAULT, FOLL_HWPOISON, FOLL_UNLOCKABLE, FOLL_WRITE } from '../gup/flags.ts';
import { followPfnmap } from '../gup/follow.ts';
import { getUserPagesUnlocked } from '../gup/slow.ts';
import { type GupUserId, mayTakeGet } from '../gup/users.ts';
import { vmaCanGup } from '../gup/vma-check.ts';
import { getUserPagesLocked } from '../gup/walk.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import { type Path, YP_SECONDARY_PFN } from '../path.ts';
import { ptePage, ptePresent, pteProtnone, pteWrite } from '../pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, levelPages, walkLeaf } from '../pgtable/walk.ts';
import { noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapRead } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';

/** What faultInPfn found. The caller provides the record, so that a fault allocates nothing. */
export interface SecondaryPfn {
  /** Whose row of mm/gup/users.ts says whether a reference is taken. */
  readonly user: GupUserId;
  /** Page frame number, or -1. Invariant: without `held` it is only a hint until the owner's lock is held and invalidateRetry says false. */
  pfn: number;
  /** The primary entry allows writes: a writable secondary entry may be installed. */
  writable: boolean;
  /**
   * log2 of the pages that the primary entry maps, all with the same rights: a secondary entry may be as
   * large, for hva and pfn rounded down to it. 0, 9 or 18.
   */
  order: number;
  /** A FOLL_GET reference is held until releasePfn. */
  held: boolean;
  /** There is a folio behind it, which releasePfn marks; not in VM_IO and VM_PFNMAP memory. */
  hasFolio: boolean;
  /** Where GUP puts what it finds. */
  pages: Int32Array;
}

/** @param user whose row of mm/gup/users.ts is asked whether it takes references */
export const createSecondaryPfn = (user: GupUserId = 'kvm'): SecondaryPfn => ({
  user,
  pfn: -1,
  writable: false,
  order: 0,
  held: false,
  hasFolio: false,
  pages: new Int32Array(1),
});

/**
 * Makes the page at `hva` present (and writable if `write`) and says which frame it is. For a read
 * of a page that is writable already `out.writable` is true as well. Called without the owner's
 * lock: it may sleep. With FOLL_GET inside it is hva_to_pfn() of virt/kvm/kvm_main.c.
 * @returns 0 and `out` filled; or -EFAULT, -ENOMEM, -EHWPOISON, with `out` cleared; -EINTR, -EAGAIN:
 *   a signal first
 */
export function* faultInPfn(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): Path<number> {
  clearPfn(out);
  let error = mayTakeGet(k.policy, out.user)
    ? yield* getPfn(k, mm, hva, write, out)
    : yield* lookUpPfn(k, mm, hva, write, out);
  if (error !== 0 && !isFinal(error))
    error = yield* mmapRead(mm, remappedPfn(k, mm, hva, write, out));
  if (error !== 0) return error;
  if (k.watched) yield YP_SECONDARY_PFN;
  return 0;
}

/** Nothing is found. */
export const clearPfn = (out: SecondaryPfn): void => {
  out.pfn = -1;
  out.writable = false;
  out.order = 0;
  out.held = false;
  out.hasFolio = false;
};

/** How GUP is asked to fault a page in for a secondary MMU. */
export const faultFlags = (write: boolean): number =>
  FOLL_HWPOISON | FOLL_HONOR_NUMA_FAULT | (write ? FOLL_WRITE : 0);

/** log2 of the pages that a primary entry of this level maps. */
export const levelOrder = (level: number): number => Math.log2(levelPages(level));

/** Of a page that was looked up by GUP, if the entry that is there now still says the same. */
const orderNow = (k: Kernel, mm: MmStruct, hva: number, page: number, write: boolean): number => {
  const leaf = walkLeaf(k, mm, hva);
  const level = leafLevel(leaf);
  if (leaf <= 0 || level === 0) return 0;
  const entry = readOnce(k.memory.i32, leafWord(leaf));
  const same = ptePresent(entry) && leafPage(entry, level, hva) === page;
  return same && (!write || pteWrite(entry)) ? levelOrder(level) : 0;
};

/** With a reference. Lockless first, and only for writing: a racing COW could leave a reader on the old page. */
function* getPfn(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): Path<number> {
  const { pages, user } = out;
  let writable = (yield* getUserPagesFastOnly(k, user, mm, hva, 1, FOLL_WRITE, pages)) === 1;
  if (!writable) {
    const n = yield* getUserPagesUnlocked(k, user, mm, hva, 1, faultFlags(write), pages);
    if (n !== 1) return n < 0 ? n : -EFAULT;
    writable = write;
    if (!writable) {
      // The entry may be writable although nobody asked: then the next write need not fault.
      const page = pages[0]!;
      writable = (yield* getUserPagesFastOnly(k, user, mm, hva, 1, FOLL_WRITE, pages)) === 1;
      if (writable) putPage(k, page, user);
      else pages[0] = page;
    }
  }
  out.pfn = pageToPfn(pages[0]!);
  out.writable = writable;
  out.order = orderNow(k, mm, hva, pages[0]!, writable);
  out.held = true;
  out.hasFolio = true;
  return 0;
}

/** Gives back a reference of FOLL_GET. */
export const putPage = (k: Kernel, page: number, user: GupUserId): void => {
  noteReleasePage(k, 'get', page, 1, user);
  folioPut(k, folioOf(k, page));
};

/** Without: fault until the primary entry allows the access, and report what it says. */
function* lookUpPfn(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): Path<number> {
  const flags = faultFlags(write) | FOLL_UNLOCKABLE;
  for (;;) {
    const n = yield* getUserPagesLocked(k, mm, hva, 1, flags, null, { locked: 0 });
    if (n !== 1) return n < 0 ? n : -EFAULT;
    // Otherwise somebody came between.
    if (lookAtEntry(k, mm, hva, write, out)) return 0;
  }
}

/**
 * Reports what the primary entry of a page that was faulted in says now. @returns false, and `out` as it
 * was: the page is gone again, or read-only again
 */
export const lookAtEntry = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): boolean => {
  const leaf = walkLeaf(k, mm, hva);
  const entry = readOnce(k.memory.i32, leafWord(leaf));
  if (!ptePresent(entry) || pteProtnone(entry) || (write && !pteWrite(entry))) return false;
  const level = leafLevel(leaf);
  out.pfn = pageToPfn(leafPage(entry, level, hva));
  out.writable = pteWrite(entry);
  out.order = level === 0 ? 0 : levelOrder(level);
  out.hasFolio = true;
  return true;
};

/** Errors of GUP that say all; any other may mean that the memory has no page structs. */
export const isFinal = (error: number): boolean =>
  error === -ENOMEM || error === -EHWPOISON || error === -EINTR || error === -EAGAIN;

/**
 * The frame of memory without page structs, which GUP refuses without asking its fault handler. No
 * reference, whatever the policy. Compare hva_to_pfn_remapped().
 * @returns 0; -EFAULT, also where the entry does not allow the write; -EINTR
 */
function* remappedPfn(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): Path<number> {
  for (let faults = 0; ; ) {
    const vma = findVma(mm, hva);
    if (vma === null || vmaCanGup(vma)) return -EFAULT;
    const pte = followPfnmap(k, vma, hva);
    if (pte !== 0) {
      if (write && !pteWrite(pte)) return -EFAULT;
      if (ptePage(pte) < 0 || ptePage(pte) >= k.state.frames.nrPages) return -EFAULT;
      out.pfn = pageToPfn(ptePage(pte));
      out.writable = pteWrite(pte);
      return 0;
    }
    if (faults++ > 0) return -EFAULT;
    const note = { unlocked: false };
    const flags = write ? FAULT_FLAG_WRITE : 0;
    const error = yield* fixupUserFault(k, mm, hva, flags, note);
    if (note.unlocked) faults = 0;
    else if (error !== 0) return error;
  }
}

/**
 * The other half of faultInPfn, called with the owner's lock still held: after installation with
 * `dirty` for a writable entry, after a retry with both false. Marks the folio, drops the reference
 * if there is one, and clears `out`. Dirty is set here and not when the entry goes: under the lock no
 * writeback can have passed the notifier in between.
 * @throws Error for `dirty` without a writable primary entry
 */
export const releasePfn = (
  k: Kernel,
  out: SecondaryPfn,
  dirty: boolean,
  accessed: boolean,
): void => {
  if (out.pfn < 0) return;
  if (dirty && !out.writable) throw new Error(`pfn ${out.pfn} is not writable and cannot be dirty`);
  const page = pfnToPage(out.pfn);
  if (out.hasFolio) markFolio(k, page, dirty, accessed);
  if (out.held) putPage(k, page, out.user);
  clearPfn(out);
};

/** What an entry's installation says of the folio behind it. */
export const markFolio = (k: Kernel, page: number, dirty: boolean, accessed: boolean): void => {
  const folio = folioOf(k, page);
  if (dirty) folioMarkDirty(k, folio);
  if (accessed) folioMarkAccessed(k, folio);
};

/**
 * An entry goes through which its hardware may have written since the folio was marked: from within an
 * invalidation, before the primary entry changes. Compare ib_umem_odp_unmap_dma_pages().
 */
export const markPfnDirty = (k: Kernel, pfn: number): void => {
  folioMarkDirty(k, folioOf(k, pfnToPage(pfn)));
};
