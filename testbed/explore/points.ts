/** Yield points by name, and in words: what an actor has done when it stops there. */
import * as mm from '#mm';
import type { Point } from './scenario.ts';

const PREFIX = 'YP_';

/** The names as mm/path.ts has them, without the prefix. */
const NAMES = new Map<unknown, string>(
  Object.entries(mm)
    .filter(([name]) => name.startsWith(PREFIX))
    .map(([name, point]) => [point, name.slice(PREFIX.length)]),
);

/** What has just been done; a point without words is told by its name alone. */
const WORDS: Record<string, string> = {
  WAIT: 'waits until somebody lets go of a lock',
  FAULT_LOCKED: 'a fault has begun, mmap_lock held',
  FAULT_ALLOCATED: 'the fault has a new page, not yet mapped',
  FAULT_COPIED: 'the fault has copied the page, not yet mapped the copy',
  FAULT_DONE: 'the fault is done',
  NOTIFIER_START: 'every notifier knows that a change begins',
  NOTIFIER_END: 'the change is made, and notifiers are not told yet',
  GUP_LOOKED_UP: 'slow GUP has counted the page that the entry maps',
  GUP_FAST_SEQ: 'GUP-fast has sampled the fork sequence',
  GUP_FAST_READ: 'GUP-fast has read the entry',
  GUP_FAST_PINNED: 'GUP-fast has counted the page',
  GUP_FAST_DONE: 'GUP-fast is done with the entries',
  MIGRATE_UNMAPPED: 'migration has taken every mapping away',
  MIGRATE_COPIED: 'migration has copied the page',
  FORK_ENTRY: 'fork has copied the entries of a table',
  PROTECT: 'entries are changed, TLBs not yet flushed',
  SECONDARY_PFN: 'a secondary fault has a frame, not yet installed',
  BIO_SUBMITTED: 'a bio is in flight, its bytes have not moved',
  BIO_TRANSFERRED: 'the bytes have moved, the bio is not yet completed',
  WRITEBACK_CLEANED: 'writeback has cleaned the page and its entries',
  WRITEBACK_STARTED: 'the page is under writeback, its lock dropped',
  MKWRITE: 'the file system has promised a block, the entry is not yet writable',
  REMOTE_COPIED: 'the bytes are copied, the page not yet marked dirty',
};

/** The name of a yield point; a scenario's own points have none. */
export const pointName = (point: Point): string => NAMES.get(point) ?? '';

/** What an actor has done when it stops there. */
export const pointWords = (point: Point): string => {
  if (typeof point === 'string') return point;
  const name = pointName(point);
  return WORDS[name] ?? `stops at ${name === '' ? `yield point ${point}` : name}`;
};
