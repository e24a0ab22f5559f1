/**
 * What an allocation does whose own free lists are empty: it claims a pageblock of another type, or
 * steals pages of one. Compare mm/page_alloc.c, __rmqueue(), __rmqueue_claim(), __rmqueue_steal(),
 * try_to_claim_block().
 *
 * Pages that cannot be moved spoil a pageblock for those that want it empty, so they take over a
 * whole one, the largest there is. Pages that can be moved do no harm wherever they are: they claim
 * large blocks only, and otherwise take the smallest. CMA lends to those that can be moved, and to
 * nobody else; what is isolated is nobody's.
 */
import { readOnce } from '#cells';
import type { Kernel } from '../types.ts';
import { moveFreeBlocks, pushBlock, removeBlock, takeLowest, takeSmallest } from './free-list.ts';
import {
  MIGRATE_CMA,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  pageblockStart,
  setPageblockType,
} from './pageblock.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PG_BUDDY, PG_HEAD, PG_LRU } from './table.ts';
import { freeListOf, MAX_PAGE_ORDER, type Zone } from './zone.ts';

/** By type: where else its pages may come from, best first. Compare fallbacks[]. */
const FALLBACKS: readonly (readonly [number, number])[] = [
  [MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE],
  [MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE],
  [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE],
];

/** A whole pageblock changes hands if as many of its pages are free or alike. */
const CLAIM_PAGES = PAGEBLOCK_PAGES / 2;
/** From this order on pages that can be moved claim as well. */
const CLAIM_ORDER = PAGEBLOCK_ORDER >> 1;

/**
 * Takes a block of 1 << order pages out of a zone, by the type of what will be in it.
 * @param cma it may come from CMA: the pages can be moved, and nobody will pin them for long
 * @returns its first page, or -1. Compare __rmqueue()
 */
export const takeBlock = (
  k: Kernel,
  zone: Zone,
  order: number,
  type: number,
  cma: boolean,
): number => {
  // CMA is used up evenly with the rest: only from it the pages can be had back.
  if (cma && readOnce(zone.nrFreeCma, 0) * 2 > readOnce(zone.nrFree, 0)) {
    const page = takeSmallest(k, zone, order, MIGRATE_CMA);
    if (page >= 0) return page;
  }
  let page = takeSmallest(k, zone, order, type);
  if (page < 0 && cma) page = takeSmallest(k, zone, order, MIGRATE_CMA);
  if (page < 0) page = takeClaimed(k, zone, order, type);
  return page >= 0 ? page : takeStolen(k, zone, order, type);
};

/** Type of the first fallback with a block of that order; -1 for none. Compare find_suitable_fallback(). */
const fallbackWith = (zone: Zone, order: number, type: number): number => {
  for (const other of FALLBACKS[type] ?? [])
    if (readOnce(zone.freeHead, freeListOf(other, order)) >= 0) return other;
  return -1;
};

/** Compare should_try_claim_block(). */
const mayClaim = (order: number, type: number): boolean =>
  order >= CLAIM_ORDER || type !== MIGRATE_MOVABLE;

/** The largest block of another type, with its pageblock. Compare __rmqueue_claim(). */
const takeClaimed = (k: Kernel, zone: Zone, order: number, type: number): number => {
  for (let have = MAX_PAGE_ORDER; have >= order && mayClaim(have, type); have--) {
    const other = fallbackWith(zone, have, type);
    if (other < 0) continue;
    const block = readOnce(zone.freeHead, freeListOf(other, have));
    const page = claimBlock(k, zone, block, have, order, type, other);
    if (page >= 0) return page;
  }
  return -1;
};

/** The smallest block of another type; what is left of it stays that type's. Compare __rmqueue_steal(). */
const takeStolen = (k: Kernel, zone: Zone, order: number, type: number): number => {
  for (let have = order; have <= MAX_PAGE_ORDER; have++) {
    const other = fallbackWith(zone, have, type);
    if (other < 0) continue;
    const block = readOnce(zone.freeHead, freeListOf(other, have));
    return takeLowest(k, zone, block, have, order, other);
  }
  return -1;
};

/** @returns the page, or -1: too much of the pageblock is in use by others. Compare try_to_claim_block() */
const claimBlock = (
  k: Kernel,
  zone: Zone,
  block: number,
  have: number,
  order: number,
  type: number,
  other: number,
): number => {
  if (have >= PAGEBLOCK_ORDER) {
    removeBlock(k, zone, block, have, other);
    for (let page = block; page < block + (1 << have); page += PAGEBLOCK_PAGES)
      setPageblockType(k, page, type);
    pushBlock(k, zone, block, have, type);
    return takeLowest(k, zone, block, have, order, type);
  }
  const first = pageblockStart(block);
  // The last one may be cut short by the end of RAM.
  if (first + PAGEBLOCK_PAGES > zone.endPage) return -1;
  if (likePages(k, first, type, other) < CLAIM_PAGES) return -1;
  moveFreeBlocks(k, zone, first, other, type);
  setPageblockType(k, first, type);
  return takeSmallest(k, zone, order, type);
};

/**
 * Pages of a pageblock that are free, or in use by something of the claiming type. That of pages that
 * cannot be moved is a guess: of two types of them one cannot be told from the other.
 */
const likePages = (k: Kernel, first: number, type: number, other: number): number => {
  const { flags, private: priv } = k.state.frames;
  let free = 0;
  let movable = 0;
  for (let page = first; page < first + PAGEBLOCK_PAGES; ) {
    const word = readOnce(flags, page);
    const nr = (word & (PG_BUDDY | PG_HEAD)) !== 0 ? 1 << readOnce(priv, page) : 1;
    if ((word & PG_BUDDY) !== 0) free += nr;
    else if ((word & PG_LRU) !== 0) movable += nr;
    page += nr;
  }
  if (type === MIGRATE_MOVABLE) return free + movable;
  return other === MIGRATE_MOVABLE ? PAGEBLOCK_PAGES - movable : free;
};
