/** fork() of hugetlb memory, and pins of it. Compare mm/hugetlb.c:copy_hugetlb_page_range(). */
import { drive, folioMapcount, folioPinCount, MAP_SHARED, pageAnonExclusive, pteWrite } from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import {
  createHugeWorld,
  folioAt,
  forked,
  HUGE_NR,
  leafAt,
  mapHuge,
  poolState,
  settled,
  sharedPage,
} from './hugetlb-world.ts';
import { createProcess, exit } from './support.ts';

describe('fork — copy_hugetlb_page_range()', () => {
  it('shares the page read-only, and it stops being exclusive', () => {
    const { w, p, c, hva } = sharedPage(1);
    for (const who of [p, c]) expect(pteWrite(leafAt(who, hva).entry)).toBe(false);
    expect(folioMapcount(w.k, folioAt(p, hva))).toBe(2);
    expect(c.mm.hugetlbUsage).toBe(HUGE_NR);
    settled(w);
  });

  it('leaves shared memory out: the child finds it again', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1, MAP_SHARED);
    p.store32(hva, 5);
    const c = forked(w, p);
    expect(folioAt(c, hva)).toBe(-1);
    expect(c.load32(hva)).toBe(5);
    c.store32(hva, 6);
    expect(p.load32(hva)).toBe(6);
    settled(w);
  });

  it('copies a pinned page at once, from what is left over; the parent keeps its page, writable', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 1);
    const pages = new Int32Array(3);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 3, FOLL_WRITE, pages))).toBe(3);
    const folio = folioAt(p, hva);
    expect(folioPinCount(w.k, folio)).toBe(3);
    const c = forked(w, p);
    expect(folioAt(c, hva)).not.toBe(folio);
    expect(pageAnonExclusive(w.k, folio)).toBe(true);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(true);
    expect(pteWrite(leafAt(c, hva).entry)).toBe(true);
    expect(w.k.state.stat.fork_copied_pinned).toBe(1);
    p.store32(hva, 2);
    expect(c.load32(hva)).toBe(1);
    unpinUserPages(w.k, pages, 3);
    settled(w);
    exit(c);
    exit(p);
    expect(poolState(w)).toBe('2/2/0');
  });

  it('of a pinned page and an empty pool is -ENOMEM, and nothing is left of the child', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    p.store32(hva, 1);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    // The other page is the parent's by promise.
    expect(poolState(w)).toBe('2/1/1');
    expect(() => forked(w, p)).toThrow('fork: -12');
    unpinUserPages(w.k, pages, 1);
    settled(w);
    expect(poolState(w)).toBe('2/1/1');
    expect(w.k.state.mms.size).toBe(1);
    // The parent's page is its own again without a copy.
    const folio = folioAt(p, hva);
    expect(p.store32(hva, 2)).toBe(0);
    expect(folioAt(p, hva)).toBe(folio);
  });

  it('pinned for reading after an earlier fork, the page is made the process’s own first', () => {
    const { w, p, c, hva } = sharedPage(2);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, 0, pages))).toBe(1);
    expect(folioAt(p, hva)).toBe(pages[0]);
    expect(folioAt(c, hva)).not.toBe(pages[0]);
    p.store32(hva, 9);
    expect(folioAt(p, hva)).toBe(pages[0]);
    unpinUserPages(w.k, pages, 1);
    settled(w);
  });
});
