/** hugetlb pools: pages that are kept for those who ask for huge ones. Compare mm/hugetlb.c. */
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  assertKernel,
  checkKernel,
  drive,
  EINVAL,
  ENOMEM,
  folioOrder,
  folioRefCount,
  GFP_KERNEL,
  HUGETLB_ORDER_1G,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  MAX_PAGE_ORDER,
  mmExit,
  nrFreePages,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { allocContig, freeContig } from '../../mm/frames/contig.ts';
import { PG_HEAD, PG_HUGETLB, PG_TAIL } from '../../mm/frames/table.ts';
import { createProcess, createWorld } from './support.ts';
import {
  createHugeWorld,
  folioAt,
  GIB,
  HUGE,
  HUGE_NR,
  mapHuge,
  poolOf,
  poolState,
  settled,
} from './hugetlb-world.ts';

describe('hugetlbSetPool — set_max_huge_pages()', () => {
  it('takes huge pages out of the buddy allocator, and gives them back', () => {
    const w = createWorld(64 << 20);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 5)).toBe(5);
    expect(w.freeAtStart - nrFreePages(w.k)).toBe(5 * HUGE_NR);
    expect(poolState(w)).toBe('5/5/0');
    settled(w);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 2)).toBe(2);
    expect(w.freeAtStart - nrFreePages(w.k)).toBe(2 * HUGE_NR);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 0)).toBe(0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    settled(w);
  });

  it('pages of a pool are aligned large folios without a reference', () => {
    const w = createHugeWorld(3);
    for (const folio of poolOf(w).free) {
      expect(folio % HUGE_NR).toBe(0);
      expect(folioOrder(w.k, folio)).toBe(HUGETLB_ORDER_2M);
      expect(folioRefCount(w.k, folio)).toBe(0);
    }
  });

  it('grows as far as there is contiguous memory', () => {
    const w = createWorld(16 << 20);
    // One page is the zero page, so the block around it is not whole.
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 100)).toBe(7);
    settled(w);
  });

  it('shrinks by what is neither in use nor promised', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    p.store32(hva, 1);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 0)).toBe(2);
    expect(poolState(w)).toBe('2/1/1');
    settled(w);
    expect(p.store32(hva + HUGE, 1)).toBe(0);
    drive(mmExit(w.k, p.mm));
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 0)).toBe(0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('knows two sizes', () => {
    const w = createWorld();
    expect(hugetlbSetPool(w.k, 4, 1)).toBe(-EINVAL);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 1)).toBe(0);
  });

  it('what was a huge page is ordinary memory afterwards', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 7);
    const folio = folioAt(p, hva);
    drive(mmExit(w.k, p.mm));
    hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 0);
    const { flags } = w.k.state.frames;
    for (let page = folio; page < folio + HUGE_NR; page++)
      expect(flags[page]! & (PG_HEAD | PG_TAIL | PG_HUGETLB)).toBe(0);
    settled(w);
  });
});

describe('a page of 1 GiB', () => {
  it('is an aligned run of free frames, taken block by block', () => {
    const w = createWorld(2.5 * GIB);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 3)).toBe(2);
    const pool = w.k.state.hugetlb.hstates.find(({ order }) => order === HUGETLB_ORDER_1G);
    for (const folio of pool?.free ?? []) {
      expect((folio * PAGE_SIZE) % GIB).toBe(0);
      expect(folioOrder(w.k, folio)).toBe(HUGETLB_ORDER_1G);
    }
    settled(w);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 0)).toBe(0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    settled(w);
  });

  it('is not to be had where a single page of the run is in use', () => {
    const w = createWorld(1.5 * GIB);
    // The zero page is in the only gibibyte that is whole.
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 1)).toBe(0);
    settled(w);
  });
});

describe('allocContig — mm/frames/contig.ts', () => {
  const BLOCK = 1 << MAX_PAGE_ORDER;

  it('takes whole free blocks from the top, and gives them back', () => {
    const w = createWorld(32 << 20);
    const first = allocContig(w.k, 3 * BLOCK, BLOCK);
    expect(first).toBe(5 * BLOCK);
    expect(w.freeAtStart - nrFreePages(w.k)).toBe(3 * BLOCK);
    freeContig(w.k, first, 3 * BLOCK);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    assertKernel(w.k, { quiescent: true });
  });

  it('looks for a run that is as aligned as asked for, around what is in use', () => {
    const w = createWorld(64 << 20);
    expect(allocContig(w.k, BLOCK, BLOCK)).toBe(15 * BLOCK);
    expect(allocContig(w.k, 4 * BLOCK, 4 * BLOCK)).toBe(8 * BLOCK);
    expect(allocContig(w.k, 4 * BLOCK, 4 * BLOCK)).toBe(4 * BLOCK);
    // The block of the zero page is in use, and with it the run at the bottom.
    expect(allocContig(w.k, 4 * BLOCK, 4 * BLOCK)).toBe(-ENOMEM);
    expect(allocContig(w.k, 3 * BLOCK, BLOCK)).toBe(12 * BLOCK);
  });

  it('a page in the middle of a run is in the way', () => {
    const w = createWorld(16 << 20);
    const page = allocPages(w.k, 0, GFP_KERNEL);
    expect(page).toBeGreaterThanOrEqual(0);
    expect(allocContig(w.k, 4 * BLOCK, BLOCK)).toBe(-ENOMEM);
    expect(checkKernel(w.k)).toEqual([]);
  });
});
