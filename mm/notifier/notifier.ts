/**
 * MMU notifiers: who else holds translations of an address space, and how they are told.
 * Compare mm/mmu_notifier.c.
 *
 * `start` is called before entries change, `end` after the TLBs are flushed; between the two no
 * subscriber may create an entry for the range. Subscribers are plain functions found by name, so
 * that subscriptions can be saved. Ranges that must not block and interval notifiers are not there yet.
 */
import { listPush, listRemoveAt } from '#cells';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct, NotifierOps, NotifierRange } from '../types.ts';

const opsOf = (k: Kernel, name: string): NotifierOps => {
  const ops = k.notifierOps.get(name);
  if (ops === undefined) throw new Error(`no notifier operations are named ${name}`);
  return ops;
};

/**
 * Subscribes `owner` (the subscriber's own number) to an address space.
 * @param ops name under which the operations stand in k.notifierOps
 * @throws Error for an unknown name or a second subscription of the same owner
 */
export const mmuNotifierRegister = (k: Kernel, mm: MmStruct, ops: string, owner: number): void => {
  opsOf(k, ops);
  if (mm.notifiers.some((s) => s.ops === ops && s.owner === owner))
    throw new Error(`mm ${mm.id}: ${ops} ${owner} is subscribed already`);
  listPush(mm.notifiers, { ops, owner });
};

/** Ends a subscription; one that is not there is no error. */
export const mmuNotifierUnregister = (mm: MmStruct, ops: string, owner: number): void => {
  const i = mm.notifiers.findIndex((s) => s.ops === ops && s.owner === owner);
  if (i >= 0) listRemoveAt(mm.notifiers, i);
};

/** True where somebody is to be told: a range need not be built otherwise. */
export const mmHasNotifiers = (mm: MmStruct): boolean => mm.notifiers.length > 0;

/** A range of `mm` that is about to change. */
export const notifierRange = (
  mm: MmStruct,
  start: number,
  end: number,
  event: number,
): NotifierRange => ({ mm, start, end, event, blockable: true, told: [] });

/** Tells every subscriber, without a yield: for sections that yield by themselves. */
export const notifyRangeStart = (k: Kernel, range: NotifierRange): void => {
  for (const subscription of range.mm.notifiers) {
    countStat(k, 'notifier_invalidations');
    range.told.push(subscription);
    opsOf(k, subscription.ops).invalidateRangeStart(subscription.owner, range);
  }
};

/** Tells whoever was told of the start, and is still there, that the change is done. */
export const notifyRangeEnd = (k: Kernel, range: NotifierRange): void => {
  for (const subscription of range.told)
    if (range.mm.notifiers.includes(subscription))
      opsOf(k, subscription.ops).invalidateRangeEnd(subscription.owner, range);
};

/** mmu_notifier_invalidate_range_start(): before the first entry of the range changes. */
export function* invalidateRangeStart(k: Kernel, range: NotifierRange): Path<void> {
  if (range.mm.notifiers.length === 0) return;
  notifyRangeStart(k, range);
  if (k.watched) yield YP_NOTIFIER_START;
}

/** mmu_notifier_invalidate_range_end(): after the TLBs are flushed. */
export function* invalidateRangeEnd(k: Kernel, range: NotifierRange): Path<void> {
  if (range.told.length === 0) return;
  if (k.watched) yield YP_NOTIFIER_END;
  notifyRangeEnd(k, range);
}

/** The address space is about to lose every page: subscribers drop all and are forgotten. */
export const mmuNotifierRelease = (k: Kernel, mm: MmStruct): void => {
  while (mm.notifiers.length > 0) {
    const subscription = listRemoveAt(mm.notifiers, 0);
    if (subscription !== undefined) opsOf(k, subscription.ops).release(subscription.owner, mm);
  }
};
