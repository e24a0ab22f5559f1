/**
 * The rings that the IOMMU shares with its driver: registers of each, and the producer's side of those
 * that the IOMMU writes records into (faults, page requests). RISC-V IOMMU 1.0, "In-memory queue
 * interface".
 */
import { DMA_OK, DMA_WAIT, type DmaPort, PAGE_SIZE } from '#emu';
import {
  PPN_HI_MASK,
  PPN_LO_MASK,
  QCSR_EN,
  QCSR_IE,
  QCSR_MF,
  QCSR_OF,
  QCSR_ON,
  QUEUE_LOG2SZ_MASK,
} from './registers.ts';

/** Largest LOG2SZ - 1: 8192 entries. */
export const QUEUE_LOG2SZ_MAX = 12;

/** Registers of one ring. Plain data. */
export interface QueueRegisters {
  baseLo: number;
  baseHi: number;
  head: number;
  tail: number;
  csr: number;
}

export const createQueueRegisters = (): QueueRegisters => ({
  baseLo: 0,
  baseHi: 0,
  head: 0,
  tail: 0,
  csr: 0,
});

/** Entries minus one. */
export const queueMask = (r: QueueRegisters): number => (2 << (r.baseLo & QUEUE_LOG2SZ_MASK)) - 1;

/** Where an entry is, in physical memory. */
export const queueEntry = (r: QueueRegisters, index: number, entryBytes: number): number =>
  (r.baseHi * 2 ** 22 + (r.baseLo >>> 10)) * PAGE_SIZE + index * entryBytes;

/** A write to half of the base register; while the ring is on, nothing. */
export const writeQueueBase = (r: QueueRegisters, high: boolean, value: number): void => {
  if ((r.csr & QCSR_ON) !== 0) return;
  if (high) {
    r.baseHi = value & PPN_HI_MASK;
    return;
  }
  const log2sz = Math.min(value & QUEUE_LOG2SZ_MASK, QUEUE_LOG2SZ_MAX);
  r.baseLo = (value & PPN_LO_MASK) | log2sz;
  r.head &= queueMask(r);
  r.tail &= queueMask(r);
};

/** One record that is still to be stored. */
interface PendingRecord {
  index: number;
  bytes: Uint8Array;
}

/** What a saved machine keeps of a ring of records. */
export interface RecordQueueState {
  registers: QueueRegisters;
  claimed: number;
  pending: PendingRecord[];
}

/** A ring that the IOMMU writes. Its tail is the IOMMU's, its head the driver's. */
export class RecordQueue {
  readonly r: QueueRegisters;
  /** Index after the last record that was accepted; the tail follows when it is stored. */
  private claimed: number;
  private pending: PendingRecord[];
  private readonly recordBytes: number;
  private readonly port: DmaPort;
  private readonly interrupt: () => void;

  /** @param interrupt the ring has something to say, and its interrupts are enabled */
  constructor(recordBytes: number, port: DmaPort, interrupt: () => void) {
    this.r = createQueueRegisters();
    this.claimed = 0;
    this.pending = [];
    this.recordBytes = recordBytes;
    this.port = port;
    this.interrupt = interrupt;
  }

  get on(): boolean {
    return (this.r.csr & QCSR_ON) !== 0;
  }

  get overflowed(): boolean {
    return (this.r.csr & QCSR_OF) !== 0;
  }

  get faulted(): boolean {
    return (this.r.csr & QCSR_MF) !== 0;
  }

  writeHead(value: number): void {
    this.r.head = value & queueMask(this.r);
  }

  writeCsr(value: number): void {
    const { r } = this;
    const was = r.csr;
    r.csr =
      (was & (QCSR_ON | QCSR_MF | QCSR_OF) & ~(value & (QCSR_MF | QCSR_OF))) |
      (value & (QCSR_EN | QCSR_IE));
    if ((value & ~was & QCSR_EN) !== 0) {
      r.tail = 0;
      this.claimed = 0;
      r.csr = (r.csr & ~(QCSR_MF | QCSR_OF)) | QCSR_ON;
    }
    // What is not stored yet is lost: nothing is written into a ring that is off.
    if ((value & QCSR_EN) === 0) {
      r.csr &= ~QCSR_ON;
      this.pending = [];
      this.claimed = r.tail;
    }
    this.checkInterrupt();
  }

  /** Overflow or memory fault, with interrupts enabled. */
  checkInterrupt(): void {
    const { csr } = this.r;
    if ((csr & QCSR_IE) !== 0 && (csr & (QCSR_MF | QCSR_OF)) !== 0) this.interrupt();
  }

  /**
   * Accepts a record.
   * @param bytes are copied where they cannot be stored at once
   * @returns false where it is discarded: the ring is off, in error, or full (which is an error now)
   */
  push(bytes: Uint8Array): boolean {
    const { r } = this;
    if (!this.on || (r.csr & (QCSR_MF | QCSR_OF)) !== 0) return false;
    const next = (this.claimed + 1) & queueMask(r);
    if (next === r.head) {
      r.csr |= QCSR_OF;
      this.checkInterrupt();
      return false;
    }
    const index = this.claimed;
    // Before the record is stored: its interrupt may be a message that fails, and is a record itself.
    this.claimed = next;
    const outcome = this.pending.length > 0 ? DMA_WAIT : this.store(index, bytes);
    if (outcome === DMA_OK) return true;
    if (outcome === DMA_WAIT) {
      this.pending.push({ index, bytes: bytes.slice() });
      return true;
    }
    this.claimed = r.tail;
    return false;
  }

  /** Stores what can be stored now. To be called when memory has become reachable. */
  flush(): void {
    for (let first = this.pending[0]; first !== undefined; first = this.pending[0]) {
      const outcome = this.store(first.index, first.bytes);
      if (outcome === DMA_WAIT) return;
      if (outcome !== DMA_OK) {
        // The ring is in error: those behind it are discarded with it.
        this.pending = [];
        this.claimed = this.r.tail;
        return;
      }
      this.pending.shift();
    }
  }

  private store(index: number, bytes: Uint8Array): number {
    const { r } = this;
    const outcome = this.port.write(
      queueEntry(r, index, this.recordBytes),
      bytes,
      0,
      this.recordBytes,
    );
    if (outcome === DMA_WAIT) return DMA_WAIT;
    if (outcome === DMA_OK) {
      r.tail = (index + 1) & queueMask(r);
      if ((r.csr & QCSR_IE) !== 0) this.interrupt();
    } else {
      r.csr |= QCSR_MF;
      this.checkInterrupt();
    }
    return outcome;
  }

  save(): RecordQueueState {
    return structuredClone({
      registers: this.r,
      claimed: this.claimed,
      pending: this.pending,
    });
  }

  restore(state: RecordQueueState): void {
    Object.assign(this.r, state.registers);
    this.claimed = state.claimed;
    this.pending = structuredClone(state.pending);
  }
}
