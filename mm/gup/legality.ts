/**
 * Which arguments GUP accepts: compare mm/gup.c, is_valid_gup_args() and gup_fast_fallback().
 *
 * Linux warns once and returns an error; here only the error. Which error is the entry point's: the
 * slow functions that pin return 0, all others -EINVAL (slow.ts, fast.ts).
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL, EOVERFLOW } from '../errno.ts';
import { taskSize } from '../pgtable/walk.ts';
import type { Kernel } from '../types.ts';
import {
  FOLL_FAST_ALLOWED,
  FOLL_GET,
  FOLL_INTERNAL,
  FOLL_LONGTERM,
  FOLL_PCI_P2PDMA,
  FOLL_PIN,
  FOLL_UNLOCKABLE,
} from './flags.ts';

/**
 * The argument `locked`: by it a caller that holds mmap_lock for reading lets GUP drop it, and
 * learns whether it did. 1 = held, as at the beginning; 0 = dropped.
 */
export interface GupLocked {
  locked: number;
}

/**
 * Flags as the walk needs them, or -EINVAL.
 * @param flags as the caller gave them
 * @param toSet what the entry point adds: FOLL_GET or FOLL_PIN, FOLL_TOUCH, ...
 * @param lock null where the entry point has no such argument, or the caller gave none
 */
export const gupArgs = (
  flags: number,
  toSet: number,
  pages: Int32Array | null,
  lock: GupLocked | null = null,
): number => {
  if ((flags & FOLL_INTERNAL) !== 0) return -EINVAL;
  if (lock !== null && lock.locked !== 1) return -EINVAL;
  const all = flags | toSet | (lock === null ? 0 : FOLL_UNLOCKABLE);
  if ((all & FOLL_GET) !== 0 && (all & FOLL_PIN) !== 0) return -EINVAL;
  if ((all & FOLL_LONGTERM) !== 0 && (all & FOLL_PIN) === 0) return -EINVAL;
  if ((all & (FOLL_GET | FOLL_PIN)) !== 0 && pages === null) return -EINVAL;
  if ((all & FOLL_LONGTERM) !== 0 && (all & FOLL_PCI_P2PDMA) !== 0) return -EINVAL;
  return all;
};

/**
 * The checks that only the fast entry makes. @param flags from gupArgs
 * @returns 0, -EINVAL, -EOVERFLOW or -EFAULT
 */
export const gupFastRange = (k: Kernel, flags: number, hva: number, nrPages: number): number => {
  if ((flags & ~FOLL_FAST_ALLOWED) !== 0) return -EINVAL;
  const end = hva + nrPages * PAGE_SIZE;
  if (end >= 2 ** 64) return -EOVERFLOW;
  return end > taskSize(k) ? -EFAULT : 0;
};
