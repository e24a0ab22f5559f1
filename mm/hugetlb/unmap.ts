/** Unmapping huge pages of hugetlb. Compare mm/hugetlb.c:__unmap_hugepage_range(). */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import {
  folioMarkDirty,
  folioNrPages,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioTestAnon,
} from '../folio/folio.ts';
import { PG_RESTORE_RESERVE } from '../frames/table.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import { pteDirty, pteNone, ptePage, ptePresent, pteUffdWp } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isMigrationEntryUffdWp,
  isPteMarker,
  makeUffdWpMarker,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { nextMapped, ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { noteZap } from '../provenance/provenance.ts';
import { folioRemoveRmapPmd } from '../rmap/rmap.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, MMU_NOTIFY_UNMAP, type Vma } from '../types.ts';
import { hugetlbCountAdd } from './fault.ts';
import { vmaAddReservation, vmaNeedsReservation } from './resv.ts';
import { hugeLevel, vmaHugetlbFile, vmaPageSize } from './vma.ts';

/** A page that was mapped at an address: its reference goes after the flush. */
interface Unmapped {
  hva: number;
  folio: number;
}

/** Clears one entry. @param keepMarker what userfaultfd wants to know of survives */
const unmapOne = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  keepMarker: boolean,
  gather: Unmapped[],
): void => {
  const seen = ptepGet(k, word);
  if (pteNone(seen) || (keepMarker && isPteMarker(seen) && !ptePresent(seen))) return;
  const pte = ptepGetAndClear(k, word);
  if (!ptePresent(pte)) {
    // A page that is being moved, or poisoned, has neither reference nor mapping here; moved, it counts.
    if (!isMigrationEntry(pte)) return;
    if (keepMarker && isMigrationEntryUffdWp(pte)) setPteAt(k, word, makeUffdWpMarker());
    hugetlbCountAdd(vma.mm, -vmaPageSize(vma) / PAGE_SIZE);
    return;
  }
  if (keepMarker && pteUffdWp(pte)) setPteAt(k, word, makeUffdWpMarker());
  const folio = ptePage(pte);
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  hugetlbCountAdd(vma.mm, -folioNrPages(k, folio));
  folioRemoveRmapPmd(k, folio);
  gather.push({ hva, folio });
};

/**
 * The entry's reference goes. If it is the last, and the page was the owner's by promise, the
 * promise is renewed: the page returns to the pool for it. With other references the page is still
 * away, and so the promise stays used up; Linux renews it all the same, and counts a page too few.
 */
const putUnmapped = (k: Kernel, vma: Vma, { hva, folio }: Unmapped): void => {
  if (
    vma.resv !== null &&
    folioTestAnon(k, folio) &&
    folioRefCount(k, folio) === 1 &&
    vmaNeedsReservation(vma, hva)
  ) {
    vmaAddReservation(vma, hva);
    folioSetFlags(k, folio, PG_RESTORE_RESERVE);
  }
  folioPut(k, folio);
};

/**
 * Unmaps [start, end) of a hugetlb VMA, whole huge pages, between the notifiers' start and end.
 * @param event MMU_NOTIFY_*
 * @param linked of a caller without mmap_lock: is the VMA still there? Asked after a yield
 */
export function* unmapHugetlbRange(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  event: number,
  linked?: () => boolean,
): Path<void> {
  const { mm } = vma;
  const size = vmaPageSize(vma);
  if (start % size !== 0 || end % size !== 0)
    throw new Error(`mm ${mm.id}: [${start}, ${end}) cuts through huge pages of ${size} bytes`);
  const range = mmHasNotifiers(mm) ? notifierRange(mm, start, end, event) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const gather: Unmapped[] = [];
  const stop = linked === undefined ? end : linked() ? Math.min(end, vma.end) : start;
  for (let at = nextMapped(k, mm, start, stop); at < stop; at = nextMapped(k, mm, at, stop)) {
    const word = walkEntry(k, mm, at, hugeLevel(vma), false);
    if (word > 0) unmapOne(k, vma, at, word, event !== MMU_NOTIFY_UNMAP, gather);
    at += size;
  }
  if (gather.length > 0) {
    // Without mmap_lock at once, for the reason that unmapHugetlbFolio() has.
    if (linked !== undefined) flushTlbRange(k, mm, start, end);
    if (k.watched) yield YP_PROTECT;
    if (linked === undefined) flushTlbRange(k, mm, start, end);
    for (const unmapped of gather) putUnmapped(k, vma, unmapped);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteZap(k, mm, start, end);
}

/** Word of the entry by which a VMA maps a huge page, 0 where it does not (any more). */
const wordOfFolio = (k: Kernel, vma: Vma, hva: number, folio: number): number => {
  // As long as the file knows the VMA, its tables exist.
  if (!vmaHugetlbFile(vma).vmas.includes(vma) || hva < vma.start || hva >= vma.end) return 0;
  const word = walkEntry(k, vma.mm, hva, hugeLevel(vma), false);
  if (word <= 0) return 0;
  const pte = ptepGet(k, word);
  return ptePresent(pte) && ptePage(pte) === folio ? word : 0;
};

/**
 * Takes one huge page away from a VMA that has it from a fork. The VMA may not fault any more: what
 * it would find is not what it had. Without its mmap_lock.
 */
export function* unmapHugetlbFolio(k: Kernel, vma: Vma, hva: number, folio: number): Path<void> {
  const { mm } = vma;
  if (wordOfFolio(k, vma, hva, folio) === 0) return;
  const end = hva + vmaPageSize(vma);
  const range = mmHasNotifiers(mm) ? notifierRange(mm, hva, end, MMU_NOTIFY_CLEAR) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const word = wordOfFolio(k, vma, hva, folio);
  if (word > 0) {
    const gather: Unmapped[] = [];
    setField(vma, 'resvUnmapped', true);
    unmapOne(k, vma, hva, word, true, gather);
    // Flushed at once: who drops the same range meanwhile, mmap_lock being free, would find nothing
    // to flush, and believe that nothing is left of it. Linux has mm_tlb_flush_nested() for that.
    flushTlbRange(k, mm, hva, end);
    for (const unmapped of gather) putUnmapped(k, vma, unmapped);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteZap(k, mm, hva, end);
}
