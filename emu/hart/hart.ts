/**
 * A hart: RV64IMAC with Zba, Zbb, Zbs, Zicbom, Zicboz, Zicntr, Sstc, Svadu and the H extension, run by an interpreter.
 *
 * Unprivileged ISA 20240411 and Privileged ISA 1.13. Registers and CSRs live in the hart block of the
 * machine's memory (emu/layout.ts); this class is the door to them. Left out: F and D, vectors,
 * debug mode, and the effect of PMP (pmpcfg and pmpaddr are storage).
 */
import type { Bus } from '../bus.ts';
import type { Clock } from '../clock.ts';
import { HART_X_DISCARD } from '../layout.ts';
import { NO_HART, type PhysMemory } from '../memory.ts';
import type { Mmu, MmuState } from '../mmu/mmu.ts';
import type { Privilege } from '../mmu/regs.ts';
import type { CodeCacheState } from './code-cache.ts';
import {
  COUNT_ACCESSES,
  COUNT_EXCEPTIONS,
  COUNT_INTERRUPTS,
  COUNT_MMIO,
  HartCore,
  type HartWiring,
} from './core.ts';
import {
  CSR_ABSENT,
  csrKind,
  SLOT_COUNT,
  SLOT_MIP,
  slotResetHi,
  slotResetLo,
} from './csr-table.ts';
import { readCsr, translationChanged, writeCsr } from './csr-file.ts';
import { interpret } from './interpreter.ts';
import { wakesUp } from './interrupts.ts';
import { armTimers, hartTarget } from './timers.ts';
import { sretHs } from './trap.ts';

export { EXIT_BUDGET, EXIT_HOST_TRAP, EXIT_TRAP_LOOP, EXIT_WFI } from './exit.ts';

/** What is saved of a hart beside its block in the memory. */
export interface HartState {
  priv: Privilege;
  virt: boolean;
  hostIsHs: boolean;
  mmu: MmuState;
  /** The decoded pages of the machine: of hart 0 alone. */
  code: CodeCacheState | undefined;
}

/** Counters of a hart beside those of its MMU. */
export interface HartCounts {
  /** Loads, stores and atomics begun. Those that missed the TLB are the MMU's tlbMissRead and tlbMissWrite. */
  accesses: number;
  exceptions: number;
  interrupts: number;
  /** Accesses that reached a device. */
  mmio: number;
}

/** Halves of a 64-bit pattern, and back. */
const lowHalf = (value: bigint): number => Number(BigInt.asIntN(32, value));
const highHalf = (value: bigint): number => Number(BigInt.asIntN(32, value >> 32n));
const joined = (lo: number, hi: number): bigint => (BigInt(hi >>> 0) << 32n) | BigInt(lo >>> 0);

export class Hart {
  readonly index: number;
  readonly memory: PhysMemory;
  readonly bus: Bus;
  readonly clock: Clock;
  readonly mmu: Mmu;
  /** Instructions that the last run() has retired. */
  sliceRetired: number;
  private readonly core: HartCore;

  constructor(wiring: HartWiring) {
    this.index = wiring.index;
    this.memory = wiring.memory;
    this.bus = wiring.bus;
    this.clock = wiring.clock;
    this.core = new HartCore(wiring);
    this.mmu = this.core.mmu;
    this.sliceRetired = 0;
    translationChanged(this.core);
    // The only event is a timer's: what it says is that mip has to be looked at.
    wiring.clock.receive(hartTarget(wiring.index), () => {
      this.core.lookAtInterrupts();
      armTimers(this.core);
    });
  }

  /**
   * HS-mode is played by TypeScript: run() returns EXIT_HOST_TRAP right after a trap has been taken to
   * HS-mode (CSRs written, V=0, S-mode, pc from stvec), where it would fetch the handler otherwise.
   */
  get hostIsHs(): boolean {
    return this.core.hostIsHs;
  }
  set hostIsHs(played: boolean) {
    this.core.hostIsHs = played;
  }

  /** Current privilege (PRIV_U, PRIV_S, PRIV_M) and V. */
  get priv(): Privilege {
    return this.core.priv;
  }
  get virt(): boolean {
    return this.core.virt;
  }

  /** Back to reset: M-mode, registers zero, CSRs at their reset values, pc as given; lines keep their level. */
  reset(pc: bigint): void {
    const core = this.core;
    const lines = core.hi(SLOT_MIP);
    for (let slot = 0; slot < SLOT_COUNT; slot++)
      core.set(slot, slotResetLo[slot]!, slotResetHi[slot]!);
    core.set(SLOT_MIP, 0, lines);
    for (let reg = 0; reg < HART_X_DISCARD; reg++) {
      core.i32[core.xBase + reg * 2] = 0;
      core.i32[core.xBase + reg * 2 + 1] = 0;
    }
    core.i32[core.instretAt] = 0;
    core.i32[core.instretAt + 1] = 0;
    core.reservation = 0;
    core.priv = 3;
    core.virt = false;
    translationChanged(core);
    this.mmu.flushAll();
    armTimers(core);
    core.checkInterrupts = true;
    this.setPc(pc);
  }

  /**
   * Retires up to `budget` instructions, exactly that many unless an exit comes first. An instruction
   * that traps does not retire; taking the trap costs nothing. Interrupts are looked at on entry and
   * after every instruction that can change them. LR reservations do not outlive the call.
   *
   * On return clock.now is its value at the call plus sliceRetired.
   * Returns EXIT_BUDGET, EXIT_WFI, EXIT_HOST_TRAP or EXIT_TRAP_LOOP.
   */
  run(budget: number): number {
    const core = this.core;
    core.sliceStart = this.clock.now;
    core.retired = 0;
    core.sliceLimit = budget;
    core.limit = budget;
    core.running = true;
    core.trapsInARow = 0;
    core.trapsAt = 0;
    core.reservation = 0;
    core.checkInterrupts = true;
    core.memory.hart = core.index;
    const exit = interpret(core);
    core.memory.hart = NO_HART;
    const retired = core.retired;
    core.syncClock();
    core.running = false;
    core.retired = 0;
    this.sliceRetired = retired;
    const lo = (core.i32[core.instretAt]! >>> 0) + retired;
    core.i32[core.instretAt] = lo;
    if (lo >= 2 ** 32) core.i32[core.instretAt + 1]!++;
    return exit;
  }

  /** After EXIT_TRAP_LOOP: what the first exception of the row was, and the pc it came from. */
  get firstTrap(): { cause: number; pc: bigint } {
    const { firstTrapCause, firstTrapPcLo, firstTrapPcHi } = this.core;
    return { cause: firstTrapCause, pc: joined(firstTrapPcLo, firstTrapPcHi) };
  }

  /**
   * The running slice ends when machine time is `when`, or after the instruction under way if that is
   * later. Does nothing between slices. For clock.onEarlier.
   */
  endSliceAt(when: number): void {
    const core = this.core;
    if (!core.running) return;
    const limit = Math.max(core.retired + 1, when - core.sliceStart);
    core.sliceLimit = Math.min(core.sliceLimit, limit);
    core.limit = Math.min(core.limit, core.sliceLimit);
  }

  /** Level of an interrupt line into mip: MIP_MSIP, MIP_MTIP, MIP_MEIP or MIP_SEIP. */
  setPending(mipBit: number, level: boolean): void {
    const core = this.core;
    const lines = core.hi(SLOT_MIP);
    core.set(SLOT_MIP, core.lo(SLOT_MIP), level ? lines | mipBit : lines & ~mipBit);
    core.lookAtInterrupts();
  }

  /** Is anything pending that mie enables: would WFI go on at once (Priv 3.3.3)? */
  get interruptPending(): boolean {
    return wakesUp(this.core);
  }

  /**
   * Value of a CSR, whatever the privilege; the number means what it says, also with V=1.
   * @throws RangeError when this hart has no such CSR
   */
  readCsr(csr: number): bigint {
    this.readInto(csr);
    return joined(this.core.valueLo, this.core.valueHi);
  }
  csrLo(csr: number): number {
    this.readInto(csr);
    return this.core.valueLo;
  }
  csrHi(csr: number): number {
    this.readInto(csr);
    return this.core.valueHi;
  }

  /** Writes a CSR as M-mode would, with all that follows from it. @throws RangeError as readCsr() */
  writeCsr(csr: number, value: bigint): void {
    this.writeCsrParts(csr, lowHalf(value), highHalf(value));
  }
  writeCsrParts(csr: number, lo: number, hi: number): void {
    this.checkCsr(csr);
    writeCsr(this.core, csr, lo, hi);
  }

  /** Integer registers x0..x31, unsigned. */
  x(reg: number): bigint {
    return joined(this.xLo(reg), this.xHi(reg));
  }
  xLo(reg: number): number {
    return this.core.i32[this.core.xBase + reg * 2]!;
  }
  xHi(reg: number): number {
    return this.core.i32[this.core.xBase + reg * 2 + 1]!;
  }
  setX(reg: number, value: bigint): void {
    this.setXParts(reg, lowHalf(value), highHalf(value));
  }
  /** Writing x0 does nothing. */
  setXParts(reg: number, lo: number, hi: number): void {
    if (reg === 0) return;
    this.core.i32[this.core.xBase + reg * 2] = lo;
    this.core.i32[this.core.xBase + reg * 2 + 1] = hi;
  }

  get pc(): bigint {
    return joined(this.pcLo, this.pcHi);
  }
  get pcLo(): number {
    return this.core.i32[this.core.pcAt]!;
  }
  get pcHi(): number {
    return this.core.i32[this.core.pcAt + 1]!;
  }
  setPc(pc: bigint): void {
    this.setPcParts(lowHalf(pc), highHalf(pc));
  }
  setPcParts(lo: number, hi: number): void {
    this.core.i32[this.core.pcAt] = lo & ~1;
    this.core.i32[this.core.pcAt + 1] = hi;
  }

  /** Puts the hart into a mode, without any of a trap's or a return's other effects. */
  setMode(priv: Privilege, virt: boolean): void {
    this.core.setMode(priv, virt);
    this.core.checkInterrupts = true;
  }

  /** An SRET as HS-mode software would execute it now: enters the guest when hstatus.SPV is set. */
  hostSret(): void {
    sretHs(this.core);
  }

  /** Instructions retired since reset, or as minstret was written. Exact below 2^53, between slices. */
  get instret(): number {
    const core = this.core;
    return (core.i32[core.instretAt + 1]! >>> 0) * 2 ** 32 + (core.i32[core.instretAt]! >>> 0);
  }

  /** Loads, stores and atomics begun. */
  get accesses(): number {
    return this.memory.f64[this.core.countersAt + COUNT_ACCESSES]!;
  }

  /** Counters beside mmu.counts(). */
  counts(): HartCounts {
    const f64 = this.memory.f64;
    const at = this.core.countersAt;
    return {
      accesses: this.accesses,
      exceptions: f64[at + COUNT_EXCEPTIONS]!,
      interrupts: f64[at + COUNT_INTERRUPTS]!,
      mmio: f64[at + COUNT_MMIO]!,
    };
  }

  save(): HartState {
    return {
      priv: this.core.priv,
      virt: this.core.virt,
      hostIsHs: this.core.hostIsHs,
      mmu: this.mmu.save(),
      code: this.index === 0 ? this.core.code.save() : undefined,
    };
  }

  /** Goes with the bytes of the hart block and the TLB region, which are in place already. */
  restore(state: HartState): void {
    this.core.priv = state.priv;
    this.core.virt = state.virt;
    this.core.hostIsHs = state.hostIsHs;
    this.core.checkInterrupts = true;
    this.mmu.restore(state.mmu);
    if (state.code !== undefined) this.core.code.restore(state.code);
  }

  private readInto(csr: number): void {
    this.checkCsr(csr);
    readCsr(this.core, csr);
  }

  private checkCsr(csr: number): void {
    if (csrKind[csr] === undefined || csrKind[csr] === CSR_ABSENT)
      throw new RangeError(`no CSR 0x${csr.toString(16)}`);
  }
}
