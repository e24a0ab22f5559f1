/**
 * Sstc: stimecmp and vstimecmp against the time, and the clock events at which they come due. Sstc 1.0
 * and Privileged ISA 1.13, 12.1.12 and 15.2.21. The comparison is made whenever mip is looked at;
 * the events only see to it that somebody looks at the right moment.
 */
import { INSTRUCTIONS_PER_TICK } from '../clock.ts';
import { ENVCFG_STCE_HI } from './bits.ts';
import type { HartCore } from './core.ts';
import {
  SLOT_HENVCFG,
  SLOT_HTIMEDELTA,
  SLOT_MENVCFG,
  SLOT_STIMECMP,
  SLOT_VSTIMECMP,
} from './csr-table.ts';

const TWO_32 = 2 ** 32;
/** Ticks that are further away than any run lasts. */
const NEVER_TICKS = 2 ** 45;

/** Kinds of the hart's clock events. */
const EVENT_TIMER = 0;

/** Name under which a hart receives clock events. */
export const hartTarget = (index: number): string => `hart${index}`;

/** Does stimecmp drive STIP (menvcfg.STCE)? */
export const stimecmpEnabled = (core: HartCore): boolean =>
  (core.hi(SLOT_MENVCFG) & ENVCFG_STCE_HI) !== 0;
/** Does vstimecmp drive VSTIP? henvcfg.STCE is read-only zero while menvcfg.STCE is. */
export const vstimecmpEnabled = (core: HartCore): boolean =>
  (core.hi(SLOT_MENVCFG) & core.hi(SLOT_HENVCFG) & ENVCFG_STCE_HI) !== 0;

/** Ticks until time reaches stimecmp; 0 or less when it has. */
export const stimecmpDistance = (core: HartCore): number =>
  (core.hi(SLOT_STIMECMP) >>> 0) * TWO_32 + (core.lo(SLOT_STIMECMP) >>> 0) - core.clock.ticks;

/** Ticks until time + htimedelta, modulo 2^64, reaches vstimecmp as unsigned numbers; 0 or less when it has. */
export const vstimecmpDistance = (core: HartCore): number => {
  const ticks = core.clock.ticks;
  const lo = (ticks % TWO_32) + (core.lo(SLOT_HTIMEDELTA) >>> 0);
  const hi =
    (Math.floor(ticks / TWO_32) + (core.hi(SLOT_HTIMEDELTA) >>> 0) + (lo >= TWO_32 ? 1 : 0)) %
    TWO_32;
  const dHi = (core.hi(SLOT_VSTIMECMP) >>> 0) - hi;
  const dLo = (core.lo(SLOT_VSTIMECMP) >>> 0) - (lo % TWO_32);
  return dHi * TWO_32 + dLo;
};

/** Schedules the event of the earliest comparison that is still to come true. */
export const armTimers = (core: HartCore): void => {
  core.syncClock();
  const clock = core.clock;
  const target = hartTarget(core.index);
  clock.cancel(target, EVENT_TIMER);
  let soonest = NEVER_TICKS;
  if (stimecmpEnabled(core)) {
    const ticks = stimecmpDistance(core);
    if (ticks > 0 && ticks < soonest) soonest = ticks;
  }
  if (vstimecmpEnabled(core)) {
    const ticks = vstimecmpDistance(core);
    if (ticks > 0 && ticks < soonest) soonest = ticks;
  }
  if (soonest < NEVER_TICKS)
    clock.at((clock.ticks + soonest) * INSTRUCTIONS_PER_TICK, target, EVENT_TIMER);
};
