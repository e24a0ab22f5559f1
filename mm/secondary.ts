/**
 * The door for secondary MMUs: follow an address space's page tables without holding its pages.
 *
 * Three parts: subscription to the MMU notifiers; the invalidate sequence, with which a fault finds
 * out whether what it looked up is still true (compare virt/kvm/kvm_main.c and
 * include/linux/kvm_host.h, mmu_invalidate_retry()); and faultInPfn, which has one signature and
 * two insides: where the policy says `get` for kvm it takes FOLL_GET and keeps the reference until
 * releasePfn, as KVM does today; where it says `secondary` it takes none.
 */
import { readOnce, setField, smpRmb, smpWmb } from '#cells';
import { EAGAIN, EFAULT, EHWPOISON, EINTR, ENOMEM } from './errno.ts';
import { FAULT_FLAG_WRITE } from './fault/flags.ts';
import { folioMarkDirty, folioOf, folioPut } from './folio/folio.ts';
import { pageToPfn, pfnToPage } from './frames/table.ts';
import { getUserPagesFastOnly } from './gup/fast.ts';
import { fixupUserFault } from './gup/fault-in.ts';
import { followPfnmap } from './gup/follow.ts';
import { FOLL_HONOR_NUMA_FAULT, FOLL_HWPOISON, FOLL_UNLOCKABLE, FOLL_WRITE } from './gup/flags.ts';
import { getUserPagesUnlocked } from './gup/slow.ts';
import { mayTakeGet } from './gup/users.ts';
import { vmaCanGup } from './gup/vma-check.ts';
import { getUserPagesLocked } from './gup/walk.ts';
import { mmuNotifierRegister, mmuNotifierUnregister } from './notifier/notifier.ts';
import { type Path, YP_SECONDARY_PFN } from './path.ts';
import { ptePage, ptePresent, pteProtnone, pteWrite } from './pgtable/pte.ts';
import { leafLevel, leafPage, leafWord, walkLeaf } from './pgtable/walk.ts';
import { noteReleasePage } from './provenance/provenance.ts';
import type { Kernel, MmStruct, NotifierOps } from './types.ts';
import { mmapRead } from './vma/lock.ts';
import { findVma } from './vma/vma.ts';
import { folioMarkAccessed } from './lru/batch.ts';

export {
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  hmmPfnToMapOrder,
  hmmPfnToPage,
  hmmRangeFault,
} from './hmm/hmm.ts';
export type { HmmRange } from './hmm/hmm.ts';
export {
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
} from './notifier/interval.ts';
export { pageToPfn, pfnToPage } from './frames/table.ts';
export { drive, YP_WAIT } from './path.ts';
export type { Path } from './path.ts';
export {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_UNMAP,
} from './types.ts';
export type {
  IntervalNotifier,
  IntervalNotifierOps,
  Kernel,
  MmStruct,
  NotifierOps,
  NotifierRange,
} from './types.ts';

/** What faultInPfn found. The caller provides the record, so that a fault allocates nothing. */
export interface SecondaryPfn {
  /** Page frame number, or -1. Invariant: without `held` it is only a hint until the owner's lock is held and invalidateRetry says false. */
  pfn: number;
  /** The primary entry allows writes: a writable secondary entry may be installed. */
  writable: boolean;
  /** A FOLL_GET reference is held until releasePfn. */
  held: boolean;
  /** There is a folio behind it, which releasePfn marks; not in VM_IO and VM_PFNMAP memory. */
  hasFolio: boolean;
  /**
   * log2 of the pages that the primary entry maps: 0, 9 or 18. A secondary entry may be as large, and no
   * larger; as much a hint as `pfn`.
   */
  order: number;
  /** Where GUP puts what it finds. */
  pages: Int32Array;
}

/** An entry of a level maps 512 of the level below. */
const LEVEL_ORDER = 9;

export const createSecondaryPfn = (): SecondaryPfn => ({
  pfn: -1,
  writable: false,
  held: false,
  hasFolio: false,
  order: 0,
  pages: new Int32Array(1),
});

/**
 * A secondary MMU's own record of invalidations, in whatever unit it counts (kvm: gpa).
 * Plain data; the owner keeps one per VM and touches it under its own lock.
 */
export interface InvalidateState {
  /** Finished invalidations. */
  seq: number;
  /** Invalidations between begin and end. */
  inProgress: number;
  /** Union of the ranges of the open invalidations, [rangeStart, rangeEnd). Meaningful while inProgress > 0. */
  rangeStart: number;
  rangeEnd: number;
}

export const createInvalidateState = (): InvalidateState => ({
  seq: 0,
  inProgress: 0,
  rangeStart: 0,
  rangeEnd: 0,
});

/** From invalidateRangeStart, before entries are zapped. Ranges only grow until the last one ends. */
export const invalidateBegin = (state: InvalidateState, start: number, end: number): void => {
  if (state.inProgress === 0) {
    setField(state, 'rangeStart', start);
    setField(state, 'rangeEnd', end);
  } else {
    setField(state, 'rangeStart', Math.min(state.rangeStart, start));
    setField(state, 'rangeEnd', Math.max(state.rangeEnd, end));
  }
  setField(state, 'inProgress', state.inProgress + 1);
};

/** From invalidateRangeEnd. The sequence moves before the count drops: a fault sees one or the other. */
export const invalidateEnd = (state: InvalidateState): void => {
  if (state.inProgress <= 0) throw new Error('invalidateEnd without a begin');
  setField(state, 'seq', state.seq + 1);
  smpWmb();
  setField(state, 'inProgress', state.inProgress - 1);
};

/** Samples the sequence: before the lookup, whose loads must not move above it. */
export const invalidateSeq = (state: InvalidateState): number => {
  const seq = state.seq;
  smpRmb();
  return seq;
};

/**
 * Under the owner's lock, before an entry is installed: must the fault be tried again?
 * @param seq what invalidateSeq gave before the lookup
 * @param at the place of the entry, in the unit of the ranges
 */
export const invalidateRetry = (state: InvalidateState, seq: number, at: number): boolean => {
  if (state.inProgress > 0 && at >= state.rangeStart && at < state.rangeEnd) return true;
  smpRmb();
  return state.seq !== seq;
};

/** Makes a kind of subscriber known, by name. Once per kernel, also after a restore. */
export const registerSecondaryOps = (k: Kernel, ops: string, operations: NotifierOps): void => {
  k.notifierOps.set(ops, operations);
};

/** Subscribes to an address space. @param owner passed to every operation: which VM. @returns as mmuNotifierRegister */
export const registerSecondary = (k: Kernel, mm: MmStruct, ops: string, owner: number): number =>
  mmuNotifierRegister(k, mm, ops, owner);

export const unregisterSecondary = (mm: MmStruct, ops: string, owner: number): void =>
  mmuNotifierUnregister(mm, ops, owner);

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
  let error = mayTakeGet(k.policy, 'kvm')
    ? yield* getPfn(k, mm, hva, write, out)
    : yield* lookUpPfn(k, mm, hva, write, out);
  if (error !== 0 && !isFinal(error))
    error = yield* mmapRead(mm, remappedPfn(k, mm, hva, write, out));
  if (error !== 0) return error;
  if (k.watched) yield YP_SECONDARY_PFN;
  return 0;
}

const clearPfn = (out: SecondaryPfn): void => {
  out.pfn = -1;
  out.writable = false;
  out.held = false;
  out.hasFolio = false;
  out.order = 0;
};

/** With a reference. Lockless first, and only for writing: a racing COW could leave a reader on the old page. */
function* getPfn(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  write: boolean,
  out: SecondaryPfn,
): Path<number> {
  const { pages } = out;
  let writable = (yield* getUserPagesFastOnly(k, 'kvm', mm, hva, 1, FOLL_WRITE, pages)) === 1;
  if (!writable) {
    const flags = FOLL_HWPOISON | FOLL_HONOR_NUMA_FAULT | (write ? FOLL_WRITE : 0);
    const n = yield* getUserPagesUnlocked(k, 'kvm', mm, hva, 1, flags, pages);
    if (n !== 1) return n < 0 ? n : -EFAULT;
    writable = write;
    if (!writable) {
      // The entry may be writable although nobody asked: then the next write need not fault.
      const page = pages[0]!;
      writable = (yield* getUserPagesFastOnly(k, 'kvm', mm, hva, 1, FOLL_WRITE, pages)) === 1;
      if (writable) putPfn(k, page);
      else pages[0] = page;
    }
  }
  out.pfn = pageToPfn(pages[0]!);
  out.writable = writable;
  out.held = true;
  out.hasFolio = true;
  out.order = mappingOrder(k, mm, hva, pages[0]!);
  return 0;
}

/** Order of the entry that maps `page` at `hva`; 0 also where it is another by now. Compare host_pfn_mapping_level() */
const mappingOrder = (k: Kernel, mm: MmStruct, hva: number, page: number): number => {
  const leaf = walkLeaf(k, mm, hva);
  const level = leafLevel(leaf);
  if (level === 0) return 0;
  const entry = readOnce(k.memory.i32, leafWord(leaf));
  return ptePresent(entry) && leafPage(entry, level, hva) === page ? level * LEVEL_ORDER : 0;
};

/** Gives back the reference of getPfn. */
const putPfn = (k: Kernel, page: number): void => {
  noteReleasePage(k, 'get', page, 1, 'kvm');
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
  const wanted = FOLL_HWPOISON | FOLL_HONOR_NUMA_FAULT | (write ? FOLL_WRITE : 0);
  for (;;) {
    const flags = wanted | FOLL_UNLOCKABLE;
    const n = yield* getUserPagesLocked(k, mm, hva, 1, flags, null, { locked: 0 });
    if (n !== 1) return n < 0 ? n : -EFAULT;
    const leaf = walkLeaf(k, mm, hva);
    const entry = readOnce(k.memory.i32, leafWord(leaf));
    // Gone again, or read-only again: somebody came between.
    if (!ptePresent(entry) || pteProtnone(entry) || (write && !pteWrite(entry))) continue;
    out.pfn = pageToPfn(leafPage(entry, leafLevel(leaf), hva));
    out.writable = pteWrite(entry);
    out.hasFolio = true;
    out.order = leafLevel(leaf) * LEVEL_ORDER;
    return 0;
  }
}

/** Errors of GUP that say all; any other may mean that the memory has no page structs. */
const isFinal = (error: number): boolean =>
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
  const folio = folioOf(k, pfnToPage(out.pfn));
  if (dirty && out.hasFolio) folioMarkDirty(k, folio);
  if (accessed && out.hasFolio) folioMarkAccessed(k, folio);
  if (out.held) putPfn(k, pfnToPage(out.pfn));
  clearPfn(out);
};
