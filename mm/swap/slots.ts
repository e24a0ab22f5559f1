/** Slots of the swap device and how often each is named. Compare mm/swapfile.c. */
import type { Kernel } from '../types.ts';

/** One entry more names the slot: fork. Compare swap_duplicate(). */
export const swapDuplicate = (_k: Kernel, slot: number): void => {
  throw new Error(`swap slot ${slot}: no device`);
};

/** An entry that named the slot is gone; with the last one the slot and its cached page go. Compare free_swap_and_cache(). */
export const freeSwapAndCache = (_k: Kernel, slot: number): void => {
  throw new Error(`swap slot ${slot}: no device`);
};
