/**
 * The buddy allocator: blocks of 1 << order pages, order 0 to 10. Compare mm/page_alloc.c.
 *
 * By its flags an allocation has zones, best first, and a migratetype. The lists are free-list.ts,
 * what becomes of an allocation whose own are empty is fallback.ts. In Linux everything is under the
 * zone's lock: nothing here yields.
 */
import { atomicAdd, readOnce, writeOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { takeBlock } from './fallback.ts';
import { countFree, freeBlock, isFreeBlock, pushBlock, removeBlock } from './free-list.ts';
import {
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  pageblockType,
} from './pageblock.ts';
import { PG_BUDDY, PG_RESERVED } from './table.ts';
import { MAX_PAGE_ORDER, pageZone, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from './zone.ts';

export { isFreeBlock };

/** The bytes are to be zero. */
export const GFP_ZERO = 1 << 0;
/** Below physical 4 GiB only. */
export const GFP_DMA32 = 1 << 1;
/**
 * The pages can be moved while they are in use (GFP_HIGHUSER_MOVABLE): those of users and of page
 * caches. Whoever will hold them for long allocates under memallocPinScope(), which takes this away.
 */
export const GFP_MOVABLE = 1 << 2;
/** The kernel's own, to be given back when memory is short (caches of what can be read again). */
export const GFP_RECLAIMABLE = 1 << 3;
/** For the kernel's own use: any zone but MOVABLE, contents unspecified. */
export const GFP_KERNEL = 0;

/** MIGRATE_* of what is allocated by these flags. Compare gfp_migratetype(). */
const gfpMigratetype = (k: Kernel, gfp: number): number => {
  if (!k.state.groupByMobility || (gfp & GFP_MOVABLE) !== 0) return MIGRATE_MOVABLE;
  return (gfp & GFP_RECLAIMABLE) !== 0 ? MIGRATE_RECLAIMABLE : MIGRATE_UNMOVABLE;
};

/**
 * The flags as they hold for the task: what it allocates to be pinned for long stays where it is.
 * Compare current_gfp_context().
 */
export const currentGfp = (k: Kernel, gfp: number): number =>
  k.task.memallocPin > 0 ? gfp & ~GFP_MOVABLE : gfp;

/** The best zone for these flags; those below it will do. Compare gfp_zone(). */
const gfpZone = (gfp: number): number => {
  if ((gfp & GFP_DMA32) !== 0) return ZONE_DMA32;
  return (gfp & GFP_MOVABLE) !== 0 ? ZONE_MOVABLE : ZONE_NORMAL;
};

/** Takes the free block that `page` heads, whichever list it is on; no reference is made. */
export const takeFreeBlock = (k: Kernel, page: number, order: number): void => {
  const zone = pageZone(k, page);
  const type = pageblockType(k, page);
  removeBlock(k, zone, page, order, type);
  countFree(zone, type, -(1 << order));
  countStat(k, 'pgalloc', 1 << order);
};

/**
 * Allocates 1 << order contiguous, naturally aligned pages; the first has one reference.
 * @param flags GFP_*
 * @returns the first page, or -ENOMEM. Compare get_page_from_freelist()
 */
export const allocPages = (k: Kernel, order: number, flags: number): number => {
  const { zones, frames } = k.state;
  if (order > MAX_PAGE_ORDER) return -ENOMEM;
  const gfp = currentGfp(k, flags);
  const type = gfpMigratetype(k, gfp);
  const cma = k.state.groupByMobility && type === MIGRATE_MOVABLE;
  for (let i = gfpZone(gfp); i >= 0; i--) {
    const zone = zones[i];
    if (zone === undefined || readOnce(zone.nrFree, 0) < 1 << order) continue;
    const page = takeBlock(k, zone, order, type, cma);
    if (page < 0) continue;
    countFree(zone, cma ? pageblockType(k, page) : type, -(1 << order));
    writeOnce(frames.refcount, page, 1);
    // So that the sanitizer knows how far the block reaches.
    writeOnce(frames.private, page, order);
    countStat(k, 'pgalloc', 1 << order);
    k.memory.mayBeWritten(page, 1 << order);
    if ((gfp & GFP_ZERO) !== 0) for (let i = 0; i < 1 << order; i++) k.memory.zeroPage(page + i);
    return page;
  }
  return -ENOMEM;
};

/**
 * Gives back what allocPages returned: its one reference, and the block when nobody else has any.
 * A GUP-fast that read an entry before it went may have counted the first page meanwhile; then that
 * page alone stays behind, as nothing in particular, until the reference is dropped (folioPut).
 * Compare mm/page_alloc.c:___free_pages(). A block whose count is zero already goes at once.
 * @throws Error when the block is still in use, reserved or free already
 */
export const freePages = (k: Kernel, page: number, order: number): void => {
  const { flags, mapcount, refcount } = k.state.frames;
  const word = readOnce(flags, page);
  if ((word & (PG_BUDDY | PG_RESERVED)) !== 0)
    throw new Error(`page ${page} freed twice, or reserved (flags 0x${word.toString(16)})`);
  if (readOnce(mapcount, page) !== 0)
    throw new Error(`page ${page} freed while ${readOnce(mapcount, page)} entries map it`);
  if (readOnce(refcount, page) === 0 || atomicAdd(refcount, page, -1) === 0) {
    releaseBlock(k, page, order);
    return;
  }
  forgetUse(k, page);
  writeOnce(k.state.frames.private, page, 0);
  for (let half = order - 1; half >= 0; half--) releaseBlock(k, page + (1 << half), half);
};

/** What the page was: nothing any more. */
const forgetUse = (k: Kernel, page: number): void => {
  writeOnce(k.state.frames.flags, page, 0);
  writeOnce(k.state.frames.mapping, page, 0);
};

/** A block that nobody refers to goes on its free list. */
const releaseBlock = (k: Kernel, page: number, order: number): void => {
  for (let i = 0; i < 1 << order; i++) {
    forgetUse(k, page + i);
    writeOnce(k.state.frames.refcount, page + i, 0);
  }
  countStat(k, 'pgfree', 1 << order);
  freeBlock(k, pageZone(k, page), page, order);
};

/**
 * Puts frames that nobody has on the free lists, in the largest blocks that fit: those of a fresh
 * machine, and those that come into use later. All are of one zone and one migratetype.
 */
export const freeRange = (k: Kernel, first: number, endPage: number): void => {
  const zone = pageZone(k, first);
  const type = pageblockType(k, first);
  // From the top, so that the lowest block ends up first on its list.
  for (let end = endPage; end > first; ) {
    let order = MAX_PAGE_ORDER;
    while ((end & ((1 << order) - 1)) !== 0 || end - (1 << order) < first) order--;
    end -= 1 << order;
    pushBlock(k, zone, end, order, type);
  }
  countFree(zone, type, endPage - first);
};
