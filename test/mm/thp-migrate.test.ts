/** Migration of large folios, as a whole. Compare mm/migrate.c:migrate_folio_unmap(), migrate_folio_move(). */
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  drive,
  EAGAIN,
  EBUSY,
  EINVAL,
  ENOMEM,
  folioMapcount,
  folioOf,
  folioOrder,
  folioRefCount,
  MADV_DONTNEED,
  MAP_FIXED,
  MAP_SHARED,
  madvise,
  migrateFolio,
  mmap,
  mmuNotifierRegister,
  nrFreePages,
  ptePage,
  pteWrite,
  shmemCreate,
  mappingPut,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { folioGet, folioPut, folioSetFlags, folioSetMapping } from '../../mm/folio/folio.ts';
import { folioAllocOrder } from '../../mm/folio/large.ts';
import { PG_SWAPBACKED, PG_UPTODATE } from '../../mm/frames/table.ts';
import { folioAddLru } from '../../mm/lru/batch.ts';
import { pageoutRange } from '../../mm/swap/pageout.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  pageAt,
  RW,
  recordNotifier,
  stepTo,
} from './support.ts';
import {
  AT,
  countExclusive,
  expectFilled,
  expectQuiet,
  FILLED,
  fill,
  forked,
  HPAGE_PMD_NR,
  mapAt,
  pmdAt,
  thpWorld,
  withThp,
} from './thp-world.ts';

const at = (i: number): number => AT + i * PAGE_SIZE;

describe('a folio of 2 MiB', () => {
  it('moves to another one: the same bytes, rights and exclusiveness, mapped page by page', () => {
    const { w, k, p, folio } = withThp();
    const free = nrFreePages(k);
    expect(drive(migrateFolio(k, folio))).toBe(0);
    const to = pageAt(p, AT);
    expect(to).not.toBe(folio);
    expect(folioOrder(k, to)).toBe(9);
    expect([1, 300, 511].map((i) => pageAt(p, at(i)) - to)).toEqual([1, 300, 511]);
    expect(folioRefCount(k, to)).toBe(HPAGE_PMD_NR);
    expect(folioMapcount(k, to)).toBe(HPAGE_PMD_NR);
    expect(countExclusive(k, to, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect(pteWrite(entryAt(p, at(511)))).toBe(true);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR);
    expect(nrFreePages(k)).toBe(free);
    expect(k.state.stat.pgmigrate_success).toBe(HPAGE_PMD_NR);
    expectQuiet(w);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    fill(p, AT, HPAGE_PMD_NR, 1);
    expect(k.state.stat.cow_copied).toBe(0);
    exit(p);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('asked for by any of its pages', () => {
    const { w, k, p, folio } = withThp();
    expect(drive(migrateFolio(k, folio + 77))).toBe(0);
    expect(folioOf(k, pageAt(p, at(77)))).not.toBe(folio);
    expectQuiet(w);
  });

  it('shared after a fork: both find it where it is now, and nobody may write', () => {
    const { w, k, p, folio } = withThp();
    const child = forked(w, p);
    expect(drive(migrateFolio(k, folio))).toBe(0);
    const to = pageAt(p, AT);
    expect(pageAt(child, at(9))).toBe(to + 9);
    expect(folioMapcount(k, to)).toBe(2 * HPAGE_PMD_NR);
    expect(countExclusive(k, to, HPAGE_PMD_NR)).toBe(0);
    expectQuiet(w);
    fill(p, AT, 5, 1);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    exit(child);
    expect(p.store32(at(6), 1)).toBe(0);
    expect(pageAt(p, at(6))).toBe(to + 6);
    expectQuiet(w);
  });

  it('partly mapped moves whole, and what nobody maps stays mapped by nobody', () => {
    const { w, k, p, folio } = withThp();
    drive(madvise(k, p.mm, at(100), 50 * PAGE_SIZE, MADV_DONTNEED));
    expect(drive(migrateFolio(k, folio))).toBe(0);
    const to = pageAt(p, AT);
    expect(folioOrder(k, to)).toBe(9);
    expect(folioMapcount(k, to)).toBe(HPAGE_PMD_NR - 50);
    expect(entryAt(p, at(120))).toBe(0);
    expectFilled(p, at(150), HPAGE_PMD_NR - 150, FILLED + 150);
    expectQuiet(w);
  });

  it('of 64 KiB moves the same way', () => {
    const w = thpWorld(1 << 4);
    const p = createProcess(w);
    mapAt(p, 32);
    fill(p, AT, 32, 1);
    const folio = pageAt(p, at(16));
    expect(drive(migrateFolio(w.k, folio + 5))).toBe(0);
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, at(16))))).toBe(4);
    expect(pageAt(p, at(16))).not.toBe(folio);
    expectFilled(p, AT, 32, 1);
    expectQuiet(w);
  });

  it('tells the notifiers before the huge entry is split, and once', () => {
    const { w, k, p, folio } = withThp();
    recordNotifier(w, 'test');
    mmuNotifierRegister(k, p.mm, 'test', 1);
    w.log.length = 0;
    drive(migrateFolio(k, folio));
    const calls = w.log.filter((line) => line !== 'flush');
    expect(calls).toEqual(['start CLEAR 512', 'end CLEAR 512']);
    expect(w.log[0]).toBe('start CLEAR 512');
    expect(w.log.at(-1)).toBe('end CLEAR 512');
  });
});

describe('refusals', () => {
  it('a pin of any page: -EBUSY, and the huge entry is not even split', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, at(77), 1, FOLL_WRITE, pages));
    expect(drive(migrateFolio(k, folio))).toBe(-EBUSY);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(k.state.stat.pgmigrate_fail).toBe(HPAGE_PMD_NR);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('a plain reference: -EAGAIN, and everything comes back, page by page', () => {
    const { w, k, p, folio } = withThp();
    folioGet(k, folio);
    expect(drive(migrateFolio(k, folio))).toBe(-EAGAIN);
    folioPut(k, folio);
    expect(pageAt(p, at(9))).toBe(folio + 9);
    expect(countExclusive(k, folio, HPAGE_PMD_NR)).toBe(HPAGE_PMD_NR);
    expect(folioRefCount(k, folio)).toBe(HPAGE_PMD_NR);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    fill(p, AT, HPAGE_PMD_NR, 1);
    expect(k.state.stat.cow_copied).toBe(0);
    expectQuiet(w);
  });

  it('no free folio of the size: -ENOMEM; the huge zero folio: -EINVAL', () => {
    const { w, k, p, folio } = withThp();
    mapAt(p, HPAGE_PMD_NR, AT + (1 << 21));
    p.load32(AT + (1 << 21));
    expect(drive(migrateFolio(k, k.state.hugeZeroFolio + 3))).toBe(-EINVAL);
    while (allocPages(k, 9, 0) >= 0);
    expect(drive(migrateFolio(k, folio))).toBe(-ENOMEM);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });
});

describe('races', () => {
  it('GUP-fast has read the huge entry, and not counted: it pins the page where that is now', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_READ);
    expect(drive(migrateFolio(k, folio))).toBe(0);
    expect(drive(pin)).toBe(1);
    expect(pages[0]).toBe(pageAt(p, at(5)));
    expect(folioOf(k, pages[0]!)).not.toBe(folio);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('GUP-fast has counted: the move sees the pin', () => {
    const { w, k, p, folio } = withThp();
    const pages = new Int32Array(1);
    const pin = pinUserPagesFast(k, p.mm, at(5), 1, FOLL_WRITE, pages);
    stepTo(k, pin, YP_GUP_FAST_PINNED);
    expect(drive(migrateFolio(k, folio))).toBe(-EBUSY);
    expect(drive(pin)).toBe(1);
    expect(pages[0]).toBe(folio + 5);
    unpinUserPages(k, pages, 1);
    expectQuiet(w);
  });

  it('a load waits for the whole folio to arrive', () => {
    const { w, k, p, folio } = withThp();
    const moving = migrateFolio(k, folio);
    const load = p.loadPath(at(300), 4);
    for (const point of [YP_MIGRATE_UNMAPPED, YP_MIGRATE_COPIED]) {
      stepTo(k, moving, point);
      expect(checkKernel(k)).toEqual([]);
      expect(load.next().value).toBe(YP_WAIT);
    }
    drive(moving);
    expect(drive(load)).toBe(FILLED + 300);
    expectQuiet(w);
  });

  it('MADV_DONTNEED of a part while it is on its way: that part does not come back', () => {
    const { w, k, p, folio } = withThp();
    const moving = migrateFolio(k, folio);
    stepTo(k, moving, YP_MIGRATE_COPIED);
    drive(madvise(k, p.mm, at(10), 20 * PAGE_SIZE, MADV_DONTNEED));
    expect(drive(moving)).toBe(0);
    expect(entryAt(p, at(15))).toBe(0);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR - 20);
    expectFilled(p, AT, 10, FILLED);
    expectFilled(p, at(30), HPAGE_PMD_NR - 30, FILLED + 30);
    expectQuiet(w);
  });

  it('a fork while it is on its way: both find it, shared', () => {
    const { w, k, p, folio } = withThp();
    const moving = migrateFolio(k, folio);
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    const child = forked(w, p);
    expect(drive(moving)).toBe(0);
    expect(countExclusive(k, folioOf(k, pageAt(p, AT)), HPAGE_PMD_NR)).toBe(0);
    fill(p, AT, 3, 1);
    expectFilled(child, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });
});

describe('folios of the caches', () => {
  it('of the page cache: every offset finds the new page', () => {
    const w = createWorld(8 << 20);
    const { k } = w;
    const file = shmemCreate(k, 16);
    const folio = folioAllocOrder(k, 4, 0);
    folioSetFlags(k, folio, PG_UPTODATE | PG_SWAPBACKED);
    folioSetMapping(k, folio, file.id, 0);
    folioAddLru(k, folio);
    for (let i = 0; i < 16; i++) {
      file.pages.set(i, folio + i);
      folioGet(k, folio);
      k.memory.i32[k.memory.pageOffset(folio + i) / 4] = 40 + i;
    }
    folioPut(k, folio);
    expect(drive(migrateFolio(k, folio))).toBe(0);
    const to = file.pages.get(0) ?? -1;
    expect(to).not.toBe(folio);
    expect(folioRefCount(k, to)).toBe(16);
    for (let i = 0; i < 16; i++) {
      expect(file.pages.get(i)).toBe(to + i);
      expect(k.memory.i32[k.memory.pageOffset(to + i) / 4]).toBe(40 + i);
    }
    expectQuiet(w);
    drive(mappingPut(k, file));
    expect(nrFreePages(k)).toBe(w.freeAtStart);
  });

  it('of the page cache, mapped by one entry: the next access maps the new folio, whole again', () => {
    const w = createWorld(16 << 20);
    w.k.state.thp.shmem = true;
    const p = createProcess(w);
    const file = shmemCreate(w.k, HPAGE_PMD_NR);
    const request = { hva: AT, lenBytes: HPAGE_PMD_NR * PAGE_SIZE, prot: RW, mapping: file };
    drive(mmap(w.k, p.mm, { ...request, flags: MAP_SHARED | MAP_FIXED }));
    fill(p, AT, HPAGE_PMD_NR, FILLED);
    const folio = ptePage(pmdAt(p, AT));
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expectQuiet(w);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expect(ptePage(pmdAt(p, AT))).toBe(file.pages.get(0));
    expect(ptePage(pmdAt(p, AT))).not.toBe(folio);
    expectQuiet(w);
  });

  it('of the swap cache: every slot finds the new page', () => {
    const { w, k, p } = withThp();
    swapon(k, 2048);
    const vma = findVma(p.mm, AT);
    if (vma === null) throw new Error('no VMA');
    drive(pageoutRange(k, vma, AT, at(HPAGE_PMD_NR)));
    expect(p.mm.rssSwap).toBe(HPAGE_PMD_NR);
    expect(p.load32(at(3))).toBe(FILLED + 3);
    const page = pageAt(p, at(3));
    expect(drive(migrateFolio(k, page))).toBe(0);
    expect(pageAt(p, at(3))).not.toBe(page);
    expectFilled(p, AT, HPAGE_PMD_NR, FILLED);
    expectQuiet(w);
  });
});
