/**
 * The unpin_user_page() family: pins taken by pinUserPages*() are given back here and nowhere else.
 * Compare mm/gup.c.
 *
 * `pages` holds page numbers; an entry of -1 is skipped, as NULL is in Linux. Neighbours in the list
 * that belong to one folio are given back at once.
 */
import { readOnce } from '#cells';
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_HUGETLB } from '../frames/table.ts';
import {
  folioLock,
  folioMarkDirty,
  folioNrPages,
  folioOf,
  folioTestDirty,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { dropPins, isZeroFolio } from '../folio/pin.ts';
import type { Path } from '../path.ts';
import {
  dropFor,
  noteRelease,
  noteReleasePage,
  noteReleaseRange,
  takeGupUser,
} from '../provenance/provenance.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';

/** A sabotage test has taken away the very rule that keeps pinned pages exclusive. */
const pinsMayBeShared = (k: Kernel): boolean => {
  const { forkSharesPinned, migratePinned, neverUnshare } = k.sabotage;
  return forkSharesPinned || migratePinned || neverUnshare;
};

/**
 * Once an anonymous page is pinned it stays exclusive until it is freed. Of a large folio nobody
 * knows how it was mapped when it was pinned: the page or the head carries the flag.
 * @throws Error where `k.checked` and the page has become shared
 */
export const sanityCheckPinnedPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  if (!k.checked || pinsMayBeShared(k)) return;
  for (let i = 0; i < nrPages; i++) if (pages[i]! >= 0) checkPinnedPage(k, pages[i]!);
};

const checkPinnedPage = (k: Kernel, page: number): void => {
  const folio = folioOf(k, page);
  const word = readOnce(k.state.frames.flags, folio);
  if ((word & PG_ANON) === 0 || (word & PG_ANON_EXCLUSIVE) !== 0) return;
  if ((word & PG_HUGETLB) === 0 && folioTestFlags(k, page, PG_ANON_EXCLUSIVE)) return;
  throw new Error(`page ${page} is pinned, anonymous and not exclusive`);
};

/** End of the run of pages of one folio that begins at pages[i]. Compare gup_folio_next(). */
export const endOfRun = (
  k: Kernel,
  pages: Int32Array,
  i: number,
  nrPages: number,
  folio: number,
): number => {
  const nr = folioTestLarge(k, folio) ? folioNrPages(k, folio) : 1;
  let end = i + 1;
  // Unsigned: a page below the folio is not in it either. Folios have 1 << order pages, so that
  // eight of these differences are below that exactly where all their bits together are.
  for (; end + 8 <= nrPages; end += 8) {
    const bits =
      (pages[end + 7]! - folio) |
      (pages[end]! - folio) |
      (pages[end + 1]! - folio) |
      (pages[end + 2]! - folio) |
      (pages[end + 3]! - folio) |
      (pages[end + 4]! - folio) |
      (pages[end + 5]! - folio) |
      (pages[end + 6]! - folio);
    if (bits >>> 0 >= nr) break;
  }
  while (end < nrPages && (pages[end]! - folio) >>> 0 < nr) end++;
  return end;
};

/** Drops one pin of each of pages[0 .. nrPages), without looking at them. After a race with fork. */
export const gupFastUnpinUserPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  let released = 0;
  for (let i = 0; i < nrPages; ) {
    const page = pages[i]!;
    if (page < 0) {
      i++;
      continue;
    }
    const folio = folioOf(k, page);
    const end = endOfRun(k, pages, i, nrPages, folio);
    if (!isZeroFolio(k, folio)) {
      dropPins(k, folio, end - i);
      released += end - i;
    }
    i = end;
  }
  if (released > 0) countStat(k, 'nr_foll_pin_released', released);
};

/** Drops one pin of each of pages[0 .. nrPages). */
export const unpinUserPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  sanityCheckPinnedPages(k, pages, nrPages);
  noteRelease(k, 'pin', pages, nrPages);
  gupFastUnpinUserPages(k, pages, nrPages);
  dropFor(k, '');
};

/** Drops and counts `n` pins of one folio. */
const dropFolioPins = (k: Kernel, folio: number, n: number): void => {
  if (isZeroFolio(k, folio)) return;
  dropPins(k, folio, n);
  countStat(k, 'nr_foll_pin_released', n);
};

/** Drops `n` pins of one folio, whichever its pages. Compare unpin_user_folio(), unpin_folio(). */
export const unpinUserFolio = (k: Kernel, folio: number, n: number): void => {
  noteReleasePage(k, 'pin', folio, n);
  dropFolioPins(k, folio, n);
  dropFor(k, '');
};

/** Drops one pin of one page. */
export const unpinUserPage = (k: Kernel, page: number): void => {
  if (k.checked && !pinsMayBeShared(k)) checkPinnedPage(k, page);
  noteReleasePage(k, 'pin', page, 1);
  dropFolioPins(k, folioOf(k, page), 1);
  dropFor(k, '');
};

/** Drops the one pin of a folio that memfdPinFolios took. */
export const unpinFolio = (k: Kernel, folio: number): void => unpinUserFolio(k, folio, 1);

/** Drops one pin of each of folios[0 .. nrFolios); entries of -1 are skipped. */
export const unpinFolios = (k: Kernel, folios: Int32Array, nrFolios: number): void => {
  for (let i = 0; i < nrFolios; i++) if (folios[i]! >= 0) unpinFolio(k, folios[i]!);
};

/** Marks a folio dirty that is not, under its lock. Compare folio_mark_dirty_lock(). */
function* markDirtyLocked(k: Kernel, folio: number): Path<void> {
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  folioMarkDirty(k, folio);
  folioUnlock(k, folio);
}

/**
 * Drops one pin of each page, marking each folio dirty first if `makeDirty`: before the unpin,
 * because afterwards nothing keeps the folio from being cleaned and reclaimed. Waits for folio locks.
 *
 * That a clean folio is looked for before the lock is taken races with writeback, and harmlessly:
 * found dirty, it is about to be written with these bytes; found clean, it is written once more.
 */
export function* unpinUserPagesDirtyLock(
  k: Kernel,
  pages: Int32Array,
  nrPages: number,
  makeDirty: boolean,
): Path<void> {
  if (!makeDirty) {
    unpinUserPages(k, pages, nrPages);
    return;
  }
  sanityCheckPinnedPages(k, pages, nrPages);
  // Whoever goes on while this waits may name somebody else.
  const user = takeGupUser(k);
  for (let i = 0; i < nrPages; ) {
    const page = pages[i]!;
    if (page < 0) {
      i++;
      continue;
    }
    const folio = folioOf(k, page);
    const end = endOfRun(k, pages, i, nrPages, folio);
    if (!folioTestDirty(k, folio)) yield* markDirtyLocked(k, folio);
    if (k.state.provenance !== null) noteRelease(k, 'pin', pages.subarray(i, end), end - i, user);
    dropFolioPins(k, folio, end - i);
    dropFor(k, '');
    i = end;
  }
}

/** The same for the contiguous pages [page, page + nrPages). */
export function* unpinUserPageRangeDirtyLock(
  k: Kernel,
  page: number,
  nrPages: number,
  makeDirty: boolean,
): Path<void> {
  const user = takeGupUser(k);
  for (let at = page; at < page + nrPages; ) {
    const folio = folioOf(k, at);
    const end = Math.min(page + nrPages, folio + folioNrPages(k, folio));
    if (makeDirty && !folioTestDirty(k, folio)) yield* markDirtyLocked(k, folio);
    noteReleaseRange(k, 'pin', at, end - at, user);
    dropFolioPins(k, folio, end - at);
    dropFor(k, '');
    at = end;
  }
}
