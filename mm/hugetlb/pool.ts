/**
 * The pools of huge pages: filling, taking from, giving back. Compare mm/hugetlb.c.
 *
 * A page of a pool is a large folio for as long as it stays in the pool; without a reference it is
 * free. There are no surplus pages, nr_overcommit_hugepages being 0, but for temporary ones that
 * migration moves to when the pool has none left. All of this is under hugetlb_lock in Linux: nothing
 * here yields.
 */
import { fetchAndNot, listPush, listRemoveAt, readOnce, setField, writeOnce } from '#cells';
import { EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import {
  folioClearFlags,
  folioOrder,
  folioSetFlags,
  folioSetMapping,
  folioTestFlags,
} from '../folio/folio.ts';
import { folioAllocOrder, folioPrepLarge, folioUnprepLarge } from '../folio/large.ts';
import { folioIsLongtermPinnable } from '../folio/pin.ts';
import { freePages, GFP_MOVABLE } from '../frames/buddy.ts';
import { allocContig, freeContig } from '../frames/contig.ts';
import { MIGRATE_ISOLATE, pageblockType } from '../frames/pageblock.ts';
import {
  PG_HEAD,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_RESTORE_RESERVE,
  PG_TEMPORARY,
} from '../frames/table.ts';
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

/**
 * One page more for a pool, from the buddy allocator, with a reference. Those of 2 MiB can be moved.
 * @returns the folio or -ENOMEM. Compare only_alloc_and_account_fresh_hugetlb_folio()
 */
const allocFresh = (k: Kernel, h: Hstate): number => {
  const { order } = h;
  let folio: number;
  if (order <= MAX_PAGE_ORDER) folio = folioAllocOrder(k, order, GFP_MOVABLE);
  else {
    folio = allocContig(k, 1 << order, 1 << order);
    if (folio >= 0) folioPrepLarge(k, folio, order);
  }
  if (folio < 0) return folio;
  folioSetFlags(k, folio, PG_HUGETLB);
  setField(h, 'nrPages', h.nrPages + 1);
  return folio;
};

/** A page of the pool becomes ordinary memory again: on no list, without a reference. Compare update_and_free_hugetlb_folio(). */
const dissolve = (k: Kernel, h: Hstate, folio: number): void => {
  const { order } = h;
  setField(h, 'nrPages', h.nrPages - 1);
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
    const folio = allocFresh(k, h);
    if (folio === -ENOMEM) break;
    writeOnce(k.state.frames.refcount, folio, 0);
    listPush(h.free, folio);
  }
  while (h.nrPages > nrPages && availableHugePages(h) > 0) {
    const folio = listRemoveAt(h.free, h.free.length - 1);
    if (folio === undefined) break;
    dissolve(k, h, folio);
  }
  return h.nrPages;
};

/**
 * May a free page be handed out now? Not a broken one, nor one of a range that is being emptied; for a
 * pin that lasts only one that may stay where it is.
 */
const mayHandOut = (k: Kernel, folio: number): boolean =>
  !folioTestFlags(k, folio, PG_HWPOISON) &&
  pageblockType(k, folio) !== MIGRATE_ISOLATE &&
  (k.task.memallocPin === 0 || folioIsLongtermPinnable(k, folio));

/**
 * Takes a free page, promised or not: the caller has seen to that. It has one reference then, and
 * its bytes are what they were. Compare dequeue_hugetlb_folio_node_exact().
 * @returns the folio, or -ENOMEM where none is free that may be handed out
 */
export const dequeueHugetlbFolio = (k: Kernel, h: Hstate): number => {
  const at = h.free.findLastIndex((free) => mayHandOut(k, free));
  const folio = at < 0 ? undefined : listRemoveAt(h.free, at);
  if (folio === undefined) return -ENOMEM;
  writeOnce(k.state.frames.refcount, folio, 1);
  return folio;
};

/**
 * A page for a huge page that is moved to go to, with one reference: what is left over of the pool,
 * or one beyond, which is given up in the end in the old one's stead.
 * @returns the folio or -ENOMEM. Compare alloc_hugetlb_folio_nodemask()
 */
export const allocHugetlbTarget = (k: Kernel, src: number): number => {
  const h = folioHstate(k, src);
  const own = availableHugePages(h) > 0 ? dequeueHugetlbFolio(k, h) : -ENOMEM;
  if (own >= 0) return own;
  const fresh = allocFresh(k, h);
  if (fresh >= 0) folioSetFlags(k, fresh, PG_TEMPORARY);
  return fresh;
};

/**
 * A free page of a pool becomes ordinary memory, and the pool has one less.
 * @returns 0; -EBUSY: in use, or every free page is promised to somebody. Compare dissolve_free_hugetlb_folio()
 */
export const dissolveFreeHugetlbFolio = (k: Kernel, folio: number): number => {
  const h = folioHstate(k, folio);
  const at = h.free.indexOf(folio);
  if (at < 0 || availableHugePages(h) <= 0) return -EBUSY;
  listRemoveAt(h.free, at);
  dissolve(k, h, folio);
  return 0;
};

/**
 * A free page of a pool becomes ordinary memory, and another one takes its place.
 * @returns 0; -EBUSY: in use; -ENOMEM: there is no other. Compare alloc_and_dissolve_hugetlb_folio()
 */
export const replaceFreeHugetlbFolio = (k: Kernel, folio: number): number => {
  const h = folioHstate(k, folio);
  if (!h.free.includes(folio)) return -EBUSY;
  const fresh = allocFresh(k, h);
  if (fresh < 0) return -ENOMEM;
  writeOnce(k.state.frames.refcount, fresh, 0);
  listPush(h.free, fresh);
  listRemoveAt(h.free, h.free.indexOf(folio));
  dissolve(k, h, folio);
  return 0;
};

/**
 * The last reference of a hugetlb folio has gone: back to its pool, with the promise that it came
 * from where the folio says so; a temporary one to the buddy allocator. Compare free_huge_folio().
 */
export const freeHugetlbFolio = (k: Kernel, folio: number): void => {
  const h = folioHstate(k, folio);
  const { pincount } = k.state.frames;
  if (readOnce(pincount, folio) !== 0)
    throw new Error(`folio ${folio} freed with ${readOnce(pincount, folio)} pins`);
  const flags = folioClearFlags(k, folio, ~(PG_HEAD | PG_HUGETLB));
  if ((flags & PG_RESTORE_RESERVE) !== 0) setField(h, 'reserved', h.reserved + 1);
  folioSetMapping(k, folio, 0, 0);
  if ((flags & PG_TEMPORARY) !== 0) dissolve(k, h, folio);
  else listPush(h.free, folio);
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
