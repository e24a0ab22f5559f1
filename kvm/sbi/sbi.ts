/**
 * The SBI that a guest in VS-mode calls: numbers, the calling convention, and what an extension is.
 *
 * RISC-V SBI 2.0, chapter 3 (binary encoding). The hypervisor plays the firmware. One extension a
 * file; kvm/sbi/table.ts lists them. Left out: PMU, SUSP, CPPC, NACL, STA, FWFT, SSE.
 */
import type { Hart } from '#emu';
import type { Path } from '#mm/secondary';
import type { Kvm, VcpuState, Vm } from '../vm.ts';

export const SBI_SUCCESS = 0;
export const SBI_ERR_FAILED = -1;
export const SBI_ERR_NOT_SUPPORTED = -2;
export const SBI_ERR_INVALID_PARAM = -3;
export const SBI_ERR_DENIED = -4;
export const SBI_ERR_INVALID_ADDRESS = -5;
export const SBI_ERR_ALREADY_AVAILABLE = -6;

/** Extension IDs: the letters of their names. */
export const SBI_EXT_LEGACY_FIRST = 0x00;
export const SBI_EXT_LEGACY_LAST = 0x08;
export const SBI_EXT_BASE = 0x10;
export const SBI_EXT_TIME = 0x5449_4d45;
export const SBI_EXT_IPI = 0x0073_5049;
export const SBI_EXT_RFENCE = 0x5246_4e43;
export const SBI_EXT_HSM = 0x0048_534d;
export const SBI_EXT_SRST = 0x5352_5354;
export const SBI_EXT_DBCN = 0x4442_434e;

/** Registers of the convention. */
export const REG_A0 = 10;
export const REG_A1 = 11;
export const REG_A2 = 12;
export const REG_A3 = 13;
export const REG_A4 = 14;
export const REG_A6 = 16;
export const REG_A7 = 17;

/** What became of a call. */
export const SBI_DONE = 0; // `ret` holds what the guest gets
export const SBI_NEEDS_PATH = 1; // the extension's `path` has to be driven
export const SBI_WAIT = 2; // done, and the vCPU waits for an interrupt
export const SBI_STOP = 3; // the vCPU has stopped; nothing is returned
export const SBI_SHUTDOWN = 4; // the VM ends; nothing is returned
export const SBI_RESTART = 5; // memory must be faulted in at `ret.gpa`, then the ECALL runs again
export const SBI_REDIRECT = 6; // the guest gets exception `ret.cause`, with `ret.value` as stval
export type SbiOutcome =
  | typeof SBI_DONE
  | typeof SBI_NEEDS_PATH
  | typeof SBI_WAIT
  | typeof SBI_STOP
  | typeof SBI_SHUTDOWN
  | typeof SBI_RESTART
  | typeof SBI_REDIRECT;

/** struct sbiret, and what goes with the outcomes that return none. */
export interface SbiRet {
  /** a0: SBI_SUCCESS or SBI_ERR_*; of a legacy call, its result. */
  error: number;
  /** a1. */
  value: bigint;
  /** Legacy: a1 stays as it is. */
  a0Only: boolean;
  gpa: number;
  cause: number;
  /** SBI_SHUTDOWN: reset type and reason (SRST). */
  resetType: number;
  resetReason: number;
}

export const createSbiRet = (): SbiRet => ({
  error: 0,
  value: 0n,
  a0Only: false,
  gpa: 0,
  cause: 0,
  resetType: 0,
  resetReason: 0,
});

/** The debug console's other end. */
export interface GuestConsole {
  put(byte: number): void;
  /** Next byte, or -1 when there is none. */
  get(): number;
}

/** What an extension sees of the vCPU that called. */
export interface SbiCaller {
  readonly kvm: Kvm;
  readonly vm: Vm;
  readonly state: VcpuState;
  readonly hart: Hart;
  readonly console: GuestConsole;
}

export interface SbiExtension {
  name: string;
  /** Extension IDs it answers to, first and last. */
  firstEid: number;
  lastEid: number;
  /** Does the call, or says what else is needed. `ret` comes in cleared. Never yields. */
  call(caller: SbiCaller, eid: number, fid: number, ret: SbiRet): SbiOutcome;
  /** The rest of a call that returned SBI_NEEDS_PATH. */
  path?(caller: SbiCaller, fid: number, ret: SbiRet): Path<void>;
}

/** Ends a call with an error. */
export const sbiError = (ret: SbiRet, error: number): SbiOutcome => {
  ret.error = error;
  return SBI_DONE;
};

/** Ends a call with a value. */
export const sbiValue = (ret: SbiRet, value: bigint): SbiOutcome => {
  ret.value = value;
  return SBI_DONE;
};

/** hart_mask_base that stands for every hart. */
const ALL_HARTS = 0xffff_ffff_ffff_ffffn;

/** Register as an unsigned 64-bit number. */
export const argOf = (caller: SbiCaller, reg: number): bigint =>
  BigInt.asUintN(64, caller.hart.x(reg));

/**
 * The vCPUs of a hart list (SBI 3.1): mask in a0, base in a1.
 * @returns their states, or undefined when one of them does not exist (SBI_ERR_INVALID_PARAM)
 */
export const hartList = (caller: SbiCaller): VcpuState[] | undefined => {
  const base = argOf(caller, REG_A1);
  if (base === ALL_HARTS) return [...caller.vm.vcpus];
  return hartsOfMask(caller, argOf(caller, REG_A0), base);
};

/** The vCPUs whose bits are set in `mask`, bit 0 being hart `base`. */
export const hartsOfMask = (
  caller: SbiCaller,
  mask: bigint,
  base: bigint,
): VcpuState[] | undefined => {
  const chosen: VcpuState[] = [];
  const nrVcpus = BigInt(caller.vm.vcpus.length);
  for (let bit = 0n; mask >> bit !== 0n; bit++) {
    if (((mask >> bit) & 1n) === 0n) continue;
    const vcpu = base + bit < nrVcpus ? caller.vm.vcpus[Number(base + bit)] : undefined;
    if (vcpu === undefined) return undefined;
    chosen.push(vcpu);
  }
  return chosen;
};

/** The hart a vCPU runs on. */
export const hartOf = (caller: SbiCaller, vcpu: VcpuState): Hart => {
  const hart = caller.kvm.harts[vcpu.hartIndex];
  if (hart === undefined) throw new Error(`vcpu ${vcpu.id}: no hart ${vcpu.hartIndex}`);
  return hart;
};
