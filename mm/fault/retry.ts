/**
 * How a fault waits: with mmap_lock dropped where it may, and no longer than signals let it.
 * Compare mm/filemap.c:__folio_lock_or_retry(), include/linux/mm.h:fault_flag_allow_retry_first().
 *
 *   ALLOW_RETRY, first try     drops the lock, waits, VM_FAULT_RETRY
 *     and RETRY_NOWAIT         keeps the lock, does not wait, VM_FAULT_RETRY
 *   later tries (TRIED)        waits with the lock held; killed: drops it, VM_FAULT_RETRY
 *   without ALLOW_RETRY        waits with the lock held, whatever comes
 */
import { folioTestFlags, folioTrylock } from '../folio/folio.ts';
import { PG_LOCKED } from '../frames/table.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { fatalSignalPending, signalPending } from '../signal.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapReadUnlock } from '../vma/lock.ts';
import {
  FAULT_FLAG_ALLOW_RETRY,
  FAULT_FLAG_INTERRUPTIBLE,
  FAULT_FLAG_KILLABLE,
  FAULT_FLAG_RETRY_NOWAIT,
  FAULT_FLAG_TRIED,
  VM_FAULT_RETRY,
} from './flags.ts';

/** May this fault ask to be tried again, for the first time? */
export const faultAllowsRetryFirst = (flags: number): boolean =>
  (flags & (FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_TRIED)) === FAULT_FLAG_ALLOW_RETRY;

/** Does a signal end a wait in this fault? Compare fault_signal_pending(). */
export const faultSignalPending = (k: Kernel, flags: number): boolean =>
  ((flags & FAULT_FLAG_KILLABLE) !== 0 && fatalSignalPending(k)) ||
  ((flags & FAULT_FLAG_INTERRUPTIBLE) !== 0 && signalPending(k));

/**
 * Waits in a fault of `mm` until `over()`.
 * @param over looks at what is waited for, without the lock: it may be gone, and then it is over
 * @returns 0: over, the lock held all the time; VM_FAULT_RETRY: dropped (or NOWAIT), look again
 */
export function* faultWait(
  k: Kernel,
  mm: MmStruct,
  flags: number,
  over: () => boolean,
): Path<number> {
  if (over()) return 0;
  if (faultAllowsRetryFirst(flags)) {
    if ((flags & FAULT_FLAG_RETRY_NOWAIT) !== 0) return VM_FAULT_RETRY;
    mmapReadUnlock(mm);
    while (!over() && !faultSignalPending(k, flags)) yield YP_WAIT;
    return VM_FAULT_RETRY;
  }
  while (!over()) {
    if ((flags & FAULT_FLAG_KILLABLE) !== 0 && fatalSignalPending(k)) {
      mmapReadUnlock(mm);
      return VM_FAULT_RETRY;
    }
    yield YP_WAIT;
  }
  return 0;
}

/**
 * Takes a folio's lock in a fault of `mm`. The caller has a reference.
 * @returns 0: locked; VM_FAULT_RETRY: not locked, and to be tried again as faultWait says
 */
export function* folioLockOrRetry(
  k: Kernel,
  mm: MmStruct,
  folio: number,
  flags: number,
): Path<number> {
  while (!folioTrylock(k, folio)) {
    const outcome = yield* faultWait(k, mm, flags, () => !folioTestFlags(k, folio, PG_LOCKED));
    if (outcome !== 0) return outcome;
  }
  return 0;
}
