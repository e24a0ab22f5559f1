/** Compaction, fragmentation indices, and migrate_pages(). Facts sheet 1.9, 2.9. Compare mm/compaction.c, mm/vmstat.c, mm/migrate.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  assertKernel,
  compactZone,
  drive,
  EAGAIN,
  EBUSY,
  ENOMEM,
  fragmentationIndex,
  freePages,
  GFP_KERNEL,
  GFP_MOVABLE,
  type HostProcess,
  type Kernel,
  lruConfigure,
  munmap,
  nrFreeBlocks,
  nrFreePages,
  pipeRelease,
  unusableFreeIndex,
  ZONE_DMA32,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { compactZone as compact } from '../../mm/compact/compaction.ts';
import { isolateMovable, migratePages } from '../../mm/compact/migrate.ts';
import { folioGet, folioPut, folioTestFlags } from '../../mm/folio/folio.ts';
import { PG_DIRTY, PG_ISOLATED } from '../../mm/frames/table.ts';
import { YP_BIO_SUBMITTED, YP_COMPACT, YP_MIGRATE_UNMAPPED, YP_WAIT } from '../../mm/path.ts';
import { writebackMapping } from '../../mm/cache/writeback.ts';
import { provenanceStart } from '../../mm/provenance/provenance.ts';
import { cached, onDevice, quiet, sync, withFile } from './file-world.ts';
import { createProcess, exit, mapAnon, pageAt, stepTo, type World } from './support.ts';
import { checkStamps, createZonedWorld, heldByPipe, MIB, stamp } from './zone-world.ts';

const HUGE = 9;

/** All of memory is used by single pages, and every second one is freed: nothing is free in one piece. */
const fragmented = (ramBytes = 16 * MIB) => {
  const w: World = createZonedWorld(ramBytes);
  const { k } = w;
  const zone = k.state.zones[ZONE_DMA32]!;
  const p = createProcess(w);
  const total = Math.floor(nrFreePages(k) / 512) * 512 - 512;
  const hva = mapAnon(p, total);
  stamp(p, hva, total);
  const rest: number[] = [];
  for (let page = allocPages(k, 0, GFP_MOVABLE); page >= 0; page = allocPages(k, 0, GFP_MOVABLE))
    rest.push(page);
  for (let i = 0; i < total; i += 2) drive(munmap(k, p.mm, hva + i * PAGE_SIZE, PAGE_SIZE));
  const check = (): void => {
    for (let i = 1; i < total; i += 2)
      if (p.load32(hva + i * PAGE_SIZE) !== ((i * 7) | 1)) throw new Error(`page ${i} has changed`);
  };
  return { w, k, zone, p, hva, total, rest, check };
};

/** Blocks of 2 MiB that are free. */
const hugeBlocks = (k: Kernel): number => {
  const zone = k.state.zones[ZONE_DMA32]!;
  return nrFreeBlocks(zone, HUGE) + 2 * nrFreeBlocks(zone, HUGE + 1);
};

describe('fragmentation — extfrag', () => {
  it('-1 where the allocation would not fail, 0 where nothing is free at all', () => {
    const { k } = createZonedWorld(16 * MIB);
    const zone = k.state.zones[ZONE_DMA32]!;
    expect(fragmentationIndex(zone, HUGE)).toBe(-1);
    expect(unusableFreeIndex(zone, HUGE)).toBeLessThan(0.2);
    while (allocPages(k, 0, GFP_KERNEL) >= 0);
    expect(fragmentationIndex(zone, HUGE)).toBe(0);
    expect(unusableFreeIndex(zone, HUGE)).toBe(1);
  });

  it('towards 1 where enough is free, and in pieces; towards 0 where too little is', () => {
    const { k, zone } = fragmented();
    expect(nrFreePages(k)).toBeGreaterThan(1024);
    expect(fragmentationIndex(zone, HUGE)).toBeGreaterThan(0.9);
    expect(unusableFreeIndex(zone, HUGE)).toBe(1);
    expect(unusableFreeIndex(zone, 0)).toBe(0);
    const { k: full } = createZonedWorld(16 * MIB);
    const pages: number[] = [];
    for (
      let page = allocPages(full, 0, GFP_KERNEL);
      page >= 0;
      page = allocPages(full, 0, GFP_KERNEL)
    )
      pages.push(page);
    freePages(full, pages[100]!, 0);
    expect(fragmentationIndex(full.state.zones[ZONE_DMA32]!, HUGE)).toBeLessThan(0.01);
  });
});

describe('compact_zone()', () => {
  it('makes a block of the order that is wanted, and loses no byte', () => {
    const { k, zone, check } = fragmented();
    expect(allocPages(k, HUGE, GFP_MOVABLE)).toBe(-ENOMEM);
    const report = drive(compactZone(k, zone, HUGE));
    expect(report.result).toBe('success');
    expect(report.moved).toBeGreaterThan(200);
    expect([report.indexBefore > 0.9, report.indexAfter]).toEqual([true, -1]);
    expect(report.held).toEqual([]);
    expect(allocPages(k, HUGE, GFP_MOVABLE)).toBeGreaterThan(0);
    check();
    assertKernel(k, { quiescent: true });
  });

  it('of order -1 goes on until the scanners meet', () => {
    const { k, zone, check } = fragmented();
    const free = nrFreePages(k);
    const report = drive(compactZone(k, zone, -1));
    expect(report.result).toBe('complete');
    expect(hugeBlocks(k)).toBeGreaterThanOrEqual(Math.floor(free / 512) - 2);
    expect(report.freeAfter[0]!).toBeLessThan(report.freeBefore[0]! / 10);
    expect(nrFreePages(k)).toBe(free);
    check();
    assertKernel(k, { quiescent: true });
  });

  it('is skipped where there is a block already, and where too little is free', () => {
    const { k } = createZonedWorld(16 * MIB);
    const zone = k.state.zones[ZONE_DMA32]!;
    expect(drive(compactZone(k, zone, HUGE)).result).toBe('skipped');
    while (allocPages(k, 0, GFP_MOVABLE) >= 0);
    expect(drive(compactZone(k, zone, HUGE)).result).toBe('skipped');
  });

  it('pages in LRU batches are free only when those are drained', () => {
    const { k, zone, check } = fragmented();
    lruConfigure(k, 31, 2);
    expect(drive(compactZone(k, zone, HUGE)).result).toBe('success');
    check();
    assertKernel(k, { quiescent: true });
  });

  it('while it runs, its pages are used, unmapped and allocated by others', () => {
    const { k, zone, p, hva, total } = fragmented();
    const path = compact(k, zone, -1);
    const gone = new Set<number>();
    let rounds = 0;
    for (;;) {
      k.watched = true;
      const step = path.next();
      k.watched = false;
      if (step.done === true) break;
      if (step.value !== YP_COMPACT) continue;
      const i = 1 + 2 * ((rounds++ * 97) % (total / 2));
      if (!gone.has(i)) expect(p.load32(hva + i * PAGE_SIZE)).toBe((i * 7) | 1);
      if (!gone.has(i)) drive(munmap(k, p.mm, hva + i * PAGE_SIZE, PAGE_SIZE));
      gone.add(i);
      const page = allocPages(k, 0, GFP_MOVABLE);
      if (page >= 0 && rounds % 2 === 0) freePages(k, page, 0);
      assertKernel(k);
    }
    expect(rounds).toBeGreaterThan(5);
    assertKernel(k, { quiescent: true });
  });
});

describe('what held pages keep from becoming whole — 2.9', () => {
  /** Holds the first mapped page of every pageblock. */
  const heldEverywhere = (hold: (p: HostProcess, hva: number) => void) => {
    const setup = fragmented();
    const { p, hva, total, k } = setup;
    const seen = new Set<number>();
    for (let i = 1; i < total; i += 2) {
      const block = pageAt(p, hva + i * PAGE_SIZE) >>> HUGE;
      if (seen.has(block)) continue;
      seen.add(block);
      hold(p, hva + i * PAGE_SIZE);
    }
    return { ...setup, nrHeld: seen.size, k };
  };

  it('vmsplice() into pipes that nobody reads: one page in each block, and no block is made', () => {
    const pipes: ReturnType<typeof heldByPipe>[] = [];
    const { k, zone, nrHeld, check } = heldEverywhere((p, hva) => pipes.push(heldByPipe(p, hva)));
    const report = drive(compactZone(k, zone, HUGE));
    expect(report.result).toBe('complete');
    expect(report.nrHeld).toBeGreaterThan(0);
    expect(report.nrHeld).toBeLessThanOrEqual(nrHeld);
    for (const { holders, reason } of report.held) {
      expect(holders.join()).toMatch(/^vmsplice \(pipe \d+\)$/);
      expect(reason).toBe('referenced');
    }
    check();
    for (const pipe of pipes) pipeRelease(k, pipe);
    expect(drive(compactZone(k, zone, HUGE)).result).toBe('success');
    check();
    assertKernel(k, { quiescent: true });
  });

  it('pins: who took them, where that is on record', () => {
    const all: number[] = [];
    const { k, zone } = heldEverywhere((p, hva) => {
      provenanceStart(p.k);
      const pages = new Int32Array(1);
      drive(pinUserPagesFast(p.k, p.mm, hva, 1, FOLL_WRITE, pages));
      all.push(pages[0]!);
    });
    const report = drive(compactZone(k, zone, HUGE));
    expect(report.held.length).toBeGreaterThan(0);
    for (const { page, reason } of report.held) {
      expect(all).toContain(page);
      expect(reason).toBe('pinned');
    }
    unpinUserPages(k, Int32Array.from(all), all.length);
  });

  it('the kernel’s own pages are counted apart', () => {
    const { k, zone } = fragmented();
    const report = drive(compactZone(k, zone, HUGE));
    expect(report.unmovable).toBeGreaterThan(0);
  });
});

describe('migrate_pages()', () => {
  const withPages = (nr: number) => {
    const w = createZonedWorld(16 * MIB);
    const p = createProcess(w);
    const hva = mapAnon(p, nr);
    stamp(p, hva, nr);
    const pages = Array.from({ length: nr }, (_, i) => pageAt(p, hva + i * PAGE_SIZE));
    return { w, k: w.k, p, hva, nr, pages };
  };

  it('moves what it can, and says of each of the others why', () => {
    const { k, p, hva, nr, pages } = withPages(4);
    const pins = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pins));
    folioGet(k, pages[1]!);
    for (const page of pages) expect(isolateMovable(k, page)).toBe(0);
    const result = drive(migratePages(k, pages, GFP_MOVABLE, 'compaction'));
    expect(result).toMatchObject({ nrMoved: 2, nrPages: 2, passes: 10 });
    expect(result.failed).toEqual([
      { folio: pages[0], error: -EBUSY },
      { folio: pages[1], error: -EAGAIN },
    ]);
    expect(folioTestFlags(k, pages[0]!, PG_ISOLATED)).toBe(false);
    checkStamps(p, hva, nr);
    unpinUserPages(k, pins, 1);
    folioPut(k, pages[1]!);
    assertKernel(k, { quiescent: true });
  });

  it('somebody who lets go between two of the ten passes is no obstacle', () => {
    const { k, p, hva, pages } = withPages(1);
    folioGet(k, pages[0]!);
    isolateMovable(k, pages[0]!);
    const path = migratePages(k, pages, GFP_MOVABLE, 'compaction');
    for (let pass = 0; pass < 5; pass++) stepTo(k, path, YP_MIGRATE_UNMAPPED);
    folioPut(k, pages[0]!);
    const result = drive(path);
    expect(result.failed).toEqual([]);
    // That of the fifth pass has looked after the reference was gone.
    expect(result.passes).toBe(5);
    checkStamps(p, hva, 1);
  });

  it('without memory it ends at once, and all that is left goes back', () => {
    const { k, p, hva, nr, pages } = withPages(3);
    const rest: number[] = [];
    for (let page = allocPages(k, 0, GFP_MOVABLE); page >= 0; page = allocPages(k, 0, GFP_MOVABLE))
      rest.push(page);
    for (const page of pages) isolateMovable(k, page);
    const result = drive(migratePages(k, pages, GFP_MOVABLE, 'compaction'));
    expect(result.passes).toBe(1);
    expect(result.failed.map(({ error }) => error)).toEqual([-ENOMEM, -ENOMEM, -ENOMEM]);
    checkStamps(p, hva, nr);
    for (const page of rest) freePages(k, page, 0);
    assertKernel(k, { quiescent: true });
  });

  it('what everybody has let go of meanwhile has moved as well as can be', () => {
    const { w, k, p, pages } = withPages(2);
    for (const page of pages) isolateMovable(k, page);
    exit(p);
    const result = drive(migratePages(k, pages, GFP_MOVABLE, 'compaction'));
    expect(result).toMatchObject({ nrMoved: 2, failed: [] });
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('a dirty page of a file moves dirty, with what its file system has promised it', () => {
    const fw = withFile(2);
    const { w, p, hva, inode } = fw;
    p.store32(hva, 40);
    const page = cached(fw, 0);
    isolateMovable(w.k, page);
    expect(drive(migratePages(w.k, [page], GFP_MOVABLE, 'compaction')).failed).toEqual([]);
    expect(cached(fw, 0)).not.toBe(page);
    expect(folioTestFlags(w.k, cached(fw, 0), PG_DIRTY)).toBe(true);
    expect(inode.reserved.has(0)).toBe(true);
    sync(fw);
    expect(onDevice(fw, 0)).toBe(40);
    quiet(fw);
  });

  it('one that is being written stays until it is: the first passes do not wait, the others do', () => {
    const fw = withFile(1);
    const { w, p, hva, file } = fw;
    p.store32(hva, 41);
    const writing = writebackMapping(w.k, file);
    stepTo(w.k, writing, YP_BIO_SUBMITTED);
    const page = cached(fw, 0);
    isolateMovable(w.k, page);
    const moving = migratePages(w.k, [page], GFP_MOVABLE, 'compaction');
    stepTo(w.k, moving, YP_WAIT);
    expect(cached(fw, 0)).toBe(page);
    drive(writing);
    expect(drive(moving)).toMatchObject({ nrMoved: 1, passes: 4 });
    expect(onDevice(fw, 0)).toBe(41);
    expect(p.load32(hva)).toBe(41);
    quiet(fw);
  });
});
