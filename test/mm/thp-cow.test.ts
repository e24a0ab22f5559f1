/**
 * Copy on write of huge pages: who may write to a folio that others had or have as well. Compare
 * mm/huge_memory.c, do_huge_pmd_wp_page() and copy_huge_pmd(), and mm/memory.c,
 * wp_can_reuse_anon_folio().
 */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  folioMapcount,
  folioOrder,
  folioRefCount,
  handleMmFault,
  type HostProcess,
  madvise,
  MADV_DONTNEED,
  munmap,
  nrFreePages,
  pageAnonExclusive,
  pageMapcount,
  ptePage,
  pteWrite,
  splitHugePmd,
  userFault,
  writeProtectRange,
  YP_WAIT,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, pinUserPagesUnlocked, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioGet, folioPut, folioTrylock, folioUnlock } from '../../mm/folio/folio.ts';
import { folioAllocSwap } from '../../mm/swap/cache.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { findVma } from '../../mm/vma/vma.ts';
import { createProcess, entryAt, exit, pageAt } from './support.ts';
import {
  AT,
  countExclusive,
  expectFilled,
  expectQuiet,
  FILLED,
  fill,
  forked,
  HPAGE_PMD_NR,
  HPAGE_PMD_SIZE,
  mapAt,
  pmdAt,
  thpWorld,
  withThp,
} from './thp-world.ts';

const at = (i: number): number => AT + i * PAGE_SIZE;
const unshare = (p: HostProcess, hva: number): number =>
  drive(handleMmFault(p.k, p.mm, hva, FAULT_FLAG_UNSHARE));
const split = (p: HostProcess): void => {
  const vma = findVma(p.mm, AT);
  if (vma !== null) splitHugePmd(p.k, vma, AT);
};
const dontneed = (p: HostProcess, first: number, nrPages: number): number =>
  drive(madvise(p.k, p.mm, at(first), nrPages * PAGE_SIZE, MADV_DONTNEED));

describe('fork (1.5)', () => {
  it('shares the entry read-only on both sides: no longer exclusive, counted once more', () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    for (const q of [p, child]) {
      expect(ptePage(pmdAt(q, AT))).toBe(folio);
      expect(pteWrite(pmdAt(q, AT))).toBe(false);
      expect(q.mm.rssAnon).toBe(HPAGE_PMD_NR);
      expect(q.mm.deposited.length).toBe(1);
    }
    expect(pageAnonExclusive(k, folio)).toBe(false);
    expect(folioRefCount(k, folio)).toBe(2);
    expect(folioMapcount(k, folio)).toBe(2);
    expectQuiet(w);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    exit(p);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    exit(child);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('of a pinned folio splits the entry in the parent, which keeps every page, exclusive and writable', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(2);
    expect(drive(pinUserPagesFast(k, p.mm, at(40), 2, FOLL_WRITE, pages))).toBe(2);
    expect([...pages]).toEqual([folio + 40, folio + 41]);
    const child = forked(w, p);
    expect(pmdAt(p, AT)).toBe(0);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect([0, 40, 511].every((i) => pteWrite(entryAt(p, at(i))))).toBe(true);
    expect([0, 40, 511].map((i) => pageAt(p, at(i)) - folio)).toEqual([0, 40, 511]);
    // A pin is counted for the folio, so the child gets a copy of each page.
    expect(k.state.stat.fork_copied_pinned).toBe(HPAGE_PMD_NR);
    expectQuiet(w);
    fill(p, AT, HPAGE_PMD_NR, 7);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectFilled(p, AT, HPAGE_PMD_NR, 7);
    expect(pageAt(p, at(40))).toBe(folio + 40);
    unpinUserPages(k, pages, 2);
    expectQuiet(w);
    exit(child);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('of 64 KiB folios, one of them pinned: the child gets copies of that one, and shares the other', () => {
    const w = thpWorld(1 << 4);
    const p = createProcess(w);
    mapAt(p, 32);
    fill(p, AT, 32, FILLED);
    const [first, second] = [pageAt(p, AT), pageAt(p, at(16))];
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, at(5), 1, FOLL_WRITE, pages));
    const child = forked(w, p);
    expect(w.k.state.stat.fork_copied_pinned).toBe(16);
    expect(folioMapcount(w.k, first)).toBe(16);
    expect(folioMapcount(w.k, second)).toBe(32);
    expect(countExclusive(w.k, first, 16)).toBe(16);
    expect(countExclusive(w.k, second, 16)).toBe(0);
    expectQuiet(w);
    fill(p, AT, 32, 1);
    expect(pageAt(p, at(5))).toBe(pages[0]);
    expectFilled(child, AT, 32, FILLED);
    unpinUserPages(w.k, pages, 1);
    expectQuiet(w);
  });

  it('shares the huge zero folio as it is', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.load32(AT);
    const child = forked(w, p);
    expect(ptePage(pmdAt(child, AT))).toBe(w.k.state.hugeZeroFolio);
    expect(child.mm.rssAnon).toBe(0);
    p.store32(AT, 1);
    expect(child.load32(AT)).toBe(0);
    expectQuiet(w);
  });
});

describe('a write to what one entry maps', () => {
  it('and another process as well: the entry is split and one page copied', () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expect(pmdAt(child, AT)).not.toBe(0);
    expect(folioOrder(k, pageAt(p, at(3)))).toBe(0);
    expect(pageAt(p, at(4))).toBe(folio + 4);
    expect(pteWrite(entryAt(p, at(4)))).toBe(false);
    expect(k.state.stat.cow_copied).toBe(1);
    expect(pageMapcount(k, folio + 3)).toBe(1);
    expect(pageMapcount(k, folio + 4)).toBe(2);
    expect(folioRefCount(k, folio)).toBe(HPAGE_PMD_NR);
    expectQuiet(w);
    expect(child.load32(at(3))).toBe(FILLED + 3);
    expect(p.load32(at(3))).toBe(1);
  });

  it('after the other has gone: the whole folio is reused, without a copy', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    expect(p.store32(at(3), 1)).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    expect(pageAnonExclusive(k, folio)).toBe(true);
    expect(k.state.stat.cow_copied).toBe(0);
    expect(k.state.stat.thp_split_pmd).toBe(0);
    expectQuiet(w);
  });

  it('while somebody has a plain reference: split and copied, so that he keeps the old page', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    folioGet(k, folio);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(folio + 3);
    expectQuiet(w, 1);
    folioPut(k, folio);
    expectQuiet(w);
  });

  it('exclusive, and only write-protected: reused whatever references there are', () => {
    const { w, k, p, folio } = withThp();
    folioGet(k, folio);
    expect(drive(writeProtectRange(k, p.mm, AT, AT + HPAGE_PMD_SIZE))).toBe(1);
    expect(pteWrite(pmdAt(p, AT))).toBe(false);
    expect(p.store32(at(9), 2)).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    folioPut(k, folio);
    expectQuiet(w);
  });

  it('whose slots nobody names any more: they go first, and the folio is reused', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    swapon(k, 1024);
    folioGet(k, folio);
    folioTrylock(k, folio);
    expect(folioAllocSwap(k, folio)).toBe(0);
    folioUnlock(k, folio);
    folioPut(k, folio);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(k.state.swap.nrFree).toBe(1024);
    expect(folioRefCount(k, folio)).toBe(1);
    expectQuiet(w);
  });

  it('waits for the lock of the folio, and looks again', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    folioTrylock(k, folio);
    const fault = userFault(k, p.mm, AT, FAULT_FLAG_WRITE);
    expect(fault.next().value).toBe(YP_WAIT);
    expect(folioRefCount(k, folio)).toBe(2);
    folioUnlock(k, folio);
    expect(drive(fault)).toBe(0);
    expect(folioRefCount(k, folio)).toBe(1);
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    expectQuiet(w);
  });

  it('waits, and the entry has gone meanwhile: the access is tried again', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    folioTrylock(k, folio);
    const fault = userFault(k, p.mm, AT, FAULT_FLAG_WRITE);
    expect(fault.next().value).toBe(YP_WAIT);
    expect(dontneed(p, 0, HPAGE_PMD_NR)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    folioUnlock(k, folio);
    expect(drive(fault)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expectQuiet(w);
    expect(p.load32(AT)).toBe(0);
  });
});

describe('a write to a page of a folio that entries map one by one', () => {
  it('exclusive: reused, whatever has become of the other pages', () => {
    const { w, k, p, folio } = withThp();
    split(p);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect(pteWrite(entryAt(p, at(3)))).toBe(true);
    dontneed(p, 4, 500);
    fill(p, AT, 4, 77);
    expect(k.state.stat.cow_copied).toBe(0);
    expect(pageAt(p, at(3))).toBe(folio + 3);
    expectQuiet(w);
  });

  it('all references are mappings of this address space: reused, this page alone exclusive again', () => {
    const { w, k, p, folio } = withThp();
    split(p);
    exit(forked(w, p));
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(0);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pageAt(p, at(3))).toBe(folio + 3);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(1);
    expect(pageAnonExclusive(k, folio + 3)).toBe(true);
    expect(pteWrite(entryAt(p, at(4)))).toBe(false);
    expect(k.state.stat.cow_copied).toBe(0);
    expectQuiet(w);
  });

  it('another address space maps any page of it, be it another one: copied', () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    drive(munmap(k, child.mm, AT, HPAGE_PMD_SIZE - PAGE_SIZE));
    expect(child.mm.rssAnon).toBe(1);
    split(p);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(folio + 3);
    expect(k.state.stat.cow_copied).toBe(1);
    exit(child);
    expect(p.store32(at(4), 1)).toBe(0);
    expect(pageAt(p, at(4))).toBe(folio + 4);
    expect(k.state.stat.cow_copied).toBe(1);
    expectQuiet(w);
  });

  it('a reference to any page of it besides: copied', () => {
    const { w, k, p, folio } = withThp();
    split(p);
    exit(forked(w, p));
    folioGet(k, folio);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(folio + 3);
    folioPut(k, folio);
    expect(p.store32(at(4), 1)).toBe(0);
    expect(pageAt(p, at(4))).toBe(folio + 4);
    expectQuiet(w);
  });

  it('a single page of it is left: copied, so that the other 511 are free', () => {
    const { w, k, p, folio } = withThp();
    dontneed(p, 0, 3);
    dontneed(p, 4, 508);
    exit(forked(w, p));
    expect(folioMapcount(k, folio)).toBe(1);
    const free = nrFreePages(k);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(folio + 3);
    expect(nrFreePages(k)).toBe(free + HPAGE_PMD_NR - 1);
    expectQuiet(w);
  });

  it('of 64 KiB the same rules hold', () => {
    const w = thpWorld(1 << 4);
    const p = createProcess(w);
    mapAt(p, 16);
    fill(p, AT, 16, FILLED);
    const folio = pageAt(p, AT);
    const child = forked(w, p);
    expect(p.store32(at(3), 1)).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(folio + 3);
    exit(child);
    fill(p, AT, 16, 3);
    expect(pageAt(p, at(4))).toBe(folio + 4);
    expect(w.k.state.stat.cow_copied).toBe(1);
    expect(countExclusive(w.k, folio, 16)).toBe(15);
    expectFilled(p, AT, 16, 3);
    expectQuiet(w);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });
});

describe('unsharing (1.5, 1.10)', () => {
  it('of what another process maps as well: split, one page copied, read-only as before', () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    expect(unshare(p, at(3))).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    const page = pageAt(p, at(3));
    expect(page).not.toBe(folio + 3);
    expect(pageAnonExclusive(k, page)).toBe(true);
    expect(pteWrite(entryAt(p, at(3)))).toBe(false);
    expect(k.state.stat.unshare_copied).toBe(1);
    expect(p.load32(at(3))).toBe(FILLED + 3);
    expect(ptePage(pmdAt(child, AT))).toBe(folio);
    expectQuiet(w);
  });

  it('of what the mapping has to itself by now: exclusive, as a whole, and nothing copied', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    expect(unshare(p, at(3))).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(pteWrite(pmdAt(p, AT))).toBe(false);
    expect(pageAnonExclusive(k, folio)).toBe(true);
    expect(k.state.stat.unshare_copied).toBe(0);
    expectQuiet(w);
  });

  for (const { how, pin } of [
    { how: 'fast', pin: pinUserPagesFast },
    { how: 'slow', pin: pinUserPagesUnlocked },
  ])
    it(`a read-only pin (${how}) of a shared huge page unshares: what the process writes later is seen through it`, () => {
      const { w, k, p } = withThp();
      const child = forked(w, p);
      const pages = new Int32Array(3);
      expect(drive(pin(k, p.mm, at(7), 3, 0, pages))).toBe(3);
      fill(p, at(7), 3, 99);
      expect([0, 1, 2].map((i) => pageAt(p, at(7 + i)))).toEqual([...pages]);
      expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
      expectQuiet(w);
      unpinUserPages(k, pages, 3);
      expectQuiet(w);
    });

  it('a read-only pin of the whole, shared no longer, takes the huge entry as it is', () => {
    const { w, k, p, folio } = withThp();
    exit(forked(w, p));
    const pages = new Int32Array(HPAGE_PMD_NR);
    expect(drive(pinUserPagesFast(k, p.mm, AT, HPAGE_PMD_NR, 0, pages))).toBe(HPAGE_PMD_NR);
    expect(pages[511]).toBe(folio + 511);
    expect(pmdAt(p, AT)).not.toBe(0);
    expectQuiet(w);
    unpinUserPages(k, pages, HPAGE_PMD_NR);
    expect(folioRefCount(k, folio)).toBe(1);
    expectQuiet(w);
  });
});
