/** Isolation of pageblocks and alloc_contig_range(). Compare mm/page_isolation.c, mm/page_alloc.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocContigPages,
  allocContigRange,
  allocPages,
  createPipe,
  drive,
  EBUSY,
  EINTR,
  EINVAL,
  ENOMEM,
  freeContigRange,
  freePages,
  GFP_KERNEL,
  GFP_MOVABLE,
  GFP_RECLAIMABLE,
  type HostProcess,
  HUGETLB_ORDER_1G,
  HUGETLB_ORDER_2M,
  hugetlbGrowPool,
  hugetlbSetPool,
  MAP_SHARED,
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  mmap,
  munmap,
  nrFreePages,
  pageblockType,
  pipeRelease,
  provenanceStart,
  sendSignal,
  SIGNAL_FATAL,
  shmemCreate,
  signalHandled,
  vmspliceToPipe,
} from '#mm';
import {
  busyPage,
  startIsolatePageRange,
  takeIsolatedRange,
  undoIsolatePageRange,
} from '../../mm/frames/isolation.ts';
import { YP_ISOLATED_BLOCKS } from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import { createProcess, exit, mapAnon, pageAt, RW, stepTo, type World } from './support.ts';
import {
  assertAtRest,
  BLOCK,
  checkStamps,
  createZonedWorld,
  freeBlocksOf,
  freeOf,
  giveAll,
  heldByPipe,
  MIB,
  MIB_PAGES,
  stamp,
  takeAll,
} from './zone-world.ts';

/** A process with anonymous memory, and the pageblock that its first page is in. */
const withMemory = (
  nrPages = 700,
  ramBytes = 32 * MIB,
): { w: World; p: HostProcess; hva: number; block: number } => {
  const w = createZonedWorld(ramBytes);
  const p = createProcess(w);
  const hva = mapAnon(p, nrPages);
  stamp(p, hva, nrPages);
  return { w, p, hva, block: pageAt(p, hva) & -BLOCK };
};

describe('isolation', () => {
  it('what is free of an isolated pageblock is not handed out, and not counted as free', () => {
    const { k } = createZonedWorld(16 * MIB);
    const free = nrFreePages(k);
    expect(startIsolatePageRange(k, 3 * BLOCK, 4 * BLOCK, 'contig')).toBe(-1);
    expect([nrFreePages(k), freeOf(k, MIGRATE_ISOLATE)]).toEqual([free - BLOCK, BLOCK]);
    const pages = takeAll(k, GFP_MOVABLE);
    expect(pages.length).toBe(free - BLOCK);
    expect(pages.some((page) => page >= 3 * BLOCK && page < 4 * BLOCK)).toBe(false);
    undoIsolatePageRange(k, 3 * BLOCK, 4 * BLOCK);
    expect(allocPages(k, 9, GFP_MOVABLE)).toBe(3 * BLOCK);
  });

  it('what is freed while it is isolated stays', () => {
    const { k } = createZonedWorld(16 * MIB);
    const page = allocPages(k, 0, GFP_MOVABLE);
    const block = page & -BLOCK;
    // On no LRU list it is the kernel's, for all that anybody knows.
    expect(startIsolatePageRange(k, block, block + BLOCK, 'contig')).toBe(page);
    expect(startIsolatePageRange(k, page + 1, page + 2, 'contig')).toBe(-1);
    freePages(k, page, 0);
    expect(freeBlocksOf(k, MIGRATE_ISOLATE, 9)).toEqual([block]);
    undoIsolatePageRange(k, page + 1, page + 2);
    expect(pageblockType(k, block)).toBe(MIGRATE_MOVABLE);
    assertAtRest(k);
  });

  it('all or nothing: a page that cannot be moved, and what was isolated before it is so no more', () => {
    const { k } = createZonedWorld(16 * MIB);
    const free = nrFreePages(k);
    const table = allocPages(k, 10, GFP_RECLAIMABLE);
    const blocks = freeBlocksOf(k, MIGRATE_MOVABLE, 10);
    expect(table % 1024).toBe(0);
    expect(startIsolatePageRange(k, table - BLOCK, table + BLOCK, 'contig')).toBe(table);
    expect(pageblockType(k, table - BLOCK)).not.toBe(MIGRATE_ISOLATE);
    expect(freeBlocksOf(k, MIGRATE_MOVABLE, 10).sort()).toEqual(blocks.sort());
    freePages(k, table, 10);
    expect(nrFreePages(k)).toBe(free);
    assertAtRest(k);
  });

  it('a second isolation of the same pageblock is refused', () => {
    const { k } = createZonedWorld(16 * MIB);
    expect(startIsolatePageRange(k, 4 * BLOCK, 5 * BLOCK, 'contig')).toBe(-1);
    expect(startIsolatePageRange(k, 3 * BLOCK, 6 * BLOCK, 'contig')).toBe(4 * BLOCK);
    expect(pageblockType(k, 3 * BLOCK)).toBe(MIGRATE_MOVABLE);
    undoIsolatePageRange(k, 4 * BLOCK, 5 * BLOCK);
    assertAtRest(k);
  });

  it('types come back as they were, whatever blocks have merged in between', () => {
    const { k } = createZonedWorld(32 * MIB, { cmaBytes: 6 * MIB });
    const cma = 26 * MIB_PAGES;
    const types = (): number[] => Array.from({ length: 16 }, (_, i) => pageblockType(k, i * BLOCK));
    const before = types();
    expect(startIsolatePageRange(k, cma, 32 * MIB_PAGES, 'cma')).toBe(-1);
    expect(startIsolatePageRange(k, cma - BLOCK, cma, 'contig')).toBe(-1);
    const page = cma - 1;
    takeIsolatedRange(k, page, page + 2);
    k.state.frames.refcount[page] = 1;
    k.state.frames.refcount[page + 1] = 1;
    giveAll(k, [page, page + 1]);
    // One block of 4 MiB now, half of it CMA.
    expect(freeBlocksOf(k, MIGRATE_ISOLATE, 10)).toContain(cma - BLOCK);
    undoIsolatePageRange(k, cma - BLOCK, cma);
    undoIsolatePageRange(k, cma, 32 * MIB_PAGES);
    expect(types()).toEqual(before);
    assertAtRest(k);
  });

  for (const seed of [1, 2, 3])
    it(`random allocating, freeing and isolating against a plain model, seed ${seed}`, () => {
      randomIsolation(seed);
    });
});

/** One array says whose every page is. */
const randomIsolation = (seed: number): void => {
  const { k } = createZonedWorld(32 * MIB, { movableBytes: 8 * MIB, cmaBytes: 4 * MIB });
  const random = rng(seed);
  const nrBlocks = (32 * MIB_PAGES) / BLOCK;
  const owner = new Int32Array(32 * MIB_PAGES).fill(-1);
  owner[k.state.zeroPage] = 0;
  const held: { page: number; order: number }[] = [];
  const isolated = new Set<number>();
  const flags = [GFP_KERNEL, GFP_MOVABLE, GFP_RECLAIMABLE];
  const freeInModel = (): number => {
    let free = 0;
    for (let page = 0; page < owner.length; page++)
      if (owner[page] === -1 && !isolated.has(Math.floor(page / BLOCK))) free++;
    return free;
  };
  for (let step = 1; step <= 6000; step++) {
    const what = random.below(100);
    if (what < 48) {
      const order = random.chance(0.8) ? random.below(3) : random.below(10);
      const page = allocPages(k, order, random.pick(flags));
      if (page === -ENOMEM) continue;
      for (let i = page; i < page + (1 << order); i++) {
        if (owner[i] !== -1 || isolated.has(Math.floor(i / BLOCK)))
          throw new Error(`step ${step}: page ${i} is not to be handed out`);
        owner[i] = order;
      }
      held.push({ page, order });
    } else if (what < 94 && held.length > 0) {
      const [block] = held.splice(random.below(held.length), 1);
      if (block === undefined) continue;
      freePages(k, block.page, block.order);
      owner.fill(-1, block.page, block.page + (1 << block.order));
    } else {
      const block = random.below(nrBlocks);
      if (isolated.has(block)) {
        undoIsolatePageRange(k, block * BLOCK, (block + 1) * BLOCK);
        isolated.delete(block);
      } else if (startIsolatePageRange(k, block * BLOCK, (block + 1) * BLOCK, 'cma') < 0) {
        isolated.add(block);
        const inUse = owner.subarray(block * BLOCK, (block + 1) * BLOCK).findIndex((o) => o >= 0);
        expect(busyPage(k, block * BLOCK, (block + 1) * BLOCK, 'cma')).toBe(
          inUse < 0 ? -1 : block * BLOCK + inUse,
        );
      }
    }
    if (step % 500 === 0) expect(nrFreePages(k)).toBe(freeInModel());
  }
  for (const block of isolated) undoIsolatePageRange(k, block * BLOCK, (block + 1) * BLOCK);
  isolated.clear();
  expect(nrFreePages(k)).toBe(freeInModel());
  for (const { page, order } of held) freePages(k, page, order);
  expect(nrFreePages(k)).toBe(32 * MIB_PAGES - 1);
  assertAtRest(k);
};

describe('alloc_contig_range', () => {
  it('moves what is in the way, and hands out every page with one reference', () => {
    const { w, p, hva, block } = withMemory();
    const report = drive(allocContigRange(w.k, block, block + BLOCK));
    expect(report).toEqual({ error: 0, moved: BLOCK, rounds: 16, held: [] });
    const { refcount } = w.k.state.frames;
    expect(refcount.subarray(block, block + BLOCK).every((count) => count === 1)).toBe(true);
    checkStamps(p, hva, 700);
    freeContigRange(w.k, block, BLOCK);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    assertAtRest(w.k);
  });

  it('takes what was asked for and no more, be it no pageblock', () => {
    const { w, p, hva, block } = withMemory();
    expect(drive(allocContigRange(w.k, block + 100, block + 700)).error).toBe(0);
    const free = nrFreePages(w.k);
    expect(pageAt(p, hva + 99 * PAGE_SIZE)).toBe(block + 99);
    checkStamps(p, hva, 700);
    freeContigRange(w.k, block + 100, 600);
    expect(nrFreePages(w.k)).toBe(free + 600);
    assertAtRest(w.k);
  });

  it('moves files and huge pages; the bytes are the same', () => {
    const w = createZonedWorld(64 * MIB);
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 300);
    const request = { hva: 0, lenBytes: 300 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const file = drive(mmap(w.k, p.mm, request));
    stamp(p, file, 300, 5);
    w.k.state.thp.always = 1 << HUGETLB_ORDER_2M;
    const huge = mapAnon(p, 4 * BLOCK);
    stamp(p, huge, 4 * BLOCK, 9);
    expect(w.k.state.stat.thp_fault_alloc).toBeGreaterThan(0);
    const { k } = w;
    for (let block = 2 * BLOCK; block < 14 * BLOCK; block += 2 * BLOCK) {
      const report = drive(allocContigRange(k, block, block + 2 * BLOCK));
      if (report.error === 0) freeContigRange(k, block, 2 * BLOCK);
      else expect(pageblockType(k, block)).toBe(0);
      checkStamps(p, file, 300, 5);
      checkStamps(p, huge, 4 * BLOCK, 9);
    }
    expect(k.state.stat.pgmigrate_success).toBeGreaterThan(4 * BLOCK);
    exit(p);
    assertAtRest(k);
  });

  it('a page that a pipe holds by FOLL_GET: -EBUSY, and the report says who has it (2.9)', () => {
    const { w, p, hva, block } = withMemory();
    const pipe = heldByPipe(p, hva + 3 * PAGE_SIZE);
    const report = drive(allocContigRange(w.k, block, block + BLOCK));
    expect(report.error).toBe(-EBUSY);
    expect(report.held).toEqual([
      { page: block + 3, reason: 'referenced', holders: [`vmsplice (pipe ${pipe.id})`] },
    ]);
    assertAtRest(w.k);
    pipeRelease(w.k, pipe);
    expect(drive(allocContigRange(w.k, block, block + BLOCK)).error).toBe(0);
    checkStamps(p, hva, 700);
  });

  it('several holders of one page are each named, with how often; provenance names those of GUP', () => {
    const { w, p, hva, block } = withMemory();
    const { k } = w;
    provenanceStart(k);
    const pipe = createPipe(k);
    for (let i = 0; i < 2; i++) drive(vmspliceToPipe(k, p.mm, pipe, hva, PAGE_SIZE, 0));
    const { held } = drive(allocContigRange(k, block, block + BLOCK));
    expect(held).toEqual([
      { page: block, reason: 'referenced', holders: ['vmsplice (get_user_pages_fast()) x 2'] },
    ]);
    pipeRelease(k, pipe);
  });

  it("a kernel's page in the range: -EBUSY at once, nothing moves", () => {
    const { w, block } = withMemory();
    const report = drive(allocContigRange(w.k, w.k.state.zeroPage, block));
    expect([report.error, report.moved]).toEqual([-EBUSY, 0]);
    expect(report.held).toEqual([{ page: 0, reason: 'reserved', holders: ['reserved'] }]);
  });

  it('no memory to move to: -ENOMEM, and every page is where it was', () => {
    const { w, p, hva, block } = withMemory(512, 16 * MIB);
    takeAll(w.k, GFP_MOVABLE);
    const report = drive(allocContigRange(w.k, block, block + BLOCK));
    expect([report.error, report.moved]).toEqual([-ENOMEM, 0]);
    expect(report.held[0]?.reason).toBe('no memory to move it to');
    checkStamps(p, hva, 512);
    expect(pageAt(p, hva)).toBe(block);
  });

  it('a fatal signal ends it with -EINTR', () => {
    const { w, block } = withMemory();
    sendSignal(w.k, SIGNAL_FATAL);
    expect(drive(allocContigRange(w.k, block, block + BLOCK)).error).toBe(-EINTR);
    signalHandled(w.k);
    assertAtRest(w.k);
  });

  it('whoever unmaps a page while it is on its way helps: the page is free, and stays so', () => {
    const { w, p, hva, block } = withMemory();
    const path = allocContigRange(w.k, block, block + BLOCK);
    stepTo(w.k, path, YP_ISOLATED_BLOCKS);
    drive(munmap(w.k, p.mm, hva, 100 * PAGE_SIZE));
    expect(freeOf(w.k, MIGRATE_ISOLATE)).toBe(100);
    const report = drive(path);
    expect([report.error, report.moved]).toEqual([0, BLOCK - 100]);
  });

  it('a FOLL_GET that comes while it is on its way: -EBUSY', () => {
    const { w, p, hva, block } = withMemory();
    const path = allocContigRange(w.k, block, block + BLOCK);
    stepTo(w.k, path, YP_ISOLATED_BLOCKS);
    heldByPipe(p, hva + PAGE_SIZE);
    expect(drive(path).error).toBe(-EBUSY);
  });

  it('a free page of a hugetlb pool is replaced by another', () => {
    const w = createZonedWorld(32 * MIB);
    hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 2);
    const pool = w.k.state.hugetlb.hstates[0]!;
    const [first = -1] = pool.free;
    expect(drive(allocContigRange(w.k, first, first + BLOCK)).error).toBe(0);
    expect([pool.nrPages, pool.free.length, pool.free.includes(first)]).toEqual([2, 2, false]);
    assertAtRest(w.k);
  });

  it('no such range: -EINVAL', () => {
    const { k } = createZonedWorld(16 * MIB);
    for (const [from, to] of [
      [-1, 5],
      [5, 5],
      [0, k.state.frames.nrPages + 1],
    ] as const)
      expect(drive(allocContigRange(k, from, to)).error).toBe(-EINVAL);
  });
});

describe('alloc_contig_pages', () => {
  it('makes a run where allocContig() finds none: users are moved, the kernel is gone round', () => {
    const w = createZonedWorld(64 * MIB);
    const { k } = w;
    const p = createProcess(w);
    const hva = mapAnon(p, 14_000);
    stamp(p, hva, 14_000);
    drive(munmap(k, p.mm, hva, 6000 * PAGE_SIZE));
    const first = drive(allocContigPages(k, 8 * BLOCK, 8 * BLOCK));
    expect(first % (8 * BLOCK)).toBe(0);
    expect(k.state.frames.refcount.subarray(first, first + 3)).toEqual(Int32Array.of(1, 0, 0));
    checkStamps(p, hva + 6000 * PAGE_SIZE, 8000, 6000 * 7);
  });
});

describe('huge pages of 1 GiB', () => {
  const GIB_PAGES = 1 << HUGETLB_ORDER_1G;

  it('a user in the only run that there could be is moved out of the way', () => {
    const w = createZonedWorld(2048 * MIB);
    const { k } = w;
    const p = createProcess(w);
    const hva = mapAnon(p, 100);
    p.store32(hva, 1);
    // What comes now can only come from the upper gibibyte.
    expect(startIsolatePageRange(k, 2 * BLOCK, GIB_PAGES, 'offline')).toBe(-1);
    stamp(p, hva + PAGE_SIZE, 99);
    undoIsolatePageRange(k, 2 * BLOCK, GIB_PAGES);
    expect(pageAt(p, hva + PAGE_SIZE)).toBeGreaterThanOrEqual(GIB_PAGES);
    expect(hugetlbSetPool(k, HUGETLB_ORDER_1G, 1)).toBe(0);

    const pipe = heldByPipe(p, hva + PAGE_SIZE);
    expect(drive(hugetlbGrowPool(k, HUGETLB_ORDER_1G, 1))).toBe(0);
    pipeRelease(k, pipe);
    expect(drive(hugetlbGrowPool(k, HUGETLB_ORDER_1G, 2))).toBe(1);
    expect(k.state.hugetlb.hstates[1]?.free).toEqual([GIB_PAGES]);
    checkStamps(p, hva + PAGE_SIZE, 99);
    assertAtRest(k);
  });
});
