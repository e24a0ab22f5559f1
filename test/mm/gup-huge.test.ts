/** GUP on huge memory: entries of 2 MiB, slow and fast: facts sheet 1.2, 1.3, 1.4, 1.10. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../../mm/errno.ts';
import { folioPut, folioRefCount, pageAnonExclusive } from '../../mm/folio/folio.ts';
import { folioMaybeDmaPinned, folioPinCount } from '../../mm/folio/pin.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { getUserPagesFastOnly, pinUserPagesFast } from '../../mm/gup/fast.ts';
import {
  FOLL_DUMP,
  FOLL_FORCE,
  FOLL_LONGTERM,
  FOLL_NOFAULT,
  FOLL_SPLIT_PMD,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import { getUserPagesUnlocked, pinUserPages, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage, unpinUserPages } from '../../mm/gup/unpin.ts';
import {
  drive,
  YP_COLLAPSE_CLEARED,
  YP_GUP_FAST_PINNED,
  YP_GUP_FAST_READ,
  YP_WAIT,
} from '../../mm/path.ts';
import { pteDirty, ptePage, pteSpecial, pteWrite, pteYoung } from '../../mm/pgtable/pte.ts';
import { pmdLeafAt, ptepGet } from '../../mm/pgtable/walk.ts';
import { collapseHugePage } from '../../mm/thp/collapse.ts';
import { splitHugePmd } from '../../mm/thp/split-pmd.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../../mm/thp/state.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import { MAP_ANONYMOUS, MAP_PRIVATE, MAP_SHARED, PROT_READ } from '../../mm/vma/flags.ts';
import { mmapRead, mmapWriteTrylock, mmapWriteUnlock } from '../../mm/vma/lock.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mmap } from '../../mm/vma/mmap.ts';
import { mprotect } from '../../mm/vma/mprotect.ts';
import { findVma } from '../../mm/vma/vma.ts';
import {
  forkMm,
  createWorld,
  finish,
  load,
  pageAt,
  pinsLive,
  RW,
  stepTo,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(2048);

/** Maps `n` times 2 MiB of private memory where single entries may map them. @returns hva */
const mapHuge = (n: number, of = mm, prot = RW): number =>
  drive(
    mmap(k, of, {
      hva: 0x4000_0000,
      lenBytes: n * HPAGE_PMD_SIZE,
      prot,
      flags: MAP_PRIVATE | MAP_ANONYMOUS,
    }),
  );
/** The entry that maps 2 MiB at `hva`, 0 = none. */
const pmdAt = (hva: number, of = mm): number => {
  const word = pmdLeafAt(k, of, hva);
  return word > 0 ? ptepGet(k, word) : 0;
};
const headAt = (hva: number, of = mm): number => ptePage(pmdAt(hva, of));
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const pin = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesUnlocked(k, mm, hva, n, flags, pages));
const pinFast = (hva: number, n: number, flags: number): number =>
  drive(pinUserPagesFast(k, mm, hva, n, flags, pages));
const get = (hva: number, n: number, flags: number, of = mm): number =>
  drive(getUserPagesUnlocked(k, 'access-remote-vm', of, hva, n, flags, pages));
const consecutive = (first: number, n: number): number[] =>
  Array.from({ length: n }, (_, i) => first + i);
const taken = (n: number): number[] => [...pages.subarray(0, n)];

beforeEach(() => {
  k = createWorld('linux-7', 64 << 20);
  k.state.thp.always = 1 << HPAGE_PMD_ORDER;
  mm = mmCreate(k);
});

for (const { way, take } of [
  { way: 'slow', take: pin },
  { way: 'fast', take: pinFast },
])
  describe(`an entry of 2 MiB, ${way} — 1.10`, () => {
    it('gives min(rest of the huge page, rest of the request), counted at once', () => {
      const hva = mapHuge(1);
      store(k, mm, hva, 1);
      const head = headAt(hva);
      const before = folioRefCount(k, head);
      expect(take(hva + 10 * PAGE_SIZE, 20, FOLL_WRITE)).toBe(20);
      expect(taken(20)).toEqual(consecutive(head + 10, 20));
      expect([folioRefCount(k, head) - before, folioPinCount(k, head)]).toEqual([20, 20]);
      unpinUserPages(k, pages, 20);
      expect([folioRefCount(k, head) - before, pinsLive(k)]).toEqual([0, 0]);
      expect(violations(k)).toEqual([]);
    });

    it('is followed by the next one, and by single pages, in order of address', () => {
      const hva = mapHuge(3);
      for (let i = 0; i < 3; i++) store(k, mm, hva + i * HPAGE_PMD_SIZE, i);
      const vma = findVma(mm, hva);
      if (vma === null) throw new Error('no VMA');
      splitHugePmd(k, vma, hva + HPAGE_PMD_SIZE);
      const faults = k.state.stat.pgfault;
      expect(take(hva + 500 * PAGE_SIZE, 1000, FOLL_WRITE)).toBe(1000);
      expect(k.state.stat.pgfault).toBe(faults);
      expect(taken(12)).toEqual(consecutive(headAt(hva) + 500, 12));
      const middle = pageAt(k, mm, hva + HPAGE_PMD_SIZE);
      expect([...pages.subarray(12, 524)]).toEqual(consecutive(middle, HPAGE_PMD_NR));
      expect(pages[524]).toBe(headAt(hva + 2 * HPAGE_PMD_SIZE));
      expect(k.state.stat.nr_foll_pin_acquired).toBe(1000);
      unpinUserPages(k, pages, 1000);
      expect(k.state.stat.nr_foll_pin_released).toBe(1000);
      expect(violations(k)).toEqual([]);
    });

    it('shared by fork: a read-only pin unshares, and asks the head whether it has to', () => {
      const hva = mapHuge(1);
      store(k, mm, hva, 1);
      const shared = headAt(hva);
      const child = forkOf(mm);
      expect(pageAnonExclusive(k, shared)).toBe(false);
      expect(take(hva + 5 * PAGE_SIZE, 1, 0)).toBe(1);
      expect(pages[0]).not.toBe(shared + 5);
      expect(pageAnonExclusive(k, pages[0]!)).toBe(true);
      unpinUserPage(k, pages[0]!);
      drive(mmExit(k, child));
      expect(violations(k)).toEqual([]);
    });

    it('exclusive and read-only: a read-only pin takes it as it is', () => {
      const hva = mapHuge(1);
      store(k, mm, hva, 1);
      drive(mprotect(k, mm, hva, HPAGE_PMD_SIZE, PROT_READ));
      const head = headAt(hva);
      const faults = k.state.stat.pgfault;
      expect(take(hva + PAGE_SIZE, 511, FOLL_LONGTERM)).toBe(511);
      expect([headAt(hva), pages[510], k.state.stat.pgfault]).toEqual([head, head + 511, faults]);
      unpinUserPages(k, pages, 511);
    });

    it('pinned before fork: split in the parent and copied for the child page by page', () => {
      const hva = mapHuge(1);
      store(k, mm, hva, 7);
      const head = headAt(hva);
      expect(take(hva, 3, FOLL_WRITE)).toBe(3);
      const child = forkOf(mm);
      expect(pmdAt(hva)).toBe(0);
      expect(pageAt(k, mm, hva + 2 * PAGE_SIZE)).toBe(head + 2);
      expect(pageAt(k, child, hva + 2 * PAGE_SIZE)).not.toBe(head + 2);
      expect(load(k, child, hva)).toBe(7);
      // Pins are counted for the folio, so all of its pages had to be copied.
      expect(k.state.stat.fork_copied_pinned).toBe(HPAGE_PMD_NR);
      unpinUserPages(k, pages, 3);
      drive(mmExit(k, child));
      expect(violations(k)).toEqual([]);
    });

    it('unpins of the single pages and of the folio as it was are the same pins', () => {
      const hva = mapHuge(1);
      store(k, mm, hva, 1);
      const head = headAt(hva);
      expect(take(hva, 8, FOLL_WRITE)).toBe(8);
      const vma = findVma(mm, hva);
      if (vma === null) throw new Error('no VMA');
      splitHugePmd(k, vma, hva);
      expect(folioPinCount(k, head)).toBe(8);
      for (let i = 0; i < 8; i++) unpinUserPage(k, pages[i]!);
      expect(folioMaybeDmaPinned(k, head)).toBe(false);
      expect(violations(k)).toEqual([]);
    });

    it('NOFAULT takes what is there and no more', () => {
      const hva = mapHuge(2);
      store(k, mm, hva, 1);
      expect(take(hva, 1000, FOLL_WRITE | FOLL_NOFAULT)).toBe(HPAGE_PMD_NR);
      unpinUserPages(k, pages, HPAGE_PMD_NR);
      expect(take(hva + HPAGE_PMD_SIZE, 1, FOLL_WRITE | FOLL_NOFAULT)).toBe(-EFAULT);
      expect(pinsLive(k)).toBe(0);
    });
  });

describe('slow GUP on entries of 2 MiB — 1.2', () => {
  it('step 6: TOUCH sets A and D in the entry, not the folio dirty; plain pin_user_pages neither', () => {
    k.state.thp.shmem = true;
    const file = shmemCreate(k, HPAGE_PMD_NR);
    const hva = drive(
      mmap(k, mm, {
        hva: 0x5000_0000,
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    load(k, mm, hva);
    expect(pmdAt(hva)).not.toBe(0);
    const before = pmdAt(hva);
    const plain = mmapRead(mm, pinUserPages(k, mm, hva, 1, 0, pages));
    expect(drive(plain)).toBe(1);
    expect(pmdAt(hva)).toBe(before);
    unpinUserPage(k, pages[0]!);
    expect(get(hva, 1, FOLL_WRITE)).toBe(1);
    folioPut(k, headAt(hva));
    expect([pteYoung(pmdAt(hva)), pteDirty(pmdAt(hva))]).toEqual([true, true]);
    expect(violations(k)).toEqual([]);
  });

  it('FOLL_SPLIT_PMD splits the entry first, and the folio stays', () => {
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    const head = headAt(hva);
    expect(get(hva + 3 * PAGE_SIZE, 2, FOLL_SPLIT_PMD)).toBe(2);
    expect(pmdAt(hva)).toBe(0);
    expect(taken(2)).toEqual([head + 3, head + 4]);
    expect(folioRefCount(k, head)).toBe(HPAGE_PMD_NR + 2);
    folioPut(k, head, 2);
    expect(violations(k)).toEqual([]);
  });

  it('FOLL_SPLIT_PMD of a file: the entry goes, and its pages are found by faults', () => {
    k.state.thp.shmem = true;
    const file = shmemCreate(k, HPAGE_PMD_NR);
    const hva = drive(
      mmap(k, mm, {
        hva: 0x5000_0000,
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    store(k, mm, hva, 9);
    const head = headAt(hva);
    k.state.thp.shmem = false;
    expect(get(hva + PAGE_SIZE, 1, FOLL_SPLIT_PMD)).toBe(1);
    expect([pages[0], pmdAt(hva)]).toEqual([head + 1, 0]);
    folioPut(k, head);
    expect(violations(k)).toEqual([]);
  });

  it('FOLL_FORCE writes through a read-only entry once COW is broken: the head says', () => {
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    drive(mprotect(k, mm, hva, HPAGE_PMD_SIZE, PROT_READ));
    const head = headAt(hva);
    expect(get(hva + PAGE_SIZE, 1, FOLL_WRITE)).toBe(-EFAULT);
    expect(get(hva + PAGE_SIZE, 1, FOLL_WRITE | FOLL_FORCE)).toBe(1);
    expect(pages[0]).toBe(head + 1);
    expect(pteWrite(pmdAt(hva))).toBe(false);
    folioPut(k, head);
    const child = forkOf(mm);
    expect(get(hva + PAGE_SIZE, 1, FOLL_WRITE | FOLL_FORCE)).toBe(1);
    expect(pages[0]).not.toBe(head + 1);
    folioPut(k, pages[0]!);
    drive(mmExit(k, child));
    expect(violations(k)).toEqual([]);
  });

  it('runs of one folio in a table are counted at once, read-only ones under PIN page by page', () => {
    k.state.thp.always = 1 << 4;
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    const head = pageAt(k, mm, hva);
    expect(pin(hva, 16, FOLL_WRITE)).toBe(16);
    expect([folioPinCount(k, head), pages[15]]).toEqual([16, head + 15]);
    unpinUserPages(k, pages, 16);
    // The child is gone: the parent's next write makes that one page exclusive, and no other.
    drive(mmExit(k, forkOf(mm)));
    store(k, mm, hva, 2);
    drive(mprotect(k, mm, hva, HPAGE_PMD_SIZE, PROT_READ));
    expect([0, 1].map((i) => pageAnonExclusive(k, head + i))).toEqual([true, false]);
    expect(pin(hva, 4, FOLL_LONGTERM)).toBe(4);
    for (let i = 0; i < 4; i++) expect(pageAnonExclusive(k, pages[i]!)).toBe(true);
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });
});

describe('the huge zero folio — 1.1, 1.3', () => {
  const mapZero = (): number => {
    const hva = mapHuge(1);
    load(k, mm, hva);
    expect(pteSpecial(pmdAt(hva))).toBe(true);
    return hva;
  };

  it('PIN and unpin count nothing, GET does', () => {
    const hva = mapZero();
    const zero = headAt(hva);
    const before = folioRefCount(k, zero);
    expect(pin(hva + PAGE_SIZE, 4, 0)).toBe(4);
    expect(taken(4)).toEqual(consecutive(zero + 1, 4));
    expect([folioRefCount(k, zero), pinsLive(k)]).toEqual([before, 0]);
    unpinUserPages(k, pages, 4);
    expect([folioRefCount(k, zero), k.state.stat.nr_foll_pin_released]).toEqual([before, 0]);
    expect(get(hva, 4, 0)).toBe(4);
    expect(folioRefCount(k, zero)).toBe(before + 4);
    folioPut(k, zero, 4);
  });

  it('DUMP is -EFAULT', () => {
    const hva = mapZero();
    expect(get(hva, 1, FOLL_DUMP)).toBe(-EFAULT);
  });

  it('GUP-fast leaves it to the slow path: its entry is special', () => {
    const hva = mapZero();
    expect(drive(getUserPagesFastOnly(k, 'kvm', mm, hva, 1, 0, pages))).toBe(0);
    expect(pinFast(hva, 2, 0)).toBe(2);
    unpinUserPages(k, pages, 2);
  });

  it('a longterm read-only pin breaks it first: 2.5', () => {
    const hva = mapZero();
    const zero = headAt(hva);
    expect(pinFast(hva, 1, FOLL_LONGTERM)).toBe(1);
    expect(pages[0]).not.toBe(zero);
    store(k, mm, hva, 3);
    expect(pageAt(k, mm, hva) === pages[0] || headAt(hva) === pages[0]).toBe(true);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});

describe('GUP-fast on entries of 2 MiB — 1.4', () => {
  it('needs no mmap_lock, not even for a read-only pin of the middle: the head is exclusive', () => {
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    drive(mprotect(k, mm, hva, HPAGE_PMD_SIZE, PROT_READ));
    expect(mmapWriteTrylock(mm)).toBe(true);
    expect(pinFast(hva + 5 * PAGE_SIZE, 7, FOLL_LONGTERM)).toBe(7);
    mmapWriteUnlock(mm);
    expect(taken(7)).toEqual(consecutive(headAt(hva) + 5, 7));
    unpinUserPages(k, pages, 7);
  });

  it('a file’s: a long writable pin of shmem is taken as it is', () => {
    k.state.thp.shmem = true;
    const file = shmemCreate(k, HPAGE_PMD_NR);
    const hva = drive(
      mmap(k, mm, {
        hva: 0x5000_0000,
        lenBytes: HPAGE_PMD_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    store(k, mm, hva, 1);
    expect(mmapWriteTrylock(mm)).toBe(true);
    expect(pinFast(hva + PAGE_SIZE, 2, FOLL_LONGTERM | FOLL_WRITE)).toBe(2);
    mmapWriteUnlock(mm);
    unpinUserPages(k, pages, 2);
    expect(violations(k)).toEqual([]);
  });
});

describe('GUP-fast against whoever takes a huge entry away — 1.4 step 5', () => {
  it('split between pin and second reading: undone, and taken page by page', () => {
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    const head = headAt(hva);
    const pinning = pinUserPagesFast(k, mm, hva, 4, FOLL_WRITE, pages);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(folioPinCount(k, head)).toBe(4);
    const vma = findVma(mm, hva);
    if (vma === null) throw new Error('no VMA');
    splitHugePmd(k, vma, hva);
    expect(finish(pinning)).toBe(4);
    expect(k.state.stat.nr_foll_pin_acquired).toBe(8);
    expect([folioPinCount(k, head), pages[3]]).toEqual([4, head + 3]);
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });

  it('a collapse has taken the table off, whose entries are as they were: undone, and found in the huge page', () => {
    k.state.thp.always = 0;
    const hva = mapHuge(1);
    for (let i = 0; i < HPAGE_PMD_NR; i++) store(k, mm, hva + i * PAGE_SIZE, 1 + (i % 100));
    const small = pageAt(k, mm, hva);
    const pinning = pinUserPagesFast(k, mm, hva, 4, FOLL_WRITE, pages);
    stepTo(k, pinning, YP_GUP_FAST_READ);
    const collapsing = collapseHugePage(k, mm, hva);
    stepTo(k, collapsing, YP_COLLAPSE_CLEARED);
    stepTo(k, pinning, YP_GUP_FAST_PINNED);
    expect(folioMaybeDmaPinned(k, small)).toBe(true);
    // What it has read is still there, but not below the directory: it lets go, and waits.
    expect(pinning.next().value).toBe(YP_WAIT);
    expect(pinsLive(k)).toBe(0);
    expect(finish(collapsing)).toBe(0);
    expect(finish(pinning)).toBe(4);
    expect(taken(4)).toEqual(consecutive(headAt(hva), 4));
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });

  it('pinned before a collapse looks at the references: it gives up, and puts the table back', () => {
    k.state.thp.always = 0;
    const hva = mapHuge(1);
    for (let i = 0; i < HPAGE_PMD_NR; i++) store(k, mm, hva + i * PAGE_SIZE, 1 + (i % 100));
    expect(pinFast(hva + PAGE_SIZE, 1, FOLL_WRITE)).toBe(1);
    expect(drive(collapseHugePage(k, mm, hva))).toBeLessThan(0);
    expect([pmdAt(hva), pageAt(k, mm, hva + PAGE_SIZE)]).toEqual([0, pages[0]]);
    unpinUserPage(k, pages[0]!);
    expect(drive(collapseHugePage(k, mm, hva))).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('zapped between reading the entry and counting: nothing is counted, the slow way finds the new folio', () => {
    const hva = mapHuge(1);
    store(k, mm, hva, 1);
    const pinning = pinUserPagesFast(k, mm, hva, 4, FOLL_WRITE, pages);
    stepTo(k, pinning, YP_GUP_FAST_READ);
    drive(madvise(k, mm, hva, HPAGE_PMD_SIZE, 4));
    expect(finish(pinning)).toBe(4);
    expect(pages[0]).toBe(headAt(hva));
    expect(load(k, mm, hva)).toBe(0);
    unpinUserPages(k, pages, 4);
    expect(violations(k)).toEqual([]);
  });
});
