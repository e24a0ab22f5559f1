/**
 * Files of hugetlbfs and their page cache: one entry and one reference for each huge page, at the
 * offset of its first page. Compare fs/hugetlbfs/inode.c, mm/hugetlb.c:hugetlb_add_to_page_cache().
 */
import { EEXIST, EINVAL } from '../errno.ts';
import { folioClearFlags, folioUnlock } from '../folio/folio.ts';
import { PG_DIRTY, PG_MIGRATABLE, PG_RESTORE_RESERVE } from '../frames/table.ts';
import { mappingAddFolio, mappingCreate } from '../fs/mapping.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { zeroHugeFolio } from './alloc.ts';
import { hugetlbFaultLock, hugetlbFaultUnlock } from './lock.ts';
import { hstateOfOrder } from './pool.ts';
import { hugetlbTakeForFile } from './resv.ts';
import { createResvMap } from './state.ts';

/**
 * A file of huge pages, all holes and nothing promised yet; the caller is its first user.
 * Compare hugetlb_file_setup().
 * @param order HUGETLB_ORDER_*
 * @param nrPages its size, rounded up to whole huge pages
 * @returns the file, or -EINVAL for a size of page that does not exist
 */
export const hugetlbFileSetup = (
  k: Kernel,
  order: number,
  nrPages: number,
): AddressSpace | number => {
  if (hstateOfOrder(k, order) === null) return -EINVAL;
  const nr = 1 << order;
  const mapping = mappingCreate(k, 'hugetlbfs', Math.ceil(nrPages / nr) * nr);
  mapping.hugeOrder = order;
  mapping.resv = createResvMap();
  return mapping;
};

/** Puts a new huge page into the file: locked, and dirty, because nothing else has its bytes. */
export const hugetlbAddToCache = (
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  folio: number,
): void => {
  mappingAddFolio(k, mapping, pgoff, folio, PG_DIRTY | PG_MIGRATABLE);
  folioClearFlags(k, folio, PG_RESTORE_RESERVE);
};

/**
 * A huge page for a hole of the file, without a mapping that would have been promised one: it is
 * promised here, and had at once. Compare mm/memfd.c:memfd_alloc_folio(). Linux takes the lock of
 * faults only to put the page into the file, so that whoever loses a race takes somebody else's promise.
 * @param pgoff of its first page
 * @returns the folio, in the file and with a reference for the caller; -EEXIST: it is no hole any
 *   more; -ENOMEM
 */
export function* hugetlbAllocHole(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  const index = pgoff / (1 << mapping.hugeOrder);
  yield* hugetlbFaultLock(k, mapping, index);
  const folio = mapping.pages.has(pgoff) ? -EEXIST : hugetlbTakeForFile(k, mapping, index);
  if (folio >= 0) {
    if (k.watched) yield YP_FAULT_ALLOCATED;
    zeroHugeFolio(k, folio);
    hugetlbAddToCache(k, mapping, pgoff, folio);
    folioUnlock(k, folio);
  }
  hugetlbFaultUnlock(k, mapping, index);
  return folio;
}
