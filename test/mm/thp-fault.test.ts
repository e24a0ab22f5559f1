/** First touch of anonymous memory that may be huge. Compare mm/huge_memory.c:do_huge_pmd_anonymous_page(), mm/memory.c:alloc_anon_folio(). */
import { ATP_MODE_SV48, PAGE_SIZE } from '#emu';
import {
  allocPages,
  drive,
  folioMapcount,
  folioOrder,
  folioOf,
  folioRefCount,
  madvise,
  MADV_DONTNEED,
  mprotect,
  nrFreePages,
  pageMapcount,
  PROT_READ,
  pteDirty,
  ptePage,
  pteSpecial,
  pteWrite,
  userFault,
  YP_FAULT_ALLOCATED,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE, handleMmFault } from '../../mm/fault/fault.ts';
import { pteYoung } from '../../mm/pgtable/pte.ts';
import { createProcess, createWorld, entryAt, exit, pageAt, RW, stepTo } from './support.ts';
import {
  AT,
  adviseHuge,
  countExclusive,
  expectFilled,
  expectQuiet,
  fill,
  HPAGE_PMD_NR,
  HPAGE_PMD_SIZE,
  mapAt,
  pmdAt,
  thpWorld,
} from './thp-world.ts';

const PMD = 1 << 9;

describe('2 MiB by one entry', () => {
  it('a write maps one folio: writable, dirty, its head exclusive, one reference', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, 2 * HPAGE_PMD_NR);
    expect(p.store32(AT + 5 * PAGE_SIZE, 7)).toBe(0);
    const entry = pmdAt(p, AT);
    const folio = ptePage(entry);
    expect(pteWrite(entry) && pteDirty(entry) && pteYoung(entry)).toBe(true);
    expect(folioOrder(w.k, folio)).toBe(9);
    expect(folio % HPAGE_PMD_NR).toBe(0);
    expect(folioRefCount(w.k, folio)).toBe(1);
    expect(folioMapcount(w.k, folio)).toBe(1);
    expect(pageMapcount(w.k, folio + 300)).toBe(1);
    expect(countExclusive(w.k, folio, HPAGE_PMD_NR)).toBe(1);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR);
    expect(p.mm.deposited.length).toBe(1);
    expect(pmdAt(p, AT + HPAGE_PMD_SIZE)).toBe(0);
    expect(w.k.state.stat.thp_fault_alloc).toBe(1);
    expectQuiet(w);
  });

  it('every byte of it is reached through the one entry, and nothing else', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, 3 * HPAGE_PMD_NR);
    fill(p, AT, 3 * HPAGE_PMD_NR, 1);
    expectFilled(p, AT, 3 * HPAGE_PMD_NR, 1);
    expect(w.k.state.stat.pgfault).toBe(3);
    for (let i = 0; i < HPAGE_PMD_NR; i++)
      expect(w.k.memory.i32[w.k.memory.pageOffset(ptePage(pmdAt(p, AT)) + i) / 4]).toBe(1 + i);
    exit(p);
    expectQuiet(w);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('holds in Sv48 as in Sv39', () => {
    const w = createWorld(16 << 20, ATP_MODE_SV48);
    w.k.state.thp.always = PMD;
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    fill(p, AT, HPAGE_PMD_NR, 9);
    expectFilled(p, AT, HPAGE_PMD_NR, 9);
    expect(pmdAt(p, AT)).not.toBe(0);
    expectQuiet(w);
  });

  it('the hardware sets A and D in the entry of the directory', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    expect(p.load32(AT)).toBe(0); // the huge zero folio, read-only
    drive(madvise(w.k, p.mm, AT, HPAGE_PMD_SIZE, MADV_DONTNEED));
    expect(p.store32(AT, 1)).toBe(0);
    // mprotect there and back leaves it writable, for the folio is exclusive.
    expect(drive(mprotect(w.k, p.mm, AT, HPAGE_PMD_SIZE, PROT_READ))).toBe(0);
    expect(pteWrite(pmdAt(p, AT))).toBe(false);
    expect(drive(mprotect(w.k, p.mm, AT, HPAGE_PMD_SIZE, RW))).toBe(0);
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    const faults = w.k.state.stat.pgfault;
    expect(p.store32(AT + 100 * PAGE_SIZE, 2)).toBe(0);
    expect(w.k.state.stat.pgfault).toBe(faults);
    expect(pteDirty(pmdAt(p, AT)) && pteYoung(pmdAt(p, AT))).toBe(true);
  });

  for (const { fact, nrPages, at } of [
    { fact: 'a VMA that ends within the 2 MiB', nrPages: HPAGE_PMD_NR - 1, at: AT },
    { fact: 'a VMA that begins within them', nrPages: HPAGE_PMD_NR - 1, at: AT + PAGE_SIZE },
  ])
    it(`not in ${fact}`, () => {
      const w = thpWorld();
      const p = createProcess(w);
      mapAt(p, nrPages, at);
      fill(p, at, nrPages, 1);
      expect(pmdAt(p, at)).toBe(0);
      expect(p.mm.rssAnon).toBe(nrPages);
      expectQuiet(w);
    });

  it('madvise: only in VMAs that asked for it; never where VM_NOHUGEPAGE is', () => {
    const w = thpWorld(0);
    w.k.state.thp.madvise = PMD;
    const p = createProcess(w);
    mapAt(p, 3 * HPAGE_PMD_NR);
    adviseHuge(p, HPAGE_PMD_NR, true, AT + HPAGE_PMD_SIZE);
    adviseHuge(p, HPAGE_PMD_NR, false, AT + 2 * HPAGE_PMD_SIZE);
    w.k.state.thp.always = 0;
    for (let i = 0; i < 3; i++) p.store32(AT + i * HPAGE_PMD_SIZE, 1);
    expect([0, 1, 2].map((i) => pmdAt(p, AT + i * HPAGE_PMD_SIZE) !== 0)).toEqual([
      false,
      true,
      false,
    ]);
    w.k.state.thp.always = PMD;
    drive(madvise(w.k, p.mm, AT, 3 * HPAGE_PMD_SIZE, MADV_DONTNEED));
    p.store32(AT + 2 * HPAGE_PMD_SIZE, 1);
    expect(pmdAt(p, AT + 2 * HPAGE_PMD_SIZE)).toBe(0);
    expectQuiet(w);
  });

  it('without 2 MiB in one piece the fault falls back to single pages, and counts it', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    while (allocPages(w.k, 9, 0) >= 0);
    expect(p.store32(AT, 1)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expect(folioOrder(w.k, pageAt(p, AT))).toBe(0);
    expect(w.k.state.stat.thp_fault_fallback).toBe(1);
    expectQuiet(w);
  });

  it('whoever comes second finds the entry filled and gives its folio back', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    const slow = userFault(w.k, p.mm, AT, FAULT_FLAG_WRITE);
    stepTo(w.k, slow, YP_FAULT_ALLOCATED);
    expect(p.store32(AT + PAGE_SIZE, 5)).toBe(0);
    const folio = ptePage(pmdAt(p, AT));
    expect(drive(slow)).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(p.load32(AT + PAGE_SIZE)).toBe(5);
    expectQuiet(w);
  });
});

describe('the huge zero folio', () => {
  it('is what reads map: one for all, read-only, uncounted', () => {
    const w = thpWorld();
    const p = createProcess(w);
    const q = createProcess(w);
    mapAt(p, 2 * HPAGE_PMD_NR);
    mapAt(q, HPAGE_PMD_NR);
    expect(p.load32(AT)).toBe(0);
    expect(p.load32(AT + HPAGE_PMD_SIZE + 77 * PAGE_SIZE)).toBe(0);
    expect(q.load32(AT)).toBe(0);
    const zero = w.k.state.hugeZeroFolio;
    for (const entry of [pmdAt(p, AT), pmdAt(p, AT + HPAGE_PMD_SIZE), pmdAt(q, AT)]) {
      expect(ptePage(entry)).toBe(zero);
      expect(pteSpecial(entry) && !pteWrite(entry)).toBe(true);
    }
    expect(p.mm.rssAnon).toBe(0);
    expect(folioMapcount(w.k, zero)).toBe(0);
    expect(w.k.state.stat.thp_zero_page_alloc).toBe(1);
    expectQuiet(w);
    exit(p);
    exit(q);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart - HPAGE_PMD_NR);
    expectQuiet(w);
  });

  it('with useZeroPage off a read gets a folio as a write does', () => {
    const w = thpWorld();
    w.k.state.thp.useZeroPage = false;
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    expect(p.load32(AT)).toBe(0);
    expect(pteSpecial(pmdAt(p, AT))).toBe(false);
    expect(pteWrite(pmdAt(p, AT))).toBe(true);
    expectQuiet(w);
  });

  it('a write replaces it by a folio of 2 MiB; the others keep it', () => {
    const w = thpWorld();
    const p = createProcess(w);
    const q = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    mapAt(q, HPAGE_PMD_NR);
    p.load32(AT);
    q.load32(AT);
    expect(p.store32(AT + 3 * PAGE_SIZE, 4)).toBe(0);
    expect(folioOrder(w.k, ptePage(pmdAt(p, AT)))).toBe(9);
    expect(pteSpecial(pmdAt(p, AT))).toBe(false);
    expect(p.load32(AT + 3 * PAGE_SIZE)).toBe(4);
    expect(q.load32(AT + 3 * PAGE_SIZE)).toBe(0);
    expect(p.mm.deposited.length).toBe(1);
    expectQuiet(w);
  });

  it('of two writes that replace it the second gives its folio back', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.load32(AT);
    const slow = userFault(w.k, p.mm, AT, FAULT_FLAG_WRITE);
    stepTo(w.k, slow, YP_FAULT_ALLOCATED);
    expect(p.store32(AT + PAGE_SIZE, 5)).toBe(0);
    const folio = ptePage(pmdAt(p, AT));
    expect(drive(slow)).toBe(0);
    expect(ptePage(pmdAt(p, AT))).toBe(folio);
    expect(p.load32(AT + PAGE_SIZE)).toBe(5);
    expectQuiet(w);
  });

  it('without 2 MiB in one piece a write splits the entry and copies one page', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.load32(AT);
    while (allocPages(w.k, 9, 0) >= 0);
    expect(p.store32(AT + 3 * PAGE_SIZE, 4)).toBe(0);
    expect(pmdAt(p, AT)).toBe(0);
    expect(p.mm.rssAnon).toBe(1);
    expect(pageAt(p, AT)).toBe(w.k.state.zeroPage);
    expect(p.load32(AT + 3 * PAGE_SIZE)).toBe(4);
    expect(p.mm.deposited.length).toBe(0);
    expectQuiet(w);
  });

  it('UNSHARE replaces it as well (1.5): a long pin must not be left with zeros', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.load32(AT);
    expect(drive(handleMmFault(w.k, p.mm, AT, FAULT_FLAG_UNSHARE))).toBe(0);
    expect(ptePage(pmdAt(p, AT))).not.toBe(w.k.state.hugeZeroFolio);
    expectQuiet(w);
  });
});

describe('folios of several sizes, each page by an entry of its own', () => {
  const ORDER_4 = 1 << 4;
  const ORDER_2 = 1 << 2;

  it('a write fills the aligned range around it, and nothing beyond', () => {
    const w = thpWorld(ORDER_4);
    const p = createProcess(w);
    mapAt(p, 64);
    expect(p.store32(AT + 21 * PAGE_SIZE, 6)).toBe(0);
    const folio = pageAt(p, AT + 16 * PAGE_SIZE);
    expect(folioOrder(w.k, folio)).toBe(4);
    expect(folioOf(w.k, pageAt(p, AT + 31 * PAGE_SIZE))).toBe(folio);
    expect(entryAt(p, AT + 15 * PAGE_SIZE)).toBe(0);
    expect(entryAt(p, AT + 32 * PAGE_SIZE)).toBe(0);
    expect(folioRefCount(w.k, folio)).toBe(16);
    expect(folioMapcount(w.k, folio)).toBe(16);
    expect(pageMapcount(w.k, folio + 3)).toBe(1);
    expect(countExclusive(w.k, folio, 16)).toBe(16);
    expect(p.mm.rssAnon).toBe(16);
    expect(pteWrite(entryAt(p, AT + 30 * PAGE_SIZE))).toBe(true);
    const faults = w.k.state.stat.pgfault;
    fill(p, AT + 16 * PAGE_SIZE, 16, 5);
    expectFilled(p, AT + 16 * PAGE_SIZE, 16, 5);
    expect(w.k.state.stat.pgfault).toBe(faults);
    expectQuiet(w);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('the largest order first, smaller ones where a VMA ends or an entry is taken', () => {
    const w = thpWorld(ORDER_4 | ORDER_2);
    const p = createProcess(w);
    mapAt(p, 26);
    p.store32(AT, 1);
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, AT)))).toBe(4);
    p.store32(AT + 16 * PAGE_SIZE, 1); // 16 pages would reach beyond the end
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, AT + 16 * PAGE_SIZE)))).toBe(2);
    p.store32(AT + 24 * PAGE_SIZE, 1);
    expect(folioOrder(w.k, pageAt(p, AT + 24 * PAGE_SIZE))).toBe(0);
    drive(madvise(w.k, p.mm, AT + 5 * PAGE_SIZE, 11 * PAGE_SIZE, MADV_DONTNEED));
    p.store32(AT + 9 * PAGE_SIZE, 1); // entries 0 to 4 are taken: 8 to 11 are not
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, AT + 9 * PAGE_SIZE)))).toBe(2);
    p.store32(AT + 6 * PAGE_SIZE, 1); // 4 is taken
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, AT + 6 * PAGE_SIZE)))).toBe(0);
    expectQuiet(w);
  });

  it('an entry that is taken while the folio is made: the folio goes back, the fault is done', () => {
    const w = thpWorld(ORDER_4);
    const p = createProcess(w);
    mapAt(p, 16);
    const slow = userFault(w.k, p.mm, AT, FAULT_FLAG_WRITE);
    stepTo(w.k, slow, YP_FAULT_ALLOCATED);
    expect(p.load32(AT + 7 * PAGE_SIZE)).toBe(0); // the zero page, in the middle of the range
    expect(drive(slow)).toBe(0);
    expect(entryAt(p, AT)).toBe(0);
    expect(p.store32(AT, 3)).toBe(0);
    expect(folioOrder(w.k, pageAt(p, AT))).toBe(0);
    expectQuiet(w);
  });

  it('reads map the zero page, one by one', () => {
    const w = thpWorld(ORDER_4);
    const p = createProcess(w);
    mapAt(p, 16);
    p.load32(AT);
    expect(pageAt(p, AT)).toBe(w.k.state.zeroPage);
    expect(entryAt(p, AT + PAGE_SIZE)).toBe(0);
  });

  it('2 MiB by one entry come before all of them', () => {
    const w = thpWorld(PMD | ORDER_4);
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR + 16);
    p.store32(AT, 1);
    p.store32(AT + HPAGE_PMD_SIZE, 1);
    expect(pmdAt(p, AT)).not.toBe(0);
    expect(folioOrder(w.k, folioOf(w.k, pageAt(p, AT + HPAGE_PMD_SIZE)))).toBe(4);
    expectQuiet(w);
  });
});

describe('a part of it is let go', () => {
  it('MADV_DONTNEED of some pages splits the entry; the folio stays whole, partly mapped', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    fill(p, AT, HPAGE_PMD_NR, 1);
    const folio = ptePage(pmdAt(p, AT));
    drive(madvise(w.k, p.mm, AT + 100 * PAGE_SIZE, 50 * PAGE_SIZE, MADV_DONTNEED));
    expect(pmdAt(p, AT)).toBe(0);
    expect(folioOrder(w.k, folio)).toBe(9);
    expect(folioRefCount(w.k, folio)).toBe(HPAGE_PMD_NR - 50);
    expect(folioMapcount(w.k, folio)).toBe(HPAGE_PMD_NR - 50);
    expect(pageMapcount(w.k, folio + 100)).toBe(0);
    expect(pageMapcount(w.k, folio + 150)).toBe(1);
    expect(p.mm.rssAnon).toBe(HPAGE_PMD_NR - 50);
    expect(p.mm.deposited.length).toBe(0);
    expect(w.k.state.stat.thp_split_pmd).toBe(1);
    expectQuiet(w);
    expectFilled(p, AT, 100, 1);
    expectFilled(p, AT + 150 * PAGE_SIZE, HPAGE_PMD_NR - 150, 151);
    expect(p.load32(AT + 120 * PAGE_SIZE)).toBe(0);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('MADV_DONTNEED of all of it frees the folio and the table that was kept back', () => {
    const w = thpWorld();
    const p = createProcess(w);
    mapAt(p, HPAGE_PMD_NR);
    p.store32(AT, 1);
    const tables = p.mm.nrTables;
    drive(madvise(w.k, p.mm, AT, HPAGE_PMD_SIZE, MADV_DONTNEED));
    expect(p.mm.nrTables).toBe(tables - 1);
    expect(p.mm.rssAnon).toBe(0);
    expectQuiet(w);
  });
});
