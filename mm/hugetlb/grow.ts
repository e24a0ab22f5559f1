/**
 * Making room for huge pages of 1 GiB: what is in the way is moved, where hugetlbSetPool() takes what
 * is free already. Compare mm/hugetlb.c:alloc_gigantic_folio().
 */
import { allocContigPages } from '../compact/contig.ts';
import { EINVAL } from '../errno.ts';
import { freeContig } from '../frames/contig.ts';
import { MAX_PAGE_ORDER } from '../frames/zone.ts';
import type { Path } from '../path.ts';
import type { Kernel } from '../types.ts';
import { hstateOfOrder, hugetlbSetPool } from './pool.ts';

/**
 * As hugetlbSetPool(), but moves users' pages out of the way if it has to.
 * @param order HUGETLB_ORDER_*; of 2 MiB nothing is moved
 * @returns pages that the pool has now, or -EINVAL for a size that does not exist
 */
export function* hugetlbGrowPool(k: Kernel, order: number, nrPages: number): Path<number> {
  const h = hstateOfOrder(k, order);
  if (h === null) return -EINVAL;
  for (;;) {
    const now = hugetlbSetPool(k, order, nrPages);
    if (now >= nrPages || order <= MAX_PAGE_ORDER) return now;
    const first = yield* allocContigPages(k, 1 << order, 1 << order);
    if (first < 0) return h.nrPages;
    // Free for an instant, and then the pool's.
    freeContig(k, first, 1 << order);
  }
}
