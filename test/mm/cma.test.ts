/** CMA: the bitmap, what is in the way of an allocation, and who keeps it there (2.9). Compare mm/cma.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  cmaAlloc,
  cmaDefaultArea,
  cmaRelease,
  createMoveReport,
  drive,
  EBUSY,
  EINVAL,
  ENOMEM,
  GFP_KERNEL,
  GFP_MOVABLE,
  MAP_SHARED,
  MIGRATE_CMA,
  migrateFolio,
  mmap,
  munmap,
  nrFreePages,
  pageblockType,
  pageZoneIndex,
  pipeRelease,
  procMeminfo,
  shmemCreate,
  ZONE_DMA32,
} from '#mm';
import { FOLL_LONGTERM, FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { lruConfigure, lruSetCpu } from '../../mm/lru/batch.ts';
import { YP_ISOLATED_BLOCKS, YP_WAIT } from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import { createProcess, exit, mapAnon, pageAt, RW, stepTo, type World } from './support.ts';
import {
  assertAtRest,
  checkStamps,
  cpuSeconds,
  createZonedWorld,
  giveAll,
  heldByPipe,
  MIB,
  MIB_PAGES,
  stamp,
  takeAll,
} from './zone-world.ts';

const createCmaWorld = (cmaBytes = 8 * MIB): World => createZonedWorld(32 * MIB, { cmaBytes });

/** A process whose pages are in CMA, all of which is in use. */
const fullOfUsers = (cmaBytes = 8 * MIB) => {
  const w = createCmaWorld(cmaBytes);
  const area = cmaDefaultArea(w.k)!;
  const p = createProcess(w);
  const nrPages = area.nrPages;
  const hva = mapAnon(p, nrPages);
  // Its tables are there; others have the rest of memory for a moment.
  for (let i = 0; i < nrPages; i++) p.load32(hva + i * PAGE_SIZE);
  const others = takeAll(w.k, GFP_KERNEL);
  stamp(p, hva, nrPages);
  giveAll(w.k, others);
  const inArea = (page: number): boolean => page >= area.basePage && page < area.basePage + nrPages;
  expect(inArea(pageAt(p, hva))).toBe(true);
  return { w, k: w.k, area, p, hva, nrPages, inArea };
};

describe('the bitmap', () => {
  it('first fit: neighbours, a hole is used again, and the bits count what is out', () => {
    const { k } = createCmaWorld();
    const area = cmaDefaultArea(k)!;
    const got = [10, 20, 30].map((nr) => drive(cmaAlloc(k, nr)));
    expect(got.map((page) => page - area.basePage)).toEqual([0, 10, 30]);
    expect(cmaRelease(k, got[1] ?? -1, 20)).toBe(true);
    expect(drive(cmaAlloc(k, 21)) - area.basePage).toBe(60);
    expect(drive(cmaAlloc(k, 15)) - area.basePage).toBe(10);
    expect(area.available).toBe(area.nrPages - 10 - 30 - 21 - 15);
    assertAtRest(k);
  });

  it('alignment is that of the page number; a part of an allocation can be given back', () => {
    const { k } = createZonedWorld(32 * MIB, { cmaBytes: 6 * MIB });
    expect(cmaDefaultArea(k)?.basePage).toBe(26 * MIB_PAGES);
    drive(cmaAlloc(k, 1));
    const page = drive(cmaAlloc(k, 600, 1024));
    expect(page).toBe(28 * MIB_PAGES);
    expect(cmaRelease(k, page + 100, 500)).toBe(true);
    expect(k.state.frames.refcount[page + 99]).toBe(1);
    expect(k.state.frames.refcount[page + 100]).toBe(0);
    assertAtRest(k);
  });

  it('-ENOMEM beyond the area, -EINVAL for nothing, and in a machine without one', () => {
    const { k } = createCmaWorld();
    expect(drive(cmaAlloc(k, 8 * MIB_PAGES + 1))).toBe(-ENOMEM);
    expect(drive(cmaAlloc(k, 0))).toBe(-EINVAL);
    expect(drive(cmaAlloc(createZonedWorld(16 * MIB).k, 1))).toBe(-EINVAL);
    expect(cmaRelease(k, 5, 1)).toBe(false);
    expect(drive(cmaAlloc(k, 8 * MIB_PAGES))).toBeGreaterThan(0);
    expect(drive(cmaAlloc(k, 1))).toBe(-ENOMEM);
  });

  for (const seed of [1, 2])
    it(`random sizes and alignments against a plain model, with users in between, seed ${seed}`, () => {
      const { k, area, p, hva, nrPages } = fullOfUsers();
      const random = rng(seed);
      const taken = new Uint8Array(area.nrPages);
      const out: { page: number; nr: number }[] = [];
      for (let step = 0; step < 150; step++) {
        if (random.chance(0.45) && out.length > 0) {
          const [run] = out.splice(random.below(out.length), 1);
          if (run === undefined) continue;
          cmaRelease(k, run.page, run.nr);
          taken.fill(0, run.page - area.basePage, run.page - area.basePage + run.nr);
          continue;
        }
        const nr = 1 + random.below(400);
        const align = 1 << random.below(8);
        const page = drive(cmaAlloc(k, nr, align));
        const wanted = modelFit(taken, area.basePage, nr, align);
        expect(page).toBe(wanted < 0 ? -ENOMEM : area.basePage + wanted);
        if (page < 0) continue;
        taken.fill(1, wanted, wanted + nr);
        out.push({ page, nr });
      }
      checkStamps(p, hva, nrPages);
      for (const { page, nr } of out) cmaRelease(k, page, nr);
      expect(area.available).toBe(area.nrPages);
      assertAtRest(k);
    });
});

/** First fit, looked for by trying every place. */
const modelFit = (taken: Uint8Array, base: number, nr: number, align: number): number => {
  for (let first = 0; first + nr <= taken.length; first++)
    if ((base + first) % align === 0 && taken.subarray(first, first + nr).every((t) => t === 0))
      return first;
  return -1;
};

describe('an allocation where users are', () => {
  it('moves them out: all of the area, and their bytes are the same', () => {
    const { k, area, p, hva, nrPages, inArea } = fullOfUsers();
    const report = createMoveReport();
    expect(drive(cmaAlloc(k, nrPages, 1, report))).toBe(area.basePage);
    expect([report.error, report.held]).toEqual([0, []]);
    expect(report.moved).toBe(nrPages);
    expect(inArea(pageAt(p, hva + PAGE_SIZE))).toBe(false);
    checkStamps(p, hva, nrPages);
    cmaRelease(k, area.basePage, nrPages);
    exit(p);
    assertAtRest(k);
  });

  it('2.9: a page that vmsplice holds by FOLL_GET makes it -EBUSY; released, it works', () => {
    const { k, area, p, hva, nrPages } = fullOfUsers();
    const pipe = heldByPipe(p, hva + 100 * PAGE_SIZE);
    const report = createMoveReport();
    expect(drive(cmaAlloc(k, nrPages, 1, report))).toBe(-EBUSY);
    expect(report.held).toEqual([
      {
        page: pageAt(p, hva + 100 * PAGE_SIZE),
        reason: 'referenced',
        holders: [`vmsplice (pipe ${pipe.id})`],
      },
    ]);
    expect([area.available, area.allocFail]).toEqual([nrPages, nrPages]);
    assertAtRest(k);
    pipeRelease(k, pipe);
    expect(drive(cmaAlloc(k, nrPages))).toBe(area.basePage);
    checkStamps(p, hva, nrPages);
  });

  it('a smaller one goes on behind the page that is held', () => {
    const { k, area, p, hva } = fullOfUsers();
    heldByPipe(p, hva + 100 * PAGE_SIZE);
    const held = pageAt(p, hva + 100 * PAGE_SIZE) - area.basePage;
    const report = createMoveReport();
    const page = drive(cmaAlloc(k, 512, 64, report)) - area.basePage;
    expect([report.error, report.held.length]).toEqual([0, 1]);
    expect(page).toBe((Math.floor(held / 64) + 1) * 64);
    assertAtRest(k);
  });

  it('a short FOLL_PIN is as bad while it lasts; FOLL_LONGTERM moves the page out first (I5)', () => {
    const { k, area, p, hva, nrPages, inArea } = fullOfUsers();
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(k, p.mm, hva + PAGE_SIZE, 1, FOLL_WRITE, pages))).toBe(1);
    expect(inArea(pages[0]!)).toBe(true);
    const report = createMoveReport();
    expect(drive(cmaAlloc(k, nrPages, 1, report))).toBe(-EBUSY);
    expect(report.held.map(({ reason }) => reason)).toEqual(['pinned']);
    unpinUserPages(k, pages, 1);

    const longterm = FOLL_WRITE | FOLL_LONGTERM;
    expect(drive(pinUserPagesFast(k, p.mm, hva + PAGE_SIZE, 1, longterm, pages))).toBe(1);
    expect(inArea(pages[0]!)).toBe(false);
    expect(drive(cmaAlloc(k, nrPages))).toBe(area.basePage);
    unpinUserPages(k, pages, 1);
    checkStamps(p, hva, nrPages);
    assertAtRest(k);
  });

  it('pages on their way to an LRU list are no obstacle: every batch is drained first', () => {
    const { k, area, p, hva, nrPages } = fullOfUsers();
    lruConfigure(k, 31, 2);
    lruSetCpu(k, 1);
    drive(munmap(k, p.mm, hva, 5 * PAGE_SIZE));
    const more = mapAnon(p, 1);
    for (let i = 0; i < 40; i++) drive(migrateFolio(k, pageAt(p, hva + (10 + i) * PAGE_SIZE)));
    lruSetCpu(k, 0);
    p.store32(more, 1);
    expect(k.state.lru.cpus.map(({ add }) => add.length > 0)).toEqual([true, true]);
    expect(drive(cmaAlloc(k, nrPages))).toBe(area.basePage);
    expect(k.state.lru.cpus.map(({ add }) => add.length)).toEqual([0, 0]);
    assertAtRest(k);
  });

  it('pages of files move as well', () => {
    const w = createCmaWorld();
    const area = cmaDefaultArea(w.k)!;
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 5000);
    const request = { hva: 0, lenBytes: 5000 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const hva = drive(mmap(w.k, p.mm, request));
    stamp(p, hva, 5000, 3);
    const report = createMoveReport();
    expect(drive(cmaAlloc(w.k, area.nrPages, 1, report))).toBe(area.basePage);
    expect(report.moved).toBeGreaterThan(400);
    checkStamps(p, hva, 5000, 3);
    assertAtRest(w.k);
  });

  it('no memory to move them to: -ENOMEM, and nothing is lost', () => {
    const { k, area, p, hva, nrPages } = fullOfUsers();
    const others = takeAll(k, GFP_MOVABLE);
    expect(drive(cmaAlloc(k, nrPages))).toBe(-ENOMEM);
    expect(area.available).toBe(nrPages);
    giveAll(k, others);
    checkStamps(p, hva, nrPages);
    assertAtRest(k);
  });
});

describe('alloc_mutex', () => {
  it('one allocation at a time: the second waits for the first, and neither gets in its way', () => {
    const { k, area } = fullOfUsers();
    const first = cmaAlloc(k, 700);
    stepTo(k, first, YP_ISOLATED_BLOCKS);
    const second = cmaAlloc(k, 300);
    expect(second.next().value).toBe(YP_WAIT);
    expect(drive(first)).toBe(area.basePage);
    expect(drive(second)).toBe(area.basePage + 700);
    assertAtRest(k);
  });
});

describe('what /proc says of CMA', () => {
  it('CmaTotal is the areas, CmaFree what is free in their pageblocks', () => {
    const { k } = createCmaWorld();
    const lines = (): string[] => procMeminfo(k).match(/Cma\w+: +\d+/g) ?? [];
    expect(lines().map((line) => line.replace(/ +/, ' '))).toEqual([
      'CmaTotal: 8192',
      'CmaFree: 8192',
    ]);
    drive(cmaAlloc(k, 1024));
    expect(lines()[1]).toMatch(/ 4096$/);
  });
});

/** Host seconds that emptying `cmaBytes` of a full machine takes. */
const secondsToEmpty = (ramBytes: number, cmaBytes: number): number => {
  const w = createZonedWorld(ramBytes, { cmaBytes });
  const { k } = w;
  const area = cmaDefaultArea(k)!;
  const p = createProcess(w);
  const quarter = Math.floor(ramBytes / 4 / PAGE_SIZE);
  const fill = (hva: number): void => {
    for (let i = 0; i < quarter; i++) p.store32(hva + i * PAGE_SIZE, 1);
  };
  const anon = mapAnon(p, quarter);
  fill(anon);
  const mapping = shmemCreate(k, quarter);
  const request = { hva: 0, lenBytes: quarter * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
  fill(drive(mmap(k, p.mm, request)));
  k.state.thp.always = 1 << 9;
  fill(mapAnon(p, quarter));
  k.state.thp.always = 0;
  fill(mapAnon(p, nrFreePages(k) > quarter + 500 ? quarter : nrFreePages(k) - 500));
  drive(munmap(k, p.mm, anon, quarter * PAGE_SIZE));
  const before = process.cpuUsage();
  const report = createMoveReport();
  expect(drive(cmaAlloc(k, area.nrPages, 1, report))).toBe(area.basePage);
  const seconds = cpuSeconds(before);
  expect(report.moved).toBeGreaterThan(area.nrPages / 2);
  expect(pageZoneIndex(k, area.basePage)).toBe(ZONE_DMA32);
  expect(pageblockType(k, area.basePage)).toBe(MIGRATE_CMA);
  return seconds;
};

describe('how long it takes', () => {
  it('64 MiB over a loaded host of 256 MiB, an eighth of what has two seconds: under one', () => {
    expect(secondsToEmpty(256 * MIB, 64 * MIB)).toBeLessThan(1);
  });
});
