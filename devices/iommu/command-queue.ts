/**
 * The IOMMU's command queue: fetches, checks and carries out what its driver has put into the ring.
 * RISC-V IOMMU 1.0, "Command-Queue"; commands are 16 bytes.
 *
 *   IOTINVAL  1  VMA 0, GVMA 1              page-table caches
 *   IOFENCE   2  C 0                        all before it are done
 *   IODIR     3  INVAL_DDT 0, INVAL_PDT 1   directory caches
 *   ATS       4  INVAL 0, PRGR 1            messages to a device
 *
 * Commands are carried out when the tail is written, in order. The queue stops at an error, at memory
 * that is not reachable yet, and at a fence while a device owes the completion of an invalidation: at
 * each with the head at the command, which is done again from its beginning.
 */
import { DMA_FAULT, DMA_WAIT, type DmaPort, PAGE_SIZE, type PhysMemory } from '#emu';
import { createQueueRegisters, queueEntry, queueMask, type QueueRegisters } from './queues.ts';
import {
  CQCSR_CMD_ILL,
  CQCSR_CMD_TO,
  CQCSR_FENCE_W_IP,
  QCSR_EN,
  QCSR_IE,
  QCSR_MF,
  QCSR_ON,
} from './registers.ts';

export const COMMAND_BYTES = 16;
const OPCODE_IOTINVAL = 1;
const OPCODE_IOFENCE = 2;
const OPCODE_IODIR = 3;
const OPCODE_ATS = 4;
const FUNC3_SHIFT = 7;
const AV = 1 << 10;
const FENCE_WSI = 1 << 11;
const ID_SHIFT = 12;
const HI_PSCV = 1 << 0;
const HI_GV = 1 << 1;
const HI_PV = 1 << 0;
/** DV of IODIR, DSV of ATS. */
const HI_DV = 1 << 1;
/** Bits that are reserved, word by word. */
const IOTINVAL_RESERVED = [1 << 11, 0xf000_0ffc, 0x3ff, 0xc000_0000] as const;
const IOFENCE_RESERVED = [0xffff_c000, 0, 0, 0xc000_0000] as const;
const IODIR_RESERVED = [3 << 10, 0xfd, -1, -1] as const;
const ATS_RESERVED = [3 << 10, 0xfc, 0, 0] as const;

/** Errors that stop the queue. */
const ERRORS = QCSR_MF | CQCSR_CMD_TO | CQCSR_CMD_ILL;
const CLEARABLE = ERRORS | CQCSR_FENCE_W_IP;

/** What a command came to. */
const DONE = 0;
const ILLEGAL = 1;
const WAITS = 2;
const FAULTS = 3;
const TIMED_OUT = 4;

/** ATS.INVAL, as a device is told of it: [iova, +lenBytes) of a process (-1: without process_id). */
export interface AtsInvalidation {
  processId: number;
  iova: number;
  lenBytes: number;
  /** Entries of all processes. */
  global: boolean;
}

/** Who carries commands out. */
export interface CommandTarget {
  /** -1: GV, PSCV or AV is 0. */
  invalidateVma(gscid: number, pscid: number, iova: number): void;
  invalidateGvma(gscid: number, gpa: number): void;
  /** -1: DV is 0. */
  invalidateDevice(deviceId: number): void;
  invalidateProcess(deviceId: number, processId: number): void;
  atsInvalidate(deviceId: number, invalidation: AtsInvalidation): void;
  pageGroupResponse(deviceId: number, processId: number, group: number, code: number): void;
  /** Invalidations that devices owe an answer: none; some, which may come; some, which will not. */
  owed(): 'none' | 'some' | 'late';
  /** Those that are late are given up. */
  giveUpLate(): void;
  /** Interrupts are wires: a fence may ask for one. */
  readonly wsi: boolean;
  /** An error, or a fence with WSI, with interrupts enabled. */
  interrupt(): void;
}

export class CommandQueue {
  readonly r: QueueRegisters;
  /** Commands since the beginning. */
  carriedOut: number;
  private readonly memory: PhysMemory;
  private readonly port: DmaPort;
  private readonly target: CommandTarget;
  private readonly word: Uint8Array;
  private readonly words: Int32Array;

  constructor(memory: PhysMemory, port: DmaPort, target: CommandTarget) {
    this.r = createQueueRegisters();
    this.carriedOut = 0;
    this.memory = memory;
    this.port = port;
    this.target = target;
    this.word = new Uint8Array(4);
    this.words = new Int32Array(COMMAND_BYTES / 4);
  }

  /** The caller calls run() after this, and after writeCsr(). */
  writeTail(value: number): void {
    this.r.tail = value & queueMask(this.r);
  }

  writeCsr(value: number): void {
    const { r } = this;
    const was = r.csr;
    r.csr = (was & (QCSR_ON | CLEARABLE) & ~(value & CLEARABLE)) | (value & (QCSR_EN | QCSR_IE));
    if ((value & ~was & QCSR_EN) !== 0) {
      r.head = 0;
      r.csr = (r.csr & ~CLEARABLE) | QCSR_ON;
    }
    if ((value & QCSR_EN) === 0) r.csr &= ~QCSR_ON;
    this.checkInterrupt();
  }

  /** An error or a fence's bit, with interrupts enabled. */
  checkInterrupt(): void {
    const { csr } = this.r;
    if ((csr & QCSR_IE) !== 0 && (csr & CLEARABLE) !== 0) this.target.interrupt();
  }

  /** Carries out commands until there are none, or the queue stops. */
  run(): void {
    const { r } = this;
    while ((r.csr & QCSR_ON) !== 0 && (r.csr & ERRORS) === 0 && r.head !== r.tail) {
      const outcome = this.step();
      if (outcome === WAITS) return;
      if (outcome === DONE) {
        r.head = (r.head + 1) & queueMask(r);
        this.carriedOut++;
        continue;
      }
      r.csr |= outcome === ILLEGAL ? CQCSR_CMD_ILL : outcome === TIMED_OUT ? CQCSR_CMD_TO : QCSR_MF;
      this.checkInterrupt();
    }
  }

  private step(): number {
    const offset = this.port.translate(queueEntry(this.r, this.r.head, COMMAND_BYTES), false);
    if (offset === DMA_WAIT) return WAITS;
    if (offset < 0 || this.memory.isPoisoned(offset, COMMAND_BYTES)) return FAULTS;
    const { words } = this;
    for (let i = 0; i < words.length; i++) words[i] = this.memory.i32[(offset >>> 2) + i]!;
    const func3 = (words[0]! >>> FUNC3_SHIFT) & 7;
    switch (words[0]! & 0x7f) {
      case OPCODE_IOTINVAL:
        return func3 > 1 || this.anySet(IOTINVAL_RESERVED) ? ILLEGAL : this.iotinval(func3 === 1);
      case OPCODE_IOFENCE:
        return func3 > 0 || this.anySet(IOFENCE_RESERVED) ? ILLEGAL : this.iofence();
      case OPCODE_IODIR:
        return func3 > 1 || this.anySet(IODIR_RESERVED) ? ILLEGAL : this.iodir(func3 === 1);
      case OPCODE_ATS:
        return func3 > 1 || this.anySet(ATS_RESERVED) ? ILLEGAL : this.ats(func3 === 1);
      default:
        return ILLEGAL;
    }
  }

  private anySet(reserved: readonly number[]): boolean {
    const { words } = this;
    return (
      ((words[0]! & reserved[0]!) |
        (words[1]! & reserved[1]!) |
        (words[2]! & reserved[2]!) |
        (words[3]! & reserved[3]!)) !==
      0
    );
  }

  /** PSCID, PID: bits 31..12. */
  private get id(): number {
    return this.words[0]! >>> ID_SHIFT;
  }

  private iotinval(gvma: boolean): number {
    const { words, target } = this;
    const hi = words[1]!;
    const gscid = (hi & HI_GV) !== 0 ? (hi >>> 12) & 0xffff : -1;
    const page = (words[3]! & 0x3fff_ffff) * 2 ** 22 + (words[2]! >>> 10);
    const at = (words[0]! & AV) !== 0 ? page * PAGE_SIZE : -1;
    if (!gvma) target.invalidateVma(gscid, (hi & HI_PSCV) !== 0 ? this.id : -1, at);
    else if ((hi & HI_PSCV) !== 0) return ILLEGAL;
    else target.invalidateGvma(gscid, at);
    return DONE;
  }

  private iofence(): number {
    const { words, target } = this;
    const wsi = (words[0]! & FENCE_WSI) !== 0;
    if (wsi && !target.wsi) return ILLEGAL;
    const owed = target.owed();
    if (owed === 'some') return WAITS;
    if (owed === 'late') {
      target.giveUpLate();
      return TIMED_OUT;
    }
    if ((words[0]! & AV) !== 0) {
      const pa = ((words[3]! & 0x3fff_ffff) * 2 ** 32 + (words[2]! >>> 0)) * 4;
      for (let i = 0; i < 4; i++) this.word[i] = words[1]! >>> (8 * i);
      const outcome = this.port.write(pa, this.word, 0, 4);
      if (outcome === DMA_WAIT) return WAITS;
      if (outcome === DMA_FAULT) return FAULTS;
    }
    if (wsi) {
      this.r.csr |= CQCSR_FENCE_W_IP;
      this.checkInterrupt();
    }
    return DONE;
  }

  private iodir(pdt: boolean): number {
    const hi = this.words[1]!;
    const valid = (hi & HI_DV) !== 0;
    const deviceId = hi >>> 8;
    if (pdt) {
      if (!valid) return ILLEGAL;
      this.target.invalidateProcess(deviceId, this.id);
      return DONE;
    }
    // PID is reserved here.
    if (this.id !== 0) return ILLEGAL;
    this.target.invalidateDevice(valid ? deviceId : -1);
    return DONE;
  }

  private ats(prgr: boolean): number {
    const { words, target } = this;
    const hi = words[1]!;
    const requester = (hi >>> 8) & 0xffff;
    const deviceId = (hi & HI_DV) !== 0 ? (hi >>> 24) * 2 ** 16 + requester : requester;
    const processId = (hi & HI_PV) !== 0 ? this.id : -1;
    const lo = words[2]!;
    const payloadHi = words[3]!;
    if (prgr)
      target.pageGroupResponse(deviceId, processId, payloadHi & 0x1ff, (payloadHi >>> 12) & 0xf);
    else target.atsInvalidate(deviceId, decodeInvalidation(lo, payloadHi, processId));
    return DONE;
  }
}

/** Bits of ATS.INVAL's payload. */
const INVAL_GLOBAL = 1 << 0;
const INVAL_SIZE = 1 << 11;

/** With S set, the ones from bit 12 on say in unary how many pages: one more than 2 to their number. */
const decodeInvalidation = (lo: number, hi: number, processId: number): AtsInvalidation => {
  const global = (lo & INVAL_GLOBAL) !== 0;
  const page = (hi >>> 0) * 2 ** 20 + (lo >>> 12);
  if ((lo & INVAL_SIZE) === 0)
    return { processId, iova: page * PAGE_SIZE, lenBytes: PAGE_SIZE, global };
  let pages = 2;
  for (let bit = 12; bit < 64; bit++) {
    const one = bit < 32 ? lo >>> bit : hi >>> (bit - 32);
    if ((one & 1) === 0) break;
    pages *= 2;
  }
  const iova = (page - (page % pages)) * PAGE_SIZE;
  return { processId, iova, lenBytes: pages * PAGE_SIZE, global };
};
