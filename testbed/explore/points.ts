/** Yield points by name, and in words: what an actor has done when it stops there. */
import {
  YP_DMA_COMPLETING,
  YP_DMA_SUBMITTED,
  YP_FAULT_ALLOCATED,
  YP_FAULT_COPIED,
  YP_FAULT_DONE,
  YP_FAULT_LOCKED,
  YP_FORK_ENTRY,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_GUP_FAST_SEQ,
  YP_GUP_LOOKED_UP,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_NOTIFIER_END,
  YP_NOTIFIER_START,
  YP_PROTECT,
  YP_SECONDARY_PFN,
  YP_WAIT,
} from '#mm';
import type { Point } from './scenario.ts';

const POINTS = new Map<Point, [name: string, words: string]>([
  [YP_WAIT, ['WAIT', 'waits until somebody lets go of a lock']],
  [YP_FAULT_LOCKED, ['FAULT_LOCKED', 'a fault has begun, mmap_lock held']],
  [YP_FAULT_ALLOCATED, ['FAULT_ALLOCATED', 'the fault has a new page, not yet mapped']],
  [YP_FAULT_COPIED, ['FAULT_COPIED', 'the fault has copied the page, not yet mapped the copy']],
  [YP_FAULT_DONE, ['FAULT_DONE', 'the fault is done']],
  [YP_NOTIFIER_START, ['NOTIFIER_START', 'every notifier knows that a change begins']],
  [YP_NOTIFIER_END, ['NOTIFIER_END', 'the change is made, and notifiers are not told yet']],
  [YP_GUP_LOOKED_UP, ['GUP_LOOKED_UP', 'slow GUP has counted the page that the entry maps']],
  [YP_GUP_FAST_SEQ, ['GUP_FAST_SEQ', 'GUP-fast has sampled the fork sequence']],
  [YP_GUP_FAST_READ, ['GUP_FAST_READ', 'GUP-fast has read the entry']],
  [YP_GUP_FAST_PINNED, ['GUP_FAST_PINNED', 'GUP-fast has counted the page']],
  [YP_GUP_FAST_DONE, ['GUP_FAST_DONE', 'GUP-fast is done with the entries']],
  [YP_MIGRATE_UNMAPPED, ['MIGRATE_UNMAPPED', 'migration has taken every mapping away']],
  [YP_MIGRATE_COPIED, ['MIGRATE_COPIED', 'migration has copied the page']],
  [YP_FORK_ENTRY, ['FORK_ENTRY', 'fork has copied the entries of a table']],
  [YP_PROTECT, ['PROTECT', 'entries are changed, TLBs not yet flushed']],
  [YP_SECONDARY_PFN, ['SECONDARY_PFN', 'a secondary fault has a frame, not yet installed']],
  [YP_DMA_SUBMITTED, ['DMA_SUBMITTED', 'the transfer is submitted']],
  [YP_DMA_COMPLETING, ['DMA_COMPLETING', 'the transfer completes']],
]);

/** The name of a yield point; a scenario's own points have none. */
export const pointName = (point: Point): string => POINTS.get(point)?.[0] ?? '';

/** What an actor has done when it stops there. */
export const pointWords = (point: Point): string =>
  POINTS.get(point)?.[1] ?? (typeof point === 'string' ? point : `yield point ${point}`);
