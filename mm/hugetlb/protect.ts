/** mprotect() of a hugetlb VMA. Compare mm/hugetlb.c:hugetlb_change_protection(). */
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import {
  pteClearUffdWp,
  pteMkuffdWp,
  pteModify,
  pteNone,
  ptePresent,
  vmPageProt,
} from '../pgtable/pte.ts';
import { makeUffdWpMarker } from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import { nextMapped, ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_VMA, type Vma } from '../types.ts';
import { changedNonpresent, MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE } from '../vma/cp.ts';
import { hugeLevel, vmaPageSize } from './vma.ts';

/** One entry; nothing becomes writable without a fault, not even a page that is the mapping's own. */
const changeOne = (k: Kernel, vma: Vma, word: number, cp: number): void => {
  const old = ptepGet(k, word);
  if (pteNone(old)) {
    if ((cp & MM_CP_UFFD_WP) !== 0) setPteAt(k, word, makeUffdWpMarker());
  } else if (ptePresent(old)) {
    let pte = pteModify(ptepGetAndClear(k, word), vmPageProt(vma.flags));
    if ((cp & MM_CP_UFFD_WP) !== 0) pte = pteMkuffdWp(pte);
    else if ((cp & MM_CP_UFFD_WP_RESOLVE) !== 0) pte = pteClearUffdWp(pte);
    setPteAt(k, word, pte);
  } else {
    setPteAt(k, word, changedNonpresent(k, old, cp));
  }
};

/**
 * Gives every entry of [start, end) of a hugetlb VMA, whole huge pages, the bits that the VMA's flags
 * ask for. @param cp MM_CP_*: of userfaultfd's; missing pages get markers then, also of private memory
 * @returns 0, or -ENOMEM: no table for a marker, what lies below is done
 */
export function* hugetlbChangeProtection(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  cp: number,
): Path<number> {
  const { mm } = vma;
  const size = vmaPageSize(vma);
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, start, end, MMU_NOTIFY_PROTECTION_VMA)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const markers = (cp & MM_CP_UFFD_WP) !== 0;
  const next = (at: number): number => (markers ? at : nextMapped(k, mm, at, end));
  let changed = false;
  let error = 0;
  for (let at = next(start); at < end && error === 0; at = next(at + size)) {
    const word = walkEntry(k, mm, at, hugeLevel(vma), markers);
    if (word < 0) error = word;
    if (word <= 0) continue;
    if (!pteNone(ptepGet(k, word))) changed = true;
    changeOne(k, vma, word, cp);
  }
  if (changed) {
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, start, end);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  return error;
}
