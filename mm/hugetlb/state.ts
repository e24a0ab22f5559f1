/** hugetlb pools, one per size, and reserve maps. Compare include/linux/hugetlb.h, struct hstate and resv_map. */

/** Orders of the two sizes: 2 MiB by an entry of level 1, 1 GiB by one of level 2. */
export const HUGETLB_ORDER_2M = 9;
export const HUGETLB_ORDER_1G = 18;

/**
 * A pool. Plain data.
 * Invariant: reserved <= free, and reserved = pages that reserve maps promise and nobody has yet.
 */
export interface Hstate {
  /** log2 of a huge page's pages: 9 (2 MiB) or 18 (1 GiB). */
  order: number;
  /** nr_hugepages: all pages of the pool. */
  nrPages: number;
  /** Heads of the free ones: large folios without a reference. */
  free: number[];
  /** Free pages that mappings have been promised (resv_huge_pages). */
  reserved: number;
}

/**
 * Which huge pages of a file have been asked for, by number in the file.
 *
 * Of a file (shared mappings): in the map = promised, or in the page cache already. Of a private
 * mapping it is the other way round: in the map = the promise has been used up.
 */
export interface ResvMap {
  /** VMAs that share it after a split; 1 for a file's. */
  users: number;
  pages: Map<number, true>;
}

/** Plain data. */
export interface HugetlbState {
  hstates: Hstate[];
  /** Faults that are being handled, by file and page: a second one waits (hugetlb_fault_mutex_table). */
  faulting: Map<string, true>;
}

/** Empty pools of both sizes. */
export const createHugetlbState = (): HugetlbState => ({
  hstates: [HUGETLB_ORDER_2M, HUGETLB_ORDER_1G].map((order) => ({
    order,
    nrPages: 0,
    free: [],
    reserved: 0,
  })),
  faulting: new Map(),
});

export const createResvMap = (): ResvMap => ({ users: 1, pages: new Map() });
