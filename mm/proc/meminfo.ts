/**
 * /proc/meminfo. Compare fs/proc/meminfo.c and mm/hugetlb.c:hugetlb_report_meminfo().
 *
 * Lines of what this kernel does not have (buffers, slab, vmalloc) are there and say 0.
 */
import type { Kernel } from '../types.ts';
import { countNode } from './counts.ts';
import { kibLine, pagesLine } from './format.ts';

/** vm.overcommit_ratio. */
const OVERCOMMIT_RATIO = 0.5;
/** Addresses that vmalloc() may use: riscv's for the smallest format, Sv39. */
const VMALLOC_TOTAL_KIB = 64 * 1024 * 1024;
/** Pages per huge page of the default size, 2 MiB. */
const DEFAULT_HUGE_ORDER = 9;

/** The whole file. */
export const procMeminfo = (k: Kernel): string => {
  const c = countNode(k);
  const nrPages = k.state.zones.reduce((sum, { managedPages }) => sum + managedPages, 0);
  const cmaTotal = k.state.cmaAreas.reduce((sum, area) => sum + area.nrPages, 0);
  const { nrSlots, nrFree } = k.state.swap;
  const limit = Math.floor((nrPages - c.hugetlb) * OVERCOMMIT_RATIO) + nrSlots;
  const pages = (name: string, n: number): string => pagesLine(`${name}:`.padEnd(16), n);
  const lines = [
    pages('MemTotal', nrPages),
    pages('MemFree', c.free),
    // All file pages here can only be swapped: nothing but free memory is available at once.
    pages('MemAvailable', c.free + c.activeFile + c.inactiveFile),
    pages('Buffers', 0),
    pages('Cached', c.file),
    pages('SwapCached', c.swapCache),
    pages('Active', c.activeAnon + c.activeFile),
    pages('Inactive', c.inactiveAnon + c.inactiveFile),
    pages('Active(anon)', c.activeAnon),
    pages('Inactive(anon)', c.inactiveAnon),
    pages('Active(file)', c.activeFile),
    pages('Inactive(file)', c.inactiveFile),
    pages('Unevictable', c.unevictable),
    pages('Mlocked', c.mlocked),
    pages('SwapTotal', nrSlots),
    pages('SwapFree', nrFree),
    pages('Dirty', c.dirty),
    pages('Writeback', c.writeback),
    pages('AnonPages', c.anonMapped),
    pages('Mapped', c.fileMapped),
    pages('Shmem', c.shmem),
    pages('KReclaimable', 0),
    pages('Slab', 0),
    pages('SReclaimable', 0),
    pages('SUnreclaim', 0),
    pages('KernelStack', 0),
    pages('PageTables', c.pageTables),
    pages('SecPageTables', c.secondaryPageTables),
    pages('NFS_Unstable', 0),
    pages('Bounce', 0),
    pages('WritebackTmp', 0),
    pages('CommitLimit', limit),
    pages('Committed_AS', c.committed),
    kibLine('VmallocTotal:   ', VMALLOC_TOTAL_KIB),
    pages('VmallocUsed', 0),
    pages('VmallocChunk', 0),
    pages('Percpu', 0),
    kibLine('HardwareCorrupted: ', c.hwpoison * 4, 5),
    pages('AnonHugePages', c.anonHuge),
    pages('ShmemHugePages', c.shmemHuge),
    pages('ShmemPmdMapped', c.shmemPmdMapped),
    pages('FileHugePages', 0),
    pages('FilePmdMapped', 0),
    pages('CmaTotal', cmaTotal),
    pages('CmaFree', c.freeCma),
  ];
  return lines.join('') + hugetlbLines(k, c.hugetlb);
};

/** The pool of the default size by pages, and all pools by size. */
const hugetlbLines = (k: Kernel, hugetlbPages: number): string => {
  const pool = k.state.hugetlb.hstates.find(({ order }) => order === DEFAULT_HUGE_ORDER);
  if (pool === undefined) return '';
  const count = (name: string, n: number): string =>
    `${`${name}:`.padEnd(19)}${String(n).padStart(5)}\n`;
  return [
    count('HugePages_Total', pool.nrPages),
    count('HugePages_Free', pool.free.length),
    count('HugePages_Rsvd', pool.reserved),
    count('HugePages_Surp', 0),
    kibLine('Hugepagesize:   ', 4 << pool.order),
    pagesLine('Hugetlb:        ', hugetlbPages),
  ].join('');
};
