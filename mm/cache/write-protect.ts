/**
 * Write protection: the next store to a page is to fault, and nothing written so far may be forgotten.
 *
 * folioWriteProtect is what writeback does to a folio before it writes it out: mm/rmap.c,
 * folio_mkclean() as called by folio_clear_dirty_for_io(). writeProtectRange is what soft-dirty
 * tracking does to a range: fs/proc/task_mmu.c, clear_refs_write(). There is no writeback yet, so the
 * folio stays dirty afterwards.
 */
import { PAGE_SIZE } from '#emu';
import { EINVAL } from '../errno.ts';
import {
  folioLock,
  folioMapcount,
  folioMarkDirty,
  folioPut,
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
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  tableEnd,
  walkPte,
} from '../pgtable/walk.ts';
import {
  folioVmaMappedPmd,
  pageVmaMapped,
  type RmapPlace,
  rmapPlaces,
  rmapStillLinked,
} from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioUnlockFreeSwap } from '../swap/cache.ts';
import {
  type Kernel,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_SOFT_DIRTY,
  type MmStruct,
  type Vma,
} from '../types.ts';
import { VM_SHARED } from '../vma/flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from '../vma/lock.ts';

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
    if ((vma.flags & VM_SHARED) === 0) continue;
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

/** The first place that the walk has not been to; null at the end. */
const nextPlace = (k: Kernel, folio: number, seen: readonly RmapPlace[]): RmapPlace | null =>
  rmapPlaces(k, folio).find(
    ({ vma, hva }) => !seen.some((place) => place.vma === vma && place.hva === hva),
  ) ?? null;

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
  for (let hva = nextMapped(k, mm, start, end); hva < end; hva = nextMapped(k, mm, hva, end)) {
    const stop = tableEnd(hva, end);
    const pmd = pmdLeafAt(k, mm, hva);
    if (pmd > 0) {
      const pte = ptepGet(k, pmd);
      if (pteWrite(pte)) {
        setPteAt(k, pmd, pteWrprotect(pte));
        changed++;
      }
      hva = stop;
      continue;
    }
    let word = walkPte(k, mm, hva, false);
    for (; hva < stop; hva += 4096, word += PTE_WORDS) {
      const pte = ptepGet(k, word);
      if (!ptePresent(pte) || !pteWrite(pte)) continue;
      setPteAt(k, word, pteWrprotect(pte));
      changed++;
    }
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
