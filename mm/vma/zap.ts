/**
 * Unmapping: entries are cleared, TLBs flushed, and only then are the pages let go.
 * Compare mm/memory.c:zap_pte_range(), mm/mmu_gather.c.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioMarkDirty, folioOf, folioPut, folioTestAnon } from '../folio/folio.ts';
import { unmapHugetlbRange } from '../hugetlb/unmap.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import {
  pteDirty,
  pteNone,
  ptePresent,
  pteUffdWp,
  pteYoung,
  vmNormalPage,
} from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isPteMarker,
  isSwapEntry,
  makeUffdWpMarker,
  migrationEntryPage,
  PTE_SWP_UFFD_WP,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  freeDeposited,
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  tableEnd,
  walkPte,
} from '../pgtable/walk.ts';
import { noteZap } from '../provenance/provenance.ts';
import { folioRemoveRmap, folioRemoveRmapPmd } from '../rmap/rmap.ts';
import { freeSwapAndCache, freeSwapCache } from '../swap/cache.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_UNMAP, type MmStruct, type Vma } from '../types.ts';
import { VM_HUGETLB, VM_UFFD_WP } from './flags.ts';

/** One page more (or less) of the kind that `anon` says is mapped. */
export const addRss = (mm: MmStruct, anon: boolean, delta: number): void => {
  if (anon) setField(mm, 'rssAnon', mm.rssAnon + delta);
  else setField(mm, 'rssFile', mm.rssFile + delta);
};

/**
 * Clears one entry; pushes the folio whose reference is to be dropped after the flush.
 * @param keepWp that userfaultfd protects the page is remembered by a marker
 */
const zapPte = (k: Kernel, mm: MmStruct, word: number, gather: number[], keepWp: boolean): void => {
  const pte = ptepGet(k, word);
  if (pteNone(pte) || (keepWp && isUffdWpMarker(pte))) return;
  const old = ptepGetAndClear(k, word);
  if (keepWp && isUffdWp(old)) setPteAt(k, word, makeUffdWpMarker());
  if (!ptePresent(old)) {
    zapNonpresent(k, mm, old);
    return;
  }
  const page = vmNormalPage(old);
  if (page < 0) return;
  const folio = folioOf(k, page);
  noteUse(k, folio, old);
  addRss(mm, folioTestAnon(k, folio), -1);
  folioRemoveRmap(k, page);
  gather.push(folio);
};

/** Does userfaultfd protect it? Present or not. */
const isUffdWp = (pte: number): boolean =>
  ptePresent(pte) ? pteUffdWp(pte) : (pte & PTE_SWP_UFFD_WP) !== 0;

const isUffdWpMarker = (pte: number): boolean =>
  !ptePresent(pte) && isPteMarker(pte) && isUffdWp(pte);

/** An entry that is not present: what it stands for is one less. */
const zapNonpresent = (k: Kernel, mm: MmStruct, old: number): void => {
  if (isSwapEntry(old)) {
    setField(mm, 'rssSwap', mm.rssSwap - 1);
    freeSwapAndCache(k, swapEntrySlot(old));
  } else if (isMigrationEntry(old)) {
    // It counts as resident, but holds neither reference nor mapping.
    addRss(mm, folioTestAnon(k, folioOf(k, migrationEntryPage(old))), -1);
  }
};

/** The A and D bits of a file's entry are remembered by the folio. */
const noteUse = (k: Kernel, folio: number, pte: number): void => {
  if (folioTestAnon(k, folio)) return;
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  if (pteYoung(pte)) folioMarkAccessed(k, folio);
};

/** Clears an entry that maps 2 MiB. Compare zap_huge_pmd(). */
const zapPmd = (k: Kernel, mm: MmStruct, word: number, gather: number[]): void => {
  const old = ptepGetAndClear(k, word);
  const folio = vmNormalPage(old);
  if (folio < 0) {
    freeDeposited(k, mm);
    return;
  }
  const anon = folioTestAnon(k, folio);
  noteUse(k, folio, old);
  addRss(mm, anon, -HPAGE_PMD_NR);
  folioRemoveRmapPmd(k, folio);
  if (anon) freeDeposited(k, mm);
  gather.push(folio);
};

/**
 * Unmaps [start, end) of a VMA, between the notifiers' start and end. The tables stay. The caller
 * holds mmap_lock, for reading at least.
 * @param event MMU_NOTIFY_*
 */
export function* zapRange(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  event: number,
): Path<void> {
  if ((vma.flags & VM_HUGETLB) !== 0) {
    yield* unmapHugetlbRange(k, vma, start, end, event);
    return;
  }
  const { mm } = vma;
  const range = mmHasNotifiers(mm) ? notifierRange(mm, start, end, event) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  // A file's page comes back; with the VMA goes everything.
  const keepWp =
    event !== MMU_NOTIFY_UNMAP && vma.mapping !== null && (vma.flags & VM_UFFD_WP) !== 0;
  const gather: number[] = [];
  for (let at = nextMapped(k, mm, start, end); at < end; ) {
    // One table at a time: its lock is dropped, and its pages freed, before the next.
    const from = at;
    const to = tableEnd(at, end);
    let pmd = pmdLeafAt(k, mm, at);
    if (pmd > 0 && to - from < HPAGE_PMD_SIZE) {
      splitHugePmd(k, vma, at);
      pmd = 0;
    }
    if (pmd > 0) {
      zapPmd(k, mm, pmd, gather);
      at = to;
    } else {
      // A file's huge entry that was split is gone, and no table has taken its place.
      const word = walkPte(k, mm, at, false);
      for (let i = 0; at < to; at += PAGE_SIZE, i++)
        if (word > 0) zapPte(k, mm, word + i * PTE_WORDS, gather, keepWp);
    }
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, from, to);
    for (const folio of gather) {
      freeSwapCache(k, folio);
      folioPut(k, folio);
    }
    gather.length = 0;
    at = nextMapped(k, mm, to, end);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteZap(k, mm, start, end);
}
