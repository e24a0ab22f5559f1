/**
 * The free lists of a zone: one for each migratetype and order. Compare mm/page_alloc.c,
 * __add_to_free_list(), expand(), __rmqueue_smallest(), __free_one_page(), move_freepages_block().
 *
 * A free block is known by its first page: PG_BUDDY, its order in `private`, its neighbours on the
 * list in `next` and `prev`. No other page of it is touched, so a fresh machine's lists cost one
 * entry per 4 MiB. Invariant: a block is on the list of its pageblock's type; a block of two
 * pageblocks has two of one type, in one zone. What the zone counts as free is what may be handed
 * out: not what is isolated. All of this is under the zone's lock in Linux: nothing here yields.
 */
import { atomicAdd, readOnce, writeOnce } from '#cells';
import type { Kernel } from '../types.ts';
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  migratetypeIsMergeable,
  pageblockOwnType,
  pageblockType,
  setPageblockType,
} from './pageblock.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PG_BUDDY } from './table.ts';
import { freeListOf, MAX_PAGE_ORDER, type Zone } from './zone.ts';

/** True where `page` heads a free block of that order. Compare page_is_buddy(). */
export const isFreeBlock = (k: Kernel, page: number, order: number): boolean =>
  (readOnce(k.state.frames.flags, page) & PG_BUDDY) !== 0 &&
  readOnce(k.state.frames.private, page) === order;

/** Puts a block on a list. Nothing is counted as free. */
export const pushBlock = (
  k: Kernel,
  zone: Zone,
  page: number,
  order: number,
  type: number,
): void => {
  const { flags, next, prev, private: priv } = k.state.frames;
  const list = freeListOf(type, order);
  const first = readOnce(zone.freeHead, list);
  writeOnce(flags, page, PG_BUDDY);
  writeOnce(priv, page, order);
  writeOnce(next, page, first);
  writeOnce(prev, page, -1);
  if (first >= 0) writeOnce(prev, first, page);
  writeOnce(zone.freeHead, list, page);
  atomicAdd(zone.nrBlocks, list, 1);
};

/** Takes a block off the list that it is on. */
export const removeBlock = (
  k: Kernel,
  zone: Zone,
  page: number,
  order: number,
  type: number,
): void => {
  const { flags, next, prev, private: priv } = k.state.frames;
  const list = freeListOf(type, order);
  const after = readOnce(next, page);
  const before = readOnce(prev, page);
  if (before >= 0) writeOnce(next, before, after);
  else writeOnce(zone.freeHead, list, after);
  if (after >= 0) writeOnce(prev, after, before);
  writeOnce(flags, page, 0);
  writeOnce(priv, page, 0);
  writeOnce(next, page, -1);
  writeOnce(prev, page, -1);
  atomicAdd(zone.nrBlocks, list, -1);
};

/** `delta` pages of a pageblock's type more that may be handed out. Compare account_freepages(). */
export const countFree = (zone: Zone, type: number, delta: number): void => {
  if (type === MIGRATE_ISOLATE) return;
  atomicAdd(zone.nrFree, 0, delta);
  if (type === MIGRATE_CMA) atomicAdd(zone.nrFreeCma, 0, delta);
};

/**
 * Takes the lower end of a block that is on a list; the upper halves go back to it, largest first.
 * Compare page_del_and_expand().
 */
export const takeLowest = (
  k: Kernel,
  zone: Zone,
  page: number,
  have: number,
  order: number,
  type: number,
): number => {
  removeBlock(k, zone, page, have, type);
  for (let half = have - 1; half >= order; half--)
    pushBlock(k, zone, page + (1 << half), half, type);
  return page;
};

/** Takes a block of the smallest order that will do; -1 where the type has none. Compare __rmqueue_smallest(). */
export const takeSmallest = (k: Kernel, zone: Zone, order: number, type: number): number => {
  for (let have = order; have <= MAX_PAGE_ORDER; have++) {
    const page = readOnce(zone.freeHead, freeListOf(type, have));
    if (page >= 0) return takeLowest(k, zone, page, have, order, type);
  }
  return -1;
};

/** Puts a block on its list, merged with every free neighbour. Compare __free_one_page(). */
export const freeBlock = (k: Kernel, zone: Zone, firstPage: number, firstOrder: number): void => {
  const { nrPages } = k.state.frames;
  const type = pageblockType(k, firstPage);
  if (firstOrder > PAGEBLOCK_ORDER && pageblockType(k, firstPage + PAGEBLOCK_PAGES) !== type) {
    freeBlock(k, zone, firstPage, PAGEBLOCK_ORDER);
    freeBlock(k, zone, firstPage + PAGEBLOCK_PAGES, PAGEBLOCK_ORDER);
    return;
  }
  countFree(zone, type, 1 << firstOrder);
  let page = firstPage;
  let order = firstOrder;
  while (order < MAX_PAGE_ORDER) {
    const buddy = page ^ (1 << order);
    if (buddy + (1 << order) > nrPages || !isFreeBlock(k, buddy, order)) break;
    if (order < PAGEBLOCK_ORDER) removeBlock(k, zone, buddy, order, type);
    else if (!takeNeighbour(k, zone, buddy, type)) break;
    page &= ~(1 << order);
    order++;
  }
  pushBlock(k, zone, page, order, type);
};

/** The free pageblock next to one of a type becomes of that type too, if it may. @returns false: it may not */
const takeNeighbour = (k: Kernel, zone: Zone, buddy: number, type: number): boolean => {
  const own = pageblockType(k, buddy);
  if (own !== type && !(migratetypeIsMergeable(type) && migratetypeIsMergeable(own))) return false;
  // Isolated ones merge whatever they are kept for: they are cut apart when they come back.
  removeBlock(k, zone, buddy, PAGEBLOCK_ORDER, own);
  if (own !== type) setPageblockType(k, buddy, type);
  return true;
};

/**
 * A free block of more than the pageblock that `page` is in is cut into pageblocks, both on the
 * list that it was on. Compare split_large_buddy().
 */
export const cutToPageblocks = (k: Kernel, zone: Zone, page: number, type: number): void => {
  const first = page & -(1 << MAX_PAGE_ORDER);
  if (!isFreeBlock(k, first, MAX_PAGE_ORDER)) return;
  removeBlock(k, zone, first, MAX_PAGE_ORDER, type);
  pushBlock(k, zone, first + PAGEBLOCK_PAGES, PAGEBLOCK_ORDER, type);
  pushBlock(k, zone, first, PAGEBLOCK_ORDER, type);
};

/**
 * The free blocks of one pageblock go from one list to the other; none is larger than the pageblock.
 * @returns pages. Compare move_freepages_block()
 */
export const moveFreeBlocks = (
  k: Kernel,
  zone: Zone,
  first: number,
  from: number,
  to: number,
): number => {
  const { flags, private: priv } = k.state.frames;
  const end = Math.min(first + PAGEBLOCK_PAGES, k.state.frames.nrPages);
  let moved = 0;
  for (let page = first; page < end; ) {
    if ((readOnce(flags, page) & PG_BUDDY) === 0) {
      page++;
      continue;
    }
    const order = readOnce(priv, page);
    removeBlock(k, zone, page, order, from);
    pushBlock(k, zone, page, order, to);
    moved += 1 << order;
    page += 1 << order;
  }
  countFree(zone, from, -moved);
  countFree(zone, to, moved);
  return moved;
};

/** Was the pageblock of a page kept for CMA before it was isolated? */
export const isCmaPage = (k: Kernel, page: number): boolean =>
  pageblockOwnType(k, page) === MIGRATE_CMA;
