/**
 * Interval notifiers: subscriptions to a part of an address space, with a sequence number by which
 * the subscriber finds out that what it looked up is not true any more. Compare
 * mm/mmu_notifier.c:mmu_interval_read_begin(), include/linux/mmu_notifier.h:mmu_interval_read_retry().
 *
 *   subscriber                               whoever changes entries
 *   seq = readBegin()  (waits while odd)     start: the address space's number becomes odd
 *   looks the pages up, may sleep                   invalidate(number): takes entries away, setSeq()
 *   readRetry(seq)? again                    changes entries, flushes
 *   installs its entries                     end:   the number becomes even, waiters go on
 *
 * The number is odd while a range that meets a subscription is being invalidated. Subscriptions that
 * come or go meanwhile wait for the end, so that whoever walks them finds the same ones throughout.
 */
import { listPush, listRemoveAt, setField } from '#cells';
import { EAGAIN, EINVAL, EOVERFLOW } from '../errno.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { countStat } from '../stat.ts';
import {
  type IntervalNotifier,
  type IntervalNotifierOps,
  type IntervalSubscriptions,
  type Kernel,
  MMU_NOTIFY_RELEASE,
  type MmStruct,
  type NotifierRange,
} from '../types.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from '../vma/lock.ts';

/** Nobody is subscribed. The number is even, and larger than that of any subscription. */
export const createIntervals = (): IntervalSubscriptions => ({
  used: false,
  seq: 2,
  active: 0,
  list: [],
  deferred: [],
});

const opsOf = (k: Kernel, name: string): IntervalNotifierOps => {
  const ops = k.intervalOps.get(name);
  if (ops === undefined) throw new Error(`no interval notifier operations are named ${name}`);
  return ops;
};

const isInvalidating = ({ seq }: IntervalSubscriptions): boolean => (seq & 1) !== 0;

const remove = (list: IntervalNotifier[], subscription: IntervalNotifier): void => {
  listRemoveAt(list, list.indexOf(subscription));
};

/**
 * Subscribes `owner` to [start, start + lenBytes) of an address space. It may be told only after the
 * invalidations that are open now: readBegin() waits for them.
 * @param ops name under which the operations stand in k.intervalOps
 * @returns the subscription; -EOVERFLOW: no range; -EINVAL: the address space has ended
 */
export function* mmuIntervalNotifierInsert(
  k: Kernel,
  mm: MmStruct,
  start: number,
  lenBytes: number,
  ops: string,
  owner: number,
): Path<IntervalNotifier | number> {
  opsOf(k, ops);
  if (lenBytes <= 0 || start < 0 || !Number.isSafeInteger(start + lenBytes)) return -EOVERFLOW;
  if (!mm.intervals.used) {
    // The first one: nobody may be between the start and the end of something that is not counted.
    if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
    setField(mm.intervals, 'used', true);
    mmapWriteUnlock(mm);
  }
  if (mm.exited) return -EINVAL;
  return insert(mm, { mm, ops, owner, start, end: start + lenBytes, seq: 0, inTree: false });
}

const insert = (mm: MmStruct, subscription: IntervalNotifier): IntervalNotifier => {
  const { intervals } = mm;
  if (isInvalidating(intervals)) {
    listPush(intervals.deferred, subscription);
    setField(subscription, 'seq', intervals.seq);
    return subscription;
  }
  // What is being invalidated is not known any more: it may well be this range.
  if (intervals.active > 0) setField(intervals, 'seq', intervals.seq | 1);
  setField(subscription, 'seq', intervals.active > 0 ? intervals.seq : intervals.seq - 1);
  setField(subscription, 'inTree', true);
  listPush(intervals.list, subscription);
  return subscription;
};

/**
 * Ends a subscription. Where invalidations are open it waits for their end: after that nobody calls
 * its operations any more. Not to be called by these.
 */
export function* mmuIntervalNotifierRemove(subscription: IntervalNotifier): Path<void> {
  const { intervals } = subscription.mm;
  if (!isInvalidating(intervals)) {
    setField(subscription, 'inTree', false);
    remove(intervals.list, subscription);
    return;
  }
  if (!subscription.inTree) {
    remove(intervals.deferred, subscription);
    return;
  }
  listPush(intervals.deferred, subscription);
  const { seq } = intervals;
  while (intervals.seq === seq) yield YP_WAIT;
}

/** Every subscription that a range meets is told. @returns 0; -EAGAIN: one would have to block, and the range may not */
export const intervalStart = (k: Kernel, range: NotifierRange): number => {
  const { intervals } = range.mm;
  setField(intervals, 'active', intervals.active + 1);
  if (intervals.list.length === 0) return 0;
  const met = intervals.list.filter((s) => s.start < range.end && s.end > range.start);
  if (met.length === 0) return 0;
  setField(intervals, 'seq', intervals.seq | 1);
  const finish: IntervalNotifier[] = [];
  let error = 0;
  for (const subscription of met) {
    const ops = opsOf(k, subscription.ops);
    countStat(k, 'notifier_invalidations');
    if (!ops.invalidate(subscription, range, intervals.seq)) {
      if (range.blockable)
        throw new Error(`interval notifier ${subscription.ops}: has failed where it may block`);
      error = -EAGAIN;
      break;
    }
    if (ops.invalidateFinish !== undefined) finish.push(subscription);
  }
  for (const subscription of finish)
    opsOf(k, subscription.ops).invalidateFinish?.(subscription, range);
  if (error !== 0) intervalEnd(range);
  return error;
};

/** A range is done. After the last one subscriptions come and go that have waited, and readers go on. */
export const intervalEnd = ({ mm }: NotifierRange): void => {
  const { intervals } = mm;
  if (intervals.active <= 0) throw new Error(`mm ${mm.id}: the end of a range without a start`);
  setField(intervals, 'active', intervals.active - 1);
  if (intervals.active > 0 || !isInvalidating(intervals)) return;
  setField(intervals, 'seq', intervals.seq + 1);
  for (;;) {
    const subscription = listRemoveAt(intervals.deferred, 0);
    if (subscription === undefined) return;
    setField(subscription, 'inTree', !subscription.inTree);
    if (subscription.inTree) listPush(intervals.list, subscription);
    else remove(intervals.list, subscription);
  }
};

/** The address space ends: every subscription is told of all of it, and stays until its owner removes it. */
export const intervalRelease = (k: Kernel, mm: MmStruct): void => {
  if (!mm.intervals.used) return;
  const range: NotifierRange = {
    mm,
    start: 0,
    end: Number.POSITIVE_INFINITY,
    event: MMU_NOTIFY_RELEASE,
    blockable: true,
    told: [],
  };
  intervalStart(k, range);
  intervalEnd(range);
};

/**
 * Begins a lookup; waits while the subscription is being invalidated. What the entries say from here
 * on may be used once readRetry(), under the subscriber's own lock, says that nothing came between.
 * @returns the number for readRetry()
 */
export function* mmuIntervalReadBegin(subscription: IntervalNotifier): Path<number> {
  const { intervals } = subscription.mm;
  const { seq } = subscription;
  // Equal to the address space's number: told of an invalidation that has not ended.
  while (intervals.seq === seq) yield YP_WAIT;
  return seq;
}

/** Under the subscriber's lock: was the subscription invalidated since readBegin() gave `seq`? Then look up again. */
export const mmuIntervalReadRetry = (subscription: IntervalNotifier, seq: number): boolean =>
  subscription.seq !== seq;

/** From `invalidate`, under the subscriber's lock: whoever is looking pages up will have to do so again. @param seq as `invalidate` got it */
export const mmuIntervalSetSeq = (subscription: IntervalNotifier, seq: number): void =>
  setField(subscription, 'seq', seq);
