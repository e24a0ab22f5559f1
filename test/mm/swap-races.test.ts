/** Swap against GUP-fast, faults, fork, zap and exit, each stepped to where it hurts (facts sheet 1.4, 1.5). */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EBUSY } from '../../mm/errno.ts';
import {
  folioGet,
  folioMarkDirty,
  folioPut,
  folioRefCount,
  pageAnonExclusive,
} from '../../mm/folio/folio.ts';
import { getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { mmuNotifierRegister } from '../../mm/notifier/notifier.ts';
import {
  drive,
  type Path,
  YP_FAULT_ALLOCATED,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_NOTIFIER_START,
  YP_SWAP_READ,
  YP_SWAP_UNMAPPED,
  YP_SWAP_WRITTEN,
  YP_WAIT,
} from '../../mm/path.ts';
import { ptePresent } from '../../mm/pgtable/pte.ts';
import { swapEntryExclusive } from '../../mm/pgtable/swapops.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MADV_DONTNEED } from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import {
  forkMm,
  createWorld,
  entryAt,
  finish,
  load,
  loadPath,
  mapAnon,
  pageAt,
  pinsLive,
  stepTo,
  store,
  storePath,
  violations,
} from './gup-world.ts';

const SLOTS = 16;
let k: Kernel;
let mm: MmStruct;
let hva: number;
let page: number;
const pages = new Int32Array(1);

const reclaimPath = (): Path<number> => reclaimFolio(k, page);
const pinPath = (): Path<number> => pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages);
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const usedSlots = (): number => SLOTS - k.state.swap.nrFree;
/** So that the unmapping of a page can be stopped before it begins. */
const subscribe = (): void => {
  k.notifierOps.set('test', {
    invalidateRangeStart: () => 0,
    invalidateRangeEnd: () => {},
    release: () => {},
  });
  mmuNotifierRegister(k, mm, 'test', 1);
};

beforeEach(() => {
  k = createWorld();
  swapon(k, SLOTS);
  mm = mmCreate(k);
  hva = mapAnon(k, mm, 1);
  store(k, mm, hva, 42);
  page = pageAt(k, mm, hva);
});

describe('GUP-fast pins, swap clears the entry: one of them sees the other', () => {
  it('counted before the entry is cleared: swap puts the entry back, the pin holds', () => {
    subscribe();
    const before = entryAt(k, mm, hva);
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_NOTIFIER_START);
    const pinning = pinPath();
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(finish(reclaiming)).toBe(-EBUSY);
    expect(entryAt(k, mm, hva)).toBe(before);
    expect(finish(pinning)).toBe(1);
    expect([pages[0], pageAt(k, mm, hva), pageAnonExclusive(k, page)]).toEqual([page, page, true]);
    unpinUserPage(k, page);
    expect(violations(k)).toEqual([]);
  });

  it('cleared before it is counted: GUP-fast sees another entry and gives the count back', () => {
    const taking = getUserPagesFastOnly(k, 'kvm', mm, hva, 1, FOLL_WRITE, pages);
    stepTo(k, taking, YP_GUP_FAST_READ);
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_SWAP_UNMAPPED);
    expect(finish(taking)).toBe(0);
    expect(finish(reclaiming)).toBe(0);
    expect(load(k, mm, hva)).toBe(42);
    expect(violations(k)).toEqual([]);
  });

  it('counted between unmapping and writing: the page stays in the swap cache until it is given back', () => {
    const pinning = pinPath();
    stepTo(k, pinning, YP_GUP_FAST_READ);
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_SWAP_UNMAPPED);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(finish(reclaiming)).toBe(-EBUSY);
    expect(swapEntryExclusive(entryAt(k, mm, hva))).toBe(true);
    // The slow path faults the same page in again, exclusive as it was.
    expect(finish(pinning)).toBe(1);
    expect([pages[0], pageAnonExclusive(k, page)]).toEqual([page, true]);
    unpinUserPage(k, page);
    expect(violations(k)).toEqual([]);
  });

  it('counted after the bytes were written: the same', () => {
    const pinning = pinPath();
    stepTo(k, pinning, YP_GUP_FAST_READ);
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_SWAP_WRITTEN);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(finish(reclaiming)).toBe(-EAGAIN);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(page);
    unpinUserPage(k, page);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('counted when the frame is free: nothing to count, and the slow path reads the page in', () => {
    const pinning = pinPath();
    stepTo(k, pinning, YP_GUP_FAST_READ);
    expect(drive(reclaimPath())).toBe(0);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(pageAt(k, mm, hva));
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});

describe('a fault while the page is on its way out', () => {
  it('waits for the folio’s lock, and reads the page in when it has gone', () => {
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_SWAP_UNMAPPED);
    const storing = storePath(k, mm, hva, 43);
    stepTo(k, storing, YP_WAIT);
    expect(finish(reclaiming)).toBe(-EAGAIN);
    // Its reference to the locked folio kept it from going: nothing had to be read.
    expect(finish(storing)).toBe(0);
    expect([k.state.stat.pswpin, pageAt(k, mm, hva)]).toEqual([0, page]);
    expect(violations(k)).toEqual([]);
  });

  it('somebody who reaches the page by number writes after it was written out: it is dirty, and stays', () => {
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_SWAP_UNMAPPED);
    folioGet(k, page);
    stepTo(k, reclaiming, YP_SWAP_WRITTEN);
    k.memory.u8[k.memory.pageOffset(page)] = 43;
    folioMarkDirty(k, page);
    folioPut(k, page);
    expect([finish(reclaiming), load(k, mm, hva)]).toEqual([-EAGAIN, 43]);
    expect(violations(k)).toEqual([]);
  });

  it('exit meanwhile: the last entry goes, and reclaim gives the slot back itself', () => {
    for (const point of [YP_SWAP_UNMAPPED, YP_SWAP_WRITTEN]) {
      const other = mmCreate(k);
      const at = mapAnon(k, other, 1);
      store(k, other, at, 1);
      const reclaiming = reclaimFolio(k, pageAt(k, other, at));
      stepTo(k, reclaiming, point);
      drive(mmExit(k, other));
      expect(usedSlots()).toBe(1);
      expect(finish(reclaiming)).toBe(0);
      expect(usedSlots()).toBe(0);
    }
    expect(violations(k)).toEqual([]);
  });

  it('fork meanwhile: the child has the slot too, or the folio stays mapped', () => {
    subscribe();
    const reclaiming = reclaimPath();
    stepTo(k, reclaiming, YP_NOTIFIER_START);
    const child = forkOf(mm);
    finish(reclaiming);
    expect(violations(k)).toEqual([]);
    store(k, child, hva, 43);
    expect([load(k, mm, hva), load(k, child, hva)]).toEqual([42, 43]);
    expect(violations(k)).toEqual([]);
  });
});

describe('a page on its way in', () => {
  beforeEach(() => {
    expect(drive(reclaimPath())).toBe(0);
  });

  it('a second fault on the slot waits for the bytes and maps the same page', () => {
    const child = forkOf(mm);
    const first = loadPath(k, mm, hva);
    stepTo(k, first, YP_SWAP_READ);
    const second = loadPath(k, child, hva);
    stepTo(k, second, YP_WAIT);
    expect([finish(first), finish(second)]).toEqual([42, 42]);
    expect(pageAt(k, mm, hva)).toBe(pageAt(k, child, hva));
    expect([k.state.stat.pswpin, folioRefCount(k, pageAt(k, mm, hva))]).toEqual([1, 3]);
    expect(violations(k)).toEqual([]);
  });

  it('two faults allocate, one is first: the other gives its frame back', () => {
    const child = forkOf(mm);
    const first = loadPath(k, mm, hva);
    stepTo(k, first, YP_FAULT_ALLOCATED);
    expect(load(k, child, hva)).toBe(42);
    expect(finish(first)).toBe(42);
    expect(k.state.stat.pswpin).toBe(1);
    expect(violations(k)).toEqual([]);
  });

  it('MADV_DONTNEED meanwhile: the fault finds no entry, the slot is free, the memory zero', () => {
    for (const point of [YP_FAULT_ALLOCATED, YP_SWAP_READ]) {
      store(k, mm, hva, 42);
      expect(drive(reclaimFolio(k, pageAt(k, mm, hva)))).toBe(0);
      const loading = loadPath(k, mm, hva);
      stepTo(k, loading, point);
      drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
      expect(finish(loading)).toBe(0);
      expect(usedSlots()).toBe(0);
      expect(violations(k)).toEqual([]);
    }
  });

  it('somebody else’s read is done, written to and swapped out again meanwhile: the new bytes are read', () => {
    const loading = loadPath(k, mm, hva);
    stepTo(k, loading, YP_FAULT_ALLOCATED);
    store(k, mm, hva, 43);
    drive(reclaimFolio(k, pageAt(k, mm, hva)));
    expect(ptePresent(entryAt(k, mm, hva))).toBe(false);
    expect(finish(loading)).toBe(43);
    expect(violations(k)).toEqual([]);
  });

  it('a fork takes the mark off the entry meanwhile: the page is mapped shared', () => {
    const child = mmCreate(k);
    drive(mmExit(k, child));
    const storing = storePath(k, mm, hva, 43);
    stepTo(k, storing, YP_SWAP_READ);
    // The fault holds mmap_lock, so a fork waits for it.
    const forking = fork(k, mm);
    stepTo(k, forking, YP_WAIT);
    expect(finish(storing)).toBe(0);
    const late = finish(forking);
    if (typeof late === 'number') throw new Error(`fork: ${late}`);
    expect([load(k, late, hva), pageAnonExclusive(k, pageAt(k, mm, hva))]).toEqual([43, false]);
    expect(violations(k)).toEqual([]);
  });
});
