/**
 * Isolating pageblocks: from then on nothing of them is handed out, and what is freed stays free, so
 * that somebody can empty them. Compare mm/page_isolation.c and mm/page_alloc.c,
 * isolate_freepages_range().
 *
 * A page that can never be moved makes it pointless: then nothing is isolated. That of a page that
 * can it is not known here, only tried. Pageblocks are whole; ranges need not be.
 */
import { readOnce } from '#cells';
import { folioOf } from '../folio/folio.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import { cutToPageblocks, freeBlock, isCmaPage, moveFreeBlocks, removeBlock } from './free-list.ts';
import {
  MIGRATE_ISOLATE,
  pageblockAlign,
  pageblockStart,
  pageblockType,
  pageOnline,
  setPageblockIsolated,
} from './pageblock.ts';
import {
  PAGEBLOCK_PAGES,
  PG_BUDDY,
  PG_HEAD,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_LRU,
  PG_RESERVED,
} from './table.ts';
import { isZoneDevice } from './zone-device.ts';
import { MAX_PAGE_ORDER, pageZone, ZONE_MOVABLE } from './zone.ts';

/** What a range is isolated for. Compare enum pb_isolate_mode. */
export type IsolateMode = 'offline' | 'cma' | 'contig';

/** Pages of the folio, or of the free block, from `page` on; 1 for any other page. */
const pagesFrom = (k: Kernel, page: number, head: number): number =>
  head + (1 << readOnce(k.state.frames.private, head)) - page;

/**
 * The first page of a range within one pageblock that can never be moved, -1 for none. Pages that are
 * about to be freed, or on their way to a list, are not told from others: they say no, too.
 * Compare has_unmovable_pages().
 */
const unmovablePage = (
  k: Kernel,
  startPage: number,
  endPage: number,
  mode: IsolateMode,
): number => {
  // What is in CMA was movable when it came there; CMA itself is nobody else's.
  if (isCmaPage(k, startPage)) return mode === 'cma' ? -1 : startPage;
  const { flags, refcount } = k.state.frames;
  const movable = pageZone(k, startPage).index === ZONE_MOVABLE;
  for (let page = startPage; page < endPage; ) {
    const folio = folioOf(k, page);
    const word = readOnce(flags, folio);
    if ((word & PG_RESERVED) !== 0 || isZoneDevice(word)) return page;
    if ((word & PG_BUDDY) !== 0) page += pagesFrom(k, page, page);
    else if ((word & (PG_HUGETLB | PG_LRU)) !== 0) page += folioPagesFrom(k, page, folio);
    // Its block is free, or in use by whoever has the first page: that one says it.
    else if (movable || readOnce(refcount, folio) === 0) page++;
    else if (mode === 'offline' && (word & PG_HWPOISON) !== 0) page++;
    else return page;
  }
  return -1;
};

/** Pages of a folio from `page` on; a small one's `private` is not an order. */
const folioPagesFrom = (k: Kernel, page: number, folio: number): number =>
  (readOnce(k.state.frames.flags, folio) & PG_HEAD) !== 0 ? pagesFrom(k, page, folio) : 1;

/** One pageblock, of which [startPage, endPage) matters. @returns -1, or what is in the way. Compare set_migratetype_isolate() */
const isolatePageblock = (
  k: Kernel,
  block: number,
  startPage: number,
  endPage: number,
  mode: IsolateMode,
): number => {
  const type = pageblockType(k, block);
  if (type === MIGRATE_ISOLATE || !pageOnline(k, block)) return block;
  const first = Math.max(block, startPage);
  const unmovable = unmovablePage(k, first, Math.min(block + PAGEBLOCK_PAGES, endPage), mode);
  if (unmovable >= 0) return unmovable;
  const zone = pageZone(k, block);
  cutToPageblocks(k, zone, block, type);
  setPageblockIsolated(k, block, true);
  moveFreeBlocks(k, zone, block, type, MIGRATE_ISOLATE);
  return -1;
};

/** One pageblock is what it was before. Its free pages merge with their neighbours. Compare unset_migratetype_isolate(). */
const unisolatePageblock = (k: Kernel, block: number): void => {
  const { flags, private: priv, nrPages } = k.state.frames;
  const zone = pageZone(k, block);
  cutToPageblocks(k, zone, block, MIGRATE_ISOLATE);
  setPageblockIsolated(k, block, false);
  for (let page = block; page < Math.min(block + PAGEBLOCK_PAGES, nrPages); ) {
    if ((readOnce(flags, page) & PG_BUDDY) === 0) {
      page++;
      continue;
    }
    const order = readOnce(priv, page);
    removeBlock(k, zone, page, order, MIGRATE_ISOLATE);
    freeBlock(k, zone, page, order);
    page += 1 << order;
  }
};

/**
 * Isolates the pageblocks of [startPage, endPage).
 * @returns -1; or a page that cannot be moved, or whose pageblock is isolated already, and then nothing
 *   is isolated that was not. Compare start_isolate_page_range()
 */
export const startIsolatePageRange = (
  k: Kernel,
  startPage: number,
  endPage: number,
  mode: IsolateMode,
): number => {
  const first = pageblockStart(startPage);
  for (let block = first; block < endPage; block += PAGEBLOCK_PAGES) {
    const unmovable = isolatePageblock(k, block, startPage, endPage, mode);
    if (unmovable < 0) continue;
    undoIsolatePageRange(k, first, block);
    return unmovable;
  }
  return -1;
};

/** The pageblocks of [startPage, endPage), all isolated, are for what they were for before. */
export const undoIsolatePageRange = (k: Kernel, startPage: number, endPage: number): void => {
  const end = pageblockAlign(endPage);
  for (let block = pageblockStart(startPage); block < end; block += PAGEBLOCK_PAGES)
    unisolatePageblock(k, block);
};

/** First page of the free block that a page is in; the page itself if it is not free. Compare find_large_buddy(). */
const freeBlockOf = (k: Kernel, page: number): number => {
  const { flags, private: priv } = k.state.frames;
  for (let order = 0; order <= MAX_PAGE_ORDER; order++) {
    const head = page & -(1 << order);
    if ((readOnce(flags, head) & PG_BUDDY) !== 0 && head + (1 << readOnce(priv, head)) > page)
      return head;
  }
  return page;
};

/**
 * The first page of an isolated range that is not free, -1 for none; where memory goes offline a
 * broken one does not count. Compare test_pages_isolated().
 */
export const busyPage = (
  k: Kernel,
  startPage: number,
  endPage: number,
  mode: IsolateMode,
): number => {
  const { flags } = k.state.frames;
  for (let page = freeBlockOf(k, startPage); page < endPage; ) {
    const word = readOnce(flags, page);
    if ((word & PG_BUDDY) !== 0) page += pagesFrom(k, page, page);
    else if (mode === 'offline' && (word & PG_HWPOISON) !== 0) page++;
    else return page;
  }
  return -1;
};

/**
 * Takes what is free of an isolated range off its lists; no reference is made. What free blocks reach
 * beyond the range stays free. Compare isolate_freepages_range().
 */
export const takeIsolatedRange = (k: Kernel, startPage: number, endPage: number): void => {
  const { flags, private: priv } = k.state.frames;
  for (let page = freeBlockOf(k, startPage); page < endPage; ) {
    if ((readOnce(flags, page) & PG_BUDDY) === 0) {
      page++;
      continue;
    }
    const order = readOnce(priv, page);
    const zone = pageZone(k, page);
    const end = page + (1 << order);
    removeBlock(k, zone, page, order, MIGRATE_ISOLATE);
    countStat(k, 'pgalloc', Math.min(end, endPage) - Math.max(page, startPage));
    for (let outer = page; outer < startPage; outer++) freeBlock(k, zone, outer, 0);
    for (let outer = endPage; outer < end; outer++) freeBlock(k, zone, outer, 0);
    page = end;
  }
};
