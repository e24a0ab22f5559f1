/** KSM: merged pages are never exclusive, never change and never pinned (facts sheet 1.5; mm/ksm.c). */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import {
  folioGet,
  folioMapcount,
  folioPut,
  folioTestDirty,
  folioTestFlags,
  pageAnonExclusive,
} from '../../mm/folio/folio.ts';
import { PG_KSM } from '../../mm/frames/table.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { ksmNodeOf } from '../../mm/ksm/node.ts';
import { ksmScan } from '../../mm/ksm/scan.ts';
import { mmuNotifierRegister } from '../../mm/notifier/notifier.ts';
import {
  drive,
  type Path,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_KSM_PROTECTED,
  YP_NOTIFIER_START,
} from '../../mm/path.ts';
import { ptePresent, pteWrite } from '../../mm/pgtable/pte.ts';
import { folioTestSwapcache } from '../../mm/swap/cache.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import {
  MADV_DONTNEED,
  MADV_MERGEABLE,
  MADV_UNMERGEABLE,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  PROT_READ,
} from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import { mremap } from '../../mm/vma/mremap.ts';
import {
  forkMm,
  createWorld,
  entryAt,
  finish,
  freeOf,
  load,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  store,
  violations,
} from './gup-world.ts';
import { createProcess, createWorld as createMachine, mapAnon as mapAnonOf } from './support.ts';

const SLOTS = 32;
let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(1);

/** Mergeable memory with one byte in each page; its hva. */
const mergeable = (bytes: readonly number[], owner = mm): number => {
  const hva = mapAnon(k, owner, bytes.length);
  for (const [i, byte] of bytes.entries()) store(k, owner, hva + i * PAGE_SIZE, byte);
  expect(drive(madvise(k, owner, hva, bytes.length * PAGE_SIZE, MADV_MERGEABLE))).toBe(0);
  return hva;
};
const scan = (owner: MmStruct | null = mm): number => drive(ksmScan(k, owner));
const isKsm = (owner: MmStruct, hva: number): boolean =>
  folioTestFlags(k, pageAt(k, owner, hva), PG_KSM);
const pin = (hva: number, flags: number): number =>
  drive(pinUserPagesFast(k, mm, hva, 1, flags, pages));
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const quiet = (): void => expect(violations(k)).toEqual([]);

beforeEach(() => {
  k = createWorld();
  swapon(k, SLOTS);
  mm = mmCreate(k);
});

describe('a scan', () => {
  it('merges pages with the same bytes: one frame, read-only, not exclusive', () => {
    const hva = mergeable([7, 8, 7, 9, 7]);
    const free = freeOf(k);
    expect(scan()).toBe(2);
    const page = pageAt(k, mm, hva);
    for (const i of [0, 2, 4]) {
      expect(pageAt(k, mm, hva + i * PAGE_SIZE)).toBe(page);
      expect(pteWrite(entryAt(k, mm, hva + i * PAGE_SIZE))).toBe(false);
    }
    expect([isKsm(mm, hva), pageAnonExclusive(k, page), folioMapcount(k, page)]).toEqual([
      true,
      false,
      3,
    ]);
    expect([freeOf(k) - free, k.state.stat.ksm_merged, mm.rssAnon]).toEqual([2, 2, 5]);
    expect([1, 3].map((i) => isKsm(mm, hva + i * PAGE_SIZE))).toEqual([false, false]);
    quiet();
    expect(scan()).toBe(0);
  });

  it('looks at VM_MERGEABLE memory alone', () => {
    const hva = mapAnon(k, mm, 2);
    for (const i of [0, 1]) store(k, mm, hva + i * PAGE_SIZE, 7);
    const other = mergeable([7]);
    expect([scan(), k.state.ksm.pagesScanned, isKsm(mm, other)]).toEqual([0, 1, false]);
  });

  it('merges across address spaces, and later pages with those that were merged before', () => {
    const other = mmCreate(k);
    const mine = mergeable([7]);
    const theirs = mergeable([7], other);
    expect([scan(), scan(other), scan(null)]).toEqual([0, 0, 1]);
    expect(pageAt(k, mm, mine)).toBe(pageAt(k, other, theirs));
    const more = mergeable([7, 6]);
    expect(scan()).toBe(1);
    expect(pageAt(k, mm, more)).toBe(pageAt(k, mm, mine));
    quiet();
  });

  it('a page that a fork shares is no merged page for that', () => {
    const hva = mergeable([7]);
    forkOf(mm);
    expect([scan(null), isKsm(mm, hva)]).toEqual([0, false]);
  });

  it('a page that a fork shares can be merged: every process that maps it is found', () => {
    const hva = mergeable([7]);
    const child = forkOf(mm);
    const other = mergeable([7], child);
    expect(scan(child)).toBe(1);
    const page = pageAt(k, child, hva);
    expect([pageAt(k, child, other), pageAt(k, mm, hva), folioMapcount(k, page)]).toEqual([
      page,
      page,
      3,
    ]);
    quiet();
    expect(drive(migrateFolio(k, page))).toBe(0);
    expect(pageAt(k, mm, hva)).toBe(pageAt(k, child, other));
    quiet();
  });
});

describe('a merged page does not change', () => {
  it('a write copies, always: also the last one’s that maps it', () => {
    const hva = mergeable([7, 7]);
    scan();
    const page = pageAt(k, mm, hva);
    store(k, mm, hva, 1);
    expect([load(k, mm, hva + PAGE_SIZE), pageAt(k, mm, hva + PAGE_SIZE)]).toEqual([7, page]);
    store(k, mm, hva + PAGE_SIZE, 2);
    expect(pageAt(k, mm, hva + PAGE_SIZE)).not.toBe(page);
    expect([load(k, mm, hva), k.state.stat.cow_copied, k.state.stat.cow_reused]).toEqual([1, 2, 0]);
    // Nobody maps it any more: its record is gone with it.
    expect([k.state.ksm.nodes, k.state.frames.refcount[page]]).toEqual([[], 0]);
    quiet();
  });

  it('mprotect gives no entry of it W back', () => {
    const hva = mergeable([7, 7]);
    scan();
    drive(mprotect(k, mm, hva, 2 * PAGE_SIZE, PROT_READ));
    drive(mprotect(k, mm, hva, 2 * PAGE_SIZE, RW));
    expect(pteWrite(entryAt(k, mm, hva))).toBe(false);
    quiet();
  });

  it('fork shares it as it is; each side writes to a copy', () => {
    const hva = mergeable([7, 7]);
    scan();
    const page = pageAt(k, mm, hva);
    const child = forkOf(mm);
    expect([pageAt(k, child, hva), folioMapcount(k, page)]).toEqual([page, 4]);
    quiet();
    store(k, child, hva, 1);
    store(k, mm, hva + PAGE_SIZE, 2);
    expect([load(k, mm, hva), load(k, child, hva)]).toEqual([7, 1]);
    expect([load(k, mm, hva + PAGE_SIZE), load(k, child, hva + PAGE_SIZE)]).toEqual([2, 7]);
    quiet();
  });

  it('moves: the record goes along, and every entry follows', () => {
    const hva = mergeable([7, 7]);
    scan();
    const page = pageAt(k, mm, hva);
    expect(drive(migrateFolio(k, page))).toBe(0);
    const now = pageAt(k, mm, hva);
    expect(now).not.toBe(page);
    expect([pageAt(k, mm, hva + PAGE_SIZE), isKsm(mm, hva), ksmNodeOf(k, now).page]).toEqual([
      now,
      true,
      now,
    ]);
    expect(k.state.frames.refcount[page]).toBe(0);
    quiet();
    store(k, mm, hva, 1);
    expect(load(k, mm, hva + PAGE_SIZE)).toBe(7);
  });
});

describe('merging and GUP — 1.5', () => {
  it('a R/O pin unshares: the pinned page is the process’s own, and a later write goes there', () => {
    const hva = mergeable([7, 7]);
    scan();
    expect(pin(hva, FOLL_LONGTERM)).toBe(1);
    expect([pages[0], isKsm(mm, hva)]).toEqual([pageAt(k, mm, hva), false]);
    store(k, mm, hva, 1);
    expect([pageAt(k, mm, hva), load(k, mm, hva + PAGE_SIZE)]).toEqual([pages[0], 7]);
    quiet();
    unpinUserPage(k, pages[0]!);
  });

  for (const [which, pinned] of [
    ['first', 0],
    ['second', 1],
  ] as const)
    it(`a pinned page is never merged: the ${which} of two`, () => {
      const hva = mergeable([7, 7]);
      expect(pin(hva + pinned * PAGE_SIZE, FOLL_WRITE)).toBe(1);
      const page = pageAt(k, mm, hva + pinned * PAGE_SIZE);
      expect(scan()).toBe(0);
      expect([pageAt(k, mm, hva + pinned * PAGE_SIZE), pages[0]]).toEqual([page, page]);
      expect(pageAnonExclusive(k, page)).toBe(true);
      // The other one, though it was made a merged page for it, is the process's own again.
      expect([0, 1].map((i) => isKsm(mm, hva + i * PAGE_SIZE))).toEqual([false, false]);
      quiet();
      unpinUserPage(k, page);
      expect(scan()).toBe(1);
    });

  it('nor one that somebody holds a plain reference of: it may be written to', () => {
    const hva = mergeable([7, 7]);
    folioGet(k, pageAt(k, mm, hva));
    const held = pageAt(k, mm, hva);
    expect(scan()).toBe(0);
    expect(isKsm(mm, hva)).toBe(false);
    folioPut(k, held);
    expect(scan()).toBe(1);
  });

  it('nor with a merged page that has the same bytes already', () => {
    const hva = mergeable([7, 7, 6]);
    scan();
    store(k, mm, hva + 2 * PAGE_SIZE, 7);
    expect(pin(hva + 2 * PAGE_SIZE, FOLL_WRITE)).toBe(1);
    expect(scan()).toBe(0);
    unpinUserPage(k, pages[0]!);
    expect(scan()).toBe(1);
  });
});

describe('races — the entry is cleared before the references are looked at', () => {
  const pinPath = (hva: number): Path<number> => pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages);

  beforeEach(() => {
    k.notifierOps.set('test', {
      invalidateRangeStart: () => 0,
      invalidateRangeEnd: () => {},
      release: () => {},
    });
    mmuNotifierRegister(k, mm, 'test', 1);
  });

  it('GUP-fast counted first: the page is not merged', () => {
    const hva = mergeable([7, 7]);
    const page = pageAt(k, mm, hva + PAGE_SIZE);
    const scanning = ksmScan(k, mm);
    stepTo(k, scanning, YP_NOTIFIER_START);
    const pinning = pinPath(hva + PAGE_SIZE);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(finish(scanning)).toBe(0);
    expect(finish(pinning)).toBe(1);
    expect([pages[0], pageAt(k, mm, hva + PAGE_SIZE)]).toEqual([page, page]);
    unpinUserPage(k, page);
    quiet();
  });

  it('the entry was cleared first: GUP-fast finds another one, and a fault copies', () => {
    const hva = mergeable([7, 7]);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_READ);
    expect(scan()).toBe(1);
    const merged = pageAt(k, mm, hva);
    expect(finish(pinning)).toBe(1);
    expect([pages[0], pageAt(k, mm, hva) === merged]).toEqual([pageAt(k, mm, hva), false]);
    unpinUserPage(k, pages[0]!);
    quiet();
  });

  it('a store between write protection and replacement goes to a copy, which is not merged', () => {
    const hva = mergeable([7, 7]);
    const scanning = ksmScan(k, mm);
    stepTo(k, scanning, YP_KSM_PROTECTED);
    for (const i of [0, 1]) store(k, mm, hva + i * PAGE_SIZE, 20 + i);
    expect(finish(scanning)).toBe(0);
    expect([load(k, mm, hva), load(k, mm, hva + PAGE_SIZE)]).toEqual([20, 21]);
    quiet();
  });

  it('a store before write protection: the bytes differ, the page stays, and its dirtiness is not lost', () => {
    const hva = mergeable([7, 7, 7]);
    drive(reclaimFolio(k, pageAt(k, mm, hva + 2 * PAGE_SIZE)));
    expect(scan()).toBe(1);
    // In the swap cache, clean, exclusive: the store sets D and nothing else.
    load(k, mm, hva + 2 * PAGE_SIZE);
    const scanning = ksmScan(k, mm);
    stepTo(k, scanning, YP_NOTIFIER_START);
    store(k, mm, hva + 2 * PAGE_SIZE, 9);
    expect([finish(scanning), isKsm(mm, hva + 2 * PAGE_SIZE)]).toEqual([0, false]);
    expect(drive(reclaimFolio(k, pageAt(k, mm, hva + 2 * PAGE_SIZE)))).toBe(0);
    expect(load(k, mm, hva + 2 * PAGE_SIZE)).toBe(9);
    quiet();
  });

  it('MADV_DONTNEED and exit of another process meanwhile', () => {
    const hva = mergeable([7, 7]);
    const other = forkOf(mm);
    const scanning = ksmScan(k, mm);
    stepTo(k, scanning, YP_KSM_PROTECTED);
    drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_DONTNEED));
    drive(mmExit(k, other));
    expect(finish(scanning)).toBe(0);
    expect(load(k, mm, hva)).toBe(0);
    expect(k.state.ksm.nodes).toEqual([]);
    quiet();
  });
});

describe('TLBs', () => {
  it('forget that a page could be written to before it is a merged one', () => {
    const w = createMachine();
    const p = createProcess(w);
    const hva = mapAnonOf(p, 2);
    for (const i of [0, 1]) p.store32(hva + i * PAGE_SIZE, 7);
    drive(madvise(w.k, p.mm, hva, 2 * PAGE_SIZE, MADV_MERGEABLE));
    expect(drive(ksmScan(w.k, p.mm))).toBe(1);
    // The second page is the one that stayed where it was.
    p.store32(hva + PAGE_SIZE, 21);
    expect([p.load32(hva), p.load32(hva + PAGE_SIZE)]).toEqual([7, 21]);
  });
});

describe('back to pages of one’s own', () => {
  it('MADV_UNMERGEABLE: each address has its page again, exclusive, with its bytes', () => {
    const hva = mergeable([7, 7, 7]);
    scan();
    expect(drive(madvise(k, mm, hva, 2 * PAGE_SIZE, MADV_UNMERGEABLE))).toBe(0);
    const [a, b, c] = [0, 1, 2].map((i) => pageAt(k, mm, hva + i * PAGE_SIZE));
    expect([a === b, a === c, b === c]).toEqual([false, false, false]);
    expect([0, 1, 2].map((i) => load(k, mm, hva + i * PAGE_SIZE))).toEqual([7, 7, 7]);
    expect([0, 1, 2].map((i) => isKsm(mm, hva + i * PAGE_SIZE))).toEqual([false, false, true]);
    expect(pageAnonExclusive(k, a ?? -1)).toBe(true);
    quiet();
    expect(scan()).toBe(0);
  });

  it('mremap: merged pages are found by address, so what moves is unmerged', () => {
    const hva = mergeable([7, 7]);
    scan();
    const moved = drive(mremap(k, mm, hva, PAGE_SIZE, 40 * PAGE_SIZE, MREMAP_MAYMOVE));
    expect(moved).not.toBe(hva);
    expect([load(k, mm, moved), isKsm(mm, moved)]).toEqual([7, false]);
    quiet();
  });

  it('stale items go with the next scan', () => {
    const hva = mergeable([7, 7, 7]);
    scan();
    store(k, mm, hva, 1);
    const node = ksmNodeOf(k, pageAt(k, mm, hva + PAGE_SIZE));
    expect(node.items.length).toBe(3);
    scan();
    expect(node.items.map((item) => item.hva)).toEqual([hva + PAGE_SIZE, hva + 2 * PAGE_SIZE]);
  });
});

describe('merged pages and swap', () => {
  it('swapped out, each address gets a page of its own: two slots’ worth of one set of bytes', () => {
    const hva = mergeable([7, 7]);
    scan();
    expect(drive(reclaimFolio(k, pageAt(k, mm, hva)))).toBe(0);
    expect([k.state.ksm.nodes, SLOTS - k.state.swap.nrFree]).toEqual([[], 1]);
    expect(entryAt(k, mm, hva)).toBe(entryAt(k, mm, hva + PAGE_SIZE));
    quiet();
    expect([load(k, mm, hva), load(k, mm, hva + PAGE_SIZE)]).toEqual([7, 7]);
    expect(pageAt(k, mm, hva)).not.toBe(pageAt(k, mm, hva + PAGE_SIZE));
    quiet();
    store(k, mm, hva, 1);
    expect(load(k, mm, hva + PAGE_SIZE)).toBe(7);
    quiet();
  });

  it('processes that have nothing in common get pages of their own, at the same address too', () => {
    const other = mmCreate(k);
    const hva = mergeable([7]);
    expect(mergeable([7], other)).toBe(hva);
    expect(scan(null)).toBe(1);
    expect(drive(reclaimFolio(k, pageAt(k, mm, hva)))).toBe(0);
    expect([load(k, mm, hva), load(k, other, hva)]).toEqual([7, 7]);
    expect(pageAt(k, mm, hva)).not.toBe(pageAt(k, other, hva));
    quiet();
  });

  it('still in the swap cache it comes back as the merged page', () => {
    const hva = mergeable([7, 7]);
    scan();
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    drive(reclaimFolio(k, page));
    expect([ptePresent(entryAt(k, mm, hva)), folioTestSwapcache(k, page)]).toEqual([false, true]);
    load(k, mm, hva);
    expect([pageAt(k, mm, hva), isKsm(mm, hva), pageAnonExclusive(k, page)]).toEqual([
      page,
      true,
      false,
    ]);
    store(k, mm, hva + PAGE_SIZE, 1);
    expect([load(k, mm, hva), load(k, mm, hva + PAGE_SIZE)]).toEqual([7, 1]);
    folioPut(k, page);
    quiet();
    drive(mmExit(k, mm));
    expect([k.state.swap.nrFree, k.state.ksm.nodes]).toEqual([SLOTS, []]);
    quiet();
  });

  it('an entry that mremap has moved meanwhile gets a copy: the merged page is not found there', () => {
    const hva = mergeable([7, 7]);
    scan();
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    drive(reclaimFolio(k, page));
    const to = hva - 64 * PAGE_SIZE;
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    expect(drive(mremap(k, mm, hva, 2 * PAGE_SIZE, 2 * PAGE_SIZE, flags, to))).toBe(to);
    expect([load(k, mm, to), isKsm(mm, to)]).toEqual([7, false]);
    expect(folioTestDirty(k, pageAt(k, mm, to))).toBe(true);
    folioPut(k, page);
    quiet();
  });

  it('pages in the swap cache are merged, and give their slots back', () => {
    const hva = mergeable([7, 7]);
    for (const i of [0, 1]) {
      drive(reclaimFolio(k, pageAt(k, mm, hva + i * PAGE_SIZE)));
      load(k, mm, hva + i * PAGE_SIZE);
    }
    expect(SLOTS - k.state.swap.nrFree).toBe(2);
    expect(scan()).toBe(1);
    expect(SLOTS - k.state.swap.nrFree).toBe(1);
    quiet();
  });
});
