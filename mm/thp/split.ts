/**
 * Splitting a large folio into folios of one page each. Compare mm/huge_memory.c:__folio_split().
 *
 * Every entry becomes a migration entry; if then nobody but the caller and the caches holds a
 * reference, the count is frozen at 0, so that nobody can take one, and each page is set up as a folio
 * of its own. Entries come back page by page, exclusive where they were. A pin, as any other
 * reference, belongs to somebody who counts on the whole folio: then nothing is split.
 */
import { cmpxchg, fetchOr, mapDelete, readOnce, writeOnce } from '#cells';
import { EAGAIN, EBUSY, EINVAL } from '../errno.ts';
import {
  folioCacheRefs,
  folioExpectedRefs,
  folioLock,
  folioMapcount,
  folioOf,
  folioOrder,
  folioPut,
  folioRefCount,
  folioTestAnon,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioUnprepLarge } from '../folio/large.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_DIRTY,
  PG_HUGETLB,
  PG_LOCKED,
  PG_LRU,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_RESERVED,
  PG_SWAPBACKED,
  PG_SWAPCACHE,
  PG_UNEVICTABLE,
  PG_UPTODATE,
} from '../frames/table.ts';
import { lruListAdd, lruListDel } from '../lru/list.ts';
import { type Path, YP_SPLIT_UNMAPPED } from '../path.ts';
import {
  removeMigrationPtes,
  removeMigrationPtesOfSplit,
  tryToMigrate,
} from '../rmap/migration.ts';
import { folioMapping } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioUnlockFreeSwap, freeSwapCache } from '../swap/cache.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { HPAGE_PMD_ORDER } from './state.ts';

/** What is true of the folio is true of each of its pages. Exclusiveness and poison are each page's own. */
const INHERITED =
  PG_LOCKED |
  PG_REFERENCED |
  PG_UPTODATE |
  PG_DIRTY |
  PG_ACTIVE |
  PG_SWAPBACKED |
  PG_SWAPCACHE |
  PG_UNEVICTABLE |
  PG_MLOCKED |
  PG_ANON;

/**
 * Splits a large folio. The caller holds its lock and one reference, and has both of the first page
 * afterwards; pages that nobody maps any more are freed.
 * @returns 0; -EAGAIN: somebody else has a reference, or a pin; -EBUSY: the huge zero folio, or its
 *   file or its last VMA has gone; -EINVAL: not large, or of hugetlb
 */
export function* splitFolio(k: Kernel, folio: number): Path<number> {
  const order = folioOrder(k, folio);
  const error = yield* splitLocked(k, folio, order);
  if (order === HPAGE_PMD_ORDER)
    countStat(k, error === 0 ? 'thp_split_page' : 'thp_split_page_failed');
  return error;
}

/**
 * The same for whoever holds nothing: finds the folio of a page, takes lock and reference, splits, and
 * lets go. Compare mm/huge_memory.c:split_huge_pages_pid().
 * @param page any page number
 * @returns as splitFolio; -EINVAL for a page that is not in use
 */
export function* splitHugePage(k: Kernel, page: number): Path<number> {
  if (page < 0 || page >= k.state.frames.nrPages) return -EINVAL;
  const folio = folioOf(k, page);
  if (folioOrder(k, folio) === 0 || !folioTryGet(k, folio)) return -EINVAL;
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  // Somebody may have split it before the lock was free.
  const error = folioOrder(k, folio) === 0 ? -EINVAL : yield* splitFolio(k, folio);
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  return error;
}

function* splitLocked(k: Kernel, folio: number, order: number): Path<number> {
  if (order === 0 || folioTestFlags(k, folio, PG_HUGETLB)) return -EINVAL;
  if (folioTestFlags(k, folio, PG_RESERVED)) return -EBUSY;
  const object = folioMapping(k, folio);
  if (object === null) return -EBUSY;
  // Unmapping for nothing is costly: a look before it, the one that counts is the freezing.
  if (folioRefCount(k, folio) !== folioExpectedRefs(k, folio) + 1) return -EAGAIN;
  yield* tryToMigrate(k, folio);
  if (k.watched) yield YP_SPLIT_UNMAPPED;
  const caches = folioCacheRefs(k, folio);
  const frozen =
    folioMapcount(k, folio) === 0 &&
    cmpxchg(k.state.frames.refcount, folio, 1 + caches, 0) === 1 + caches;
  if (!frozen) {
    yield* removeMigrationPtes(k, folio, folio);
    return -EAGAIN;
  }
  const anon = folioTestAnon(k, folio);
  makeSmall(k, folio, order, caches > 0 ? 1 : 0);
  if (!anon && object.kind === 'shmem') dropBeyondEnd(k, object, folio, order);
  const end = folio + (1 << order);
  for (let page = folio; page < end; page++) {
    if (anon) yield* removeMigrationPtesOfSplit(k, page);
    else yield* removeMigrationPtes(k, page, page);
  }
  for (let page = folio + 1; page < end; page++) {
    folioUnlock(k, page);
    freeSwapCache(k, page);
    folioPut(k, page);
  }
  return 0;
}

/**
 * Each page of a frozen folio becomes a folio, locked, with one reference for whoever splits. Without a
 * yield. Compare __split_folio_to_order().
 * @param cached references of caches to each page
 */
const makeSmall = (k: Kernel, folio: number, order: number, cached: number): void => {
  const { flags, mapping, index, swap, refcount } = k.state.frames;
  const inherited = readOnce(flags, folio) & INHERITED;
  const id = readOnce(mapping, folio);
  const firstIndex = readOnce(index, folio);
  const slot = readOnce(swap, folio);
  const listed = folioTestFlags(k, folio, PG_LRU);
  if (listed) lruListDel(k, folio);
  folioUnprepLarge(k, folio, order);
  for (let i = 1; i < 1 << order; i++) {
    const page = folio + i;
    writeOnce(mapping, page, id);
    writeOnce(index, page, (firstIndex + i) | 0);
    if ((inherited & PG_SWAPCACHE) !== 0) writeOnce(swap, page, slot + i);
    fetchOr(flags, page, inherited);
    // Where the first page is isolated its caller keeps it off the list; the others are free to go on it.
    lruListAdd(k, page);
    writeOnce(refcount, page, 1 + cached);
  }
  if (listed) lruListAdd(k, folio);
  writeOnce(refcount, folio, 1 + cached);
};

/** Pages of a file's folio that lie behind the file's end leave the page cache. */
const dropBeyondEnd = (k: Kernel, object: AddressSpace, folio: number, order: number): void => {
  const first = readOnce(k.state.frames.index, folio);
  for (let i = Math.max(1, object.nrPages - first); i < 1 << order; i++) {
    mapDelete(object.pages, first + i);
    writeOnce(k.state.frames.mapping, folio + i, 0);
    folioPut(k, folio + i);
  }
};
