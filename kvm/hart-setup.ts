/**
 * How a hart is set up to run a guest: what firmware does in M-mode, what the hypervisor does in
 * HS-mode, and the reset state of a vCPU. Privileged ISA 1.13, 3.1 and 15.2; SBI 2.0, 9.1 for the
 * state at start. Compare arch/riscv/kvm/vcpu.c and kvm_arch_vcpu_load().
 */
import {
  ATP_MODE_SV39,
  CSR_HCOUNTEREN,
  CSR_HEDELEG,
  CSR_HENVCFG,
  CSR_HGATP,
  CSR_HIDELEG,
  CSR_HIE,
  CSR_HSTATUS,
  CSR_HTIMEDELTA,
  CSR_HVIP,
  CSR_MCOUNTEREN,
  CSR_MEDELEG,
  CSR_MENVCFG,
  CSR_MIDELEG,
  CSR_SATP,
  CSR_SCOUNTEREN,
  CSR_SENVCFG,
  CSR_SEPC,
  CSR_SIE,
  CSR_SSTATUS,
  CSR_STVEC,
  CSR_VSATP,
  CSR_VSCAUSE,
  CSR_VSEPC,
  CSR_VSIE,
  CSR_VSSCRATCH,
  CSR_VSSTATUS,
  CSR_VSTIMECMP,
  CSR_VSTVAL,
  CSR_VSTVEC,
  type Hart,
  PRIV_S,
} from '#emu';
import { gstageRootPfn } from './gstage.ts';
import { REG_A0, REG_A1 } from './sbi/sbi.ts';
import {
  EXC_BREAKPOINT,
  EXC_INST_MISALIGNED,
  EXC_INST_PAGE_FAULT,
  EXC_LOAD_PAGE_FAULT,
  EXC_STORE_PAGE_FAULT,
  EXC_SYSCALL,
} from './trap.ts';
import type { Vm } from './vm.ts';

/** Every exception that a guest or the hypervisor can raise goes to HS-mode; ECALL from HS is firmware's. */
const MEDELEG_ALL = 0xf8_b5ffn;
/** SSIP, STIP, SEIP; the VS-level bits are read-only one. */
const MIDELEG_S = 0x222n;
/** cycle, time, instret. */
const COUNTERS = 0b111n;
const ENVCFG_STCE = 1n << 63n;
const ENVCFG_ADUE = 1n << 61n;
/** CBIE, CBCFE, CBZE: cache-block operations; CBO.INVAL flushes, so that no older value comes to light. */
const ENVCFG_CBO = (1n << 4n) | (1n << 6n) | (1n << 7n);

/**
 * What the guest handles by itself. Illegal instructions are not among it, so that they are seen
 * and counted, and a guest that does nothing else is found out. Compare KVM_HEDELEG_DEFAULT.
 */
export const HEDELEG =
  (1n << BigInt(EXC_INST_MISALIGNED)) |
  (1n << BigInt(EXC_BREAKPOINT)) |
  (1n << BigInt(EXC_SYSCALL)) |
  (1n << BigInt(EXC_INST_PAGE_FAULT)) |
  (1n << BigInt(EXC_LOAD_PAGE_FAULT)) |
  (1n << BigInt(EXC_STORE_PAGE_FAULT));

/** VSSIP, VSTIP, VSEIP. */
export const HIDELEG = (1n << 2n) | (1n << 6n) | (1n << 10n);

const HSTATUS_SPV = 1n << 7n;
const HSTATUS_SPVP = 1n << 8n;
/** WFI in VS-mode traps: the hypervisor lets the host sleep instead. */
const HSTATUS_VTW = 1n << 21n;
const HSTATUS_VSXL_64 = 2n << 32n;

const SSTATUS_SPIE = 1n << 5n;
const SSTATUS_SPP = 1n << 8n;
const SSTATUS_UXL_64 = 2n << 32n;

const NEVER = 0xffff_ffff_ffff_ffffn;

/** Firmware's part: traps to HS-mode, counters readable, Sstc, Svadu, Zicbom and Zicboz allowed below M-mode. */
const setupMachineMode = (hart: Hart): void => {
  hart.writeCsr(CSR_MEDELEG, MEDELEG_ALL);
  hart.writeCsr(CSR_MIDELEG, MIDELEG_S);
  hart.writeCsr(CSR_MCOUNTEREN, COUNTERS);
  hart.writeCsr(CSR_MENVCFG, ENVCFG_STCE | ENVCFG_ADUE | ENVCFG_CBO);
  hart.setMode(PRIV_S, false);
  // HS-mode is the hypervisor in TypeScript: no interrupt of its own, no instruction fetched.
  hart.hostIsHs = true;
  hart.writeCsr(CSR_SIE, 0n);
  hart.writeCsr(CSR_STVEC, 0n);
  hart.writeCsr(CSR_SATP, 0n);
};

/** The hypervisor's part: what is delegated to the guest, and its second stage. */
const setupHypervisor = (hart: Hart, vm: Vm): void => {
  hart.writeCsr(CSR_HEDELEG, HEDELEG);
  hart.writeCsr(CSR_HIDELEG, HIDELEG);
  hart.writeCsr(CSR_HIE, 0n);
  hart.writeCsr(CSR_HVIP, 0n);
  hart.writeCsr(CSR_HCOUNTEREN, COUNTERS);
  hart.writeCsr(CSR_HENVCFG, ENVCFG_STCE | ENVCFG_ADUE | ENVCFG_CBO);
  hart.writeCsr(CSR_HTIMEDELTA, vm.timeDelta);
  // hgatp.MODE counts as satp's: Sv39x4 has Sv39's number.
  hart.writeCsr(
    CSR_HGATP,
    (BigInt(ATP_MODE_SV39) << 60n) | (BigInt(vm.vmid) << 44n) | BigInt(gstageRootPfn(vm.gstage)),
  );
  hart.writeCsr(CSR_HSTATUS, HSTATUS_VSXL_64 | HSTATUS_VTW | HSTATUS_SPVP | HSTATUS_SPV);
};

/**
 * A hart about to start a vCPU, by an SRET: VS-mode at `pc` with translation off, interrupts off,
 * hartid in a0 and `opaque` in a1, all else zero.
 */
export const startVcpuOnHart = (
  hart: Hart,
  vm: Vm,
  vcpuId: number,
  pc: bigint,
  opaque: bigint,
): void => {
  setupMachineMode(hart);
  setupHypervisor(hart, vm);
  for (const csr of [CSR_VSIE, CSR_VSTVEC, CSR_VSSCRATCH, CSR_VSEPC, CSR_VSCAUSE, CSR_VSTVAL])
    hart.writeCsr(csr, 0n);
  hart.writeCsr(CSR_VSATP, 0n);
  hart.writeCsr(CSR_VSSTATUS, SSTATUS_UXL_64);
  hart.writeCsr(CSR_VSTIMECMP, NEVER);
  hart.writeCsr(CSR_SCOUNTEREN, COUNTERS);
  hart.writeCsr(CSR_SENVCFG, 0n);
  for (let reg = 1; reg < 32; reg++) hart.setX(reg, 0n);
  hart.setX(REG_A0, BigInt(vcpuId));
  hart.setX(REG_A1, opaque);
  hart.writeCsr(CSR_SSTATUS, SSTATUS_UXL_64 | SSTATUS_SPP | SSTATUS_SPIE);
  hart.writeCsr(CSR_SEPC, pc);
};
