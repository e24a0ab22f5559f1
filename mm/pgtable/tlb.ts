/** TLB shootdowns, counted: every hart forgets what it caches of an address space. */
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct } from '../types.ts';

export const flushTlbPage = (k: Kernel, mm: MmStruct, hva: number): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushPage(mm.asid, hva);
};

/** [start, end) in hva. Leaf entries only: pointers to tables may stay cached. */
export const flushTlbRange = (k: Kernel, mm: MmStruct, start: number, end: number): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushRange(mm.asid, start, end);
};

/** Everything of the address space, pointers to tables included. */
export const flushTlbMm = (k: Kernel, mm: MmStruct): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushAsid(mm.asid);
};
