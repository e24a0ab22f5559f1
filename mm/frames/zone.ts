/**
 * Zones: the ranges of frames that the buddy allocator hands out from. Compare include/linux/mmzone.h.
 *
 * DMA32 is what lies below physical 4 GiB, NORMAL the rest. MOVABLE, CMA and pageblock types are
 * not there yet.
 */
import { RAM_PFN_BASE } from '#emu';
import type { Kernel } from '../types.ts';

/** Largest block of the buddy allocator: 1 << MAX_PAGE_ORDER pages, 4 MiB. */
export const MAX_PAGE_ORDER = 10;
export const NR_PAGE_ORDERS = MAX_PAGE_ORDER + 1;

export const ZONE_DMA32 = 0;
export const ZONE_NORMAL = 1;

/** First page frame number above DMA32. */
const DMA32_END_PFN = 0x10_0000;

/** One zone. Plain data. Invariant: nrFree[0] = sum of nrBlocks[order] << order. */
export interface Zone {
  name: string;
  /** ZONE_*. */
  index: number;
  /** Frames of the zone: [firstPage, endPage). */
  firstPage: number;
  endPage: number;
  /** Free pages: one element, so that it is a cell. */
  nrFree: Int32Array;
  /** By order: first free block (a page), -1 = none. The rest hangs on the frame table's next and prev. */
  freeHead: Int32Array;
  /** By order: how many blocks are on that list. */
  nrBlocks: Int32Array;
}

const createZone = (name: string, index: number, firstPage: number, endPage: number): Zone => ({
  name,
  index,
  firstPage,
  endPage,
  nrFree: new Int32Array(1),
  freeHead: new Int32Array(NR_PAGE_ORDERS).fill(-1),
  nrBlocks: new Int32Array(NR_PAGE_ORDERS),
});

/** The zones of a machine with `nrPages` frames, by index; NORMAL may be empty. Nothing is free yet. */
export const createZones = (nrPages: number): Zone[] => {
  const border = Math.min(nrPages, DMA32_END_PFN - RAM_PFN_BASE);
  return [
    createZone('DMA32', ZONE_DMA32, 0, border),
    createZone('NORMAL', ZONE_NORMAL, border, nrPages),
  ];
};

/** The zone that a frame belongs to. */
export const pageZone = (k: Kernel, page: number): Zone => {
  for (const zone of k.state.zones) if (page < zone.endPage) return zone;
  throw new Error(`page ${page} is in no zone`);
};

/** Free pages of all zones. */
export const nrFreePages = (k: Kernel): number => {
  let free = 0;
  for (const zone of k.state.zones) free += zone.nrFree[0]!;
  return free;
};
