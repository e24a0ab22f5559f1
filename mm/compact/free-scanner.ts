/**
 * Compaction's free scanner: from the end of a zone downwards it takes free pages for what the other
 * scanner finds to move. Compare mm/compaction.c, isolate_freepages(), isolate_freepages_block() and
 * compaction_alloc().
 */
import { readOnce, writeOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import { folioPrepLarge } from '../folio/large.ts';
import { freePages, takeFreeBlock } from '../frames/buddy.ts';
import {
  MIGRATE_CMA,
  MIGRATE_MOVABLE,
  pageblockStart,
  pageblockType,
  pageOnline,
  pageZoneIndex,
} from '../frames/pageblock.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES, PG_BUDDY } from '../frames/table.ts';
import { NR_PAGE_ORDERS, type Zone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';

/** What it has, and where it goes on. Plain data. */
export interface FreeScanner {
  zone: Zone;
  /** First page of the pageblock that it looks at next. */
  block: number;
  /** Pages taken so far that nobody has got yet, and those that it has looked at. */
  nrFree: number;
  scanned: number;
  /** By order: blocks that are taken, each with a reference. */
  free: number[][];
}

export const createFreeScanner = (zone: Zone): FreeScanner => ({
  zone,
  block: zone.endPage > zone.firstPage ? pageblockStart(zone.endPage - 1) : -1,
  nrFree: 0,
  scanned: 0,
  free: Array.from({ length: NR_PAGE_ORDERS }, () => []),
});

/**
 * May pages be moved into a pageblock? It has to be one for pages that can be moved, and not to be
 * free as a whole. Compare suitable_migration_target().
 */
const suitableTarget = (k: Kernel, block: number): boolean => {
  const { flags, private: orders } = k.state.frames;
  const whole = (readOnce(flags, block) & PG_BUDDY) !== 0;
  if (whole && readOnce(orders, block) >= PAGEBLOCK_ORDER) return false;
  // The second block of 4 MiB that are free.
  const above = block & ~(2 * PAGEBLOCK_PAGES - 1);
  if ((readOnce(flags, above) & PG_BUDDY) !== 0 && readOnce(orders, above) > PAGEBLOCK_ORDER)
    return false;
  const type = pageblockType(k, block);
  return type === MIGRATE_MOVABLE || type === MIGRATE_CMA;
};

/** A block that is taken: with a reference, so that it is somebody's. */
const keep = (k: Kernel, scanner: FreeScanner, page: number, order: number): void => {
  writeOnce(k.state.frames.refcount, page, 1);
  writeOnce(k.state.frames.private, page, order);
  scanner.free[order]?.push(page);
};

/** Takes every free block of one pageblock. */
const takeBlock = (k: Kernel, scanner: FreeScanner, block: number): void => {
  const { flags, private: orders } = k.state.frames;
  const end = Math.min(block + PAGEBLOCK_PAGES, scanner.zone.endPage);
  for (let page = Math.max(block, scanner.zone.firstPage); page < end; ) {
    if ((readOnce(flags, page) & PG_BUDDY) === 0) {
      page++;
      continue;
    }
    const order = readOnce(orders, page);
    takeFreeBlock(k, page, order);
    keep(k, scanner, page, order);
    scanner.nrFree += 1 << order;
    page += 1 << order;
  }
  scanner.scanned += end - block;
};

/**
 * Goes down until it has `wanted` pages, or comes to where the other scanner is.
 * @param limit the page that the other scanner looks at next
 */
export const scanForFree = (
  k: Kernel,
  scanner: FreeScanner,
  wanted: number,
  limit: number,
): void => {
  while (scanner.nrFree < wanted && scanner.block > limit) {
    const { block, zone } = scanner;
    scanner.block -= PAGEBLOCK_PAGES;
    const first = Math.max(block, zone.firstPage);
    if (!pageOnline(k, first) || pageZoneIndex(k, first) !== zone.index) continue;
    if (suitableTarget(k, block)) takeBlock(k, scanner, block);
  }
};

/** A folio of 1 << order pages out of what has been taken; -ENOMEM: no block is as large. */
export const takeTarget = (k: Kernel, scanner: FreeScanner, order: number): number => {
  let have = order;
  while (have < NR_PAGE_ORDERS && (scanner.free[have]?.length ?? 0) === 0) have++;
  const page = scanner.free[have]?.pop();
  if (page === undefined) return -ENOMEM;
  for (let half = have - 1; half >= order; half--) keep(k, scanner, page + (1 << half), half);
  writeOnce(k.state.frames.private, page, order);
  scanner.nrFree -= 1 << order;
  k.memory.mayBeWritten(page, 1 << order);
  if (order > 0) folioPrepLarge(k, page, order);
  return page;
};

/** What is left goes back to the allocator. Compare release_free_list() */
export const releaseFree = (k: Kernel, scanner: FreeScanner): void => {
  scanner.free.forEach((pages, order) => {
    for (const page of pages) freePages(k, page, order);
    pages.length = 0;
  });
  scanner.nrFree = 0;
};
