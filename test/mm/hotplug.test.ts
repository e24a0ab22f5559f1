/** Memory that goes offline and comes back, by blocks of 128 MiB (2.9, I14). Compare mm/memory_hotplug.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  drive,
  EBUSY,
  EINTR,
  EINVAL,
  ENXIO,
  GFP_KERNEL,
  GFP_MOVABLE,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  type Kernel,
  MAP_SHARED,
  MEMORY_BLOCK_PAGES,
  memoryFailure,
  MIGRATE_ISOLATE,
  mmap,
  nrFreePages,
  type OfflineReport,
  offlinePages,
  onlinePages,
  type Path,
  pageblockType,
  pageOnline,
  pageZoneIndex,
  pipeRelease,
  procMeminfo,
  sendSignal,
  SIGNAL_FATAL,
  shmemCreate,
  signalHandled,
  ZONE_DMA32,
  ZONE_MOVABLE,
} from '#mm';
import { YP_ISOLATED_BLOCKS, YP_WAIT } from '../../mm/path.ts';
import { createProcess, exit, mapAnon, pageAt, RW, stepTo } from './support.ts';
import {
  assertAtRest,
  checkStamps,
  cpuSeconds,
  createZonedWorld,
  freeOf,
  giveAll,
  heldByPipe,
  MIB,
  stamp,
  takeAll,
} from './zone-world.ts';

const NR = MEMORY_BLOCK_PAGES;

/** 256 MiB, of which the upper block of 128 is MOVABLE, with a process whose pages are there. */
const withUser = (nrPages = 3000) => {
  const w = createZonedWorld(256 * MIB, { movableBytes: 128 * MIB });
  const p = createProcess(w);
  const hva = mapAnon(p, nrPages);
  stamp(p, hva, nrPages);
  expect(pageZoneIndex(w.k, pageAt(p, hva))).toBe(ZONE_MOVABLE);
  return { w, k: w.k, p, hva, nrPages };
};

const offline = (k: Kernel, startPage: number, maxRounds?: number): OfflineReport =>
  drive(offlinePages(k, startPage, NR, maxRounds === undefined ? {} : { maxRounds }));

/** One step of an offlining that only waits. */
const waits = (path: Path<OfflineReport>): void => {
  expect(path.next()).toEqual({ value: YP_WAIT, done: false });
};

describe('offline', () => {
  it("moves users out, and the memory is nobody's: not free, not handed out, not in MemTotal", () => {
    const { w, k, p, hva, nrPages } = withUser();
    const report = offline(k, NR);
    expect([report.error, report.moved, report.scans, report.held]).toEqual([0, nrPages, 1, []]);
    checkStamps(p, hva, nrPages);
    expect(pageZoneIndex(k, pageAt(p, hva))).toBe(ZONE_DMA32);
    expect([pageOnline(k, NR - 1), pageOnline(k, NR), pageOnline(k, 2 * NR)]).toEqual([
      true,
      false,
      false,
    ]);
    expect(k.state.zones[ZONE_MOVABLE]?.managedPages).toBe(0);
    expect(procMeminfo(k)).toContain('MemTotal:         131072 kB');
    const pages = takeAll(k, GFP_MOVABLE);
    expect(pages.some((page) => page >= NR)).toBe(false);
    giveAll(k, pages);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart - NR);
    expect(drive(memoryFailure(k, NR + 5))).toBe(-ENXIO);
    assertAtRest(k);
  });

  it('files and huge pages move as well', () => {
    const { k, p } = withUser(10);
    const mapping = shmemCreate(k, 2000);
    const request = { hva: 0, lenBytes: 2000 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const file = drive(mmap(k, p.mm, request));
    stamp(p, file, 2000, 4);
    k.state.thp.always = 1 << HUGETLB_ORDER_2M;
    const huge = mapAnon(p, 3000);
    stamp(p, huge, 3000, 8);
    expect(k.state.stat.thp_fault_alloc).toBeGreaterThan(3);
    expect(offline(k, NR).error).toBe(0);
    checkStamps(p, file, 2000, 4);
    checkStamps(p, huge, 3000, 8);
    assertAtRest(k);
  });

  it('2.9, I14: it waits for as long as vmsplice holds a page, and completes when that is released', () => {
    const { k, p, hva, nrPages } = withUser();
    const pipe = heldByPipe(p, hva + 7 * PAGE_SIZE);
    const path = offlinePages(k, NR, NR);
    for (let i = 0; i < 50; i++) waits(path);
    expect(pageZoneIndex(k, pageAt(p, hva + 7 * PAGE_SIZE))).toBe(ZONE_MOVABLE);
    pipeRelease(k, pipe);
    const report = drive(path);
    expect([report.error, report.moved, report.held]).toEqual([0, nrPages, []]);
    expect(report.scans).toBeGreaterThan(50);
    checkStamps(p, hva, nrPages);
    assertAtRest(k);
  });

  it('with a limit on rounds it gives up: -EBUSY, and the report names who has the page', () => {
    const { w, k, p, hva, nrPages } = withUser();
    const pipe = heldByPipe(p, hva + 7 * PAGE_SIZE);
    const report = offline(k, NR, 3);
    expect([report.error, report.scans, report.moved]).toEqual([-EBUSY, 3, nrPages - 1]);
    expect(report.held).toEqual([
      {
        page: pageAt(p, hva + 7 * PAGE_SIZE),
        reason: 'referenced',
        holders: [`vmsplice (pipe ${pipe.id})`],
      },
    ]);
    expect([freeOf(k, MIGRATE_ISOLATE), pageOnline(k, NR)]).toEqual([0, true]);
    pipeRelease(k, pipe);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
    assertAtRest(k);
  });

  it('a fatal signal ends the waiting with -EINTR, and the memory stays', () => {
    const { k, p, hva } = withUser();
    heldByPipe(p, hva);
    const path = offlinePages(k, NR, NR);
    waits(path);
    sendSignal(k, SIGNAL_FATAL);
    expect(drive(path).error).toBe(-EINTR);
    signalHandled(k);
    expect(pageOnline(k, NR)).toBe(true);
    expect(pageblockType(k, NR)).not.toBe(MIGRATE_ISOLATE);
  });

  it("a kernel's page: -EBUSY at once, for it never moves; MOVABLE never has one", () => {
    const { k } = withUser();
    const report = offline(k, 0);
    expect([report.error, report.moved, report.scans]).toEqual([-EBUSY, 0, 0]);
    expect(report.held).toEqual([{ page: 0, reason: 'reserved', holders: ['reserved'] }]);
    const page = allocPages(k, 0, GFP_KERNEL);
    expect(page).toBeLessThan(NR);
  });

  it('what is in use by nobody knows whom keeps it going, with its reason', () => {
    const { k } = withUser();
    const page = allocPages(k, 0, GFP_MOVABLE);
    const report = offline(k, NR, 2);
    expect(report.error).toBe(-EBUSY);
    expect(report.held).toEqual([{ page, reason: 'allocated by the kernel', holders: ['kernel'] }]);
  });

  it('CMA does not go offline', () => {
    const { k } = createZonedWorld(256 * MIB, { cmaBytes: 16 * MIB });
    const report = offline(k, NR);
    expect([report.error, report.held.length]).toEqual([-EBUSY, 1]);
    expect(freeOf(k, MIGRATE_ISOLATE)).toBe(0);
    assertAtRest(k);
  });

  it('a broken page does not count, and stays broken when the memory comes back', () => {
    const { w, k, p, hva, nrPages } = withUser();
    const bad = pageAt(p, hva + PAGE_SIZE);
    expect(drive(memoryFailure(k, bad))).toBe(0);
    expect(drive(memoryFailure(k, 2 * NR - 5))).toBe(0);
    const report = offline(k, NR);
    expect([report.error, report.moved]).toEqual([0, nrPages - 1]);
    assertAtRest(k);
    expect(onlinePages(k, NR, NR)).toBe(0);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart - 2);
    assertAtRest(k);
  });

  it('free pages of a hugetlb pool leave it; promised ones keep the memory online', () => {
    const { k } = withUser(1);
    const pool = k.state.hugetlb.hstates[0]!;
    hugetlbSetPool(k, HUGETLB_ORDER_2M, 3);
    pool.reserved = 1;
    expect(offline(k, NR, 5).error).toBe(-EBUSY);
    pool.reserved = 0;
    expect(offline(k, NR).error).toBe(0);
    expect([pool.nrPages, pool.free]).toEqual([0, []]);
    assertAtRest(k);
  });

  it('only whole blocks that are online and of one zone: -EINVAL', () => {
    const { k } = createZonedWorld(384 * MIB, { movableBytes: 64 * MIB });
    for (const [first, nr] of [
      [NR + 512, NR],
      [NR, 512],
      [0, 0],
      [2 * NR, 2 * NR],
      [2 * NR, NR],
    ])
      expect(drive(offlinePages(k, first!, nr!)).error).toBe(-EINVAL);
    expect(offline(k, NR).error).toBe(0);
    expect(offline(k, NR).error).toBe(-EINVAL);
    expect(onlinePages(k, 0, NR)).toBe(-EINVAL);
  });

  it('an allocation in the middle of it gets nothing from the range', () => {
    const { k, p, hva, nrPages } = withUser();
    const path = offlinePages(k, NR, NR);
    stepTo(k, path, YP_ISOLATED_BLOCKS);
    const more = mapAnon(p, 100);
    stamp(p, more, 100);
    expect(pageAt(p, more)).toBeLessThan(NR);
    expect(drive(path).moved).toBe(nrPages);
    checkStamps(p, hva, nrPages);
  });
});

describe('online', () => {
  it('puts the memory back, all of it free', () => {
    const { w, k, p } = withUser();
    offline(k, NR);
    expect(onlinePages(k, NR, NR)).toBe(0);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
    expect(pageZoneIndex(k, allocPages(k, 0, GFP_MOVABLE))).toBe(ZONE_MOVABLE);
    expect(k.state.zones[ZONE_MOVABLE]?.managedPages).toBe(NR);
    assertAtRest(k);
  });

  it('to MOVABLE where asked: the kernel has it no more, and it can go offline at any time', () => {
    const { k } = createZonedWorld(384 * MIB);
    expect(offline(k, NR).error).toBe(0);
    expect(onlinePages(k, NR, NR, ZONE_MOVABLE)).toBe(0);
    const movable = k.state.zones[ZONE_MOVABLE]!;
    expect([movable.firstPage, movable.endPage, movable.managedPages]).toEqual([NR, 2 * NR, NR]);
    const pages = takeAll(k, GFP_KERNEL);
    expect(pages.some((page) => page >= NR && page < 2 * NR)).toBe(false);
    expect(pages.some((page) => page >= 2 * NR)).toBe(true);
    giveAll(k, pages);
    assertAtRest(k);
    expect(offline(k, NR).error).toBe(0);
    expect(onlinePages(k, NR, NR, ZONE_DMA32)).toBe(0);
    expect(k.state.zones.map(({ managedPages }) => managedPages)).toEqual([3 * NR, 0, 0]);
    assertAtRest(k);
  });

  it('not to a zone that its address does not allow: -EINVAL', () => {
    const { k } = withUser();
    offline(k, NR);
    expect(onlinePages(k, NR, NR, 1)).toBe(-EINVAL);
    expect(onlinePages(k, NR, NR, 5)).toBe(-EINVAL);
  });
});

describe('how long it takes', () => {
  it('128 MiB full of users, from one half of memory to the other: under two seconds', () => {
    const { k, p, hva } = withUser(NR - 200);
    const before = process.cpuUsage();
    const report = offline(k, NR);
    expect(cpuSeconds(before)).toBeLessThan(2);
    expect([report.error, report.moved]).toEqual([0, NR - 200]);
    expect(p.load32(hva)).toBe(1);
  });
});
