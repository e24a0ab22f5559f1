/** Pageblocks and migratetypes: whose free memory an allocation takes when its own has run out. Compare mm/page_alloc.c. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  ENOMEM,
  freePages,
  GFP_KERNEL,
  GFP_MOVABLE,
  GFP_RECLAIMABLE,
  type Kernel,
  MIGRATE_CMA,
  MIGRATE_MOVABLE,
  MIGRATE_RECLAIMABLE,
  MIGRATE_UNMOVABLE,
  nrFreePages,
  pageblockType,
} from '#mm';
import { folioAddLru } from '../../mm/lru/batch.ts';
import { lruListDel } from '../../mm/lru/list.ts';
import { createProcess, mapAnon, pageAt } from './support.ts';
import {
  assertAtRest,
  BLOCK,
  createZonedWorld,
  freeBlocksOf,
  freeOf,
  giveAll,
  MIB,
  MIB_PAGES,
  takeAll,
} from './zone-world.ts';

const types = (k: Kernel, first: number, last: number): number[] =>
  Array.from({ length: (last - first) / BLOCK }, (_, i) => pageblockType(k, first + i * BLOCK));

describe('migratetypes', () => {
  it('at first every pageblock is MOVABLE; what cannot be moved claims the largest block there is', () => {
    const { k } = createZonedWorld(16 * MIB);
    // The zero page has the first 4 MiB.
    expect(types(k, 0, 16 * MIB_PAGES)).toEqual([0, 0, 1, 1, 1, 1, 1, 1]);
    const [kernel, user, cache] = [GFP_KERNEL, GFP_MOVABLE, GFP_RECLAIMABLE].map((gfp) =>
      allocPages(k, 0, gfp),
    );
    expect([kernel, user, cache]).toEqual([1, 1024, 2048]);
    expect(types(k, 0, 16 * MIB_PAGES)).toEqual([0, 0, 1, 1, 2, 2, 1, 1]);
    assertAtRest(k);
  });

  for (const { gfp, type, order } of [
    { gfp: GFP_KERNEL, type: MIGRATE_UNMOVABLE, order: [MIGRATE_RECLAIMABLE, MIGRATE_MOVABLE] },
    { gfp: GFP_MOVABLE, type: MIGRATE_MOVABLE, order: [MIGRATE_RECLAIMABLE, MIGRATE_UNMOVABLE] },
    {
      gfp: GFP_RECLAIMABLE,
      type: MIGRATE_RECLAIMABLE,
      order: [MIGRATE_UNMOVABLE, MIGRATE_MOVABLE],
    },
  ])
    it(`fallback order of type ${type}: ${order.join(', then ')}`, () => {
      const { k, blockOf } = fullMachine(gfp);
      // Users' pages are on LRU lists: a pageblock of them is not the kernel's to claim.
      for (const page of range(blockOf(MIGRATE_MOVABLE) + 1, BLOCK - 1)) folioAddLru(k, page);
      // Of each of the others a single page: too little of its pageblock.
      for (const other of order) freePages(k, blockOf(other), 0);
      expect([allocPages(k, 0, gfp), allocPages(k, 0, gfp)]).toEqual(order.map(blockOf));
      expect(order.map((other) => pageblockType(k, blockOf(other)))).toEqual(order);
      expect(allocPages(k, 0, gfp)).toBe(-ENOMEM);
    });
});

/**
 * 16 MiB, all in use as single pages: the first 4 MiB by the zero page and UNMOVABLE, then MOVABLE,
 * RECLAIMABLE, and 4 MiB of the type of `gfp`.
 */
const fullMachine = (gfp: number): { k: Kernel; blockOf: (type: number) => number } => {
  const { k } = createZonedWorld(16 * MIB);
  const firsts = [GFP_KERNEL, GFP_MOVABLE, GFP_RECLAIMABLE].map((kind) => allocPages(k, 0, kind));
  for (const kind of [GFP_KERNEL, GFP_MOVABLE, GFP_RECLAIMABLE, gfp])
    for (let i = 0; i < 1024 && freeOf(k, typeOf(kind)) > 0; i++) allocPages(k, 0, kind);
  takeAll(k, gfp);
  expect(nrFreePages(k)).toBe(0);
  return { k, blockOf: (type) => firsts[[0, 1, 2].indexOf(type)] ?? -1 };
};

const range = (first: number, nr: number): number[] =>
  Array.from({ length: nr }, (_, i) => first + i);

/** Frees a page that is on an LRU list. */
const freeListed = (k: Kernel, page: number): void => {
  lruListDel(k, page);
  freePages(k, page, 0);
};

const typeOf = (gfp: number): number => {
  if (gfp === GFP_MOVABLE) return MIGRATE_MOVABLE;
  return gfp === GFP_RECLAIMABLE ? MIGRATE_RECLAIMABLE : MIGRATE_UNMOVABLE;
};

describe('claiming and stealing', () => {
  it('a whole free pageblock changes its type, whoever takes it', () => {
    const { k, blockOf } = fullMachine(GFP_MOVABLE);
    const reclaimable = blockOf(MIGRATE_RECLAIMABLE);
    giveAll(k, range(reclaimable, BLOCK));
    const page = allocPages(k, 0, GFP_MOVABLE);
    expect([page, pageblockType(k, page)]).toEqual([reclaimable, MIGRATE_MOVABLE]);
    expect(freeOf(k, MIGRATE_MOVABLE)).toBe(BLOCK - 1);
    expect(pageblockType(k, reclaimable + BLOCK)).toBe(MIGRATE_RECLAIMABLE);
  });

  it('UNMOVABLE claims a pageblock with half of its pages free, though it needs one page', () => {
    const { k, blockOf } = fullMachine(GFP_KERNEL);
    const movable = blockOf(MIGRATE_MOVABLE);
    for (const page of range(movable, BLOCK)) folioAddLru(k, page);
    // On LRU lists: movable pages are in use there, free are 255 of 512.
    for (const page of range(movable, BLOCK / 2 - 1)) freeListed(k, page);
    const stolen = allocPages(k, 0, GFP_KERNEL);
    expect([stolen, pageblockType(k, stolen)]).toEqual([movable + 254, MIGRATE_MOVABLE]);
    freePages(k, stolen, 0);
    for (const page of range(movable + 255, 1)) freeListed(k, page);
    const claimed = allocPages(k, 0, GFP_KERNEL);
    expect([claimed, pageblockType(k, claimed)]).toEqual([movable, MIGRATE_UNMOVABLE]);
    expect(freeOf(k, MIGRATE_UNMOVABLE)).toBe(BLOCK / 2 - 1);
    expect(freeOf(k, MIGRATE_MOVABLE)).toBe(0);
  });

  it('UNMOVABLE claims where the largest block is, MOVABLE steals the smallest', () => {
    const kernel = fullMachine(GFP_KERNEL);
    const movable = kernel.blockOf(MIGRATE_MOVABLE);
    // Every other page of the first pageblock, and all but one of the second.
    giveAll(
      kernel.k,
      range(movable, BLOCK).filter((page) => page % 2 === 0),
    );
    giveAll(kernel.k, range(movable + BLOCK + 1, BLOCK - 1));
    const claimed = allocPages(kernel.k, 0, GFP_KERNEL);
    expect(claimed).toBeGreaterThan(movable + BLOCK);
    expect(pageblockType(kernel.k, claimed)).toBe(MIGRATE_UNMOVABLE);
    expect(pageblockType(kernel.k, movable)).toBe(MIGRATE_MOVABLE);

    const user = fullMachine(GFP_MOVABLE);
    const reclaimable = user.blockOf(MIGRATE_RECLAIMABLE);
    giveAll(user.k, range(reclaimable + 8, 8));
    giveAll(user.k, [reclaimable + 100]);
    expect(allocPages(user.k, 0, GFP_MOVABLE)).toBe(reclaimable + 100);
    expect(pageblockType(user.k, reclaimable)).toBe(MIGRATE_RECLAIMABLE);
  });

  it('blocks of two types merge, and the pageblock that was there takes the type of the other', () => {
    const { k, blockOf } = fullMachine(GFP_MOVABLE);
    const first = blockOf(MIGRATE_RECLAIMABLE);
    giveAll(k, range(first, BLOCK));
    expect(allocPages(k, 9, GFP_MOVABLE)).toBe(first);
    expect(pageblockType(k, first)).toBe(MIGRATE_MOVABLE);
    giveAll(k, range(first + BLOCK, BLOCK));
    freePages(k, first, 9);
    expect(freeBlocksOf(k, MIGRATE_MOVABLE, 10)).toEqual([first]);
    expect(pageblockType(k, first + BLOCK)).toBe(MIGRATE_MOVABLE);
    assertAtRest(k);
  });

  it('a user under memory pressure keeps kernel pages together: few pageblocks have both', () => {
    const w = createZonedWorld(64 * MIB);
    const p = createProcess(w);
    const hva = mapAnon(p, 8192);
    const mixed = new Map<number, Set<boolean>>();
    const note = (page: number, user: boolean): void => {
      const block = Math.floor(page / BLOCK);
      mixed.set(block, (mixed.get(block) ?? new Set()).add(user));
    };
    for (let i = 0; i < 8192; i++) {
      p.store32(hva + i * PAGE_SIZE, i);
      note(pageAt(p, hva + i * PAGE_SIZE), true);
      if (i % 8 === 0) note(allocPages(w.k, 0, GFP_KERNEL), false);
    }
    expect([...mixed.values()].filter((users) => users.size === 2)).toEqual([]);
  });
});

describe('CMA lends', () => {
  it('to what can be moved, and to nobody else', () => {
    const { k } = createZonedWorld(16 * MIB, { cmaBytes: 8 * MIB });
    const kernel = [...takeAll(k, GFP_KERNEL), ...takeAll(k, GFP_RECLAIMABLE)];
    expect(kernel.some((page) => pageblockType(k, page) === MIGRATE_CMA)).toBe(false);
    expect(nrFreePages(k)).toBe(8 * MIB_PAGES);
    expect(takeAll(k, GFP_MOVABLE).length).toBe(8 * MIB_PAGES);
  });

  it('evenly: it is taken from while more than half of what is free is its own', () => {
    const { k } = createZonedWorld(32 * MIB, { cmaBytes: 16 * MIB });
    const lends = (): boolean => pageblockType(k, allocPages(k, 0, GFP_MOVABLE)) === MIGRATE_CMA;
    expect(Array.from({ length: 4 }, lends)).toEqual([true, false, true, false]);
    expect(Array.from({ length: 4000 }, lends).filter(Boolean).length).toBe(2000);
    const [zone] = k.state.zones;
    expect(zone!.nrFree[0]! - 2 * zone!.nrFreeCma[0]!).toBe(-1);
  });

  it("its pageblocks are nobody else's: they are not claimed, and do not merge with others", () => {
    const { k } = createZonedWorld(16 * MIB, { cmaBytes: 2 * MIB });
    expect(freeBlocksOf(k, MIGRATE_CMA, 9)).toEqual([14 * MIB_PAGES]);
    const [page = -1] = takeAll(k, GFP_KERNEL).slice(-1);
    freePages(k, page, 0);
    const all = takeAll(k, GFP_MOVABLE);
    giveAll(k, all);
    expect(freeBlocksOf(k, MIGRATE_CMA, 9)).toEqual([14 * MIB_PAGES]);
    assertAtRest(k);
  });
});
