/**
 * Counters of one hart's MMU: 8-byte floats in the hart block from HART_COUNTERS on, so that generated
 * code can count as well. Slots 0..31 are the MMU's; the hart's own counters start at HART_COUNTER_FIRST.
 */
import { HART_BASE, HART_COUNTERS, HART_STRIDE } from '../layout.ts';
import type { PhysMemory } from '../memory.ts';

/** Names of the slots, in order. */
export const MMU_COUNTER_NAMES = [
  'tlbMissRead', // translations that the READ array did not have
  'tlbMissWrite',
  'tlbMissExec',
  'walks', // translations by the walker, MMIO and faults included
  'walkSteps', // page-table entries read
  'walkCacheHits', // upper levels skipped: S/VS leaf tables and G leaf tables
  'gpaCacheHits', // nested steps without a G-stage walk
  'adUpdates', // page-table entries whose A or D was set by hardware
  'pageFaults', // causes 12, 13, 15
  'guestPageFaults', // causes 20, 21, 23
  'accessFaults', // causes 1, 5, 7
  'contextSwitches', // contextChanged() calls that changed a key
  'contextsCreated', // translation contexts interned
  'contextsEvicted', // of those, the ones that pushed another out
  'flushes', // contexts and G-stage spaces that took a new generation, by a fence
  'flushAll', // fences that named everything
  'fencesPage', // fences with an address
  'fencesSpace', // fences without one, for one ASID or VMID
  'rollovers', // keys ran out, the arrays were cleared
] as const;

export type MmuCounterName = (typeof MMU_COUNTER_NAMES)[number];
export type MmuCounts = Record<MmuCounterName, number>;

export const COUNT_TLB_MISS_READ = 0;
export const COUNT_TLB_MISS_WRITE = 1;
export const COUNT_TLB_MISS_EXEC = 2;
export const COUNT_WALKS = 3;
export const COUNT_WALK_STEPS = 4;
export const COUNT_WALK_CACHE_HITS = 5;
export const COUNT_GPA_CACHE_HITS = 6;
export const COUNT_AD_UPDATES = 7;
export const COUNT_PAGE_FAULTS = 8;
export const COUNT_GUEST_PAGE_FAULTS = 9;
export const COUNT_ACCESS_FAULTS = 10;
export const COUNT_CONTEXT_SWITCHES = 11;
export const COUNT_CONTEXTS_CREATED = 12;
export const COUNT_CONTEXTS_EVICTED = 13;
export const COUNT_FLUSHES = 14;
export const COUNT_FLUSH_ALL = 15;
export const COUNT_FENCES_PAGE = 16;
export const COUNT_FENCES_SPACE = 17;
export const COUNT_ROLLOVERS = 18;

/** First slot that belongs to the hart. */
export const HART_COUNTER_FIRST = 32;

/** Index of a hart's slot 0 in PhysMemory.f64. */
export const counterBase = (hartIndex: number): number =>
  (HART_BASE + hartIndex * HART_STRIDE + HART_COUNTERS) >>> 3;

/** All counters of one hart's MMU, as a record. */
export const readMmuCounts = (memory: PhysMemory, hartIndex: number): MmuCounts => {
  const base = counterBase(hartIndex);
  const counts = {} as MmuCounts;
  MMU_COUNTER_NAMES.forEach((name, i) => {
    counts[name] = memory.f64[base + i]!;
  });
  return counts;
};
