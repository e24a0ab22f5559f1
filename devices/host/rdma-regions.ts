/**
 * Memory regions of an RDMA NIC in the memory of a process: what both ways to provide them share. One
 * way pins (rdma-pinned.ts), the other follows the page tables (rdma-odp.ts).
 *
 * Bus addresses are those that the process gives the NIC: of a VMM, guest physical ones, which its memory
 * slots make host virtual ones of; of a process with a NIC of its own, its own. A region that crosses
 * slots is registered piece by piece.
 *
 *   NIC                         regions                              scheduler
 *   REG_MR -> register()        asked for                            sees pendingWork(), runs work()
 *             registered() <-   opened: pinned, or subscribed to
 *   read() ... DMA_WAIT         pages are wanted                     work() again
 *             ready() <-        found
 *   DEREG_MR -> release()       leaving: no byte is reached          work() again
 *             released() <-     closed
 *
 * All of that may sleep and happens in work(), a path. What is asked for or leaving is plain data until
 * then, which survives a saved machine.
 */
import {
  RDMA_ACCESS_LOCAL_WRITE,
  type RdmaPersistence,
  type RdmaRegionClient,
  type RdmaRegionRequest,
  RegionMemory,
} from '#devices';
import { DMA_FAULT, DMA_WAIT, PAGE_SIZE } from '#emu';
import { EFAULT } from '#mm';
import type { Kernel, MmStruct, Path } from '#mm/driver-api';

export interface RdmaRegionsConfig {
  kernel: Kernel;
  /** The process whose memory it is. */
  mm: MmStruct;
  /** Host virtual address of a bus address, or -1 where there is no memory. */
  hvaOf(address: number): number;
  /** Memory has changed: the dirty log. Called for runs inside one page. */
  onWritten(address: number, lenBytes: number): void;
  /** Which of it is persistent; none, where not given. */
  persistence?: RdmaPersistence;
}

/** Bytes of a region that follow one another in the process too. */
export interface RegionPiece {
  /** From the first byte of the region. */
  offset: number;
  hva: number;
  lenBytes: number;
}

/** ASKED: to be opened. OPEN: reached. LEAVING: to be closed. */
const ASKED = 0;
const OPEN = 1;
const LEAVING = 2;

/** One region. */
export interface HostRegion<Piece> extends RdmaRegionRequest {
  phase: number;
  pieces: Piece[];
}

/** Bytes that the NIC waits for. */
export interface WantedBytes {
  handle: number;
  address: number;
  lenBytes: number;
  write: boolean;
}

/** What a saved machine keeps; of a piece, what its kind keeps. */
export interface RdmaRegionsState<Kept> {
  regions: HostRegion<Kept>[];
  wanted: WantedBytes[];
}

/**
 * @template Piece what is held or followed for one piece of a region
 * @template Kept what a saved machine keeps of that
 */
export abstract class RdmaHostRegions<Piece, Kept> extends RegionMemory {
  protected readonly config: RdmaRegionsConfig;
  protected readonly regions: Map<number, HostRegion<Piece>>;
  private wanted: WantedBytes[];
  /** What cannot be had, while the NIC is being told. */
  private failed: WantedBytes | undefined;
  private client: RdmaRegionClient | undefined;
  /** work() is between its first and last step. */
  private working: boolean;

  constructor(config: RdmaRegionsConfig) {
    super(config.kernel.memory, config.persistence);
    this.config = config;
    this.regions = new Map();
    this.wanted = [];
    this.failed = undefined;
    this.client = undefined;
    this.working = false;
  }

  /** Takes hold of a piece. @returns it; -errno */
  protected abstract open(piece: RegionPiece, request: RdmaRegionRequest): Path<Piece | number>;
  protected abstract close(piece: Piece): Path<void>;
  /** Makes bytes of a region reachable. @returns 0; -errno: they cannot be had */
  protected abstract find(region: HostRegion<Piece>, wanted: WantedBytes): Path<number>;
  /** Plain data, and the piece again in a restored kernel. */
  protected abstract keep(piece: Piece): Kept;
  protected abstract again(kept: Kept): Piece;

  /* ---- for the scheduler ---- */

  /** Regions to open or to close, and bytes that are waited for. While work() runs, 0. */
  pendingWork(): number {
    if (this.working) return 0;
    let n = this.wanted.length;
    for (const { phase } of this.regions.values()) if (phase !== OPEN) n++;
    return n;
  }

  *work(): Path<void> {
    if (this.working) throw new Error('rdma regions: work() is running already');
    this.working = true;
    for (;;) {
      const region = [...this.regions.values()].find(({ phase }) => phase !== OPEN);
      const wanted = this.wanted[0];
      if (region !== undefined) yield* this.openOrClose(region);
      else if (wanted !== undefined) yield* this.provide(wanted);
      else break;
    }
    this.working = false;
  }

  /** Regions that hold or follow something. */
  get nrRegions(): number {
    return this.regions.size;
  }

  /* ---- for the NIC ---- */

  attach(client: RdmaRegionClient): void {
    this.client = client;
  }

  register(request: RdmaRegionRequest): void {
    const { handle, address, lenBytes, access } = request;
    this.regions.set(handle, { handle, address, lenBytes, access, phase: ASKED, pieces: [] });
  }

  release(handle: number): void {
    const region = this.regions.get(handle);
    if (region === undefined) return;
    region.phase = LEAVING;
    this.wanted = this.wanted.filter((wanted) => wanted.handle !== handle);
  }

  /** The region, if its bytes may be reached this way. */
  protected openRegion(handle: number, write: boolean): HostRegion<Piece> | undefined {
    const region = this.regions.get(handle);
    if (region === undefined || region.phase !== OPEN) return undefined;
    return write && !isWritable(region) ? undefined : region;
  }

  protected wrote(address: number, lenBytes: number): void {
    this.config.onWritten(address, lenBytes);
  }

  /* ---- regions come and go ---- */

  private *openOrClose(region: HostRegion<Piece>): Path<void> {
    const { handle } = region;
    const error = region.phase === ASKED ? yield* this.openAll(region) : 0;
    // It may have been released while it was being opened: then no answer is awaited but that it is gone.
    if (region.phase === ASKED && error === 0) {
      region.phase = OPEN;
      this.client?.registered(handle, 0);
      return;
    }
    yield* this.closeAll(region);
    this.regions.delete(handle);
    if (region.phase === ASKED) this.client?.registered(handle, -error);
    else this.client?.released(handle);
  }

  /** @returns 0, -errno with what is open so far in `pieces` */
  private *openAll(region: HostRegion<Piece>): Path<number> {
    const pieces = this.piecesOf(region);
    if (pieces === undefined) return -EFAULT;
    for (const piece of pieces) {
      const opened = yield* this.open(piece, region);
      if (typeof opened === 'number') return opened;
      region.pieces.push(opened);
    }
    return 0;
  }

  private *closeAll(region: HostRegion<Piece>): Path<void> {
    for (const piece of region.pieces.splice(0)) yield* this.close(piece);
  }

  /** Finds bytes that are waited for, and tells the NIC. */
  private *provide(wanted: WantedBytes): Path<void> {
    const region = this.regions.get(wanted.handle);
    const error = region === undefined ? 0 : yield* this.find(region, wanted);
    // Nothing yields from here until the NIC has been told: what was found is still there.
    this.wanted = this.wanted.filter((other) => other !== wanted);
    this.failed = error < 0 ? wanted : undefined;
    this.client?.ready();
    this.failed = undefined;
  }

  /** Bytes that are not there yet are asked for. @returns DMA_WAIT; DMA_FAULT: they cannot be had */
  protected want(wanted: WantedBytes): number {
    const { failed } = this;
    if (failed !== undefined && isSame(failed, wanted)) return DMA_FAULT;
    if (!this.wanted.some((known) => isSame(known, wanted))) this.wanted.push(wanted);
    return DMA_WAIT;
  }

  /** The region cut where the process's addresses do not follow one another; undefined where memory is missing. */
  private piecesOf({ address, lenBytes }: RdmaRegionRequest): RegionPiece[] | undefined {
    const pieces: RegionPiece[] = [];
    let last: RegionPiece | undefined;
    for (let offset = 0, run = 0; offset < lenBytes; offset += run) {
      const at = address + offset;
      run = Math.min(lenBytes - offset, PAGE_SIZE - (at % PAGE_SIZE));
      const hva = this.config.hvaOf(at);
      if (hva < 0) return undefined;
      if (last !== undefined && hva === last.hva + last.lenBytes) last.lenBytes += run;
      else pieces.push({ offset, hva, lenBytes: run });
      last = pieces.at(-1);
    }
    return pieces;
  }

  /** @throws Error while work() is suspended: a generator cannot be saved */
  save(): RdmaRegionsState<Kept> {
    if (this.working) throw new Error('rdma regions: saved in the middle of work()');
    const regions = [...this.regions.values()].map((region) => ({
      ...region,
      pieces: region.pieces.map((piece) => this.keep(piece)),
    }));
    return { regions, wanted: this.wanted.map((wanted) => ({ ...wanted })) };
  }

  restore(state: RdmaRegionsState<Kept>): void {
    for (const region of state.regions) {
      const pieces = region.pieces.map((kept) => this.again(kept));
      this.regions.set(region.handle, { ...region, pieces });
    }
    this.wanted = state.wanted.map((wanted) => ({ ...wanted }));
  }
}

/** May the NIC write to it? */
export const isWritable = ({ access }: RdmaRegionRequest): boolean =>
  (access & RDMA_ACCESS_LOCAL_WRITE) !== 0;

/** The same page of the same region, in the same way. */
const isSame = (a: WantedBytes, b: WantedBytes): boolean =>
  a.handle === b.handle &&
  a.write === b.write &&
  Math.floor(a.address / PAGE_SIZE) === Math.floor(b.address / PAGE_SIZE);
