/**
 * Sanitizer: the free lists of the buddy allocator by migratetype, pageblocks, areas of CMA, and the
 * pools of free huge pages.
 */
import {
  MIGRATE_CMA,
  MIGRATE_ISOLATE,
  MIGRATETYPE_NAMES,
  NR_MIGRATETYPES,
  pageblockOwnType,
  pageblockType,
  pageOnline,
  pageZoneIndex,
} from '../frames/pageblock.ts';
import { PAGEBLOCK_PAGES, PG_BUDDY, PG_HEAD, PG_HUGETLB } from '../frames/table.ts';
import { freeListOf, NR_PAGE_ORDERS, type Zone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import type { Census } from './census.ts';

/** `census.free` of a frame on a free list, of one in a pool, and of one that is offline. */
export const FREE_BUDDY = 1;
export const FREE_POOL = 2;
export const FREE_OFFLINE = 3;

/**
 * Checks every zone's lists and pageblocks. Marks every free frame in the census.
 * @param settled no path is suspended: nothing is isolated
 */
export const checkBuddy = (k: Kernel, census: Census, settled: boolean, report: string[]): void => {
  for (const zone of k.state.zones) {
    let nrFree = 0;
    let nrFreeCma = 0;
    for (let type = 0; type < NR_MIGRATETYPES; type++)
      for (let order = 0; order < NR_PAGE_ORDERS; order++) {
        const pages = checkFreeList(k, zone, type, order, census, report) << order;
        if (type !== MIGRATE_ISOLATE) nrFree += pages;
        if (type === MIGRATE_CMA) nrFreeCma += pages;
      }
    if (nrFree !== zone.nrFree[0]!)
      report.push(`buddy ${zone.name}: ${nrFree} free pages, counted ${zone.nrFree[0]!}`);
    if (nrFreeCma !== zone.nrFreeCma[0]!)
      report.push(`buddy ${zone.name}: ${nrFreeCma} free of CMA, counted ${zone.nrFreeCma[0]!}`);
  }
  checkPageblocks(k, census, settled, report);
  checkCma(k, census, settled, report);
};

/** @returns blocks on the list */
const checkFreeList = (
  k: Kernel,
  zone: Zone,
  type: number,
  order: number,
  { free }: Census,
  report: string[],
): number => {
  const { flags, private: orders, prev, next, refcount } = k.state.frames;
  const list = freeListOf(type, order);
  const where = `buddy ${zone.name} ${MIGRATETYPE_NAMES[type]} order ${order}`;
  let blocks = 0;
  let before = -1;
  for (let page = zone.freeHead[list]!; page >= 0; page = next[page]!) {
    const say = (what: string): void => {
      report.push(`${where}: page ${page}${what}`);
    };
    if (free[page] !== 0) {
      say(' is on a free list twice');
      break;
    }
    if ((flags[page]! & PG_BUDDY) === 0 || orders[page] !== order) say(' does not say so itself');
    if (prev[page] !== before) say(': broken back link');
    const end = page + (1 << order);
    if (page < zone.firstPage || end > zone.endPage || page % (1 << order) !== 0)
      say(' is outside the zone or not aligned');
    for (let i = page; i < end; i += PAGEBLOCK_PAGES)
      if (pageblockType(k, i) !== type || pageZoneIndex(k, i) !== zone.index || !pageOnline(k, i))
        say(' is not what its pageblock is for');
    for (let i = page; i < end; i++)
      if (refcount[i] !== 0) report.push(`buddy: free page ${i} has references`);
    free.fill(FREE_BUDDY, page, end);
    before = page;
    blocks++;
  }
  if (blocks !== zone.nrBlocks[list]!)
    report.push(`${where}: ${blocks} blocks, counted ${zone.nrBlocks[list]!}`);
  return blocks;
};

/** Frames of each zone, those that are offline, and whether anything is isolated. */
const checkPageblocks = (k: Kernel, { free }: Census, settled: boolean, report: string[]): void => {
  const { nrPages, refcount } = k.state.frames;
  const managed = k.state.zones.map(() => 0);
  for (let first = 0; first < nrPages; first += PAGEBLOCK_PAGES) {
    const end = Math.min(first + PAGEBLOCK_PAGES, nrPages);
    if (settled && pageblockType(k, first) === MIGRATE_ISOLATE)
      report.push(`pageblock of page ${first}: isolated by nobody`);
    if (pageOnline(k, first)) managed[pageZoneIndex(k, first)]! += end - first;
    // What was broken when the block went offline keeps the reference of whoever found it.
    else for (let i = first; i < end; i++) if (refcount[i] === 0) free[i] = FREE_OFFLINE;
  }
  for (const zone of k.state.zones)
    if (managed[zone.index] !== zone.managedPages)
      report.push(`zone ${zone.name}: ${managed[zone.index]!} pages, counted ${zone.managedPages}`);
};

/** Areas of CMA: their pageblocks, their bitmaps, and what those say is handed out. */
const checkCma = (k: Kernel, { free }: Census, settled: boolean, report: string[]): void => {
  for (const { name, basePage, nrPages, bitmap, available, allocating } of k.state.cmaAreas) {
    let clear = 0;
    for (let i = 0; i < nrPages; i++) {
      const page = basePage + i;
      if (i % PAGEBLOCK_PAGES === 0 && pageblockOwnType(k, page) !== MIGRATE_CMA)
        report.push(`cma ${name}: the pageblock of page ${page} is of another type`);
      if ((bitmap[i >> 5]! & (1 << (i & 31))) === 0) clear++;
      else if (settled && free[page] !== 0)
        report.push(`cma ${name}: page ${page} is handed out and free`);
    }
    if (clear !== available)
      report.push(`cma ${name}: ${clear} pages available, counted ${available}`);
    if (settled && allocating) report.push(`cma ${name}: its lock is held by nobody`);
  }
};

/** Checks the free huge pages of every pool, and marks them; those in use are counted with the frames. */
export const checkPools = (k: Kernel, { free }: Census, report: string[]): void => {
  const { flags, private: orders, refcount } = k.state.frames;
  for (const { order, free: heads, reserved } of k.state.hugetlb.hstates) {
    for (const folio of heads) {
      const say = (what: string): void => {
        report.push(`hugetlb order ${order}: free page ${folio}${what}`);
      };
      if (free[folio] !== 0) say(' is free twice');
      const wanted = PG_HUGETLB | PG_HEAD;
      if ((flags[folio]! & wanted) !== wanted || orders[folio] !== order)
        say(' is no huge page of that size');
      if (refcount[folio] !== 0) say(` has ${refcount[folio]!} references`);
      free.fill(FREE_POOL, folio, folio + (1 << order));
    }
    if (reserved < 0 || reserved > heads.length)
      report.push(`hugetlb order ${order}: ${reserved} reserved of ${heads.length} free`);
  }
};
