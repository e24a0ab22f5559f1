/** mprotect() of a hugetlb VMA. Compare mm/hugetlb.c:hugetlb_change_protection(). */
import type { Path } from '../path.ts';
import type { Kernel, Vma } from '../types.ts';

/** Gives every entry of [start, end) of a hugetlb VMA the bits that the VMA's flags ask for. */
// biome-ignore lint/correctness/useYield: filled in with the pools
export function* hugetlbChangeProtection(
  _k: Kernel,
  vma: Vma,
  start: number,
  end: number,
): Path<void> {
  throw new Error(`mm ${vma.mm.id}: hugetlb [${start}, ${end})`);
}
