/**
 * Which interrupts are pending, and which one is taken where: Privileged ISA 1.13, 3.1.9 (mip, mie),
 * 15.2.3 (hvip, hip, hie) and 15.4.2 (delegation to VS-mode).
 */
import { PRIV_M, PRIV_S } from '../mmu/regs.ts';
import {
  IRQ_MEI,
  IRQ_MSI,
  IRQ_MTI,
  IRQ_SEI,
  IRQ_SSI,
  IRQ_STI,
  IRQ_VSEI,
  IRQ_VSSI,
  IRQ_VSTI,
  MIP_STIP,
  MIP_VSTIP,
  MSTATUS_MIE,
  MSTATUS_SIE,
} from './bits.ts';
import type { HartCore } from './core.ts';
import {
  SLOT_HIDELEG,
  SLOT_HVIP,
  SLOT_MIDELEG,
  SLOT_MIE,
  SLOT_MIP,
  SLOT_MSTATUS,
  SLOT_VSSTATUS,
} from './csr-table.ts';
import {
  stimecmpDistance,
  stimecmpEnabled,
  vstimecmpDistance,
  vstimecmpEnabled,
} from './timers.ts';

/** Priority among interrupts for one mode, highest first (3.1.9 and 15.4.3). */
const PRIORITY = [
  IRQ_MEI,
  IRQ_MSI,
  IRQ_MTI,
  IRQ_SEI,
  IRQ_SSI,
  IRQ_STI,
  IRQ_VSEI,
  IRQ_VSSI,
  IRQ_VSTI,
] as const;

/** Where an interrupt goes. */
export const TO_M = 0;
export const TO_HS = 1;
export const TO_VS = 2;

/** mip as it is now: what software set, the lines, and the comparisons of Sstc. */
export const pendingBits = (core: HartCore): number => {
  let bits = core.lo(SLOT_MIP) | core.hi(SLOT_MIP) | core.lo(SLOT_HVIP);
  if (stimecmpEnabled(core)) {
    core.syncClock();
    if (stimecmpDistance(core) <= 0) bits |= MIP_STIP;
    else bits &= ~MIP_STIP;
    if (vstimecmpEnabled(core) && vstimecmpDistance(core) <= 0) bits |= MIP_VSTIP;
  }
  return bits;
};

/**
 * The interrupt to be taken before the next instruction: its cause code (as in mip; for TO_VS the
 * S-level code is one less) with the destination in bits 9..8, or -1.
 */
export const interruptToTake = (core: HartCore): number => {
  const enabled = core.lo(SLOT_MIE);
  if (enabled === 0) return -1;
  const ready = pendingBits(core) & enabled;
  if (ready === 0) return -1;
  const mideleg = core.lo(SLOT_MIDELEG);
  const status = core.lo(SLOT_MSTATUS);

  const forM = ready & ~mideleg;
  if (forM !== 0 && (core.priv !== PRIV_M || (status & MSTATUS_MIE) !== 0))
    return highest(forM) | (TO_M << 8);
  if (core.priv === PRIV_M) return -1;

  const hideleg = core.lo(SLOT_HIDELEG);
  const forHs = ready & mideleg & ~hideleg;
  if (forHs !== 0 && (core.virt || core.priv !== PRIV_S || (status & MSTATUS_SIE) !== 0))
    return highest(forHs) | (TO_HS << 8);

  const forVs = ready & mideleg & hideleg;
  if (
    forVs !== 0 &&
    core.virt &&
    (core.priv !== PRIV_S || (core.lo(SLOT_VSSTATUS) & MSTATUS_SIE) !== 0)
  )
    return highest(forVs) | (TO_VS << 8);
  return -1;
};

/** Would WFI wake up: is anything pending that mie enables, whatever the global enables say (3.3.3)? */
export const wakesUp = (core: HartCore): boolean => (pendingBits(core) & core.lo(SLOT_MIE)) !== 0;

const highest = (bits: number): number => {
  for (const irq of PRIORITY) if ((bits & (1 << irq)) !== 0) return irq;
  throw new Error(`interrupt bits 0x${bits.toString(16)} without a priority`);
};
