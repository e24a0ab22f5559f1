/**
 * Unmapping: entries are cleared, TLBs flushed, and only then are the pages let go.
 * Compare mm/memory.c:zap_pte_range(), mm/mmu_gather.c.
 *
 * Whoever takes the pages of a file away (mm/cache/unmap.ts) holds no mmap_lock: the VMA may change
 * and go while he is at it.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioMarkDirty, folioOf, folioPut, folioTestAnon } from '../folio/folio.ts';
import { unmapHugetlbRange } from '../hugetlb/unmap.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import { munlockVmaFolio } from '../lru/mlock.ts';
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
import { dropFor, noteZap } from '../provenance/provenance.ts';
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

/** What of a range is to go, where it is not everything. Compare struct zap_details. */
export interface ZapDetails {
  /** Private copies as well; otherwise only what is the file's. */
  evenCows: boolean;
  /** Entries of this folio alone, markers included; -1: of any. */
  folio: number;
  /** Is the VMA still what it was? Asked after every yield: without mmap_lock it may have gone. */
  linked: () => boolean;
}

/** Does `details` mean this page? */
const shouldZap = (k: Kernel, page: number, { evenCows, folio }: ZapDetails): boolean => {
  const own = folioOf(k, page);
  return (folio < 0 || folio === own) && (evenCows || !folioTestAnon(k, own));
};

/** The same of an entry that is not present. Markers stand for the file's page. */
const shouldZapNonpresent = (k: Kernel, pte: number, details: ZapDetails): boolean => {
  if (isPteMarker(pte)) return true;
  if (isMigrationEntry(pte)) return shouldZap(k, migrationEntryPage(pte), details);
  return details.evenCows && details.folio < 0;
};

/** Does `details` mean what this entry stands for? */
const shouldZapEntry = (k: Kernel, pte: number, details: ZapDetails): boolean => {
  if (!ptePresent(pte)) return shouldZapNonpresent(k, pte, details);
  const page = vmNormalPage(pte);
  // What is not counted is nobody's copy: the zero page of a hole, frames of a driver.
  return page < 0 || shouldZap(k, page, details);
};

/**
 * Clears one entry; pushes the folio whose reference is to be dropped after the flush.
 * @param keepWp that userfaultfd protects the page is remembered by a marker
 * @returns true where TLBs have to be flushed before anybody else comes: see noteUse
 */
const zapPte = (
  k: Kernel,
  mm: MmStruct,
  word: number,
  gather: number[],
  keepWp: boolean,
  details: ZapDetails | null,
): boolean => {
  const pte = ptepGet(k, word);
  if (pteNone(pte) || (keepWp && isUffdWpMarker(pte))) return false;
  if (details !== null && !shouldZapEntry(k, pte, details)) return false;
  const old = ptepGetAndClear(k, word);
  if (keepWp && isUffdWp(old)) setPteAt(k, word, makeUffdWpMarker());
  if (!ptePresent(old)) {
    zapNonpresent(k, mm, old);
    return false;
  }
  const page = vmNormalPage(old);
  if (page < 0) return false;
  const folio = folioOf(k, page);
  const dirty = noteUse(k, folio, old);
  addRss(mm, folioTestAnon(k, folio), -1);
  folioRemoveRmap(k, page);
  gather.push(folio);
  return dirty;
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

/**
 * The A and D bits of a file's entry are remembered by the folio.
 * @returns true where a TLB may still write to the file's page: whoever cleans the folio does not find
 *   this entry any more, so the flush cannot wait. Compare tlb_delay_rmap()
 */
const noteUse = (k: Kernel, folio: number, pte: number): boolean => {
  if (folioTestAnon(k, folio)) return false;
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  if (pteYoung(pte)) folioMarkAccessed(k, folio);
  return pteDirty(pte);
};

/** Clears an entry that maps 2 MiB. Compare zap_huge_pmd(). @returns as zapPte */
const zapPmd = (
  k: Kernel,
  mm: MmStruct,
  word: number,
  gather: number[],
  details: ZapDetails | null,
): boolean => {
  if (details !== null && !shouldZapEntry(k, ptepGet(k, word), details)) return false;
  const old = ptepGetAndClear(k, word);
  const folio = vmNormalPage(old);
  if (folio < 0) {
    freeDeposited(k, mm);
    return false;
  }
  const anon = folioTestAnon(k, folio);
  const dirty = noteUse(k, folio, old);
  addRss(mm, anon, -HPAGE_PMD_NR);
  folioRemoveRmapPmd(k, folio);
  if (anon) freeDeposited(k, mm);
  gather.push(folio);
  return dirty;
};

/**
 * Unmaps [start, end) of a VMA, between the notifiers' start and end. The tables stay. The caller
 * holds mmap_lock, for reading at least, or says by `details` how to see that the VMA is still there.
 * @param event MMU_NOTIFY_*
 * @param details what of the range is meant; null: everything
 */
export function* zapRange(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  event: number,
  details: ZapDetails | null = null,
): Path<void> {
  if ((vma.flags & VM_HUGETLB) !== 0) {
    yield* unmapHugetlbRange(k, vma, start, end, event, details?.linked);
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
    event !== MMU_NOTIFY_UNMAP &&
    vma.mapping !== null &&
    (vma.flags & VM_UFFD_WP) !== 0 &&
    (details === null || details.folio < 0);
  const gather: number[] = [];
  for (let at = start; ; ) {
    const stop = endOfZap(vma, end, details);
    at = at < stop ? nextMapped(k, mm, at, stop) : stop;
    if (at >= stop) break;
    // One table at a time: its lock is dropped, and its pages freed, before the next.
    const from = at;
    const to = tableEnd(at, stop);
    at = to;
    const flush = zapTable(k, vma, from, to, gather, keepWp, details);
    if (flush) flushTlbRange(k, mm, from, to);
    if (k.watched) yield YP_PROTECT;
    if (!flush) flushTlbRange(k, mm, from, to);
    dropFor(k, `the unmapping of mm ${mm.id}`);
    for (const folio of gather) {
      munlockVmaFolio(k, folio, vma);
      freeSwapCache(k, folio);
      folioPut(k, folio);
    }
    dropFor(k, '');
    gather.length = 0;
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteZap(k, mm, start, end);
}

/** Where the walk has to end by now: what lies above a VMA that was cut is somebody else's. */
const endOfZap = (vma: Vma, end: number, details: ZapDetails | null): number => {
  if (details === null) return end;
  return details.linked() ? Math.min(end, vma.end) : 0;
};

/** The part [from, to) that one table maps, or a huge entry. @returns as zapPte */
const zapTable = (
  k: Kernel,
  vma: Vma,
  from: number,
  to: number,
  gather: number[],
  keepWp: boolean,
  details: ZapDetails | null,
): boolean => {
  const { mm } = vma;
  const pmd = pmdLeafAt(k, mm, from);
  if (pmd > 0 && to - from === HPAGE_PMD_SIZE) return zapPmd(k, mm, pmd, gather, details);
  if (pmd > 0) splitHugePmd(k, vma, from);
  // A file's huge entry that was split is gone, and no table has taken its place.
  const word = walkPte(k, mm, from, false);
  let flush = false;
  for (let at = from, i = 0; at < to && word > 0; at += PAGE_SIZE, i += PTE_WORDS)
    if (zapPte(k, mm, word + i, gather, keepWp, details)) flush = true;
  return flush;
};
