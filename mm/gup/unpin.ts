/**
 * The unpin_user_page() family: pins taken by pinUserPages*() are given back here and nowhere else.
 * Compare mm/gup.c. `pages` holds page numbers; an entry of -1 is skipped, as NULL is in Linux.
 */
import { readOnce } from '#cells';
import { PG_ANON, PG_ANON_EXCLUSIVE } from '../frames/table.ts';
import {
  folioLock,
  folioMarkDirty,
  folioOf,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { dropPins } from '../folio/pin.ts';
import type { Path } from '../path.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';

/**
 * Once an anonymous page is pinned it stays exclusive until it is freed. Not looked at where a
 * sabotage test has taken away the very rule that makes it so.
 * @throws Error where `k.checked` and the page has become shared
 */
export const sanityCheckPinnedPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  if (!k.checked || k.sabotage.forkSharesPinned || k.sabotage.migratePinned) return;
  const { flags } = k.state.frames;
  for (let i = 0; i < nrPages; i++) {
    const page = pages[i]!;
    if (page < 0 || page === k.state.zeroPage) continue;
    if ((readOnce(flags, page) & (PG_ANON | PG_ANON_EXCLUSIVE)) === PG_ANON)
      throw new Error(`page ${page} is pinned, anonymous and not exclusive`);
  }
};

/** Drops one pin of one page. */
export const unpinUserPage = (k: Kernel, page: number): void => {
  if (page === k.state.zeroPage) return;
  dropPins(k, folioOf(k, page), 1);
  countStat(k, 'nr_foll_pin_released');
};

/** Drops one pin of each of pages[0 .. nrPages), without looking at them. After a race with fork. */
export const gupFastUnpinUserPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  let released = 0;
  for (let i = 0; i < nrPages; i++) {
    const page = pages[i]!;
    if (page < 0 || page === k.state.zeroPage) continue;
    dropPins(k, folioOf(k, page), 1);
    released++;
  }
  if (released > 0) countStat(k, 'nr_foll_pin_released', released);
};

/** Drops one pin of each of pages[0 .. nrPages). */
export const unpinUserPages = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  sanityCheckPinnedPages(k, pages, nrPages);
  gupFastUnpinUserPages(k, pages, nrPages);
};

/**
 * The same, marking each folio dirty first if `makeDirty`: before the unpin, because afterwards
 * nothing keeps the folio from being cleaned and reclaimed. Waits for folio locks.
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
  sanityCheckPinnedPages(k, pages, nrPages);
  if (makeDirty) {
    for (let i = 0; i < nrPages; i++) {
      const page = pages[i]!;
      if (page < 0) continue;
      const folio = folioOf(k, page);
      if (folioTestDirty(k, folio)) continue;
      if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
      folioMarkDirty(k, folio);
      folioUnlock(k, folio);
    }
  }
  gupFastUnpinUserPages(k, pages, nrPages);
}
