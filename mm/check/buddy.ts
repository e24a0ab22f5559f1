/** Sanitizer: the free lists of the buddy allocator, and the pools of free huge pages. */
import { PG_BUDDY, PG_HEAD, PG_HUGETLB } from '../frames/table.ts';
import { NR_PAGE_ORDERS, type Zone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import type { Census } from './census.ts';

/** `census.free` of a frame on a free list, and of one in a pool. */
export const FREE_BUDDY = 1;
export const FREE_POOL = 2;

/** Checks every zone's lists. Marks every free frame in the census. */
export const checkBuddy = (k: Kernel, census: Census, report: string[]): void => {
  for (const zone of k.state.zones) {
    let nrFree = 0;
    for (let order = 0; order < NR_PAGE_ORDERS; order++)
      nrFree += checkFreeList(k, zone, order, census, report) << order;
    if (nrFree !== zone.nrFree[0]!)
      report.push(`buddy ${zone.name}: ${nrFree} free pages, counted ${zone.nrFree[0]!}`);
  }
};

/** @returns blocks on the list */
const checkFreeList = (
  k: Kernel,
  zone: Zone,
  order: number,
  { free }: Census,
  report: string[],
): number => {
  const { flags, private: orders, prev, next, refcount } = k.state.frames;
  let blocks = 0;
  let before = -1;
  for (let page = zone.freeHead[order]!; page >= 0; page = next[page]!) {
    const say = (what: string): void => {
      report.push(`buddy ${zone.name} order ${order}: page ${page}${what}`);
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
    for (let i = page; i < end; i++)
      if (refcount[i] !== 0) report.push(`buddy: free page ${i} has references`);
    free.fill(FREE_BUDDY, page, end);
    before = page;
    blocks++;
  }
  if (blocks !== zone.nrBlocks[order]!)
    report.push(
      `buddy ${zone.name} order ${order}: ${blocks} blocks, counted ${zone.nrBlocks[order]!}`,
    );
  return blocks;
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
