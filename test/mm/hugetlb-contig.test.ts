/** hugetlb folios move for alloc_contig_range(), CMA, memory offline and FOLL_LONGTERM: facts sheet 1.8. */
import { PAGE_SIZE } from '#emu';
import {
  allocContigRange,
  cmaAlloc,
  cmaDefaultArea,
  cmaRelease,
  drive,
  EBUSY,
  ENOMEM,
  freeContigRange,
  HUGETLB_ORDER_2M,
  type HostProcess,
  hugetlbSetPool,
  MAP_SHARED,
  MEMORY_BLOCK_PAGES,
  nrFreePages,
  offlinePages,
  onlinePages,
  pageZoneIndex,
  ZONE_MOVABLE,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  memfdPinFolios,
  pinUserPagesFast,
  unpinFolios,
  unpinUserPages,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import { folioIsLongtermPinnable } from '../../mm/folio/pin.ts';
import {
  folioAt,
  GIB,
  HUGE,
  HUGE_NR,
  hugeFile,
  mapHuge,
  mapHugeFile,
  poolOf,
  poolState,
} from './hugetlb-world.ts';
import { createProcess, exit, type World } from './support.ts';
import { assertAtRest, createZonedWorld, MIB } from './zone-world.ts';

/** A pool of `nr` pages of 2 MiB, and a process. */
const withPool = (
  ramBytes: number,
  zones: { movableBytes?: number; cmaBytes?: number },
  nr: number,
): { w: World; p: HostProcess } => {
  const w = createZonedWorld(ramBytes, zones);
  expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, nr)).toBe(nr);
  return { w, p: createProcess(w) };
};

describe('alloc_contig_range()', () => {
  for (const kind of ['private', 'shared'] as const)
    it(`moves a huge page that is in use (${kind}), and what it frees leaves the range as well`, () => {
      const { w, p } = withPool(64 * MIB, {}, 3);
      const hva = mapHuge(p, 1, kind === 'shared' ? MAP_SHARED : 0);
      p.store32(hva + 8, 5);
      const folio = folioAt(p, hva);
      const report = drive(allocContigRange(w.k, folio, folio + HUGE_NR));
      expect([report.error, report.moved]).toEqual([0, HUGE_NR]);
      expect(folioAt(p, hva)).not.toBe(folio);
      expect(p.load32(hva + 8)).toBe(5);
      expect(poolState(w)).toBe('3/2/0');
      expect(poolOf(w).free).not.toContain(folio);
      freeContigRange(w.k, folio, HUGE_NR);
      assertAtRest(w.k);
    });

  it('of a pinned one: -EBUSY, and it is said who has it', () => {
    const { w, p } = withPool(64 * MIB, {}, 2);
    const hva = mapHuge(p, 1);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    const folio = folioAt(p, hva);
    const report = drive(allocContigRange(w.k, folio, folio + HUGE_NR));
    expect(report.error).toBe(-EBUSY);
    expect(report.held.map(({ page }) => page)).toEqual([folio]);
    unpinUserPages(w.k, pages, 1);
    expect(folioAt(p, hva)).toBe(folio);
    assertAtRest(w.k);
  });
});

describe('CMA', () => {
  it('lends to the pool, and gets back what is in use and what is free', () => {
    const { w, p } = withPool(64 * MIB, { cmaBytes: 32 * MIB }, 28);
    const hva = mapHuge(p, 4);
    for (let i = 0; i < 4; i++) p.store32(hva + i * HUGE, i + 1);
    const area = cmaDefaultArea(w.k);
    if (area === null) throw new Error('no CMA');
    // Room for what has to leave.
    hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 8);
    const lent = [...poolOf(w).free, ...[0, 1, 2, 3].map((i) => folioAt(p, hva + i * HUGE))].filter(
      (folio) => !folioIsLongtermPinnable(w.k, folio),
    );
    expect(lent.length).toBeGreaterThan(0);
    const page = drive(cmaAlloc(w.k, (32 * MIB) / PAGE_SIZE, HUGE_NR));
    expect(page).toBe(area.basePage);
    for (let i = 0; i < 4; i++) {
      expect(p.load32(hva + i * HUGE)).toBe(i + 1);
      expect(folioIsLongtermPinnable(w.k, folioAt(p, hva + i * HUGE))).toBe(true);
    }
    expect(poolOf(w).nrPages).toBe(8);
    cmaRelease(w.k, page, (32 * MIB) / PAGE_SIZE);
    exit(p);
    assertAtRest(w.k);
  });
});

describe('memory offline', () => {
  it('moves huge pages in use out of the block, and the pool shrinks by its free ones', () => {
    const { w, p } = withPool(GIB / 2, { movableBytes: 256 * MIB }, 6);
    const hva = mapHuge(p, 2);
    p.store32(hva, 1);
    p.store32(hva + HUGE, 2);
    const first = folioAt(p, hva);
    expect(pageZoneIndex(w.k, first)).toBe(ZONE_MOVABLE);
    const block = first - (first % MEMORY_BLOCK_PAGES);
    const report = drive(offlinePages(w.k, block, MEMORY_BLOCK_PAGES));
    expect(report.error).toBe(0);
    for (const i of [0, 1]) {
      const at = folioAt(p, hva + i * HUGE);
      expect(at < block || at >= block + MEMORY_BLOCK_PAGES).toBe(true);
      expect(p.load32(hva + i * HUGE)).toBe(i + 1);
    }
    const { nrPages, free } = poolOf(w);
    expect(nrPages).toBe(2 + free.length);
    expect(nrPages).toBeLessThan(6);
    onlinePages(w.k, block, MEMORY_BLOCK_PAGES);
    exit(p);
    assertAtRest(w.k);
  });

  it('of a pool that has promised all it has: -EBUSY', () => {
    const { w, p } = withPool(GIB / 2, { movableBytes: 256 * MIB }, 2);
    mapHuge(p, 2);
    const [folio = -1] = poolOf(w).free;
    const block = folio - (folio % MEMORY_BLOCK_PAGES);
    const report = drive(offlinePages(w.k, block, MEMORY_BLOCK_PAGES, { maxRounds: 1 }));
    expect(report.error).toBe(-EBUSY);
    expect(poolState(w)).toBe('2/2/2');
    assertAtRest(w.k);
  });
});

describe('FOLL_LONGTERM — whole folio isolated + migrated', () => {
  const zones = { movableBytes: 32 * MIB };

  it('a huge page of zone MOVABLE moves to where it may stay, as a whole', () => {
    const { w, p } = withPool(64 * MIB, zones, 2);
    const hva = mapHuge(p, 1);
    p.store32(hva + HUGE - 4, 5);
    const before = folioAt(p, hva);
    expect(pageZoneIndex(w.k, before)).toBe(ZONE_MOVABLE);
    const pages = new Int32Array(3);
    const flags = FOLL_WRITE | FOLL_LONGTERM;
    expect(drive(pinUserPagesFast(w.k, p.mm, hva + 7 * PAGE_SIZE, 3, flags, pages))).toBe(3);
    const now = folioAt(p, hva);
    expect([...pages]).toEqual([now + 7, now + 8, now + 9]);
    expect(pageZoneIndex(w.k, now)).not.toBe(ZONE_MOVABLE);
    expect(p.load32(hva + HUGE - 4)).toBe(5);
    expect(poolState(w)).toBe('2/1/0');
    unpinUserPages(w.k, pages, 3);
    exit(p);
    assertAtRest(w.k);
  });

  it('pages of the pool where it may not stay are passed over', () => {
    const { w, p } = withPool(64 * MIB, zones, 4);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const free = nrFreePages(w.k);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_LONGTERM, pages))).toBe(1);
    // It came from beyond the pool, and the old one has left it.
    expect(poolState(w)).toBe('4/3/0');
    expect(folioIsLongtermPinnable(w.k, folioAt(p, hva))).toBe(true);
    expect(nrFreePages(w.k)).toBe(free);
    unpinUserPages(w.k, pages, 1);
    assertAtRest(w.k);
  });

  it('of a file, by memfd_pin_folios(): mappings and page cache find it where it has gone', () => {
    const { w, p } = withPool(64 * MIB, zones, 4);
    const file = hugeFile(w, 2);
    const hva = mapHugeFile(p, file);
    p.store32(hva, 5);
    const before = folioAt(p, hva);
    expect(pageZoneIndex(w.k, before)).toBe(ZONE_MOVABLE);
    const folios = new Int32Array(2);
    // The second is a hole, and no page of the pool is where it could stay: it cannot be filled.
    const both = memfdPinFolios(w.k, file, 0, 2 * HUGE - 1, folios, 2, { offset: 0 });
    expect(drive(both)).toBe(-ENOMEM);
    const one = memfdPinFolios(w.k, file, 4096, HUGE - 1, folios, 2, { offset: 0 });
    expect(drive(one)).toBe(1);
    expect(folios[0]).not.toBe(before);
    expect([file.pages.get(0), folioAt(p, hva)]).toEqual([folios[0], folios[0]]);
    expect(pageZoneIndex(w.k, folios[0]!)).not.toBe(ZONE_MOVABLE);
    expect(p.load32(hva)).toBe(5);
    unpinFolios(w.k, folios, 1);
    assertAtRest(w.k);
  });

  it('somebody has a reference: -ENOMEM, nothing stays pinned', () => {
    const { w, p } = withPool(64 * MIB, zones, 2);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    folioGet(w.k, folio);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_LONGTERM, pages))).toBe(-ENOMEM);
    folioPut(w.k, folio);
    expect(folioAt(p, hva)).toBe(folio);
    assertAtRest(w.k);
  });
});
