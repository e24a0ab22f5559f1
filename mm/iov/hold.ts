/**
 * Pages of an iterator for a user that moves bytes into them or out of them, by the API that its row
 * of the users table has: FOLL_PIN by iov_iter_extract_pages(), FOLL_GET by iov_iter_get_pages2().
 * And what all of them do afterwards: mark the folios dirty, and let go.
 */
import {
  folioLock,
  folioMarkDirty,
  folioOf,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { unpinUserPages } from '../gup/unpin.ts';
import type { GupUserId } from '../gup/users.ts';
import type { Path } from '../path.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import {
  type ExtractedPages,
  iovIterExtractPages,
  iovIterExtractWillPin,
  iovIterGetPages2,
  iovIterPutPages,
} from './extract.ts';
import type { IovIter } from './iter.ts';

/** By what pages are held: a plain reference, a pin, or by somebody else. */
export type PageHold = 'get' | 'pin' | 'none';

/** What of an iterator's pages has to be given back how: of all that one call takes. */
export const iovHoldOf = (k: Kernel, user: GupUserId, it: IovIter): PageHold =>
  k.policy.apis[user] === 'get' ? 'get' : iovIterExtractWillPin(it) ? 'pin' : 'none';

/**
 * The next bytes of the iterator, held as iovHoldOf() says. @returns as iovIterExtractPages
 * @throws Error where the policy lets the user neither pin nor take references
 */
export const iovHoldPages = (
  k: Kernel,
  user: GupUserId,
  mm: MmStruct | null,
  it: IovIter,
  maxBytes: number,
  maxPages: number,
): Path<ExtractedPages | number> => {
  if (k.policy.apis[user] !== 'pin') return iovIterGetPages2(k, user, mm, it, maxBytes, maxPages);
  nameGupUser(k, user);
  return iovIterExtractPages(k, mm, it, maxBytes, maxPages, 0);
};

/** Lets go of pages[0 .. nrPages). */
export const iovReleasePages = (
  k: Kernel,
  user: GupUserId,
  hold: PageHold,
  pages: Int32Array,
  nrPages: number,
): void => {
  if (hold === 'get') {
    iovIterPutPages(k, user, pages, nrPages);
  } else if (hold === 'pin') {
    nameGupUser(k, user);
    unpinUserPages(k, pages, nrPages);
  }
};

/**
 * Marks the folios of pages[0 .. nrPages) dirty, each under its lock; those that are already are left
 * alone. Compare folio_mark_dirty_lock().
 */
export function* markPagesDirtyLock(k: Kernel, pages: Int32Array, nrPages: number): Path<void> {
  for (let i = 0; i < nrPages; i++) {
    const folio = folioOf(k, pages[i]!);
    if (folioTestDirty(k, folio)) continue;
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    folioMarkDirty(k, folio);
    folioUnlock(k, folio);
  }
}
