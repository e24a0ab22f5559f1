/**
 * Scatter lists: which bytes a device is to reach, and by which bus addresses it does. Compare
 * include/linux/scatterlist.h, include/linux/dma-direction.h and, for what is written down of
 * every mapping, kernel/dma/debug.c.
 */
import { PAGE_SIZE } from '#emu';

/** The device reads, writes, or both. Spelled as enum dma_data_direction. */
export const DMA_BIDIRECTIONAL = 0;
export const DMA_TO_DEVICE = 1;
export const DMA_FROM_DEVICE = 2;
export type DmaDirection = typeof DMA_BIDIRECTIONAL | typeof DMA_TO_DEVICE | typeof DMA_FROM_DEVICE;

/** Contiguous frames that somebody has pinned. */
export interface DmaRun {
  page: number;
  nr: number;
}

/** One range of bus pages that is mapped, and for whom. Plain data. */
export interface DmaMapping {
  /** First page of bus addresses. */
  pfn: number;
  nrPages: number;
  writable: boolean;
  /** Who mapped it: a row of the users table. */
  user: string;
}

/** A mapped scatter list. Plain data. */
export interface DmaSg {
  direction: DmaDirection;
  /** Segments as the device sees them: bus address and length of each. */
  address: number[];
  lenBytes: number[];
  /** What was mapped for it; one in an IOMMU's domain, one for each run of frames without. */
  mappings: DmaMapping[];
}

/** Most bytes of one segment, and the mask that no segment may cross a multiple of. Compare dma_set_max_seg_size(). */
export interface DmaSegmentLimits {
  maxBytes: number;
  boundaryMask: number;
}

/** A device that has none. */
export const NO_SEGMENT_LIMITS: Readonly<DmaSegmentLimits> = {
  maxBytes: 2 ** 31,
  boundaryMask: 2 ** 53 - 1,
};

/**
 * Adds [address, address + lenBytes) as segments, the first of them a part of the last one there
 * where it goes on at its end and the device's limits allow it. Compare __finalise_sg().
 */
export const addSegment = (
  sg: DmaSg,
  address: number,
  lenBytes: number,
  limits: Readonly<DmaSegmentLimits>,
): void => {
  for (let done = 0; done < lenBytes; ) {
    const at = address + done;
    const last = sg.address.length - 1;
    let run = 0;
    if (last >= 0 && sg.address[last]! + sg.lenBytes[last]! === at) {
      const most = Math.min(limits.maxBytes, toBoundary(sg.address[last]!, limits.boundaryMask));
      run = Math.min(lenBytes - done, most - sg.lenBytes[last]!);
      sg.lenBytes[last] = sg.lenBytes[last]! + run;
    }
    if (run === 0) {
      run = Math.min(lenBytes - done, limits.maxBytes, toBoundary(at, limits.boundaryMask));
      sg.address.push(at);
      sg.lenBytes.push(run);
    }
    done += run;
  }
};

/** Bytes from an address to the next multiple of mask + 1. */
const toBoundary = (address: number, mask: number): number => mask + 1 - (address % (mask + 1));

/** Pages of all runs. */
export const nrDmaPages = (runs: readonly DmaRun[]): number =>
  runs.reduce((sum, { nr }) => sum + nr, 0);

/** Runs of pages[first .. first + n), contiguous ones as one. Compare sg_alloc_append_table_from_pages(). */
export const runsOfPages = (pages: ArrayLike<number>, first: number, n: number): DmaRun[] => {
  const runs: DmaRun[] = [];
  for (let i = first; i < first + n; ) {
    let nr = 1;
    while (i + nr < first + n && pages[i + nr] === pages[i]! + nr) nr++;
    runs.push({ page: pages[i]!, nr });
    i += nr;
  }
  return runs;
};

/** Bytes of `runs` from `offset` on. */
export const bytesOfRuns = (runs: readonly DmaRun[], offset: number): number =>
  nrDmaPages(runs) * PAGE_SIZE - offset;
