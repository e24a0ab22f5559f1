/** Swap: what an entry, the swap cache and a slot say about a page (facts sheet 1.5, 1.9). */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EBUSY, EINVAL, ENOMEM } from '../../mm/errno.ts';
import {
  folioGet,
  folioPut,
  folioRefCount,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
  pageAnonExclusive,
} from '../../mm/folio/folio.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { accessRemoteVm } from '../../mm/gup/remote.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { mmuNotifierRegister } from '../../mm/notifier/notifier.ts';
import { drive } from '../../mm/path.ts';
import { pteDirty, ptePresent, pteWrite } from '../../mm/pgtable/pte.ts';
import { isSwapEntry, swapEntryExclusive, swapEntrySlot } from '../../mm/pgtable/swapops.ts';
import { folioTestSwapcache, swapCachePage } from '../../mm/swap/cache.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapCount, swapon } from '../../mm/swap/slots.ts';
import type { Kernel, MmStruct, NotifierRange } from '../../mm/types.ts';
import { MMU_NOTIFY_CLEAR } from '../../mm/types.ts';
import { MADV_DONTNEED, MADV_PAGEOUT, PROT_READ } from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import {
  forkMm,
  createWorld,
  entryAt,
  freeOf,
  load,
  mapAnon,
  pageAt,
  pinsLive,
  store,
  violations,
} from './gup-world.ts';

const SLOTS = 64;
let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(8);

/** A page with one byte in it; its hva. */
const written = (byte: number, owner = mm): number => {
  const hva = mapAnon(k, owner, 1);
  store(k, owner, hva, byte);
  return hva;
};
const reclaim = (page: number): number => drive(reclaimFolio(k, page));
/** Swaps out what `owner` maps at hva. */
const swapOut = (hva: number, owner = mm): number => reclaim(pageAt(k, owner, hva));
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const slotAt = (owner: MmStruct, hva: number): number => {
  const entry = entryAt(k, owner, hva);
  if (ptePresent(entry) || !isSwapEntry(entry)) throw new Error('no swap entry');
  return swapEntrySlot(entry);
};
const exclusiveAt = (owner: MmStruct, hva: number): boolean =>
  pageAnonExclusive(k, pageAt(k, owner, hva));
const usedSlots = (): number => SLOTS - k.state.swap.nrFree;

beforeEach(() => {
  k = createWorld();
  expect(swapon(k, SLOTS)).toBe(0);
  mm = mmCreate(k);
});

describe('a page is swapped out and in', () => {
  it('the entry names a slot, the frame is free, and the bytes come back', () => {
    const hva = written(42);
    store(k, mm, hva + 4095, 43);
    const free = freeOf(k);
    expect(swapOut(hva)).toBe(0);
    expect(freeOf(k)).toBe(free + 1);
    expect([mm.rssAnon, mm.rssSwap, swapCount(k, slotAt(mm, hva))]).toEqual([0, 1, 1]);
    expect(violations(k)).toEqual([]);
    expect([load(k, mm, hva), load(k, mm, hva + 4095)]).toEqual([42, 43]);
    expect([mm.rssAnon, mm.rssSwap]).toEqual([1, 0]);
    expect([k.state.stat.pswpout, k.state.stat.pswpin]).toEqual([1, 1]);
    expect(violations(k)).toEqual([]);
  });

  it('after a read the page keeps its slot, clean: swapped out again it is not written again', () => {
    const hva = written(42);
    swapOut(hva);
    const slot = slotAt(mm, hva);
    load(k, mm, hva);
    const page = pageAt(k, mm, hva);
    expect([folioTestSwapcache(k, page), folioTestDirty(k, page)]).toEqual([true, false]);
    expect([swapCachePage(k, slot), swapCount(k, slot), folioRefCount(k, page)]).toEqual([
      page,
      1,
      2,
    ]);
    expect(swapOut(hva)).toBe(0);
    expect([slotAt(mm, hva), k.state.stat.pswpout]).toEqual([slot, 1]);
    expect(load(k, mm, hva)).toBe(42);
  });

  it('a write gives the slot back at once, and the page is written again next time', () => {
    const hva = written(42);
    swapOut(hva);
    store(k, mm, hva, 43);
    const page = pageAt(k, mm, hva);
    expect([usedSlots(), folioTestSwapcache(k, page)]).toEqual([0, false]);
    // Its bytes are nowhere else now.
    expect(folioTestDirty(k, page)).toBe(true);
    expect(swapOut(hva)).toBe(0);
    expect(k.state.stat.pswpout).toBe(2);
    expect(load(k, mm, hva)).toBe(43);
  });

  it('written through the entry while its slot is kept, it is dirty when it goes', () => {
    const hva = written(42);
    swapOut(hva);
    load(k, mm, hva);
    // Exclusive, and so writable already: no fault comes in between.
    expect([pteWrite(entryAt(k, mm, hva)), pteDirty(entryAt(k, mm, hva))]).toEqual([true, false]);
    const faults = k.state.stat.pgfault;
    store(k, mm, hva, 43);
    expect(k.state.stat.pgfault).toBe(faults);
    expect(swapOut(hva)).toBe(0);
    expect([k.state.stat.pswpout, load(k, mm, hva)]).toEqual([2, 43]);
  });

  it('protection that changed meanwhile is what the entry gets', () => {
    const hva = written(42);
    swapOut(hva);
    drive(mprotect(k, mm, hva, PAGE_SIZE, PROT_READ));
    expect(load(k, mm, hva)).toBe(42);
    expect([pteWrite(entryAt(k, mm, hva)), exclusiveAt(mm, hva)]).toEqual([false, true]);
    expect(violations(k)).toEqual([]);
  });

  it('the zero page, free frames and what is no frame are refused', () => {
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    expect(swapOut(hva)).toBe(-EINVAL);
    expect(reclaim(3)).toBe(-EINVAL);
    expect(reclaim(-1)).toBe(-EINVAL);
  });

  it('subscribers are told before the entry changes and after', () => {
    const hva = written(1);
    const told: string[] = [];
    const note = (call: string, range: NotifierRange): number => {
      expect(range).toMatchObject({ event: MMU_NOTIFY_CLEAR, start: hva, end: hva + PAGE_SIZE });
      told.push(`${call} ${ptePresent(entryAt(k, mm, hva))}`);
      return 0;
    };
    k.notifierOps.set('test', {
      invalidateRangeStart: (_owner, range) => note('start', range),
      invalidateRangeEnd: (_owner, range) => {
        note('end', range);
      },
      release: () => {},
    });
    mmuNotifierRegister(k, mm, 'test', 1);
    swapOut(hva);
    expect(told).toEqual(['start true', 'end false']);
  });
});

describe('exclusiveness goes through swap — PTE_SWP_EXCLUSIVE, 1.5', () => {
  it('an exclusive page: the entry says so, and a read maps it exclusive and writable', () => {
    const hva = written(42);
    swapOut(hva);
    expect(swapEntryExclusive(entryAt(k, mm, hva))).toBe(true);
    load(k, mm, hva);
    expect([exclusiveAt(mm, hva), pteWrite(entryAt(k, mm, hva))]).toEqual([true, true]);
    expect(violations(k)).toEqual([]);
  });

  it('a page that a fork shares: both name the slot, neither says exclusive, reads map it read-only', () => {
    const hva = written(42);
    const child = forkOf(mm);
    expect(swapOut(hva)).toBe(0);
    const slot = slotAt(mm, hva);
    expect([slotAt(child, hva), swapCount(k, slot)]).toEqual([slot, 2]);
    for (const owner of [mm, child]) {
      expect(swapEntryExclusive(entryAt(k, owner, hva))).toBe(false);
      expect(load(k, owner, hva)).toBe(42);
      expect([exclusiveAt(owner, hva), pteWrite(entryAt(k, owner, hva))]).toEqual([false, false]);
    }
    expect(pageAt(k, mm, hva)).toBe(pageAt(k, child, hva));
    expect(violations(k)).toEqual([]);
  });

  it('fork of a swap entry takes the mark away, and each side writes to a page of its own', () => {
    const hva = written(42);
    swapOut(hva);
    const child = forkOf(mm);
    const slot = slotAt(mm, hva);
    expect([swapEntryExclusive(entryAt(k, mm, hva)), swapCount(k, slot)]).toEqual([false, 2]);
    expect([mm.rssSwap, child.rssSwap]).toEqual([1, 1]);
    store(k, child, hva, 43);
    expect(violations(k)).toEqual([]);
    store(k, mm, hva, 44);
    expect([load(k, mm, hva), load(k, child, hva)]).toEqual([44, 43]);
    expect(pageAt(k, mm, hva)).not.toBe(pageAt(k, child, hva));
    expect([exclusiveAt(mm, hva), exclusiveAt(child, hva), usedSlots()]).toEqual([true, true, 0]);
    expect(violations(k)).toEqual([]);
  });

  it('no mark, but nobody else left: a write reuses the page, for the cache is dropped', () => {
    const hva = written(42);
    swapOut(hva);
    drive(mmExit(k, forkOf(mm)));
    const copied = k.state.stat.cow_copied;
    store(k, mm, hva, 43);
    expect([k.state.stat.cow_copied, exclusiveAt(mm, hva), usedSlots()]).toEqual([copied, true, 0]);
    expect(violations(k)).toEqual([]);
  });

  it('no mark, and mapped by a read first: the write that follows drops the cache and reuses', () => {
    const hva = written(42);
    swapOut(hva);
    drive(mmExit(k, forkOf(mm)));
    load(k, mm, hva);
    const page = pageAt(k, mm, hva);
    expect([exclusiveAt(mm, hva), folioRefCount(k, page)]).toEqual([false, 2]);
    store(k, mm, hva, 43);
    expect([pageAt(k, mm, hva), exclusiveAt(mm, hva), usedSlots()]).toEqual([page, true, 0]);
  });

  it('no mark, and a plain reference: the write copies (1.5)', () => {
    const hva = written(42);
    swapOut(hva);
    drive(mmExit(k, forkOf(mm)));
    load(k, mm, hva);
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    store(k, mm, hva, 43);
    expect(pageAt(k, mm, hva)).not.toBe(page);
    folioPut(k, page);
    expect(usedSlots()).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('while another entry names the slot a write copies, and the other keeps the bytes', () => {
    const hva = written(42);
    const child = forkOf(mm);
    swapOut(hva);
    store(k, mm, hva, 43);
    expect([load(k, child, hva), load(k, mm, hva)]).toEqual([42, 43]);
    expect(violations(k)).toEqual([]);
  });

  it('the parent’s VMA is gone: what the child reads in is found by the reverse map all the same', () => {
    const hva = written(42);
    const first = forkOf(mm);
    const second = forkOf(first);
    swapOut(hva);
    drive(mmExit(k, mm));
    load(k, second, hva);
    load(k, first, hva);
    expect(pageAt(k, first, hva)).toBe(pageAt(k, second, hva));
    expect(violations(k)).toEqual([]);
    expect(swapOut(hva, first)).toBe(0);
    expect([load(k, first, hva), load(k, second, hva)]).toEqual([42, 42]);
  });
});

describe('GUP and swap — 1.5, 1.9', () => {
  it('a R/O pin of what comes back exclusive takes the page as it is', () => {
    const hva = written(42);
    swapOut(hva);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_LONGTERM, pages))).toBe(1);
    expect([pageAt(k, mm, hva), k.state.stat.cow_copied]).toEqual([pages[0], 0]);
    store(k, mm, hva, 43);
    expect(pageAt(k, mm, hva)).toBe(pages[0]);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('a R/O pin of what comes back shared unshares it by a copy', () => {
    const hva = written(42);
    const child = forkOf(mm);
    swapOut(hva);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_LONGTERM, pages))).toBe(1);
    expect([pageAt(k, mm, hva), exclusiveAt(mm, hva)]).toEqual([pages[0], true]);
    expect(load(k, child, hva)).toBe(42);
    expect(pageAt(k, child, hva)).not.toBe(pages[0]);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('a R/O pin of what nobody else uses any more unshares it without a copy', () => {
    const hva = written(42);
    swapOut(hva);
    drive(mmExit(k, forkOf(mm)));
    const copied = k.state.stat.cow_copied;
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_LONGTERM, pages))).toBe(1);
    expect([k.state.stat.cow_copied, exclusiveAt(mm, hva)]).toEqual([copied, true]);
    unpinUserPage(k, pages[0]!);
  });

  it('a pinned page is not swapped out: it keeps its entry, and gets no slot', () => {
    const hva = written(42);
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    const before = entryAt(k, mm, hva);
    expect(swapOut(hva)).toBe(-EBUSY);
    expect([entryAt(k, mm, hva), usedSlots(), pinsLive(k)]).toEqual([before, 0, 1]);
    unpinUserPage(k, pages[0]!);
    expect(swapOut(hva)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('pinned while it is in the swap cache: unmapping puts the entry back', () => {
    const hva = written(42);
    swapOut(hva);
    load(k, mm, hva);
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    const before = entryAt(k, mm, hva);
    expect(swapOut(hva)).toBe(-EBUSY);
    expect([entryAt(k, mm, hva), exclusiveAt(mm, hva)]).toEqual([before, true]);
    expect(violations(k)).toEqual([]);
    unpinUserPage(k, pages[0]!);
    expect(swapOut(hva)).toBe(0);
  });

  it('a plain reference: the page stays in the swap cache, and a fault maps the same one again', () => {
    const hva = written(42);
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    expect(reclaim(page)).toBe(-EAGAIN);
    expect(swapCachePage(k, slotAt(mm, hva))).toBe(page);
    expect(violations(k, 1)).toEqual([]);
    expect(load(k, mm, hva)).toBe(42);
    expect([pageAt(k, mm, hva), exclusiveAt(mm, hva), k.state.stat.pswpin]).toEqual([
      page,
      true,
      0,
    ]);
    folioPut(k, page);
    expect(swapOut(hva)).toBe(0);
  });

  it('what the holder of a reference writes meanwhile, and marks dirty, is not lost', () => {
    const hva = written(42);
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    expect(reclaim(page)).toBe(-EAGAIN);
    k.memory.u8[k.memory.pageOffset(page)] = 77;
    k.state.frames.flags[page]! |= 1 << 3;
    folioPut(k, page);
    expect(reclaim(page)).toBe(0);
    expect([k.state.stat.pswpout, load(k, mm, hva)]).toEqual([2, 77]);
  });

  it('a debugger’s write reads the page in first', () => {
    const hva = written(42);
    swapOut(hva);
    expect(drive(accessRemoteVm(k, mm, hva, new Uint8Array([7]), true))).toBe(1);
    expect(swapOut(hva)).toBe(0);
    expect(load(k, mm, hva)).toBe(7);
  });
});

describe('what refuses', () => {
  it('one device: -EBUSY for a second, -EINVAL for none', () => {
    expect(swapon(k, 8)).toBe(-EBUSY);
    expect([swapon(createWorld(), 0), swapon(createWorld(), 1 << 22)]).toEqual([-EINVAL, -EINVAL]);
  });

  it('no device, or no free slot: -ENOMEM, and the page stays', () => {
    const other = createWorld();
    const owner = mmCreate(other);
    const hva = mapAnon(other, owner, 3);
    for (let i = 0; i < 3; i++) store(other, owner, hva + i * PAGE_SIZE, i);
    const page = (i: number): number => pageAt(other, owner, hva + i * PAGE_SIZE);
    expect(drive(reclaimFolio(other, page(0)))).toBe(-ENOMEM);
    swapon(other, 2);
    expect([0, 1, 2].map((i) => drive(reclaimFolio(other, page(i))))).toEqual([0, 0, -ENOMEM]);
    for (let i = 0; i < 3; i++) expect(load(other, owner, hva + i * PAGE_SIZE)).toBe(i);
    expect(violations(other)).toEqual([]);
  });

  it('locked by somebody: -EAGAIN', () => {
    const page = pageAt(k, mm, written(1));
    folioTrylock(k, page);
    expect(reclaim(page)).toBe(-EAGAIN);
    folioUnlock(k, page);
    expect(reclaim(page)).toBe(0);
  });

  it('slots are scarce: one that only the cache names is free, though the page is mapped', () => {
    const hva = mapAnon(k, mm, SLOTS);
    for (let i = 0; i < SLOTS; i++) store(k, mm, hva + i * PAGE_SIZE, i);
    swapOut(hva);
    const child = forkOf(mm);
    load(k, child, hva);
    for (let i = 1; i < SLOTS - 8; i++) swapOut(hva + i * PAGE_SIZE);
    const used = usedSlots();
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect([usedSlots(), folioTestSwapcache(k, pageAt(k, child, hva))]).toEqual([used - 1, false]);
    expect(violations(k)).toEqual([]);
  });

  it('slots are scarce: a page that cannot go keeps none, and one that is read in gives its own back', () => {
    const hva = mapAnon(k, mm, SLOTS);
    for (let i = 0; i < SLOTS; i++) store(k, mm, hva + i * PAGE_SIZE, i);
    for (let i = 0; i < SLOTS - 8; i++) swapOut(hva + i * PAGE_SIZE);
    load(k, mm, hva);
    expect(folioTestSwapcache(k, pageAt(k, mm, hva))).toBe(false);
    expect(usedSlots()).toBe(SLOTS - 9);
  });
});

describe('slots are given back', () => {
  it('by munmap, exit and MADV_DONTNEED of entries', () => {
    const hva = mapAnon(k, mm, 4);
    for (let i = 0; i < 4; i++) store(k, mm, hva + i * PAGE_SIZE, i);
    const child = forkOf(mm);
    expect(drive(madvise(k, mm, hva, 4 * PAGE_SIZE, MADV_PAGEOUT))).toBe(0);
    // The child maps the pages too: the advice leaves them alone.
    expect(usedSlots()).toBe(0);
    for (let i = 0; i < 4; i++) swapOut(hva + i * PAGE_SIZE);
    expect(usedSlots()).toBe(4);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect([usedSlots(), mm.rssSwap, load(k, mm, hva)]).toEqual([4, 3, 0]);
    drive(mmExit(k, child));
    expect(usedSlots()).toBe(3);
    drive(mmExit(k, mm));
    expect(usedSlots()).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('by the last mapping of a page that had kept its slot', () => {
    const hva = written(42);
    swapOut(hva);
    load(k, mm, hva);
    expect(usedSlots()).toBe(1);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect([usedSlots(), k.state.swap.cache.size, k.state.swap.data.size]).toEqual([0, 0, 0]);
    expect(violations(k)).toEqual([]);
  });

  it('by the last entry of a page that nobody maps, though somebody holds it', () => {
    const hva = written(42);
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    reclaim(page);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect([usedSlots(), folioRefCount(k, page)]).toEqual([0, 1]);
    folioPut(k, page);
    expect(violations(k)).toEqual([]);
  });
});

describe('MADV_PAGEOUT', () => {
  it('swaps out the pages of the range that are the process’s own and not pinned', () => {
    const hva = mapAnon(k, mm, 8);
    for (let i = 0; i < 8; i++) store(k, mm, hva + i * PAGE_SIZE, i);
    drive(pinUserPagesFast(k, mm, hva + 3 * PAGE_SIZE, 1, FOLL_WRITE, pages));
    expect(drive(madvise(k, mm, hva + PAGE_SIZE, 6 * PAGE_SIZE, MADV_PAGEOUT))).toBe(0);
    const present = Array.from({ length: 8 }, (_, i) =>
      ptePresent(entryAt(k, mm, hva + i * PAGE_SIZE)),
    );
    expect(present).toEqual([true, false, false, true, false, false, false, true]);
    for (let i = 0; i < 8; i++) expect(load(k, mm, hva + i * PAGE_SIZE)).toBe(i);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});
