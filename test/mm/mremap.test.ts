/** mremap(): what moves, what stays, and who races with it. Compare mm/mremap.c. */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  drive,
  EAGAIN,
  EFAULT,
  EINVAL,
  ENOMEM,
  findVma,
  fork,
  type HostProcess,
  type Kernel,
  madvise,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGETLB,
  MAP_LOCKED,
  MAP_PRIVATE,
  MAP_SHARED,
  type MmStruct,
  migrateFolio,
  mlock,
  mmap,
  mmExit,
  mmuNotifierRegister,
  mprotect,
  MREMAP_DONTUNMAP,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  mremap,
  munmap,
  nrFreePages,
  type Path,
  PROT_READ,
  pageAnonExclusive,
  shmemCreate,
  mappingPut,
  YP_MIGRATE_UNMAPPED,
  YP_MOVE_ENTRY,
  YP_NOTIFIER_START,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { hugetlbSetPool } from '../../mm/hugetlb/pool.ts';
import { pteSoftDirty, pteWrite } from '../../mm/pgtable/pte.ts';
import { isMigrationEntry, isSwapEntry } from '../../mm/pgtable/swapops.ts';
import { pmdLeafAt, ptepGet, setPteAt, walkPte } from '../../mm/pgtable/walk.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { VM_LOCKED } from '../../mm/vma/flags.ts';
import { rng } from '../support/rng.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  interleave,
  mapAnon,
  pageAt,
  recordNotifier,
  RW,
  stepTo,
  type World,
} from './support.ts';

const AT = 0x1000_0000;
const TO = 0x3000_0000;
const MOVE = MREMAP_MAYMOVE | MREMAP_FIXED;
const HUGE = 2 << 20;

/** A process with `nrPages` anonymous pages at AT, page i holding 100 + i. */
const world = (nrPages: number, ram?: number): { w: World; p: HostProcess; k: Kernel } => {
  const w = createWorld(ram);
  const p = createProcess(w);
  mapAnon(p, nrPages, RW, AT);
  fill(p, AT, nrPages);
  return { w, p, k: w.k };
};

const fill = (p: HostProcess, hva: number, nrPages: number): void => {
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, 100 + i);
};

const holds = (p: HostProcess, hva: number, nrPages: number): boolean => {
  for (let i = 0; i < nrPages; i++) if (p.load32(hva + i * PAGE_SIZE) !== 100 + i) return false;
  return true;
};

/** hva, old length, new length, flags, new hva. */
type Args = [number, number, number, number, number?];

const call = (p: HostProcess, ...args: Args): number => drive(mremap(p.k, p.mm, ...args));

const clean = (k: Kernel): void => assertKernel(k, { quiescent: true });

/** Everything goes, and every frame is free again. */
const ends = (w: World, ...processes: HostProcess[]): void => {
  clean(w.k);
  for (const p of processes) exit(p);
  clean(w.k);
  expect(nrFreePages(w.k)).toBe(w.freeAtStart);
};

describe('mremap() in place', () => {
  it('shrinks: the tail is unmapped, the head stays', () => {
    const { w, p } = world(8);
    expect(call(p, AT, 8 * PAGE_SIZE, 3 * PAGE_SIZE, 0)).toBe(AT);
    expect(holds(p, AT, 3)).toBe(true);
    expect(p.load32(AT + 3 * PAGE_SIZE)).toBe(-EFAULT);
    ends(w, p);
  });

  it('grows where nothing is behind it, and merges with a neighbour that it reaches', () => {
    const { w, p } = world(2);
    mapAnon(p, 2, RW, AT + 4 * PAGE_SIZE);
    expect(call(p, AT, 2 * PAGE_SIZE, 4 * PAGE_SIZE, 0)).toBe(AT);
    expect(p.mm.vmas.length).toBe(1);
    expect(holds(p, AT, 2)).toBe(true);
    expect(p.load32(AT + 3 * PAGE_SIZE)).toBe(0);
    ends(w, p);
  });

  it('cannot grow into a neighbour: -ENOMEM, with MREMAP_MAYMOVE it moves', () => {
    const { w, p } = world(2);
    mapAnon(p, 1, PROT_READ, AT + 2 * PAGE_SIZE);
    expect(call(p, AT, 2 * PAGE_SIZE, 4 * PAGE_SIZE, 0)).toBe(-ENOMEM);
    const at = call(p, AT, 2 * PAGE_SIZE, 4 * PAGE_SIZE, MREMAP_MAYMOVE);
    expect(at).toBeGreaterThan(0);
    expect(at).not.toBe(AT);
    expect(holds(p, at, 2)).toBe(true);
    expect(p.load32(AT)).toBe(-EFAULT);
    ends(w, p);
  });

  it('of the same length and without a target does nothing', () => {
    const { w, p } = world(2);
    expect(call(p, AT, 2 * PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE)).toBe(AT);
    ends(w, p);
  });
});

describe('mremap() to another place', () => {
  it('no byte is copied: the frames are the same, exclusive as before, and writable at once', () => {
    const { w, p, k } = world(4);
    const pages = [0, 1, 2, 3].map((i) => pageAt(p, AT + i * PAGE_SIZE));
    expect(call(p, AT, 4 * PAGE_SIZE, 4 * PAGE_SIZE, MOVE, TO)).toBe(TO);
    expect(pages).toEqual([0, 1, 2, 3].map((i) => pageAt(p, TO + i * PAGE_SIZE)));
    expect(pages.every((page) => pageAnonExclusive(k, page))).toBe(true);
    const faults = k.state.stat.pgfault;
    p.store32(TO, 7);
    expect(p.load32(TO)).toBe(7);
    expect(k.state.stat.pgfault).toBe(faults);
    expect(p.load32(AT)).toBe(-EFAULT);
    ends(w, p);
  });

  it('the offset stays, so the reverse map finds the page: it migrates afterwards', () => {
    const { w, p, k } = world(2);
    call(p, AT + PAGE_SIZE, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    const page = pageAt(p, TO);
    expect(drive(migrateFolio(k, page))).toBe(0);
    expect(pageAt(p, TO)).not.toBe(page);
    expect(p.load32(TO)).toBe(101);
    ends(w, p);
  });

  it('MREMAP_FIXED: what was mapped there is gone', () => {
    const { w, p } = world(2);
    mapAnon(p, 3, RW, TO);
    p.store32(TO, 1);
    p.store32(TO + 2 * PAGE_SIZE, 3);
    call(p, AT, 2 * PAGE_SIZE, 2 * PAGE_SIZE, MOVE, TO);
    expect(holds(p, TO, 2)).toBe(true);
    expect(p.load32(TO + 2 * PAGE_SIZE)).toBe(3);
    ends(w, p);
  });

  it('several mappings in one move, with the holes between them', () => {
    const { w, p } = world(1);
    mapAnon(p, 1, PROT_READ, AT + PAGE_SIZE);
    mapAnon(p, 1, RW, AT + 3 * PAGE_SIZE);
    p.store32(AT + 3 * PAGE_SIZE, 103);
    expect(call(p, AT, 4 * PAGE_SIZE, 4 * PAGE_SIZE, MOVE, TO)).toBe(TO);
    expect([0, 1, 2, 3].map((i) => p.load32(TO + i * PAGE_SIZE))).toEqual([100, 0, -EFAULT, 103]);
    ends(w, p);
  });

  it('MREMAP_DONTUNMAP: the old mapping stays, and is empty', () => {
    const { w, p } = world(3);
    const at = call(p, AT, 3 * PAGE_SIZE, 3 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    expect(holds(p, at, 3)).toBe(true);
    expect(findVma(p.mm, AT)?.anonVma).toBe(null);
    expect(p.load32(AT)).toBe(0);
    p.store32(AT, 5);
    expect(p.load32(at)).toBe(100);
    ends(w, p);
  });

  it('shared memory may be mapped a second time with an old length of 0, private may not', () => {
    const { w, p, k } = world(1);
    const mapping = shmemCreate(k, 2);
    const hva = drive(
      mmap(k, p.mm, { lenBytes: 2 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
    );
    drive(mappingPut(k, mapping));
    p.store32(hva, 9);
    const at = call(p, hva, 0, 2 * PAGE_SIZE, MREMAP_MAYMOVE);
    expect(p.load32(at)).toBe(9);
    p.store32(at, 10);
    expect(p.load32(hva)).toBe(10);
    expect(call(p, AT, 0, PAGE_SIZE, MREMAP_MAYMOVE)).toBe(-EINVAL);
    ends(w, p);
  });

  it('a page that fork shares stays shared, and is copied by the next write', () => {
    const { w, p, k } = world(1);
    const child = drive(fork(k, p.mm)) as MmStruct;
    const q = createProcess(w, child);
    call(q, AT, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    expect(pageAt(q, TO)).toBe(pageAt(p, AT));
    q.store32(TO, 1);
    expect(p.load32(AT)).toBe(100);
    expect(q.load32(TO)).toBe(1);
    ends(w, p, q);
  });

  it('a pinned page moves with its pin: the device and the process go on seeing the same bytes', () => {
    const { w, p, k } = world(1);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(k, p.mm, AT, 1, 1, pages))).toBe(1);
    call(p, AT, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    p.store32(TO, 77);
    expect(k.memory.i32[k.memory.pageOffset(pages[0]!) / 4]).toBe(77);
    unpinUserPages(k, pages, 1);
    ends(w, p);
  });

  it('an entry that has moved counts as written (move_soft_dirty_pte)', () => {
    const { w, p, k } = world(1);
    const word = walkPte(k, p.mm, AT, false);
    setPteAt(k, word, ptepGet(k, word) & ~(1 << 5));
    expect(pteSoftDirty(entryAt(p, AT))).toBe(false);
    call(p, AT, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    expect(pteSoftDirty(entryAt(p, TO))).toBe(true);
    ends(w, p);
  });

  it('swap entries move, and bring the bytes back at the new place', () => {
    const { w, p, k } = world(4);
    swapon(k, 64);
    drive(madvise(k, p.mm, AT, 4 * PAGE_SIZE, MADV_PAGEOUT));
    expect(isSwapEntry(entryAt(p, AT))).toBe(true);
    call(p, AT, 4 * PAGE_SIZE, 4 * PAGE_SIZE, MOVE, TO);
    expect(isSwapEntry(entryAt(p, TO))).toBe(true);
    expect(holds(p, TO, 4)).toBe(true);
    ends(w, p);
  });

  it('migration entries move, and are turned back at the new place', () => {
    const { w, p, k } = world(1);
    const moving = migrateFolio(k, pageAt(p, AT));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    call(p, AT, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    expect(isMigrationEntry(entryAt(p, TO))).toBe(true);
    expect(drive(moving)).toBe(0);
    expect(p.load32(TO)).toBe(100);
    ends(w, p);
  });

  it('the notifiers hear UNMAP over the old place around the move, and again when it is unmapped', () => {
    const { w, p, k } = world(2);
    recordNotifier(w, 'rec');
    mmuNotifierRegister(k, p.mm, 'rec', 1);
    w.log.length = 0;
    call(p, AT, 2 * PAGE_SIZE, 2 * PAGE_SIZE, MOVE, TO);
    const told = w.log.filter((line) => line !== 'flush');
    expect(told).toEqual(['start UNMAP 2', 'end UNMAP 2', 'start UNMAP 2', 'end UNMAP 2']);
  });
});

describe('mremap() of huge memory', () => {
  /** 4 MiB of anonymous memory with huge entries, at a multiple of 2 MiB. */
  const huge = (): { w: World; p: HostProcess; k: Kernel } => {
    const w = createWorld(64 << 20);
    w.k.state.thp.madvise = 1 << 9;
    const p = createProcess(w);
    mapAnon(p, 1024, RW, AT);
    drive(madvise(w.k, p.mm, AT, 2 * HUGE, MADV_HUGEPAGE));
    fill(p, AT, 1024);
    expect(pmdLeafAt(w.k, p.mm, AT)).not.toBe(0);
    return { w, p, k: w.k };
  };

  it('an entry of 2 MiB moves whole between aligned places', () => {
    const { w, p, k } = huge();
    call(p, AT, 2 * HUGE, 2 * HUGE, MOVE, TO);
    expect(pmdLeafAt(k, p.mm, TO)).not.toBe(0);
    expect(k.state.stat.thp_split_pmd).toBe(0);
    expect(holds(p, TO, 1024)).toBe(true);
    ends(w, p);
  });

  it('and is split where one of them is not', () => {
    const { w, p, k } = huge();
    call(p, AT, 2 * HUGE, 2 * HUGE, MOVE, TO + PAGE_SIZE);
    expect(pmdLeafAt(k, p.mm, TO)).toBe(0);
    expect(k.state.stat.thp_split_pmd).toBe(2);
    expect(holds(p, TO + PAGE_SIZE, 1024)).toBe(true);
    ends(w, p);
  });

  it('or where only a part of it moves', () => {
    const { w, p, k } = huge();
    call(p, AT + HUGE / 2, HUGE, HUGE, MOVE, TO);
    expect(k.state.stat.thp_split_pmd).toBe(2);
    expect(p.load32(TO)).toBe(100 + 256);
    expect(p.load32(AT)).toBe(100);
    expect(p.load32(AT + HUGE / 2)).toBe(-EFAULT);
    ends(w, p);
  });

  it('hugetlb: whole pages move with what was promised; other lengths and growing are -EINVAL', () => {
    const w = createWorld(64 << 20);
    const p = createProcess(w);
    hugetlbSetPool(w.k, 9, 4);
    const lenBytes = 2 * HUGE;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    expect(drive(mmap(w.k, p.mm, { hva: AT, lenBytes, prot: RW, flags }))).toBe(AT);
    p.store32(AT, 5);
    expect(call(p, AT, lenBytes, lenBytes, MOVE, TO + PAGE_SIZE)).toBe(-EINVAL);
    expect(call(p, AT, HUGE, lenBytes, MREMAP_MAYMOVE)).toBe(-EINVAL);
    expect(call(p, AT, lenBytes, lenBytes, MOVE, TO)).toBe(TO);
    expect(p.load32(TO)).toBe(5);
    p.store32(TO + HUGE, 6);
    expect(p.load32(AT)).toBe(-EFAULT);
    clean(w.k);
    exit(p);
    hugetlbSetPool(w.k, 9, 0);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });
});

describe('errors of mremap()', () => {
  const { p, k } = world(4);
  mapAnon(p, 1, PROT_READ, AT + 4 * PAGE_SIZE);
  const four = 4 * PAGE_SIZE;
  const cases: [string, Args, number][] = [
    ['an unknown flag', [AT, four, four, 8], -EINVAL],
    ['an odd address', [AT + 1, four, four, 0], -EINVAL],
    ['a new length of 0', [AT, four, 0, 0], -EINVAL],
    ['MREMAP_FIXED without MREMAP_MAYMOVE', [AT, four, four, MREMAP_FIXED, TO], -EINVAL],
    ['an odd target', [AT, four, four, MOVE, TO + 5], -EINVAL],
    ['a target that overlaps the source', [AT, four, four, MOVE, AT + PAGE_SIZE], -EINVAL],
    ['MREMAP_DONTUNMAP with another length', [AT, four, PAGE_SIZE, 5, 0], -EINVAL],
    ['nothing mapped there', [TO, four, 2 * four, MREMAP_MAYMOVE], -EFAULT],
    ['growing over the end of the VMA', [AT, 2 * four, 3 * four, MREMAP_MAYMOVE], -EFAULT],
    ['a target below mmap_min_addr', [AT, four, four, MOVE, PAGE_SIZE], -ENOMEM],
  ];
  for (const [fact, args, expected] of cases)
    it(`${fact} is ${expected}`, () => expect(call(p, ...args)).toBe(expected));

  it('and nothing has changed', () => {
    expect(holds(p, AT, 4)).toBe(true);
    clean(k);
  });

  it('without memory for a table everything is as it was: -ENOMEM', () => {
    const { w, p: q } = world(600, 8 << 20);
    const hog = createProcess(w);
    const eaten = mapAnon(hog, 4096);
    for (let i = 0; hog.store32(eaten + i * PAGE_SIZE, 1) === 0; ) i++;
    expect(call(q, AT, 600 * PAGE_SIZE, 600 * PAGE_SIZE, MOVE, TO)).toBe(-ENOMEM);
    expect(holds(q, AT, 600)).toBe(true);
    // One table can be had, and what it takes moves back when the next cannot.
    drive(madvise(w.k, hog.mm, eaten, PAGE_SIZE, MADV_DONTNEED));
    expect(call(q, AT, 600 * PAGE_SIZE, 600 * PAGE_SIZE, MOVE, TO)).toBe(-ENOMEM);
    expect(holds(q, AT, 600)).toBe(true);
    expect(findVma(q.mm, TO)).toBe(null);
    ends(w, q, hog);
  });
});

describe('mremap() of locked memory', () => {
  it('the accounting follows the mapping, and what is new is faulted in', () => {
    const { w, p, k } = world(4);
    expect(drive(mlock(k, p.mm, AT, 4 * PAGE_SIZE))).toBe(0);
    expect(p.mm.lockedVm).toBe(4);
    const at = call(p, AT, 4 * PAGE_SIZE, 6 * PAGE_SIZE, MREMAP_MAYMOVE);
    expect(p.mm.lockedVm).toBe(6);
    expect(pageAt(p, at + 5 * PAGE_SIZE)).not.toBe(-1);
    call(p, at, 6 * PAGE_SIZE, 2 * PAGE_SIZE, 0);
    expect(p.mm.lockedVm).toBe(2);
    call(p, at, 2 * PAGE_SIZE, 2 * PAGE_SIZE, MREMAP_MAYMOVE | MREMAP_DONTUNMAP, 0);
    expect(p.mm.lockedVm).toBe(2);
    expect((findVma(p.mm, at)?.flags ?? 0) & VM_LOCKED).toBe(0);
    ends(w, p);
  });

  it('growing over RLIMIT_MEMLOCK is -EAGAIN', () => {
    const { p, k } = world(1);
    p.mm.rlimitMemlock = 2 * PAGE_SIZE;
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_LOCKED;
    const hva = drive(mmap(k, p.mm, { hva: TO, lenBytes: 2 * PAGE_SIZE, prot: RW, flags }));
    expect(call(p, hva, 2 * PAGE_SIZE, 3 * PAGE_SIZE, MREMAP_MAYMOVE)).toBe(-EAGAIN);
  });
});

describe('mremap() against others', () => {
  it('write protection that was under way finds the entry at its new place', () => {
    const w = createWorld();
    const p = createProcess(w);
    const { k } = w;
    const mapping = shmemCreate(k, 1);
    const lenBytes = PAGE_SIZE;
    drive(mmap(k, p.mm, { hva: AT, lenBytes, prot: RW, flags: MAP_SHARED | MAP_FIXED, mapping }));
    drive(mappingPut(k, mapping));
    recordNotifier(w, 'rec');
    mmuNotifierRegister(k, p.mm, 'rec', 1);
    p.store32(AT, 1);
    const protecting = folioWriteProtect(k, pageAt(p, AT));
    stepTo(k, protecting, YP_NOTIFIER_START);
    call(p, AT, PAGE_SIZE, PAGE_SIZE, MOVE, TO);
    drive(protecting);
    expect(pteWrite(entryAt(p, TO))).toBe(false);
  });

  it('between two tables of a move one part is here and the other there; nobody misses a page', () => {
    const { w, p, k } = world(600);
    const path = mremap(k, p.mm, AT, 600 * PAGE_SIZE, 600 * PAGE_SIZE, MOVE, TO);
    stepTo(k, path, YP_MOVE_ENTRY);
    const places = [0, 599].map((i) => pageAt(p, TO + i * PAGE_SIZE) >= 0);
    expect(places).toEqual([true, false]);
    expect(pageAt(p, AT + 599 * PAGE_SIZE)).not.toBe(-1);
    expect(drive(path)).toBe(TO);
    ends(w, p);
  });

  /** Moves 20 times to and fro. */
  function* mover(p: HostProcess, nrPages: number, done: { at: number }): Path<void> {
    const lenBytes = nrPages * PAGE_SIZE;
    for (let i = 0; i < 20; i++) {
      const to = done.at === AT ? TO : AT;
      const at = yield* mremap(p.k, p.mm, done.at, lenBytes, lenBytes, MOVE, to);
      if (at !== to) throw new Error(`mremap: ${at}`);
      done.at = to;
    }
  }

  for (let seed = 1; seed <= 6; seed++)
    it(`migration and mremap interleaved, seed ${seed}: every byte is where the mapping is`, () => {
      const nrPages = 8;
      const { w, p, k } = world(nrPages);
      const place = { at: AT };
      const random = rng(seed);
      let moved = 0;
      function* migrator(): Path<void> {
        for (let i = 0; i < 40; i++) {
          const at = random.below(2) === 0 ? AT : TO;
          const page = pageAt(p, at + random.below(nrPages) * PAGE_SIZE);
          if (page >= 0 && (yield* migrateFolio(k, page)) === 0) moved++;
          yield 0;
        }
      }
      interleave(k, [mover(p, nrPages, place), migrator(), migrator()], random);
      expect(moved).toBeGreaterThan(0);
      expect(holds(p, place.at, nrPages)).toBe(true);
      ends(w, p);
    });

  for (let seed = 1; seed <= 6; seed++)
    it(`GUP-fast and mremap interleaved, seed ${seed}: a pin is of the page that was mapped there`, () => {
      const nrPages = 4;
      const { w, p, k } = world(nrPages);
      const place = { at: AT };
      const random = rng(seed + 100);
      let pinned = 0;
      function* pinner(): Path<void> {
        const pages = new Int32Array(nrPages);
        for (let i = 0; i < 40; i++) {
          const at = random.below(2) === 0 ? AT : TO;
          const n = yield* pinUserPagesFast(k, p.mm, at, nrPages, 1, pages);
          for (let at = 0; at < n; at++) {
            const word = k.memory.i32[k.memory.pageOffset(pages[at]!) / 4];
            if (word !== 100 + at) throw new Error(`page ${at} has ${word}`);
          }
          if (n > 0) {
            pinned += n;
            yield 0;
            unpinUserPages(k, pages, n);
          }
          yield 0;
        }
      }
      interleave(k, [mover(p, nrPages, place), pinner(), pinner()], random);
      expect(pinned).toBeGreaterThan(0);
      expect(holds(p, place.at, nrPages)).toBe(true);
      ends(w, p);
    });

  it('fork, unmap and protection of what has moved work as before', () => {
    const { w, p, k } = world(6);
    call(p, AT, 6 * PAGE_SIZE, 6 * PAGE_SIZE, MOVE, TO);
    const child = drive(fork(k, p.mm)) as MmStruct;
    drive(mprotect(k, p.mm, TO, PAGE_SIZE, PROT_READ));
    drive(munmap(k, p.mm, TO + PAGE_SIZE, PAGE_SIZE));
    drive(madvise(k, p.mm, TO + 2 * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
    const got = [0, 1, 2, 3].map((i) => p.load32(TO + i * PAGE_SIZE));
    expect(got).toEqual([100, -EFAULT, 0, 103]);
    expect(holds(createProcess(w, child), TO, 6)).toBe(true);
    drive(mmExit(k, child));
    ends(w, p);
  });
});
