/**
 * The buddy allocator: blocks of 1 << order pages, order 0 to 10. Compare mm/page_alloc.c.
 *
 * A free block is known by its first page: PG_BUDDY, its order in `private`, its neighbours on the
 * free list in `next` and `prev`. No other page of it is touched, so a fresh machine's lists cost
 * one entry per 4 MiB. Everything is under the zone's lock in Linux: nothing here yields.
 */
import { atomicAdd, readOnce, writeOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { PG_BUDDY, PG_RESERVED } from './table.ts';
import { MAX_PAGE_ORDER, pageZone, ZONE_DMA32, type Zone } from './zone.ts';

/** The bytes are to be zero. */
export const GFP_ZERO = 1 << 0;
/** Below physical 4 GiB only. */
export const GFP_DMA32 = 1 << 1;
/**
 * The pages can be moved while they are in use (GFP_HIGHUSER_MOVABLE): those of users and of page
 * caches. Whoever will hold them for long allocates under memallocPinBegin(), which takes this away.
 */
export const GFP_MOVABLE = 1 << 2;
/** For the kernel's own use: any zone, contents unspecified. */
export const GFP_KERNEL = 0;

const pushBlock = (k: Kernel, zone: Zone, page: number, order: number): void => {
  const { flags, next, prev, private: priv } = k.state.frames;
  const first = readOnce(zone.freeHead, order);
  writeOnce(flags, page, PG_BUDDY);
  writeOnce(priv, page, order);
  writeOnce(next, page, first);
  writeOnce(prev, page, -1);
  if (first >= 0) writeOnce(prev, first, page);
  writeOnce(zone.freeHead, order, page);
  atomicAdd(zone.nrBlocks, order, 1);
};

const removeBlock = (k: Kernel, zone: Zone, page: number, order: number): void => {
  const { flags, next, prev, private: priv } = k.state.frames;
  const after = readOnce(next, page);
  const before = readOnce(prev, page);
  if (before >= 0) writeOnce(next, before, after);
  else writeOnce(zone.freeHead, order, after);
  if (after >= 0) writeOnce(prev, after, before);
  writeOnce(flags, page, 0);
  writeOnce(priv, page, 0);
  writeOnce(next, page, -1);
  writeOnce(prev, page, -1);
  atomicAdd(zone.nrBlocks, order, -1);
};

/** Takes a block out of one zone; -1 when it has none that large. Compare __rmqueue_smallest(). */
const takeBlock = (k: Kernel, zone: Zone, order: number): number => {
  for (let have = order; have <= MAX_PAGE_ORDER; have++) {
    const page = readOnce(zone.freeHead, have);
    if (page < 0) continue;
    removeBlock(k, zone, page, have);
    // The upper halves go back, largest first: what is handed out is the lowest part.
    for (let half = have - 1; half >= order; half--) pushBlock(k, zone, page + (1 << half), half);
    return page;
  }
  return -1;
};

/** True where `page` heads a free block of that order. Compare page_is_buddy(). */
export const isFreeBlock = (k: Kernel, page: number, order: number): boolean =>
  (readOnce(k.state.frames.flags, page) & PG_BUDDY) !== 0 &&
  readOnce(k.state.frames.private, page) === order;

/** Takes the free block that `page` heads, whichever list it is on; no reference is made. */
export const takeFreeBlock = (k: Kernel, page: number, order: number): void => {
  const zone = pageZone(k, page);
  removeBlock(k, zone, page, order);
  atomicAdd(zone.nrFree, 0, -(1 << order));
  countStat(k, 'pgalloc', 1 << order);
};

/**
 * Allocates 1 << order contiguous, naturally aligned pages; the first has one reference.
 * @param gfp GFP_*
 * @returns the first page, or -ENOMEM
 */
export const allocPages = (k: Kernel, order: number, gfp: number): number => {
  const { zones, frames } = k.state;
  if (order > MAX_PAGE_ORDER) return -ENOMEM;
  const from = (gfp & GFP_DMA32) !== 0 ? ZONE_DMA32 : zones.length - 1;
  for (let i = from; i >= 0; i--) {
    const zone = zones[i];
    if (zone === undefined) continue;
    const page = takeBlock(k, zone, order);
    if (page < 0) continue;
    atomicAdd(zone.nrFree, 0, -(1 << order));
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

/** Puts a block on its list, merged with every free neighbour. Compare __free_one_page(). */
const freeBlock = (k: Kernel, zone: Zone, firstPage: number, firstOrder: number): void => {
  let page = firstPage;
  let order = firstOrder;
  while (order < MAX_PAGE_ORDER) {
    const buddy = page ^ (1 << order);
    if (buddy < zone.firstPage || buddy + (1 << order) > zone.endPage) break;
    if (!isFreeBlock(k, buddy, order)) break;
    removeBlock(k, zone, buddy, order);
    page &= ~(1 << order);
    order++;
  }
  pushBlock(k, zone, page, order);
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
  const zone = pageZone(k, page);
  atomicAdd(zone.nrFree, 0, 1 << order);
  countStat(k, 'pgfree', 1 << order);
  freeBlock(k, zone, page, order);
};

/** Builds the free lists of a fresh machine: every frame is free, in the largest blocks that fit. */
export const freeAllPages = (k: Kernel): void => {
  for (const zone of k.state.zones) {
    // From the top, so that the lowest block ends up first on its list.
    let end = zone.endPage;
    while (end > zone.firstPage) {
      let order = MAX_PAGE_ORDER;
      while ((end & ((1 << order) - 1)) !== 0 || end - (1 << order) < zone.firstPage) order--;
      end -= 1 << order;
      pushBlock(k, zone, end, order);
      atomicAdd(zone.nrFree, 0, 1 << order);
    }
  }
};
