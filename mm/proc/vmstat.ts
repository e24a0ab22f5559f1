/**
 * /proc/vmstat: a name and a number a line, by Linux's names and in its order (mm/vmstat.c,
 * vmstat_text). Counters that this kernel does not keep are left out; those that Linux does not have
 * (copies on write, notifier calls) are not in here.
 */
import type { Kernel } from '../types.ts';
import { countNode } from './counts.ts';

/** The whole file. */
export const procVmstat = (k: Kernel): string =>
  Object.entries(vmstatOf(k))
    .map(([name, value]) => `${name} ${value}\n`)
    .join('');

const HUGE = 512;

/** Names and numbers, in the order of the file. */
const vmstatOf = (k: Kernel): Record<string, number> => {
  const c = countNode(k);
  const { stat } = k.state;
  return {
    nr_free_pages: c.free,
    nr_zone_inactive_anon: c.inactiveAnon,
    nr_zone_active_anon: c.activeAnon,
    nr_zone_inactive_file: c.inactiveFile,
    nr_zone_active_file: c.activeFile,
    nr_zone_unevictable: c.unevictable,
    nr_zone_write_pending: c.dirty + c.writeback,
    nr_mlock: c.mlocked,
    nr_free_cma: c.freeCma,
    nr_inactive_anon: c.inactiveAnon,
    nr_active_anon: c.activeAnon,
    nr_inactive_file: c.inactiveFile,
    nr_active_file: c.activeFile,
    nr_unevictable: c.unevictable,
    nr_isolated_anon: c.isolatedAnon,
    nr_isolated_file: c.isolatedFile,
    nr_anon_pages: c.anonMapped,
    nr_mapped: c.fileMapped,
    nr_file_pages: c.file + c.swapCache,
    nr_dirty: c.dirty,
    nr_writeback: c.writeback,
    nr_shmem: c.shmem,
    nr_shmem_hugepages: c.shmemHuge / HUGE,
    nr_shmem_pmdmapped: c.shmemPmdMapped / HUGE,
    nr_file_hugepages: 0,
    nr_file_pmdmapped: 0,
    nr_anon_transparent_hugepages: c.anonHuge / HUGE,
    nr_foll_pin_acquired: stat.nr_foll_pin_acquired,
    nr_foll_pin_released: stat.nr_foll_pin_released,
    nr_page_table_pages: c.pageTables,
    nr_sec_page_table_pages: c.secondaryPageTables,
    nr_swapcached: c.swapCache,
    nr_hugetlb: c.hugetlb,
    pswpin: stat.pswpin,
    pswpout: stat.pswpout,
    pgfree: stat.pgfree,
    pgfault: stat.pgfault,
    numa_hint_faults: stat.numa_hint_faults,
    pgmigrate_success: stat.pgmigrate_success,
    pgmigrate_fail: stat.pgmigrate_fail,
    cma_alloc_success: stat.cma_alloc_success,
    cma_alloc_fail: stat.cma_alloc_fail,
    thp_fault_alloc: stat.thp_fault_alloc,
    thp_fault_fallback: stat.thp_fault_fallback,
    thp_collapse_alloc: stat.thp_collapse_alloc,
    thp_split_page: stat.thp_split_page,
    thp_split_page_failed: stat.thp_split_page_failed,
    thp_split_pmd: stat.thp_split_pmd,
    thp_zero_page_alloc: stat.thp_zero_page_alloc,
    cow_ksm: stat.ksm_cow,
  };
};
