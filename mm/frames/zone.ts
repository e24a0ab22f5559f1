/**
 * Zones: what the buddy allocator hands out from, and who may have which. Compare
 * include/linux/mmzone.h.
 *
 * DMA32 is what lies below physical 4 GiB, NORMAL the rest, MOVABLE what a machine sets aside at the
 * top of RAM for pages that can be moved away, so that it can be taken out of use (mm/hotplug/). A
 * zone's range may have memory of another one in it, where memory was offline in between: whose a
 * frame is says its pageblock.
 */
import { RAM_PFN_BASE } from '#emu';
import type { Kernel } from '../types.ts';
import { NR_MIGRATETYPES, pageZoneIndex } from './pageblock.ts';

/** Largest block of the buddy allocator: 1 << MAX_PAGE_ORDER pages, 4 MiB. */
export const MAX_PAGE_ORDER = 10;
export const NR_PAGE_ORDERS = MAX_PAGE_ORDER + 1;

export const ZONE_DMA32 = 0;
export const ZONE_NORMAL = 1;
export const ZONE_MOVABLE = 2;

/** First page above DMA32: 4 GiB. */
export const DMA32_END_PAGE = 0x10_0000 - RAM_PFN_BASE;

/**
 * One zone. Plain data. Invariant: nrFree[0] = sum of the pages on the lists but those of ISOLATE;
 * nrFreeCma[0] = those on the lists of CMA.
 */
export interface Zone {
  name: string;
  /** ZONE_*. */
  index: number;
  /** What the zone spans: [firstPage, endPage). Empty where they are equal. */
  firstPage: number;
  endPage: number;
  /** Frames that it has: those that it spans, less what is offline or another zone's. */
  managedPages: number;
  /** Free pages that may be handed out, and those of them in pageblocks of CMA: cells of one element. */
  nrFree: Int32Array;
  nrFreeCma: Int32Array;
  /**
   * By migratetype and order (freeListOf): first free block (a page), -1 = none. The rest hangs on
   * the frame table's next and prev.
   */
  freeHead: Int32Array;
  /** By migratetype and order: how many blocks are on that list. */
  nrBlocks: Int32Array;
}

/** Number of a free list. */
export const freeListOf = (type: number, order: number): number => type * NR_PAGE_ORDERS + order;

const createZone = (name: string, index: number, firstPage: number, endPage: number): Zone => ({
  name,
  index,
  firstPage,
  endPage,
  managedPages: endPage - firstPage,
  nrFree: new Int32Array(1),
  nrFreeCma: new Int32Array(1),
  freeHead: new Int32Array(NR_MIGRATETYPES * NR_PAGE_ORDERS).fill(-1),
  nrBlocks: new Int32Array(NR_MIGRATETYPES * NR_PAGE_ORDERS),
});

/**
 * The zones of a machine with `nrPages` frames, by index; NORMAL and MOVABLE may be empty. Nothing is
 * free yet.
 * @param movablePages at the top of RAM; MOVABLE begins at a multiple of 4 MiB, so it may get fewer
 * @throws RangeError when the kernel would be left without any
 */
export const createZones = (nrPages: number, movablePages = 0): Zone[] => {
  const block = 1 << MAX_PAGE_ORDER;
  const movable =
    movablePages === 0 ? nrPages : Math.ceil((nrPages - movablePages) / block) * block;
  if (movable <= 0) throw new RangeError(`MOVABLE of ${movablePages} pages: RAM has ${nrPages}`);
  const border = Math.min(movable, DMA32_END_PAGE);
  return [
    createZone('DMA32', ZONE_DMA32, 0, border),
    createZone('Normal', ZONE_NORMAL, border, movable),
    createZone('Movable', ZONE_MOVABLE, movable, nrPages),
  ];
};

/** The zone that a frame belongs to. */
export const pageZone = (k: Kernel, page: number): Zone => {
  const zone = k.state.zones[pageZoneIndex(k, page)];
  if (zone === undefined) throw new Error(`page ${page} is in no zone`);
  return zone;
};

/** Free pages of all zones. */
export const nrFreePages = (k: Kernel): number => {
  let free = 0;
  for (const zone of k.state.zones) free += zone.nrFree[0]!;
  return free;
};

/** Free blocks of one order in a zone, of all migratetypes, as /proc/buddyinfo counts them. */
export const nrFreeBlocks = (zone: Zone, order: number): number => {
  let blocks = 0;
  for (let type = 0; type < NR_MIGRATETYPES; type++)
    blocks += zone.nrBlocks[freeListOf(type, order)]!;
  return blocks;
};
