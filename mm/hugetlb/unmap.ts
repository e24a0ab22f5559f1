/** Unmapping huge pages of hugetlb. Compare mm/hugetlb.c:__unmap_hugepage_range(). */
import type { Path } from '../path.ts';
import type { Kernel, Vma } from '../types.ts';

/** Unmaps [start, end) of a hugetlb VMA, between the notifiers' start and end. @param event MMU_NOTIFY_* */
// biome-ignore lint/correctness/useYield: filled in with the pools
export function* unmapHugetlbRange(
  _k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  event: number,
): Path<void> {
  throw new Error(`mm ${vma.mm.id}: hugetlb [${start}, ${end}) event ${event}`);
}
