/** hugetlb pools: one per size. Compare include/linux/hugetlb.h, struct hstate. */

/** A pool. Plain data. Invariant: reserved <= free. */
export interface Hstate {
  /** log2 of a huge page's pages: 9 (2 MiB) or 18 (1 GiB). */
  order: number;
  /** nr_hugepages: all pages of the pool. */
  nrPages: number;
  /** Heads of the free ones. */
  free: number[];
  /** Free pages that mappings have been promised (resv_huge_pages). */
  reserved: number;
}

/** Plain data. */
export interface HugetlbState {
  hstates: Hstate[];
}

/** Empty pools of both sizes. */
export const createHugetlbState = (): HugetlbState => ({
  hstates: [9, 18].map((order) => ({ order, nrPages: 0, free: [], reserved: 0 })),
});
