/**
 * Whether a CSR instruction may access a CSR: illegal instruction, virtual instruction, or neither.
 * Privileged ISA 1.13, 2.1, 3.1.6.6 (TVM), 3.1.11 (counter enables), 15.6.1 (virtual-instruction
 * exceptions) and Sstc.
 */
import { CSR_STIMECMP, csrPrivilege, csrReadOnly } from '../isa/csr-names.ts';
import { PRIV_M, PRIV_S, PRIV_U } from '../mmu/regs.ts';
import {
  CAUSE_ILLEGAL_INSTRUCTION,
  CAUSE_VIRTUAL_INSTRUCTION,
  COUNTEREN_TM,
  ENVCFG_STCE_HI,
  HSTATUS_VTVM,
  MSTATUS_TVM,
} from './bits.ts';
import type { HartCore } from './core.ts';
import {
  CSR_ABSENT,
  csrGuard,
  csrKind,
  GUARD_COUNTER,
  GUARD_HGATP,
  GUARD_NONE,
  GUARD_SATP,
  SLOT_HCOUNTEREN,
  SLOT_HENVCFG,
  SLOT_HSTATUS,
  SLOT_MCOUNTEREN,
  SLOT_MENVCFG,
  SLOT_MSTATUS,
  SLOT_SCOUNTEREN,
} from './csr-table.ts';

const ALLOWED = 0;

/** Exception code that an access in the current mode raises, or 0. `number` is as the instruction has it. */
export const csrAccessFault = (core: HartCore, number: number, write: boolean): number => {
  if (csrKind[number]! === CSR_ABSENT) return CAUSE_ILLEGAL_INSTRUCTION;
  if (write && csrReadOnly(number)) return CAUSE_ILLEGAL_INSTRUCTION;
  if (core.priv === PRIV_M) return ALLOWED;
  const needs = csrPrivilege(number);
  if (needs === 3) return CAUSE_ILLEGAL_INSTRUCTION;
  const guard = csrGuard[number]!;
  if (guard !== GUARD_NONE) return guardFault(core, number, needs, guard);
  if (core.virt) return reachedUnderV(core, needs) ? ALLOWED : CAUSE_VIRTUAL_INSTRUCTION;
  return needs === 0 || core.priv === PRIV_S ? ALLOWED : CAUSE_ILLEGAL_INSTRUCTION;
};

/** VS-mode reaches supervisor CSRs, VU-mode only unprivileged ones. */
const reachedUnderV = (core: HartCore, needs: number): boolean =>
  needs === 0 || (needs === 1 && core.priv === PRIV_S);

const guardFault = (core: HartCore, number: number, needs: number, guard: number): number => {
  if (guard === GUARD_COUNTER) return counterFault(core, 1 << (number & 31));
  if (!core.virt && core.priv === PRIV_U) return CAUSE_ILLEGAL_INSTRUCTION;
  if (guard === GUARD_SATP || guard === GUARD_HGATP) {
    const tvm = (core.lo(SLOT_MSTATUS) & MSTATUS_TVM) !== 0;
    if (!core.virt) return tvm ? CAUSE_ILLEGAL_INSTRUCTION : ALLOWED;
    // "assuming TVM=0": under V its setting does not turn this into an illegal instruction.
    const vtvm = (core.lo(SLOT_HSTATUS) & HSTATUS_VTVM) !== 0;
    return reachedUnderV(core, needs) && !vtvm ? ALLOWED : CAUSE_VIRTUAL_INSTRUCTION;
  }
  // stimecmp, vstimecmp
  const hs =
    (core.lo(SLOT_MCOUNTEREN) & COUNTEREN_TM) !== 0 &&
    (core.hi(SLOT_MENVCFG) & ENVCFG_STCE_HI) !== 0;
  if (!hs) return CAUSE_ILLEGAL_INSTRUCTION;
  if (!core.virt) return ALLOWED;
  const vs =
    (core.lo(SLOT_HCOUNTEREN) & COUNTEREN_TM) !== 0 &&
    (core.hi(SLOT_HENVCFG) & ENVCFG_STCE_HI) !== 0;
  return number === CSR_STIMECMP && core.priv === PRIV_S && vs
    ? ALLOWED
    : CAUSE_VIRTUAL_INSTRUCTION;
};

const counterFault = (core: HartCore, bit: number): number => {
  if ((core.lo(SLOT_MCOUNTEREN) & bit) === 0) return CAUSE_ILLEGAL_INSTRUCTION;
  if (core.virt && (core.lo(SLOT_HCOUNTEREN) & bit) === 0) return CAUSE_VIRTUAL_INSTRUCTION;
  if (core.priv === PRIV_U && (core.lo(SLOT_SCOUNTEREN) & bit) === 0)
    return core.virt ? CAUSE_VIRTUAL_INSTRUCTION : CAUSE_ILLEGAL_INSTRUCTION;
  return ALLOWED;
};
