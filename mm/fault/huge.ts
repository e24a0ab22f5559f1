/** Faults that one entry of a directory may answer: 2 MiB at once. Compare mm/huge_memory.c. */
import type { Path } from '../path.ts';
import { pteLeaf, pteNone } from '../pgtable/pte.ts';
import { ptepGet } from '../pgtable/walk.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import type { Kernel, Vma } from '../types.ts';

/** Not as a whole: the fault goes on with a table. Compare VM_FAULT_FALLBACK. */
export const HUGE_FALLBACK = 1;

/**
 * A PMD entry that is no table: none, or a huge leaf.
 * @param hva page-aligned
 * @param word of the PMD entry
 * @returns HUGE_FALLBACK, with no huge leaf left there; or as handleMmFault
 */
// biome-ignore lint/correctness/useYield: filled in with the huge folios
export function* handlePmd(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  _flags: number,
): Path<number> {
  const entry = ptepGet(k, word);
  if (!pteNone(entry) && pteLeaf(entry)) splitHugePmd(k, vma, hva);
  return HUGE_FALLBACK;
}
