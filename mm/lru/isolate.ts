/**
 * Taking a folio off its LRU list, for whoever wants to move it or to let it go, and putting it back.
 * Compare mm/vmscan.c, folio_isolate_lru() and folio_putback_lru().
 *
 * An isolated folio is nobody else's to isolate. PG_ISOLATED says so, and accounts for the reference.
 */
import { readOnce } from '#cells';
import { folioClearFlags, folioGet, folioPut, folioSetFlags } from '../folio/folio.ts';
import { PG_ISOLATED, PG_LRU } from '../frames/table.ts';
import type { Kernel } from '../types.ts';
import { folioAddLru } from './batch.ts';
import { lruListDel } from './list.ts';
import { dropFor } from '../provenance/provenance.ts';

/** Takes a folio off its list, with a reference. @returns false: it is on none, because it waits in a batch or is isolated */
export const folioIsolateLru = (k: Kernel, folio: number): boolean => {
  if ((readOnce(k.state.frames.flags, folio) & PG_LRU) === 0) return false;
  folioGet(k, folio);
  lruListDel(k, folio);
  folioSetFlags(k, folio, PG_ISOLATED);
  return true;
};

/** The folio goes back, and the reference; it is freed where that was the last. */
export const folioPutbackLru = (k: Kernel, folio: number): void => {
  folioClearFlags(k, folio, PG_ISOLATED);
  folioAddLru(k, folio);
  folioPut(k, folio);
};

/** The folio has been moved or emptied: the reference goes, and it is not put back. */
export const folioDropIsolated = (k: Kernel, folio: number): void => {
  folioClearFlags(k, folio, PG_ISOLATED);
  dropFor(k, 'migration or reclaim');
  folioPut(k, folio);
  dropFor(k, '');
};
