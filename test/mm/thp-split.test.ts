/** Splitting a large folio into single pages. Compare mm/huge_memory.c:__folio_split(). */
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  drive,
  EAGAIN,
  EBUSY,
  EINVAL,
  folioMapcount,
  folioOf,
  folioOrder,
  folioRefCount,
  type HostProcess,
  MADV_DONTNEED,
  madvise,
  mlock,
  mmap,
  MAP_FIXED,
  MAP_SHARED,
  nrFreePages,
  pageAnonExclusive,
  ptePage,
  pteWrite,
  shmemCreate,
  mappingPut,
  splitHugePage,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_SPLIT_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import {
  folioGet,
  folioLock,
  folioPut,
  folioSetFlags,
  folioSetMapping,
  folioUnlock,
  pageIndex,
} from '../../mm/folio/folio.ts';
import { folioAllocOrder } from '../../mm/folio/large.ts';
import { PG_SWAPBACKED, PG_SWAPCACHE, PG_UPTODATE } from '../../mm/frames/table.ts';
import { folioAddLru } from '../../mm/lru/batch.ts';
import { mkPte, vmPageProt } from '../../mm/pgtable/pte.ts';
import { setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import { folioAddFileRmap } from '../../mm/rmap/rmap.ts';
import { folioAllocSwap } from '../../mm/swap/cache.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { splitFolio } from '../../mm/thp/split.ts';
import type { AddressSpace, Kernel } from '../../mm/types.ts';
import { findVma } from '../../mm/vma/vma.ts';
import { addRss } from '../../mm/vma/zap.ts';
import { createProcess, createWorld, entryAt, exit, pageAt, RW, stepTo } from './support.ts';
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

/** Each of `nr` pages from `page` on is a folio of its own with so many references and mappings. */
const expectSmall = (k: Kernel, page: number, nr: number, refs: number, mapped = refs): void => {
  const wrong: number[] = [];
  for (let i = page; i < page + nr; i++)
    if (folioOrder(k, i) !== 0 || folioRefCount(k, i) !== refs || folioMapcount(k, i) !== mapped)
      wrong.push(i - page);
  expect(wrong, 'pages that are no small folio').toEqual([]);
};

describe('an anonymous folio', () => {
  it('becomes 512 folios: the same frames, bytes and rights, each exclusive', () => {
    const { w, k, p, folio } = withThp();
    expect(drive(splitHugePage(k, folio + 100))).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expectSmall(k, folio, HPAGE_PMD_NR, 1);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect([0, 1, 511].map((i) => pageAt(p, at(i)) - folio)).toEqual([0, 1, 511]);
    expect(pteWrite(entryAt(p, at(511)))).toBe(true);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR);
    expect(p.mm.deposited.length).toBe(0);
    expect(k.state.stat.thp_split_page).toBe(1);
    expectQuiet(w);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    fill(p, AT, HPAGE_PMD_NR, 5);
    expect(k.state.stat.cow_copied).toBe(0);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it("shared after a fork stays shared, page by page, and nobody's own", () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    expect(drive(splitHugePage(k, folio))).toBe(0);
    expectSmall(k, folio, HPAGE_PMD_NR, 2);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(0);
    expectQuiet(w);
    fill(p, AT, 10, 5);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectFilled(p, AT, 10, 5);
    expectFilled(p, at(10), HPAGE_PMD_NR - 10, FILLED + 10);
    exit(p);
    exit(child);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('of which a part is mapped: the pages that nobody maps are freed', () => {
    const { w, k, p, folio } = withThp();
    drive(madvise(k, p.mm, at(100), 50 * PAGE_SIZE, MADV_DONTNEED));
    const free = nrFreePages(k);
    expect(drive(splitHugePage(k, folio))).toBe(0);
    expect(nrFreePages(k)).toBe(free + 50);
    expectSmall(k, folio, 100, 1);
    expectQuiet(w);
    expectFilled(p, at(150), HPAGE_PMD_NR - 150, FILLED + 150);
  });

  it('pages of nothing but zeros give way to the zero page, not in a locked VMA', () => {
    for (const locked of [false, true]) {
      const w = thpWorld();
      const p = createProcess(w);
      mapAt(p, HPAGE_PMD_NR);
      fill(p, AT, 8, 1);
      const folio = ptePage(pmdAt(p, AT));
      if (locked) expect(drive(mlock(p.k, p.mm, AT, HPAGE_PMD_SIZE))).toBe(0);
      const free = nrFreePages(w.k);
      expect(drive(splitHugePage(w.k, folio))).toBe(0);
      expect(p.mm.rssAnon).toBe(locked ? HPAGE_PMD_NR : 8);
      expect(nrFreePages(w.k)).toBe(free + (locked ? 0 : HPAGE_PMD_NR - 8));
      expect(pageAt(p, at(8)) === w.k.state.zeroPage).toBe(!locked);
      expectFilled(p, AT, 8, 1);
      expect(p.load32(at(300))).toBe(0);
      expect(p.store32(at(300), 2)).toBe(0);
      expectQuiet(w);
    }
  });

  it('of 64 KiB is split the same way, and counted as no huge page', () => {
    const w = thpWorld(1 << 4);
    const p = createProcess(w);
    mapAt(p, 16);
    fill(p, AT, 16, 1);
    const folio = pageAt(p, AT);
    expect(drive(splitHugePage(w.k, folio + 3))).toBe(0);
    expectSmall(w.k, folio, 16, 1);
    expect(w.k.state.stat.thp_split_page).toBe(0);
    expectFilled(p, AT, 16, 1);
    expectQuiet(w);
  });

  it('in the swap cache: each page keeps its own slot', () => {
    const { w, k, folio } = withThp();
    expect(swapon(k, 1024)).toBe(0);
    folioGet(k, folio);
    drive(folioLock(k, folio));
    expect(folioAllocSwap(k, folio)).toBe(0);
    expect(drive(splitFolio(k, folio))).toBe(0);
    folioUnlock(k, folio);
    folioPut(k, folio);
    const { swap, flags } = k.state.frames;
    const first = swap[folio]!;
    for (const i of [0, 1, 511]) {
      expect(k.state.swap.cache.get(first + i)).toBe(folio + i);
      expect(swap[folio + i]).toBe(first + i);
      expect(flags[folio + i]! & PG_SWAPCACHE).toBe(PG_SWAPCACHE);
      expect(folioRefCount(k, folio + i)).toBe(2);
    }
    expectQuiet(w);
  });
});

describe('refusals', () => {
  it('somebody else has a reference: -EAGAIN, and the huge entry stays', () => {
    const { w, k, p, folio } = withThp();
    folioGet(k, folio);
    expect(drive(splitHugePage(k, folio))).toBe(-EAGAIN);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(k.state.stat.thp_split_page_failed).toBe(1);
    folioPut(k, folio);
    expectQuiet(w);
  });

  it('a pin of one page keeps the whole folio together: -EAGAIN', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, at(77), 1, FOLL_WRITE, pages));
    expect(drive(splitHugePage(k, folio))).toBe(-EAGAIN);
    expect(folioOrder(k, folio)).toBe(9);
    unpinUserPages(k, pages, 1);
    expect(drive(splitHugePage(k, folio))).toBe(0);
    expectQuiet(w);
  });

  it('a reference that comes while the entries are away: they come back, exclusive as before', () => {
    const { w, k, p, folio } = withThp();
    const split = splitHugePage(k, folio);
    stepTo(k, split, YP_SPLIT_UNMAPPED);
    folioGet(k, folio);
    expect(drive(split)).toBe(-EAGAIN);
    expect(folioOrder(k, folio)).toBe(9);
    expect(folioMapcount(k, folio)).toBe(HPAGE_PMD_NR);
    expect(folioRefCount(k, folio)).toBe(HPAGE_PMD_NR + 1);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect(pteWrite(entryAt(p, at(500)))).toBe(true);
    expectQuiet(w, 1);
    folioPut(k, folio);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
  });

  it('the huge zero folio is busy for ever; a single page, a free one and hugetlb are not splittable', () => {
    const { w, k, p } = withThp();
    mapAt(p, HPAGE_PMD_NR, AT + HPAGE_PMD_SIZE);
    p.load32(AT + HPAGE_PMD_SIZE);
    expect(drive(splitHugePage(k, k.state.hugeZeroFolio))).toBe(-EBUSY);
    expect(drive(splitHugePage(k, k.state.zeroPage))).toBe(-EINVAL);
    expect(drive(splitHugePage(k, allocPages(k, 0, 0)))).toBe(-EINVAL);
    expect(drive(splitHugePage(k, -1))).toBe(-EINVAL);
    expect(drive(splitHugePage(k, k.memory.nrPages))).toBe(-EINVAL);
    expectQuiet(w);
  });
});

describe('races', () => {
  it('a load waits for the entries to come back', () => {
    const { w, k, p, folio } = withThp();
    const split = splitHugePage(k, folio);
    stepTo(k, split, YP_SPLIT_UNMAPPED);
    const load = p.loadPath(at(9), 4);
    expect(load.next().value).toBe(YP_WAIT);
    expect(drive(split)).toBe(0);
    expect(drive(load)).toBe(FILLED + 9);
    expectQuiet(w);
  });

  it('MADV_DONTNEED while the entries are away: those pages are freed at the end', () => {
    const { w, k, p, folio } = withThp();
    const free = nrFreePages(k);
    const split = splitHugePage(k, folio);
    stepTo(k, split, YP_SPLIT_UNMAPPED);
    drive(madvise(k, p.mm, at(0), 30 * PAGE_SIZE, MADV_DONTNEED));
    expect(drive(split)).toBe(0);
    // The table that was kept back is in use now.
    expect(nrFreePages(k)).toBe(free + 30);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR - 30);
    expectFilled(p, at(30), HPAGE_PMD_NR - 30, FILLED + 30);
    expectQuiet(w);
  });

  it('a fork while the entries are away: both have the pages, nobody alone', () => {
    const { w, k, p, folio } = withThp();
    const split = splitHugePage(k, folio);
    stepTo(k, split, YP_SPLIT_UNMAPPED);
    const child = forked(w, p);
    expect(drive(split)).toBe(0);
    expectSmall(k, folio, HPAGE_PMD_NR, 2);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(0);
    expectQuiet(w);
    fill(p, AT, 3, 1);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
  });

  it('GUP-fast has read the huge entry, and not counted: it finds the entry changed, and pins the small page', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_READ);
    expect(drive(splitHugePage(k, folio))).toBe(0);
    expect(drive(pin)).toBe(1);
    expect(pages[0]).toBe(folio + 5);
    expect(folioRefCount(k, folio + 5)).toBe(1 + 1024);
    expect(folioRefCount(k, folio)).toBe(1);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('GUP-fast has counted: the references cannot be frozen, and the pin stands', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_PINNED);
    expect(drive(splitHugePage(k, folio))).toBe(-EAGAIN);
    expect(drive(pin)).toBe(1);
    expect(pageAnonExclusive(k, folio)).toBe(true);
    expect(folioOrder(k, folio)).toBe(9);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('GUP-fast counts a tail between two looks at the folio: it is the small page that it gets', () => {
    const { w, k, p, folio } = withThp();
    drive(madvise(k, p.mm, at(0), PAGE_SIZE, MADV_DONTNEED)); // mapped page by page now
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_READ);
    expect(drive(splitHugePage(k, folio))).toBe(0);
    expect(drive(pin)).toBe(1);
    expect(pages[0]).toBe(folio + 5);
    expect(folioRefCount(k, folio + 5)).toBe(1 + 1024);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });
});

/** A folio of 1 << order pages in a file's page cache. */
const addToCache = (k: Kernel, file: AddressSpace, order: number): number => {
  const folio = folioAllocOrder(k, order, 0);
  folioSetFlags(k, folio, PG_UPTODATE | PG_SWAPBACKED);
  folioSetMapping(k, folio, file.id, 0);
  folioAddLru(k, folio);
  for (let i = 0; i < 1 << order; i++) {
    file.pages.set(i, folio + i);
    folioGet(k, folio);
    k.memory.i32[k.memory.pageOffset(folio + i) / 4] = 40 + i;
  }
  folioPut(k, folio);
  return folio;
};

/** Maps a page of a file, as a read fault does. */
const mapFilePage = (p: HostProcess, hva: number, page: number): void => {
  const { k, mm } = p;
  const prot = vmPageProt(findVma(mm, hva)?.flags ?? 0);
  folioGet(k, folioOf(k, page));
  folioAddFileRmap(k, page);
  addRss(mm, false, 1);
  setPteAt(k, walkPte(k, mm, hva, true), mkPte(page, prot));
};

describe('a folio of a file', () => {
  it('leaves its mappings and the page cache with single pages; what lies behind the end goes', () => {
    const w = createWorld(8 << 20);
    const p = createProcess(w);
    const file = shmemCreate(w.k, 13);
    const folio = addToCache(w.k, file, 4);
    drive(
      mmap(w.k, p.mm, {
        hva: AT,
        lenBytes: 13 * PAGE_SIZE,
        prot: RW,
        flags: MAP_SHARED | MAP_FIXED,
        mapping: file,
      }),
    );
    for (let i = 0; i < 13; i++) mapFilePage(p, at(i), folio + i);
    expectQuiet(w);
    expect(drive(splitHugePage(w.k, folio))).toBe(0);
    expect(file.pages.size).toBe(13);
    for (let i = 0; i < 13; i++) {
      expect(p.load32(at(i))).toBe(40 + i);
      expect(pageAt(p, at(i))).toBe(folio + i);
      expect(folioOrder(w.k, folio + i)).toBe(0);
      expect(pageIndex(w.k, folio + i)).toBe(i);
      expect(folioRefCount(w.k, folio + i)).toBe(2);
    }
    expectQuiet(w);
    exit(p);
    drive(mappingPut(w.k, file));
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('that one entry maps: the entry goes, and the next access maps single pages', () => {
    const w = createWorld(16 << 20);
    w.k.state.thp.shmem = true;
    const p = createProcess(w);
    const file = shmemCreate(w.k, HPAGE_PMD_NR);
    drive(
      mmap(w.k, p.mm, {
        hva: AT,
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_SHARED | MAP_FIXED,
        mapping: file,
      }),
    );
    fill(p, AT, HPAGE_PMD_NR, FILLED);
    const folio = ptePage(pmdAt(p, AT));
    expect(folioOrder(w.k, folio)).toBe(9);
    expect(drive(splitHugePage(w.k, folio))).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expect(p.mm.rssFile).toBe(0);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectSmall(w.k, folio, HPAGE_PMD_NR, 2, 1);
    expect(p.mm.rssFile).toBe(HPAGE_PMD_NR);
    expectQuiet(w);
  });

  it('that was truncated meanwhile is busy', () => {
    const w = createWorld(8 << 20);
    const folio = folioAllocOrder(w.k, 4, 0);
    expect(drive(splitHugePage(w.k, folio))).toBe(-EBUSY);
  });
});
