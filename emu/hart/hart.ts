/**
 * A hart: RV64IMAC with Zba, Zbb, Zbs, Sstc and the H extension, run by an interpreter.
 *
 * Unprivileged ISA 20240411 and Privileged ISA 1.13. Registers and CSRs live in the hart block of
 * the machine's memory (emu/layout.ts); this class is the door to them. Left out: F and D, vectors,
 * debug mode, and the effect of PMP (pmpcfg and pmpaddr are storage).
 */
import type { Bus } from '../bus.ts';
import type { Clock } from '../clock.ts';
import type { PhysMemory } from '../memory.ts';
import type { Mmu } from '../mmu/mmu.ts';

/** run() has retired its whole budget. */
export const EXIT_BUDGET = 0;
/** The hart waits (WFI, retired) and no enabled interrupt is pending. */
export const EXIT_WFI = 1;
/** A trap was taken to HS-mode, which TypeScript plays (hostIsHs). */
export const EXIT_HOST_TRAP = 2;

/** Privilege modes, as mstatus.MPP encodes them; V apart. */
export const PRV_U = 0;
export const PRV_S = 1;
export const PRV_M = 3;
export type Privilege = typeof PRV_U | typeof PRV_S | typeof PRV_M;

/** What a hart is put together from. */
export interface HartWiring {
  memory: PhysMemory;
  bus: Bus;
  clock: Clock;
  /** mhartid, and the number of the hart block. */
  index: number;
}

/** What is saved of a hart beside its block in the memory. */
export interface HartState {
  priv: Privilege;
  virt: boolean;
  hostIsHs: boolean;
}

export declare class Hart {
  readonly index: number;
  readonly mmu: Mmu;
  hostIsHs: boolean;
  /** Instructions that the last (or the running) run() has retired. */
  sliceRetired: number;
  constructor(wiring: HartWiring);
  /** Current privilege and V; set by setMode. */
  readonly priv: Privilege;
  readonly virt: boolean;
  /** Back to reset: M-mode, all CSRs at their reset values, pc as given. */
  reset(pc: bigint): void;
  run(budget: number): number;
  /** The running slice ends no later than machine time `when`. */
  endSliceAt(when: number): void;
  setPending(mipBit: number, level: boolean): void;
  readCsr(csr: number): bigint;
  writeCsr(csr: number, value: bigint): void;
  csrLo(csr: number): number;
  csrHi(csr: number): number;
  writeCsrParts(csr: number, lo: number, hi: number): void;
  x(reg: number): bigint;
  setX(reg: number, value: bigint): void;
  setXParts(reg: number, lo: number, hi: number): void;
  xLo(reg: number): number;
  xHi(reg: number): number;
  readonly pc: bigint;
  readonly pcLo: number;
  readonly pcHi: number;
  setPc(pc: bigint): void;
  setPcParts(lo: number, hi: number): void;
  setMode(priv: Privilege, virt: boolean): void;
  /** An SRET as HS-mode software would execute it at this point. */
  hostSret(): void;
  /** Is an interrupt pending that WFI would wake up for (mip & mie, or the VS and HS equivalents)? */
  readonly interruptPending: boolean;
  save(): HartState;
  restore(state: HartState): void;
}
