/**
 * The swap cache: pages that have a slot, by slot. Compare mm/swap_state.c.
 *
 * A folio is in it from before its first entry names the slot until after the last one does not, so
 * that everybody who faults on the slot meets the same folio, and waits for its lock while bytes
 * move. It may be mapped meanwhile: then the slot is kept for the next time it is swapped out.
 *
 *   folio   PG_SWAPCACHE, slot of its first page in `swap`, one reference for each page
 *   slots   in a row, one for each page, each named once more (slots.ts)
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd, mapDelete, mapSet, readOnce, writeOnce } from '#cells';
import {
  folioClearFlags,
  folioGet,
  folioMapcount,
  folioMarkDirty,
  folioNrPages,
  folioOf,
  folioPut,
  folioSetFlags,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { PG_SWAPCACHE, PG_UPTODATE } from '../frames/table.ts';
import type { Kernel } from '../types.ts';
import {
  swapAllocSlots,
  swapBytes,
  swapCount,
  swapDuplicate,
  swapFree,
  swapFull,
} from './slots.ts';

/** The page that the swap cache has for a slot, -1 for none. No reference is taken. */
export const swapCachePage = (k: Kernel, slot: number): number =>
  k.state.swap.cache.get(slot) ?? -1;

export const folioTestSwapcache = (k: Kernel, folio: number): boolean =>
  folioTestFlags(k, folio, PG_SWAPCACHE);

/** Slot of a page whose folio is in the swap cache. Compare page_swap_entry(). */
export const pageSwapSlot = (k: Kernel, page: number): number => {
  const folio = folioOf(k, page);
  return readOnce(k.state.frames.swap, folio) + page - folio;
};

const insert = (k: Kernel, folio: number, slot: number): void => {
  const nr = folioNrPages(k, folio);
  atomicAdd(k.state.frames.refcount, folio, nr);
  writeOnce(k.state.frames.swap, folio, slot);
  for (let i = 0; i < nr; i++) mapSet(k.state.swap.cache, slot + i, folio + i);
  folioSetFlags(k, folio, PG_SWAPCACHE);
};

/**
 * Gives a folio that is to be swapped out slots, and puts it into the cache, dirty. The caller holds
 * its lock and a reference.
 * @returns 0, or -ENOMEM: no run of slots is that long. Compare folio_alloc_swap()
 */
export const folioAllocSwap = (k: Kernel, folio: number): number => {
  const slot = swapAllocSlots(k, folioNrPages(k, folio));
  if (slot < 0) return slot;
  insert(k, folio, slot);
  folioMarkDirty(k, folio);
  return 0;
};

/** Puts a fresh folio, locked, into the cache for a slot that an entry names: it is to be read in. */
export const swapCacheAdd = (k: Kernel, folio: number, slot: number): void => {
  swapDuplicate(k, slot);
  insert(k, folio, slot);
};

/** Takes a folio out of the cache. The caller holds its lock and a reference. Compare swap_cache_del_folio(). */
export const swapCacheDelete = (k: Kernel, folio: number): void => {
  const slot = readOnce(k.state.frames.swap, folio);
  const nr = folioNrPages(k, folio);
  for (let i = 0; i < nr; i++) {
    mapDelete(k.state.swap.cache, slot + i);
    swapFree(k, slot + i);
  }
  folioClearFlags(k, folio, PG_SWAPCACHE);
  writeOnce(k.state.frames.swap, folio, 0);
  folioPut(k, folio, nr);
};

/** Does any entry name a slot of the folio? Compare folio_swapped(). */
const folioSwapped = (k: Kernel, folio: number): boolean => {
  const slot = readOnce(k.state.frames.swap, folio);
  for (let i = 0; i < folioNrPages(k, folio); i++) if (swapCount(k, slot + i) > 1) return true;
  return false;
};

/**
 * Takes a folio out of the swap cache if no entry names its slots any more; it is dirty then, for
 * its bytes are nowhere else. The caller holds its lock and a reference that is not the cache's.
 * @returns false: not in the cache, or still named. Compare folio_free_swap()
 */
export const folioFreeSwap = (k: Kernel, folio: number): boolean => {
  if (!folioTestSwapcache(k, folio) || folioSwapped(k, folio)) return false;
  swapCacheDelete(k, folio);
  folioMarkDirty(k, folio);
  return true;
};

/**
 * Unlocks the folio, which the caller has a reference of. If the last that named or mapped it went
 * while it was locked, they could not give its slots back: that is done here.
 */
export const folioUnlockFreeSwap = (k: Kernel, folio: number): void => {
  if (folioMapcount(k, folio) === 0) folioFreeSwap(k, folio);
  folioUnlock(k, folio);
};

/**
 * A mapping of the folio went: if it was the last, and nobody holds the lock, its slots go too.
 * Whoever holds the lock sees to it then (folioUnlockFreeSwap). The caller holds a reference. Compare free_swap_cache()
 */
export const freeSwapCache = (k: Kernel, folio: number): void => {
  if (!folioTestSwapcache(k, folio) || folioMapcount(k, folio) > 0) return;
  if (!folioTrylock(k, folio)) return;
  folioFreeSwap(k, folio);
  folioUnlock(k, folio);
};

/**
 * An entry that named the slot is gone. Where only the cache names it now, and nobody maps the page
 * or slots are scarce, the page goes as well. Compare free_swap_and_cache_nr(), __try_to_reclaim_swap().
 */
export const freeSwapAndCache = (k: Kernel, slot: number): void => {
  swapFree(k, slot);
  const page = swapCachePage(k, slot);
  if (page < 0 || swapCount(k, slot) !== 1) return;
  const folio = folioOf(k, page);
  if (folioMapcount(k, folio) > 0 && !swapFull(k)) return;
  folioGet(k, folio);
  if (folioTrylock(k, folio)) {
    folioFreeSwap(k, folio);
    folioUnlock(k, folio);
  }
  folioPut(k, folio);
};

/** The bytes behind a slot that is named: the swap cache's, or the device's. */
export const swapSlotBytes = (k: Kernel, slot: number): Uint8Array => {
  const page = swapCachePage(k, slot);
  if (page < 0 || !folioTestFlags(k, folioOf(k, page), PG_UPTODATE)) return swapBytes(k, slot);
  const offset = k.memory.pageOffset(page);
  return k.memory.u8.subarray(offset, offset + PAGE_SIZE);
};

/**
 * The folio `dst` takes the place of `src`, of the same size: the cache's references go with it.
 * Both are locked, and the caller holds a reference of each. Compare __swap_cache_replace_folio()
 */
export const swapCacheReplace = (k: Kernel, dst: number, src: number): void => {
  const slot = readOnce(k.state.frames.swap, src);
  insert(k, dst, slot);
  folioClearFlags(k, src, PG_SWAPCACHE);
  writeOnce(k.state.frames.swap, src, 0);
  folioPut(k, src, folioNrPages(k, src));
};
