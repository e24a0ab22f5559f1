/** Swap of shmem: the file names the slot, entries do not (mm/shmem.c). */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EBUSY, EINVAL, ENOMEM } from '../../mm/errno.ts';
import {
  folioGet,
  folioOrder,
  folioPut,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
} from '../../mm/folio/folio.ts';
import { mappingPut } from '../../mm/fs/mapping.ts';
import { secretmemCreate } from '../../mm/fs/secretmem.ts';
import { shmemCreate, shmemRead } from '../../mm/fs/shmem.ts';
import { shmemPunchHole } from '../../mm/fs/shmem-range.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { memfdPinFolios } from '../../mm/gup/memfd.ts';
import { unpinFolios, unpinUserPage } from '../../mm/gup/unpin.ts';
import { drive, YP_SWAP_READ, YP_WAIT } from '../../mm/path.ts';
import { pteNone } from '../../mm/pgtable/pte.ts';
import { makeUffdWpMarker } from '../../mm/pgtable/swapops.ts';
import { folioTestSwapcache } from '../../mm/swap/cache.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import type { AddressSpace, Kernel, MmStruct } from '../../mm/types.ts';
import { uffdOpen, uffdRegister, uffdWriteprotect } from '../../mm/uffd/uffd.ts';
import { MADV_PAGEOUT, MAP_PRIVATE, MAP_SHARED } from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mlock } from '../../mm/vma/mlock.ts';
import { mmCreate } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  createWorld,
  entryAt,
  finish,
  freeOf,
  load,
  loadPath,
  mapFile,
  pageAt,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

const SLOTS = 16;
let k: Kernel;
let mm: MmStruct;
let file: AddressSpace;
let hva: number;
const pages = new Int32Array(4);

const swapOut = (pgoff = 0): number => drive(reclaimFolio(k, file.pages.get(pgoff) ?? -1));
const usedSlots = (): number => SLOTS - k.state.swap.nrFree;
const quiet = (gets = 0): void => expect(violations(k, gets)).toEqual([]);

beforeEach(() => {
  k = createWorld();
  swapon(k, SLOTS);
  mm = mmCreate(k);
  file = shmemCreate(k, 3);
  hva = mapFile(k, mm, file);
  store(k, mm, hva, 42);
});

describe('a page of shmem is swapped out and in', () => {
  it('every entry is cleared, the file names the slot, and a fault of anybody reads it in', () => {
    const other = mmCreate(k);
    const theirs = mapFile(k, other, file, MAP_PRIVATE);
    load(k, other, theirs);
    const free = freeOf(k);
    expect(swapOut()).toBe(0);
    expect([freeOf(k) - free, usedSlots(), file.pages.size, file.swapped.size]).toEqual([
      1, 1, 0, 1,
    ]);
    expect([entryAt(k, mm, hva), entryAt(k, other, theirs)].every(pteNone)).toBe(true);
    expect([mm.rssFile, mm.rssSwap, other.rssFile]).toEqual([0, 0, 0]);
    quiet();
    expect([load(k, other, theirs), load(k, mm, hva)]).toEqual([42, 42]);
    expect([pageAt(k, mm, hva), usedSlots(), file.swapped.size]).toEqual([
      pageAt(k, other, theirs),
      0,
      0,
    ]);
    expect(folioTestDirty(k, pageAt(k, mm, hva))).toBe(true);
    quiet();
  });

  it('clean, it is a hole again', () => {
    load(k, mm, hva + PAGE_SIZE);
    expect([swapOut(1), usedSlots(), file.pages.size]).toEqual([0, 0, 1]);
    expect(load(k, mm, hva + PAGE_SIZE)).toBe(0);
    quiet();
  });

  it('read() finds the bytes where they are; a file that goes gives its slots back', () => {
    const bytes = new Uint8Array(1);
    swapOut();
    expect([shmemRead(k, file, 0, bytes), bytes[0]]).toEqual([1, 42]);
    const loading = loadPath(k, mm, hva);
    stepTo(k, loading, YP_SWAP_READ);
    // The frame that is to be filled has been something else before.
    for (const page of k.state.swap.cache.values()) k.memory.zeroPage(page);
    expect([shmemRead(k, file, 0, bytes), bytes[0]]).toEqual([1, 42]);
    expect(finish(loading)).toBe(42);
    swapOut();
    drive(munmap(k, mm, hva, 3 * PAGE_SIZE));
    drive(mappingPut(k, file));
    expect(usedSlots()).toBe(0);
    quiet();
  });

  it('MADV_PAGEOUT takes what nobody else maps', () => {
    const other = mmCreate(k);
    const theirs = mapFile(k, other, file);
    store(k, other, theirs + PAGE_SIZE, 43);
    load(k, mm, hva + PAGE_SIZE);
    expect(drive(madvise(k, mm, hva, 3 * PAGE_SIZE, MADV_PAGEOUT))).toBe(0);
    expect([...file.swapped.keys()]).toEqual([0]);
    quiet();
  });

  it('a folio of 2 MiB is split, and its pages go one by one', () => {
    const w = createWorld('linux-7', 16 << 20);
    w.state.thp.shmem = true;
    swapon(w, 600);
    const huge = shmemCreate(w, 512);
    const owner = mmCreate(w);
    const at = mapFile(w, owner, huge);
    store(w, owner, at, 1);
    store(w, owner, at + 5 * PAGE_SIZE, 6);
    const folio = huge.pages.get(0) ?? -1;
    expect(folioOrder(w, folio)).toBe(9);
    expect(drive(reclaimFolio(w, folio))).toBe(0);
    expect([huge.pages.size, huge.swapped.size]).toEqual([0, 512]);
    expect(violations(w)).toEqual([]);
    expect([load(w, owner, at), load(w, owner, at + 5 * PAGE_SIZE)]).toEqual([1, 6]);
    expect(violations(w)).toEqual([]);
  });

  it('a range with a page that is swapped out is no hole: nothing huge is put there', () => {
    const w = createWorld('linux-7', 16 << 20);
    swapon(w, 4);
    const owner = mmCreate(w);
    const some = shmemCreate(w, 512);
    const at = mapFile(w, owner, some);
    store(w, owner, at, 42);
    drive(reclaimFolio(w, some.pages.get(0) ?? -1));
    w.state.thp.shmem = true;
    some.hugeOrder = 9;
    store(w, owner, at + 5 * PAGE_SIZE, 6);
    expect([load(w, owner, at), some.pages.size]).toEqual([42, 2]);
    expect(violations(w)).toEqual([]);
  });

  it('userfaultfd’s protection stays, as a marker', () => {
    uffdOpen(mm);
    drive(uffdRegister(k, mm, hva, PAGE_SIZE));
    drive(uffdWriteprotect(k, mm, hva, PAGE_SIZE, true));
    expect(swapOut()).toBe(0);
    expect(entryAt(k, mm, hva)).toBe(makeUffdWpMarker());
    expect(load(k, mm, hva)).toBe(42);
    quiet();
  });
});

describe('what keeps it', () => {
  it('a pin: it is unmapped, and mapped again by the next fault', () => {
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    expect(swapOut()).toBe(-EBUSY);
    expect([load(k, mm, hva), pageAt(k, mm, hva), usedSlots()]).toEqual([42, pages[0], 0]);
    quiet();
    unpinUserPage(k, pages[0]!);
    expect(swapOut()).toBe(0);
  });

  it('a pin by way of the file; one that comes later reads it in', () => {
    const found = { offset: 0 };
    swapOut();
    expect(drive(memfdPinFolios(k, file, 0, 1, pages, 4, found))).toBe(1);
    expect([file.pages.get(0), swapOut()]).toEqual([pages[0], -EBUSY]);
    unpinFolios(k, pages, 1);
    quiet();
  });

  it('a plain reference, no slot, another kind of file', () => {
    const page = pageAt(k, mm, hva);
    folioGet(k, page);
    expect([swapOut(), file.pages.get(0), usedSlots()]).toEqual([-EAGAIN, page, 0]);
    folioPut(k, page);
    const none = createWorld();
    const other = shmemCreate(none, 1);
    const owner = mmCreate(none);
    store(none, owner, mapFile(none, owner, other), 1);
    expect(drive(reclaimFolio(none, other.pages.get(0) ?? -1))).toBe(-ENOMEM);
    const secret = secretmemCreate(k, 1);
    store(k, mm, mapFile(k, mm, secret, MAP_SHARED), 1);
    expect(drive(reclaimFolio(k, secret.pages.get(0) ?? -1))).toBe(-EINVAL);
  });

  it('memory that is locked: not even unmapped', () => {
    expect(drive(mlock(k, mm, hva, PAGE_SIZE))).toBe(0);
    const before = entryAt(k, mm, hva);
    expect([swapOut(), entryAt(k, mm, hva)]).toEqual([-EAGAIN, before]);
  });

  it('held while it is written: it stays in the swap cache, and comes back as it is', () => {
    const page = pageAt(k, mm, hva);
    const reclaiming = reclaimFolio(k, page);
    k.watched = true;
    reclaiming.next();
    folioGet(k, page);
    k.watched = false;
    expect(finish(reclaiming)).toBe(-EAGAIN);
    expect([folioTestSwapcache(k, page), file.swapped.size]).toEqual([true, 1]);
    quiet(1);
    k.memory.u8[k.memory.pageOffset(page)] = 43;
    const bytes = new Uint8Array(1);
    expect([shmemRead(k, file, 0, bytes), bytes[0]]).toEqual([1, 43]);
    expect([load(k, mm, hva), pageAt(k, mm, hva), k.state.stat.pswpin]).toEqual([43, page, 0]);
    folioPut(k, page);
    quiet();
  });
});

describe('two faults at once', () => {
  it('one reads, the other waits for it', () => {
    const other = mmCreate(k);
    const theirs = mapFile(k, other, file);
    swapOut();
    const first = loadPath(k, mm, hva);
    stepTo(k, first, YP_SWAP_READ);
    const second = loadPath(k, other, theirs);
    stepTo(k, second, YP_WAIT);
    expect([finish(first), finish(second), k.state.stat.pswpin]).toEqual([42, 42, 1]);
    quiet();
  });
});

describe('a hole in a file whose pages come and go', () => {
  it('takes a page that was swapped out when it began, and is back when its turn comes: shmem_undo_range()', () => {
    store(k, mm, hva + PAGE_SIZE, 43);
    expect(swapOut(1)).toBe(0);
    const first = file.pages.get(0) ?? -1;
    expect(folioTrylock(k, first)).toBe(true);
    const punching = shmemPunchHole(k, file, 0, 2 * PAGE_SIZE);
    expect(punching.next().value).toBe(YP_WAIT);
    expect(load(k, mm, hva + PAGE_SIZE)).toBe(43);
    folioUnlock(k, first);
    expect(finish(punching)).toBe(0);
    expect([load(k, mm, hva), load(k, mm, hva + PAGE_SIZE)]).toEqual([0, 0]);
    expect(usedSlots()).toBe(0);
    quiet();
  });
});
