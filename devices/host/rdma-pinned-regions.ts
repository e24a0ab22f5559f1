/**
 * Memory regions of an RDMA NIC, pinned for as long as they are registered: ib_umem_get() of each, and
 * DMA mapping of what it pinned where the NIC is behind an IOMMU. Compare drivers/infiniband/core/umem.c.
 *
 * The NIC reaches every byte at any time. Memory that no pin without time limit may have cannot be
 * registered at all: files on DAX file systems, files that are written back for writing, more than
 * RLIMIT_MEMLOCK. rdma-odp-regions.ts is the other way.
 */
import { RDMA_ACCESS_FLUSH_PERSISTENT, type RdmaRegionRequest } from '#devices';
import { DMA_FAULT, PAGE_MASK, PAGE_SIZE } from '#emu';
import { EINVAL, ibUmemGet, ibUmemRelease, type Path, type Umem } from '#mm';
import { pinnedPageOffset } from '#mm/driver-api';
import type { DmaDevice } from './dma-device.ts';
import type { DmaDevicePort } from './device-port.ts';
import { dmaMapSg, dmaUnmapSg } from './dma-map.ts';
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, type DmaSg } from './dma-mapping.ts';
import {
  isWritable,
  RdmaHostRegions,
  type RdmaRegionsConfig,
  type RegionPiece,
} from './rdma-regions.ts';

/** The NIC's place at the host's IOMMU. */
export interface RdmaDma {
  device: DmaDevice;
  port: DmaDevicePort;
}

export interface RdmaPinnedConfig extends RdmaRegionsConfig {
  /** Without it bus addresses of the machine are physical, and nothing is mapped. */
  dma?: RdmaDma;
}

/** A piece that is pinned. */
export interface PinnedPiece {
  offset: number;
  lenBytes: number;
  umem: Umem;
  /** The frame of each page. */
  frames: Int32Array;
  /** Behind an IOMMU: its mapping. */
  sg: DmaSg | null;
}

/** Of a piece, the region that the kernel keeps, by its id. */
export interface PinnedPieceState {
  offset: number;
  lenBytes: number;
  umem: number;
  sg: DmaSg | null;
}

export class RdmaPinnedRegions extends RdmaHostRegions<PinnedPiece, PinnedPieceState> {
  private readonly dma: RdmaDma | undefined;

  constructor(config: RdmaPinnedConfig) {
    super(config);
    this.dma = config.dma;
  }

  /** Pages that all regions hold. */
  get nrPinned(): number {
    let n = 0;
    for (const { pieces } of this.regions.values())
      for (const { umem } of pieces) n += umem.nrPages;
    return n;
  }

  protected reach(handle: number, address: number, _lenBytes: number, write: boolean): number {
    const region = this.openRegion(handle, write);
    if (region === undefined) return DMA_FAULT;
    const from = address - region.address;
    for (const { offset, lenBytes, umem, frames, sg } of region.pieces) {
      const within = from - offset;
      if (within < 0 || within >= lenBytes) continue;
      if (sg !== null && this.dma !== undefined)
        return this.dma.port.translate((sg.address[0] ?? -1) + within, write);
      const inPages = (umem.hva % PAGE_SIZE) + within;
      const page = frames[Math.floor(inPages / PAGE_SIZE)]!;
      return pinnedPageOffset(this.config.kernel, page) + (inPages & PAGE_MASK);
    }
    return DMA_FAULT;
  }

  protected *open(piece: RegionPiece, request: RdmaRegionRequest): Path<PinnedPiece | number> {
    const { kernel, mm } = this.config;
    const { offset, hva, lenBytes } = piece;
    const writable = isWritable(request);
    const umem = yield* ibUmemGet(kernel, mm, hva, lenBytes, writable);
    if (typeof umem === 'number') return umem;
    const pinned: PinnedPiece = { offset, lenBytes, umem, frames: framesOf(umem), sg: null };
    const error = this.persists(pinned, request) ? yield* this.map(pinned, writable) : -EINVAL;
    if (error === 0) return pinned;
    yield* ibUmemRelease(kernel, umem);
    return error;
  }

  /** Where the NIC is behind an IOMMU: one range of its addresses for all of the piece. @returns 0, -errno */
  private *map(pinned: PinnedPiece, writable: boolean): Path<number> {
    const device = this.dma?.device;
    if (device === undefined || device.domain === null) return 0;
    const direction = writable ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE;
    const { umem, lenBytes } = pinned;
    const within = umem.hva % PAGE_SIZE;
    const sg = yield* dmaMapSg(device, umem.runs, direction, 'rdma', within, lenBytes);
    if (typeof sg === 'number') return sg;
    pinned.sg = sg;
    return 0;
  }

  protected *close({ umem, sg }: PinnedPiece): Path<void> {
    if (sg !== null && this.dma !== undefined) yield* dmaUnmapSg(this.dma.device, sg);
    yield* ibUmemRelease(this.config.kernel, umem);
  }

  /** A region that promises to survive a loss of power is of memory that does. */
  private persists({ frames }: PinnedPiece, { access }: RdmaRegionRequest): boolean {
    if ((access & RDMA_ACCESS_FLUSH_PERSISTENT) === 0) return true;
    const { memory } = this.config.kernel;
    return frames.every((page) => this.persistence.covers(memory.pageOffset(page), PAGE_SIZE));
  }

  // biome-ignore lint/correctness/useYield: pinned pages are there
  protected *find(): Path<number> {
    return 0;
  }

  protected keep({ offset, lenBytes, umem, sg }: PinnedPiece): PinnedPieceState {
    return { offset, lenBytes, umem: umem.id, sg };
  }

  protected again({ offset, lenBytes, umem: id, sg }: PinnedPieceState): PinnedPiece {
    const umem = this.config.kernel.state.umems.get(id);
    if (umem === undefined) throw new Error(`rdma regions: no memory region ${id} in this kernel`);
    return { offset, lenBytes, umem, frames: framesOf(umem), sg };
  }
}

const framesOf = ({ runs, nrPages }: Umem): Int32Array => {
  const frames = new Int32Array(nrPages);
  let n = 0;
  for (const { page, nr } of runs) for (let i = 0; i < nr; i++) frames[n++] = page + i;
  return frames;
};
