/** Huge pages in the way of whoever wants a range of frames. Compare mm/hugetlb.c:isolate_or_dissolve_huge_folio(). */
import { drive, EBUSY, ENOMEM, HUGETLB_ORDER_1G, hugetlbSetPool, nrFreePages } from '#mm';
import { describe, expect, it } from 'vitest';
import { folioTestFlags } from '../../mm/folio/folio.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { startIsolatePageRange, undoIsolatePageRange } from '../../mm/frames/isolation.ts';
import { setPageblockIsolated } from '../../mm/frames/pageblock.ts';
import { PG_HUGETLB } from '../../mm/frames/table.ts';
import {
  dissolveFreeHugetlbFolios,
  isolateOrDissolveHugetlb,
  replaceFreeHugetlbFolios,
} from '../../mm/hugetlb/dissolve.ts';
import { putbackHugetlb, unmapAndMoveHugetlb } from '../../mm/hugetlb/migrate.ts';
import { memallocPinBegin, memallocPinEnd } from '../../mm/signal.ts';
import {
  createHugeWorld,
  folioAt,
  GIB,
  HUGE,
  HUGE_NR,
  hugeFile,
  mapHuge,
  poolOf,
  poolState,
  settled,
} from './hugetlb-world.ts';
import { createProcess, createWorld } from './support.ts';
import { memfdPinFolios } from '#mm/driver-api';

describe('isolateOrDissolveHugetlb', () => {
  it('a free page leaves the pool, and another one takes its place', () => {
    const w = createHugeWorld(1);
    const [folio = -1] = poolOf(w).free;
    const free = nrFreePages(w.k);
    expect(isolateOrDissolveHugetlb(w.k, folio)).toBe(0);
    expect(poolState(w)).toBe('1/1/0');
    expect(poolOf(w).free).not.toContain(folio);
    expect(folioTestFlags(w.k, folio, PG_HUGETLB)).toBe(false);
    expect(nrFreePages(w.k)).toBe(free);
    settled(w);
    // It is none of hugetlb any more: nothing to do.
    expect(isolateOrDissolveHugetlb(w.k, folio)).toBe(0);
  });

  it('a promised one too: the promise stays', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    expect(isolateOrDissolveHugetlb(w.k, poolOf(w).free[0] ?? -1)).toBe(0);
    expect(poolState(w)).toBe('1/1/1');
    expect(p.store32(hva, 1)).toBe(0);
    settled(w);
  });

  it('without another one: -ENOMEM, and it stays', () => {
    const w = createHugeWorld(1);
    const [folio = -1] = poolOf(w).free;
    while (allocPages(w.k, 9, GFP_KERNEL) >= 0);
    expect(isolateOrDissolveHugetlb(w.k, folio)).toBe(-ENOMEM);
    expect(poolOf(w).free).toContain(folio);
  });

  it('one in use is isolated: it moves, and is put back', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    expect(isolateOrDissolveHugetlb(w.k, folio)).toBe(1);
    expect(isolateOrDissolveHugetlb(w.k, folio)).toBe(-EBUSY);
    expect(drive(unmapAndMoveHugetlb(w.k, folio, true))).toBe(0);
    putbackHugetlb(w.k, folio);
    expect(folioAt(p, hva)).not.toBe(folio);
    expect(p.load32(hva)).toBe(5);
    settled(w);
  });

  it('a page of 1 GiB is not tried: -ENOMEM', () => {
    const w = createWorld(2.5 * GIB);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 1)).toBe(1);
    const folio = w.k.state.hugetlb.hstates.find(({ order }) => order === HUGETLB_ORDER_1G)
      ?.free[0];
    expect(isolateOrDissolveHugetlb(w.k, folio ?? -1)).toBe(-ENOMEM);
  });
});

describe('ranges', () => {
  it('replaceFreeHugetlbFolios: what lies free in the range is replaced, what is in use stays', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const used = folioAt(p, hva);
    const before = [...poolOf(w).free];
    const start = Math.min(used, ...before);
    const end = Math.max(used, ...before) + HUGE_NR;
    // So that what is given up does not come back at once.
    expect(startIsolatePageRange(w.k, start, end, 'contig')).toBe(-1);
    expect(replaceFreeHugetlbFolios(w.k, start + 3, end)).toBe(0);
    undoIsolatePageRange(w.k, start, end);
    expect(poolState(w)).toBe('4/3/0');
    for (const folio of before) expect(poolOf(w).free).not.toContain(folio);
    expect(folioAt(p, hva)).toBe(used);
    settled(w);
  });

  it('dissolveFreeHugetlbFolios: the pool shrinks, but not by what it has promised', () => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    const { nrPages } = w.k.state.frames;
    expect(dissolveFreeHugetlbFolios(w.k, 0, nrPages)).toBe(-EBUSY);
    expect(poolState(w)).toBe('1/1/1');
    p.store32(hva, 5);
    expect(dissolveFreeHugetlbFolios(w.k, 0, nrPages)).toBe(0);
    expect(poolState(w)).toBe('1/0/0');
    expect(nrFreePages(w.k)).toBeLessThan(w.freeAtStart);
    settled(w);
  });
});

describe('which free page is handed out — dequeue_hugetlb_folio_node_exact()', () => {
  it('none of an isolated pageblock; with all of them isolated a promised one is not there: SIGBUS', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    const [first = -1, last = -1] = poolOf(w).free;
    setPageblockIsolated(w.k, last, true);
    expect(p.store32(hva, 1)).toBe(0);
    expect(folioAt(p, hva)).toBe(first);
    expect(p.store32(hva + HUGE, 1)).toBeLessThan(0);
    setPageblockIsolated(w.k, last, false);
    expect(p.store32(hva + HUGE, 1)).toBe(0);
    expect(folioAt(p, hva + HUGE)).toBe(last);
    settled(w);
  });

  it('to be pinned for long: none that has to be able to move', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    for (const folio of poolOf(w).free) setPageblockIsolated(w.k, folio, true);
    memallocPinBegin(w.k);
    expect(p.store32(hva, 1)).toBeLessThan(0);
    const folios = new Int32Array(1);
    const pinning = memfdPinFolios(w.k, hugeFile(w, 1), 0, 5, folios, 1, { offset: 0 });
    expect(drive(pinning)).toBe(-ENOMEM);
    memallocPinEnd(w.k);
    expect(poolState(w)).toBe('2/2/1');
  });
});
