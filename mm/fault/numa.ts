/**
 * NUMA hinting faults: entries that nobody may access although the VMA allows it, so that the next
 * access says who uses the page. Compare mm/memory.c:do_numa_page() and
 * mm/huge_memory.c:do_huge_pmd_numa_page().
 *
 * There is one node, so that the page never has to move: the entry is just made as it was. Who makes
 * such entries is changeProtNuma() in mm/vma/change-protection.ts.
 */
import {
  pteMkwrite,
  pteMkyoung,
  pteModify,
  pteProtnone,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import { setPteAt } from '../pgtable/walk.ts';
import { countStat } from '../stat.ts';
import type { Kernel, Vma } from '../types.ts';
import { canChangePteWritable } from '../vma/change-protection.ts';
import { VM_ACCESS_FLAGS } from '../vma/flags.ts';

/** May anybody access the VMA? Where nobody may, PROT_NONE is no hint. */
export const vmaIsAccessible = (vma: Vma): boolean => (vma.flags & VM_ACCESS_FLAGS) !== 0;

/** True for an entry, of either level, that is a hint. */
export const isNumaHint = (vma: Vma, pte: number): boolean =>
  pteProtnone(pte) && vmaIsAccessible(vma);

/**
 * The entry `word`, which is the hint `pte`, allows again what the VMA allows: writing at once where
 * no write fault is due. For an entry of 2 MiB too.
 */
export const doNumaPage = (k: Kernel, vma: Vma, word: number, pte: number): void => {
  let entry = pteMkyoung(pteModify(pte, vmPageProt(vma.flags)));
  if (!pteWrite(entry) && canChangePteWritable(k, vma, entry)) entry = pteMkwrite(entry);
  setPteAt(k, word, entry);
  countStat(k, 'numa_hint_faults');
};
