/** mprotect(), and the change of entries that write-protection of a range shares with it. Compare mm/mprotect.c. */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EACCES, EINVAL, ENOMEM } from '../errno.ts';
import { folioOf, folioTestAnon, pageAnonExclusive } from '../folio/folio.ts';
import { hugetlbChangeProtection } from '../hugetlb/protect.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START, YP_PROTECT } from '../path.ts';
import {
  pteDirty,
  pteMkwrite,
  pteModify,
  pteNone,
  ptePresent,
  pteProtnone,
  pteWrite,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isWritableMigrationEntry,
  migrationEntryAs,
  migrationEntryPage,
  SWP_MIGRATION_READ,
  SWP_MIGRATION_READ_EXCLUSIVE,
} from '../pgtable/swapops.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
  tableEnd,
  taskSize,
  walkPte,
} from '../pgtable/walk.ts';
import { splitHugePmdLocked } from '../thp/split-pmd.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_PROTECTION_VMA, type MmStruct, type Vma } from '../types.ts';
import { VM_ACCESS_FLAGS, VM_HUGETLB, VM_MAY_SHIFT, VM_SHARED, VM_WRITE } from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { isolateRange, mergeAround, vmaIndexAbove } from './vma.ts';

/**
 * May an entry of a writable VMA become writable without a fault? Private: the page must be the
 * mapping's own. Shared: it must be dirty already. Compare can_change_pte_writable().
 */
export const canChangePteWritable = (k: Kernel, vma: Vma, pte: number): boolean => {
  if ((vma.flags & VM_WRITE) === 0 || pteProtnone(pte)) return false;
  if ((vma.flags & VM_SHARED) !== 0) return pteDirty(pte);
  const page = vmNormalPage(pte);
  return page >= 0 && folioTestAnon(k, folioOf(k, page)) && pageAnonExclusive(k, page);
};

/** One entry under new protection bits; what a migration entry was allowed is asked for again by a fault. */
const changePte = (k: Kernel, vma: Vma, word: number, prot: number): boolean => {
  const old = ptepGet(k, word);
  if (pteNone(old)) return false;
  if (ptePresent(old)) {
    // Cleared first, as ptep_modify_prot_start() does, so that no A or D bit is lost.
    let pte = pteModify(ptepGetAndClear(k, word), prot);
    if (!pteWrite(pte) && canChangePteWritable(k, vma, pte)) pte = pteMkwrite(pte);
    setPteAt(k, word, pte);
    return pte !== old;
  }
  if (isMigrationEntry(old) && isWritableMigrationEntry(old)) {
    const anon = folioTestAnon(k, folioOf(k, migrationEntryPage(old)));
    const type = anon ? SWP_MIGRATION_READ_EXCLUSIVE : SWP_MIGRATION_READ;
    setPteAt(k, word, migrationEntryAs(old, type));
  }
  return false;
};

/** Gives every entry of [start, end) of a VMA the bits that the VMA's flags ask for. */
function* changeProtection(k: Kernel, vma: Vma, start: number, end: number): Path<void> {
  if ((vma.flags & VM_HUGETLB) !== 0) {
    yield* hugetlbChangeProtection(k, vma, start, end);
    return;
  }
  const { mm } = vma;
  const prot = vmPageProt(vma.flags);
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, start, end, MMU_NOTIFY_PROTECTION_VMA)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  for (let at = nextMapped(k, mm, start, end); at < end; ) {
    const from = at;
    const to = tableEnd(at, end);
    let changed = false;
    let pmd = pmdLeafAt(k, mm, at);
    if (pmd > 0 && to - from < HPAGE_PMD_SIZE) {
      splitHugePmdLocked(k, vma, at, pmd);
      pmd = 0;
    }
    if (pmd > 0) {
      changed = changePte(k, vma, pmd, prot);
      at = to;
    } else {
      const word = walkPte(k, mm, at, false);
      for (let i = 0; at < to; at += PAGE_SIZE, i++)
        if (word > 0 && changePte(k, vma, word + i * PTE_WORDS, prot)) changed = true;
    }
    if (changed) {
      if (k.watched) yield YP_PROTECT;
      flushTlbRange(k, mm, from, to);
    }
    at = nextMapped(k, mm, to, end);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
}

/**
 * Changes what [hva, hva + lenBytes) may be used for.
 * @param prot PROT_*
 * @returns 0; -EINVAL; -ENOMEM where something is not mapped, -EACCES where a VMA may not have it:
 *   what lies below that place has been changed
 */
export function* mprotect(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  prot: number,
): Path<number> {
  const end = hva + Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;
  if (hva % PAGE_SIZE !== 0 || (prot & ~VM_ACCESS_FLAGS) !== 0 || lenBytes < 0) return -EINVAL;
  if (lenBytes === 0) return 0;
  if (hva < 0 || end > taskSize(k)) return -ENOMEM;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const error = yield* mprotectLocked(k, mm, hva, end, prot);
  mmapWriteUnlock(mm);
  return error;
}

function* mprotectLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  prot: number,
): Path<number> {
  for (let at = start; at < end; ) {
    const found = mm.vmas[vmaIndexAbove(mm, at)];
    if (found === undefined || found.start > at) return -ENOMEM;
    const flags = (found.flags & ~VM_ACCESS_FLAGS) | prot;
    if ((flags & ~(flags >> VM_MAY_SHIFT) & VM_ACCESS_FLAGS) !== 0) return -EACCES;
    const to = Math.min(found.end, end);
    if (flags !== found.flags) {
      const i = isolateRange(k, mm, at, to);
      const vma = mm.vmas[i];
      if (vma === undefined) throw new Error('a VMA vanished under mmap_lock');
      setField(vma, 'flags', flags);
      yield* changeProtection(k, vma, at, to);
      yield* mergeAround(k, mm, i);
    }
    at = to;
  }
  return 0;
}
