/** Transparent huge pages: what is switched on. Compare /sys/kernel/mm/transparent_hugepage. */

/** Order of a folio that one entry of a last-level directory maps: 2 MiB. */
export const HPAGE_PMD_ORDER = 9;
export const HPAGE_PMD_NR = 1 << HPAGE_PMD_ORDER;
export const HPAGE_PMD_SIZE = HPAGE_PMD_NR * 4096;

/** Plain data. Orders are bits: 1 << order, 2 to HPAGE_PMD_ORDER. */
export interface ThpState {
  /** Orders that anonymous memory may use everywhere (`always`). */
  always: number;
  /** Orders that it may use in VMAs with VM_HUGEPAGE (`madvise`). */
  madvise: number;
  /** Read faults map a huge zero folio where a PMD-sized one is allowed (use_zero_page). */
  useZeroPage: boolean;
  /** Shared memory may use PMD-sized folios (shmem_enabled). */
  shmem: boolean;
  /** khugepaged: of 512 entries at most so many may be none, swapped out, of pages that others map too. */
  maxPtesNone: number;
  maxPtesSwap: number;
  maxPtesShared: number;
}

/** Everything is off until a machine, or a test, switches it on. */
export const createThpState = (): ThpState => ({
  always: 0,
  madvise: 0,
  useZeroPage: true,
  shmem: false,
  maxPtesNone: HPAGE_PMD_NR - 1,
  maxPtesSwap: HPAGE_PMD_NR / 8,
  maxPtesShared: HPAGE_PMD_NR / 2,
});
