/**
 * The sanitizer: does the kernel's state satisfy the invariants that hold between any two yields?
 *
 * The numbered rules I1, I2, I3, I9, I10 and I11 (a message begins with the number), and that reverse
 * map, resident counts, caches, swap, pools, LRU lists and the buddy allocator agree. It walks everything and
 * believes no counter. With provenance on (mm/provenance/) every reference must have an owner by name,
 * and what pins promise is checked page by page: I4, I5, I13.
 */
import type { Kernel } from '../types.ts';
import { checkBuddy, checkPools } from './buddy.ts';
import { checkCaches, checkKsm, checkSwap } from './caches.ts';
import { freshCensus } from './census.ts';
import { checkDirty } from './dirty.ts';
import { checkFrames, checkPoolSizes, type Holders } from './frames.ts';
import { countHolders } from './holders.ts';
import { checkPins } from './pins.ts';
import { checkLongterm } from './longterm.ts';
import { checkLru } from './lru.ts';
import { checkMm } from './tables.ts';
import { checkReservations } from './hugetlb.ts';
import { checkSecondary } from './secondary.ts';
import { checkZoneDevices } from './zone-device.ts';

export interface CheckOptions {
  /**
   * No path is suspended: then nothing may be locked, isolated, migrating or mid-fork, I2 holds
   * (a GUP-fast on its way may have pinned a page that it will find shared), and plain references
   * number exactly `gets`. With provenance on every reference and pin has a record.
   */
  quiescent?: boolean;
  /**
   * Plain references that the caller knows of, besides those of pipes and those with a record of
   * provenance; only with `quiescent`. Default 0.
   */
  gets?: number;
}

/**
 * Checks everything. @returns violations, one line each; empty = all is well
 */
export const checkKernel = (k: Kernel, options: CheckOptions = {}): string[] => {
  const report: string[] = [];
  const { mms, stat } = k.state;
  const census = freshCensus(k);
  const settled = options.quiescent === true;
  for (const mm of mms.values()) checkMm(k, mm, census, settled, report);
  checkCaches(k, census, report);
  checkSwap(k, census, report);
  checkKsm(k, report);
  checkDirty(k, settled, report);
  countHolders(k, census);
  checkBuddy(k, census, settled, report);
  checkLru(k, census, report);
  checkPools(k, census, report);
  checkZoneDevices(k, census, settled, report);
  const holders = checkFrames(k, census, report);
  checkPoolSizes(k, census, holders, report);
  const live = stat.nr_foll_pin_acquired - stat.nr_foll_pin_released;
  if (holders.pins !== live)
    report.push(`I11 pins: ${holders.pins} are held, acquired - released = ${live}`);
  checkLongterm(k, report);
  checkSecondary(k, report);
  if (settled) {
    checkQuiescent(k, holders, options.gets ?? 0, report);
    checkPins(k, census, report);
  }
  return report;
};

const checkQuiescent = (k: Kernel, holders: Holders, gets: number, report: string[]): void => {
  checkReservations(k, report);
  if (holders.locked > 0) report.push(`${holders.locked} folios are locked by nobody`);
  if (holders.isolated > 0) report.push(`${holders.isolated} folios are isolated by nobody`);
  if (holders.migrating > 0) report.push(`${holders.migrating} migration entries are left behind`);
  for (const folio of holders.sharedPins)
    report.push(`I2 page ${folio}: anonymous, pinned and not exclusive`);
  for (const [folio, n] of holders.strangePins)
    if (n < 0 || k.state.provenance !== null)
      report.push(`I11 page ${folio}: ${Math.abs(n)} pins ${n < 0 ? 'too few' : 'of nobody'}`);
  if (holders.gets !== gets)
    report.push(`I11 ${holders.gets} plain references, ${gets} are known of`);
  for (const mm of k.state.mms.values()) {
    if (mm.mmapLock.writer || mm.mmapLock.readers > 0)
      report.push(`mm ${mm.id}: mmap_lock is held by nobody`);
    if ((mm.writeProtectSeq[0]! & 1) !== 0)
      report.push(`mm ${mm.id}: write_protect_seq is odd without a fork`);
  }
};

/** checkKernel, and throws what it finds. @throws Error with every violation, one a line */
export const assertKernel = (k: Kernel, options: CheckOptions = {}): void => {
  const report = checkKernel(k, options);
  if (report.length > 0) throw new Error(`sanitizer:\n${report.join('\n')}`);
};
