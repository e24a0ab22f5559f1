/**
 * The pools of huge pages: filling, taking from, giving back. Compare mm/hugetlb.c.
 *
 * A page of a pool is a large folio for as long as it stays in the pool; without a reference it is
 * free. There are no surplus pages: nr_overcommit_hugepages is 0. All of this is under hugetlb_lock
 * in Linux: nothing here yields.
 */
import { fetchAndNot, listPush, listRemoveAt, readOnce, setField, writeOnce } from '#cells';
import { EINVAL, ENOMEM } from '../errno.ts';
import { folioClearFlags, folioOrder, folioSetFlags, folioSetMapping } from '../folio/folio.ts';
import { folioAllocOrder, folioPrepLarge, folioUnprepLarge } from '../folio/large.ts';
import { freePages, GFP_KERNEL } from '../frames/buddy.ts';
import { allocContig, freeContig } from '../frames/contig.ts';
import { PG_HEAD, PG_HUGETLB, PG_RESTORE_RESERVE } from '../frames/table.ts';
import { MAX_PAGE_ORDER } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import type { Hstate } from './state.ts';

/** The pool of a size, null where there is none. Compare size_to_hstate(). */
export const hstateOfOrder = (k: Kernel, order: number): Hstate | null =>
  k.state.hugetlb.hstates.find((h) => h.order === order) ?? null;

/** The pool of a folio. */
const folioHstate = (k: Kernel, folio: number): Hstate => {
  const h = hstateOfOrder(k, folioOrder(k, folio));
  if (h === null) throw new Error(`folio ${folio}: no pool of order ${folioOrder(k, folio)}`);
  return h;
};

/** Pages that nobody has and nobody was promised. Compare available_huge_pages(). */
export const availableHugePages = (h: Hstate): number => h.free.length - h.reserved;

/** A new large folio from the buddy allocator. @returns the folio or -ENOMEM */
const allocFresh = (k: Kernel, order: number): number => {
  if (order <= MAX_PAGE_ORDER) return folioAllocOrder(k, order, GFP_KERNEL);
  const folio = allocContig(k, 1 << order, 1 << order);
  if (folio < 0) return folio;
  writeOnce(k.state.frames.private, folio, order);
  folioPrepLarge(k, folio, order);
  return folio;
};

/** A free page of the pool becomes ordinary memory again. Compare update_and_free_hugetlb_folio(). */
const dissolve = (k: Kernel, folio: number, order: number): void => {
  fetchAndNot(k.state.frames.flags, folio, PG_HUGETLB);
  folioUnprepLarge(k, folio, order);
  if (order <= MAX_PAGE_ORDER) freePages(k, folio, order);
  else freeContig(k, folio, 1 << order);
};

/**
 * Makes a pool `nrPages` large, as far as it goes: it grows while there is contiguous memory, and
 * shrinks by what is neither in use nor promised. Compare set_max_huge_pages().
 * @param order HUGETLB_ORDER_*
 * @returns pages that the pool has now, or -EINVAL for a size that does not exist
 */
export const hugetlbSetPool = (k: Kernel, order: number, nrPages: number): number => {
  const h = hstateOfOrder(k, order);
  if (h === null || nrPages < 0) return -EINVAL;
  while (h.nrPages < nrPages) {
    const folio = allocFresh(k, order);
    if (folio === -ENOMEM) break;
    folioSetFlags(k, folio, PG_HUGETLB);
    writeOnce(k.state.frames.refcount, folio, 0);
    setField(h, 'nrPages', h.nrPages + 1);
    listPush(h.free, folio);
  }
  while (h.nrPages > nrPages && availableHugePages(h) > 0) {
    const folio = listRemoveAt(h.free, h.free.length - 1);
    if (folio === undefined) break;
    setField(h, 'nrPages', h.nrPages - 1);
    dissolve(k, folio, order);
  }
  return h.nrPages;
};

/**
 * Takes a free page, promised or not: the caller has seen to that. It has one reference then, and
 * its bytes are what they were. Compare dequeue_hugetlb_folio_node_exact().
 * @returns the folio, or -ENOMEM where none is free
 */
export const dequeueHugetlbFolio = (k: Kernel, h: Hstate): number => {
  const folio = listRemoveAt(h.free, h.free.length - 1);
  if (folio === undefined) return -ENOMEM;
  writeOnce(k.state.frames.refcount, folio, 1);
  return folio;
};

/**
 * The last reference of a hugetlb folio has gone: back to its pool, with the promise that it came
 * from where the folio says so. Compare free_huge_folio().
 */
export const freeHugetlbFolio = (k: Kernel, folio: number): void => {
  const h = folioHstate(k, folio);
  const { pincount } = k.state.frames;
  if (readOnce(pincount, folio) !== 0)
    throw new Error(`folio ${folio} freed with ${readOnce(pincount, folio)} pins`);
  const flags = folioClearFlags(k, folio, ~(PG_HEAD | PG_HUGETLB));
  if ((flags & PG_RESTORE_RESERVE) !== 0) setField(h, 'reserved', h.reserved + 1);
  folioSetMapping(k, folio, 0, 0);
  listPush(h.free, folio);
};

/**
 * Promises `delta` pages more of a pool, or takes promises back.
 * @returns 0, or -ENOMEM where the pool cannot promise so many. Compare hugetlb_acct_memory()
 */
export const hugetlbAcctMemory = (h: Hstate, delta: number): number => {
  if (delta > availableHugePages(h)) return -ENOMEM;
  if (h.reserved + delta < 0)
    throw new Error(`hugetlb order ${h.order}: ${-delta} promises taken back of ${h.reserved}`);
  setField(h, 'reserved', h.reserved + delta);
  return 0;
};
