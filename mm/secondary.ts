/**
 * The door for secondary MMUs: follow an address space's page tables without holding its pages.
 *
 * Three parts: subscription to the MMU notifiers; the invalidate sequence, with which a fault finds
 * out whether what it looked up is still true (compare virt/kvm/kvm_main.c and
 * include/linux/kvm_host.h, mmu_invalidate_retry()); and faultInPfn, which has one signature and
 * two insides: where the policy says `get` for kvm it takes FOLL_GET and keeps the reference until
 * releasePfn, as KVM does today; where it says `secondary` it takes none.
 */
import { setField, smpRmb, smpWmb } from '#cells';
import { mmuNotifierRegister, mmuNotifierUnregister } from './notifier/notifier.ts';
import type { Path } from './path.ts';
import type { Kernel, MmStruct, NotifierOps } from './types.ts';

export { drive } from './path.ts';
export type { Path } from './path.ts';
export {
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_MIGRATE,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_PROTECTION_VMA,
  MMU_NOTIFY_RELEASE,
  MMU_NOTIFY_UNMAP,
} from './types.ts';
export type { Kernel, MmStruct, NotifierOps, NotifierRange } from './types.ts';

/** What faultInPfn found. The caller provides the record, so that a fault allocates nothing. */
export interface SecondaryPfn {
  /** Page frame number, or -1. Invariant: without `held` it is only a hint until the owner's lock is held and invalidateRetry says false. */
  pfn: number;
  /** The primary entry allows writes: a writable secondary entry may be installed. */
  writable: boolean;
  /** A FOLL_GET reference is held until releasePfn. */
  held: boolean;
}

export const createSecondaryPfn = (): SecondaryPfn => ({ pfn: -1, writable: false, held: false });

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

/** Subscribes to an address space. @param owner passed to every operation: which VM */
export const registerSecondary = (k: Kernel, mm: MmStruct, ops: string, owner: number): void =>
  mmuNotifierRegister(k, mm, ops, owner);

export const unregisterSecondary = (mm: MmStruct, ops: string, owner: number): void =>
  mmuNotifierUnregister(mm, ops, owner);

/**
 * Makes the page at `hva` present (and writable if `write`) and says which frame it is.
 * @returns 0 and `out` filled, or -EFAULT, -ENOMEM, -EINTR, -EHWPOISON and `out` cleared
 */
export const faultInPfn = (
  _k: Kernel,
  _mm: MmStruct,
  _hva: number,
  _write: boolean,
  _out: SecondaryPfn,
): Path<number> => {
  throw new Error('faultInPfn: being written');
};

/**
 * The other half of faultInPfn, called with the owner's lock still held: after installation with
 * `dirty` for a writable entry, after a retry with both false. Clears `out`.
 */
export const releasePfn = (
  _k: Kernel,
  _out: SecondaryPfn,
  _dirty: boolean,
  _accessed: boolean,
): void => {
  throw new Error('releasePfn: being written');
};
