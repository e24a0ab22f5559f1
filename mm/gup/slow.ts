/**
 * Slow GUP: get_user_pages() and pin_user_pages() under the mmap lock, faulting in what is missing.
 * Compare mm/gup.c, __get_user_pages() and follow_page_pte().
 *
 * Every entry point takes the mmap lock for reading by itself and keeps it: what Linux calls the
 * *_unlocked() variants.
 */
import { PAGE_SIZE } from '#emu';
import { readOnce, setField } from '#cells';
import { EEXIST, EFAULT, EHWPOISON, EINVAL, EMLINK } from '../errno.ts';
import {
  FAULT_FLAG_REMOTE,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  handleMmFault,
} from '../fault/fault.ts';
import { type Path, YP_GUP_LOOKED_UP } from '../path.ts';
import { pteNone, ptePresent } from '../pgtable/pte.ts';
import { walkPte } from '../pgtable/walk.ts';
import { noteGrab, takeGupUser } from '../provenance/provenance.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import {
  isCowMapping,
  VM_IO,
  VM_MAYREAD,
  VM_PFNMAP,
  VM_READ,
  VM_WRITE,
  vmaIsAnonymous,
} from '../vma/flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import {
  FOLL_ANON,
  FOLL_FORCE,
  FOLL_GET,
  FOLL_HWPOISON,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_PIN,
  FOLL_REMOTE,
  FOLL_TOUCH,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from './flags.ts';
import { followPageMask } from './follow.ts';
import { gupArgs } from './legality.ts';
import { checkGetUser, type GupUserId } from './users.ts';

/** Does the VMA allow this access at all? @returns 0 or -EFAULT. Compare check_vma_flags(). */
const checkVmaFlags = (vma: Vma, flags: number): number => {
  if ((vma.flags & (VM_IO | VM_PFNMAP)) !== 0) return -EFAULT;
  if ((flags & FOLL_ANON) !== 0 && !vmaIsAnonymous(vma)) return -EFAULT;
  const force = (flags & FOLL_FORCE) !== 0;
  if ((flags & FOLL_WRITE) !== 0) {
    if ((vma.flags & VM_WRITE) === 0 && !(force && isCowMapping(vma.flags))) return -EFAULT;
  } else if ((vma.flags & VM_READ) === 0) {
    if (!(force && (vma.flags & VM_MAYREAD) !== 0)) return -EFAULT;
  }
  return 0;
};

/** True where a fault at `hva` would have to wait for somebody: a migration is under way. */
const faultWouldWait = (k: Kernel, mm: MmStruct, hva: number): boolean => {
  const word = walkPte(k, mm, hva, false);
  if (word <= 0) return false;
  const pte = readOnce(k.memory.i32, word);
  return !pteNone(pte) && !ptePresent(pte);
};

const faultFlags = (flags: number, unshare: boolean): number => {
  let fault = (flags & FOLL_REMOTE) !== 0 ? FAULT_FLAG_REMOTE : 0;
  if (unshare) fault |= FAULT_FLAG_UNSHARE;
  else if ((flags & FOLL_WRITE) !== 0) fault |= FAULT_FLAG_WRITE;
  return fault;
};

/**
 * The walk itself, with the mmap lock held for reading and kept.
 * @param flags from gupArgs; with neither FOLL_GET nor FOLL_PIN the pages are only looked up
 * @returns pages taken, fewer than asked where an error came later; or -errno when there is none
 */
export function* getUserPagesLocked(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
): Path<number> {
  let at = hva - (hva % PAGE_SIZE);
  let n = 0;
  let vma: Vma | null = null;
  while (n < nrPages) {
    if (vma === null || at >= vma.end) {
      vma = findVma(mm, at);
      const refused = vma === null ? -EFAULT : checkVmaFlags(vma, flags);
      if (refused !== 0 || vma === null) return n > 0 ? n : refused;
    }
    const found = followPageMask(k, vma, at, nrPages - n, flags, pages, n);
    if (found > 0) {
      n += found;
      at += found * PAGE_SIZE;
      if (k.watched) yield YP_GUP_LOOKED_UP;
      continue;
    }
    if (found === -EEXIST && pages === null) {
      // Nobody wants the page: that there is an entry is enough.
      n++;
      at += PAGE_SIZE;
      continue;
    }
    if (found !== 0 && found !== -EMLINK) return n > 0 ? n : found;
    if ((flags & FOLL_NOFAULT) !== 0) return n > 0 ? n : -EFAULT;
    if ((flags & FOLL_NOWAIT) !== 0 && faultWouldWait(k, mm, at)) return n;
    const error = yield* handleMmFault(k, mm, at, faultFlags(flags, found === -EMLINK));
    if (error < 0) {
      if (n > 0) return n;
      return error === -EHWPOISON && (flags & FOLL_HWPOISON) === 0 ? -EFAULT : error;
    }
  }
  return n;
}

/** The same, taking the mmap lock and letting go of it. */
export function* getUserPagesUnlocked(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
): Path<number> {
  if (nrPages === 0) return 0;
  // Before the first pin, so that a fork that follows looks at the pins.
  if ((flags & FOLL_PIN) !== 0 && !mm.hasPinned) setField(mm, 'hasPinned', true);
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const n = yield* getUserPagesLocked(k, mm, hva, nrPages, flags, pages);
  mmapReadUnlock(mm);
  return n;
}

/**
 * pin_user_pages(), as pin_user_pages_unlocked() takes the lock: pins the pages of
 * [hva, hva + nrPages * 4096).
 * @param pages filled with page numbers, in order of address; released by unpinUserPages*()
 * @returns pages pinned, possibly fewer than asked for; -errno when there is none: -EFAULT, -ENOMEM,
 *   -EHWPOISON. As in Linux 0, not -EINVAL, for flags that are not legal.
 */
export function* pinUserPages(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  const all = gupArgs(flags, FOLL_PIN | FOLL_UNLOCKABLE, pages);
  if (all < 0) return 0;
  const user = takeGupUser(k);
  const n = yield* getUserPagesUnlocked(k, mm, hva, nrPages, all, pages);
  return noteGrab(k, all, 'pin_user_pages_unlocked', user, mm, hva, pages, n);
}

/**
 * get_user_pages_unlocked(): plain references, released by folioPut.
 * @param user row of the users table (users.ts)
 * @returns as pinUserPages, and -EINVAL for flags that are not legal
 * @throws Error when the policy does not give that user FOLL_GET
 */
export function* getUserPages(
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_GET | FOLL_TOUCH | FOLL_UNLOCKABLE, pages);
  if (all < 0) return -EINVAL;
  const n = yield* getUserPagesUnlocked(k, mm, hva, nrPages, all, pages);
  return noteGrab(k, all, 'get_user_pages_unlocked', user, mm, hva, pages, n);
}
