/**
 * Folios of memory that is locked (VM_LOCKED): they go among the unevictable ones, where reclaim does
 * not look. Compare mm/mlock.c, mlock_vma_folio() and mlock_vma_pages_range(), mm/swap.c:folio_add_lru_vma().
 *
 * How many VMAs lock a folio is counted only while it is among the unevictable ones, and is a guess as
 * in Linux: one that is put back there counts as locked once. Reclaim looks at the VMAs again.
 */
import { PAGE_SIZE } from '#emu';
import { folioOf, folioSetFlags } from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { PG_MLOCKED } from '../frames/table.ts';
import { ptePresent, vmNormalPage } from '../pgtable/pte.ts';
import { nextMapped, PTE_WORDS, pmdLeafAt, ptepGet, tableEnd, walkPte } from '../pgtable/walk.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_LOCKED } from '../vma/flags.ts';
import { folioAddLru, folioMlock, folioMunlock } from './batch.ts';

/** A new folio of a VMA goes to a list: where that is locked, to the unevictable ones. */
export const folioAddLruVma = (k: Kernel, folio: number, vma: Vma): void => {
  if ((vma.flags & VM_LOCKED) !== 0) folioSetFlags(k, folio, PG_MLOCKED);
  folioAddLru(k, folio);
};

/** The VMA maps a folio that is not new by an entry more, of which it is not a small part. */
export const mlockVmaFolio = (k: Kernel, folio: number, vma: Vma): void => {
  if ((vma.flags & VM_LOCKED) !== 0) folioMlock(k, folio);
};

/** The VMA maps it by an entry less. */
export const munlockVmaFolio = (k: Kernel, folio: number, vma: Vma): void => {
  if ((vma.flags & VM_LOCKED) !== 0) folioMunlock(k, folio);
};

/**
 * What is mapped in [start, end) of a VMA becomes locked, or is so no longer. Of a large folio that is
 * mapped page by page nothing is said. The caller has changed the VMA's flags, and holds mmap_lock for
 * writing.
 */
export const mlockRange = (
  k: Kernel,
  { mm }: Vma,
  start: number,
  end: number,
  lock: boolean,
): void => {
  const one = (folio: number): void => (lock ? folioMlock : folioMunlock)(k, folio);
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const to = tableEnd(at, end);
    const pmd = pmdLeafAt(k, mm, at);
    if (pmd > 0) {
      const folio = vmNormalPage(ptepGet(k, pmd));
      if (folio >= 0 && to - at === HPAGE_PMD_SIZE) one(folio);
    }
    const word = pmd > 0 ? 0 : walkPte(k, mm, at, false);
    for (let i = 0; word > 0 && at + i * PAGE_SIZE < to; i++) {
      const pte = ptepGet(k, word + i * PTE_WORDS);
      const page = ptePresent(pte) ? vmNormalPage(pte) : -1;
      if (page >= 0 && !folioTestLarge(k, folioOf(k, page))) one(page);
    }
    at = to;
  }
};
