/**
 * Write protection of a range: takes W from it, and nothing more, as soft-dirty tracking does in
 * passing (mm/vma/soft-dirty.ts). What writeback does to a folio is in clean.ts.
 */
import { PAGE_SIZE } from '#emu';
import { invalidateRangeEnd, invalidateRangeStart, notifierRange } from '../notifier/notifier.ts';
import { type Path, YP_PROTECT } from '../path.ts';
import { ptePresent, pteWrite, pteWrprotect } from '../pgtable/pte.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  leafLevel,
  leafWord,
  levelPages,
  nextMapped,
  PTE_WORDS,
  pmdLeafAt,
  ptepGet,
  setPteAt,
  tableEnd,
  walkLeaf,
} from '../pgtable/walk.ts';
import { countStat } from '../stat.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_SOFT_DIRTY, type MmStruct } from '../types.ts';
import { VM_HUGETLB } from '../vma/flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';

/**
 * Takes W from every entry of [start, end), keeping D: the next store faults, and finds the page
 * its own (or the file's) as before. Private and shared mappings alike.
 * @param start page-aligned hva, as `end`
 * @returns entries changed
 */
export function* writeProtectRange(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
): Path<number> {
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const range = notifierRange(mm, start, end, MMU_NOTIFY_SOFT_DIRTY);
  yield* invalidateRangeStart(k, range);
  let changed = 0;
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const from = at;
    const stop = tableEnd(at, end);
    at = stop;
    if (splitIfPartial(k, mm, from, end)) at = from;
    else changed += protectEntries(k, mm, from, stop, end);
  }
  if (changed > 0) {
    countStat(k, 'wrprotect', changed);
    if (k.watched) yield YP_PROTECT;
    flushTlbRange(k, mm, start, end);
  }
  yield* invalidateRangeEnd(k, range);
  mmapWriteUnlock(mm);
  return changed;
}

/** A huge entry that reaches beyond the range is split; one of hugetlb cannot be. @returns true: look again */
const splitIfPartial = (k: Kernel, mm: MmStruct, hva: number, end: number): boolean => {
  if (pmdLeafAt(k, mm, hva) === 0) return false;
  const whole = hva % HPAGE_PMD_SIZE === 0 && hva + HPAGE_PMD_SIZE <= end;
  const vma = findVma(mm, hva);
  if (whole || vma === null || (vma.flags & VM_HUGETLB) !== 0) return false;
  splitHugePmd(k, vma, hva);
  return true;
};

/** The entries of [hva, stop), which one leaf table maps, or a huge entry that `end` does not cut. @returns entries changed */
const protectEntries = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  stop: number,
  end: number,
): number => {
  const leaf = walkLeaf(k, mm, hva);
  const huge = leafLevel(leaf) > 0;
  const bytes = levelPages(leafLevel(leaf)) * PAGE_SIZE;
  // Of hugetlb only what lies in the range as a whole.
  if (huge && (hva % bytes !== 0 || end - hva < bytes)) return 0;
  const entries = huge ? 1 : (stop - hva) / PAGE_SIZE;
  let changed = 0;
  for (let i = 0; i < entries; i++) {
    const word = leafWord(leaf) + i * PTE_WORDS;
    const pte = ptepGet(k, word);
    if (!ptePresent(pte) || !pteWrite(pte)) continue;
    setPteAt(k, word, pteWrprotect(pte));
    changed++;
  }
  return changed;
};
