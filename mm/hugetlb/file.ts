/**
 * Files of hugetlbfs and their page cache: one entry and one reference for each huge page, at the
 * offset of its first page. Compare fs/hugetlbfs/inode.c, mm/hugetlb.c:hugetlb_add_to_page_cache().
 */
import { mapSet, readOnce } from '#cells';
import { EINVAL, ENOENT } from '../errno.ts';
import {
  folioClearFlags,
  folioGet,
  folioLock,
  folioPut,
  folioSetFlags,
  folioSetMapping,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { PG_DIRTY, PG_LOCKED, PG_RESTORE_RESERVE } from '../frames/table.ts';
import { mappingCreate } from '../fs/mapping.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { hstateOfOrder } from './pool.ts';
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

/**
 * The huge page at an offset, if the file has it.
 * @param pgoff of its first page
 * @returns the folio, locked and with a reference for the caller; -ENOENT. Compare filemap_lock_hugetlb_folio()
 */
export function* hugetlbLockFolio(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  for (;;) {
    const folio = mapping.pages.get(pgoff);
    if (folio === undefined) return -ENOENT;
    folioGet(k, folio);
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    if (
      readOnce(k.state.frames.mapping, folio) === mapping.id &&
      mapping.pages.get(pgoff) === folio
    )
      return folio;
    folioUnlock(k, folio);
    folioPut(k, folio);
  }
}

/** Puts a new huge page into the file: locked, and dirty, because nothing else has its bytes. */
export const hugetlbAddToCache = (
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  folio: number,
): void => {
  if (mapping.pages.has(pgoff)) throw new Error(`file ${mapping.id} has page ${pgoff} already`);
  folioSetFlags(k, folio, PG_LOCKED | PG_DIRTY);
  folioSetMapping(k, folio, mapping.id, pgoff);
  mapSet(mapping.pages, pgoff, folio);
  folioGet(k, folio);
  folioClearFlags(k, folio, PG_RESTORE_RESERVE);
};
