/**
 * Large folios: making them, and the counts that small ones do not have. Compare mm/internal.h,
 * prep_compound_page(), and include/linux/mm.h, folio_entire_mapcount(), folio_large_mapcount().
 *
 *   head      PG_HEAD, order in `private`, all references, pins in `pincount`
 *   tails     PG_TAIL, the folio in `head`; each page counts in `mapcount` the last-level entries that map it
 *   tail one  besides: entire mapcount in `index` (entries of a directory that map the whole folio) and
 *             large mapcount in `pincount` (entries of both kinds), as Linux overlays its second page
 */
import { atomicAdd, fetchAndNot, fetchOr, readOnce, writeOnce } from '#cells';
import { allocPages } from '../frames/buddy.ts';
import { PG_HEAD, PG_TAIL } from '../frames/table.ts';
import type { Kernel } from '../types.ts';

export const folioTestLarge = (k: Kernel, folio: number): boolean =>
  (readOnce(k.state.frames.flags, folio) & PG_HEAD) !== 0;

/** Makes 1 << order fresh pages one folio. The head has its reference already. */
export const folioPrepLarge = (k: Kernel, folio: number, order: number): void => {
  const { flags, head, private: priv, index, pincount } = k.state.frames;
  fetchOr(flags, folio, PG_HEAD);
  writeOnce(priv, folio, order);
  for (let page = folio + 1; page < folio + (1 << order); page++) {
    writeOnce(flags, page, PG_TAIL);
    writeOnce(head, page, folio);
  }
  writeOnce(pincount, folio, 0);
  writeOnce(index, folio + 1, 0);
  writeOnce(pincount, folio + 1, 0);
};

/**
 * The pages of a large folio are no folio any more: neither head nor tail, no counts of their own
 * but `mapcount`. For freeing and splitting, which set up what they need afterwards.
 */
export const folioUnprepLarge = (k: Kernel, folio: number, order: number): void => {
  const { flags, head, private: priv, index, pincount } = k.state.frames;
  fetchAndNot(flags, folio, PG_HEAD);
  writeOnce(priv, folio, 0);
  writeOnce(pincount, folio, 0);
  writeOnce(index, folio + 1, 0);
  writeOnce(pincount, folio + 1, 0);
  for (let page = folio + 1; page < folio + (1 << order); page++) {
    fetchAndNot(flags, page, PG_TAIL);
    writeOnce(head, page, 0);
  }
};

/**
 * A new folio of 1 << order pages with one reference.
 * @returns the folio, or -ENOMEM
 */
export const folioAllocOrder = (k: Kernel, order: number, gfp: number): number => {
  const folio = allocPages(k, order, gfp);
  if (folio >= 0 && order > 0) folioPrepLarge(k, folio, order);
  return folio;
};

/** Entries that map the whole of a large folio at once. */
export const folioEntireMapcount = (k: Kernel, folio: number): number =>
  readOnce(k.state.frames.index, folio + 1);

/** Entries of any kind that map something of a large folio. */
export const folioLargeMapcount = (k: Kernel, folio: number): number =>
  readOnce(k.state.frames.pincount, folio + 1);

/** Entries that map the whole folio: `delta` more. Only for mm/rmap/. */
export const folioAddEntireMapcount = (k: Kernel, folio: number, delta: number): number =>
  atomicAdd(k.state.frames.index, folio + 1, delta);

/** Entries that map something of the folio: `delta` more. Only for mm/rmap/. */
export const folioAddLargeMapcount = (k: Kernel, folio: number, delta: number): number =>
  atomicAdd(k.state.frames.pincount, folio + 1, delta);
