/** mremap() of a hugetlb VMA. Compare mm/hugetlb.c:move_hugetlb_page_tables(). */
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import { pteClearUffdWp, pteNone, ptePresent } from '../pgtable/pte.ts';
import { isPteMarker, PTE_SWP_UFFD_WP } from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { nextMapped, ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { noteMoved } from '../provenance/provenance.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { VM_UFFD_WP } from '../vma/flags.ts';
import { hugetlbVmaMoved } from './resv.ts';
import { hugeLevel, vmaPageSize } from './vma.ts';

/** The entry at its new place, where userfaultfd may know nothing of it. Compare move_huge_pte(). */
const movedEntry = (old: number, clearUffdWp: boolean): number => {
  if (!clearUffdWp) return old;
  if (ptePresent(old)) return pteClearUffdWp(old);
  return isPteMarker(old) ? 0 : old & ~PTE_SWP_UFFD_WP;
};

/**
 * Moves the entries of [oldHva, oldHva + lenBytes) to `newHva`, and with the last of them what the
 * owner was promised: all are multiples of the huge page's size.
 * @param newVma where they go: linked, with the offset in the file that belongs there
 * @returns bytes moved: less than `lenBytes` without memory for a table; the rest is where it was
 */
export function* moveHugetlbRange(
  k: Kernel,
  vma: Vma,
  newVma: Vma,
  oldHva: number,
  newHva: number,
  lenBytes: number,
): Path<number> {
  const { mm } = vma;
  const size = vmaPageSize(vma);
  const level = hugeLevel(vma);
  const end = oldHva + lenBytes;
  const range = mmHasNotifiers(mm) ? notifierRange(mm, oldHva, end, MMU_NOTIFY_CLEAR) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const clearUffdWp = (vma.flags & ~newVma.flags & VM_UFFD_WP) !== 0;
  let stop = end;
  for (let at = nextMapped(k, mm, oldHva, end); at < end; at = nextMapped(k, mm, at, end)) {
    const from = walkEntry(k, mm, at, level, false);
    if (from > 0 && !pteNone(ptepGet(k, from))) {
      const to = walkEntry(k, mm, newHva + (at - oldHva), level, true);
      if (to < 0) {
        stop = at;
        break;
      }
      setPteAt(k, to, movedEntry(ptepGetAndClear(k, from), clearUffdWp));
    }
    at += size;
  }
  if (k.watched) yield YP_PROTECT;
  flushTlbRange(k, mm, oldHva, end);
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  noteMoved(k, mm, oldHva, newHva, stop - oldHva);
  if (stop === end) hugetlbVmaMoved(newVma, vma, oldHva, lenBytes);
  return stop - oldHva;
}
