/**
 * Which CSRs exist, where each is stored and which of its bits can be written: Privileged ISA 1.13,
 * chapters 2, 3, 12 and 15, and Sstc. A CSR with a rule of its own is CSR_SPECIAL here and has a case
 * in emu/hart/csr-file.ts. Left out: debug and trigger CSRs, state enables, floating point.
 */
import {
  COUNTEREN_MASK,
  HEDELEG_MASK,
  HSTATUS_GVA,
  HSTATUS_HU,
  HSTATUS_SPV,
  HSTATUS_SPVP,
  HSTATUS_VSXL_64_HI,
  HSTATUS_VTSR,
  HSTATUS_VTVM,
  HSTATUS_VTW,
  MEDELEG_MASK,
  MIP_M_BITS,
  MIP_S_BITS,
  MIP_VS_BITS,
  MSTATUS_SXL_64_HI,
  SSTATUS_MASK,
  STATUS_UXL_64_HI,
} from './bits.ts';
import * as csr from '../isa/csr-names.ts';

/** How a CSR is read and written. */
export const CSR_ABSENT = 0;
/** A stored value; writable bits by mask. */
export const CSR_STORED = 1;
/** Read-only zero: exists, ignores writes. */
export const CSR_ZERO = 2;
/** A rule of its own. */
export const CSR_SPECIAL = 3;

/** What has to follow a write. */
export const EFFECT_NONE = 0;
/** Interrupts may have become pending, enabled or the other way round. */
export const EFFECT_INTERRUPTS = 1;
/** Translation may have changed, and interrupts. */
export const EFFECT_TRANSLATION = 2;
/** A timer compare value or what it is compared with has changed. */
export const EFFECT_TIMERS = 3;

/** Accesses that further bits can forbid (emu/hart/csr-access.ts). */
export const GUARD_NONE = 0;
/** The unprivileged counters: the counter-enable registers. */
export const GUARD_COUNTER = 1;
/** satp: TVM and VTVM. */
export const GUARD_SATP = 2;
/** hgatp: TVM. */
export const GUARD_HGATP = 3;
/** stimecmp and vstimecmp: STCE and TM. */
export const GUARD_TIMECMP = 4;

/* Places in the hart block, counted in 8 bytes from HART_CSR. */
export const SLOT_MSTATUS = 0;
export const SLOT_MEDELEG = 1;
export const SLOT_MIDELEG = 2;
export const SLOT_MIE = 3;
/** Low word: the bits of mip that software writes. High word: the levels of the interrupt lines. */
export const SLOT_MIP = 4;
export const SLOT_MTVEC = 5;
export const SLOT_MCOUNTEREN = 6;
export const SLOT_MENVCFG = 7;
export const SLOT_MSCRATCH = 8;
export const SLOT_MEPC = 9;
export const SLOT_MCAUSE = 10;
export const SLOT_MTVAL = 11;
export const SLOT_MTINST = 12;
export const SLOT_MTVAL2 = 13;
/** mcycle minus minstret. */
export const SLOT_MCYCLE_DELTA = 14;
export const SLOT_STVEC = 15;
export const SLOT_SCOUNTEREN = 16;
export const SLOT_SENVCFG = 17;
export const SLOT_SSCRATCH = 18;
export const SLOT_SEPC = 19;
export const SLOT_SCAUSE = 20;
export const SLOT_STVAL = 21;
export const SLOT_SATP = 22;
export const SLOT_STIMECMP = 23;
export const SLOT_HSTATUS = 24;
export const SLOT_HEDELEG = 25;
export const SLOT_HIDELEG = 26;
export const SLOT_HVIP = 27;
export const SLOT_HTIMEDELTA = 28;
export const SLOT_HCOUNTEREN = 29;
export const SLOT_HENVCFG = 30;
export const SLOT_HTVAL = 31;
export const SLOT_HTINST = 32;
export const SLOT_HGATP = 33;
export const SLOT_VSSTATUS = 34;
export const SLOT_VSTVEC = 35;
export const SLOT_VSSCRATCH = 36;
export const SLOT_VSEPC = 37;
export const SLOT_VSCAUSE = 38;
export const SLOT_VSTVAL = 39;
export const SLOT_VSATP = 40;
export const SLOT_VSTIMECMP = 41;
const SLOT_PMPCFG = 42;
const SLOT_PMPADDR = 44;
/** PMP entries that can be written: as many as firmware commonly sets up. */
export const PMP_ENTRIES = 16;
/** First slot behind the last one. */
export const SLOT_COUNT = SLOT_PMPADDR + PMP_ENTRIES;

/** By CSR number. */
export const csrKind = new Uint8Array(4096);
export const csrSlot = new Uint8Array(4096);
export const csrEffect = new Uint8Array(4096);
export const csrGuard = new Uint8Array(4096);
/** Bits that a write changes. */
export const csrMaskLo = new Int32Array(4096);
export const csrMaskHi = new Int32Array(4096);

/** Not 0 for stored registers that nothing guards and whose writing has no effect elsewhere. */
export const csrPlain = new Uint8Array(4096);
/** The register that a number means while V=1: VS registers stand in for supervisor ones (15.2). */
export const csrUnderV = Uint16Array.from({ length: 4096 }, (_, number) => number);

/** By slot: the value after reset. */
export const slotResetLo = new Int32Array(SLOT_COUNT);
export const slotResetHi = new Int32Array(SLOT_COUNT);

const stored = (number: number, slot: number, lo = -1, hi = -1, effect = EFFECT_NONE): void => {
  csrKind[number] = CSR_STORED;
  csrSlot[number] = slot;
  csrMaskLo[number] = lo;
  csrMaskHi[number] = hi;
  csrEffect[number] = effect;
};
const special = (number: number, effect = EFFECT_NONE): void => {
  csrKind[number] = CSR_SPECIAL;
  csrEffect[number] = effect;
};
const zero = (number: number): void => {
  csrKind[number] = CSR_ZERO;
};

/** Trap vectors: mode 0 or 1, so bit 1 is read-only zero. */
const TVEC_LO = ~2;
/** Exception pcs: instructions are 2-byte aligned, so bit 0 is read-only zero. */
const EPC_LO = ~1;

/* machine: 3.1 */
for (const n of [csr.CSR_MVENDORID, csr.CSR_MARCHID, csr.CSR_MIMPID, csr.CSR_MCONFIGPTR]) zero(n);
special(csr.CSR_MHARTID);
special(csr.CSR_MISA);
special(csr.CSR_MSTATUS, EFFECT_TRANSLATION);
stored(csr.CSR_MEDELEG, SLOT_MEDELEG, MEDELEG_MASK, 0);
stored(csr.CSR_MIDELEG, SLOT_MIDELEG, MIP_S_BITS, 0, EFFECT_INTERRUPTS);
stored(csr.CSR_MIE, SLOT_MIE, MIP_M_BITS | MIP_S_BITS | MIP_VS_BITS, 0, EFFECT_INTERRUPTS);
special(csr.CSR_MIP, EFFECT_INTERRUPTS);
stored(csr.CSR_MTVEC, SLOT_MTVEC, TVEC_LO);
stored(csr.CSR_MCOUNTEREN, SLOT_MCOUNTEREN, COUNTEREN_MASK, 0);
special(csr.CSR_MENVCFG, EFFECT_TIMERS);
zero(csr.CSR_MCOUNTINHIBIT); // the counters cannot be stopped
stored(csr.CSR_MSCRATCH, SLOT_MSCRATCH);
stored(csr.CSR_MEPC, SLOT_MEPC, EPC_LO);
stored(csr.CSR_MCAUSE, SLOT_MCAUSE);
stored(csr.CSR_MTVAL, SLOT_MTVAL);
stored(csr.CSR_MTINST, SLOT_MTINST);
stored(csr.CSR_MTVAL2, SLOT_MTVAL2);
special(csr.CSR_MCYCLE);
special(csr.CSR_MINSTRET);
for (let i = 3; i < 32; i++) {
  zero(csr.CSR_MHPMCOUNTER3 + i - 3);
  zero(csr.CSR_MHPMEVENT3 + i - 3);
  zero(csr.CSR_HPMCOUNTER3 + i - 3);
  csrGuard[csr.CSR_HPMCOUNTER3 + i - 3] = GUARD_COUNTER;
}
for (let i = 0; i < 64; i++) {
  if (i < PMP_ENTRIES) stored(csr.CSR_PMPADDR0 + i, SLOT_PMPADDR + i, -1, 0x003f_ffff);
  else zero(csr.CSR_PMPADDR0 + i);
  // pmpcfg: 8 entries each; R, W, X, A and L of every byte, bits 5 and 6 are zero
  if (i < 16 && i % 2 === 0)
    if (i * 4 < PMP_ENTRIES)
      stored(csr.CSR_PMPCFG0 + i, SLOT_PMPCFG + i / 2, 0x9f9f_9f9f | 0, 0x9f9f_9f9f | 0);
    else zero(csr.CSR_PMPCFG0 + i);
}

/* supervisor: 12.1 */
special(csr.CSR_SSTATUS, EFFECT_TRANSLATION);
csrSlot[csr.CSR_SSTATUS] = SLOT_MSTATUS;
special(csr.CSR_SIE, EFFECT_INTERRUPTS);
special(csr.CSR_SIP, EFFECT_INTERRUPTS);
stored(csr.CSR_STVEC, SLOT_STVEC, TVEC_LO);
stored(csr.CSR_SCOUNTEREN, SLOT_SCOUNTEREN, COUNTEREN_MASK, 0);
special(csr.CSR_SENVCFG);
stored(csr.CSR_SSCRATCH, SLOT_SSCRATCH);
stored(csr.CSR_SEPC, SLOT_SEPC, EPC_LO);
stored(csr.CSR_SCAUSE, SLOT_SCAUSE);
stored(csr.CSR_STVAL, SLOT_STVAL);
special(csr.CSR_SATP, EFFECT_TRANSLATION);
stored(csr.CSR_STIMECMP, SLOT_STIMECMP, -1, -1, EFFECT_TIMERS);

/* hypervisor: 15.2.1 to 15.2.15; GEILEN is 0 */
stored(
  csr.CSR_HSTATUS,
  SLOT_HSTATUS,
  HSTATUS_GVA | HSTATUS_SPV | HSTATUS_SPVP | HSTATUS_HU | HSTATUS_VTVM | HSTATUS_VTW | HSTATUS_VTSR,
  0,
  EFFECT_TRANSLATION,
);
stored(csr.CSR_HEDELEG, SLOT_HEDELEG, HEDELEG_MASK, 0);
stored(csr.CSR_HIDELEG, SLOT_HIDELEG, MIP_VS_BITS, 0, EFFECT_INTERRUPTS);
stored(csr.CSR_HVIP, SLOT_HVIP, MIP_VS_BITS, 0, EFFECT_INTERRUPTS);
special(csr.CSR_HIP, EFFECT_INTERRUPTS);
special(csr.CSR_HIE, EFFECT_INTERRUPTS);
zero(csr.CSR_HGEIE);
zero(csr.CSR_HGEIP);
special(csr.CSR_HENVCFG, EFFECT_TIMERS);
stored(csr.CSR_HCOUNTEREN, SLOT_HCOUNTEREN, COUNTEREN_MASK, 0);
stored(csr.CSR_HTIMEDELTA, SLOT_HTIMEDELTA, -1, -1, EFFECT_TIMERS);
stored(csr.CSR_HTVAL, SLOT_HTVAL);
stored(csr.CSR_HTINST, SLOT_HTINST);
special(csr.CSR_HGATP, EFFECT_TRANSLATION);

/* virtual supervisor: 15.2.16 to 15.2.24 */
stored(csr.CSR_VSSTATUS, SLOT_VSSTATUS, SSTATUS_MASK, 0, EFFECT_TRANSLATION);
special(csr.CSR_VSIE, EFFECT_INTERRUPTS);
special(csr.CSR_VSIP, EFFECT_INTERRUPTS);
stored(csr.CSR_VSTVEC, SLOT_VSTVEC, TVEC_LO);
stored(csr.CSR_VSSCRATCH, SLOT_VSSCRATCH);
stored(csr.CSR_VSEPC, SLOT_VSEPC, EPC_LO);
stored(csr.CSR_VSCAUSE, SLOT_VSCAUSE);
stored(csr.CSR_VSTVAL, SLOT_VSTVAL);
special(csr.CSR_VSATP, EFFECT_TRANSLATION);
stored(csr.CSR_VSTIMECMP, SLOT_VSTIMECMP, -1, -1, EFFECT_TIMERS);

/* unprivileged counters */
for (const n of [csr.CSR_CYCLE, csr.CSR_TIME, csr.CSR_INSTRET]) {
  special(n);
  csrGuard[n] = GUARD_COUNTER;
}

csrGuard[csr.CSR_SATP] = GUARD_SATP;
csrGuard[csr.CSR_HGATP] = GUARD_HGATP;
csrGuard[csr.CSR_STIMECMP] = GUARD_TIMECMP;
csrGuard[csr.CSR_VSTIMECMP] = GUARD_TIMECMP;

for (let number = 0; number < 4096; number++)
  if (
    csrKind[number] === CSR_STORED &&
    csrEffect[number] === EFFECT_NONE &&
    csrGuard[number] === GUARD_NONE
  )
    csrPlain[number] = 1;

for (const number of [
  csr.CSR_SSTATUS,
  csr.CSR_SIE,
  csr.CSR_STVEC,
  csr.CSR_SSCRATCH,
  csr.CSR_SEPC,
  csr.CSR_SCAUSE,
  csr.CSR_STVAL,
  csr.CSR_SIP,
  csr.CSR_STIMECMP,
  csr.CSR_SATP,
])
  csrUnderV[number] = number + (csr.CSR_VSSTATUS - csr.CSR_SSTATUS);

slotResetHi[SLOT_MSTATUS] = STATUS_UXL_64_HI | MSTATUS_SXL_64_HI;
slotResetHi[SLOT_VSSTATUS] = STATUS_UXL_64_HI;
slotResetHi[SLOT_HSTATUS] = HSTATUS_VSXL_64_HI;
/** VS-level interrupts are always delegated to HS-mode (15.4.2). */
slotResetLo[SLOT_MIDELEG] = MIP_VS_BITS;
/* A compare value that time does not reach: no timer interrupt before software asks for one. */
for (const slot of [SLOT_STIMECMP, SLOT_VSTIMECMP]) {
  slotResetLo[slot] = -1;
  slotResetHi[slot] = -1;
}
