/** userfaultfd's write protection: who waits, what keeps the bit, what GUP and fork do. Compare fs/userfaultfd.c. */
import { PAGE_SIZE } from '#emu';
import {
  changeProtNuma,
  checkKernel,
  drive,
  EBUSY,
  EFAULT,
  EINVAL,
  ENOENT,
  ENOMEM,
  EPERM,
  findVma,
  fork,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  type MmStruct,
  migrateFolio,
  mmap,
  mmExit,
  mprotect,
  mremap,
  munmap,
  nrFreePages,
  type Path,
  PROT_READ,
  pageAnonExclusive,
  shmemCreate,
  mappingPut,
  uffdOpen,
  uffdRead,
  uffdRegister,
  uffdUnregister,
  uffdWake,
  uffdWriteprotect,
  UFFD_FEATURE_EVENT_FORK,
  UFFD_FEATURE_SIGBUS,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { beforeEach, describe, expect, it } from 'vitest';
import {
  FOLL_FORCE,
  FOLL_GET,
  FOLL_NOFAULT,
  FOLL_NOWAIT,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import { getUserPagesLocked } from '../../mm/gup/walk.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { hugetlbSetPool } from '../../mm/hugetlb/pool.ts';
import { pteUffdWp, pteWrite } from '../../mm/pgtable/pte.ts';
import { isPteMarker, isSwapEntry, PTE_SWP_UFFD_WP } from '../../mm/pgtable/swapops.ts';
import { pmdLeafAt, ptepGet } from '../../mm/pgtable/walk.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { VM_UFFD_WP } from '../../mm/vma/flags.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  interleave,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
} from './support.ts';
import { rng } from '../support/rng.ts';

const AT = 0x1000_0000;
const TO = 0x3000_0000;
const HUGE = 2 << 20;
const N = 4;
const LEN = N * PAGE_SIZE;

let w: World;
let k: Kernel;
let p: HostProcess;

beforeEach(() => {
  w = createWorld(16 << 20);
  k = w.k;
  p = createProcess(w);
});

const mapFile = (nrPages = N): void => {
  const mapping = shmemCreate(k, nrPages);
  const lenBytes = nrPages * PAGE_SIZE;
  const flags = MAP_SHARED | MAP_FIXED;
  drive(mmap(k, p.mm, { hva: AT, lenBytes, prot: RW, flags, mapping }));
  drive(mappingPut(k, mapping));
};

const fill = (nrPages = N): void => {
  for (let i = 0; i < nrPages; i++) p.store32(AT + i * PAGE_SIZE, 100 + i);
};

const protect = (on: boolean, hva = AT, lenBytes = LEN): number =>
  drive(uffdWriteprotect(k, p.mm, hva, lenBytes, on));

/** N written pages of anonymous memory, registered and protected. */
const protectedAnon = (): void => {
  mapAnon(p, N, RW, AT);
  fill();
  expect(drive(uffdRegister(k, p.mm, AT, LEN))).toBe(0);
  expect(protect(true)).toBe(0);
};

const wp = (hva = AT, q = p): boolean => pteUffdWp(entryAt(q, hva));

/** True where the path cannot go on: it waits. */
const waits = <T>(path: Path<T>): boolean => {
  for (;;) {
    const step = path.next();
    if (step.done === true) return false;
    if (step.value === YP_WAIT) return true;
  }
};

const quiescent = (): string[] => checkKernel(k, { quiescent: true });

const ends = (...others: HostProcess[]): void => {
  expect(quiescent()).toEqual([]);
  for (const other of [...others, p]) exit(other);
  expect(nrFreePages(k)).toBe(w.freeAtStart);
};

describe('a write to a protected page', () => {
  it('waits without mmap_lock, and goes on when the handler takes the protection away', () => {
    protectedAnon();
    const store = p.storePath(AT + PAGE_SIZE, 4, 9);
    expect(waits(store)).toBe(true);
    expect(p.mm.mmapLock).toEqual({ readers: 0, writer: false });
    expect([uffdRead(p.mm), uffdRead(p.mm)]).toEqual([AT + PAGE_SIZE, -1]);
    protect(false, AT + PAGE_SIZE, PAGE_SIZE);
    expect(drive(store)).toBe(0);
    expect([p.load32(AT + PAGE_SIZE), wp(), wp(AT + PAGE_SIZE)]).toEqual([9, true, false]);
    ends();
  });

  it('reading does not wait', () => {
    protectedAnon();
    expect(p.load32(AT)).toBe(100);
    ends();
  });

  it('woken without being resolved it looks again, and waits again', () => {
    protectedAnon();
    const store = p.storePath(AT, 4, 9);
    expect(waits(store)).toBe(true);
    uffdWake(p.mm, AT, PAGE_SIZE);
    expect(waits(store)).toBe(true);
    expect(uffdRead(p.mm)).toBe(AT);
    protect(false);
    expect(drive(store)).toBe(0);
    ends();
  });

  it('resolved, a page that is the process’s own is writable at once', () => {
    protectedAnon();
    protect(false);
    const faults = k.state.stat.pgfault;
    p.store32(AT, 1);
    expect(k.state.stat.pgfault).toBe(faults);
    ends();
  });

  it('with UFFD_FEATURE_SIGBUS it is SIGBUS', () => {
    uffdOpen(p.mm, UFFD_FEATURE_SIGBUS);
    protectedAnon();
    expect(p.store32(AT, 1)).toBe(-EFAULT);
    ends();
  });

  it('mprotect() and NUMA hints do not make it writable', () => {
    protectedAnon();
    drive(mprotect(k, p.mm, AT, LEN, PROT_READ));
    drive(mprotect(k, p.mm, AT, LEN, RW));
    expect([wp(), pteWrite(entryAt(p, AT))]).toEqual([true, false]);
    drive(changeProtNuma(k, p.mm, AT, AT + LEN));
    expect(p.load32(AT)).toBe(100);
    expect([wp(), pteWrite(entryAt(p, AT))]).toEqual([true, false]);
    ends();
  });

  it('unregistering ends it', () => {
    protectedAnon();
    const store = p.storePath(AT, 4, 9);
    expect(waits(store)).toBe(true);
    expect(drive(uffdUnregister(k, p.mm, AT, LEN))).toBe(0);
    expect(drive(store)).toBe(0);
    expect([wp(), (findVma(p.mm, AT)?.flags ?? 0) & VM_UFFD_WP]).toEqual([false, 0]);
    ends();
  });

  it('exit ends it too: SIGSEGV', () => {
    protectedAnon();
    const store = p.storePath(AT, 4, 9);
    expect(waits(store)).toBe(true);
    exit(p);
    expect(drive(store)).toBe(-EFAULT);
  });

  it('untouched anonymous memory cannot be protected: a first write goes through', () => {
    mapAnon(p, N, RW, AT);
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    expect(p.store32(AT, 1)).toBe(0);
    ends();
  });

  it('the zero page can', () => {
    mapAnon(p, N, RW, AT);
    p.load32(AT);
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    expect(waits(p.storePath(AT, 4, 1))).toBe(true);
  });
});

describe('the bit stays through', () => {
  const still = (): void => {
    expect(wp()).toBe(true);
    expect(pteWrite(entryAt(p, AT))).toBe(false);
    expect(p.load32(AT)).toBe(100);
    expect(waits(p.storePath(AT, 4, 9))).toBe(true);
  };

  it('migration, also when it is set while the page moves', () => {
    protectedAnon();
    drive(migrateFolio(k, pageAt(p, AT)));
    still();
    protect(false);
    const moving = migrateFolio(k, pageAt(p, AT));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    protect(true);
    drive(moving);
    still();
  });

  it('swap, also when it is set in the swap entry', () => {
    swapon(k, 16);
    protectedAnon();
    drive(madvise(k, p.mm, AT, LEN, MADV_PAGEOUT));
    expect(isSwapEntry(entryAt(p, AT)) && (entryAt(p, AT) & PTE_SWP_UFFD_WP) !== 0).toBe(true);
    p.load32(AT);
    still();
    protect(false);
    drive(madvise(k, p.mm, AT, LEN, MADV_PAGEOUT));
    protect(true);
    p.load32(AT);
    still();
  });

  it('UNSHARE: a read-only pin copies a shared page, and does not ask the handler', () => {
    protectedAnon();
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(k, p.mm, AT, 1, 0, pages))).toBe(1);
    expect(pages[0]).not.toBe(pageAt(child, AT));
    expect(pageAnonExclusive(k, pages[0]!)).toBe(true);
    unpinUserPages(k, pages, 1);
    still();
    exit(child);
  });

  it('a huge entry, and the split of it', () => {
    w = createWorld(64 << 20);
    k = w.k;
    k.state.thp.madvise = 1 << 9;
    p = createProcess(w);
    mapAnon(p, 512, RW, AT);
    drive(madvise(k, p.mm, AT, HUGE, MADV_HUGEPAGE));
    fill(512);
    drive(uffdRegister(k, p.mm, AT, HUGE));
    protect(true, AT, HUGE);
    const pmd = pmdLeafAt(k, p.mm, AT);
    expect(pteUffdWp(ptepGet(k, pmd))).toBe(true);
    const store = p.storePath(AT + 5 * PAGE_SIZE, 4, 9);
    expect(waits(store)).toBe(true);
    protect(false, AT + 5 * PAGE_SIZE, PAGE_SIZE);
    expect(drive(store)).toBe(0);
    expect(pmdLeafAt(k, p.mm, AT)).toBe(0);
    expect([wp(AT + 4 * PAGE_SIZE), wp(AT + 5 * PAGE_SIZE)]).toEqual([true, false]);
    ends();
  });
});

describe('memory of a file', () => {
  it('what is missing gets a marker, and is protected when it is there', () => {
    mapFile();
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    expect(isPteMarker(entryAt(p, AT))).toBe(true);
    expect(p.load32(AT)).toBe(0);
    expect(wp()).toBe(true);
    const store = p.storePath(AT + PAGE_SIZE, 4, 9);
    expect(waits(store)).toBe(true);
    expect(wp(AT + PAGE_SIZE)).toBe(true);
    protect(false);
    expect(drive(store)).toBe(0);
    expect(isPteMarker(entryAt(p, AT + 2 * PAGE_SIZE))).toBe(false);
    ends();
  });

  it('MADV_DONTNEED leaves a marker behind, munmap nothing', () => {
    mapFile();
    fill();
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    drive(madvise(k, p.mm, AT, LEN, MADV_DONTNEED));
    expect(isPteMarker(entryAt(p, AT))).toBe(true);
    drive(madvise(k, p.mm, AT, LEN, MADV_DONTNEED));
    expect(isPteMarker(entryAt(p, AT))).toBe(true);
    expect([p.load32(AT), wp()]).toEqual([100, true]);
    drive(munmap(k, p.mm, AT, LEN));
    expect(entryAt(p, AT)).toBe(0);
    ends();
  });

  it('MADV_DONTNEED of anonymous memory forgets: a marker would mean nothing', () => {
    protectedAnon();
    drive(madvise(k, p.mm, AT, LEN, MADV_DONTNEED));
    expect(entryAt(p, AT)).toBe(0);
    ends();
  });

  it('a marker means nothing once nobody is registered', () => {
    mapFile();
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    const vma = findVma(p.mm, AT);
    if (vma !== null) vma.flags &= ~VM_UFFD_WP;
    expect(p.store32(AT, 5)).toBe(0);
    ends();
  });

  it('hugetlb: huge pages wait, and missing ones get markers, also private ones', () => {
    hugetlbSetPool(k, 9, 2);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    drive(mmap(k, p.mm, { hva: AT, lenBytes: 2 * HUGE, prot: RW, flags }));
    p.store32(AT, 7);
    expect(drive(uffdRegister(k, p.mm, AT, 2 * HUGE))).toBe(0);
    expect(protect(true, AT, PAGE_SIZE)).toBe(-EINVAL);
    expect(protect(true, AT, 2 * HUGE)).toBe(0);
    const stores = [AT, AT + HUGE].map((hva) => p.storePath(hva, 4, 8));
    expect(stores.map(waits)).toEqual([true, true]);
    protect(false, AT, 2 * HUGE);
    expect(stores.map((store) => drive(store))).toEqual([0, 0]);
    expect([p.load32(AT), p.load32(AT + HUGE)]).toEqual([8, 8]);
    expect(quiescent()).toEqual([]);
  });
});

describe('fork and mremap', () => {
  it('the child is not registered, and its entries are not protected', () => {
    protectedAnon();
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    expect([wp(AT, p), wp(AT, child)]).toEqual([true, false]);
    expect((findVma(child.mm, AT)?.flags ?? 0) & VM_UFFD_WP).toBe(0);
    expect(child.store32(AT, 1)).toBe(0);
    expect(p.load32(AT)).toBe(100);
    ends(child);
  });

  it('with UFFD_FEATURE_EVENT_FORK it is, and has a context of its own', () => {
    uffdOpen(p.mm, UFFD_FEATURE_EVENT_FORK);
    protectedAnon();
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    expect(wp(AT, child)).toBe(true);
    const store = child.storePath(AT, 4, 1);
    expect(waits(store)).toBe(true);
    expect([uffdRead(p.mm), uffdRead(child.mm)]).toEqual([-1, AT]);
    drive(uffdWriteprotect(k, child.mm, AT, LEN, false));
    expect(drive(store)).toBe(0);
    expect(p.load32(AT)).toBe(100);
    ends(child);
  });

  it('the copy of a pinned page is protected where the child is registered', () => {
    uffdOpen(p.mm, UFFD_FEATURE_EVENT_FORK);
    mapAnon(p, N, RW, AT);
    fill();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, AT, 1, FOLL_WRITE, pages));
    drive(uffdRegister(k, p.mm, AT, LEN));
    protect(true);
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    expect(pageAt(child, AT)).not.toBe(pageAt(p, AT));
    expect([wp(AT, child), pteWrite(entryAt(child, AT))]).toEqual([true, false]);
    unpinUserPages(k, pages, 1);
    ends(child);
  });

  it('swap entries and markers are inherited without the bit', () => {
    swapon(k, 16);
    protectedAnon();
    drive(madvise(k, p.mm, AT, LEN, MADV_PAGEOUT));
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    expect(entryAt(child, AT) & PTE_SWP_UFFD_WP).toBe(0);
    expect(child.store32(AT, 1)).toBe(0);
    ends(child);
  });

  it('mremap() ends the registration, and the entries lose the bit', () => {
    protectedAnon();
    drive(mremap(k, p.mm, AT, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, TO));
    expect([wp(TO), (findVma(p.mm, TO)?.flags ?? 0) & VM_UFFD_WP]).toEqual([false, 0]);
    expect(p.store32(TO, 1)).toBe(0);
    ends();
  });
});

describe('GUP', () => {
  const pages = new Int32Array(1);
  /** With mmap_lock held, and released afterwards unless the walk has done so. */
  function* locked(flags: number): Path<number> {
    p.mm.mmapLock.readers++;
    const lock = { locked: 1 };
    const n = yield* getUserPagesLocked(k, p.mm, AT, 1, FOLL_GET | flags, pages, lock);
    if (lock.locked === 1) p.mm.mmapLock.readers--;
    return n;
  }

  it('for reading takes the page as it is', () => {
    protectedAnon();
    expect(drive(locked(0))).toBe(1);
    folioPut(k, pages[0]!);
    ends();
  });

  it('for writing waits for the handler, where it may drop the lock', () => {
    protectedAnon();
    const path = locked(FOLL_WRITE | FOLL_UNLOCKABLE);
    expect(waits(path)).toBe(true);
    protect(false);
    expect(drive(path)).toBe(1);
    folioPut(k, pages[0]!);
    ends();
  });

  it('NOFAULT is -EFAULT, NOWAIT nothing, and so is a fault that may not drop the lock -EFAULT', () => {
    protectedAnon();
    expect(drive(locked(FOLL_WRITE | FOLL_NOFAULT))).toBe(-EFAULT);
    expect(drive(locked(FOLL_WRITE | FOLL_NOWAIT))).toBe(0);
    expect(drive(locked(FOLL_WRITE))).toBe(-EFAULT);
    ends();
  });

  it('GUP-fast for writing leaves it to the slow path', () => {
    protectedAnon();
    const path = pinUserPagesFast(k, p.mm, AT, 1, FOLL_WRITE, pages);
    expect(waits(path)).toBe(true);
    protect(false);
    expect(drive(path)).toBe(1);
    unpinUserPages(k, pages, 1);
    ends();
  });

  it('FORCE does not write through a protected entry', () => {
    protectedAnon();
    drive(mprotect(k, p.mm, AT, LEN, PROT_READ));
    const path = locked(FOLL_WRITE | FOLL_FORCE | FOLL_UNLOCKABLE);
    expect(waits(path)).toBe(true);
    protect(false);
    expect(drive(path)).toBe(1);
    folioPut(k, pages[0]!);
    ends();
  });
});

describe('errors', () => {
  it('of registering', () => {
    const register = (hva: number, lenBytes: number): number =>
      drive(uffdRegister(k, p.mm, hva, lenBytes));
    mapAnon(p, 1, RW, AT);
    expect(register(AT + 1, PAGE_SIZE)).toBe(-EINVAL);
    expect(register(AT, 0)).toBe(-EINVAL);
    expect(register(AT - LEN, PAGE_SIZE)).toBe(-EINVAL);
    expect(register(TO, PAGE_SIZE)).toBe(-ENOMEM);
    const vma = findVma(p.mm, AT);
    if (vma !== null) vma.flags &= ~0x20;
    expect(register(AT, PAGE_SIZE)).toBe(-EPERM);
  });

  it('of protecting: what is not registered is -ENOENT', () => {
    mapAnon(p, 1, RW, AT);
    expect(protect(true)).toBe(-ENOENT);
    expect(protect(true, TO)).toBe(-ENOENT);
    expect(protect(true, AT, 5)).toBe(-EINVAL);
  });

  it('a second context is -EBUSY', () => {
    expect([uffdOpen(p.mm), uffdOpen(p.mm)]).toEqual([0, -EBUSY]);
  });
});

describe('snapshots by write protection', () => {
  for (let seed = 1; seed <= 4; seed++)
    it(`a handler that copies each page before it is written gets the state of one moment, seed ${seed}`, () => {
      const nr = 16;
      mapAnon(p, nr, RW, AT);
      fill(nr);
      drive(uffdRegister(k, p.mm, AT, nr * PAGE_SIZE));
      protect(true, AT, nr * PAGE_SIZE);
      const random = rng(seed);
      const copy = new Map<number, number>();
      let writers = 3;
      function* writer(): Path<void> {
        for (let i = 0; i < 40; i++) {
          yield* p.storePath(AT + random.below(nr) * PAGE_SIZE, 4, random.below(50));
          if (random.chance(0.2)) yield* migrateFolio(k, Math.max(0, pageAt(p, AT)));
        }
        writers--;
      }
      function* save(hva: number): Path<void> {
        if (!copy.has(hva)) copy.set(hva, yield* p.loadPath(hva, 4));
      }
      function* handler(): Path<void> {
        let next = 0;
        while (writers > 0 || next < nr) {
          const fault = uffdRead(p.mm);
          const hva = fault >= 0 ? fault : AT + next++ * PAGE_SIZE;
          if (fault < 0 && next > nr) yield YP_WAIT;
          else {
            yield* save(hva);
            yield* uffdWriteprotect(k, p.mm, hva, PAGE_SIZE, false);
            yield 1;
          }
        }
      }
      interleave(k, [writer(), writer(), writer(), handler()], random);
      expect([...copy].every(([hva, value]) => value === 100 + (hva - AT) / PAGE_SIZE)).toBe(true);
      expect(copy.size).toBe(nr);
      ends();
    });
});

describe('without memory', () => {
  it('for the table of a marker: -ENOMEM, and nothing is left', () => {
    mapFile(2);
    drive(uffdRegister(k, p.mm, AT, 2 * PAGE_SIZE));
    const hog = createProcess(w);
    mapAnon(hog, 5000, RW, AT);
    for (let i = 0; hog.store32(AT + i * PAGE_SIZE, 1) === 0; ) i++;
    expect(protect(true, AT, 2 * PAGE_SIZE)).toBe(-ENOMEM);
    drive(mmExit(k, hog.mm));
    ends();
  });
});
