/**
 * How fragmented the free memory of a zone is, for blocks of a size. Compare mm/vmstat.c,
 * __fragmentation_index() and unusable_free_index(): what /sys/kernel/debug/extfrag/ shows.
 */
import { MIGRATE_ISOLATE } from '../frames/pageblock.ts';
import { freeListOf, NR_PAGE_ORDERS, type Zone } from '../frames/zone.ts';

/** The free blocks of a zone. */
interface FreeBlocks {
  pages: number;
  blocks: number;
  /** By order. */
  byOrder: number[];
}

/** Counts the free blocks of a zone, but those that are isolated. */
export const freeBlocksOf = ({ nrBlocks }: Zone): FreeBlocks => {
  const found: FreeBlocks = { pages: 0, blocks: 0, byOrder: [] };
  for (let order = 0; order < NR_PAGE_ORDERS; order++) {
    let blocks = 0;
    for (let type = 0; type < MIGRATE_ISOLATE; type++) blocks += nrBlocks[freeListOf(type, order)]!;
    found.byOrder.push(blocks);
    found.blocks += blocks;
    found.pages += blocks << order;
  }
  return found;
};

/** Blocks of 1 << order pages that could be cut from what is free. */
const suitable = ({ byOrder }: FreeBlocks, order: number): number => {
  let blocks = 0;
  for (let at = order; at < NR_PAGE_ORDERS; at++) blocks += (byOrder[at] ?? 0) << (at - order);
  return blocks;
};

/**
 * Why an allocation of 1 << order pages would fail: towards 0 for want of memory, towards 1 because
 * what is free is in small pieces; -1: it would not fail. In steps of 1 / 1000, as Linux prints it.
 */
export const fragmentationIndex = (zone: Zone, order: number): number => {
  const free = freeBlocksOf(zone);
  if (order >= NR_PAGE_ORDERS || free.blocks === 0) return 0;
  if (suitable(free, order) > 0) return -1;
  const perRequest = Math.floor((free.pages * 1000) / (1 << order));
  return (1000 - Math.floor((1000 + perRequest) / free.blocks)) / 1000;
};

/** The part of what is free that is of no use to an allocation of 1 << order pages: 0 to 1. */
export const unusableFreeIndex = (zone: Zone, order: number): number => {
  const free = freeBlocksOf(zone);
  if (free.pages === 0) return 1;
  return Math.floor(((free.pages - (suitable(free, order) << order)) * 1000) / free.pages) / 1000;
};
