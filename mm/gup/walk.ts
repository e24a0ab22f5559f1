/**
 * The slow walk: VMA by VMA under mmap_lock, faulting in what is missing. Compare mm/gup.c,
 * __get_user_pages(), faultin_page(), __get_user_pages_locked() and __gup_longterm_locked().
 *
 *   getUserPagesLocked      takes mmap_lock if the caller has not; after a fault that dropped it, again
 *     walkPages             looks up, faults, looks up again, until the lock is dropped
 *       followPageMask      what the tables say (follow.ts)
 *       faultinPage         one fault
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import {
  EAGAIN,
  EBUSY,
  EEXIST,
  EFAULT,
  EHWPOISON,
  EINTR,
  EINVAL,
  EMLINK,
  ENOMEM,
} from '../errno.ts';
import { handleMmFault } from '../fault/fault.ts';
import {
  FAULT_FLAG_ALLOW_RETRY,
  FAULT_FLAG_INTERRUPTIBLE,
  FAULT_FLAG_KILLABLE,
  FAULT_FLAG_REMOTE,
  FAULT_FLAG_RETRY_NOWAIT,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  VM_FAULT_COMPLETED,
  VM_FAULT_RETRY,
} from '../fault/flags.ts';
import { type Path, YP_GUP_LOOKED_UP } from '../path.ts';
import { fatalSignalPending, signalPending } from '../signal.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { mmapReadLockKillable, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { VM_WRITE } from '../vma/flags.ts';
import { findVma } from '../vma/vma.ts';
import {
  FOLL_HWPOISON,
  FOLL_INTERRUPTIBLE,
  FOLL_LONGTERM,
  FOLL_MADV_POPULATE,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_PIN,
  FOLL_REMOTE,
  FOLL_TRIED,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from './flags.ts';
import { followPageMask } from './follow.ts';
import type { GupLocked } from './legality.ts';
import { allLongtermPinnable, checkAndMigrateMovable, memallocPinScope } from './longterm.ts';
import { gupFastUnpinUserPages } from './unpin.ts';
import { checkVmaFlags } from './vma-check.ts';

/** Flags of the fault that a lookup asks for. WRITE and UNSHARE exclude each other. */
const faultFlagsOf = (flags: number, unshare: boolean): number => {
  let fault = 0;
  if (unshare) fault |= FAULT_FLAG_UNSHARE;
  else if ((flags & FOLL_WRITE) !== 0) fault |= FAULT_FLAG_WRITE;
  if ((flags & FOLL_REMOTE) !== 0) fault |= FAULT_FLAG_REMOTE;
  if ((flags & FOLL_UNLOCKABLE) !== 0) {
    fault |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_KILLABLE;
    // Not every caller is prepared for an early end by a signal that it survives.
    if ((flags & FOLL_INTERRUPTIBLE) !== 0) fault |= FAULT_FLAG_INTERRUPTIBLE;
  }
  if ((flags & FOLL_NOWAIT) !== 0) fault |= FAULT_FLAG_ALLOW_RETRY | FAULT_FLAG_RETRY_NOWAIT;
  if ((flags & FOLL_TRIED) !== 0) fault |= FAULT_FLAG_TRIED;
  return fault;
};

/** @returns 0: look up again; -EBUSY, -EAGAIN: stop without an error (the lock may be gone); other -errno */
function* faultinPage(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  flags: number,
  unshare: boolean,
  lock: GupLocked,
): Path<number> {
  if ((flags & FOLL_NOFAULT) !== 0) return -EFAULT;
  const outcome = yield* handleMmFault(k, mm, hva, faultFlagsOf(flags, unshare));
  if (outcome === VM_FAULT_COMPLETED) {
    lock.locked = 0;
    return -EAGAIN;
  }
  if (outcome === VM_FAULT_RETRY) {
    if ((flags & FOLL_NOWAIT) === 0) lock.locked = 0;
    return -EBUSY;
  }
  return outcome === -EHWPOISON && (flags & FOLL_HWPOISON) === 0 ? -EFAULT : outcome;
}

/** The VMA of an address, if GUP may do this to it; else why not. */
const lookUpVma = (k: Kernel, mm: MmStruct, hva: number, flags: number): Vma | number => {
  const vma = findVma(mm, hva);
  const populate = (flags & FOLL_MADV_POPULATE) !== 0;
  if (vma === null) return populate ? -ENOMEM : -EFAULT;
  const refused = checkVmaFlags(k, vma, flags);
  if (refused === 0) return vma;
  return populate ? -EINVAL : refused;
};

/**
 * Walks until everything is there, an error comes or a fault drops mmap_lock, which is held when it
 * begins. Compare __get_user_pages().
 * @param at where in `pages` the first goes
 * @returns pages taken, however it ended; with none -errno, or 0: a fault is to be tried again
 */
function* walkPages(
  k: Kernel,
  mm: MmStruct,
  start: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  at: number,
  lock: GupLocked,
): Path<number> {
  let hva = start - (start % PAGE_SIZE);
  let vma: Vma | null = null;
  let wanted = flags;
  let n = 0;
  while (n < nrPages) {
    if (vma === null || hva >= vma.end) {
      const found = lookUpVma(k, mm, hva, flags);
      if (typeof found === 'number') return n > 0 ? n : found;
      vma = found;
    }
    // Who is about to die needs no more memory.
    if (fatalSignalPending(k)) return n > 0 ? n : -EINTR;
    let nr = followPageMask(k, vma, hva, nrPages - n, wanted, pages, at + n);
    if (nr === 0 || nr === -EMLINK) {
      const error = yield* faultinPage(k, mm, hva, wanted, nr === -EMLINK, lock);
      if (error === 0) {
        if (k.sabotage.forceDropsWrite && (vma.flags & VM_WRITE) === 0) wanted &= ~FOLL_WRITE;
        continue;
      }
      if (n > 0) return n;
      return error === -EBUSY || error === -EAGAIN ? 0 : error;
    }
    // Nobody wants the page: that there is an entry is enough.
    if (nr === -EEXIST && pages === null) nr = 1;
    if (nr < 0) return n > 0 ? n : nr;
    n += nr;
    hva += nr * PAGE_SIZE;
    wanted = flags;
    if (k.watched) yield YP_GUP_LOOKED_UP;
  }
  return n;
}

/** Does a signal end GUP before it tries again? Compare gup_signal_pending(). */
const gupSignalPending = (k: Kernel, flags: number): boolean =>
  fatalSignalPending(k) || ((flags & FOLL_INTERRUPTIBLE) !== 0 && signalPending(k));

/**
 * The one page whose fault dropped the lock, tried until it is there: the lock retaken each time.
 * @returns 1: taken, lock held; or why not, lock held or not as `lock` says
 */
function* retryPage(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  flags: number,
  pages: Int32Array | null,
  at: number,
  lock: GupLocked,
): Path<number> {
  for (;;) {
    if (gupSignalPending(k, flags)) return -EINTR;
    const killed = mmapReadTrylock(mm) ? 0 : yield* mmapReadLockKillable(k, mm);
    if (killed !== 0) return killed;
    lock.locked = 1;
    const n = yield* walkPages(k, mm, hva, 1, flags | FOLL_TRIED, pages, at, lock);
    if (lock.locked === 1) return n;
  }
}

/**
 * Takes pages; after a fault that had to drop mmap_lock it goes on with the page that caused it.
 * @param flags from gupArgs; with neither FOLL_GET nor FOLL_PIN and `pages` null only faulted in
 * @param lock 1: the caller holds mmap_lock, and learns by a 0 that it does not any more (only with
 *   FOLL_UNLOCKABLE); 0: it is taken and dropped here
 * @returns pages taken, fewer than asked where an error came later; or -errno when there is none:
 *   -EFAULT, -ENOMEM, -EHWPOISON, -EEXIST, -EREMOTEIO, -EOPNOTSUPP; -EINTR by a signal, -EAGAIN by a
 *   fatal one that came before mmap_lock. 0 only with FOLL_NOWAIT
 * @throws Error for a lock that is said to be held and is not
 */
export function* getUserPagesLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  lock: GupLocked,
): Path<number> {
  if (nrPages === 0) return 0;
  let mustUnlock = false;
  if (lock.locked === 0) {
    if (!mmapReadTrylock(mm) && (yield* mmapReadLockKillable(k, mm)) !== 0) return -EAGAIN;
    mustUnlock = true;
    lock.locked = 1;
  } else if (mm.mmapLock.readers === 0 && !mm.mmapLock.writer) {
    throw new Error(`mm ${mm.id}: GUP without mmap_lock`);
  }
  // Before the first pin, so that a fork that follows looks at the pins.
  if ((flags & FOLL_PIN) !== 0 && !mm.hasPinned) setField(mm, 'hasPinned', true);

  let done = 0;
  let outcome = 0;
  while (done < nrPages) {
    const hva = start + done * PAGE_SIZE;
    outcome = yield* walkPages(k, mm, hva, nrPages - done, flags, pages, done, lock);
    if (outcome > 0) done += outcome;
    if (lock.locked === 1) break;
    mustUnlock = true;
    outcome = yield* retryPage(k, mm, start + done * PAGE_SIZE, flags, pages, done, lock);
    if (outcome !== 1) break;
    done++;
  }
  if (mustUnlock && lock.locked === 1) {
    mmapReadUnlock(mm);
    lock.locked = 0;
  }
  return done > 0 ? done : outcome;
}

/**
 * The same for pins that may last for ever: all pages have to be where they may stay. Those that are
 * not move there first (longterm.ts); if one cannot, nothing stays pinned.
 * @returns as getUserPagesLocked; -ENOMEM: a page does not move, because somebody holds it, or there
 *   is no memory that it may move to; -EBUSY: memory of a device does not
 */
export function* gupLongtermLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
  lock: GupLocked,
): Path<number> {
  if ((flags & FOLL_LONGTERM) === 0)
    return yield* getUserPagesLocked(k, mm, start, nrPages, flags, pages, lock);
  return yield* memallocPinScope(k, pinLongterm(k, mm, start, nrPages, flags, pages, lock));
}

function* pinLongterm(
  k: Kernel,
  mm: MmStruct,
  start: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
  lock: GupLocked,
): Path<number> {
  for (;;) {
    const n = yield* getUserPagesLocked(k, mm, start, nrPages, flags, pages, lock);
    if (n <= 0 || allLongtermPinnable(k, pages, n)) return n;
    const moved = yield* checkAndMigrateMovable(k, pages, n, gupFastUnpinUserPages);
    if (moved !== -EAGAIN) return moved;
  }
}
