/** Faults of hugetlb memory. Compare mm/hugetlb.c:hugetlb_fault(). */
import type { Path } from '../path.ts';
import type { Kernel, Vma } from '../types.ts';

/** Handles a fault in a hugetlb VMA. @returns as handleMmFault */
// biome-ignore lint/correctness/useYield: filled in with the pools
export function* hugetlbFault(_k: Kernel, vma: Vma, hva: number, flags: number): Path<number> {
  throw new Error(`mm ${vma.mm.id}: hugetlb ${hva} ${flags}`);
}
