/** The pools of huge pages: filling, taking from, giving back. Compare mm/hugetlb.c. */
import type { Kernel } from '../types.ts';

/** The last reference of a hugetlb folio has gone: back to its pool. Compare free_huge_folio(). */
export const freeHugetlbFolio = (_k: Kernel, folio: number): void => {
  throw new Error(`folio ${folio}: no hugetlb pool`);
};
