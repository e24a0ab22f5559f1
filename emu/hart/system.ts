/**
 * System instructions: environment calls, CSR access, returns, WFI, fences, and the hypervisor's loads
 * and stores. Unprivileged ISA 20240411, chapter 6 (Zicsr); Privileged ISA 1.13, 3.3, 12.2, 15.3 and
 * 15.6.1 for what is illegal and what is virtual where.
 */
import * as op from '../isa/ops.ts';
import { CSR_MIP, csrPrivilege } from '../isa/csr-names.ts';
import { PRIV_M, PRIV_S, PRIV_U } from '../mmu/regs.ts';
import { ACCESS_DONE, loadSlow, SPACE_GUEST, SPACE_GUEST_EXEC, storeSlow } from './access.ts';
import {
  CAUSE_BREAKPOINT,
  CAUSE_ILLEGAL_INSTRUCTION,
  CAUSE_MACHINE_ECALL,
  CAUSE_SUPERVISOR_ECALL,
  CAUSE_USER_ECALL,
  CAUSE_VIRTUAL_INSTRUCTION,
  CAUSE_VIRTUAL_SUPERVISOR_ECALL,
  HSTATUS_HU,
  HSTATUS_VTSR,
  HSTATUS_VTVM,
  HSTATUS_VTW,
  MIP_SEIP,
  MSTATUS_TSR,
  MSTATUS_TVM,
  MSTATUS_TW,
} from './bits.ts';
import { executeCbo, persistFence } from './cbo.ts';
import type { HartCore } from './core.ts';
import { csrAccessFault } from './csr-access.ts';
import { readCsr, writeCsr } from './csr-file.ts';
import {
  csrMaskHi,
  csrMaskLo,
  csrPlain,
  csrSlot,
  csrUnderV,
  EFFECT_NONE,
  SLOT_HSTATUS,
  SLOT_MIP,
  SLOT_MSTATUS,
} from './csr-table.ts';
import { mret, sretHs, sretVs } from './trap.ts';

/** What the interpreter does after a system instruction. */
/** On with the next one. */
export const SYSTEM_NEXT = 0;
/** An exception is set up; the instruction does not retire. */
export const SYSTEM_TRAP = 1;
/** On with the next one, after looking at keys and interrupts again. */
export const SYSTEM_RELOAD = 2;
/** pc in the hart block is the next one's already. */
export const SYSTEM_JUMP = 3;
/** Retired, and waits. */
export const SYSTEM_WAIT = 4;

/**
 * Executes a system instruction, given its record. core.retired is exact.
 * `raw` for stval is asked for only when it is needed, so it is made by the caller after SYSTEM_TRAP
 * (causes 2 and 22).
 */
export const executeSystem = (core: HartCore, record: number, imm: number): number => {
  const code = record & 1023;
  if (code >= op.OP_CSRRW && code <= op.OP_CSRRCI) return executeCsr(core, code, record, imm);
  switch (code) {
    case op.OP_ECALL:
      return trap(core, ecallCause(core));
    case op.OP_MRET:
      if (core.priv !== PRIV_M) return illegal(core);
      mret(core);
      return SYSTEM_JUMP;
    case op.OP_SRET:
      return executeSret(core);
    case op.OP_FENCE:
      if (core.memory.storeWatchers.length > 0) persistFence(core, imm);
      return SYSTEM_NEXT;
    case op.OP_FENCE_I:
      // Decoded instructions follow every store.
      return SYSTEM_NEXT;
    case op.OP_WFI:
      return executeWfi(core);
    case op.OP_EBREAK:
      core.raise(CAUSE_BREAKPOINT, 0, 0, core.virt);
      return SYSTEM_TRAP;
    case op.OP_SFENCE_VMA:
      return executeSfence(core, record);
    case op.OP_HFENCE_VVMA:
    case op.OP_HFENCE_GVMA:
      return executeHfence(core, code, record);
    case op.OP_ILLEGAL:
      return illegal(core);
    case op.OP_CBO_INVAL:
    case op.OP_CBO_CLEAN:
    case op.OP_CBO_FLUSH:
    case op.OP_CBO_ZERO:
      return executeCbo(core, code, record) === ACCESS_DONE ? SYSTEM_NEXT : SYSTEM_TRAP;
    default:
      return executeGuestAccess(core, code, record);
  }
};

const trap = (core: HartCore, cause: number): number => {
  core.raise(cause, 0, 0, false);
  return SYSTEM_TRAP;
};
const illegal = (core: HartCore): number => trap(core, CAUSE_ILLEGAL_INSTRUCTION);
const virtualInstruction = (core: HartCore): number => trap(core, CAUSE_VIRTUAL_INSTRUCTION);

const ecallCause = (core: HartCore): number => {
  if (core.priv === PRIV_U) return CAUSE_USER_ECALL;
  if (core.priv === PRIV_M) return CAUSE_MACHINE_ECALL;
  return core.virt ? CAUSE_VIRTUAL_SUPERVISOR_ECALL : CAUSE_SUPERVISOR_ECALL;
};

const statusBit = (core: HartCore, bit: number): boolean => (core.lo(SLOT_MSTATUS) & bit) !== 0;
const hstatusBit = (core: HartCore, bit: number): boolean => (core.lo(SLOT_HSTATUS) & bit) !== 0;

const executeSret = (core: HartCore): number => {
  if (core.virt) {
    if (core.priv === PRIV_U || hstatusBit(core, HSTATUS_VTSR)) return virtualInstruction(core);
    sretVs(core);
    return SYSTEM_JUMP;
  }
  if (core.priv === PRIV_U) return illegal(core);
  if (core.priv === PRIV_S && statusBit(core, MSTATUS_TSR)) return illegal(core);
  sretHs(core);
  return SYSTEM_JUMP;
};

/** Where WFI may not wait it traps at once: the "bounded time" of 3.1.6.6 is zero. */
const executeWfi = (core: HartCore): number => {
  if (core.priv !== PRIV_M) {
    if (statusBit(core, MSTATUS_TW)) return illegal(core);
    if (core.virt && (core.priv === PRIV_U || hstatusBit(core, HSTATUS_VTW)))
      return virtualInstruction(core);
    if (core.priv === PRIV_U) return illegal(core);
  }
  return SYSTEM_WAIT;
};

const executeSfence = (core: HartCore, record: number): number => {
  if (core.virt) {
    if (core.priv === PRIV_U || hstatusBit(core, HSTATUS_VTVM)) return virtualInstruction(core);
  } else {
    if (core.priv === PRIV_U) return illegal(core);
    if (core.priv === PRIV_S && statusBit(core, MSTATUS_TVM)) return illegal(core);
  }
  const rs1 = (record >>> 16) & 31;
  const rs2 = (record >>> 21) & 31;
  const R = core.i32;
  const a = core.xBase + rs1 * 2;
  const asid = rs2 === 0 ? undefined : R[core.xBase + rs2 * 2]! & 0xffff;
  if (rs1 === 0) core.mmu.sfenceVma(undefined, undefined, asid);
  else core.mmu.sfenceVma(R[a]!, R[a + 1]!, asid);
  return SYSTEM_RELOAD;
};

const executeHfence = (core: HartCore, code: number, record: number): number => {
  if (core.virt) return virtualInstruction(core);
  if (core.priv === PRIV_U) return illegal(core);
  const gvma = code === op.OP_HFENCE_GVMA;
  if (gvma && core.priv === PRIV_S && statusBit(core, MSTATUS_TVM)) return illegal(core);
  const rs1 = (record >>> 16) & 31;
  const rs2 = (record >>> 21) & 31;
  const R = core.i32;
  const lo = R[core.xBase + rs1 * 2]!;
  const hi = R[core.xBase + rs1 * 2 + 1]!;
  const id = rs2 === 0 ? undefined : R[core.xBase + rs2 * 2]!;
  if (gvma) {
    // 15.3.2: rs1 holds the guest physical address shifted right by two.
    const gpa = rs1 === 0 ? undefined : ((hi >>> 0) * 2 ** 32 + (lo >>> 0)) * 4;
    core.mmu.hfenceGvma(gpa, id === undefined ? undefined : id & 0x3fff);
  } else {
    const asid = id === undefined ? undefined : id & 0xffff;
    if (rs1 === 0) core.mmu.hfenceVvma(undefined, undefined, asid);
    else core.mmu.hfenceVvma(lo, hi, asid);
  }
  return SYSTEM_RELOAD;
};

/** Highest csrPrivilege() that the current mode may access. */
const reach = (core: HartCore): number => {
  if (core.priv === PRIV_M) return 3;
  if (core.priv === PRIV_U) return 0;
  return core.virt ? 1 : 2;
};

/** CSRRW, CSRRS, CSRRC and their immediate forms; CSRRS and CSRRC of x0 (or 0) only read. */
const executeCsr = (core: HartCore, code: number, record: number, imm: number): number => {
  const named = imm & 0xfff;
  const source = (record >>> 16) & 31;
  const replaces = code === op.OP_CSRRW || code === op.OP_CSRRWI;
  const writes = replaces || source !== 0;
  const number = core.virt ? csrUnderV[named]! : named;
  const R = core.i32;
  const d = core.xBase + ((record >>> 9) & 126);
  const immediate = code >= op.OP_CSRRWI;
  const srcLo = immediate ? source : R[core.xBase + source * 2]!;
  const srcHi = immediate ? 0 : R[core.xBase + source * 2 + 1]!;
  const sets = code === op.OP_CSRRS || code === op.OP_CSRRSI;

  // What trap handlers do all the time, without the calls: scratch, epc, cause, tval.
  if (csrPlain[number]! !== 0 && csrPrivilege(named) <= reach(core)) {
    const at = core.csrBase + csrSlot[number]! * 2;
    const lo = R[at]!;
    const hi = R[at + 1]!;
    if (writes) {
      const maskLo = csrMaskLo[number]!;
      const maskHi = csrMaskHi[number]!;
      const newLo = replaces ? srcLo : sets ? lo | srcLo : lo & ~srcLo;
      const newHi = replaces ? srcHi : sets ? hi | srcHi : hi & ~srcHi;
      R[at] = (lo & ~maskLo) | (newLo & maskLo);
      R[at + 1] = (hi & ~maskHi) | (newHi & maskHi);
    }
    R[d] = lo;
    R[d + 1] = hi;
    return SYSTEM_NEXT;
  }

  const fault = csrAccessFault(core, named, writes);
  if (fault !== 0) return trap(core, fault);
  readCsr(core, number);
  const oldLo = core.valueLo;
  const oldHi = core.valueHi;
  let effect = EFFECT_NONE;
  if (writes) {
    let lo = srcLo;
    let hi = srcHi;
    if (!replaces) {
      // 3.1.9: for the modification SEIP is the bit that software wrote, without the line.
      const base =
        number === CSR_MIP ? (oldLo & ~MIP_SEIP) | (core.lo(SLOT_MIP) & MIP_SEIP) : oldLo;
      lo = sets ? base | srcLo : base & ~srcLo;
      hi = sets ? oldHi | srcHi : oldHi & ~srcHi;
    }
    effect = writeCsr(core, number, lo, hi);
  }
  R[d] = oldLo;
  R[d + 1] = oldHi;
  return effect === EFFECT_NONE ? SYSTEM_NEXT : SYSTEM_RELOAD;
};

/** HLV, HLVX and HSV (15.3.1): from HS- and M-mode, and from U-mode where hstatus.HU lets it. */
const executeGuestAccess = (core: HartCore, code: number, record: number): number => {
  if (core.virt) return virtualInstruction(core);
  if (core.priv === PRIV_U && !hstatusBit(core, HSTATUS_HU)) return illegal(core);
  const R = core.i32;
  const a = core.xBase + ((record >>> 15) & 62);
  const b = core.xBase + ((record >>> 20) & 62);
  const vaLo = R[a]!;
  const vaHi = R[a + 1]!;
  if (code >= op.OP_HSV_B) {
    const size = 1 << (code - op.OP_HSV_B);
    const stored = storeSlow(core, vaLo, vaHi, size, R[b]!, R[b + 1]!, SPACE_GUEST);
    return stored === ACCESS_DONE ? SYSTEM_NEXT : SYSTEM_TRAP;
  }
  const size = guestLoadSize(code);
  const space = code >= op.OP_HLVX_HU ? SPACE_GUEST_EXEC : SPACE_GUEST;
  if (loadSlow(core, vaLo, vaHi, size, space) !== ACCESS_DONE) return SYSTEM_TRAP;
  const d = core.xBase + ((record >>> 9) & 126);
  const lo = core.valueLo;
  switch (code) {
    case op.OP_HLV_B:
      R[d] = (lo << 24) >> 24;
      R[d + 1] = (lo << 24) >> 31;
      break;
    case op.OP_HLV_H:
      R[d] = (lo << 16) >> 16;
      R[d + 1] = (lo << 16) >> 31;
      break;
    case op.OP_HLV_W:
      R[d] = lo;
      R[d + 1] = lo >> 31;
      break;
    default:
      R[d] = lo;
      R[d + 1] = core.valueHi;
  }
  return SYSTEM_NEXT;
};

const guestLoadSize = (code: number): number => {
  switch (code) {
    case op.OP_HLV_B:
    case op.OP_HLV_BU:
      return 1;
    case op.OP_HLV_H:
    case op.OP_HLV_HU:
    case op.OP_HLVX_HU:
      return 2;
    case op.OP_HLV_D:
      return 8;
    default:
      return 4;
  }
};
