/**
 * fork(): a second address space with the same contents. Compare kernel/fork.c:dup_mmap(),
 * mm/memory.c:copy_page_range(), copy_present_ptes(), copy_nonpresent_pte().
 *
 * Private pages become shared, read-only on both sides, and stop being exclusive; an exclusive page
 * that may be pinned stays the parent's, writable, and the child gets a copy at once. Meanwhile
 * write_protect_seq is odd, so that no GUP-fast pins what is being shared.
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd, setField } from '#cells';
import { EAGAIN, EHWPOISON, ENOMEM } from '../errno.ts';
import {
  folioAlloc,
  folioGet,
  folioOf,
  folioPut,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
} from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_HWPOISON, PG_KSM, PG_UPTODATE } from '../frames/table.ts';
import { copyHugetlbRange } from '../hugetlb/fork.ts';
import { folioAddLruVma } from '../lru/mlock.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_FORK_ENTRY, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteClearUffdWp,
  pteMkclean,
  pteMkdirty,
  pteMkold,
  pteMkuffdWp,
  pteNeedsUffdWp,
  pteNone,
  ptePresent,
  pteWrite,
  pteWrprotect,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isHwpoisonEntry,
  isMigrationEntry,
  isPteMarker,
  isReadableMigrationEntry,
  isSwapEntry,
  migrationEntryAs,
  migrationEntryPage,
  PTE_SWP_UFFD_WP,
  SWP_MIGRATION_READ,
  swapEntryClearExclusive,
  swapEntryExclusive,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { flushTlbMm } from '../pgtable/tlb.ts';
import {
  depositTable,
  freeDeposited,
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  setPteAt,
  tableEnd,
  walkEntry,
  walkPte,
} from '../pgtable/walk.ts';
import { anonVmaFork } from '../rmap/anon-vma.ts';
import {
  folioAddFileRmap,
  folioAddNewAnonRmap,
  folioTryDupAnonRmap,
  folioTryDupAnonRmapPmd,
} from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { swapDuplicate } from '../swap/slots.ts';
import { splitHugePmdLocked } from '../thp/split-pmd.ts';
import { HPAGE_PMD_NR } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_PAGE, type MmStruct, type Vma } from '../types.ts';
import { uffdForkFlags } from '../uffd/uffd.ts';
import {
  isCowMapping,
  VM_DONTCOPY,
  VM_HUGETLB,
  VM_LOCKED,
  VM_MIXEDMAP,
  VM_PFNMAP,
  VM_SHARED,
  VM_UFFD_WP,
} from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { mmExit, mmTryCreate } from './mm.ts';
import { vmaAlloc, vmaAppend } from './vma.ts';
import { addRss } from './zap.ts';

/** Swap and migration entries: shared by both from now on, if they were anything more. Poison and markers as they are. */
const copyNonpresent = (k: Kernel, dst: Vma, src: Vma, to: number, from: number): void => {
  let entry = ptepGet(k, from);
  if (isSwapEntry(entry)) {
    swapDuplicate(k, swapEntrySlot(entry));
    setField(dst.mm, 'rssSwap', dst.mm.rssSwap + 1);
    if (swapEntryExclusive(entry)) {
      entry = swapEntryClearExclusive(entry);
      setPteAt(k, from, entry);
    }
  } else if (isMigrationEntry(entry)) {
    addRss(dst.mm, folioTestAnon(k, folioOf(k, migrationEntryPage(entry))), 1);
    if (!isReadableMigrationEntry(entry) && isCowMapping(src.flags)) {
      entry = migrationEntryAs(entry, SWP_MIGRATION_READ);
      setPteAt(k, from, entry);
    }
  }
  // The child hears of nothing that it has not registered.
  if ((dst.flags & VM_UFFD_WP) === 0) {
    if (isPteMarker(entry)) entry = 0;
    else if (!isHwpoisonEntry(entry)) entry &= ~PTE_SWP_UFFD_WP;
  }
  setPteAt(k, to, entry);
};

/**
 * A pinned page: the child gets bytes of its own, the parent's entry stays as it is.
 * @param was the parent's entry
 * @returns 0, -ENOMEM, or -EHWPOISON: the bytes cannot be read
 */
const copyPinned = (
  k: Kernel,
  dst: Vma,
  hva: number,
  to: number,
  was: number,
  page: number,
): number => {
  if (folioTestFlags(k, page, PG_HWPOISON)) return -EHWPOISON;
  const copy = folioAlloc(k, GFP_MOVABLE);
  if (copy < 0) return copy;
  k.memory.copyPage(copy, page);
  folioSetFlags(k, copy, PG_UPTODATE);
  folioAddNewAnonRmap(k, copy, dst, hva);
  folioAddLruVma(k, copy, dst);
  addRss(dst.mm, true, 1);
  const pte = maybeMkwrite(pteMkdirty(mkPte(copy, vmPageProt(dst.flags))), dst.flags);
  setPteAt(k, to, pteNeedsUffdWp(dst, was) ? pteMkuffdWp(pte) : pte);
  countStat(k, 'fork_copied_pinned');
  return 0;
};

/** A present entry. @returns as copyPinned */
const copyPresent = (
  k: Kernel,
  dst: Vma,
  src: Vma,
  hva: number,
  to: number,
  from: number,
): number => {
  let pte = ptepGet(k, from);
  const page = vmNormalPage(pte);
  if (page >= 0) {
    const folio = folioOf(k, page);
    const anon = folioTestAnon(k, folio);
    folioGet(k, folio);
    if (!anon || folioTestFlags(k, folio, PG_KSM)) {
      folioAddFileRmap(k, page);
    } else {
      const careful = src.mm.hasPinned && !k.sabotage.forkSharesPinned;
      if (folioTryDupAnonRmap(k, page, careful) !== 0) {
        const error = copyPinned(k, dst, hva, to, pte, page);
        folioPut(k, folio);
        return error;
      }
    }
    addRss(dst.mm, anon, 1);
  }
  if (isCowMapping(src.flags) && pteWrite(pte)) {
    pte = pteWrprotect(pte);
    setPteAt(k, from, pte);
  }
  if ((src.flags & VM_SHARED) !== 0) pte = pteMkclean(pte);
  if ((dst.flags & VM_UFFD_WP) === 0) pte = pteClearUffdWp(pte);
  setPteAt(k, to, pteMkold(pte));
  return 0;
};

/**
 * An entry that maps 2 MiB, whole: the child gets the same. Where it may be pinned it is split in
 * the parent instead, and goes page by page. Compare copy_huge_pmd().
 * @returns 0; -EAGAIN: split, or a file's (the child finds it again); -ENOMEM
 */
const copyHugePmd = (k: Kernel, dst: Vma, src: Vma, hva: number, from: number): number => {
  const folio = vmNormalPage(ptepGet(k, from));
  if (folio >= 0 && !folioTestAnon(k, folio)) return -EAGAIN;
  const to = walkEntry(k, dst.mm, hva, 1, true);
  if (to < 0) return to;
  const error = depositTable(k, dst.mm);
  if (error !== 0) return error;
  if (folio >= 0) {
    folioGet(k, folio);
    const careful = src.mm.hasPinned && !k.sabotage.forkSharesPinned;
    if (folioTryDupAnonRmapPmd(k, folio, careful) !== 0) {
      folioPut(k, folio);
      freeDeposited(k, dst.mm);
      splitHugePmdLocked(k, src, hva, from);
      return -EAGAIN;
    }
    addRss(dst.mm, true, HPAGE_PMD_NR);
  }
  const pmd = pteWrprotect(ptepGet(k, from));
  setPteAt(k, from, pmd);
  const child = (dst.flags & VM_UFFD_WP) === 0 ? pteClearUffdWp(pmd) : pmd;
  setPteAt(k, to, pteMkold(child));
  return 0;
};

/** The entries of one leaf table's part of a VMA. @returns 0 or -ENOMEM */
const copyPteRange = (k: Kernel, dst: Vma, src: Vma, start: number, end: number): number => {
  const pmd = pmdLeafAt(k, src.mm, start);
  if (pmd > 0) {
    const error = copyHugePmd(k, dst, src, start, pmd);
    if (error !== -EAGAIN) return error;
  }
  let from = walkPte(k, src.mm, start, false);
  if (from === 0) return 0;
  let to = walkPte(k, dst.mm, start, true);
  if (to < 0) return to;
  for (let hva = start; hva < end; hva += PAGE_SIZE, from += PTE_WORDS, to += PTE_WORDS) {
    const pte = ptepGet(k, from);
    if (pteNone(pte)) continue;
    if (!ptePresent(pte)) copyNonpresent(k, dst, src, to, from);
    else if (copyPresent(k, dst, src, hva, to, from) !== 0) return -ENOMEM;
  }
  return 0;
};

/** What has no private pages is left out: faults find the file's, or zeroes, again. Compare vma_needs_copy(). */
const needsCopy = (dst: Vma, src: Vma): boolean =>
  src.anonVma !== null ||
  (src.flags & (VM_PFNMAP | VM_MIXEDMAP)) !== 0 ||
  (dst.flags & VM_UFFD_WP) !== 0;

function* copyPageRange(k: Kernel, dst: Vma, src: Vma): Path<number> {
  if ((src.flags & VM_HUGETLB) !== 0) return yield* copyHugetlbRange(k, dst, src);
  if (!needsCopy(dst, src)) return 0;
  const { mm } = src;
  const cow = isCowMapping(src.flags);
  const range =
    cow && mmHasNotifiers(mm)
      ? notifierRange(mm, src.start, src.end, MMU_NOTIFY_PROTECTION_PAGE)
      : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  if (cow) atomicAdd(mm.writeProtectSeq, 0, 1);
  let error = 0;
  for (
    let at = nextMapped(k, mm, src.start, src.end);
    at < src.end && error === 0;
    at = nextMapped(k, mm, at, src.end)
  ) {
    const end = tableEnd(at, src.end);
    error = copyPteRange(k, dst, src, at, end);
    at = end;
    if (k.watched) yield YP_FORK_ENTRY;
  }
  if (cow) atomicAdd(mm.writeProtectSeq, 0, 1);
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  return error;
}

/** Copies the VMAs and what they map. @returns 0 or -ENOMEM */
function* dupMmap(k: Kernel, child: MmStruct, parent: MmStruct): Path<number> {
  let error = 0;
  for (const src of parent.vmas) {
    if ((src.flags & VM_DONTCOPY) !== 0) continue;
    const flags = uffdForkFlags(child, src) & ~VM_LOCKED;
    const dst = vmaAlloc(child, src.start, src.end, flags, src.mapping, src.pgoff);
    vmaAppend(dst);
    anonVmaFork(k, dst, src);
    error = yield* copyPageRange(k, dst, src);
    if (error !== 0) break;
  }
  // The parent's harts may hold entries that were writable until now.
  flushTlbMm(k, parent);
  return error;
}

/**
 * fork: a new address space with the parent's mappings and contents. MMF_HAS_PINNED and notifiers
 * are not inherited.
 * @returns the child, or -ENOMEM with nothing left of it
 */
export function* fork(k: Kernel, parent: MmStruct): Path<MmStruct | number> {
  const child = mmTryCreate(k);
  if (child === null) return -ENOMEM;
  if (!mmapWriteTrylock(parent)) yield* mmapWriteLock(parent);
  setField(child.mmapLock, 'writer', true);
  const error = yield* dupMmap(k, child, parent);
  mmapWriteUnlock(child);
  mmapWriteUnlock(parent);
  if (error === 0) return child;
  yield* mmExit(k, child);
  return error;
}
