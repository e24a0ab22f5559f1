/**
 * Fork of a hugetlb VMA: as of small pages, with one exclusive flag for a whole huge page, and
 * copies that the pool has to have a page for. Compare mm/hugetlb.c:copy_hugetlb_page_range().
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd } from '#cells';
import { ENOMEM } from '../errno.ts';
import { folioGet, folioNrPages, folioPut, folioTestAnon } from '../folio/folio.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_FORK_ENTRY, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import { pteClearUffdWp, pteNone, ptePage, ptePresent, pteWrprotect } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isPteMarker,
  isReadableMigrationEntry,
  migrationEntryAs,
  PTE_SWP_UFFD_WP,
  SWP_MIGRATION_READ,
} from '../pgtable/swapops.ts';
import { nextMapped, ptepGet, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { folioAddFileRmapPmd, folioTryDupAnonRmapPmd } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { isCowMapping, VM_UFFD_WP } from '../vma/flags.ts';
import { allocHugetlbFolio, copyHugeFolio } from './alloc.ts';
import { hugetlbAddNewAnonRmap, hugetlbCountAdd, makeHugePte } from './fault.ts';
import { hugeLevel, vmaPageSize } from './vma.ts';

/**
 * An entry that is not present; the child's VMA has no userfaultfd unless its flag says so. A page that
 * is being moved is the child's too: it counts, which Linux forgets here.
 */
const copyNonpresent = (k: Kernel, dst: Vma, to: number, from: number): void => {
  let entry = ptepGet(k, from);
  const uffd = (dst.flags & VM_UFFD_WP) !== 0;
  if (isMigrationEntry(entry)) {
    if (!isReadableMigrationEntry(entry) && isCowMapping(dst.flags)) {
      entry = migrationEntryAs(entry, SWP_MIGRATION_READ);
      setPteAt(k, from, entry);
    }
    if (!uffd) entry &= ~PTE_SWP_UFFD_WP;
    hugetlbCountAdd(dst.mm, vmaPageSize(dst) / PAGE_SIZE);
  } else if (isPteMarker(entry) && !uffd) return;
  setPteAt(k, to, entry);
};

/** A pinned page: a copy for the child now. The promises are the parent's: the page has to be left over. */
const copyPinned = (k: Kernel, dst: Vma, hva: number, to: number, folio: number): number => {
  const copy = allocHugetlbFolio(k, dst, hva, false);
  if (copy < 0) return -ENOMEM;
  copyHugeFolio(k, copy, folio);
  hugetlbAddNewAnonRmap(k, copy, dst, hva);
  setPteAt(k, to, makeHugePte(dst, copy, true));
  hugetlbCountAdd(dst.mm, folioNrPages(k, copy));
  countStat(k, 'fork_copied_pinned');
  return 0;
};

/** @returns 0 or -ENOMEM */
const copyPresent = (
  k: Kernel,
  dst: Vma,
  src: Vma,
  hva: number,
  to: number,
  from: number,
): number => {
  let pte = ptepGet(k, from);
  const folio = ptePage(pte);
  folioGet(k, folio);
  if (!folioTestAnon(k, folio)) {
    folioAddFileRmapPmd(k, folio);
  } else {
    const careful = src.mm.hasPinned && !k.sabotage.forkSharesPinned;
    if (folioTryDupAnonRmapPmd(k, folio, careful) !== 0) {
      const error = copyPinned(k, dst, hva, to, folio);
      folioPut(k, folio);
      return error;
    }
  }
  if (isCowMapping(src.flags)) {
    pte = pteWrprotect(pte);
    setPteAt(k, from, pte);
  }
  if ((dst.flags & VM_UFFD_WP) === 0) pte = pteClearUffdWp(pte);
  setPteAt(k, to, pte);
  hugetlbCountAdd(dst.mm, folioNrPages(k, folio));
  return 0;
};

/**
 * Copies the entries of a hugetlb VMA into the child's. Shared memory is left out: faults find it.
 * The caller flushes the parent's TLBs.
 * @returns 0 or -ENOMEM: a table, or a pinned page and an empty pool
 */
export function* copyHugetlbRange(k: Kernel, dst: Vma, src: Vma): Path<number> {
  if (src.anonVma === null && (dst.flags & VM_UFFD_WP) === 0) return 0;
  const { mm } = src;
  const size = vmaPageSize(src);
  const level = hugeLevel(src);
  const cow = isCowMapping(src.flags);
  const range =
    cow && mmHasNotifiers(mm) ? notifierRange(mm, src.start, src.end, MMU_NOTIFY_CLEAR) : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  if (cow) atomicAdd(mm.writeProtectSeq, 0, 1);
  let error = 0;
  for (let hva = nextMapped(k, mm, src.start, src.end); hva < src.end && error === 0; ) {
    const from = walkEntry(k, mm, hva, level, false);
    const to = from > 0 ? walkEntry(k, dst.mm, hva, level, true) : 0;
    if (to < 0) error = to;
    else if (to > 0 && ptePresent(ptepGet(k, from)))
      error = copyPresent(k, dst, src, hva, to, from);
    else if (to > 0 && !pteNone(ptepGet(k, from))) copyNonpresent(k, dst, to, from);
    if (k.watched) yield YP_FORK_ENTRY;
    hva = nextMapped(k, mm, hva + size, src.end);
  }
  if (cow) atomicAdd(mm.writeProtectSeq, 0, 1);
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  return error;
}
