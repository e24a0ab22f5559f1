/**
 * Swapping out: a folio leaves memory, its bytes go to the device. Compare mm/vmscan.c:shrink_folio_list().
 *
 * Isolate and lock it; give it slots, and with them a place in the swap cache; let every entry name
 * its slot; write the bytes; and if nobody but the cache holds a reference, let it go. A folio that
 * somebody reaches by number stays where it is: pinned ones keep their entries, of others the bytes
 * stay in the swap cache, and faults map them again. A large anonymous folio goes as a whole, or is
 * split before, where no run of slots is long enough or some of its pages are not mapped any more;
 * pages of shmem (shmem.ts) go one by one.
 *
 * How recently a page was used is not asked here: that is for whoever chooses it (mm/reclaim/, mm/swap/pageout.ts).
 */
import { fetchAndNot, readOnce } from '#cells';
import { EAGAIN, EBUSY, EINVAL } from '../errno.ts';
import {
  folioMapcount,
  folioNrPages,
  folioRefCount,
  folioTestAnon,
  folioTestDirty,
  folioTrylock,
} from '../folio/folio.ts';
import { folioEntireMapcount, folioTestLarge } from '../folio/large.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import {
  PG_DIRTY,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_LRU,
  PG_SWAPBACKED,
  PG_TAIL,
  PG_UNEVICTABLE,
} from '../frames/table.ts';
import { lruAddDrain } from '../lru/batch.ts';
import { folioDropIsolated, folioIsolateLru, folioPutbackLru } from '../lru/isolate.ts';
import { type Path, YP_SWAP_UNMAPPED, YP_SWAP_WRITTEN } from '../path.ts';
import { splitFolio } from '../thp/split.ts';
import type { Kernel } from '../types.ts';
import {
  folioAllocSwap,
  folioFreeSwap,
  folioTestSwapcache,
  folioUnlockFreeSwap,
  pageSwapSlot,
  swapCacheDelete,
} from './cache.ts';
import { shmemToSwap } from './shmem.ts';
import { swapFull, swapWritePage } from './slots.ts';
import { tryToUnmap } from './unmap.ts';

/**
 * Swaps a folio out, anonymous or of shmem. The caller needs no reference.
 * @param folio a page number: any, also one that is not in use
 * @returns 0: it is free; -EBUSY: pinned, or isolated by somebody else; -EAGAIN: referenced, mapped
 *   where it is locked in memory, or locked: it stays; -ENOMEM: no slots; -EINVAL: neither anonymous
 *   nor of shmem
 */
export function* reclaimFolio(k: Kernel, folio: number): Path<number> {
  lruAddDrain(k);
  const isolated = isolateForReclaim(k, folio);
  return isolated === 0 ? yield* reclaimIsolated(k, folio) : isolated;
}

/** Takes a folio that can be swapped off its LRU list, with a reference. @returns 0, -EINVAL, -EBUSY, -EAGAIN */
export const isolateForReclaim = (k: Kernel, folio: number): number => {
  if (folio < 0 || folio >= k.state.frames.nrPages) return -EINVAL;
  const flags = readOnce(k.state.frames.flags, folio);
  if ((flags & (PG_SWAPBACKED | PG_TAIL | PG_HUGETLB)) !== PG_SWAPBACKED) return -EINVAL;
  if ((flags & PG_ISOLATED) !== 0) return -EBUSY;
  if ((flags & (PG_LRU | PG_UNEVICTABLE | PG_HWPOISON)) !== PG_LRU) return -EAGAIN;
  folioIsolateLru(k, folio);
  return 0;
};

/** The rest, for a folio from isolateForReclaim, whose reference goes. @returns as reclaimFolio */
export function* reclaimIsolated(k: Kernel, folio: number): Path<number> {
  const rest: number[] = [];
  let error = -EAGAIN;
  if (folioTrylock(k, folio)) {
    if (folioTestSwapcache(k, folio)) error = 0;
    else if (folioTestAnon(k, folio)) error = yield* addToSwap(k, folio, rest);
    else {
      error = folioTestLarge(k, folio) ? yield* splitIsolated(k, folio, rest) : 0;
      if (error === 0) error = yield* shmemToSwap(k, folio);
    }
    if (error === 0) error = yield* shrinkFolio(k, folio);
    // It stays in memory, and slots are scarce: then it need not keep one.
    if (error !== 0 && swapFull(k)) folioFreeSwap(k, folio);
    folioUnlockFreeSwap(k, folio);
  }
  if (error === 0) folioDropIsolated(k, folio);
  else folioPutbackLru(k, folio);
  for (const page of rest) {
    const other = yield* reclaimIsolated(k, page);
    if (error === 0) error = other;
  }
  return error;
}

/**
 * Gives the locked folio slots, if nobody may write to it by number.
 * @param rest where it has to be split: filled with its other pages, isolated
 * @returns 0, -EBUSY, -EAGAIN, -ENOMEM
 */
function* addToSwap(k: Kernel, folio: number, rest: number[]): Path<number> {
  if (folioMaybeDmaPinned(k, folio)) return -EBUSY;
  if (!folioTestLarge(k, folio)) return folioAllocSwap(k, folio);
  if (folioRefCount(k, folio) !== 1 + folioMapcount(k, folio)) return -EAGAIN;
  if (!partiallyMapped(k, folio) && folioAllocSwap(k, folio) === 0) return 0;
  const error = yield* splitIsolated(k, folio, rest);
  if (error !== 0) return error;
  return folioMapcount(k, folio) > 0 ? folioAllocSwap(k, folio) : 0;
}

/** Splits the locked folio, and isolates its other pages into `rest`. @returns 0 or -errno */
function* splitIsolated(k: Kernel, folio: number, rest: number[]): Path<number> {
  const { mapping, index } = k.state.frames;
  const id = readOnce(mapping, folio);
  const first = readOnce(index, folio);
  const nr = folioNrPages(k, folio);
  const error = yield* splitFolio(k, folio);
  if (error !== 0) return error;
  for (let i = 1; i < nr; i++) {
    // Pages that nobody mapped are free already, or somebody else's.
    const page = folio + i;
    if (readOnce(mapping, page) !== id || readOnce(index, page) !== ((first + i) | 0)) continue;
    if (isolateForReclaim(k, page) === 0) rest.push(page);
  }
  return 0;
}

/** Are there pages of a large folio that no entry maps? Compare folio_test_partially_mapped(). */
const partiallyMapped = (k: Kernel, folio: number): boolean => {
  if (folioEntireMapcount(k, folio) > 0) return false;
  for (let page = folio; page < folio + folioNrPages(k, folio); page++)
    if (readOnce(k.state.frames.mapcount, page) === 0) return true;
  return false;
};

/** References of an isolated folio that is in the swap cache and not mapped, if nobody else has any. */
const expectedRefs = (k: Kernel, folio: number): number => 1 + folioNrPages(k, folio);

/** The locked folio, in the swap cache unless nobody needs it. @returns 0: the caller's reference is the last */
function* shrinkFolio(k: Kernel, folio: number): Path<number> {
  if (folioMapcount(k, folio) > 0) {
    const error = yield* tryToUnmap(k, folio);
    if (error !== 0) return error;
  }
  if (k.watched) yield YP_SWAP_UNMAPPED;
  if (folioMaybeDmaPinned(k, folio)) return -EBUSY;
  folioFreeSwap(k, folio);
  if (!folioTestSwapcache(k, folio)) return folioRefCount(k, folio) === 1 ? 0 : -EAGAIN;
  if (folioTestDirty(k, folio)) {
    writeOut(k, folio);
    if (k.watched) yield YP_SWAP_WRITTEN;
  }
  // Dirty again: somebody with a reference has written to it, and said so, since.
  if (folioRefCount(k, folio) !== expectedRefs(k, folio) || folioTestDirty(k, folio))
    return -EAGAIN;
  swapCacheDelete(k, folio);
  return 0;
}

/** The bytes go to the slots. The folio is clean first: who writes meanwhile makes it dirty again. */
const writeOut = (k: Kernel, folio: number): void => {
  fetchAndNot(k.state.frames.flags, folio, PG_DIRTY);
  for (let page = folio; page < folio + folioNrPages(k, folio); page++)
    swapWritePage(k, pageSwapSlot(k, page), page);
};
