/**
 * Write protection: the next store to a page is to fault, and nothing written so far may be forgotten.
 *
 * folioWriteProtect is what writeback does to a folio before it writes it out: mm/rmap.c,
 * folio_mkclean() as called by folio_clear_dirty_for_io(). There is no writeback yet, so the folio stays
 * dirty afterwards. writeProtectRange takes W from a range, and nothing more, as soft-dirty tracking does
 * in passing (mm/vma/soft-dirty.ts).
 */
import { PAGE_SIZE } from '#emu';
import { EINVAL } from '../errno.ts';
import {
  folioLock,
  folioMapcount,
  folioMarkDirty,
  folioPut,
  folioTestAnon,
  folioTryGet,
  folioTrylock,
} from '../folio/folio.ts';
import {
  invalidateRangeEnd,
  invalidateRangeStart,
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import { pteDirty, pteMkclean, ptePresent, pteWrite, pteWrprotect } from '../pgtable/pte.ts';
import { flushTlbPage, flushTlbRange } from '../pgtable/tlb.ts';
import {
  leafLevel,
  leafWord,
  levelPages,
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  tableEnd,
  walkLeaf,
} from '../pgtable/walk.ts';
import {
  folioVmaMappedPmd,
  pageVmaMapped,
  type RmapPlace,
  rmapPlaces,
  rmapStillLinked,
} from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import { folioUnlockFreeSwap } from '../swap/cache.ts';
import {
  type Kernel,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_SOFT_DIRTY,
  type MmStruct,
  type Vma,
} from '../types.ts';
import { VM_HUGETLB, VM_SHARED } from '../vma/flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';

/**
 * Makes every shared mapping of a folio read-only and clean; where an entry was dirty the folio
 * becomes so. Takes the folio's lock. Private mappings are left alone: their dirt is not the file's.
 * @param folio a page number: any, also one that is not in use
 * @returns entries changed, or -EINVAL for a free page
 */
export function* folioWriteProtect(k: Kernel, folio: number): Path<number> {
  if (folio < 0 || folio >= k.memory.nrPages || !folioTryGet(k, folio)) return -EINVAL;
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  let changed = 0;
  let wasDirty = false;
  const seen: RmapPlace[] = [];
  // Listed anew each time: mremap() may move an entry to a VMA behind those that were there.
  for (let place = nextPlace(k, folio, seen); place !== null; place = nextPlace(k, folio, seen)) {
    seen.push(place);
    const { vma, hva, nr } = place;
    if (folioMapcount(k, folio) === 0) break;
    const range = mmHasNotifiers(vma.mm)
      ? notifierRange(vma.mm, hva, hva + nr * PAGE_SIZE, MMU_NOTIFY_PROTECTION_PAGE)
      : null;
    if (range !== null) {
      notifyRangeStart(k, range);
      if (k.watched) yield YP_NOTIFIER_START;
    }
    if (rmapStillLinked(k, folio, place)) {
      for (const was of mkcleanPlace(k, folio, place)) {
        changed++;
        if (pteDirty(was)) wasDirty = true;
      }
    }
    if (range !== null) {
      if (k.watched) yield YP_NOTIFIER_END;
      notifyRangeEnd(k, range);
    }
  }
  if (wasDirty) folioMarkDirty(k, folio);
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  return changed;
}

/** The first shared mapping that the walk has not been to; null at the end, and for anonymous memory. */
const nextPlace = (k: Kernel, folio: number, seen: readonly RmapPlace[]): RmapPlace | null => {
  if (folioTestAnon(k, folio)) return null;
  const fresh = ({ vma, hva }: RmapPlace): boolean =>
    (vma.flags & VM_SHARED) !== 0 && !seen.some((place) => place.vma === vma && place.hva === hva);
  return rmapPlaces(k, folio).find(fresh) ?? null;
};

/** Every entry of one VMA, a huge one or those of single pages. @returns what those were that changed */
const mkcleanPlace = (k: Kernel, folio: number, { vma, page, nr, hva }: RmapPlace): number[] => {
  const pmd = folioVmaMappedPmd(k, vma, hva, folio);
  const words = pmd > 0 ? [pmd] : [];
  if (pmd === 0)
    for (let i = 0; i < nr; i++) words.push(pageVmaMapped(k, vma, hva + i * PAGE_SIZE, page + i));
  const changed: number[] = [];
  words.forEach((word, i) => {
    const was = word > 0 ? mkcleanOne(k, vma, hva + i * PAGE_SIZE, word) : 0;
    if (was !== 0) changed.push(was);
  });
  return changed;
};

/** One entry: cleared and flushed first, so that the hardware cannot set D behind our back. @returns what it was, 0 if left alone */
const mkcleanOne = (k: Kernel, vma: Vma, hva: number, word: number): number => {
  const seen = ptepGet(k, word);
  if (!pteDirty(seen) && !pteWrite(seen)) return 0;
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  setPteAt(k, word, pteMkclean(pteWrprotect(pte)));
  countStat(k, 'wrprotect');
  return pte;
};

/**
 * Takes W from every entry of [start, end), keeping D: the next store faults, and finds the page
 * its own (or the file's) as before. Private and shared mappings alike.
 * @param start page-aligned hva, as `end`
 * @returns entries changed
 */
export function* writeProtectRange(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
): Path<number> {
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const range = notifierRange(mm, start, end, MMU_NOTIFY_SOFT_DIRTY);
  yield* invalidateRangeStart(k, range);
  let changed = 0;
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const from = at;
    const stop = tableEnd(at, end);
    at = stop;
    if (splitIfPartial(k, mm, from, end)) at = from;
    else changed += protectEntries(k, mm, from, stop, end);
  }
  if (changed > 0) {
    countStat(k, 'wrprotect', changed);
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, start, end);
  }
  yield* invalidateRangeEnd(k, range);
  mmapWriteUnlock(mm);
  return changed;
}

/** A huge entry that reaches beyond the range is split; one of hugetlb cannot be. @returns true: look again */
const splitIfPartial = (k: Kernel, mm: MmStruct, hva: number, end: number): boolean => {
  if (pmdLeafAt(k, mm, hva) === 0) return false;
  const whole = hva % HPAGE_PMD_SIZE === 0 && hva + HPAGE_PMD_SIZE <= end;
  const vma = findVma(mm, hva);
  if (whole || vma === null || (vma.flags & VM_HUGETLB) !== 0) return false;
  splitHugePmd(k, vma, hva);
  return true;
};

/** The entries of [hva, stop), which one leaf table maps, or a huge entry that `end` does not cut. @returns entries changed */
const protectEntries = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  stop: number,
  end: number,
): number => {
  const leaf = walkLeaf(k, mm, hva);
  const huge = leafLevel(leaf) > 0;
  const bytes = levelPages(leafLevel(leaf)) * PAGE_SIZE;
  // Of hugetlb only what lies in the range as a whole.
  if (huge && (hva % bytes !== 0 || end - hva < bytes)) return 0;
  const entries = huge ? 1 : (stop - hva) / PAGE_SIZE;
  let changed = 0;
  for (let i = 0; i < entries; i++) {
    const word = leafWord(leaf) + i * PTE_WORDS;
    const pte = ptepGet(k, word);
    if (!ptePresent(pte) || !pteWrite(pte)) continue;
    setPteAt(k, word, pteWrprotect(pte));
    changed++;
  }
  return changed;
};
