/**
 * The DMA engine's port into a VMM process: guest memory that is pinned while a transfer needs it.
 *
 * Bus addresses are guest physical; the VMM's memory slots make host virtual addresses of them, and
 * pin_user_pages_fast() frames, as a driver does it that passes a user's buffer to its device
 * (Documentation/core-api/pin_user_pages.rst, case 2: direct I/O of short duration).
 *
 *   engine                     port                                 scheduler
 *   doorbell -> post()         a submission waits                   sees pendingWork(), runs work()
 *   wanted() <- work()         pins the pages of what is wanted
 *   mapped() <-                ... until nothing is wanted          (other actors at its yields)
 *   clock event: read(), copy(), write() on pinned frames, release()
 *                              the pins wait to be given back       sees pendingWork(), runs work()
 *
 * Pinning and unpinning may sleep, so both happen in work(), a path; the copy at the completion
 * event touches nothing but frames that are held. A reset can come at any yield of work(): what it
 * has pinned by then, or pins in that very moment, is given back.
 *
 * Behind the host's IOMMU what is pinned is mapped as well, and the engine's accesses go by the bus
 * addresses of that mapping: what the IOMMU does not let through is a bus error.
 */
import { atomicAdd } from '#cells';
import { DMA_FAULT, DMA_OK, PAGE_MASK, PAGE_SIZE } from '#emu';
import type { DmaClient, DmaEnginePort, DmaMapRequest } from '#devices';
import {
  FOLL_WRITE,
  type Kernel,
  type MmStruct,
  nameGupUser,
  type Path,
  pinnedPageOffset,
  pinUserPagesFast,
  unpinUserPagesDirtyLock,
  YP_DMA_COMPLETING,
  YP_DMA_SUBMITTED,
} from '#mm/driver-api';
import { dmaMapSg, dmaUnmapSgs } from './dma-map.ts';
import { DMA_BIDIRECTIONAL, DMA_TO_DEVICE, runsOfPages } from './dma-mapping.ts';
import type { DmaDevicePort } from './device-port.ts';
import type { DmaDevice } from './dma-device.ts';
import {
  PINNED_PAGES_MAX,
  PinnedPages,
  type PinnedPagesState,
  pagesTouched,
} from './pinned-pages.ts';

export interface PinnedPortConfig {
  kernel: Kernel;
  /** The VMM process. */
  mm: MmStruct;
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory has changed: the dirty log. Called for runs inside one page. */
  onWritten(gpa: number, lenBytes: number): void;
  /** The engine is behind the host's IOMMU: as which device, and its port there. */
  dma?: { device: DmaDevice; port: DmaDevicePort };
}

/** What a saved machine keeps of the port; a submission that waits is posted again by its engine. */
export interface PinnedPortState {
  held: PinnedPagesState;
  leaving: PinnedPagesState;
  transfers: number;
  bytesWritten: number;
}

export class PinnedPort implements DmaEnginePort {
  private readonly config: PinnedPortConfig;
  /** Pins of the transfer that is being submitted or in flight. */
  private held: PinnedPages;
  /** Pins that wait to be given back. Invariant: empty while work() adds to `held`. */
  private leaving: PinnedPages;
  /** Who posted; it knows itself whether it still wants something. */
  private client: DmaClient | undefined;
  /** work() is between its first and last step. */
  private working: boolean;
  /** Counts release(): a step of work() that sees it change has been overtaken by a reset. */
  private generation: number;
  /** Frames of the run being pinned. */
  private readonly scratch: Int32Array;
  /** Transfers that were submitted completely, and bytes that reached guest memory. */
  transfers: number;
  bytesWritten: number;

  constructor(config: PinnedPortConfig) {
    this.config = config;
    this.held = new PinnedPages();
    this.leaving = new PinnedPages();
    this.client = undefined;
    this.working = false;
    this.generation = 0;
    this.scratch = new Int32Array(PINNED_PAGES_MAX);
    this.transfers = 0;
    this.bytesWritten = 0;
  }

  /* ---- for the scheduler ---- */

  /** Things to do that nobody does yet: a submission, a release. While work() runs, 0. */
  pendingWork(): number {
    if (this.working) return 0;
    return (this.client?.wanted() !== undefined ? 1 : 0) + (this.leaving.nrPages > 0 ? 1 : 0);
  }

  /** Gives back what is over, pins for what was posted, until there is nothing to do. */
  *work(): Path<void> {
    if (this.working) throw new Error('pinned port: work() is running already');
    const { kernel } = this.config;
    this.working = true;
    for (;;) {
      yield* this.unpinLeaving();
      const request = this.client?.wanted();
      if (this.client === undefined || request === undefined) break;
      const generation = this.generation;
      const result = yield* this.pin(request, generation);
      if (generation !== this.generation) continue;
      this.client.mapped(result);
      if (generation !== this.generation || this.client.wanted() !== undefined) continue;
      this.transfers++;
      if (kernel.watched) yield YP_DMA_SUBMITTED;
    }
    this.working = false;
  }

  /** Transfers that hold pins: 0 or 1. */
  transfersInFlight(): number {
    return this.held.nrPages > 0 ? 1 : 0;
  }

  /** Pages that the transfer in flight holds; one that was pinned twice counts twice. */
  pagesInFlight(): number {
    return this.held.nrPages;
  }

  /** The nth frame that the transfer in flight holds. */
  pageInFlight(index: number): number {
    return this.held.pages[index]!;
  }

  /** Does the transfer in flight hold this frame? */
  isInFlight(page: number): boolean {
    return this.held.holds(page);
  }

  /* ---- for the engine ---- */

  post(client: DmaClient): void {
    this.client = client;
  }

  release(): void {
    this.generation++;
    if (this.held.nrPages === 0) return;
    if (this.leaving.nrPages > 0) throw new Error('pinned port: two transfers are leaving');
    const over = this.held;
    this.held = this.leaving;
    this.leaving = over;
  }

  read(gpa: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const { u8 } = this.config.kernel.memory;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(gpa + done));
      const offset = this.offsetAt(gpa + done, false);
      if (offset < 0) return DMA_FAULT;
      into.set(u8.subarray(offset, offset + run), intoOffset + done);
    }
    return DMA_OK;
  }

  write(gpa: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const { memory } = this.config.kernel;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(gpa + done));
      const offset = this.offsetAt(gpa + done, true);
      if (offset < 0) return DMA_FAULT;
      memory.setBytes(offset, from.subarray(fromOffset + done, fromOffset + done + run));
      this.wrote(gpa + done, run);
    }
    return DMA_OK;
  }

  copy(toGpa: number, fromGpa: number, lenBytes: number): number {
    const { memory } = this.config.kernel;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(toGpa + done), pageRest(fromGpa + done));
      const from = this.offsetAt(fromGpa + done, false);
      const to = this.offsetAt(toGpa + done, true);
      if (from < 0 || to < 0) return DMA_FAULT;
      memory.copyWithin(to, from, run);
      this.wrote(toGpa + done, run);
    }
    return DMA_OK;
  }

  /** @throws RangeError for a misaligned address: the device model has checked it */
  atomicAdd32(gpa: number, delta: number): number | undefined {
    if ((gpa & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${gpa.toString(16)}`);
    const offset = this.offsetAt(gpa, true);
    if (offset < 0) return undefined;
    const { memory } = this.config.kernel;
    const sum = atomicAdd(memory.i32, offset >>> 2, delta);
    memory.wrote(offset, 4);
    this.wrote(gpa, 4);
    return (sum - delta) >>> 0;
  }

  translate(gpa: number, write: boolean): number {
    return this.offsetAt(gpa, write);
  }

  /** @throws Error while work() is suspended: a generator cannot be saved */
  save(): PinnedPortState {
    if (this.working) throw new Error('pinned port: saved in the middle of work()');
    return {
      held: this.held.save(),
      leaving: this.leaving.save(),
      transfers: this.transfers,
      bytesWritten: this.bytesWritten,
    };
  }

  restore(state: PinnedPortState): void {
    this.held.restore(state.held);
    this.leaving.restore(state.leaving);
    this.transfers = state.transfers;
    this.bytesWritten = state.bytesWritten;
  }

  /** Offset of a byte whose page is held, or DMA_FAULT. */
  private offsetAt(gpa: number, write: boolean): number {
    const { dma } = this.config;
    if (dma !== undefined) {
      const iova = this.held.busAddressAt(gpa, write);
      return iova < 0 ? DMA_FAULT : dma.port.translate(iova, write);
    }
    const page = this.held.frameAt(gpa, write);
    if (page < 0) return DMA_FAULT;
    return pinnedPageOffset(this.config.kernel, page) + (gpa % PAGE_SIZE);
  }

  private wrote(gpa: number, lenBytes: number): void {
    this.bytesWritten += lenBytes;
    this.config.onWritten(gpa, lenBytes);
  }

  /**
   * Pins every page of what is wanted. A failure leaves what was pinned so far to release().
   * Overtaken by a reset, it hands its last pages to `leaving` and stops.
   */
  private *pin(request: Readonly<DmaMapRequest>, generation: number): Path<number> {
    const { kernel, mm } = this.config;
    // The engine keeps one request record: what it says is taken before anybody else can run.
    const { address: gpa, lenBytes, write } = request;
    if (this.held.lastCovers(gpa, lenBytes, write)) return DMA_OK;
    const wanted = pagesTouched(gpa, lenBytes);
    if (wanted > this.held.room) return DMA_FAULT;
    const firstGpa = gpa - (gpa % PAGE_SIZE);
    for (let pinned = 0; pinned < wanted; ) {
      const runGpa = firstGpa + pinned * PAGE_SIZE;
      const hva = this.config.hvaOf(runGpa);
      if (hva < 0) return DMA_FAULT;
      const flags = write ? FOLL_WRITE : 0;
      const run = this.contiguous(runGpa, hva, wanted - pinned);
      nameGupUser(kernel, 'dma-engine');
      const got = yield* pinUserPagesFast(kernel, mm, hva, run, flags, this.scratch);
      if (got <= 0) return DMA_FAULT;
      const overtaken = generation !== this.generation;
      (overtaken ? this.leaving : this.held).add(runGpa, write, this.scratch, got);
      if (overtaken) return DMA_FAULT;
      const mapped = yield* this.map(got, write);
      if (!mapped || generation !== this.generation) return DMA_FAULT;
      pinned += got;
    }
    return DMA_OK;
  }

  /** Gives the IOMMU what was pinned last: scratch[0 .. nrPages). Returns false without room for it. */
  private *map(nrPages: number, write: boolean): Path<boolean> {
    const { dma } = this.config;
    if (dma === undefined) return true;
    const { held } = this;
    const runs = runsOfPages(this.scratch, 0, nrPages);
    // The descriptor is read and written; the rest one way each.
    const direction = write ? DMA_BIDIRECTIONAL : DMA_TO_DEVICE;
    const sg = yield* dmaMapSg(dma.device, runs, direction, 'dma-engine');
    if (typeof sg === 'number') return false;
    // Overtaken or not: the window is where it was.
    held.setMapped(sg);
    return true;
  }

  /** Pages from `gpa` on, `most` of them at most, that follow one another in the VMM too. */
  private contiguous(gpa: number, hva: number, most: number): number {
    let n = 1;
    while (n < most && this.config.hvaOf(gpa + n * PAGE_SIZE) === hva + n * PAGE_SIZE) n++;
    return n;
  }

  /** Gives back the pins of transfers that are over; what was pinned for writing is dirty. */
  private *unpinLeaving(): Path<void> {
    const { kernel } = this.config;
    const { leaving } = this;
    if (leaving.nrPages === 0) return;
    if (kernel.watched) yield YP_DMA_COMPLETING;
    const { dma } = this.config;
    // The device may reach nothing that nobody holds.
    if (dma !== undefined) yield* dmaUnmapSgs(dma.device, leaving.allMapped());
    for (let first = 0, end = 0; first < leaving.nrWindows; first = end) {
      end = leaving.endOfAlike(first);
      const frames = leaving.framesOf(first, end);
      const dirty = leaving.isWriteWindow(first);
      nameGupUser(kernel, 'dma-engine');
      yield* unpinUserPagesDirtyLock(kernel, frames, frames.length, dirty);
    }
    leaving.clear();
  }
}

/** Bytes from `gpa` to the end of its page. */
const pageRest = (gpa: number): number => PAGE_SIZE - (gpa & PAGE_MASK);
