/** /proc/meminfo, vmstat, kpageflags and kpagecount, held against what was done. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import {
  drive,
  FAULT_FLAG_WRITE,
  fork,
  handleMmFault,
  type HostProcess,
  hugetlbSetPool,
  type Kernel,
  kpageFlagNames,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  migrateFolio,
  mmap,
  pageToPfn,
  procKpagecount,
  procKpageflags,
  procMeminfo,
  procVmstat,
  shmemCreate,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { PG_HWPOISON } from '../../mm/frames/table.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { createProcess, createWorld, mapAnon, pageAt, RW, type World } from './support.ts';

let w: World;
let k: Kernel;
let p: HostProcess;
beforeEach(() => {
  w = createWorld(32 << 20);
  k = w.k;
  p = createProcess(w);
});

const touch = (hva: number, n: number): void => {
  for (let i = 0; i < n; i++) expect(p.store32(hva + i * PAGE_SIZE, i + 1)).toBe(0);
};

const mapShared = (nrPages: number): number => {
  const mapping = shmemCreate(k, nrPages);
  const request = { lenBytes: nrPages * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping, pgoff: 0 };
  return drive(mmap(k, p.mm, request));
};

describe('/proc/meminfo — fs/proc/meminfo.c', () => {
  const meminfo = (): Record<string, number> => {
    const values: Record<string, number> = {};
    for (const line of procMeminfo(k).trimEnd().split('\n')) {
      const [, name, value] = /^([\w()]+): +(\d+)(?: kB)?$/.exec(line)!;
      values[name!] = Number(value);
    }
    return values;
  };
  /** What an action changed, in KiB. */
  const delta = (act: () => void): Record<string, number> => {
    const before = meminfo();
    act();
    const after = meminfo();
    return Object.fromEntries(
      Object.keys(after)
        .map((name) => [name, after[name]! - before[name]!] as const)
        .filter(([, change]) => change !== 0),
    );
  };

  it("begins as Linux's does, names and numbers in columns", () => {
    const lines = procMeminfo(k).split('\n');
    expect(lines[0]).toBe(`MemTotal:       ${String((32 << 20) / 1024).padStart(8)} kB`);
    expect(lines.slice(0, 5).map((line) => line.split(':')[0])).toEqual([
      'MemTotal',
      'MemFree',
      'MemAvailable',
      'Buffers',
      'Cached',
    ]);
    for (const line of lines.filter((l) => l.endsWith(' kB') && !l.startsWith('HardwareC')))
      expect(line).toHaveLength(27);
    expect(lines.find((line) => line.startsWith('HugePages_Total'))).toMatch(
      /^HugePages_Total: {7}0$/,
    );
    expect(lines.find((line) => line.startsWith('HardwareC'))).toMatch(
      /^HardwareCorrupted: {5}0 kB$/,
    );
  });

  it('anonymous memory: pages, and the tables that they need', () => {
    const hva = mapAnon(p, 10);
    const change = delta(() => touch(hva, 10));
    expect(change).toMatchObject({ AnonPages: 40, 'Inactive(anon)': 40 });
    expect(change['MemFree']).toBe(-40 - change['PageTables']!);
    expect(change['PageTables']).toBe(8); // two levels below the root
  });

  it('pages that a fork shares are counted once', () => {
    const hva = mapAnon(p, 4);
    touch(hva, 4);
    expect(delta(() => drive(fork(k, p.mm)))['AnonPages']).toBeUndefined();
  });

  it('shared memory is cached, mapped, and on the anonymous list', () => {
    const hva = mapShared(3);
    expect(delta(() => touch(hva, 3))).toMatchObject({
      Cached: 12,
      Mapped: 12,
      Shmem: 12,
      'Inactive(anon)': 12,
    });
  });

  it('swap: what is out, and what is in both places', () => {
    swapon(k, 100);
    expect(meminfo()).toMatchObject({ SwapTotal: 400, SwapFree: 400, SwapCached: 0 });
    const hva = mapAnon(p, 5);
    touch(hva, 5);
    const change = delta(() => drive(madvise(k, p.mm, hva, 5 * PAGE_SIZE, MADV_PAGEOUT)));
    expect(change).toMatchObject({ SwapFree: -20, AnonPages: -20, MemFree: 20 });
  });

  it('huge pages: transparent by size, hugetlb by number', () => {
    k.state.thp.always = 1 << 9;
    const hva = mapAnon(p, 512, RW, 0x4000_0000);
    expect(delta(() => p.store32(hva, 1))).toMatchObject({ AnonHugePages: 2048, AnonPages: 2048 });
    expect(delta(() => hugetlbSetPool(k, 9, 3))).toMatchObject({
      HugePages_Total: 3,
      HugePages_Free: 3,
      Hugetlb: 6144,
      MemFree: -6144,
    });
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    let huge = 0;
    const reserved = delta(() => {
      huge = drive(mmap(k, p.mm, { lenBytes: 4 << 20, prot: RW, flags }));
    });
    expect(reserved).toMatchObject({ HugePages_Rsvd: 2 });
    expect(delta(() => p.store32(huge, 1))).toMatchObject({
      HugePages_Rsvd: -1,
      HugePages_Free: -1,
    });
  });

  it('broken frames are in HardwareCorrupted', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    expect(
      delta(() => {
        k.state.frames.flags[pageAt(p, hva)]! |= PG_HWPOISON;
      }),
    ).toEqual({ HardwareCorrupted: 4 });
  });
});

/** Names of mm/vmstat.c, in its order; gaps are counters that are not kept here. */
const VMSTAT_ORDER = [
  'nr_free_pages',
  'nr_free_pages_blocks',
  'nr_zone_inactive_anon',
  'nr_zone_active_anon',
  'nr_zone_inactive_file',
  'nr_zone_active_file',
  'nr_zone_unevictable',
  'nr_zone_write_pending',
  'nr_mlock',
  'nr_free_cma',
  'nr_inactive_anon',
  'nr_active_anon',
  'nr_inactive_file',
  'nr_active_file',
  'nr_unevictable',
  'nr_slab_reclaimable',
  'nr_slab_unreclaimable',
  'nr_isolated_anon',
  'nr_isolated_file',
  'workingset_nodes',
  'nr_anon_pages',
  'nr_mapped',
  'nr_file_pages',
  'nr_dirty',
  'nr_writeback',
  'nr_shmem',
  'nr_shmem_hugepages',
  'nr_shmem_pmdmapped',
  'nr_file_hugepages',
  'nr_file_pmdmapped',
  'nr_anon_transparent_hugepages',
  'nr_vmscan_write',
  'nr_dirtied',
  'nr_written',
  'nr_kernel_misc_reclaimable',
  'nr_foll_pin_acquired',
  'nr_foll_pin_released',
  'nr_kernel_stack',
  'nr_page_table_pages',
  'nr_sec_page_table_pages',
  'nr_swapcached',
  'nr_hugetlb',
  'nr_dirty_threshold',
  'pgpgin',
  'pgpgout',
  'pswpin',
  'pswpout',
  'pgfree',
  'pgactivate',
  'pgdeactivate',
  'pgfault',
  'pgmajfault',
  'numa_hint_faults',
  'pgmigrate_success',
  'pgmigrate_fail',
  'cma_alloc_success',
  'cma_alloc_fail',
  'thp_fault_alloc',
  'thp_fault_fallback',
  'thp_fault_fallback_charge',
  'thp_collapse_alloc',
  'thp_collapse_alloc_failed',
  'thp_split_page',
  'thp_split_page_failed',
  'thp_split_pmd',
  'thp_zero_page_alloc',
  'thp_swpout',
  'ksm_swpin_copy',
  'cow_ksm',
];

describe('/proc/vmstat — mm/vmstat.c', () => {
  const vmstat = (): Map<string, number> =>
    new Map(
      procVmstat(k)
        .trimEnd()
        .split('\n')
        .map((line) => {
          const [, name, value] = /^(\w+) (\d+)$/.exec(line)!;
          return [name!, Number(value)];
        }),
    );
  const change = (act: () => void): Record<string, number> => {
    const before = vmstat();
    act();
    return Object.fromEntries(
      [...vmstat()]
        .map(([name, value]) => [name, value - before.get(name)!] as const)
        .filter(([, n]) => n !== 0),
    );
  };

  it('has only names of Linux, in its order', () => {
    const names = [...vmstat().keys()];
    const places = names.map((name) => VMSTAT_ORDER.indexOf(name));
    expect(places).not.toContain(-1);
    expect(places).toEqual(places.toSorted((a, b) => a - b));
  });

  it('counts pins taken and given back', () => {
    const hva = mapAnon(p, 4);
    touch(hva, 4);
    const pages = new Int32Array(4);
    expect(change(() => drive(pinUserPagesFast(k, p.mm, hva, 4, 1, pages)))).toEqual({
      nr_foll_pin_acquired: 4,
    });
    expect(change(() => unpinUserPages(k, pages, 4))).toEqual({ nr_foll_pin_released: 4 });
  });

  it('counts faults, and pages by kind', () => {
    const hva = mapAnon(p, 3);
    touch(hva, 1);
    expect(change(() => drive(handleMmFault(k, p.mm, hva + PAGE_SIZE, FAULT_FLAG_WRITE)))).toEqual({
      nr_free_pages: -1,
      nr_zone_inactive_anon: 1,
      nr_inactive_anon: 1,
      nr_anon_pages: 1,
      pgfault: 1,
    });
  });

  it('counts what moved, what was split, what went to swap', () => {
    swapon(k, 64);
    k.state.thp.always = 1 << 9;
    const hva = mapAnon(p, 512, RW, 0x4000_0000);
    expect(change(() => p.store32(hva, 1))).toMatchObject({
      thp_fault_alloc: 1,
      nr_anon_transparent_hugepages: 1,
      nr_anon_pages: 512,
    });
    expect(change(() => drive(madvise(k, p.mm, hva, PAGE_SIZE, 4)))).toMatchObject({
      thp_split_pmd: 1,
      nr_anon_transparent_hugepages: -1,
      nr_anon_pages: -1,
    });
    k.state.thp.always = 0;
    const small = mapAnon(p, 2);
    touch(small, 2);
    expect(change(() => drive(migrateFolio(k, pageAt(p, small))))).toMatchObject({
      pgmigrate_success: 1,
    });
    expect(change(() => drive(madvise(k, p.mm, small, 2 * PAGE_SIZE, MADV_PAGEOUT)))).toMatchObject(
      { pswpout: 2, nr_anon_pages: -2 },
    );
    expect(change(() => p.load32(small))).toMatchObject({ pswpin: 1 });
  });
});

describe('/proc/kpageflags — include/uapi/linux/kernel-page-flags.h', () => {
  /** KPF_* by number, as the header has them. */
  const KPF = {
    LOCKED: 0,
    REFERENCED: 2,
    UPTODATE: 3,
    DIRTY: 4,
    LRU: 5,
    BUDDY: 10,
    MMAP: 11,
    ANON: 12,
    SWAPBACKED: 14,
    COMPOUND_HEAD: 15,
    COMPOUND_TAIL: 16,
    HUGE: 17,
    NOPAGE: 20,
    THP: 22,
    ZERO_PAGE: 24,
    PGTABLE: 26,
    RESERVED: 32,
  };
  const wordOf = (page: number): bigint => procKpageflags(k, pageToPfn(page), 1)[0]!;
  const has = (page: number, ...names: (keyof typeof KPF)[]): boolean[] =>
    names.map((name) => ((wordOf(page) >> BigInt(KPF[name])) & 1n) !== 0n);

  it('below RAM there is no page', () => {
    expect(procKpageflags(k, RAM_PFN_BASE - 1, 1)[0]).toBe(1n << 20n);
    expect(procKpageflags(k, RAM_PFN_BASE + k.memory.nrPages, 1)[0]).toBe(1n << 20n);
  });

  it('an anonymous page', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    const page = pageAt(p, hva);
    expect(has(page, 'MMAP', 'ANON', 'SWAPBACKED', 'LRU', 'UPTODATE')).toEqual(Array(5).fill(true));
    expect(has(page, 'LOCKED', 'BUDDY', 'COMPOUND_HEAD', 'THP', 'HUGE')).toEqual(
      Array(5).fill(false),
    );
    expect(kpageFlagNames(wordOf(page))).toEqual([
      'uptodate',
      'lru',
      'mmap',
      'anonymous',
      'swapbacked',
    ]);
  });

  it("a file's page is not anonymous; a page table, the zero page and free memory say so", () => {
    const hva = mapShared(1);
    touch(hva, 1);
    expect(has(pageAt(p, hva), 'MMAP', 'ANON', 'SWAPBACKED')).toEqual([true, false, true]);
    expect(has(p.mm.pgd, 'PGTABLE', 'MMAP')).toEqual([true, false]);
    expect(has(k.state.zeroPage, 'ZERO_PAGE', 'RESERVED')).toEqual([true, true]);
    const free = k.state.zones[0]!.freeHead.find((page) => page >= 0) ?? -1;
    expect(has(free, 'BUDDY', 'LRU')).toEqual([true, false]);
  });

  it("a folio's flags are on every page of it; head and tail are told apart", () => {
    k.state.thp.always = 1 << 9;
    const hva = mapAnon(p, 512, RW, 0x4000_0000);
    p.store32(hva, 1);
    const head = pageToPfn(0) + k.state.frames.flags.findIndex((word) => (word & (1 << 7)) !== 0);
    const [first, second] = [...procKpageflags(k, head, 2)];
    const names = [kpageFlagNames(first!), kpageFlagNames(second!)];
    for (const list of names)
      expect(list).toEqual(expect.arrayContaining(['mmap', 'anonymous', 'thp']));
    expect(names[0]).toContain('compound_head');
    expect(names[1]).toContain('compound_tail');
    hugetlbSetPool(k, 9, 1);
    const pool = k.state.hugetlb.hstates[0]!.free[0]!;
    expect(has(pool, 'HUGE', 'THP', 'COMPOUND_HEAD')).toEqual([true, false, true]);
    expect(has(pool + 1, 'HUGE', 'COMPOUND_TAIL')).toEqual([true, true]);
  });

  it('kpagecount: entries that map the page, by itself or with its folio', () => {
    const hva = mapAnon(p, 1);
    touch(hva, 1);
    const count = (page: number): bigint => procKpagecount(k, pageToPfn(page), 1)[0]!;
    const page = pageAt(p, hva);
    expect(count(page)).toBe(1n);
    drive(fork(k, p.mm));
    expect(count(page)).toBe(2n);
    expect(count(p.mm.pgd)).toBe(0n);
    expect(procKpagecount(k, RAM_PFN_BASE - 1, 1)[0]).toBe(0n);
  });
});
