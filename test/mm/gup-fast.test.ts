/** GUP-fast: facts sheet 1.4, with the other side of each race stepped by hand. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { checkKernel } from '../../mm/check/sanitizer.ts';
import { EBUSY, EFAULT, EINVAL } from '../../mm/errno.ts';
import { folioAlloc, folioPut, folioTryGet } from '../../mm/folio/folio.ts';
import { folioMaybeDmaPinned, GUP_PIN_COUNTING_BIAS } from '../../mm/folio/pin.ts';
import { allocPages, freePages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_ANON_EXCLUSIVE, PG_DIRTY, PG_REFERENCED } from '../../mm/frames/table.ts';
import { nrFreePages } from '../../mm/frames/zone.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFast, getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_ANON, FOLL_LONGTERM, FOLL_NOFAULT, FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPage, unpinUserPages } from '../../mm/gup/unpin.ts';
import {
  drive,
  type Path,
  YP_FORK_ENTRY,
  YP_GUP_FAST_DONE,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_GUP_FAST_SEQ,
  YP_GUP_LOOKED_UP,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '../../mm/path.ts';
import { pteWrite } from '../../mm/pgtable/pte.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MADV_DONTNEED } from '../../mm/vma/flags.ts';
import { fork } from '../../mm/vma/fork.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  createWorld,
  entryAt,
  finish,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(64);

const pin = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesFast(k, mm, hva, n, flags, pages));
/** The lockless part alone, with a reference. */
const fastOnly = (hva: number, n: number, flags: number): number =>
  drive(getUserPagesFastOnly(k, 'kvm', mm, hva, n, flags, pages));
const pinPath = (hva: number, n = 1): Path<number> =>
  pinUserPagesFast(k, mm, hva, n, FOLL_WRITE, pages);
const putAll = (n: number): void => {
  for (let i = 0; i < n; i++) folioPut(k, pages[i]!);
};

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

describe('GUP-fast alone — 1.4', () => {
  it('step 3: takes what is present and writable, and stops at the first that is not', () => {
    const hva = mapAnon(k, mm, 4);
    for (const i of [0, 1, 3]) store(k, mm, hva + i * PAGE_SIZE, i);
    expect(fastOnly(hva, 4, FOLL_WRITE)).toBe(2);
    expect([pages[0], pages[1]]).toEqual([pageAt(k, mm, hva), pageAt(k, mm, hva + PAGE_SIZE)]);
    putAll(2);
    expect(fastOnly(hva + 2 * PAGE_SIZE, 1, FOLL_WRITE)).toBe(0);
  });

  it('step 3: the zero page is special and left to the slow path', () => {
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    expect(fastOnly(hva, 1, 0)).toBe(0);
    expect(drive(getUserPagesFast(k, 'kvm', mm, hva, 1, 0, pages))).toBe(1);
    expect(pages[0]).toBe(k.state.zeroPage);
    putAll(1);
  });

  it('step 3: a write wants the write bit', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    const child = drive(fork(k, mm));
    expect(typeof child).toBe('object');
    expect(fastOnly(hva, 1, FOLL_WRITE)).toBe(0);
    expect(fastOnly(hva, 1, 0)).toBe(1);
    putAll(1);
  });

  it('step 7: a R/O pin of a shared anonymous page goes slow and is unshared', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    drive(fork(k, mm));
    const shared = pageAt(k, mm, hva);
    expect(pin(hva, 1, 0)).toBe(1);
    expect(pages[0]).not.toBe(shared);
    expect(k.state.frames.flags[pages[0]!]! & PG_ANON_EXCLUSIVE).not.toBe(0);
    unpinUserPage(k, pages[0]!);
  });

  it('step 6: PIN, LONGTERM and WRITE take anonymous memory and shmem', () => {
    const anon = mapAnon(k, mm, 1);
    store(k, mm, anon, 1);
    const file = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, file, 1);
    const faults = k.state.stat.pgfault;
    expect(pin(anon, 1, FOLL_WRITE | FOLL_LONGTERM)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(pin(file, 1, FOLL_WRITE | FOLL_LONGTERM)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(k.state.stat.pgfault).toBe(faults);
  });

  it('step 8: marks the page referenced, and neither folio nor entry dirty', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    load(k, mm, hva);
    const before = entryAt(k, mm, hva);
    expect(fastOnly(hva, 1, FOLL_WRITE)).toBe(1);
    const flags = k.state.frames.flags[pages[0]!]!;
    expect(flags & PG_REFERENCED).not.toBe(0);
    expect(flags & PG_DIRTY).toBe(0);
    expect(entryAt(k, mm, hva)).toBe(before);
    putAll(1);
  });

  it('across page tables, in order of address', () => {
    const n = 1100;
    const many = new Int32Array(n);
    const hva = mapFile(k, mm, shmemCreate(k, n));
    for (let i = 0; i < n; i++) store(k, mm, hva + i * PAGE_SIZE, i & 255);
    const faults = k.state.stat.pgfault;
    expect(drive(pinUserPagesFast(k, mm, hva, n, FOLL_WRITE, many))).toBe(n);
    expect(k.state.stat.pgfault).toBe(faults);
    for (let i = 0; i < n; i += 99) expect(many[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
    unpinUserPages(k, many, n);
    expect(pinsLive(k)).toBe(0);
  });

  it('the rest goes the slow way, whose error is hidden behind pages already taken', () => {
    const hva = mapAnon(k, mm, 4);
    store(k, mm, hva, 1);
    expect(pin(hva, 4, FOLL_WRITE)).toBe(4);
    for (let i = 0; i < 4; i++) expect(pages[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
    unpinUserPages(k, pages, 4);
    drive(munmap(k, mm, hva + 2 * PAGE_SIZE, 2 * PAGE_SIZE));
    expect(pin(hva, 4, FOLL_WRITE)).toBe(2);
    unpinUserPages(k, pages, 2);
    expect(pin(hva + 2 * PAGE_SIZE, 1, FOLL_WRITE)).toBe(-EFAULT);
    expect(pin(hva, 1, FOLL_ANON)).toBe(-EINVAL);
  });

  it('NOFAULT: what is present, or -EFAULT', () => {
    const hva = mapAnon(k, mm, 2);
    expect(pin(hva, 1, FOLL_WRITE | FOLL_NOFAULT)).toBe(-EFAULT);
    store(k, mm, hva, 1);
    expect(pin(hva, 2, FOLL_WRITE | FOLL_NOFAULT)).toBe(1);
  });

  it('FOLL_GET needs a row in the users table', () =>
    expect(() => drive(getUserPagesFast(k, 'dma-engine', mm, 0x1000, 1, 0, pages))).toThrow(
      /dma-engine/,
    ));
});

describe('GUP-fast against fork — 1.4 steps 1 and 9, 1.5', () => {
  /** Four written pages: fork write-protects them between its yields. */
  const setUp = (): number => {
    const hva = mapAnon(k, mm, 4);
    for (let i = 0; i < 4; i++) store(k, mm, hva + i * PAGE_SIZE, i + 1);
    return hva;
  };

  it('fork active first: a pin takes nothing the fast way and waits for the mmap lock', () => {
    const hva = setUp();
    const forking = fork(k, mm);
    stepTo(k, forking, YP_FORK_ENTRY);
    expect(mm.writeProtectSeq[0]! & 1).toBe(1);
    const faults = k.state.stat.pgfault;
    const pinning = pinPath(hva);
    expect(pinning.next()).toEqual({ done: false, value: YP_WAIT });
    expect(pinsLive(k)).toBe(0);
    const child = finish(forking);
    expect(finish(pinning)).toBe(1);
    expect(k.state.stat.pgfault).toBeGreaterThan(faults);
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(pageAt(k, child, hva)).not.toBe(pages[0]);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('GET does not look at the sequence', () => {
    const hva = setUp();
    const forking = fork(k, mm);
    stepTo(k, forking, YP_FORK_ENTRY);
    expect(fastOnly(hva, 1, 0)).toBe(1);
    putAll(1);
    finish(forking);
  });

  it('sequence sampled, then a whole fork: the pins are dropped and the slow way taken', () => {
    const hva = setUp();
    const pinning = pinPath(hva, 4);
    stepTo(k, pinning, YP_GUP_FAST_SEQ);
    const child = drive(fork(k, mm));
    expect(finish(pinning)).toBe(4);
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    for (let i = 0; i < 4; i++) {
      expect(pages[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
      expect(pages[i]).not.toBe(pageAt(k, child, hva + i * PAGE_SIZE));
    }
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });

  it('pinned and read again, then a whole fork: fork copied, and the pins are taken anew', () => {
    const hva = setUp();
    const pinning = pinPath(hva, 4);
    stepTo(k, pinning, YP_GUP_FAST_DONE);
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(k.state.stat.fork_copied_pinned).toBe(4);
    expect(pinsLive(k)).toBe(4);
    expect(finish(pinning)).toBe(4);
    expect(k.state.stat.nr_foll_pin_acquired).toBe(8);
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });

  it('pinned, entry not yet read again, then a whole fork: fork saw the pin and copied', () => {
    const hva = setUp();
    const first = pageAt(k, mm, hva);
    const pinning = pinPath(hva, 4);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(folioMaybeDmaPinned(k, first)).toBe(true);
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(k.state.stat.fork_copied_pinned).toBe(1);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(true);
    expect(finish(pinning)).toBe(4);
    // The sequence moved all the same: the fast pin was dropped, four were taken under the lock.
    expect(k.state.stat.nr_foll_pin_acquired).toBe(5);
    expect(pinsLive(k)).toBe(4);
    for (let i = 0; i < 4; i++) expect(pages[i]).not.toBe(pageAt(k, child, hva + i * PAGE_SIZE));
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });

  it('pins completed before: fork copies each for the child', () => {
    const hva = setUp();
    expect(pin(hva, 4, FOLL_WRITE)).toBe(4);
    const child = drive(fork(k, mm));
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    expect(k.state.stat.fork_copied_pinned).toBe(4);
    for (let i = 0; i < 4; i++) {
      expect(pageAt(k, mm, hva + i * PAGE_SIZE)).toBe(pages[i]);
      expect(load(k, child, hva + i * PAGE_SIZE)).toBe(i + 1);
    }
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });
});

describe('GUP-fast against whoever clears the entry — 1.4 step 5', () => {
  it('zapped between pin and second reading: undone, the slow way finds the new page', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const old = pageAt(k, mm, hva);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(k.state.frames.refcount[old]).toBeGreaterThan(0);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(pageAt(k, mm, hva));
    expect(load(k, mm, hva)).toBe(0);
    expect(pinsLive(k)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('the page table itself is freed meanwhile: undone, and -EFAULT', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    expect(mm.nrTables).toBe(1);
    expect(finish(pinning)).toBe(-EFAULT);
    expect(pinsLive(k)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('zapped between reading the entry and counting: the page is free, nothing is counted', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const old = pageAt(k, mm, hva);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_READ);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(k.state.frames.refcount[old]).toBe(0);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(pageAt(k, mm, hva));
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('the frame is a page table by the time it is counted: undone, and freed by the last to let go', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const old = pageAt(k, mm, hva);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_READ);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    // The frame freed last is handed out first: another process's root.
    const other = mmCreate(k);
    expect(other.pgd).toBe(old);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(checkKernel(k)).toEqual([]);
    drive(mmExit(k, other));
    expect(k.state.frames.refcount[old]).toBe(GUP_PIN_COUNTING_BIAS);
    expect(folioAlloc(k, GFP_KERNEL)).not.toBe(old);
    expect(checkKernel(k)).toEqual([]);
    expect(finish(pinning)).toBe(1);
    // Free at last, and the frame that the fault of the slow path got.
    expect(pages[0]).toBe(old);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('what was counted by mistake goes by its own order, the rest of its block before it', () => {
    const free = nrFreePages(k);
    const block = allocPages(k, 2, GFP_KERNEL);
    expect(folioTryGet(k, block)).toBe(true);
    freePages(k, block, 2);
    expect(nrFreePages(k)).toBe(free - 1);
    folioPut(k, block);
    expect(nrFreePages(k)).toBe(free);
    expect(violations(k)).toEqual([]);
  });

  it('pin first: migration clears the entry, sees the pin, puts the entry back, -EBUSY', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const page = pageAt(k, mm, hva);
    const before = entryAt(k, mm, hva);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(drive(migrateFolio(k, page))).toBe(-EBUSY);
    expect(entryAt(k, mm, hva)).toBe(before);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(page);
    unpinUserPage(k, page);
    expect(violations(k)).toEqual([]);
  });

  it('migration first: GUP-fast finds no entry, slow GUP waits and pins the new frame', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 5);
    const old = pageAt(k, mm, hva);
    const moving = migrateFolio(k, old);
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    const pinning = pinPath(hva);
    expect(pinning.next()).toEqual({ done: false, value: YP_WAIT });
    expect(finish(moving)).toBe(0);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).not.toBe(old);
    expect(pages[0]).toBe(pageAt(k, mm, hva));
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('looked up by slow GUP, then a migration: refused while the pin is held', () => {
    const hva = mapAnon(k, mm, 1);
    const pinning = pinPath(hva);
    stepTo(k, pinning, YP_GUP_LOOKED_UP);
    expect(drive(migrateFolio(k, pageAt(k, mm, hva)))).toBe(-EBUSY);
    expect(finish(pinning)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(drive(migrateFolio(k, pageAt(k, mm, hva)))).toBe(0);
    expect(violations(k)).toEqual([]);
  });
});
