/**
 * Reading and writing CSRs, without regard to privilege: values, views of one register through
 * another, and what a write is turned into (WARL). Privileged ISA 1.13, chapters 3.1, 12.1, 15.2.
 *
 * The numbers here are those of the register meant: with V=1 an access to sstatus comes as vsstatus
 * (csrUnderV in emu/hart/csr-table.ts). pmpcfg and pmpaddr are storage: physical memory protection is not enforced.
 */
import { ATP_MODE_BARE, ATP_MODE_SV39, ATP_MODE_SV48, ATP_MODE_SV57 } from '../pte.ts';
import * as csr from '../isa/csr-names.ts';
import { PRIV_M, PRIV_S, PRIV_U, type Privilege } from '../mmu/regs.ts';
import {
  ENVCFG_ADUE_HI,
  ENVCFG_CBCFE,
  ENVCFG_CBIE,
  ENVCFG_CBIE_SHIFT,
  ENVCFG_CBZE,
  ENVCFG_FIOM,
  ENVCFG_STCE_HI,
  HSTATUS_SPVP,
  MIP_S_BITS,
  MIP_SEIP,
  MIP_SSIP,
  MIP_STIP,
  MIP_VS_BITS,
  MIP_VSSIP,
  MSTATUS_GVA_HI,
  MSTATUS_MIE,
  MSTATUS_MPIE,
  MSTATUS_MPP,
  MSTATUS_MPP_SHIFT,
  MSTATUS_MPRV,
  MSTATUS_MPV_HI,
  MSTATUS_MXR,
  MSTATUS_SUM,
  MSTATUS_TSR,
  MSTATUS_TVM,
  MSTATUS_TW,
  SSTATUS_MASK,
  STATUS_UXL_64_HI,
} from './bits.ts';
import type { HartCore } from './core.ts';
import {
  CSR_STORED,
  CSR_ZERO,
  csrEffect,
  csrKind,
  csrMaskHi,
  csrMaskLo,
  csrSlot,
  EFFECT_INTERRUPTS,
  EFFECT_NONE,
  EFFECT_TIMERS,
  EFFECT_TRANSLATION,
  SLOT_HENVCFG,
  SLOT_HGATP,
  SLOT_HIDELEG,
  SLOT_HSTATUS,
  SLOT_HTIMEDELTA,
  SLOT_HVIP,
  SLOT_MCYCLE_DELTA,
  SLOT_MENVCFG,
  SLOT_MIDELEG,
  SLOT_MIE,
  SLOT_MIP,
  SLOT_MSTATUS,
  SLOT_SENVCFG,
  SLOT_SATP,
  SLOT_VSATP,
  SLOT_VSSTATUS,
} from './csr-table.ts';
import { pendingBits } from './interrupts.ts';
import { armTimers } from './timers.ts';

const TWO_32 = 2 ** 32;

/** MXL = 2 and the letters A B C H I M S U (3.1.1); none can be switched off. */
const MISA_LO = [...'ABCHIMSU'].reduce((bits, x) => bits | (1 << (x.charCodeAt(0) - 65)), 0);
const MISA_HI = (2 << 30) | 0;
/** mstatus bits that software writes, but for MPP. */
const MSTATUS_MASK =
  SSTATUS_MASK | MSTATUS_MIE | MSTATUS_MPIE | MSTATUS_MPRV | MSTATUS_TVM | MSTATUS_TW | MSTATUS_TSR;
const MSTATUS_MASK_HI = MSTATUS_GVA_HI | MSTATUS_MPV_HI;
/** menvcfg and henvcfg: ADUE, STCE. */
const ENVCFG_MASK_HI = ENVCFG_ADUE_HI | ENVCFG_STCE_HI;
/** In all three: FIOM, CBIE, CBCFE, CBZE. CBIE has no value 2, and is 0 instead. */
const ENVCFG_MASK_LO = ENVCFG_FIOM | ENVCFG_CBIE | ENVCFG_CBCFE | ENVCFG_CBZE;
const legalEnvcfg = (lo: number): number =>
  lo &
  ((lo & ENVCFG_CBIE) === 2 << ENVCFG_CBIE_SHIFT ? ENVCFG_MASK_LO & ~ENVCFG_CBIE : ENVCFG_MASK_LO);
/** satp and vsatp have all of ASID and PPN; hgatp has 14 bits of VMID, and a root of 16 KiB. */
const HGATP_MASK_LO = ~3;
const HGATP_MASK_HI = 0xf3ff_ffff | 0;

const atpModeExists = (hi: number): boolean => {
  const mode = hi >>> 28;
  return (
    mode === ATP_MODE_BARE ||
    mode === ATP_MODE_SV39 ||
    mode === ATP_MODE_SV48 ||
    mode === ATP_MODE_SV57
  );
};

/** Reads a CSR that exists into core.valueLo and valueHi. */
export const readCsr = (core: HartCore, number: number): void => {
  if (csrKind[number]! === CSR_STORED) {
    const at = core.csrBase + csrSlot[number]! * 2;
    core.valueLo = core.i32[at]!;
    core.valueHi = core.i32[at + 1]!;
    return;
  }
  core.valueLo = 0;
  core.valueHi = 0;
  if (csrKind[number]! !== CSR_ZERO) readSpecial(core, number);
};

const readSpecial = (core: HartCore, number: number): void => {
  switch (number) {
    case csr.CSR_SSTATUS:
      core.valueLo = core.lo(SLOT_MSTATUS) & SSTATUS_MASK;
      core.valueHi = STATUS_UXL_64_HI;
      return;
    case csr.CSR_SATP:
      readSlot(core, SLOT_SATP);
      return;
    case csr.CSR_TIME:
      core.syncClock();
      setNumber(core, core.clock.ticks);
      if (core.virt) addSlot(core, SLOT_HTIMEDELTA);
      return;
    case csr.CSR_SIE:
      core.valueLo = core.lo(SLOT_MIE) & core.lo(SLOT_MIDELEG) & MIP_S_BITS;
      return;
    case csr.CSR_SIP:
      core.valueLo = pendingBits(core) & core.lo(SLOT_MIDELEG) & MIP_S_BITS;
      return;
    case csr.CSR_VSIE:
      core.valueLo = (core.lo(SLOT_MIE) & core.lo(SLOT_HIDELEG)) >>> 1;
      return;
    case csr.CSR_VSIP:
      core.valueLo = (pendingBits(core) & core.lo(SLOT_HIDELEG)) >>> 1;
      return;
    case csr.CSR_HIE:
      core.valueLo = core.lo(SLOT_MIE) & MIP_VS_BITS;
      return;
    case csr.CSR_HIP:
      core.valueLo = pendingBits(core) & MIP_VS_BITS;
      return;
    case csr.CSR_MIP:
      core.valueLo = pendingBits(core);
      return;
    case csr.CSR_MSTATUS:
      readSlot(core, SLOT_MSTATUS);
      return;
    case csr.CSR_VSATP:
      readSlot(core, SLOT_VSATP);
      return;
    case csr.CSR_HGATP:
      readSlot(core, SLOT_HGATP);
      return;
    case csr.CSR_INSTRET:
    case csr.CSR_MINSTRET:
      readInstret(core);
      return;
    case csr.CSR_CYCLE:
    case csr.CSR_MCYCLE:
      readInstret(core);
      addSlot(core, SLOT_MCYCLE_DELTA);
      return;
    case csr.CSR_MENVCFG:
      readSlot(core, SLOT_MENVCFG);
      return;
    case csr.CSR_SENVCFG:
      readSlot(core, SLOT_SENVCFG);
      return;
    case csr.CSR_HENVCFG:
      core.valueLo = core.lo(SLOT_HENVCFG);
      core.valueHi = core.hi(SLOT_HENVCFG) & core.hi(SLOT_MENVCFG);
      return;
    case csr.CSR_MISA:
      core.valueLo = MISA_LO;
      core.valueHi = MISA_HI;
      return;
    case csr.CSR_MHARTID:
      core.valueLo = core.index;
      return;
    default:
      throw new Error(`csr 0x${number.toString(16)}: no reading rule`);
  }
};

/**
 * Writes a CSR that exists, as its WARL rules have it, and carries out what follows from it.
 * Returns the EFFECT_*: anything but EFFECT_NONE means that keys or pending interrupts may differ.
 */
export const writeCsr = (core: HartCore, number: number, lo: number, hi: number): number => {
  const at = core.csrBase + csrSlot[number]! * 2;
  const before = core.i32[at]!;
  if (csrKind[number]! === CSR_STORED) {
    const maskLo = csrMaskLo[number]!;
    const maskHi = csrMaskHi[number]!;
    core.i32[at] = (before & ~maskLo) | (lo & maskLo);
    core.i32[at + 1] = (core.i32[at + 1]! & ~maskHi) | (hi & maskHi);
  } else if (csrKind[number]! === CSR_ZERO) {
    return EFFECT_NONE;
  } else {
    writeSpecial(core, number, lo, hi);
  }
  let effect = csrEffect[number]!;
  if (effect === EFFECT_NONE) return EFFECT_NONE;
  // SIE, SPIE and SPP of a status register are nothing to translation, and change at every trap.
  if (number === csr.CSR_SSTATUS || number === csr.CSR_VSSTATUS)
    if (((before ^ core.i32[at]!) & (MSTATUS_SUM | MSTATUS_MXR)) === 0) effect = EFFECT_INTERRUPTS;
  applyEffect(core, effect);
  return effect;
};

const writeSpecial = (core: HartCore, number: number, lo: number, hi: number): void => {
  switch (number) {
    case csr.CSR_SSTATUS:
      setBits(core, SLOT_MSTATUS, SSTATUS_MASK, lo);
      return;
    case csr.CSR_SATP:
      // 12.1.11: with a MODE that does not exist the write has no effect.
      if (atpModeExists(hi)) core.set(SLOT_SATP, lo, hi);
      return;
    case csr.CSR_SIE:
      setBits(core, SLOT_MIE, core.lo(SLOT_MIDELEG) & MIP_S_BITS, lo);
      return;
    case csr.CSR_SIP:
      setBits(core, SLOT_MIP, core.lo(SLOT_MIDELEG) & MIP_SSIP, lo);
      return;
    case csr.CSR_VSIE:
      setBits(core, SLOT_MIE, core.lo(SLOT_HIDELEG), lo << 1);
      return;
    case csr.CSR_VSIP:
      setBits(core, SLOT_HVIP, core.lo(SLOT_HIDELEG) & MIP_VSSIP, lo << 1);
      return;
    case csr.CSR_HIE:
      setBits(core, SLOT_MIE, MIP_VS_BITS, lo);
      return;
    case csr.CSR_HIP:
      setBits(core, SLOT_HVIP, MIP_VSSIP, lo);
      return;
    case csr.CSR_MIP: {
      // STIP belongs to stimecmp while that is enabled; VSSIP is hvip's.
      const stip = (core.hi(SLOT_MENVCFG) & ENVCFG_STCE_HI) === 0 ? MIP_STIP : 0;
      setBits(core, SLOT_MIP, MIP_SSIP | MIP_SEIP | stip, lo);
      setBits(core, SLOT_HVIP, MIP_VSSIP, lo);
      return;
    }
    case csr.CSR_MSTATUS: {
      // MPP has no encoding 2 to take.
      const mpp = (lo & MSTATUS_MPP) === 2 << MSTATUS_MPP_SHIFT ? 0 : MSTATUS_MPP;
      setBits(core, SLOT_MSTATUS, MSTATUS_MASK | mpp, lo);
      const oldHi = core.hi(SLOT_MSTATUS);
      core.set(
        SLOT_MSTATUS,
        core.lo(SLOT_MSTATUS),
        (oldHi & ~MSTATUS_MASK_HI) | (hi & MSTATUS_MASK_HI),
      );
      return;
    }
    case csr.CSR_VSATP:
      // 15.2.24: written by HS-mode, the fields are WARL one by one; by VS-mode, as satp.
      if (atpModeExists(hi)) core.set(SLOT_VSATP, lo, hi);
      else if (!core.virt) core.set(SLOT_VSATP, lo, withMode(hi, core.hi(SLOT_VSATP)));
      return;
    case csr.CSR_HGATP: {
      const fields = atpModeExists(hi) ? hi : withMode(hi, core.hi(SLOT_HGATP));
      core.set(SLOT_HGATP, lo & HGATP_MASK_LO, fields & HGATP_MASK_HI);
      return;
    }
    case csr.CSR_MINSTRET: {
      // 3.1.10: what is written is what the next instruction reads, so this one does not count.
      const newLo = (lo >>> 0) - (core.running ? core.retired + 1 : 0);
      const oldLo = core.i32[core.instretAt]!;
      const oldHi = core.i32[core.instretAt + 1]!;
      const setLo = newLo | 0;
      const setHi = (hi + (newLo < 0 ? -1 : 0)) | 0;
      core.i32[core.instretAt] = setLo;
      core.i32[core.instretAt + 1] = setHi;
      // mcycle stays as it was: its distance grows by what instret lost.
      const carry = oldLo >>> 0 < setLo >>> 0 ? 1 : 0;
      core.valueLo = (oldLo - setLo) | 0;
      core.valueHi = (oldHi - setHi - carry) | 0;
      addSlot(core, SLOT_MCYCLE_DELTA);
      core.set(SLOT_MCYCLE_DELTA, core.valueLo, core.valueHi);
      return;
    }
    case csr.CSR_MCYCLE: {
      readInstret(core);
      const nextLo = (core.valueLo >>> 0) + (core.running ? 1 : 0);
      const nextHi = (core.valueHi + (nextLo >= TWO_32 ? 1 : 0)) | 0;
      const dLo = (lo - nextLo) | 0;
      const borrow = lo >>> 0 < nextLo % TWO_32 ? 1 : 0;
      core.set(SLOT_MCYCLE_DELTA, dLo, (hi - nextHi - borrow) | 0);
      return;
    }
    case csr.CSR_MENVCFG:
      core.set(SLOT_MENVCFG, legalEnvcfg(lo), hi & ENVCFG_MASK_HI);
      return;
    case csr.CSR_SENVCFG:
      core.set(SLOT_SENVCFG, legalEnvcfg(lo), 0);
      return;
    case csr.CSR_HENVCFG: {
      // ADUE and STCE are read-only zero while menvcfg's are zero (15.2.5).
      core.set(SLOT_HENVCFG, legalEnvcfg(lo), hi & ENVCFG_MASK_HI & core.hi(SLOT_MENVCFG));
      return;
    }
    default:
      // misa has nothing that can be switched off; the others are read-only by their number.
      return;
  }
};

const applyEffect = (core: HartCore, effect: number): void => {
  if (effect === EFFECT_TRANSLATION || effect === EFFECT_TIMERS) translationChanged(core);
  if (effect === EFFECT_TIMERS) armTimers(core);
  if (effect >= EFFECT_INTERRUPTS) core.lookAtInterrupts();
};

/** Copies everything that translation depends on to the MMU. */
export const translationChanged = (core: HartCore): void => {
  const regs = core.mmu.regs;
  const status = core.lo(SLOT_MSTATUS);
  const vsstatus = core.lo(SLOT_VSSTATUS);
  regs.priv = core.priv;
  regs.virt = core.virt;
  regs.satpMode = core.hi(SLOT_SATP) >>> 28;
  regs.satpAsid = (core.hi(SLOT_SATP) >>> 12) & 0xffff;
  regs.satpPpn = (core.hi(SLOT_SATP) & 0xfff) * TWO_32 + (core.lo(SLOT_SATP) >>> 0);
  regs.vsatpMode = core.hi(SLOT_VSATP) >>> 28;
  regs.vsatpAsid = (core.hi(SLOT_VSATP) >>> 12) & 0xffff;
  regs.vsatpPpn = (core.hi(SLOT_VSATP) & 0xfff) * TWO_32 + (core.lo(SLOT_VSATP) >>> 0);
  regs.hgatpMode = core.hi(SLOT_HGATP) >>> 28;
  regs.hgatpVmid = (core.hi(SLOT_HGATP) >>> 12) & 0x3fff;
  regs.hgatpPpn = (core.hi(SLOT_HGATP) & 0xfff) * TWO_32 + (core.lo(SLOT_HGATP) >>> 0);
  regs.sum = (status & MSTATUS_SUM) !== 0;
  regs.mxr = (status & MSTATUS_MXR) !== 0;
  regs.vsum = (vsstatus & MSTATUS_SUM) !== 0;
  regs.vmxr = (vsstatus & MSTATUS_MXR) !== 0;
  regs.mprv = (status & MSTATUS_MPRV) !== 0;
  regs.mpp = asPrivilege((status & MSTATUS_MPP) >>> MSTATUS_MPP_SHIFT);
  regs.mpv = (core.hi(SLOT_MSTATUS) & MSTATUS_MPV_HI) !== 0;
  regs.spvp = (core.lo(SLOT_HSTATUS) & HSTATUS_SPVP) !== 0 ? PRIV_S : PRIV_U;
  regs.adueHs = (core.hi(SLOT_MENVCFG) & ENVCFG_ADUE_HI) !== 0;
  regs.adueVs = (core.hi(SLOT_MENVCFG) & core.hi(SLOT_HENVCFG) & ENVCFG_ADUE_HI) !== 0;
  core.mmu.contextChanged();
};

/** MPP as a privilege; 2 is never stored. */
export const asPrivilege = (mpp: number): Privilege =>
  mpp === 0 ? PRIV_U : mpp === 1 ? PRIV_S : PRIV_M;

const readSlot = (core: HartCore, slot: number): void => {
  core.valueLo = core.lo(slot);
  core.valueHi = core.hi(slot);
};

/** Adds a slot to the value, modulo 2^64. */
const addSlot = (core: HartCore, slot: number): void => {
  const lo = (core.valueLo >>> 0) + (core.lo(slot) >>> 0);
  core.valueHi = (core.valueHi + core.hi(slot) + (lo >= TWO_32 ? 1 : 0)) | 0;
  core.valueLo = lo | 0;
};

const setNumber = (core: HartCore, value: number): void => {
  core.valueLo = value | 0;
  core.valueHi = Math.floor(value / TWO_32) | 0;
};

/** instret: what is stored is the count at the start of the slice. */
const readInstret = (core: HartCore): void => {
  const lo = (core.i32[core.instretAt]! >>> 0) + core.retired;
  core.valueLo = lo | 0;
  core.valueHi = (core.i32[core.instretAt + 1]! + (lo >= TWO_32 ? 1 : 0)) | 0;
};

const setBits = (core: HartCore, slot: number, mask: number, lo: number): void => {
  core.set(slot, (core.lo(slot) & ~mask) | (lo & mask), core.hi(slot));
};

/** High word of an address-translation register with the MODE of another. */
const withMode = (hi: number, modeFrom: number): number =>
  (hi & 0x0fff_ffff) | (modeFrom & (0xf000_0000 | 0));
