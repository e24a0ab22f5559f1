/**
 * TLB shootdowns, counted: every hart forgets what it caches of an address space, and so does every
 * device that walks its tables.
 */
import { PAGE_SIZE } from '#emu';
import { notifySecondaryTlbs } from '../notifier/notifier.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct } from '../types.ts';

export const flushTlbPage = (k: Kernel, mm: MmStruct, hva: number): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushPage(mm.asid, hva);
  notifySecondaryTlbs(k, mm, hva, hva + PAGE_SIZE);
};

/** [start, end) in hva. Leaf entries only: pointers to tables may stay cached. */
export const flushTlbRange = (k: Kernel, mm: MmStruct, start: number, end: number): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushRange(mm.asid, start, end);
  notifySecondaryTlbs(k, mm, start, end);
};

/** Everything of the address space, pointers to tables included. */
export const flushTlbMm = (k: Kernel, mm: MmStruct): void => {
  countStat(k, 'tlb_shootdowns');
  k.tlb.flushAsid(mm.asid);
  notifySecondaryTlbs(k, mm, 0, Number.POSITIVE_INFINITY);
};
