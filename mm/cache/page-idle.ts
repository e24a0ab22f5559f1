/**
 * Has anybody used a folio since somebody last asked? Compare mm/page_idle.c:page_idle_clear_pte_refs().
 *
 * Asking takes the A bit from every entry and has secondary MMUs forget what they remember of uses.
 * TLBs are not flushed: a hart that has the page in its TLB may go on using it unseen for a while.
 */
import { PAGE_SIZE } from '#emu';
import { folioClearFlags, folioPut, folioTestFlags, folioTryGet } from '../folio/folio.ts';
import { PG_REFERENCED } from '../frames/table.ts';
import { mmuNotifierClearYoung } from '../notifier/notifier.ts';
import { pteMkold, pteYoung } from '../pgtable/pte.ts';
import { ptepGet, setPteAt } from '../pgtable/walk.ts';
import { folioVmaMappedPmd, pageVmaMapped, type RmapPlace, rmapPlaces } from '../rmap/rmap.ts';
import type { Kernel, Vma } from '../types.ts';

/** One entry. @returns true where the hardware has set A */
const clearYoung = (k: Kernel, word: number): boolean => {
  const pte = ptepGet(k, word);
  if (!pteYoung(pte)) return false;
  setPteAt(k, word, pteMkold(pte));
  return true;
};

/** One entry and what secondary MMUs say of its range. Compare ptep_clear_young_notify(). */
const clearYoungNotify = (
  k: Kernel,
  vma: Vma,
  word: number,
  hva: number,
  lenBytes: number,
): boolean => {
  const young = clearYoung(k, word);
  return mmuNotifierClearYoung(k, vma.mm, hva, hva + lenBytes) || young;
};

/** Every entry of one VMA. */
const clearPlace = (k: Kernel, folio: number, { vma, page, nr, hva }: RmapPlace): boolean => {
  const pmd = folioVmaMappedPmd(k, vma, hva, folio);
  if (pmd > 0) return clearYoungNotify(k, vma, pmd, hva, nr * PAGE_SIZE);
  let young = false;
  for (let i = 0; i < nr; i++) {
    const at = hva + i * PAGE_SIZE;
    const word = pageVmaMapped(k, vma, at, page + i);
    if (word > 0 && clearYoungNotify(k, vma, word, at, PAGE_SIZE)) young = true;
  }
  return young;
};

/**
 * Forgets every use of a folio so far, without a yield.
 * @returns true where there was one since the last call; false also for a page that is not in use
 */
export const pageIdleClearRefs = (k: Kernel, folio: number): boolean => {
  if (!folioTryGet(k, folio)) return false;
  let young = folioTestFlags(k, folio, PG_REFERENCED);
  folioClearFlags(k, folio, PG_REFERENCED);
  for (const place of rmapPlaces(k, folio)) if (clearPlace(k, folio, place)) young = true;
  folioPut(k, folio);
  return young;
};
