/**
 * Which arguments GUP accepts: compare mm/gup.c, is_valid_gup_args() and gup_fast_fallback().
 *
 * Linux warns once and returns an error; here only the error. `locked`, the argument by which a
 * caller in Linux says that it holds the mmap lock, does not exist: every entry takes the lock itself.
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
} from './flags.ts';

/**
 * Flags as the walk needs them, or -EINVAL.
 * @param flags as the caller gave them
 * @param toSet what the entry point adds: FOLL_GET or FOLL_PIN, FOLL_TOUCH, ...
 */
export const gupArgs = (flags: number, toSet: number, pages: Int32Array | null): number => {
  if ((flags & FOLL_INTERNAL) !== 0) return -EINVAL;
  const all = flags | toSet;
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
