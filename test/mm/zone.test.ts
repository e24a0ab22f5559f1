/** Zones: which memory an allocation may have, by its flags and by what is allocated. Compare include/linux/mmzone.h. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  cmaDefaultArea,
  createPipe,
  drive,
  ENOMEM,
  GFP_KERNEL,
  GFP_MOVABLE,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  MAP_SHARED,
  MAX_PAGE_ORDER,
  MIGRATE_CMA,
  MIGRATE_MOVABLE,
  mmap,
  nrFreePages,
  pageblockType,
  pageZoneIndex,
  pipeWrite,
  secretmemCreate,
  shmemCreate,
  ZONE_DMA32,
  ZONE_MOVABLE,
} from '#mm';
import { memallocPinBegin, memallocPinEnd } from '../../mm/signal.ts';
import { createProcess, createWorld, exit, forked, mapAnon, pageAt, RW } from './support.ts';
import { assertAtRest, createZonedWorld, giveAll, MIB, MIB_PAGES, takeAll } from './zone-world.ts';

/** 32 MiB of RAM, of which the upper 16 are zone MOVABLE. */
const createHalves = () => createZonedWorld(32 * MIB, { movableBytes: 16 * MIB });

describe('zones', () => {
  it('a machine that does not ask has no zone MOVABLE, no CMA, and one migratetype', () => {
    const { k } = createWorld();
    expect(k.state.zones.map(({ name, managedPages }) => [name, managedPages])).toEqual([
      ['DMA32', 32 * MIB_PAGES],
      ['Normal', 0],
      ['Movable', 0],
    ]);
    expect([k.state.cmaAreas, k.state.groupByMobility]).toEqual([[], false]);
    const pages = [allocPages(k, 0, GFP_KERNEL), allocPages(k, 0, GFP_MOVABLE)];
    expect(pages).toEqual([1, 2]);
    expect(pages.map((page) => pageblockType(k, page))).toEqual([MIGRATE_MOVABLE, MIGRATE_MOVABLE]);
  });

  it('MOVABLE is the top of RAM, from a multiple of 4 MiB on; CMA lies below it', () => {
    const { k } = createZonedWorld(32 * MIB, { movableBytes: 10 * MIB, cmaBytes: 3 * MIB });
    const [dma32, , movable] = k.state.zones;
    expect([movable?.firstPage, movable?.endPage]).toEqual([24 * MIB_PAGES, 32 * MIB_PAGES]);
    expect(dma32?.endPage).toBe(24 * MIB_PAGES);
    const area = cmaDefaultArea(k);
    expect([area?.basePage, area?.nrPages]).toEqual([20 * MIB_PAGES, 4 * MIB_PAGES]);
    expect(pageblockType(k, 20 * MIB_PAGES)).toBe(MIGRATE_CMA);
    expect(pageblockType(k, 20 * MIB_PAGES - 1)).toBe(MIGRATE_MOVABLE);
    expect(nrFreePages(k)).toBe(32 * MIB_PAGES - 1);
    assertAtRest(k);
  });

  for (const zones of [{ movableBytes: 32 * MIB }, { cmaBytes: 32 * MIB }])
    it(`a machine whose kernel would have nothing is refused: ${JSON.stringify(zones)}`, () => {
      expect(() => createWorld(32 * MIB, undefined, zones)).toThrow(RangeError);
    });

  it('GFP_MOVABLE comes from MOVABLE first, and from below when that is used up', () => {
    const { k } = createHalves();
    const pages = takeAll(k, GFP_MOVABLE);
    const zones = pages.map((page) => pageZoneIndex(k, page));
    expect(zones.lastIndexOf(ZONE_MOVABLE)).toBe(16 * MIB_PAGES - 1);
    expect(zones.indexOf(ZONE_DMA32)).toBe(16 * MIB_PAGES);
    expect(nrFreePages(k)).toBe(0);
    giveAll(k, pages);
    assertAtRest(k);
  });

  it('what cannot be moved never comes from MOVABLE: -ENOMEM while half of memory is free', () => {
    const { k } = createHalves();
    const pages = takeAll(k, GFP_KERNEL);
    expect(pages.every((page) => pageZoneIndex(k, page) === ZONE_DMA32)).toBe(true);
    expect(allocPages(k, 0, GFP_KERNEL)).toBe(-ENOMEM);
    expect(nrFreePages(k)).toBe(16 * MIB_PAGES);
    giveAll(k, pages);
  });

  it('PF_MEMALLOC_PIN: the same flags get nothing from MOVABLE or CMA (1.8)', () => {
    const { k } = createZonedWorld(32 * MIB, { movableBytes: 8 * MIB, cmaBytes: 20 * MIB });
    memallocPinBegin(k);
    const pages = takeAll(k, GFP_MOVABLE);
    memallocPinEnd(k);
    expect(pages.length).toBe(4 * MIB_PAGES - 1);
    expect(pages.some((page) => pageblockType(k, page) === MIGRATE_CMA)).toBe(false);
    expect(pages.some((page) => pageZoneIndex(k, page) === ZONE_MOVABLE)).toBe(false);
    expect(pageZoneIndex(k, allocPages(k, 0, GFP_MOVABLE))).toBe(ZONE_MOVABLE);
  });
});

describe('who may have MOVABLE', () => {
  it('pages of users and of files: anonymous, copied on write, shmem', () => {
    const w = createHalves();
    const p = createProcess(w);
    const hva = mapAnon(p, 2);
    p.store32(hva, 1);
    const child = forked(w, p);
    child.store32(hva, 2);
    const mapping = shmemCreate(w.k, 1);
    const request = { hva: 0, lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const file = drive(mmap(w.k, p.mm, request));
    p.store32(file, 3);
    const pages = [pageAt(p, hva), pageAt(child, hva), pageAt(p, file)];
    expect(pages.map((page) => pageZoneIndex(w.k, page))).toEqual([2, 2, 2]);
  });

  it('huge pages: transparent ones, and those of a pool of 2 MiB', () => {
    const w = createHalves();
    w.k.state.thp.always = 1 << HUGETLB_ORDER_2M;
    const p = createProcess(w);
    const hva = mapAnon(p, 1024);
    const aligned = Math.ceil(hva / (2 * MIB)) * 2 * MIB;
    p.store32(aligned, 1);
    expect(w.k.state.stat.thp_fault_alloc).toBe(1);
    hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 1);
    const [pooled = -1] = w.k.state.hugetlb.hstates[0]?.free ?? [];
    expect(pageZoneIndex(w.k, pooled)).toBe(ZONE_MOVABLE);
    const movable = w.k.state.zones[ZONE_MOVABLE];
    expect((movable?.managedPages ?? 0) - movable!.nrFree[0]!).toBe(2 << HUGETLB_ORDER_2M);
  });

  it('not page tables, not secretmem, not the bytes that write() puts into a pipe', () => {
    const w = createHalves();
    const p = createProcess(w);
    const mapping = secretmemCreate(w.k, 1);
    const request = { hva: 0, lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const secret = drive(mmap(w.k, p.mm, request));
    p.store32(secret, 3);
    expect(pageZoneIndex(w.k, pageAt(p, secret))).toBe(ZONE_DMA32);
    pipeWrite(w.k, createPipe(w.k), new Uint8Array(PAGE_SIZE));
    expect(w.k.state.zones[ZONE_MOVABLE]?.nrFree[0]).toBe(16 * MIB_PAGES);
    expect(pageZoneIndex(w.k, p.mm.pgd)).toBe(ZONE_DMA32);
    exit(p);
  });

  it('a block of the largest order of either zone stays within it', () => {
    const { k } = createHalves();
    const blocks: number[] = [];
    for (let page = 0; page >= 0; page = allocPages(k, MAX_PAGE_ORDER, GFP_MOVABLE))
      blocks.push(pageZoneIndex(k, page));
    expect(blocks.slice(1)).toEqual([2, 2, 2, 2, 0, 0, 0]);
  });
});
