/**
 * The LRU lists themselves: which one a folio belongs on, on it, off it. Compare
 * include/linux/mm_inline.h, lruvec_add_folio() and lruvec_del_folio().
 *
 * All of it happens under the list's lock in Linux: nothing here yields. A folio with PG_LRU is on
 * exactly one list, that which its flags name; whoever changes one of them takes it off before.
 */
import { atomicAdd, fetchAndNot, fetchOr, readOnce, writeOnce } from '#cells';
import { PG_ACTIVE, PG_HEAD, PG_LRU, PG_SWAPBACKED, PG_UNEVICTABLE } from '../frames/table.ts';
import { pageZone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import {
  LRU_ACTIVE_ANON,
  LRU_INACTIVE_ANON,
  LRU_INACTIVE_FILE,
  LRU_UNEVICTABLE,
  NR_LRU_LISTS,
} from './state.ts';

/** LRU_*, by the flags of a folio. Compare folio_lru_list(). */
export const lruOf = (flags: number): number => {
  if ((flags & PG_UNEVICTABLE) !== 0) return LRU_UNEVICTABLE;
  const inactive = (flags & PG_SWAPBACKED) !== 0 ? LRU_INACTIVE_ANON : LRU_INACTIVE_FILE;
  return (flags & PG_ACTIVE) !== 0 ? inactive + LRU_ACTIVE_ANON : inactive;
};

/** Number of the list of a zone, as the columns of k.state.lru have it. */
export const lruIndex = (zone: number, lru: number): number => zone * NR_LRU_LISTS + lru;

const indexOf = (k: Kernel, folio: number, flags: number): number =>
  lruIndex(pageZone(k, folio).index, lruOf(flags));

const nrPagesOf = (k: Kernel, folio: number, flags: number): number =>
  (flags & PG_HEAD) !== 0 ? 1 << readOnce(k.state.frames.private, folio) : 1;

/**
 * Puts a folio on the list that its flags name, as its newest, or its oldest with `atTail`.
 * @throws Error when it is on a list already
 */
export const lruListAdd = (k: Kernel, folio: number, atTail = false): void => {
  const { next, prev, flags } = k.state.frames;
  const { head, tail, nrPages } = k.state.lru;
  const word = fetchOr(flags, folio, PG_LRU);
  if ((word & PG_LRU) !== 0) throw new Error(`folio ${folio} is on an LRU list already`);
  const list = indexOf(k, folio, word);
  if ((word & PG_UNEVICTABLE) === 0) {
    const after = atTail ? -1 : readOnce(head, list);
    const before = atTail ? readOnce(tail, list) : -1;
    writeOnce(next, folio, after);
    writeOnce(prev, folio, before);
    if (before >= 0) writeOnce(next, before, folio);
    else writeOnce(head, list, folio);
    if (after >= 0) writeOnce(prev, after, folio);
    else writeOnce(tail, list, folio);
  } else {
    writeOnce(prev, folio, 0);
  }
  atomicAdd(nrPages, list, nrPagesOf(k, folio, word));
};

/** Takes a folio with PG_LRU off its list. */
export const lruListDel = (k: Kernel, folio: number): void => {
  const { next, prev, flags } = k.state.frames;
  const { head, tail, nrPages } = k.state.lru;
  const word = fetchAndNot(flags, folio, PG_LRU);
  const list = indexOf(k, folio, word);
  if ((word & PG_UNEVICTABLE) === 0) {
    const after = readOnce(next, folio);
    const before = readOnce(prev, folio);
    if (before >= 0) writeOnce(next, before, after);
    else writeOnce(head, list, after);
    if (after >= 0) writeOnce(prev, after, before);
    else writeOnce(tail, list, before);
  }
  writeOnce(next, folio, -1);
  writeOnce(prev, folio, -1);
  atomicAdd(nrPages, list, -nrPagesOf(k, folio, word));
};

/** The oldest folio of a list, -1 where it is empty. */
export const lruListLast = (k: Kernel, zone: number, lru: number): number =>
  readOnce(k.state.lru.tail, lruIndex(zone, lru));

/** Pages on a list of a zone. Compare lruvec_lru_size(). */
export const lruListPages = (k: Kernel, zone: number, lru: number): number =>
  readOnce(k.state.lru.nrPages, lruIndex(zone, lru));
