/** Swap: one device in memory of the host, its slots and the swap cache. Compare include/linux/swap.h. */

/** Plain data. A slot is a page-sized place on the device, numbered from 1. */
export interface SwapState {
  /** Slots of the device; 0 = swap is off. */
  nrSlots: number;
  /** By slot: who names it: entries of page tables, a file of shmem, the swap cache; 0 = free. */
  count: Int32Array;
  /** By slot: its bytes. Written by putting another array there, never in place. */
  data: Map<number, Uint8Array>;
  /** Slot -> page, for every page of a folio in the swap cache. */
  cache: Map<number, number>;
  nrFree: number;
  /** Where the search for free slots goes on. */
  next: number;
}

/** No device yet. */
export const createSwapState = (): SwapState => ({
  nrSlots: 0,
  count: new Int32Array(1),
  data: new Map(),
  cache: new Map(),
  nrFree: 0,
  next: 1,
});
