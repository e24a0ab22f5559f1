/**
 * Moving entries from one range of an address space to another: the second half of mremap(). Compare
 * mm/mremap.c:move_page_tables(), move_ptes(), mm/huge_memory.c:move_huge_pmd().
 *
 * An entry is at the old place or at the new one at any time, and both VMAs are in the reverse map,
 * the new one behind the old: so a walker, which sees the old place first, cannot miss it.
 */
import { PAGE_SIZE } from '#emu';
import { folioTestFlags } from '../folio/folio.ts';
import { PG_KSM } from '../frames/table.ts';
import { moveHugetlbRange } from '../hugetlb/move.ts';
import { ksmNodeAppend, ksmNodeOf } from '../ksm/node.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_MOVE_ENTRY, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import {
  pteClearUffdWp,
  pteMksoftDirty,
  pteNone,
  ptePresent,
  vmNormalPage,
} from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isPteMarker,
  migrationEntryPage,
  nonpresentMksoftDirty,
  PTE_SWP_UFFD_WP,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  tableEnd,
  walkEntry,
  walkPte,
} from '../pgtable/walk.ts';
import { noteMoved } from '../provenance/provenance.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_UNMAP, type Vma } from '../types.ts';
import { VM_HUGETLB, VM_UFFD_WP } from './flags.ts';

/** The entry as it is at its new place: written, as soft-dirty tracking sees it. */
const movedEntry = (old: number, clearUffdWp: boolean): number => {
  if (ptePresent(old)) return pteMksoftDirty(clearUffdWp ? pteClearUffdWp(old) : old);
  if (!clearUffdWp) return nonpresentMksoftDirty(old);
  return isPteMarker(old) ? 0 : nonpresentMksoftDirty(old & ~PTE_SWP_UFFD_WP);
};

/**
 * Merged pages are unmerged before they are moved; but one that a relative shares may have been merged
 * since, under its own lock. Then it is found at the new place as well.
 */
const followMerged = (k: Kernel, { anonVma }: Vma, hva: number, entry: number): void => {
  let page = -1;
  if (ptePresent(entry)) page = vmNormalPage(entry);
  else if (isMigrationEntry(entry)) page = migrationEntryPage(entry);
  if (page < 0 || anonVma === null || !folioTestFlags(k, page, PG_KSM)) return;
  ksmNodeAppend(ksmNodeOf(k, page), anonVma, hva);
};

/** Moves the entries of one part that lies in one table on both sides. @returns 0, or -ENOMEM with nothing moved */
const movePart = (
  k: Kernel,
  vma: Vma,
  newVma: Vma,
  from: number,
  to: number,
  lenBytes: number,
  clearUffdWp: boolean,
): number => {
  const { mm } = vma;
  const pmd = pmdLeafAt(k, mm, from);
  if (pmd > 0) {
    const target = lenBytes === HPAGE_PMD_SIZE ? walkEntry(k, mm, to, 1, true) : 0;
    if (target < 0) return target;
    if (target > 0 && pteNone(ptepGet(k, target))) {
      setPteAt(k, target, movedEntry(ptepGetAndClear(k, pmd), clearUffdWp));
      flushTlbRange(k, mm, from, from + lenBytes);
      return 0;
    }
    splitHugePmd(k, vma, from);
  }
  let source = walkPte(k, mm, from, false);
  if (source <= 0) return 0;
  let target = walkPte(k, mm, to, true);
  if (target < 0) return target;
  let flush = false;
  const merged = k.state.ksm.nodes.length > 0;
  for (let i = 0; i < lenBytes; i += PAGE_SIZE, source += PTE_WORDS, target += PTE_WORDS) {
    if (pteNone(ptepGet(k, source))) continue;
    const old = ptepGetAndClear(k, source);
    setPteAt(k, target, movedEntry(old, clearUffdWp));
    if (merged) followMerged(k, newVma, to + i, old);
    if (ptePresent(old)) flush = true;
  }
  if (flush) flushTlbRange(k, mm, from, from + lenBytes);
  return 0;
};

/**
 * Moves what [from, from + lenBytes) of `vma` maps to `to` in `target`, where nothing is mapped.
 * Under mmap_lock for writing. A huge entry moves whole where both places are aligned; userfaultfd's
 * bits are lost where the new VMA is not registered.
 * @returns bytes moved; fewer than `lenBytes` without memory for a table
 */
export function* movePageTables(
  k: Kernel,
  vma: Vma,
  target: Vma,
  from: number,
  to: number,
  lenBytes: number,
): Path<number> {
  if ((vma.flags & VM_HUGETLB) !== 0)
    return yield* moveHugetlbRange(k, vma, target, from, to, lenBytes);
  const { mm } = vma;
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, from, from + lenBytes, MMU_NOTIFY_UNMAP)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const clearUffdWp = (vma.flags & ~target.flags & VM_UFFD_WP) !== 0;
  let moved = 0;
  while (moved < lenBytes) {
    const old = from + moved;
    const now = to + moved;
    const part = Math.min(tableEnd(old, from + lenBytes) - old, tableEnd(now, to + lenBytes) - now);
    if (movePart(k, vma, target, old, now, part, clearUffdWp) !== 0) break;
    moved += part;
    if (k.watched) yield YP_MOVE_ENTRY;
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteMoved(k, mm, from, to, moved);
  return moved;
}
