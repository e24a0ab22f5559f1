/**
 * Memory regions of an RDMA NIC by on-demand paging (rdma-odp.ts): registering holds nothing and looks
 * at nothing; the NIC stops where its table says nothing, and the page is found then.
 *
 * So a region may be of files on a DAX file system, larger than memory, or mapped only later. When
 * memory goes away under it (truncation, munmap) the NIC's next access is looked up again, and ends in
 * error if there is nothing. One access asks for all the pages that it is going to reach.
 */
import type { RdmaRegionRequest } from '#devices';
import { DMA_FAULT, PAGE_MASK, PAGE_SIZE } from '#emu';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE, type Path } from '#mm/secondary';
import {
  type OdpRegion,
  odpDeregister,
  odpInit,
  odpMapPages,
  odpReached,
  odpRegionOf,
  odpRegister,
} from './rdma-odp.ts';
import {
  type HostRegion,
  isWritable,
  RdmaHostRegions,
  type RdmaRegionsConfig,
  type RegionPiece,
  type WantedBytes,
} from './rdma-regions.ts';

/** A piece that is followed. */
export interface OdpPiece extends RegionPiece {
  odp: OdpRegion;
}

/** Of a piece, its region by the id. */
export interface OdpPieceState extends RegionPiece {
  odp: number;
}

export class RdmaOdpRegions extends RdmaHostRegions<OdpPiece, OdpPieceState> {
  constructor(config: RdmaRegionsConfig) {
    super(config);
    odpInit(config.kernel);
  }

  /** Times that the NIC stopped for a page, and pages that were taken away from it, of the regions there are. */
  get faults(): number {
    return this.sum(({ faults }) => faults);
  }

  get invalidations(): number {
    return this.sum(({ invalidations }) => invalidations);
  }

  private sum(of: (odp: OdpRegion) => number): number {
    let n = 0;
    for (const { pieces } of this.regions.values()) for (const { odp } of pieces) n += of(odp);
    return n;
  }

  protected reach(handle: number, address: number, lenBytes: number, write: boolean): number {
    const region = this.openRegion(handle, write);
    const piece = region && pieceAt(region, address);
    if (region === undefined || piece === undefined) return DMA_FAULT;
    const hva = piece.hva + (address - region.address - piece.offset);
    const page = odpReached(piece.odp, hva, write);
    if (page < 0) return this.want({ handle, address, lenBytes, write });
    return this.config.kernel.memory.pageOffset(page) + (hva & PAGE_MASK);
  }

  protected *open(piece: RegionPiece, request: RdmaRegionRequest): Path<OdpPiece | number> {
    const { kernel, mm } = this.config;
    const { hva, lenBytes } = piece;
    const odp = yield* odpRegister(kernel, mm, hva, lenBytes, isWritable(request));
    return typeof odp === 'number' ? odp : { ...piece, odp };
  }

  protected close({ odp }: OdpPiece): Path<void> {
    return odpDeregister(this.config.kernel, odp);
  }

  /** Of a piece, what it has of the bytes: the rest is asked for when the access gets there. */
  protected *find(region: HostRegion<OdpPiece>, wanted: WantedBytes): Path<number> {
    const piece = pieceAt(region, wanted.address);
    if (piece === undefined) return 0;
    const { odp } = piece;
    const within = wanted.address - region.address - piece.offset;
    const hva = piece.hva + within;
    const lenBytes = Math.min(wanted.lenBytes, piece.lenBytes - within);
    const asked = HMM_PFN_REQ_FAULT | (wanted.write ? HMM_PFN_REQ_WRITE : 0);
    odp.faults++;
    const found = yield* odpMapPages(this.config.kernel, odp, hva, lenBytes, asked);
    if (found >= 0 || lenBytes <= PAGE_SIZE) return found;
    // Not all of it is there: what is there of the first page serves the access as far as it gets.
    const first = Math.min(lenBytes, PAGE_SIZE - (hva % PAGE_SIZE));
    return yield* odpMapPages(this.config.kernel, odp, hva, first, asked);
  }

  protected keep({ odp, ...piece }: OdpPiece): OdpPieceState {
    return { ...piece, odp: odp.id };
  }

  protected again({ odp: id, ...piece }: OdpPieceState): OdpPiece {
    return { ...piece, odp: odpRegionOf(this.config.kernel, id) };
  }
}

/** The piece of a region that a byte is in. */
const pieceAt = (region: HostRegion<OdpPiece>, address: number): OdpPiece | undefined => {
  const from = address - region.address;
  return region.pieces.find(({ offset, lenBytes }) => from >= offset && from < offset + lenBytes);
};
