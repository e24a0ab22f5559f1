/**
 * Changing what the entries of a range allow: for mprotect(), for userfaultfd's write protection and
 * for NUMA hinting. Compare mm/mprotect.c:change_protection(), change_pte_range(), and
 * mm/huge_memory.c:change_huge_pmd().
 *
 * An entry may become writable only where no write fault is due any more: that is
 * canChangePteWritable(), which everybody asks who has an entry made writable without one.
 */
import { PAGE_SIZE } from '#emu';
import { ENOMEM } from '../errno.ts';
import {
  folioMapcount,
  folioNrPages,
  folioOf,
  folioTestAnon,
  folioTestDirty,
  folioTestFlags,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { PG_KSM, PG_SWAPBACKED } from '../frames/table.ts';
import { hugetlbChangeProtection } from '../hugetlb/protect.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import {
  pteClearUffdWp,
  pteDirty,
  pteMkuffdWp,
  pteMkwrite,
  pteModify,
  pteNeedsSoftDirtyWp,
  pteNeedsUffdWp,
  pteNone,
  ptePresent,
  pteProtnone,
  pteWrite,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import { makeUffdWpMarker } from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
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
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_VMA, type MmStruct, type Vma } from '../types.ts';
import {
  changedNonpresent,
  MM_CP_PROT_NUMA,
  MM_CP_TRY_CHANGE_WRITABLE,
  MM_CP_UFFD_WP,
  MM_CP_UFFD_WP_RESOLVE,
} from './cp.ts';
import {
  isCowMapping,
  VM_ACCESS_FLAGS,
  VM_HUGETLB,
  VM_SHARED,
  VM_SPECIAL,
  VM_WRITE,
  vmaIsAnonymous,
} from './flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './lock.ts';
import { vmaIndexAbove } from './vma.ts';

/**
 * May an entry of a writable VMA become writable without a fault? Not while userfaultfd or soft-dirty
 * tracking waits for the next write. Private: the page must be the mapping's own. Shared: it must be
 * dirty already. The same for an entry that maps a whole folio. Compare can_change_pte_writable().
 */
export const canChangePteWritable = (k: Kernel, vma: Vma, pte: number): boolean => {
  if ((vma.flags & VM_WRITE) === 0 || pteProtnone(pte)) return false;
  if (pteNeedsSoftDirtyWp(vma, pte) || pteNeedsUffdWp(vma, pte)) return false;
  if ((vma.flags & VM_SHARED) !== 0) return pteDirty(pte);
  const page = vmNormalPage(pte);
  return page >= 0 && folioTestAnon(k, folioOf(k, page)) && pageAnonExclusive(k, page);
};

/**
 * Where a hint would be of no use: merged pages, pages that a fork shares or that may be pinned in
 * private memory, dirty pages of files. Compare prot_numa_skip().
 */
const protNumaSkips = (k: Kernel, vma: Vma, pte: number): boolean => {
  const page = vmNormalPage(pte);
  if (page < 0) return true;
  const folio = folioOf(k, page);
  if (folioTestFlags(k, folio, PG_KSM)) return true;
  if (isCowMapping(vma.flags)) {
    if (folioMaybeDmaPinned(k, folio)) return true;
    if (folioMapcount(k, folio) > folioNrPages(k, folio)) return true;
    if (folioTestAnon(k, folio) && !pageAnonExclusive(k, page)) return true;
  }
  return !folioTestFlags(k, folio, PG_SWAPBACKED) && folioTestDirty(k, folio);
};

/** One present entry, of either level. @returns true where it is another now */
const changePresent = (
  k: Kernel,
  vma: Vma,
  word: number,
  old: number,
  prot: number,
  cp: number,
): boolean => {
  if ((cp & MM_CP_PROT_NUMA) !== 0 && (pteProtnone(old) || protNumaSkips(k, vma, old)))
    return false;
  // Cleared first, as ptep_modify_prot_start() does, so that no A or D bit is lost.
  let pte = pteModify(ptepGetAndClear(k, word), prot);
  if ((cp & MM_CP_UFFD_WP) !== 0) pte = pteMkuffdWp(pte);
  else if ((cp & MM_CP_UFFD_WP_RESOLVE) !== 0) pte = pteClearUffdWp(pte);
  const upgrade = (cp & MM_CP_TRY_CHANGE_WRITABLE) !== 0 && !pteWrite(pte);
  if (upgrade && canChangePteWritable(k, vma, pte)) pte = pteMkwrite(pte);
  setPteAt(k, word, pte);
  return pte !== old;
};

/** One entry of a last-level table. @returns true where TLBs have to forget it */
const changePte = (k: Kernel, vma: Vma, word: number, prot: number, cp: number): boolean => {
  const old = ptepGet(k, word);
  if (ptePresent(old)) return changePresent(k, vma, word, old, prot, cp);
  const entry = pteNone(old) ? missingEntry(vma, cp) : changedNonpresent(k, old, cp);
  if (entry !== old) setPteAt(k, word, entry);
  return false;
};

/** File memory that is not there is protected by a marker; anonymous memory stays none. */
const missingEntry = (vma: Vma, cp: number): number =>
  usesMarkers(vma, cp) ? makeUffdWpMarker() : 0;

/** Compare userfaultfd_wp_use_markers(). */
const usesMarkers = (vma: Vma, cp: number): boolean =>
  (cp & MM_CP_UFFD_WP) !== 0 && !vmaIsAnonymous(vma);

/**
 * One table's part [from, to): a huge entry whole, where all of it is meant and it needs no markers.
 * @returns 1 where something changed, 0, -ENOMEM
 */
const changeTable = (
  k: Kernel,
  vma: Vma,
  from: number,
  to: number,
  prot: number,
  cp: number,
): number => {
  const pmd = pmdLeafAt(k, vma.mm, from);
  if (pmd > 0) {
    if (to - from === HPAGE_PMD_SIZE && !usesMarkers(vma, cp))
      return changePresent(k, vma, pmd, ptepGet(k, pmd), prot, cp) ? 1 : 0;
    splitHugePmd(k, vma, from);
  }
  let word = walkPte(k, vma.mm, from, usesMarkers(vma, cp));
  if (word < 0) return -ENOMEM;
  if (word === 0) return 0;
  let changed = 0;
  for (let at = from; at < to; at += PAGE_SIZE, word += PTE_WORDS)
    if (changePte(k, vma, word, prot, cp)) changed = 1;
  return changed;
};

/**
 * Gives every entry of [start, end) of a VMA new protection bits, between the notifiers' start and
 * end. The caller holds mmap_lock.
 * @param prot vmPageProt of what is to be allowed
 * @param cp MM_CP_*
 * @returns 0, or -ENOMEM: no table for a marker, what lies below is done
 */
export function* changeProtection(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  prot: number,
  cp: number,
): Path<number> {
  if ((vma.flags & VM_HUGETLB) !== 0) return yield* hugetlbChangeProtection(k, vma, start, end, cp);
  const { mm } = vma;
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, start, end, MMU_NOTIFY_PROTECTION_VMA)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  const next = (at: number): number => (usesMarkers(vma, cp) ? at : nextMapped(k, mm, at, end));
  let changed = 0;
  for (let at = next(start); at < end && changed >= 0; ) {
    const to = tableEnd(at, end);
    changed = changeTable(k, vma, at, to, prot, cp);
    if (changed > 0) {
      if (k.watched) yield YP_PROTECT;
      flushTlbRange(k, mm, at, to);
    }
    at = next(to);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  return Math.min(changed, 0);
}

/**
 * NUMA hinting: the next access to each page of [start, end) is to fault, so that it is known who
 * accesses it. Of VMAs that are accessible only: elsewhere PROT_NONE means what it says. Takes
 * mmap_lock for reading. Compare task_numa_work(), change_prot_numa().
 */
export function* changeProtNuma(k: Kernel, mm: MmStruct, start: number, end: number): Path<void> {
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  for (let i = vmaIndexAbove(mm, start); i < mm.vmas.length; i++) {
    const vma = mm.vmas[i];
    if (vma === undefined || vma.start >= end) break;
    if ((vma.flags & VM_ACCESS_FLAGS) === 0 || (vma.flags & (VM_HUGETLB | VM_SPECIAL)) !== 0)
      continue;
    const from = Math.max(start, vma.start);
    const to = Math.min(end, vma.end);
    yield* changeProtection(k, vma, from, to, vmPageProt(0), MM_CP_PROT_NUMA);
  }
  mmapReadUnlock(mm);
}
