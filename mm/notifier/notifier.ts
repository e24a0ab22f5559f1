/**
 * MMU notifiers: who else holds translations of an address space, and how they are told.
 * Compare mm/mmu_notifier.c.
 *
 * `start` is called before entries change, `end` after the TLBs are flushed; between the two no
 * subscriber may create an entry for the range. Subscribers are plain functions found by name, so
 * that subscriptions can be saved. Those that want to hear of a part of the address space alone, and
 * to find out by a sequence number whether what they looked up is still true, are in interval.ts.
 */
import { listPush, listRemoveAt } from '#cells';
import { checkRangeEnd } from '../check/secondary.ts';
import { EAGAIN, EINVAL } from '../errno.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct, NotifierOps, NotifierRange } from '../types.ts';
import { intervalEnd, intervalRelease, intervalStart } from './interval.ts';

const opsOf = (k: Kernel, name: string): NotifierOps => {
  const ops = k.notifierOps.get(name);
  if (ops === undefined) throw new Error(`no notifier operations are named ${name}`);
  return ops;
};

/**
 * Subscribes `owner` (the subscriber's own number) to an address space. The caller holds its
 * mmap_lock for writing, or nobody is in the middle of anything.
 * @param ops name under which the operations stand in k.notifierOps
 * @returns 0; -EINVAL for operations that have both start or end and archInvalidateSecondaryTlbs
 * @throws Error for an unknown name or a second subscription of the same owner
 */
export const mmuNotifierRegister = (
  k: Kernel,
  mm: MmStruct,
  ops: string,
  owner: number,
): number => {
  const { archInvalidateSecondaryTlbs, invalidateRangeStart, invalidateRangeEnd } = opsOf(k, ops);
  if (archInvalidateSecondaryTlbs && (invalidateRangeStart || invalidateRangeEnd)) return -EINVAL;
  if (mm.notifiers.some((s) => s.ops === ops && s.owner === owner))
    throw new Error(`mm ${mm.id}: ${ops} ${owner} is subscribed already`);
  listPush(mm.notifiers, { ops, owner });
  return 0;
};

/** Ends a subscription; one that is not there is no error. */
export const mmuNotifierUnregister = (mm: MmStruct, ops: string, owner: number): void => {
  const i = mm.notifiers.findIndex((s) => s.ops === ops && s.owner === owner);
  if (i >= 0) listRemoveAt(mm.notifiers, i);
};

/** True where somebody is to be told: a range need not be built otherwise. */
export const mmHasNotifiers = (mm: MmStruct): boolean =>
  mm.notifiers.length > 0 || mm.intervals.used;

/** A range of `mm` that is about to change. @param event MMU_NOTIFY_* */
export const notifierRange = (
  mm: MmStruct,
  start: number,
  end: number,
  event: number,
): NotifierRange => ({ mm, start, end, event, blockable: true, told: [] });

/**
 * Tells every subscriber, without a yield: for sections that yield by themselves.
 * @throws Error where one says that it would have to block: it may, this range
 */
export const notifyRangeStart = (k: Kernel, range: NotifierRange): void => {
  if (tryNotifyRangeStart(k, range) !== 0)
    throw new Error(`mm ${range.mm.id}: -EAGAIN from a notifier that may block`);
};

/**
 * The same for a range that may not block: a subscriber that would have to says so. Compare
 * mmu_notifier_invalidate_range_start_nonblock().
 * @returns 0; -EAGAIN: the range must not be touched, whoever was told of the start has been told of
 *   the end, and notifyRangeEnd must not be called
 */
export const notifyRangeStartNonblock = (k: Kernel, range: NotifierRange): number => {
  range.blockable = false;
  return tryNotifyRangeStart(k, range);
};

const tryNotifyRangeStart = (k: Kernel, range: NotifierRange): number => {
  let error = intervalStart(k, range);
  if (error !== 0) return error;
  listPush(range.mm.openRanges, range);
  // All of them, also behind one that has failed: nobody knows of the others.
  for (const subscription of range.mm.notifiers) {
    const ops = opsOf(k, subscription.ops);
    countStat(k, 'notifier_invalidations');
    const outcome = ops.invalidateRangeStart?.(subscription.owner, range) ?? 0;
    if (outcome === 0) {
      range.told.push(subscription);
      continue;
    }
    if (outcome !== -EAGAIN || ops.invalidateRangeEnd !== undefined)
      throw new Error(`notifier ${subscription.ops}: start failed with ${outcome}, and has an end`);
    error = outcome;
  }
  if (error !== 0) endRange(k, range);
  return error;
};

/** Tells whoever was told of the start, and is still there, that the change is done. */
export const notifyRangeEnd = (k: Kernel, range: NotifierRange): void => {
  if (k.checked) checkRangeEnd(k, range);
  endRange(k, range);
};

const endRange = (k: Kernel, range: NotifierRange): void => {
  listRemoveAt(range.mm.openRanges, range.mm.openRanges.indexOf(range));
  intervalEnd(range);
  for (const subscription of range.told)
    if (range.mm.notifiers.includes(subscription))
      opsOf(k, subscription.ops).invalidateRangeEnd?.(subscription.owner, range);
};

/** mmu_notifier_invalidate_range_start(): before the first entry of the range changes. */
export function* invalidateRangeStart(k: Kernel, range: NotifierRange): Path<void> {
  notifyRangeStart(k, range);
  if (k.watched) yield YP_NOTIFIER_START;
}

/** mmu_notifier_invalidate_range_end(): after the TLBs are flushed. */
export function* invalidateRangeEnd(k: Kernel, range: NotifierRange): Path<void> {
  if (k.watched) yield YP_NOTIFIER_END;
  notifyRangeEnd(k, range);
}

/**
 * Entries of [start, end) have changed and the TLBs are being flushed: hardware that walks the same
 * tables is told to forget as well. Compare mmu_notifier_arch_invalidate_secondary_tlbs().
 */
export const notifySecondaryTlbs = (k: Kernel, mm: MmStruct, start: number, end: number): void => {
  for (const { ops, owner } of mm.notifiers)
    opsOf(k, ops).archInvalidateSecondaryTlbs?.(owner, mm, start, end);
};

/** Has any subscriber used the page at `hva`? Nothing changes. Compare mmu_notifier_test_young(). */
export const mmuNotifierTestYoung = (k: Kernel, mm: MmStruct, hva: number): boolean =>
  mm.notifiers.some(({ ops, owner }) => opsOf(k, ops).testYoung?.(owner, mm, hva) ?? false);

/** Every subscriber is asked, also after one has said yes. */
const clearEach = (
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  hook: 'clearYoung' | 'clearFlushYoung',
): boolean => {
  let young = false;
  for (const { ops, owner } of mm.notifiers)
    if (opsOf(k, ops)[hook]?.(owner, mm, start, end)) young = true;
  return young;
};

/** Has any used [start, end)? From now on nobody has; TLBs may go on saying so. Compare mmu_notifier_clear_young(). */
export const mmuNotifierClearYoung = (
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
): boolean => clearEach(k, mm, start, end, 'clearYoung');

/** The same, TLBs flushed. Compare mmu_notifier_clear_flush_young(). */
export const mmuNotifierClearFlushYoung = (
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
): boolean => clearEach(k, mm, start, end, 'clearFlushYoung');

/** The address space is about to lose every page: subscribers drop all and are forgotten. */
export const mmuNotifierRelease = (k: Kernel, mm: MmStruct): void => {
  intervalRelease(k, mm);
  while (mm.notifiers.length > 0) {
    const subscription = listRemoveAt(mm.notifiers, 0);
    if (subscription !== undefined) opsOf(k, subscription.ops).release?.(subscription.owner, mm);
  }
};
