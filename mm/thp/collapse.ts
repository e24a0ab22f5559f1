/**
 * Collapsing: 2 MiB of anonymous memory in small pages become one folio that one entry maps.
 * Compare mm/khugepaged.c:collapse_huge_page(), for MADV_COLLAPSE and for khugepaged.
 *
 * The last-level table is taken off its directory first, and the references of its pages are looked
 * at afterwards. GUP-fast counts first, and looks at the directory's entry again afterwards: so
 * either it sees that the entry has gone and lets go, or it is seen, and the table is hung back. Nobody
 * else reaches the table: faults and slow GUP wait for mmap_lock, walks over the reverse map for the
 * anon_vmas, until every page is locked. Files are not collapsed.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, setField } from '#cells';
import { tryToCompactPages } from '../compact/compaction.ts';
import { EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import { doSwapPage } from '../fault/swap.ts';
import { folioOf, folioPut, folioSetFlags } from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_UPTODATE } from '../frames/table.ts';
import { lruAddDrain, lruAddDrainAll } from '../lru/batch.ts';
import { folioAddLruVma } from '../lru/mlock.ts';
import { invalidateRangeEnd, invalidateRangeStart, notifierRange } from '../notifier/notifier.ts';
import { type Path, YP_COLLAPSE_CLEARED, YP_COLLAPSE_COPIED, YP_WAIT } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteLeaf,
  pteMkdirty,
  pteNone,
  ptePage,
  ptePresent,
  pteTable,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import { flushTlbMm } from '../pgtable/tlb.ts';
import {
  PTE_WORDS,
  ptepGet,
  ptepGetAndClear,
  setPmdTable,
  setPteAt,
  walkEntry,
  walkPte,
} from '../pgtable/walk.ts';
import { folioAddNewAnonRmapPmd, folioRemoveRmap } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type MmStruct, type Vma } from '../types.ts';
import {
  mmapReadLock,
  mmapReadTrylock,
  mmapReadUnlock,
  mmapWriteLock,
  mmapWriteTrylock,
  mmapWriteUnlock,
} from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { addRss } from '../vma/zap.ts';
import { thpAllowed, thpCollapsible } from './orders.ts';
import { createScan, isolateTable, releaseIsolated, scanTable } from './scan.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from './state.ts';

/** Not a table, but a huge entry already: as good as done. Compare SCAN_PMD_MAPPED. */
const PMD_MAPPED = 1;

/**
 * Collapses the 2 MiB around `hva` into one folio. Takes mmap_lock itself.
 * @param khugepaged within the limits of k.state.thp and where huge pages are switched on; without it as
 *   MADV_COLLAPSE asks for it: any number of pages may be missing, swapped out or shared
 * @returns 0, also where an entry maps all of it already; -EINVAL: not anonymous memory that may be
 *   huge, nothing there, or an entry that cannot be moved; -EAGAIN: a page is in use or pinned;
 *   -EBUSY: too much is missing; -ENOMEM
 */
export function* collapseHugePage(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  khugepaged = false,
): Path<number> {
  const start = hva - (hva % HPAGE_PMD_SIZE);
  // Batches have references, and would keep every page from being collapsed.
  lruAddDrainAll(k);
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const found = scanRange(k, mm, start, khugepaged);
  mmapReadUnlock(mm);
  if (found !== 0 && found !== HAS_SWAPPED) return found === PMD_MAPPED ? 0 : found;
  const folio = yield* allocHuge(k);
  if (folio < 0) return folio;
  countStat(k, 'thp_collapse_alloc');
  let error = found === HAS_SWAPPED ? yield* swapInRange(k, mm, start, khugepaged) : 0;
  if (error === 0) {
    if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
    error = yield* collapseLocked(k, mm, start, folio, khugepaged);
    mmapWriteUnlock(mm);
  }
  if (error !== 0) folioPut(k, folio);
  return error === PMD_MAPPED ? 0 : error;
}

/**
 * MADV_COLLAPSE of [start, end), which one VMA contains: each aligned 2 MiB of it. Takes mmap_lock
 * itself, for each anew. Compare madvise_collapse().
 * @returns 0 when all of it is huge now; the last error otherwise. What is in the way in one place does
 *   not keep the others from being tried, but for -ENOMEM and -EBUSY
 */
export function* madviseCollapse(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
): Path<number> {
  const vma = findVma(mm, start);
  if (vma === null || !thpAllowed(vma)) return -EINVAL;
  let last = 0;
  for (
    let hva = Math.ceil(start / HPAGE_PMD_SIZE) * HPAGE_PMD_SIZE;
    hva + HPAGE_PMD_SIZE <= end;
    hva += HPAGE_PMD_SIZE
  ) {
    const error = yield* collapseHugePage(k, mm, hva);
    if (error !== 0) last = error;
    if (error === -ENOMEM || error === -EBUSY) break;
  }
  return last;
}

/** 2 MiB, put together by compaction where there are none. Compare alloc_charge_folio(). @returns the folio, or -ENOMEM */
function* allocHuge(k: Kernel): Path<number> {
  const folio = folioAllocOrder(k, HPAGE_PMD_ORDER, GFP_MOVABLE);
  if (folio >= 0 || !(yield* tryToCompactPages(k, HPAGE_PMD_ORDER))) return folio;
  return folioAllocOrder(k, HPAGE_PMD_ORDER, GFP_MOVABLE);
}

/** The VMA that has all of the 2 MiB and may have them huge, or null. Compare hugepage_vma_revalidate(). */
const revalidate = (k: Kernel, mm: MmStruct, start: number, khugepaged: boolean): Vma | null => {
  const vma = mm.exited ? null : findVma(mm, start);
  return vma !== null && thpCollapsible(k, vma, start, !khugepaged) ? vma : null;
};

/** Word of the PMD entry that points to a table; PMD_MAPPED; -EINVAL. Compare find_pmd_or_thp_or_none(). */
const findTable = (k: Kernel, mm: MmStruct, start: number): number => {
  const word = walkEntry(k, mm, start, 1, false);
  if (word === 0) return -EINVAL;
  const entry = ptepGet(k, word);
  if (pteTable(entry)) return word;
  return !pteNone(entry) && pteLeaf(entry) ? PMD_MAPPED : -EINVAL;
};

/** The scan found entries that are not present: they are to be read in first. */
const HAS_SWAPPED = 2;

/** Is it worth trying? @returns 0, HAS_SWAPPED, PMD_MAPPED, or -errno */
const scanRange = (k: Kernel, mm: MmStruct, start: number, khugepaged: boolean): number => {
  const vma = revalidate(k, mm, start, khugepaged);
  if (vma === null) return -EINVAL;
  const pmd = findTable(k, mm, start);
  if (pmd < 0 || pmd === PMD_MAPPED) return pmd;
  const scan = createScan(k, vma, khugepaged, true);
  const error = scanTable(k, vma, walkPte(k, mm, start, false), scan);
  return error === 0 && scan.unmapped > 0 ? HAS_SWAPPED : error;
};

/** Reads in what is swapped out. Compare __collapse_huge_page_swapin(). @returns 0, PMD_MAPPED or -errno */
function* swapInRange(k: Kernel, mm: MmStruct, start: number, khugepaged: boolean): Path<number> {
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const vma = revalidate(k, mm, start, khugepaged);
  const pmd = vma === null ? -EINVAL : findTable(k, mm, start);
  let error = pmd > PMD_MAPPED ? 0 : pmd;
  const first = error === 0 ? walkPte(k, mm, start, false) : 0;
  for (let i = 0; i < HPAGE_PMD_NR && error === 0 && vma !== null; i++) {
    const word = first + i * PTE_WORDS;
    const entry = ptepGet(k, word);
    if (pteNone(entry) || ptePresent(entry)) continue;
    if ((yield* doSwapPage(k, vma, start + i * PAGE_SIZE, word, entry, 0)) !== 0) error = -EINVAL;
  }
  mmapReadUnlock(mm);
  lruAddDrain(k);
  return error;
}

/** Under mmap_lock for writing. @returns 0: `folio` is mapped; PMD_MAPPED; -errno with all as it was */
function* collapseLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  folio: number,
  khugepaged: boolean,
): Path<number> {
  const vma = revalidate(k, mm, start, khugepaged);
  const pmd = vma === null ? -EINVAL : findTable(k, mm, start);
  if (vma === null || pmd < 0 || pmd === PMD_MAPPED) return pmd;
  yield* lockAnonVmas(vma);
  const range = notifierRange(mm, start, start + HPAGE_PMD_SIZE, MMU_NOTIFY_CLEAR);
  yield* invalidateRangeStart(k, range);
  const first = walkPte(k, mm, start, false);
  const table = ptePage(ptepGetAndClear(k, pmd));
  setField(mm, 'collapsing', { hva: start, table });
  // The harts keep pointers to tables as well: of this one nothing may be left.
  flushTlbMm(k, mm);
  yield* invalidateRangeEnd(k, range);
  if (k.watched) yield YP_COLLAPSE_CLEARED;

  const isolated: number[] = [];
  const scan = createScan(k, vma, khugepaged, false);
  const error = isolateTable(k, vma, first, scan, isolated);
  if (error !== 0) {
    setPmdTable(k, pmd, table);
    setField(mm, 'collapsing', null);
    releaseIsolated(k, isolated);
    unlockAnonVmas(vma);
    return error;
  }
  // Every page is locked and has a reference more: that keeps the reverse map's walks away from now on.
  unlockAnonVmas(vma);
  for (let i = 0; i < HPAGE_PMD_NR; i++) {
    const page = pageOf(ptepGet(k, first + i * PTE_WORDS));
    if (page < 0) k.memory.zeroPage(folio + i);
    else k.memory.copyPage(folio + i, page);
  }
  if (k.watched) yield YP_COLLAPSE_COPIED;
  unmapOld(k, mm, first);
  releaseIsolated(k, isolated);
  folioSetFlags(k, folio, PG_UPTODATE);
  folioAddNewAnonRmapPmd(k, folio, vma, start);
  folioAddLruVma(k, folio, vma);
  addRss(mm, true, HPAGE_PMD_NR);
  // The old table, empty now, is the one that is kept back for the day of a split.
  listPush(mm.deposited, table);
  setField(mm, 'collapsing', null);
  setPteAt(k, pmd, maybeMkwrite(pteMkdirty(mkPte(folio, vmPageProt(vma.flags))), vma.flags));
  return 0;
}

/** Page of an entry of the table, -1 for none and for the zero page. */
const pageOf = (pte: number): number => (pteNone(pte) ? -1 : vmNormalPage(pte));

/** Takes every mapping of the old table away; the pages are isolated, so that none goes yet. */
const unmapOld = (k: Kernel, mm: MmStruct, first: number): void => {
  let mapped = 0;
  for (let i = 0; i < HPAGE_PMD_NR; i++) {
    const page = pageOf(ptepGetAndClear(k, first + i * PTE_WORDS));
    if (page < 0) continue;
    mapped++;
    folioRemoveRmap(k, page);
    folioPut(k, folioOf(k, page));
  }
  addRss(mm, true, -mapped);
};

/** From here on nobody's walk over the reverse map meets the VMA's tables. Compare anon_vma_lock_write(). */
function* lockAnonVmas(vma: Vma): Path<void> {
  while (vma.anonChain.some((anonVma) => anonVma.locked)) yield YP_WAIT;
  for (const anonVma of vma.anonChain) setField(anonVma, 'locked', true);
}

const unlockAnonVmas = (vma: Vma): void => {
  for (const anonVma of vma.anonChain) setField(anonVma, 'locked', false);
};
