/** Fork of a hugetlb VMA. Compare mm/hugetlb.c:copy_hugetlb_page_range(). */
import type { Path } from '../path.ts';
import type { Kernel, Vma } from '../types.ts';

/** Copies the entries of a hugetlb VMA into the child's. @returns 0 or -ENOMEM */
// biome-ignore lint/correctness/useYield: filled in with the pools
export function* copyHugetlbRange(_k: Kernel, dst: Vma, _src: Vma): Path<number> {
  throw new Error(`mm ${dst.mm.id}: hugetlb`);
}
