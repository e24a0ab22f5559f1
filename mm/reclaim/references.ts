/**
 * Has a folio been used since reclaim last looked at it, and what of it? Compare mm/rmap.c:folio_referenced(),
 * mm/vmscan.c:folio_check_references().
 */
import { PAGE_SIZE } from '#emu';
import { folioClearFlags, folioSetFlags } from '../folio/folio.ts';
import { PG_REFERENCED, PG_SWAPBACKED } from '../frames/table.ts';
import { mmuNotifierClearFlushYoung } from '../notifier/notifier.ts';
import { pteMkold, pteYoung } from '../pgtable/pte.ts';
import { ptepGet, setPteAt } from '../pgtable/walk.ts';
import { folioVmaMappedPmd, pageVmaMapped, rmapPlaces } from '../rmap/rmap.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_EXEC, VM_LOCKED } from '../vma/flags.ts';

/** Who maps a folio. */
interface FolioReferences {
  /** Entries that were used. */
  used: number;
  /** Flags of the VMAs that they are in; VM_LOCKED whether it was used there or not. */
  vmFlags: number;
}

/** Forgets that one entry was used. @returns true where it was, also by a secondary MMU */
const clearUse = (k: Kernel, vma: Vma, word: number, hva: number, lenBytes: number): boolean => {
  const pte = ptepGet(k, word);
  const young = pteYoung(pte);
  // TLBs are not flushed, as on riscv: a hart may go on using the page unseen for a while.
  if (young) setPteAt(k, word, pteMkold(pte));
  return mmuNotifierClearFlushYoung(k, vma.mm, hva, hva + lenBytes) || young;
};

/** Counts the entries through which a folio was used, and forgets it; without a yield. */
export const folioReferenced = (k: Kernel, folio: number): FolioReferences => {
  const found: FolioReferences = { used: 0, vmFlags: 0 };
  for (const { vma, page, nr, hva } of rmapPlaces(k, folio)) {
    const pmd = folioVmaMappedPmd(k, vma, hva, folio);
    let used = pmd > 0 && clearUse(k, vma, pmd, hva, nr * PAGE_SIZE) ? 1 : 0;
    let mapped = pmd > 0;
    for (let i = 0; i < nr && pmd === 0; i++) {
      const at = hva + i * PAGE_SIZE;
      const word = pageVmaMapped(k, vma, at, page + i);
      if (word <= 0) continue;
      mapped = true;
      if (clearUse(k, vma, word, at, PAGE_SIZE)) used++;
    }
    if (mapped && (vma.flags & VM_LOCKED) !== 0) found.vmFlags |= VM_LOCKED;
    if (used > 0) found.vmFlags |= vma.flags;
    found.used += used;
  }
  return found;
};

/** What reclaim does with an inactive folio. */
type ReferenceVerdict = 'reclaim' | 'keep' | 'activate' | 'locked';

/**
 * A folio that was used once through its entries is kept for another round; used twice, or by several
 * entries, or as code, it becomes active; locked in memory it is not reclaim's at all.
 */
export const folioCheckReferences = (k: Kernel, folio: number): ReferenceVerdict => {
  const { used, vmFlags } = folioReferenced(k, folio);
  const was = folioClearFlags(k, folio, PG_REFERENCED);
  if ((vmFlags & VM_LOCKED) !== 0) return 'locked';
  if (used === 0) return 'reclaim';
  folioSetFlags(k, folio, PG_REFERENCED);
  if ((was & PG_REFERENCED) !== 0 || used > 1) return 'activate';
  return (vmFlags & VM_EXEC) !== 0 && (was & PG_SWAPBACKED) === 0 ? 'activate' : 'keep';
};
