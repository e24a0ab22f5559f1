/**
 * get_user_pages() and pin_user_pages(), the functions that walk under mmap_lock. Compare mm/gup.c.
 *
 *                                  counts   mmap_lock                        besides
 *   getUserPages, pinUserPages     GET PIN  the caller's, never dropped      only GET marks as used
 *   ...Remote                      GET PIN  the caller's; may be dropped     marks as used; of another
 *                                           where `lock` is given            address space
 *   ...Unlocked                    GET PIN  taken and dropped here           marks as used
 *
 * Flags that are not legal are -EINVAL for GET and, as in Linux, 0 for PIN: callers treat 0 as a
 * failure. Whoever takes GET names his row of the users table (users.ts). A process pins its own
 * memory and anybody may pin another's, so the address space is an argument of all of them.
 */
import { EINVAL } from '../errno.ts';
import type { Path } from '../path.ts';
import { noteGrab, takeGupUser } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { FOLL_GET, FOLL_PIN, FOLL_REMOTE, FOLL_TOUCH, FOLL_UNLOCKABLE } from './flags.ts';
import { gupArgs, type GupLocked } from './legality.ts';
import { checkGetUser, type GupUserId } from './users.ts';
import { getUserPagesLocked, gupLongtermLocked } from './walk.ts';

/** References for whoever has checked the arguments, written down. @param all from gupArgs */
function* takeGets(
  k: Kernel,
  api: string,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  all: number,
  pages: Int32Array | null,
  lock: GupLocked,
): Path<number> {
  // Traditionally `pages` alone says that references are wanted.
  const flags = pages === null ? all : all | FOLL_GET;
  const n = yield* getUserPagesLocked(k, mm, hva, nrPages, flags, pages, lock);
  return noteGrab(k, flags, api, user, mm, hva, pages, n);
}

/** The same for pins. */
function* takePins(
  k: Kernel,
  api: string,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  all: number,
  pages: Int32Array,
  lock: GupLocked,
): Path<number> {
  const user = takeGupUser(k);
  const n = yield* gupLongtermLocked(k, mm, hva, nrPages, all, pages, lock);
  return noteGrab(k, all, api, user, mm, hva, pages, n);
}

/**
 * get_user_pages(): plain references, released by folioPut. The caller holds mmap_lock.
 * @param user row of the users table
 * @param pages filled with page numbers, in order of address; null: only faulted in
 * @returns pages taken, or -errno as getUserPagesLocked (walk.ts); -EINVAL for flags that are not legal
 * @throws Error when the policy does not give that user FOLL_GET
 */
export function* getUserPages(
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
): Path<number> {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_TOUCH, pages);
  if (all < 0) return -EINVAL;
  const lock = { locked: 1 };
  return yield* takeGets(k, 'get_user_pages', user, mm, hva, nrPages, all, pages, lock);
}

/**
 * get_user_pages_remote(): the same of another process's memory, whose mmap_lock the caller holds.
 * @param lock where it may be dropped: 1, and 0 afterwards if it was
 */
export function* getUserPagesRemote(
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
  lock: GupLocked | null,
): Path<number> {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_TOUCH | FOLL_REMOTE, pages, lock);
  if (all < 0) return -EINVAL;
  const held = lock ?? { locked: 1 };
  return yield* takeGets(k, 'get_user_pages_remote', user, mm, hva, nrPages, all, pages, held);
}

/** get_user_pages_unlocked(): the same, taking mmap_lock by itself. */
export function* getUserPagesUnlocked(
  k: Kernel,
  user: GupUserId,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array | null,
): Path<number> {
  checkGetUser(k.policy, user);
  const all = gupArgs(flags, FOLL_TOUCH | FOLL_UNLOCKABLE, pages);
  if (all < 0) return -EINVAL;
  const lock = { locked: 0 };
  return yield* takeGets(k, 'get_user_pages_unlocked', user, mm, hva, nrPages, all, pages, lock);
}

/**
 * pin_user_pages(): pins the pages of [hva, hva + nrPages * 4096). The caller holds mmap_lock.
 * @param pages filled with page numbers, in order of address; released by unpinUserPages*()
 * @returns pages pinned, or -errno as gupLongtermLocked (walk.ts); 0 for flags that are not legal
 */
export function* pinUserPages(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  const all = gupArgs(flags, FOLL_PIN, pages);
  if (all < 0) return 0;
  const lock = { locked: 1 };
  return yield* takePins(k, 'pin_user_pages', mm, hva, nrPages, all, pages, lock);
}

/**
 * pin_user_pages_remote(): the same of another process's memory, whose mmap_lock the caller holds.
 * @param lock where it may be dropped: 1, and 0 afterwards if it was
 */
export function* pinUserPagesRemote(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
  lock: GupLocked | null,
): Path<number> {
  const all = gupArgs(flags, FOLL_PIN | FOLL_TOUCH | FOLL_REMOTE, pages, lock);
  if (all < 0) return 0;
  const held = lock ?? { locked: 1 };
  return yield* takePins(k, 'pin_user_pages_remote', mm, hva, nrPages, all, pages, held);
}

/** pin_user_pages_unlocked(): the same, taking mmap_lock by itself. */
export function* pinUserPagesUnlocked(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  const all = gupArgs(flags, FOLL_PIN | FOLL_TOUCH | FOLL_UNLOCKABLE, pages);
  if (all < 0) return 0;
  const lock = { locked: 0 };
  return yield* takePins(k, 'pin_user_pages_unlocked', mm, hva, nrPages, all, pages, lock);
}
