/**
 * What Vcpu.run() returns: why the guest has stopped, as a value. Each vCPU has one record of each
 * kind and fills it anew, so an exit allocates nothing and is good until the next run().
 */
import type { VcpuExitKind } from './stat.ts';

/** In every exit: instructions that this run() has retired. */
interface Exit {
  kind: VcpuExitKind;
  retired: number;
}

/** The turn is over: the budget is used up, or a trap has been dealt with. Run again at will. */
export interface BudgetExit extends Exit {
  kind: 'budget';
}

/** Nothing to do until an interrupt: run again when Vcpu.runnable. */
export interface WfiExit extends Exit {
  kind: 'wfi';
}

/** An access to a device's registers: Vcpu.completeMmio() before the next run(), for stores too. */
export interface MmioExit extends Exit {
  kind: 'mmio';
  gpa: number;
  /** 1, 2, 4 or 8, naturally aligned. */
  sizeBytes: number;
  write: boolean;
  /** What is stored, low and high word; of a narrow store only the low `sizeBytes` count. */
  valueLo: number;
  valueHi: number;
}

/** A page of a memory slot is needed: drive Vcpu.handleFault() before the next run(). */
export interface FaultExit extends Exit {
  kind: 'fault';
  gpa: number;
  write: boolean;
  exec: boolean;
}

/** An SBI call that touches guest memory: drive Vcpu.handleSbi() before the next run(). */
export interface SbiExit extends Exit {
  kind: 'sbi';
  extension: string;
  fid: number;
}

/** The vCPU is stopped (HSM): run again when another one has started it. */
export interface StopExit extends Exit {
  kind: 'stop';
}

/** The guest ended the run: reset type and reason of SRST. */
export interface ShutdownExit extends Exit {
  kind: 'shutdown';
  resetType: number;
  resetReason: number;
}

/** The vCPU's dirty ring is nearly full: harvest and resetDirtyRings(), then run again. */
export interface DirtyRingExit extends Exit {
  kind: 'dirtyRing';
}

/** The guest cannot go on. */
export interface ErrorExit extends Exit {
  kind: 'error';
  /** Of the instruction that failed. */
  pc: bigint;
  /** Exception code (Priv 15.6.1). */
  cause: number;
  /** -1 where no guest-physical address is to blame. */
  gpa: number;
  /** One line, without pc and cause. */
  message: string;
}

export type VcpuExit =
  | BudgetExit
  | WfiExit
  | MmioExit
  | FaultExit
  | SbiExit
  | StopExit
  | ShutdownExit
  | ErrorExit
  | DirtyRingExit;

/** A vCPU's records. */
export interface ExitRecords {
  budget: BudgetExit;
  wfi: WfiExit;
  mmio: MmioExit;
  fault: FaultExit;
  sbi: SbiExit;
  stop: StopExit;
  shutdown: ShutdownExit;
  error: ErrorExit;
  dirtyRing: DirtyRingExit;
}

export const createExitRecords = (): ExitRecords => ({
  budget: { kind: 'budget', retired: 0 },
  wfi: { kind: 'wfi', retired: 0 },
  mmio: { kind: 'mmio', retired: 0, gpa: 0, sizeBytes: 0, write: false, valueLo: 0, valueHi: 0 },
  fault: { kind: 'fault', retired: 0, gpa: 0, write: false, exec: false },
  sbi: { kind: 'sbi', retired: 0, extension: '', fid: 0 },
  stop: { kind: 'stop', retired: 0 },
  shutdown: { kind: 'shutdown', retired: 0, resetType: 0, resetReason: 0 },
  error: { kind: 'error', retired: 0, pc: 0n, cause: 0, gpa: -1, message: '' },
  dirtyRing: { kind: 'dirtyRing', retired: 0 },
});
