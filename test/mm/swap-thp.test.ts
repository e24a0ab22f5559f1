/** Large folios and swap: as a whole, or split before. Compare mm/vmscan.c and mm/madvise.c. */
import { PAGE_SIZE } from '#emu';
import { drive, folioOrder, madvise, munmap, nrFreePages, pageAnonExclusive } from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPage } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { EAGAIN, EBUSY, ENOMEM } from '../../mm/errno.ts';
import { folioGet, folioPut, folioRefCount } from '../../mm/folio/folio.ts';
import { isSwapEntry, swapEntryExclusive, swapEntrySlot } from '../../mm/pgtable/swapops.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapFull, swapon } from '../../mm/swap/slots.ts';
import { MADV_PAGEOUT } from '../../mm/vma/flags.ts';
import { createProcess, entryAt, exit, pageAt } from './support.ts';
import {
  expectFilled,
  expectQuiet,
  fill,
  FILLED,
  forked,
  HPAGE_PMD_NR,
  mapAt,
  type OneThp,
  pmdAt,
  thpWorld,
  withThp,
} from './thp-world.ts';

const SLOTS = 2048;

const withSwap = (nrSlots = SLOTS): OneThp => {
  const thp = withThp();
  swapon(thp.k, nrSlots);
  return thp;
};
const reclaim = ({ k, folio }: OneThp): number => drive(reclaimFolio(k, folio));
const pageout = ({ k, p, hva }: OneThp, first: number, n: number): number =>
  drive(madvise(k, p.mm, hva + first * PAGE_SIZE, n * PAGE_SIZE, MADV_PAGEOUT));
/** Entries that name a slot, among the 512. */
const swapped = ({ p, hva }: OneThp): number => {
  let n = 0;
  for (let i = 0; i < HPAGE_PMD_NR; i++) {
    const entry = entryAt(p, hva + i * PAGE_SIZE);
    if (entry !== 0 && isSwapEntry(entry)) n++;
  }
  return n;
};

describe('a folio that one entry maps', () => {
  it('goes as a whole: 512 slots in a row, 512 exclusive entries, and comes back page by page', () => {
    const thp = withSwap();
    const { w, k, p, hva } = thp;
    const free = nrFreePages(k);
    expect(reclaim(thp)).toBe(0);
    expect([nrFreePages(k) - free, swapped(thp), p.mm.rssSwap]).toEqual([512, 512, 512]);
    const first = swapEntrySlot(entryAt(p, hva));
    const last = entryAt(p, hva + 511 * PAGE_SIZE);
    expect([swapEntrySlot(last), swapEntryExclusive(last)]).toEqual([first + 511, true]);
    expect([k.state.stat.thp_split_pmd, k.state.stat.thp_split_page]).toEqual([1, 0]);
    expectQuiet(w);
    expectFilled(p, hva, HPAGE_PMD_NR, FILLED);
    expect(folioOrder(k, pageAt(p, hva))).toBe(0);
    expectQuiet(w);
    exit(p);
    expect([nrFreePages(k), k.state.swap.nrFree]).toEqual([w.freeAtStart, SLOTS]);
  });

  it('one page of it pinned: -EBUSY; a plain reference: -EAGAIN; nothing is split or unmapped', () => {
    const thp = withSwap();
    const { w, k, p, hva, folio } = thp;
    const entry = pmdAt(p, hva);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, hva + 7 * PAGE_SIZE, 1, FOLL_WRITE, pages));
    expect([reclaim(thp), pmdAt(p, hva)]).toEqual([-EBUSY, entry]);
    unpinUserPage(k, pages[0]!);
    folioGet(k, folio);
    expect([reclaim(thp), pmdAt(p, hva)]).toEqual([-EAGAIN, entry]);
    folioPut(k, folio);
    expect(reclaim(thp)).toBe(0);
    expectQuiet(w);
  });

  it('shared by a fork: both have entries for the same slots, and nobody is exclusive', () => {
    const thp = withSwap();
    const { w, p, hva } = thp;
    const child = forked(w, p);
    expect(reclaim(thp)).toBe(0);
    expect(entryAt(child, hva)).toBe(entryAt(p, hva));
    expect(swapEntryExclusive(entryAt(p, hva))).toBe(false);
    fill(child, hva, HPAGE_PMD_NR, 5);
    expectFilled(p, hva, HPAGE_PMD_NR, FILLED);
    expectFilled(child, hva, HPAGE_PMD_NR, 5);
    expectQuiet(w);
  });

  it('no run of 512 slots: split, and as many pages go as there are slots', () => {
    const thp = withSwap(300);
    const { w, k, p, hva } = thp;
    expect(reclaim(thp)).toBe(-ENOMEM);
    expect([swapped(thp), k.state.stat.thp_split_page, swapFull(k)]).toEqual([300, 1, true]);
    expectQuiet(w);
    expectFilled(p, hva, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });

  it('held when it is written: it stays in the swap cache as a whole, and faults map its pages again', () => {
    const thp = withSwap();
    const { w, k, p, hva, folio } = thp;
    expect(p.load32(hva)).toBe(FILLED);
    // A reference that comes after the first look.
    const reclaiming = reclaimFolio(k, folio);
    k.watched = true;
    reclaiming.next();
    folioGet(k, folio);
    k.watched = false;
    expect(drive(reclaiming)).toBe(-EAGAIN);
    expect([swapped(thp), folioRefCount(k, folio)]).toEqual([512, 513]);
    expectQuiet(w, 1);
    expect(p.load32(hva + 9 * PAGE_SIZE)).toBe(FILLED + 9);
    expect([pageAt(p, hva + 9 * PAGE_SIZE), pageAnonExclusive(k, folio + 9)]).toEqual([
      folio + 9,
      true,
    ]);
    folioPut(k, folio);
    expectFilled(p, hva, HPAGE_PMD_NR, FILLED);
    expect([k.state.stat.pswpin, folioOrder(k, pageAt(p, hva))]).toEqual([0, 9]);
    expectQuiet(w);
    exit(p);
    expect([nrFreePages(k), k.state.swap.nrFree]).toEqual([w.freeAtStart, SLOTS]);
  });
});

describe('a folio some of whose pages are unmapped', () => {
  it('is split: those pages are free, the others go', () => {
    const thp = withSwap();
    const { w, k, p, hva } = thp;
    drive(munmap(k, p.mm, hva, 100 * PAGE_SIZE));
    expect(reclaim(thp)).toBe(0);
    expect([k.state.stat.thp_split_page, SLOTS - k.state.swap.nrFree]).toEqual([1, 412]);
    expectQuiet(w);
    expectFilled(p, hva + 100 * PAGE_SIZE, 412, FILLED + 100);
  });
});

describe('MADV_PAGEOUT', () => {
  it('of all of it: as a whole', () => {
    const thp = withSwap();
    expect(pageout(thp, 0, HPAGE_PMD_NR)).toBe(0);
    expect([swapped(thp), thp.k.state.stat.thp_split_page]).toEqual([512, 0]);
    expectFilled(thp.p, thp.hva, HPAGE_PMD_NR, FILLED);
    expectQuiet(thp.w);
  });

  it('of a part: split, and only that part goes', () => {
    const thp = withSwap();
    expect(pageout(thp, 10, 20)).toBe(0);
    expect([swapped(thp), thp.k.state.stat.thp_split_page]).toEqual([20, 1]);
    expectFilled(thp.p, thp.hva, HPAGE_PMD_NR, FILLED);
    expectQuiet(thp.w);
  });

  it('shared with another process: left alone', () => {
    const thp = withSwap();
    forked(thp.w, thp.p);
    expect([pageout(thp, 0, HPAGE_PMD_NR), pageout(thp, 10, 20)]).toEqual([0, 0]);
    expect([swapped(thp), pmdAt(thp.p, thp.hva) !== 0]).toEqual([0, true]);
  });

  it('folios of 64 KiB that another process maps too are not even split', () => {
    const w = thpWorld(1 << 4);
    const { k } = w;
    swapon(k, SLOTS);
    const p = createProcess(w);
    const hva = mapAt(p, 16);
    fill(p, hva, 16, FILLED);
    const folio = pageAt(p, hva);
    forked(w, p);
    expect(pageout({ w, k, p, hva, folio }, 2, 4)).toBe(0);
    expect([folioOrder(k, folio), pageAt(p, hva + 2 * PAGE_SIZE)]).toEqual([4, folio + 2]);
  });

  it('folios of 64 KiB: whole where the range holds them, split at its ends', () => {
    const w = thpWorld(1 << 4);
    const { k } = w;
    swapon(k, SLOTS);
    const p = createProcess(w);
    const hva = mapAt(p, 64);
    fill(p, hva, 64, FILLED);
    const folio = pageAt(p, hva + 16 * PAGE_SIZE);
    expect(folioOrder(k, folio)).toBe(4);
    expect(pageout({ w, k, p, hva, folio }, 8, 40)).toBe(0);
    const present = Array.from({ length: 64 }, (_, i) => pageAt(p, hva + i * PAGE_SIZE) >= 0);
    expect(present).toEqual(present.map((_, i) => i < 8 || i >= 48));
    expectFilled(p, hva, 64, FILLED);
    expectQuiet(w);
  });
});
