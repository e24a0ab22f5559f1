/** Taking a huge page for a mapping, by promise or without, and its bytes. Compare mm/hugetlb.c:alloc_hugetlb_folio(). */
import { setField } from '#cells';
import { ENOSPC } from '../errno.ts';
import { folioNrPages, folioSetFlags } from '../folio/folio.ts';
import { PG_RESTORE_RESERVE } from '../frames/table.ts';
import type { Kernel, Vma } from '../types.ts';
import { availableHugePages, dequeueHugetlbFolio } from './pool.ts';
import { vmaCommitReservation, vmaNeedsReservation } from './resv.ts';
import { vmaHstate } from './vma.ts';

/**
 * A huge page for `hva`, with one reference; its bytes are what they were.
 * @param cowFromOwner a copy of a page that was had by promise already: the promise does not count twice
 * @returns the folio, or -ENOSPC: not promised, and nothing is left over; or promised, and none of the
 *   free ones is where the page may be (isolated blocks, and what can move if it is to be pinned for long)
 */
export const allocHugetlbFolio = (
  k: Kernel,
  vma: Vma,
  hva: number,
  cowFromOwner: boolean,
): number => {
  const h = vmaHstate(k, vma);
  const unpromised = cowFromOwner || vmaNeedsReservation(vma, hva);
  if (unpromised && availableHugePages(h) <= 0) return -ENOSPC;
  const folio = dequeueHugetlbFolio(k, h);
  if (folio < 0) return -ENOSPC;
  if (!unpromised) {
    folioSetFlags(k, folio, PG_RESTORE_RESERVE);
    setField(h, 'reserved', h.reserved - 1);
  }
  if (!cowFromOwner) vmaCommitReservation(vma, hva);
  return folio;
};

/** Makes every byte of a huge page zero. What nobody has ever written to is left alone: it costs nothing yet. */
export const zeroHugeFolio = (k: Kernel, folio: number): void => {
  const { memory } = k;
  const nr = folioNrPages(k, folio);
  for (let page = folio; page < folio + nr; page++)
    if (!memory.isUntouched(page)) memory.zeroPage(page);
};

/** Copies a huge page to another of its size. */
export const copyHugeFolio = (k: Kernel, to: number, from: number): void => {
  const { memory } = k;
  const nr = folioNrPages(k, from);
  for (let i = 0; i < nr; i++) {
    if (!memory.isUntouched(from + i)) memory.copyPage(to + i, from + i);
    else if (!memory.isUntouched(to + i)) memory.zeroPage(to + i);
  }
};
