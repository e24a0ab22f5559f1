/**
 * Soft-dirty tracking: which pages have been written since somebody last asked. Compare
 * fs/proc/task_mmu.c:clear_refs_write(), clear_soft_dirty(), Documentation/admin-guide/mm/soft-dirty.rst.
 *
 * Asking clears the bit of every entry and takes W from it; the next write faults and sets it. What is
 * new counts as written: a VMA has VM_SOFTDIRTY until it is asked about, and what mremap() moves has
 * the bit. Of PROT_NONE entries nobody knows, so they count as written too.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { folioOf } from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { invalidateRangeEnd, invalidateRangeStart, notifierRange } from '../notifier/notifier.ts';
import { type Path, YP_PROTECT } from '../path.ts';
import {
  pteClearSoftDirty,
  pteMksoftDirty,
  pteNone,
  ptePresent,
  pteWrite,
  pteWrprotect,
  vmNormalPage,
} from '../pgtable/pte.ts';
import { nonpresentClearSoftDirty } from '../pgtable/swapops.ts';
import { flushTlbMm } from '../pgtable/tlb.ts';
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
import { countStat } from '../stat.ts';
import { type Kernel, MMU_NOTIFY_SOFT_DIRTY, type MmStruct, type Vma } from '../types.ts';
import { changedNonpresent } from './cp.ts';
import { isCowMapping, VM_HUGETLB, VM_PFNMAP, VM_SOFTDIRTY } from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';

/** A device may be writing to it right now, and would not set the bit. Compare pte_is_pinned(). */
const pteIsPinned = (k: Kernel, vma: Vma, pte: number): boolean => {
  if (!vma.mm.hasPinned || !pteWrite(pte) || !isCowMapping(vma.flags)) return false;
  const page = vmNormalPage(pte);
  return page >= 0 && folioMaybeDmaPinned(k, folioOf(k, page));
};

/** Write-protects one present entry, cleared first so that no A or D bit is lost. */
const clearPresent = (k: Kernel, word: number): void => {
  const pte = ptepGetAndClear(k, word);
  if (pteWrite(pte)) countStat(k, 'wrprotect');
  setPteAt(k, word, pteClearSoftDirty(pteWrprotect(pte)));
};

const clearPte = (k: Kernel, vma: Vma, word: number): void => {
  const pte = ptepGet(k, word);
  if (pteNone(pte)) return;
  // Linux leaves a migration entry writable, and may miss the first write after the move.
  if (!ptePresent(pte)) setPteAt(k, word, nonpresentClearSoftDirty(changedNonpresent(k, pte, 0)));
  else if (!pteIsPinned(k, vma, pte)) clearPresent(k, word);
  // Linux leaves it as it is; but where W came without a write the bit is not there.
  else setPteAt(k, word, pteMksoftDirty(pte));
};

const clearVma = (k: Kernel, vma: Vma): void => {
  const { mm, end } = vma;
  for (let at = nextMapped(k, mm, vma.start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const to = tableEnd(at, end);
    const pmd = pmdLeafAt(k, mm, at);
    if (pmd > 0) {
      clearPresent(k, pmd);
    } else {
      const word = walkPte(k, mm, at, false);
      for (let i = 0; at + i * PAGE_SIZE < to; i++) clearPte(k, vma, word + i * PTE_WORDS);
    }
    at = to;
  }
};

/**
 * "4" into /proc/PID/clear_refs: nothing counts as written any more, but for pages that may be pinned
 * and hugetlb memory. Takes mmap_lock for writing.
 */
export function* clearRefsSoftDirty(k: Kernel, mm: MmStruct): Path<void> {
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  for (const vma of mm.vmas) setField(vma, 'flags', vma.flags & ~VM_SOFTDIRTY);
  const range = notifierRange(mm, 0, Number.POSITIVE_INFINITY, MMU_NOTIFY_SOFT_DIRTY);
  yield* invalidateRangeStart(k, range);
  for (const vma of mm.vmas) if ((vma.flags & (VM_PFNMAP | VM_HUGETLB)) === 0) clearVma(k, vma);
  if (k.watched) yield YP_PROTECT;
  // In Linux the end comes before the flush; here as everywhere after it.
  flushTlbMm(k, mm);
  yield* invalidateRangeEnd(k, range);
  mmapWriteUnlock(mm);
}
