/**
 * Runs of free frames that are larger than a block of the buddy allocator: 1 GiB pages of hugetlb,
 * memory of devices. Compare mm/page_alloc.c:alloc_contig_pages(), which also moves what is in the
 * way, as allocContigPages() does in mm/compact/contig.ts; here a run has to be free already.
 */
import { writeOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import type { Kernel } from '../types.ts';
import { freePages, isFreeBlock, takeFreeBlock } from './buddy.ts';
import { MIGRATE_CMA, pageblockType } from './pageblock.ts';
import { MAX_PAGE_ORDER, ZONE_NORMAL } from './zone.ts';

const BLOCK_PAGES = 1 << MAX_PAGE_ORDER;

/**
 * True where the `nrPages` from `first`, whole blocks, are free, and not lent by CMA or isolated:
 * each then heads a largest block.
 */
const isFreeRun = (k: Kernel, first: number, nrPages: number): boolean => {
  for (let page = first; page < first + nrPages; page += BLOCK_PAGES)
    if (!isFreeBlock(k, page, MAX_PAGE_ORDER) || pageblockType(k, page) >= MIGRATE_CMA)
      return false;
  return true;
};

/**
 * Takes `nrPages` contiguous free pages, from the top downwards, where they are least missed, but
 * never from zone MOVABLE. The first page has one reference.
 * @param nrPages a multiple of 1 << MAX_PAGE_ORDER
 * @param align pages that the first is a multiple of; at least 1 << MAX_PAGE_ORDER
 * @returns the first page, or -ENOMEM: no zone has such a run
 */
export const allocContig = (k: Kernel, nrPages: number, align: number): number => {
  const { zones, frames } = k.state;
  for (let i = ZONE_NORMAL; i >= 0; i--) {
    const zone = zones[i];
    if (zone === undefined) continue;
    const top = zone.endPage - nrPages;
    for (let first = top - (top % align); first >= zone.firstPage; first -= align) {
      if (!isFreeRun(k, first, nrPages)) continue;
      for (let page = first; page < first + nrPages; page += BLOCK_PAGES)
        takeFreeBlock(k, page, MAX_PAGE_ORDER);
      writeOnce(frames.refcount, first, 1);
      return first;
    }
  }
  return -ENOMEM;
};

/** Gives the pages of a run back, whatever they have been since; nobody refers to any of them. */
export const freeContig = (k: Kernel, first: number, nrPages: number): void => {
  for (let page = first; page < first + nrPages; page += BLOCK_PAGES)
    freePages(k, page, MAX_PAGE_ORDER);
};
