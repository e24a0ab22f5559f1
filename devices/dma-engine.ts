/**
 * The DMA engine: copies memory as a ring of descriptors says, one descriptor at a time.
 *
 * Our own device; this is its specification, with dma-ring.ts for the structures in memory.
 * Registers are words at these offsets (any other access reads 0 and writes nothing):
 *
 *   0x00 ID          RO   0x616d6447
 *   0x04 VERSION     RO   1
 *   0x08 CONTROL     RW   bit 0 enable, bit 1 interrupt enable; writing bit 31 resets everything
 *   0x0c STATUS      RO   bit 0 a descriptor is in progress, bit 1 an error has happened
 *   0x10 RING_LO     RW   bus address of the ring; bits 4..0 are zero
 *   0x14 RING_HI     RW
 *   0x18 RING_SIZE   RW   descriptors in the ring: a power of two, at most 4096
 *   0x1c HEAD        RO   descriptors completed, modulo 2^32
 *   0x20 TAIL        RW   descriptors handed over, modulo 2^32; a write is the doorbell
 *   0x24 IRQ_STATUS  W1C  bit 0 completion, bit 1 error; the line is high while one is set and enabled
 *   0x28 LATENCY     RW   instructions from submission to completion, 2000 after reset
 *
 * Submission of a descriptor is the doorbell, or the completion of the one before it. The
 * descriptor and its lists are read then; exactly LATENCY instructions later (or when the memory
 * behind the port is ready, if that is later) the bytes move, in ascending order, then the status
 * word is written, HEAD advances, and the interrupt is raised. Where the memory is not ready in the
 * middle of any of that, the engine goes on there when it is. A descriptor with an error completes
 * like any other, with its status. Without a readable descriptor (a ring that is not there, a size
 * that is not a power of two, TAIL further ahead than the ring is long) there is nowhere to report
 * to: the engine sets the error bits and stands still until it is reset. Clearing IRQ_STATUS bit 1
 * clears the error in STATUS too, unless the engine stands still.
 */
import {
  type Clock,
  DMA_OK,
  DMA_WAIT,
  type DmaPort,
  type IrqLine,
  type MmioDevice,
  PAGE_SIZE,
} from '#emu';
import {
  afterReset,
  DMA_CONTROL,
  DMA_CONTROL_ENABLE,
  DMA_CONTROL_IRQ,
  DMA_CONTROL_RESET,
  DMA_HEAD,
  DMA_ID,
  DMA_ID_VALUE,
  DMA_IRQ_COMPLETION,
  DMA_IRQ_ERROR,
  DMA_IRQ_STATUS,
  DMA_LATENCY,
  DMA_MAX_RING,
  DMA_RING_HI,
  DMA_RING_LO,
  DMA_RING_SIZE,
  DMA_STATUS,
  DMA_STATUS_BUSY,
  DMA_STATUS_ERROR,
  DMA_TAIL,
  DMA_VERSION,
  PHASE_DESCRIPTOR,
  PHASE_DST,
  PHASE_DST_LIST,
  PHASE_IDLE,
  PHASE_MOVING,
  PHASE_READY,
  PHASE_SRC,
  PHASE_SRC_LIST,
  PHASE_STATUS,
  type Registers,
} from './dma-registers.ts';
import {
  createDmaSegments,
  DMA_DESC_BYTES,
  DMA_DESC_STATUS,
  DMA_FLAG_DST_SG,
  DMA_FLAG_IRQ,
  DMA_FLAG_SRC_SG,
  DMA_MAX_BYTES,
  DMA_SG_BYTES,
  DMA_SG_LAST,
  DMA_STATUS_BAD_DESCRIPTOR,
  DMA_STATUS_BUS_ERROR,
  DMA_STATUS_DONE,
  type DmaSegments,
  dmaAddress,
  dmaWord,
  pushDmaSegment,
  putDmaWord,
  restoreDmaSegments,
  saveDmaSegments,
} from './dma-ring.ts';

/** Memory that a submission must be able to reach before it can go on: [address, +lenBytes). */
export interface DmaMapRequest {
  address: number;
  lenBytes: number;
  write: boolean;
}

/** The engine, as a port sees it that has to prepare memory first. */
export interface DmaClient {
  /** What the current submission waits for; undefined when it waits for nothing. */
  wanted(): Readonly<DmaMapRequest> | undefined;
  /** The answer to wanted(): DMA_OK, from now on the port reaches that range, or DMA_FAULT. */
  mapped(result: number): void;
}

/**
 * Memory behind the engine. A port with `post` is told of each submission, and calls the client's
 * wanted() and mapped() in turn until nothing is wanted, at once or later; what was mapped stays so
 * until release(). One without it reaches all of its memory at any time, or has `onReady` and answers
 * DMA_WAIT where it does not. No port has both.
 */
export interface DmaEnginePort extends DmaPort {
  /** Copies inside memory, ascending. After a fault an unspecified prefix was copied; after DMA_WAIT `copied` bytes. */
  copy(toAddress: number, fromAddress: number, lenBytes: number): number;
  /** Of a port that waits: how far the copy came that DMA_WAIT has ended. */
  readonly copied?: number;
  post?(client: DmaClient): void;
  /** The descriptor is over, or was given up by a reset. */
  release?(): void;
}

/** Bytes of a list that are read ahead, at most, and within a page. */
const LIST_BURST = 512;

/** Event: the current descriptor completes. */
const EVENT_COMPLETE = 0;

export interface DmaEngineConfig {
  clock: Clock;
  irq: IrqLine;
  port: DmaEnginePort;
  /** Name for the clock's events, when a machine has more than one engine. */
  name?: string;
}

/** What a saved machine keeps of the engine; its event is the clock's, its pins the port's. */
export interface DmaEngineState {
  registers: Registers;
  from: DmaSegments;
  to: DmaSegments;
}

export class DmaEngine implements MmioDevice, DmaClient {
  private readonly config: DmaEngineConfig;
  private readonly name: string;
  private r: Registers;
  private readonly from: DmaSegments;
  private readonly to: DmaSegments;
  private readonly request: DmaMapRequest;
  /** Bytes of a descriptor, list entries or a status word on their way. */
  private readonly scratch: Uint8Array;
  private readonly words: Uint32Array;

  constructor(config: DmaEngineConfig) {
    this.config = config;
    this.name = config.name ?? 'dma-engine';
    this.r = afterReset();
    this.from = createDmaSegments();
    this.to = createDmaSegments();
    this.request = { address: 0, lenBytes: 0, write: false };
    this.scratch = new Uint8Array(LIST_BURST);
    this.words = new Uint32Array(this.scratch.buffer);
    config.clock.receive(this.name, () => this.complete());
    config.port.onReady?.(() => this.ready());
  }

  /** A descriptor is in progress. */
  get busy(): boolean {
    return this.r.phase !== PHASE_IDLE;
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4) return 0;
    const r = this.r;
    switch (offset) {
      case DMA_ID:
        return DMA_ID_VALUE;
      case DMA_VERSION:
        return 1;
      case DMA_CONTROL:
        return r.control;
      case DMA_STATUS:
        return (this.busy ? DMA_STATUS_BUSY : 0) | (r.error ? DMA_STATUS_ERROR : 0);
      case DMA_RING_LO:
        return r.ringLo;
      case DMA_RING_HI:
        return r.ringHi;
      case DMA_RING_SIZE:
        return r.ringSize;
      case DMA_HEAD:
        return r.head;
      case DMA_TAIL:
        return r.tail;
      case DMA_IRQ_STATUS:
        return r.irqStatus;
      case DMA_LATENCY:
        return r.latency;
      default:
        return 0;
    }
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4) return;
    const r = this.r;
    switch (offset) {
      case DMA_CONTROL:
        if ((value & DMA_CONTROL_RESET) !== 0) {
          this.reset();
          return;
        }
        r.control = value & (DMA_CONTROL_ENABLE | DMA_CONTROL_IRQ);
        this.updateIrq();
        this.submitNext();
        break;
      case DMA_RING_LO:
        r.ringLo = (value & ~(DMA_DESC_BYTES - 1)) >>> 0;
        break;
      case DMA_RING_HI:
        r.ringHi = value >>> 0;
        break;
      case DMA_RING_SIZE:
        r.ringSize = value >>> 0;
        break;
      case DMA_TAIL:
        r.tail = value >>> 0;
        this.submitNext();
        break;
      case DMA_IRQ_STATUS:
        r.irqStatus &= ~value;
        if ((value & DMA_IRQ_ERROR) !== 0 && !r.halted) r.error = false;
        this.updateIrq();
        break;
      case DMA_LATENCY:
        r.latency = value >>> 0;
        break;
    }
  }

  /** Back to the state after power-on; a descriptor in progress is given up, its status unwritten. */
  reset(): void {
    this.config.clock.cancel(this.name, EVENT_COMPLETE);
    this.config.port.release?.();
    this.r = afterReset();
    this.from.count = 0;
    this.to.count = 0;
    this.updateIrq();
  }

  wanted(): Readonly<DmaMapRequest> | undefined {
    const r = this.r;
    switch (r.phase) {
      case PHASE_DESCRIPTOR:
        return this.want(r.descriptor, DMA_DESC_BYTES, true);
      case PHASE_SRC_LIST:
      case PHASE_DST_LIST:
        return this.want(r.listAt, DMA_SG_BYTES, false);
      case PHASE_SRC:
        return this.want(this.from.address[r.segment]!, this.from.lenBytes[r.segment]!, false);
      case PHASE_DST:
        return this.want(this.to.address[r.segment]!, this.to.lenBytes[r.segment]!, true);
      default:
        return undefined;
    }
  }

  mapped(result: number): void {
    const r = this.r;
    switch (r.phase) {
      case PHASE_DESCRIPTOR:
        this.readDescriptor(result);
        break;
      case PHASE_SRC_LIST:
        if (this.readListEntry(this.from, result)) this.startDestination();
        break;
      case PHASE_DST_LIST:
        if (this.readListEntry(this.to, result)) this.startMapping();
        break;
      case PHASE_SRC:
      case PHASE_DST:
        if (result !== DMA_OK) this.finish(DMA_STATUS_BUS_ERROR);
        else this.nextSegment();
        break;
    }
  }

  save(): DmaEngineState {
    return {
      registers: { ...this.r },
      from: saveDmaSegments(this.from),
      to: saveDmaSegments(this.to),
    };
  }

  /**
   * Drives no line and schedules nothing: the other ends and the clock are restored too. A
   * submission that had not begun is posted again; one that waits is called by its port.
   */
  restore(state: DmaEngineState): void {
    this.r = { ...state.registers };
    restoreDmaSegments(this.from, state.from);
    restoreDmaSegments(this.to, state.to);
    if (this.wanted() !== undefined) this.config.port.post?.(this);
  }

  /** The port has called: what has waited is tried again. */
  private ready(): void {
    const r = this.r;
    if (!r.waiting) return;
    r.waiting = false;
    if (r.phase === PHASE_MOVING || r.phase === PHASE_STATUS) this.complete();
    else this.advance();
  }

  /** Goes on with the submission until it is complete, or has to wait. */
  private advance(): void {
    while (!this.r.waiting && this.wanted() !== undefined) this.mapped(DMA_OK);
  }

  private want(address: number, lenBytes: number, write: boolean): Readonly<DmaMapRequest> {
    this.request.address = address;
    this.request.lenBytes = lenBytes;
    this.request.write = write;
    return this.request;
  }

  /** Takes the next descriptor, if there is one and nothing is in progress. */
  private submitNext(): void {
    const r = this.r;
    if (this.busy || r.halted || (r.control & DMA_CONTROL_ENABLE) === 0) return;
    const waiting = (r.tail - r.head) >>> 0;
    if (waiting === 0) return;
    const sized = r.ringSize > 0 && r.ringSize <= DMA_MAX_RING && isPowerOfTwo(r.ringSize);
    if (!sized || waiting > r.ringSize) {
      this.halt();
      return;
    }
    r.phase = PHASE_DESCRIPTOR;
    r.submittedAt = this.config.clock.now;
    r.descriptor = r.ringHi * 2 ** 32 + r.ringLo + (r.head & (r.ringSize - 1)) * DMA_DESC_BYTES;
    const port = this.config.port;
    if (port.post !== undefined) port.post(this);
    else this.advance();
  }

  /** Reads from memory, if it is mapped. Returns DMA_OK, DMA_FAULT; or DMA_WAIT, noted. */
  private fetch(mapped: number, address: number, lenBytes: number): number {
    if (mapped !== DMA_OK) return mapped;
    const result = this.config.port.read(address, this.scratch, 0, lenBytes);
    this.r.waiting = result === DMA_WAIT;
    return result;
  }

  private readDescriptor(mapped: number): void {
    const r = this.r;
    const bytes = this.scratch;
    const result = this.fetch(mapped, r.descriptor, DMA_DESC_BYTES);
    if (result !== DMA_OK) {
      if (!r.waiting) this.halt();
      return;
    }
    r.source = dmaAddress(bytes, 0);
    r.destination = dmaAddress(bytes, 8);
    r.flags = dmaWord(bytes, 20);
    r.lenBytes = dmaWord(bytes, 16);
    r.outcome = DMA_STATUS_DONE;
    this.from.count = 0;
    this.to.count = 0;
    const known = DMA_FLAG_IRQ | DMA_FLAG_SRC_SG | DMA_FLAG_DST_SG;
    if (r.lenBytes === 0 || r.lenBytes > DMA_MAX_BYTES || (r.flags & ~known) !== 0)
      this.finish(DMA_STATUS_BAD_DESCRIPTOR);
    else this.startSource();
  }

  private startSource(): void {
    const r = this.r;
    if ((r.flags & DMA_FLAG_SRC_SG) !== 0) {
      this.startList(PHASE_SRC_LIST, r.source);
      return;
    }
    pushDmaSegment(this.from, r.source, r.lenBytes);
    this.startDestination();
  }

  private startDestination(): void {
    const r = this.r;
    if ((r.flags & DMA_FLAG_DST_SG) !== 0) {
      this.startList(PHASE_DST_LIST, r.destination);
      return;
    }
    pushDmaSegment(this.to, r.destination, r.lenBytes);
    this.startMapping();
  }

  private startList(phase: number, address: number): void {
    this.r.phase = phase;
    this.r.listAt = address;
    this.r.covered = 0;
  }

  /** Reads an entry, or as many as come at once. Returns true when the list covers the descriptor's length. */
  private readListEntry(list: DmaSegments, mapped: number): boolean {
    const r = this.r;
    const burst = this.config.port.post === undefined ? this.burstAt(r.listAt) : DMA_SG_BYTES;
    if (this.fetch(mapped, r.listAt, burst) !== DMA_OK) {
      if (!r.waiting) this.finish(DMA_STATUS_BUS_ERROR);
      return false;
    }
    const { words } = this;
    let { covered } = r;
    let bad = false;
    let word = 0;
    for (const end = burst >>> 2; word < end && covered < r.lenBytes && !bad; word += 4) {
      const address = words[word + 1]! * 2 ** 32 + words[word]!;
      const lenBytes = Math.min(words[word + 2]!, r.lenBytes - covered);
      covered += lenBytes;
      const short = covered < r.lenBytes && (words[word + 3]! & DMA_SG_LAST) !== 0;
      bad = lenBytes === 0 || !pushDmaSegment(list, address, lenBytes) || short;
    }
    r.covered = covered;
    r.listAt += word * 4;
    if (bad) this.finish(DMA_STATUS_BAD_DESCRIPTOR);
    return !bad && covered === r.lenBytes;
  }

  /** Bytes of whole entries that are read at once: as far as the page goes. */
  private burstAt(address: number): number {
    const rest = PAGE_SIZE - (address % PAGE_SIZE);
    return Math.min(LIST_BURST, Math.max(1, Math.floor(rest / DMA_SG_BYTES)) * DMA_SG_BYTES);
  }

  private startMapping(): void {
    // Only a port that maps needs the segments asked for one by one.
    if (this.config.port.post === undefined) {
      this.finish(DMA_STATUS_DONE);
      return;
    }
    this.r.phase = PHASE_SRC;
    this.r.segment = 0;
  }

  private nextSegment(): void {
    const r = this.r;
    r.segment++;
    if (r.phase === PHASE_SRC && r.segment === this.from.count) {
      r.phase = PHASE_DST;
      r.segment = 0;
    } else if (r.phase === PHASE_DST && r.segment === this.to.count) {
      this.finish(DMA_STATUS_DONE);
    }
  }

  /** Nothing more is needed: the descriptor completes LATENCY after its submission. */
  private finish(outcome: number): void {
    const r = this.r;
    r.outcome = outcome;
    r.phase = PHASE_READY;
    this.config.clock.at(r.submittedAt + r.latency, this.name, EVENT_COMPLETE);
  }

  /** The descriptor completes, or goes on doing so where it had to wait. */
  private complete(): void {
    const r = this.r;
    if (r.phase === PHASE_READY) this.startMoving();
    if (r.phase === PHASE_MOVING) {
      const moved = r.outcome === DMA_STATUS_DONE ? this.moveBytes() : DMA_OK;
      r.waiting = moved === DMA_WAIT;
      if (r.waiting) return;
      if (moved !== DMA_OK) r.outcome = DMA_STATUS_BUS_ERROR;
      r.phase = PHASE_STATUS;
    }
    putDmaWord(this.scratch, 0, r.outcome);
    const port = this.config.port;
    const told = port.write(r.descriptor + DMA_DESC_STATUS, this.scratch, 0, 4);
    r.waiting = told === DMA_WAIT;
    if (r.waiting) return;
    port.release?.();
    if (told !== DMA_OK) {
      this.halt();
      return;
    }
    r.head = (r.head + 1) >>> 0;
    r.phase = PHASE_IDLE;
    if (r.outcome !== DMA_STATUS_DONE) {
      r.error = true;
      r.irqStatus |= DMA_IRQ_ERROR;
    }
    if ((r.flags & DMA_FLAG_IRQ) !== 0) r.irqStatus |= DMA_IRQ_COMPLETION;
    this.updateIrq();
    this.submitNext();
  }

  private startMoving(): void {
    const r = this.r;
    r.phase = PHASE_MOVING;
    r.fromSegment = 0;
    r.fromDone = 0;
    r.toSegment = 0;
    r.toDone = 0;
  }

  /** Copies what both lists have in common, piece by piece. Returns DMA_OK, DMA_FAULT or DMA_WAIT. */
  private moveBytes(): number {
    const { from, to, r } = this;
    const { port } = this.config;
    let { fromSegment, fromDone, toSegment, toDone } = r;
    let result = DMA_OK;
    while (result === DMA_OK && fromSegment < from.count && toSegment < to.count) {
      const fromLeft = from.lenBytes[fromSegment]! - fromDone;
      const toLeft = to.lenBytes[toSegment]! - toDone;
      const run = Math.min(fromLeft, toLeft);
      const toAddress = to.address[toSegment]! + toDone;
      result = port.copy(toAddress, from.address[fromSegment]! + fromDone, run);
      const copied = result === DMA_WAIT ? (port.copied ?? 0) : run;
      fromDone += copied;
      toDone += copied;
      if (result !== DMA_OK) break;
      if (run === fromLeft) {
        fromSegment++;
        fromDone = 0;
      }
      if (run === toLeft) {
        toSegment++;
        toDone = 0;
      }
    }
    r.fromSegment = fromSegment;
    r.fromDone = fromDone;
    r.toSegment = toSegment;
    r.toDone = toDone;
    return result;
  }

  /** The ring cannot be used. */
  private halt(): void {
    this.config.port.release?.();
    this.r.phase = PHASE_IDLE;
    this.r.halted = true;
    this.r.error = true;
    this.r.irqStatus |= DMA_IRQ_ERROR;
    this.updateIrq();
  }

  private updateIrq(): void {
    const enabled = (this.r.control & DMA_CONTROL_IRQ) !== 0;
    this.config.irq.set(enabled && this.r.irqStatus !== 0);
  }
}

const isPowerOfTwo = (value: number): boolean => (value & (value - 1)) === 0;
