/** The kernel's event counters (types.ts: VmStat). Compare mm/vmstat.c. */
import { addField } from '#cells';
import type { Kernel, VmStat } from './types.ts';

export const createVmStat = (): VmStat => ({
  pgfault: 0,
  pgalloc: 0,
  pgfree: 0,
  nr_foll_pin_acquired: 0,
  nr_foll_pin_released: 0,
  pgmigrate_success: 0,
  pgmigrate_fail: 0,
  cma_alloc_success: 0,
  cma_alloc_fail: 0,
  cow_copied: 0,
  cow_reused: 0,
  fork_copied_pinned: 0,
  wrprotect: 0,
  thp_fault_alloc: 0,
  thp_fault_fallback: 0,
  thp_collapse_alloc: 0,
  thp_split_page: 0,
  thp_split_page_failed: 0,
  thp_split_pmd: 0,
  thp_zero_page_alloc: 0,
  pswpin: 0,
  pswpout: 0,
  ksm_merged: 0,
  ksm_cow: 0,
  unshare_copied: 0,
  notifier_invalidations: 0,
  tlb_shootdowns: 0,
  numa_hint_faults: 0,
});

/** Adds `delta` to a counter. */
export const countStat = (k: Kernel, name: keyof VmStat, delta = 1): void =>
  addField(k.state.stat, name, delta);
