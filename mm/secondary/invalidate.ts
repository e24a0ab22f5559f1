/**
 * The invalidate sequence: how a fault of a secondary MMU finds out, under the owner's lock, whether
 * what it looked up is still true. Compare include/linux/kvm_host.h:mmu_invalidate_retry() and
 * virt/kvm/kvm_main.c:kvm_mmu_invalidate_begin().
 */
import { setField, smpRmb, smpWmb } from '#cells';

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

/** Is an invalidation open that covers `at`? A fault that was told to retry waits while it is. */
export const invalidateOpen = (state: InvalidateState, at: number): boolean =>
  state.inProgress > 0 && at >= state.rangeStart && at < state.rangeEnd;

/**
 * Under the owner's lock, before an entry is installed: must the fault be tried again?
 * @param seq what invalidateSeq gave before the lookup
 * @param at the place of the entry, in the unit of the ranges
 */
export const invalidateRetry = (state: InvalidateState, seq: number, at: number): boolean => {
  if (invalidateOpen(state, at)) return true;
  smpRmb();
  return state.seq !== seq;
};

/** The same for an entry, or entries, of [at, end): an open invalidation of any part of it counts. */
export const invalidateRetryRange = (
  state: InvalidateState,
  seq: number,
  at: number,
  end: number,
): boolean => {
  if (state.inProgress > 0 && at < state.rangeEnd && end > state.rangeStart) return true;
  smpRmb();
  return state.seq !== seq;
};
