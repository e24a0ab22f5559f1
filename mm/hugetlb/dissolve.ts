/**
 * Huge pages that are in the way of somebody who wants a range of frames for himself
 * (alloc_contig_range(), memory offline). Compare mm/hugetlb.c:isolate_or_dissolve_huge_folio(),
 * replace_free_hugepage_folios(), dissolve_free_hugetlb_folios().
 *
 * Those in use are isolated and move. Free ones leave the pool: for alloc_contig_range() another one
 * takes the place of each, for memory that goes away the pool shrinks.
 */
import { EBUSY, ENOMEM } from '../errno.ts';
import { folioOf, folioOrder, folioRefCount, folioTestFlags } from '../folio/folio.ts';
import { PG_HUGETLB } from '../frames/table.ts';
import { MAX_PAGE_ORDER } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import { isolateHugetlb } from './migrate.ts';
import { dissolveFreeHugetlbFolio, replaceFreeHugetlbFolio } from './pool.ts';

/**
 * Makes way where a hugetlb folio lies.
 * @returns 1: in use, isolated, to be moved and put back (putbackHugetlb); 0: it was free, and is
 *   ordinary memory now; -EBUSY: isolated by somebody else, or on its way to its first user; -ENOMEM: of
 *   1 GiB, for which nothing is tried, or no page to replace it by
 */
export const isolateOrDissolveHugetlb = (k: Kernel, folio: number): number => {
  if (!folioTestFlags(k, folio, PG_HUGETLB)) return 0;
  if (folioOrder(k, folio) > MAX_PAGE_ORDER) return -ENOMEM;
  if (folioRefCount(k, folio) === 0) return replaceFreeHugetlbFolio(k, folio);
  return isolateHugetlb(k, folio) ? 1 : -EBUSY;
};

/** Calls `leave` for every free hugetlb folio that has a page in [startPage, endPage), up to the first error. */
const forFreeFolios = (
  k: Kernel,
  startPage: number,
  endPage: number,
  leave: (k: Kernel, folio: number) => number,
): number => {
  let error = 0;
  for (let page = startPage; page < endPage && error === 0; ) {
    const folio = folioOf(k, page);
    if (!folioTestFlags(k, folio, PG_HUGETLB)) {
      page++;
      continue;
    }
    page = folio + (1 << folioOrder(k, folio));
    if (folioRefCount(k, folio) === 0) error = leave(k, folio);
  }
  return error;
};

/**
 * Free huge pages of [startPage, endPage) are replaced by others: what migration has freed there lies
 * in the pool again. @returns 0 or -ENOMEM
 */
export const replaceFreeHugetlbFolios = (k: Kernel, startPage: number, endPage: number): number =>
  forFreeFolios(k, startPage, endPage, replaceFreeHugetlbFolio);

/**
 * Free huge pages of [startPage, endPage) leave their pools.
 * @returns 0, or -EBUSY: the pool has promised all the free pages that it has
 */
export const dissolveFreeHugetlbFolios = (k: Kernel, startPage: number, endPage: number): number =>
  forFreeFolios(k, startPage, endPage, dissolveFreeHugetlbFolio);
