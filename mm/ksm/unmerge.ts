/**
 * Back from merged pages to pages of one's own: MADV_UNMERGEABLE, and merges that were only half done.
 * Compare mm/ksm.c, break_ksm() and unmerge_ksm_pages().
 *
 * What is swapped out stays as it is: the bytes come back as an ordinary page, unless the merged one is
 * still in the swap cache.
 */
import { PAGE_SIZE } from '#emu';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_UNSHARE, handleMmFault } from '../fault/fault.ts';
import { folioOf, folioTestFlags } from '../folio/folio.ts';
import { PG_KSM } from '../frames/table.ts';
import type { Path } from '../path.ts';
import { pteNone, ptePresent, vmNormalPage } from '../pgtable/pte.ts';
import { isMigrationEntry, migrationEntryPage } from '../pgtable/swapops.ts';
import { nextMapped, ptepGet, tableEnd, walkPte } from '../pgtable/walk.ts';
import type { Kernel, Vma } from '../types.ts';

/** Is a merged page mapped at `hva`, or one that is being moved? */
const mapsKsm = (k: Kernel, vma: Vma, hva: number): boolean => {
  const word = walkPte(k, vma.mm, hva, false);
  const pte = word > 0 ? ptepGet(k, word) : 0;
  if (pteNone(pte)) return false;
  let page = -1;
  if (ptePresent(pte)) page = vmNormalPage(pte);
  else if (isMigrationEntry(pte)) page = migrationEntryPage(pte);
  return page >= 0 && folioTestFlags(k, folioOf(k, page), PG_KSM);
};

/**
 * Gives a VMA a page of its own where it maps a merged one, with the rights that it has now. The caller
 * holds mmap_lock.
 * @param vma private
 * @returns 0 or -ENOMEM
 */
export function* ksmBreakCow(k: Kernel, vma: Vma, hva: number): Path<number> {
  while (mapsKsm(k, vma, hva)) {
    const flags = FAULT_FLAG_UNSHARE | FAULT_FLAG_REMOTE;
    const error = yield* handleMmFault(k, vma.mm, hva, flags);
    if (error !== 0) return error;
  }
  return 0;
}

/** The same for every page of [start, end). @returns 0 or -ENOMEM */
export function* ksmUnmerge(k: Kernel, vma: Vma, start: number, end: number): Path<number> {
  const { mm } = vma;
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const to = tableEnd(at, end);
    for (; at < to; at += PAGE_SIZE) {
      const error = yield* ksmBreakCow(k, vma, at);
      if (error !== 0) return error;
    }
  }
  return 0;
}
