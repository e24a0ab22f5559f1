/**
 * Splitting the entry that maps 2 MiB into 512 that map a page each; the folio stays as it is.
 * Compare mm/huge_memory.c:__split_huge_pmd_locked().
 *
 * Of anonymous memory every page gets an entry with the rights, the A and D bits and the exclusiveness
 * that the huge entry had, pinned or not. A file's pages are found again by faults, so there the
 * entry just goes.
 */
import { atomicAdd, fetchOr, readOnce, writeOnce } from '#cells';
import { folioMarkDirty, folioPut, folioTestAnon } from '../folio/folio.ts';
import { folioAddEntireMapcount, folioAddLargeMapcount } from '../folio/large.ts';
import { PG_ANON_EXCLUSIVE } from '../frames/table.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { mkPte, pteDirty, ptePage, pteSpecial, pteYoung } from '../pgtable/pte.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  PTE_WORDS,
  pmdLeafAt,
  ptepGetAndClear,
  setPmdTable,
  withdrawTable,
} from '../pgtable/walk.ts';
import { folioRemoveRmapPmd } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { VM_HUGETLB } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_SIZE } from './state.ts';

/** Low bits of an entry: everything but the frame. */
const PTE_FLAGS_MASK = 0x3ff;

/**
 * Splits the huge entry `word`, under its lock: between the notifiers' start and end, which the
 * caller sees to.
 * @param hva any address that it maps
 */
export const splitHugePmdLocked = (k: Kernel, vma: Vma, hva: number, word: number): void => {
  const { mm } = vma;
  const start = hva - (hva % HPAGE_PMD_SIZE);
  const old = ptepGetAndClear(k, word);
  flushTlbRange(k, mm, start, start + HPAGE_PMD_SIZE);
  countStat(k, 'thp_split_pmd');
  if (pteSpecial(old)) {
    fillTable(k, withdrawTable(mm), word, old, k.state.zeroPage, 0);
    return;
  }
  const folio = ptePage(old);
  if (pteDirty(old)) folioMarkDirty(k, folio);
  if (!folioTestAnon(k, folio)) {
    if (pteYoung(old)) folioMarkAccessed(k, folio);
    addRss(mm, false, -HPAGE_PMD_NR);
    folioRemoveRmapPmd(k, folio);
    folioPut(k, folio);
    return;
  }
  const { flags, mapcount, refcount } = k.state.frames;
  const exclusive = readOnce(flags, folio) & PG_ANON_EXCLUSIVE;
  for (let page = folio; page < folio + HPAGE_PMD_NR; page++) {
    if (exclusive !== 0) fetchOr(flags, page, PG_ANON_EXCLUSIVE);
    atomicAdd(mapcount, page, 1);
  }
  folioAddEntireMapcount(k, folio, -1);
  folioAddLargeMapcount(k, folio, HPAGE_PMD_NR - 1);
  atomicAdd(refcount, folio, HPAGE_PMD_NR - 1);
  fillTable(k, withdrawTable(mm), word, old, folio, 1);
};

/** Hangs the table there with an entry like `old` for each page. @param step 0: all the same page */
const fillTable = (
  k: Kernel,
  table: number,
  word: number,
  old: number,
  first: number,
  step: number,
): void => {
  const entries = k.memory.pageOffset(table) / 4;
  const bits = old & PTE_FLAGS_MASK;
  for (let i = 0; i < HPAGE_PMD_NR; i++)
    writeOnce(k.memory.i32, entries + i * PTE_WORDS, mkPte(first + i * step, bits));
  setPmdTable(k, word, table);
};

/**
 * Splits the huge entry that maps `hva`, if one does, between the notifiers' start and end: those of all
 * 2 MiB, also inside a smaller range, because of the huge zero folio small zero pages take the place.
 * Without a yield: nothing that anybody reads or writes changes. Compare split_huge_pmd().
 */
export const splitHugePmd = (k: Kernel, vma: Vma, hva: number): void => {
  if (pmdLeafAt(k, vma.mm, hva) === 0) return;
  const start = hva - (hva % HPAGE_PMD_SIZE);
  const range = mmHasNotifiers(vma.mm)
    ? notifierRange(vma.mm, start, start + HPAGE_PMD_SIZE, MMU_NOTIFY_CLEAR)
    : null;
  if (range !== null) notifyRangeStart(k, range);
  splitHugePmdLocked(k, vma, hva, pmdLeafAt(k, vma.mm, hva));
  if (range !== null) notifyRangeEnd(k, range);
};

/** Before a VMA is cut at `hva`: no huge entry may lie across. Compare vma_adjust_trans_huge(). */
export const splitHugePmdAcross = (k: Kernel, vma: Vma, hva: number): void => {
  if (hva % HPAGE_PMD_SIZE !== 0 && (vma.flags & VM_HUGETLB) === 0) splitHugePmd(k, vma, hva);
};
