/**
 * Mapping for DMA, as a driver does it for pages that it has pinned: before the device may reach them,
 * and undone before the pins go. Compare kernel/dma/mapping.c: dma_map_sgtable(), dma_unmap_sg_attrs(),
 * and drivers/iommu/dma-iommu.c behind an IOMMU, kernel/dma/direct.c without one.
 *
 *   pin ... dmaMapSg() ... the device works ... dmaUnmapSg() ... unpin, dirty where it wrote
 */
import { PAGE_SIZE, RAM_BASE } from '#emu';
import { EINVAL, EIO, type Path, YP_DMA_SUBMITTED, YP_DMA_COMPLETING } from '#mm';
import type { DmaDevice } from './dma-device.ts';
import {
  addSegment,
  bytesOfRuns,
  DMA_TO_DEVICE,
  type DmaDirection,
  type DmaRun,
  type DmaSg,
  nrDmaPages,
} from './dma-mapping.ts';

/** Bus address of a frame where bus addresses are physical. */
const physicalPfn = (page: number): number => RAM_BASE / PAGE_SIZE + page;

/**
 * Maps `lenBytes` of pinned frames from byte `offset` on. Behind an IOMMU they follow one another in
 * bus addresses wherever they are in memory, so that the list has as few segments as the device's
 * limits allow; without one, each run of contiguous frames is a segment.
 * @param user who it is for: a row of the users table
 * @param lenBytes default: all of the runs
 * @returns what the device is given; -ENOMEM: no bus addresses or no table; -EINVAL: nothing, or more than
 *   the runs have; -EIO: the device is gone, or has no addresses of its own (sva)
 */
export function* dmaMapSg(
  device: DmaDevice,
  runs: readonly DmaRun[],
  direction: DmaDirection,
  user: string,
  offset = 0,
  lenBytes = bytesOfRuns(runs, offset),
): Path<DmaSg | number> {
  if (offset < 0 || lenBytes <= 0 || lenBytes > bytesOfRuns(runs, offset)) return -EINVAL;
  if (device.removed || device.mode === 'sva') return -EIO;
  const sg: DmaSg = { direction, address: [], lenBytes: [], mappings: [] };
  const writable = direction !== DMA_TO_DEVICE;
  if (device.domain === null) mapDirect(device, sg, runs, writable, user, offset, lenBytes);
  else {
    const mapping = device.domain.map(runs, writable, user);
    if (typeof mapping === 'number') return mapping;
    sg.mappings.push(mapping);
    addSegment(sg, mapping.pfn * PAGE_SIZE + offset, lenBytes, device.limits);
  }
  if (device.kernel.watched) yield YP_DMA_SUBMITTED;
  return sg;
}

/** Bus addresses are physical: a segment for each run, and a note of it. */
const mapDirect = (
  device: DmaDevice,
  sg: DmaSg,
  runs: readonly DmaRun[],
  writable: boolean,
  user: string,
  offset: number,
  lenBytes: number,
): void => {
  let skip = offset;
  let left = lenBytes;
  for (const { page, nr } of runs) {
    const mapping = { pfn: physicalPfn(page), nrPages: nr, writable, user };
    sg.mappings.push(mapping);
    device.mapDirect(mapping);
    const bytes = Math.min(left, Math.max(0, nr * PAGE_SIZE - skip));
    if (bytes > 0) addSegment(sg, mapping.pfn * PAGE_SIZE + skip, bytes, device.limits);
    left -= bytes;
    skip = Math.max(0, skip - nr * PAGE_SIZE);
  }
};

/**
 * The device is done with it. When this returns it reaches the frames no more; in deferred mode, it
 * should not: see FlushQueue. What was written is marked by whoever unpins.
 * @throws Error for a list that is not mapped
 */
export function* dmaUnmapSg(device: DmaDevice, sg: DmaSg): Path<void> {
  yield* dmaUnmapSgs(device, [sg]);
}

/** The same for several lists, with one invalidation for all. Compare struct iommu_iotlb_gather. */
export function* dmaUnmapSgs(device: DmaDevice, lists: readonly DmaSg[]): Path<void> {
  const { kernel, domain } = device;
  if (kernel.watched) yield YP_DMA_COMPLETING;
  for (const sg of lists) {
    for (const mapping of sg.mappings)
      if (domain !== null) domain.clear(mapping.pfn);
      else device.unmapDirect(mapping);
    sg.mappings = [];
  }
  // Cleared from the tables; the IOMMU may have it still.
  if (kernel.watched) yield YP_DMA_COMPLETING;
  domain?.finish();
}

/** Pages that are mapped for a device now. */
export const nrMappedPages = (device: DmaDevice): number => {
  const own = [...(device.domain === null ? device.direct : device.domain.mappings.values())];
  return own.reduce((sum, { nrPages }) => sum + nrPages, 0);
};

/** Pages of a list. */
export const nrSgPages = (sg: DmaSg): number =>
  nrDmaPages(sg.mappings.map(({ pfn, nrPages }) => ({ page: pfn, nr: nrPages })));
