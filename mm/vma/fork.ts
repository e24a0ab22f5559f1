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
import { ENOMEM } from '../errno.ts';
import {
  folioAddLru,
  folioAlloc,
  folioGet,
  folioPut,
  folioSetFlags,
  folioTestAnon,
} from '../folio/folio.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { PG_UPTODATE } from '../frames/table.ts';
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
  pteMkclean,
  pteMkdirty,
  pteMkold,
  pteNone,
  ptePresent,
  pteWrite,
  pteWrprotect,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isReadableMigrationEntry,
  migrationEntryAs,
  migrationEntryPage,
  SWP_MIGRATION_READ,
} from '../pgtable/swapops.ts';
import { flushTlbMm } from '../pgtable/tlb.ts';
import { nextMapped, PTE_WORDS, ptepGet, setPteAt, tableEnd, walkPte } from '../pgtable/walk.ts';
import { anonVmaFork } from '../rmap/anon-vma.ts';
import { folioAddFileRmap, folioAddNewAnonRmap, folioTryDupAnonRmap } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_PAGE, type MmStruct, type Vma } from '../types.ts';
import { isCowMapping, VM_DONTCOPY, VM_SHARED } from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { mmExit, mmTryCreate } from './mm.ts';
import { vmaAlloc, vmaAppend } from './vma.ts';
import { addRss } from './zap.ts';

/** A migration entry: shared by both from now on, if it was anything more. */
const copyNonpresent = (k: Kernel, dst: Vma, src: Vma, to: number, from: number): void => {
  let entry = ptepGet(k, from);
  addRss(dst.mm, folioTestAnon(k, migrationEntryPage(entry)), 1);
  if (!isReadableMigrationEntry(entry) && isCowMapping(src.flags)) {
    entry = migrationEntryAs(entry, SWP_MIGRATION_READ);
    setPteAt(k, from, entry);
  }
  setPteAt(k, to, entry);
};

/** A pinned page: the child gets bytes of its own, the parent's entry stays as it is. */
const copyPinned = (k: Kernel, dst: Vma, hva: number, to: number, page: number): number => {
  const copy = folioAlloc(k, GFP_KERNEL);
  if (copy < 0) return copy;
  k.memory.copyPage(copy, page);
  folioSetFlags(k, copy, PG_UPTODATE);
  folioAddNewAnonRmap(k, copy, dst, hva);
  folioAddLru(k, copy);
  addRss(dst.mm, true, 1);
  const pte = pteMkdirty(mkPte(copy, vmPageProt(dst.flags)));
  setPteAt(k, to, maybeMkwrite(pte, dst.flags));
  countStat(k, 'fork_copied_pinned');
  return 0;
};

/** A present entry. @returns 0 or -ENOMEM */
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
    const anon = folioTestAnon(k, page);
    folioGet(k, page);
    if (!anon) {
      folioAddFileRmap(k, page);
    } else {
      const careful = src.mm.hasPinned && !k.sabotage.forkSharesPinned;
      if (folioTryDupAnonRmap(k, page, careful) !== 0) {
        const error = copyPinned(k, dst, hva, to, page);
        folioPut(k, page);
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
  setPteAt(k, to, pteMkold(pte));
  return 0;
};

/** The entries of one leaf table's part of a VMA. @returns 0 or -ENOMEM */
const copyPteRange = (k: Kernel, dst: Vma, src: Vma, start: number, end: number): number => {
  let from = walkPte(k, src.mm, start, false);
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

/** A file mapping without private pages is left out: faults find its pages again. */
const needsCopy = (src: Vma): boolean => src.mapping === null || src.anonVma !== null;

function* copyPageRange(k: Kernel, dst: Vma, src: Vma): Path<number> {
  if (!needsCopy(src)) return 0;
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
    const dst = vmaAlloc(child, src.start, src.end, src.flags, src.mapping, src.pgoff);
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
