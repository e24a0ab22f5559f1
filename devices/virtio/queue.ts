/**
 * A virtqueue as a device model uses it: buffers come out, used buffers go back. virtio 1.2, 2.6.
 *
 * The ring may be of either format, and the memory it is in may have to be waited for. take() says so
 * and has done nothing; put() always works: what cannot be written yet waits in the queue, in order,
 * and goes before anything that is put later. A driver that breaks a rule breaks its queue: the
 * transport asks for a reset, and take() finds nothing any more.
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { copyChain, createChain, type VirtioChain } from './chain.ts';
import { PackedRing } from './packed-ring.ts';
import {
  createRingCursor,
  RING_EMPTY,
  RING_TAKEN,
  type RingCursor,
  type RingFormat,
  type RingPlace,
} from './ring.ts';
import { SplitRing } from './split-ring.ts';

/** Beside what RingFormat.take() returns: the driver has more buffers out than the ring has entries. */
const RING_TOO_MANY = -4;

/** What a queue holds of its transport. */
export interface VirtqueueWires {
  /** Where rings and indirect tables are. */
  port: DmaPort;
  /** Used buffers that the driver wants to be told of. */
  onUsed(): void;
  /** The driver has broken a rule, or its ring is not in memory. */
  onBroken(): void;
}

/** What a saved machine keeps of a queue. */
export interface VirtqueueState {
  /** null = stopped. */
  place: RingPlace | null;
  packed: boolean;
  cursor: RingCursor;
  epoch: number;
  inFlight: number;
  waiting: { chain: VirtioChain; writtenBytes: number }[];
}

export class Virtqueue {
  private readonly wires: VirtqueueWires;
  private place: RingPlace | null;
  private packed: boolean;
  private cursor: RingCursor;
  private ring: RingFormat | null;
  /** Counts starts and stops: chains from before are void. */
  private epoch: number;
  /** Chains that were taken and whose use the driver cannot see yet. */
  private inFlight: number;
  /** Used buffers whose entry could not be written yet. */
  private waiting: { chain: VirtioChain; writtenBytes: number }[];
  /** Chains to be used again. */
  private readonly spare: VirtioChain[];

  constructor(wires: VirtqueueWires) {
    this.wires = wires;
    this.place = null;
    this.packed = false;
    this.cursor = createRingCursor();
    this.ring = null;
    this.epoch = 0;
    this.inFlight = 0;
    this.waiting = [];
    this.spare = [];
  }

  /** The ring is there: the driver has set QueueReady. */
  get running(): boolean {
    return this.ring !== null;
  }

  /** Entries of the ring; 0 while there is none. */
  get size(): number {
    return this.place?.size ?? 0;
  }

  /** Chains out with the device. */
  get nrInFlight(): number {
    return this.inFlight - this.waiting.length;
  }

  /**
   * The next buffer that the driver made available. undefined: there is none, and the driver was
   * asked to tell of the next. DMA_WAIT: to be tried again when notify() comes. The chain is the
   * caller's until it is put or untaken.
   */
  take(): VirtioChain | undefined | typeof DMA_WAIT {
    if (this.ring === null) return undefined;
    const chain = this.spare.pop() ?? createChain();
    const result = this.takeInto(this.ring, chain);
    if (result === RING_TAKEN) {
      chain.epoch = this.epoch;
      this.inFlight++;
      return chain;
    }
    this.spare.push(chain);
    if (result === DMA_WAIT) return DMA_WAIT;
    if (result !== RING_EMPTY) this.breakDown();
    return undefined;
  }

  /** Takes back the last take(), which must have been the last thing done: the chain comes again. */
  untake(chain: VirtioChain): void {
    if (chain.epoch !== this.epoch || this.ring === null) return;
    this.ring.untake(chain);
    this.inFlight--;
    this.spare.push(chain);
  }

  /**
   * Gives a buffer back, with the number of bytes that the device has written from the beginning of
   * its writable part. The chain belongs to the queue from now on. A chain from before a reset goes
   * nowhere.
   */
  put(chain: VirtioChain, writtenBytes: number): void {
    if (chain.epoch !== this.epoch || this.ring === null) return;
    if (this.waiting.length === 0 && this.tryPut(this.ring, chain, writtenBytes)) return;
    this.waiting.push({ chain, writtenBytes });
  }

  /** Memory that was waited for may have come: writes what waits. Returns false if some still does. */
  flush(): boolean {
    for (let first = this.waiting[0]; first !== undefined; first = this.waiting[0]) {
      if (this.ring === null) return true;
      if (!this.tryPut(this.ring, first.chain, first.writtenBytes)) return false;
      this.waiting.shift();
    }
    return true;
  }

  /** The driver has set the queue up; it begins at its first entry. */
  start(place: RingPlace, packed: boolean): void {
    this.stop();
    this.place = place;
    this.packed = packed;
    this.ring = this.createRing(place);
  }

  /** The queue is not there any more; chains that are out are void. */
  stop(): void {
    this.place = null;
    this.ring = null;
    this.cursor = createRingCursor();
    this.epoch++;
    this.inFlight = 0;
    this.waiting = [];
  }

  save(): VirtqueueState {
    return {
      place: this.place === null ? null : { ...this.place },
      packed: this.packed,
      cursor: { ...this.cursor },
      epoch: this.epoch,
      inFlight: this.inFlight,
      waiting: this.waiting.map(({ chain, writtenBytes }) => ({
        chain: copyChain(chain),
        writtenBytes,
      })),
    };
  }

  restore(state: VirtqueueState): void {
    this.place = state.place === null ? null : { ...state.place };
    this.packed = state.packed;
    this.cursor = { ...state.cursor };
    this.epoch = state.epoch;
    this.inFlight = state.inFlight;
    this.waiting = state.waiting.map(({ chain, writtenBytes }) => ({
      chain: copyChain(chain),
      writtenBytes,
    }));
    this.ring = this.place === null ? null : this.createRing(this.place);
  }

  private createRing(place: RingPlace): RingFormat {
    const { port } = this.wires;
    return this.packed
      ? new PackedRing(port, place, this.cursor)
      : new SplitRing(port, place, this.cursor);
  }

  /** One outcome of RingFormat.take(). An empty ring asks for the event and looks once more. */
  private takeInto(ring: RingFormat, chain: VirtioChain): number {
    const first = ring.take(chain);
    if (first !== RING_EMPTY) return this.checked(first);
    const asked = ring.askForEvent();
    if (asked !== DMA_OK) return asked;
    return this.checked(ring.take(chain));
  }

  /** A driver that offers a descriptor again before it was used could have any number out. */
  private checked(result: number): number {
    return result === RING_TAKEN && this.inFlight >= this.size ? RING_TOO_MANY : result;
  }

  /** Returns false where memory has to be waited for. */
  private tryPut(ring: RingFormat, chain: VirtioChain, writtenBytes: number): boolean {
    const result = ring.put(chain, writtenBytes);
    if (result === DMA_WAIT) return false;
    if (result !== DMA_OK) {
      this.breakDown();
      return true;
    }
    this.inFlight--;
    if (ring.wantsEvent(chain)) this.wires.onUsed();
    this.spare.push(chain);
    return true;
  }

  private breakDown(): void {
    this.stop();
    this.wires.onBroken();
  }
}
