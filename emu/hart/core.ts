/**
 * What the parts of a hart share: the machine's memory, the places of this hart's registers in it,
 * the state of the running slice and the exception on its way to a trap. Fields only, and the few
 * steps that every part needs.
 */
import type { Bus } from '../bus.ts';
import type { Clock } from '../clock.ts';
import {
  HART_BASE,
  HART_COUNTERS,
  HART_CSR,
  HART_INSTRET,
  HART_PC,
  HART_STRIDE,
  HART_X,
  TLB_BASE,
  TLB_EXEC,
  TLB_READ,
  TLB_STRIDE,
  TLB_WRITE,
} from '../layout.ts';
import type { PhysMemory } from '../memory.ts';
import { HART_COUNTER_FIRST } from '../mmu/counters.ts';
import { Mmu } from '../mmu/mmu.ts';
import { PRIV_M, type Privilege } from '../mmu/regs.ts';
import { MSTATUS_MPP, MSTATUS_MPP_SHIFT, MSTATUS_MPRV, MSTATUS_MPV_HI } from './bits.ts';
import { CodeCache } from './code-cache.ts';
import { SLOT_COUNT, SLOT_MSTATUS, slotResetHi, slotResetLo } from './csr-table.ts';

/** What a hart is put together from. */
export interface HartWiring {
  memory: PhysMemory;
  bus: Bus;
  clock: Clock;
  /** mhartid, and the number of the hart block. */
  index: number;
}

/** Loads and stores that were begun, atomics as one, HLV and HSV not counted. */
export const COUNT_ACCESSES = HART_COUNTER_FIRST;
/** Exceptions taken, in any mode. */
export const COUNT_EXCEPTIONS = HART_COUNTER_FIRST + 1;
export const COUNT_INTERRUPTS = HART_COUNTER_FIRST + 2;
/** Accesses that reached a device. */
export const COUNT_MMIO = HART_COUNTER_FIRST + 3;

export class HartCore {
  readonly index: number;
  readonly memory: PhysMemory;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly mmu: Mmu;
  readonly code: CodeCache;
  readonly i32: Int32Array;
  readonly u16: Uint16Array;
  readonly u8: Uint8Array;
  readonly f64: Float64Array;

  /* Word indexes into i32 of x0, of pc, of the CSR slots, of instret and of the TLB arrays. */
  readonly xBase: number;
  readonly pcAt: number;
  readonly csrBase: number;
  readonly instretAt: number;
  readonly blockBase: number;
  readonly readBase: number;
  readonly writeBase: number;
  readonly execBase: number;
  /** Index into f64 of the hart's counters. */
  readonly countersAt: number;

  priv: Privilege;
  virt: boolean;
  hostIsHs: boolean;
  /** An interrupt line or a register behind interrupts has changed: look before the next instruction. */
  checkInterrupts: boolean;

  /** A run() is under way; clock.now is then sliceStart + retired. */
  running: boolean;
  /** clock.now at the start of the slice. */
  sliceStart: number;
  /** Instructions of the slice retired so far; exact whenever interpret() calls out. */
  retired: number;
  /** The slice ends when this many have retired. */
  sliceLimit: number;
  /** Where interpret() looks up next: at most sliceLimit, earlier when interrupts must be looked at. */
  limit: number;

  /** Exceptions taken since `trapsAt` instructions of the slice had retired. */
  trapsInARow: number;
  trapsAt: number;
  /** The first of them: its cause, and pc of the instruction. */
  firstTrapCause: number;
  firstTrapPcLo: number;
  firstTrapPcHi: number;

  /** Physical offset of the LR reservation; 0 = none. */
  reservation: number;

  /** Where the bytes of the last misaligned access are: offsets of its parts in one page and the next. */
  firstPart: number;
  secondPart: number;

  /** Result of the last slow load, or of the last CSR read. */
  valueLo: number;
  valueHi: number;

  /** The exception on its way: set by raise() and raiseMmu(), consumed by takeException(). */
  excPending: boolean;
  excCause: number;
  excTvalLo: number;
  excTvalHi: number;
  /** tval is a guest virtual address. */
  excGva: boolean;
  /** Guest physical address of a guest-page fault, whole. */
  excGpaLo: number;
  excGpaHi: number;
  /** Pseudo-instruction for htinst or mtinst, 0 when the access was the instruction's own. */
  excTinst: number;
  /** Faulting address minus the instruction's address: not 0 in the second half of a crossing access. */
  excOffset: number;

  constructor(wiring: HartWiring) {
    const { memory, bus, clock, index } = wiring;
    this.index = index;
    this.memory = memory;
    this.bus = bus;
    this.clock = clock;
    this.mmu = new Mmu(memory, index);
    this.code = CodeCache.of(memory);
    this.i32 = memory.i32;
    this.u16 = memory.u16;
    this.u8 = memory.u8;
    this.f64 = memory.f64;
    const block = HART_BASE + index * HART_STRIDE;
    const tlb = TLB_BASE + index * TLB_STRIDE;
    this.blockBase = block >>> 2;
    this.xBase = (block + HART_X) >>> 2;
    this.pcAt = (block + HART_PC) >>> 2;
    this.csrBase = (block + HART_CSR) >>> 2;
    this.instretAt = (block + HART_INSTRET) >>> 2;
    this.readBase = (tlb + TLB_READ) >>> 2;
    this.writeBase = (tlb + TLB_WRITE) >>> 2;
    this.execBase = (tlb + TLB_EXEC) >>> 2;
    this.countersAt = (block + HART_COUNTERS) >>> 3;
    this.priv = PRIV_M;
    this.virt = false;
    this.hostIsHs = false;
    this.checkInterrupts = true;
    this.running = false;
    this.sliceStart = 0;
    this.retired = 0;
    this.sliceLimit = 0;
    this.limit = 0;
    this.trapsInARow = 0;
    this.firstTrapCause = 0;
    this.firstTrapPcLo = 0;
    this.firstTrapPcHi = 0;
    this.trapsAt = 0;
    this.reservation = 0;
    this.firstPart = 0;
    this.secondPart = 0;
    this.valueLo = 0;
    this.valueHi = 0;
    this.excPending = false;
    this.excCause = 0;
    this.excTvalLo = 0;
    this.excTvalHi = 0;
    this.excGva = false;
    this.excGpaLo = 0;
    this.excGpaHi = 0;
    this.excTinst = 0;
    this.excOffset = 0;
    for (let slot = 0; slot < SLOT_COUNT; slot++) {
      this.i32[this.csrBase + slot * 2] = slotResetLo[slot]!;
      this.i32[this.csrBase + slot * 2 + 1] = slotResetHi[slot]!;
    }
  }

  /** Low and high half of a CSR slot. */
  lo(slot: number): number {
    return this.i32[this.csrBase + slot * 2]!;
  }
  hi(slot: number): number {
    return this.i32[this.csrBase + slot * 2 + 1]!;
  }
  set(slot: number, lo: number, hi: number): void {
    this.i32[this.csrBase + slot * 2] = lo;
    this.i32[this.csrBase + slot * 2 + 1] = hi;
  }

  /** Makes clock.now exact, before a device or the time is looked at. */
  syncClock(): void {
    if (this.running) this.clock.now = this.sliceStart + this.retired;
  }

  /** Interrupts are looked at before the next instruction. */
  lookAtInterrupts(): void {
    this.checkInterrupts = true;
    this.limit = Math.min(this.limit, this.retired + 1);
  }

  /** Sets up an exception that has no guest physical address. `gva`: tval is a guest virtual address. */
  raise(cause: number, tvalLo: number, tvalHi: number, gva: boolean): void {
    this.excPending = true;
    this.excCause = cause;
    this.excTvalLo = tvalLo;
    this.excTvalHi = tvalHi;
    this.excGva = gva;
    this.excGpaLo = 0;
    this.excGpaHi = 0;
    this.excTinst = 0;
    this.excOffset = 0;
  }

  /** Sets up the exception that the MMU has just found. */
  raiseMmu(): void {
    const mmu = this.mmu;
    this.excPending = true;
    this.excCause = mmu.faultCause;
    this.excTvalLo = mmu.faultTvalLo;
    this.excTvalHi = mmu.faultTvalHi;
    this.excGva = mmu.faultGuestVa;
    this.excGpaLo = mmu.faultGpaLo;
    this.excGpaHi = mmu.faultGpaHi;
    this.excTinst = mmu.faultHtinst;
    this.excOffset = 0;
  }

  /** Are the addresses of loads and stores guest virtual ones: V=1, or MPRV with MPV (3.1.6.3)? */
  dataIsGuest(): boolean {
    if (this.virt) return true;
    const status = this.lo(SLOT_MSTATUS);
    return (
      (status & MSTATUS_MPRV) !== 0 &&
      (status & MSTATUS_MPP) !== PRIV_M << MSTATUS_MPP_SHIFT &&
      (this.hi(SLOT_MSTATUS) & MSTATUS_MPV_HI) !== 0
    );
  }

  /** Puts another privilege and V into force, for the MMU too. */
  setMode(priv: Privilege, virt: boolean): void {
    this.priv = priv;
    this.virt = virt;
    const regs = this.mmu.regs;
    regs.priv = priv;
    regs.virt = virt;
    this.mmu.contextChanged();
  }
}
