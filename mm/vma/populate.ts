/**
 * Faulting memory in beforehand: MADV_POPULATE_READ and _WRITE, MAP_POPULATE, mlock(). Compare
 * mm/gup.c:populate_vma_page_range(), faultin_page_range(), __mm_populate().
 *
 * It is GUP's slow walk that takes neither references nor pins.
 */
import { PAGE_SIZE } from '#emu';
import {
  FOLL_FORCE,
  FOLL_HWPOISON,
  FOLL_MADV_POPULATE,
  FOLL_TOUCH,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from '../gup/flags.ts';
import { getUserPagesLocked } from '../gup/walk.ts';
import type { Path } from '../path.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_ACCESS_FLAGS, VM_IO, VM_PFNMAP, VM_SHARED, VM_WRITE } from './flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './lock.ts';
import { vmaIndexAbove } from './vma.ts';

/** Pages of one call of the walk: between two calls a writer may have the lock. */
const BATCH_PAGES = 512;

/**
 * MADV_POPULATE_READ, MADV_POPULATE_WRITE: after it no access of that kind to [start, end) faults,
 * as long as nobody takes the pages away again. Takes mmap_lock. The walk knows the errors by
 * FOLL_MADV_POPULATE.
 * @returns 0; -ENOMEM where nothing is mapped, or without memory; -EINVAL where the VMA does not
 *   allow the access; -EFAULT where a fault is SIGBUS; -EHWPOISON; -EINTR: killed
 */
export function* madvisePopulate(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  write: boolean,
): Path<number> {
  const flags =
    FOLL_TOUCH | FOLL_HWPOISON | FOLL_UNLOCKABLE | FOLL_MADV_POPULATE | (write ? FOLL_WRITE : 0);
  for (let at = start; at < end; ) {
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    const lock = { locked: 1 };
    const n = Math.min(BATCH_PAGES, (end - at) / PAGE_SIZE);
    const done = yield* getUserPagesLocked(k, mm, at, n, flags, null, lock);
    if (lock.locked === 1) mmapReadUnlock(mm);
    if (done < 0) return done;
    at += done * PAGE_SIZE;
  }
  return 0;
}

/** What populate_vma_page_range() asks the walk for: a private writable mapping gets its copies now. */
const populateFlags = (vma: Vma): number => {
  let flags = FOLL_TOUCH | FOLL_UNLOCKABLE;
  if ((vma.flags & (VM_WRITE | VM_SHARED)) === VM_WRITE) flags |= FOLL_WRITE;
  // Also what may not be read is made present, as long as it may be used at all.
  if ((vma.flags & VM_ACCESS_FLAGS) !== 0) flags |= FOLL_FORCE;
  return flags;
};

/**
 * Faults a VMA's [start, end) in with mmap_lock held, also for writing, and kept; errors are ignored.
 * Compare populate_vma_page_range() without `locked`.
 */
export function* populateLocked(k: Kernel, vma: Vma, start: number, end: number): Path<void> {
  const flags = populateFlags(vma) & ~FOLL_UNLOCKABLE;
  const n = (end - start) / PAGE_SIZE;
  yield* getUserPagesLocked(k, vma.mm, start, n, flags, null, { locked: 1 });
}

/**
 * Faults [start, end) in, as far as it is mapped: MAP_POPULATE, and what mlock() ends with. Takes
 * mmap_lock. Compare __mm_populate().
 * @param ignoreErrors go on behind a VMA that has failed
 * @returns 0, or the first error that was not ignored: -EFAULT, -ENOMEM, -EHWPOISON
 */
export function* mmPopulate(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  ignoreErrors: boolean,
): Path<number> {
  for (let at = start; at < end; ) {
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    const lock = { locked: 1 };
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) {
      mmapReadUnlock(mm);
      return 0;
    }
    at = Math.max(at, vma.start);
    const stop = Math.min(end, vma.end);
    let done = (stop - at) / PAGE_SIZE;
    if ((vma.flags & (VM_IO | VM_PFNMAP)) === 0) {
      const n = Math.min(BATCH_PAGES, done);
      done = yield* getUserPagesLocked(k, mm, at, n, populateFlags(vma), null, lock);
    }
    if (lock.locked === 1) mmapReadUnlock(mm);
    if (done >= 0) at += done * PAGE_SIZE;
    else if (ignoreErrors) at = stop;
    else return done;
  }
  return 0;
}
