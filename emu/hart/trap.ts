/**
 * Taking traps and returning from them: Privileged ISA 1.13, 3.1.6.1, 3.1.7 to 3.1.9, 3.3.2, 12.1 and,
 * for V, htval, htinst and mtinst, 15.6.
 */
import { PRIV_M, PRIV_S, PRIV_U, type Privilege } from '../mmu/regs.ts';
import {
  CAUSE_BREAKPOINT,
  CAUSE_INTERRUPT_HI,
  HSTATUS_GVA,
  HSTATUS_SPV,
  HSTATUS_SPVP,
  MSTATUS_GVA_HI,
  MSTATUS_MIE,
  MSTATUS_MPIE,
  MSTATUS_MPP,
  MSTATUS_MPP_SHIFT,
  MSTATUS_MPRV,
  MSTATUS_MPV_HI,
  MSTATUS_SIE,
  MSTATUS_SPIE,
  MSTATUS_SPP,
} from './bits.ts';
import { COUNT_EXCEPTIONS, COUNT_INTERRUPTS, type HartCore } from './core.ts';
import { asPrivilege } from './csr-file.ts';
import {
  SLOT_HEDELEG,
  SLOT_HSTATUS,
  SLOT_HTINST,
  SLOT_HTVAL,
  SLOT_MCAUSE,
  SLOT_MEDELEG,
  SLOT_MEPC,
  SLOT_MSTATUS,
  SLOT_MTINST,
  SLOT_MTVAL,
  SLOT_MTVAL2,
  SLOT_MTVEC,
  SLOT_SCAUSE,
  SLOT_SEPC,
  SLOT_STVAL,
  SLOT_STVEC,
  SLOT_VSCAUSE,
  SLOT_VSEPC,
  SLOT_VSSTATUS,
  SLOT_VSTVAL,
  SLOT_VSTVEC,
} from './csr-table.ts';
import { interruptToTake, TO_HS, TO_M, TO_VS } from './interrupts.ts';
import { transformedInstruction } from './transform.ts';

/**
 * Takes the exception that core.raise() or raiseMmu() has set up, for the instruction at pc in the
 * hart block; `record` is its first word, 0 when it could not be fetched.
 * Returns TO_M, TO_HS or TO_VS.
 */
export const takeException = (core: HartCore, record: number, imm: number): number => {
  core.f64[core.countersAt + COUNT_EXCEPTIONS]!++;
  core.excPending = false;
  const cause = core.excCause;
  if (cause === CAUSE_BREAKPOINT) {
    core.excTvalLo = core.i32[core.pcAt]!;
    core.excTvalHi = core.i32[core.pcAt + 1]!;
  }
  const bit = 1 << cause;
  if (core.priv === PRIV_M || (core.lo(SLOT_MEDELEG) & bit) === 0) {
    enterM(core, cause, 0, tinst(core, record, imm));
    return TO_M;
  }
  if (core.virt && (core.lo(SLOT_HEDELEG) & bit) !== 0) {
    enterVs(core, cause, 0);
    return TO_VS;
  }
  enterHs(core, cause, 0, tinst(core, record, imm));
  return TO_HS;
};

/**
 * Takes the interrupt that is due, if one is, before the instruction at pc in the hart block.
 * Returns TO_M, TO_HS or TO_VS, or -1 when none was taken.
 */
export const takeInterrupt = (core: HartCore): number => {
  core.checkInterrupts = false;
  const due = interruptToTake(core);
  if (due < 0) return -1;
  core.f64[core.countersAt + COUNT_INTERRUPTS]!++;
  core.raise(0, 0, 0, false);
  core.excPending = false;
  const irq = due & 63;
  const to = due >>> 8;
  if (to === TO_M) enterM(core, irq, CAUSE_INTERRUPT_HI, 0);
  else if (to === TO_HS) enterHs(core, irq, CAUSE_INTERRUPT_HI, 0);
  // 15.2.17: VSSI, VSTI and VSEI arrive as SSI, STI and SEI.
  else enterVs(core, irq - 1, CAUSE_INTERRUPT_HI);
  return to;
};

/** MRET (3.3.2); the caller has checked that it is legal. */
export const mret = (core: HartCore): void => {
  const status = core.lo(SLOT_MSTATUS);
  const hi = core.hi(SLOT_MSTATUS);
  const mpp = asPrivilege((status & MSTATUS_MPP) >>> MSTATUS_MPP_SHIFT);
  const virt = mpp !== PRIV_M && (hi & MSTATUS_MPV_HI) !== 0;
  let next = status & ~(MSTATUS_MIE | MSTATUS_MPP);
  if ((status & MSTATUS_MPIE) !== 0) next |= MSTATUS_MIE;
  next |= MSTATUS_MPIE;
  if (mpp !== PRIV_M) next &= ~MSTATUS_MPRV;
  core.set(SLOT_MSTATUS, next, hi & ~MSTATUS_MPV_HI);
  const regs = core.mmu.regs;
  regs.mprv = (next & MSTATUS_MPRV) !== 0;
  regs.mpp = PRIV_U;
  regs.mpv = false;
  returnTo(core, SLOT_MEPC, mpp, virt);
};

/** SRET in HS-mode or M-mode (V=0): back to wherever hstatus.SPV and sstatus.SPP say (15.6.5). */
export const sretHs = (core: HartCore): void => {
  const hstatus = core.lo(SLOT_HSTATUS);
  const status = core.lo(SLOT_MSTATUS);
  const priv = (status & MSTATUS_SPP) !== 0 ? PRIV_S : PRIV_U;
  core.set(SLOT_HSTATUS, hstatus & ~HSTATUS_SPV, core.hi(SLOT_HSTATUS));
  core.set(SLOT_MSTATUS, afterSret(status) & ~MSTATUS_MPRV, core.hi(SLOT_MSTATUS));
  core.mmu.regs.mprv = false;
  returnTo(core, SLOT_SEPC, priv, (hstatus & HSTATUS_SPV) !== 0);
};

/** SRET in VS-mode: V stays 1. */
export const sretVs = (core: HartCore): void => {
  const status = core.lo(SLOT_VSSTATUS);
  core.set(SLOT_VSSTATUS, afterSret(status), core.hi(SLOT_VSSTATUS));
  returnTo(core, SLOT_VSEPC, (status & MSTATUS_SPP) !== 0 ? PRIV_S : PRIV_U, true);
};

const afterSret = (status: number): number => {
  const next = (status & ~(MSTATUS_SIE | MSTATUS_SPP)) | MSTATUS_SPIE;
  return (status & MSTATUS_SPIE) !== 0 ? next | MSTATUS_SIE : next;
};

const returnTo = (core: HartCore, epcSlot: number, priv: Privilege, virt: boolean): void => {
  core.i32[core.pcAt] = core.lo(epcSlot);
  core.i32[core.pcAt + 1] = core.hi(epcSlot);
  core.checkInterrupts = true;
  core.setMode(priv, virt);
};

const enterM = (core: HartCore, code: number, causeHi: number, inst: number): void => {
  const status = core.lo(SLOT_MSTATUS);
  let next = status & ~(MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPP);
  if ((status & MSTATUS_MIE) !== 0) next |= MSTATUS_MPIE;
  next |= core.priv << MSTATUS_MPP_SHIFT;
  let hi = core.hi(SLOT_MSTATUS) & ~(MSTATUS_GVA_HI | MSTATUS_MPV_HI);
  if (core.virt) hi |= MSTATUS_MPV_HI;
  if (core.excGva) hi |= MSTATUS_GVA_HI;
  core.set(SLOT_MSTATUS, next, hi);
  core.set(SLOT_MTVAL2, shiftedGpaLo(core), core.excGpaHi >>> 2);
  core.set(SLOT_MTINST, inst, 0);
  const regs = core.mmu.regs;
  regs.mpp = core.priv;
  regs.mpv = core.virt;
  enter(core, SLOT_MEPC, SLOT_MCAUSE, SLOT_MTVAL, code, causeHi);
  vector(core, SLOT_MTVEC, code, causeHi);
  core.setMode(PRIV_M, false);
};

const enterHs = (core: HartCore, code: number, causeHi: number, inst: number): void => {
  let hstatus = core.lo(SLOT_HSTATUS) & ~(HSTATUS_SPV | HSTATUS_GVA);
  if (core.virt) {
    hstatus = (hstatus & ~HSTATUS_SPVP) | HSTATUS_SPV;
    if (core.priv === PRIV_S) hstatus |= HSTATUS_SPVP;
    core.mmu.regs.spvp = core.priv;
  }
  if (core.excGva) hstatus |= HSTATUS_GVA;
  core.set(SLOT_HSTATUS, hstatus, core.hi(SLOT_HSTATUS));
  core.set(SLOT_MSTATUS, intoS(core, core.lo(SLOT_MSTATUS)), core.hi(SLOT_MSTATUS));
  core.set(SLOT_HTVAL, shiftedGpaLo(core), core.excGpaHi >>> 2);
  core.set(SLOT_HTINST, inst, 0);
  enter(core, SLOT_SEPC, SLOT_SCAUSE, SLOT_STVAL, code, causeHi);
  vector(core, SLOT_STVEC, code, causeHi);
  core.setMode(PRIV_S, false);
};

const enterVs = (core: HartCore, code: number, causeHi: number): void => {
  core.set(SLOT_VSSTATUS, intoS(core, core.lo(SLOT_VSSTATUS)), core.hi(SLOT_VSSTATUS));
  enter(core, SLOT_VSEPC, SLOT_VSCAUSE, SLOT_VSTVAL, code, causeHi);
  vector(core, SLOT_VSTVEC, code, causeHi);
  core.setMode(PRIV_S, true);
};

/** sstatus or vsstatus after a trap from the current privilege. */
const intoS = (core: HartCore, status: number): number => {
  let next = status & ~(MSTATUS_SIE | MSTATUS_SPIE | MSTATUS_SPP);
  if ((status & MSTATUS_SIE) !== 0) next |= MSTATUS_SPIE;
  if (core.priv === PRIV_S) next |= MSTATUS_SPP;
  return next;
};

const enter = (
  core: HartCore,
  epcSlot: number,
  causeSlot: number,
  tvalSlot: number,
  code: number,
  causeHi: number,
): void => {
  core.set(epcSlot, core.i32[core.pcAt]!, core.i32[core.pcAt + 1]!);
  core.set(causeSlot, code, causeHi);
  core.set(tvalSlot, core.excTvalLo, core.excTvalHi);
  // The trap clears an interrupt enable, and leaves the mode: what is due may be another one now.
  core.checkInterrupts = true;
};

/** pc from a trap vector register: vectored mode spreads interrupts alone (3.1.7). */
const vector = (core: HartCore, slot: number, code: number, causeHi: number): void => {
  const tvec = core.lo(slot);
  const baseLo = tvec & ~3;
  const lo = (tvec & 1) !== 0 && causeHi !== 0 ? (baseLo + 4 * code) | 0 : baseLo;
  core.i32[core.pcAt] = lo;
  core.i32[core.pcAt + 1] = (core.hi(slot) + (lo >>> 0 < baseLo >>> 0 ? 1 : 0)) | 0;
};

/** htval and mtval2 hold a guest physical address shifted right by two (15.2.11). */
const shiftedGpaLo = (core: HartCore): number => (core.excGpaLo >>> 2) | (core.excGpaHi << 30);

/** htinst or mtinst: the MMU's pseudo-instruction, or the instruction transformed, or 0. */
const tinst = (core: HartCore, record: number, imm: number): number =>
  core.excTinst !== 0
    ? core.excTinst
    : transformedInstruction(core.excCause, record, imm, core.excOffset);
