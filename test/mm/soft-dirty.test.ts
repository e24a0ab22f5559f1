/** Soft-dirty: which pages have been written since clear_refs. Compare fs/proc/task_mmu.c, selftests/mm/soft-dirty.c. */
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVm,
  checkKernel,
  clearRefsSoftDirty,
  drive,
  findVma,
  fork,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_PAGEOUT,
  MAP_FIXED,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  type MmStruct,
  migrateFolio,
  mmap,
  mmuNotifierRegister,
  mprotect,
  mremap,
  nrFreePages,
  PROT_NONE,
  PROT_READ,
  shmemCreate,
  mappingPut,
  YP_MIGRATE_UNMAPPED,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { beforeEach, describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { pteDirty, pteSoftDirty, pteWrite } from '../../mm/pgtable/pte.ts';
import { isSwapEntry, PTE_SWP_SOFT_DIRTY } from '../../mm/pgtable/swapops.ts';
import { pmdLeafAt, ptepGet } from '../../mm/pgtable/walk.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { VM_SOFTDIRTY } from '../../mm/vma/flags.ts';
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

const fill = (nrPages = N): void => {
  for (let i = 0; i < nrPages; i++) p.store32(AT + i * PAGE_SIZE, 100 + i);
};

/** N written pages at AT, and then somebody has asked. */
const asked = (): void => {
  mapAnon(p, N, RW, AT);
  fill();
  drive(clearRefsSoftDirty(k, p.mm));
};

/** As pagemap says it. */
const isSoftDirty = (hva: number, q = p): boolean => {
  const vma = findVma(q.mm, hva);
  if (vma !== null && (vma.flags & VM_SOFTDIRTY) !== 0) return true;
  return pteSoftDirty(entryAt(q, hva));
};

const softDirty = (nrPages = N): boolean[] =>
  Array.from({ length: nrPages }, (_, i) => isSoftDirty(AT + i * PAGE_SIZE));

const ends = (...others: HostProcess[]): void => {
  expect(checkKernel(k, { quiescent: true })).toEqual([]);
  for (const other of [...others, p]) exit(other);
  expect(nrFreePages(k)).toBe(w.freeAtStart);
};

describe('after clear_refs', () => {
  it('nothing counts as written, until it is; contents and D stay', () => {
    asked();
    expect(softDirty()).toEqual([false, false, false, false]);
    expect(pteDirty(entryAt(p, AT))).toBe(true);
    p.store32(AT + PAGE_SIZE, 1);
    p.load32(AT + 2 * PAGE_SIZE);
    expect(softDirty()).toEqual([false, true, false, false]);
    ends();
  });

  it('a page of the process’s own is not copied by the fault that sets the bit', () => {
    asked();
    const page = pageAt(p, AT);
    const copied = k.state.stat.cow_copied;
    p.store32(AT, 1);
    expect([pageAt(p, AT), k.state.stat.cow_copied]).toEqual([page, copied]);
    ends();
  });

  it('first touches for writing count, those for reading do not', () => {
    mapAnon(p, N, RW, AT);
    drive(clearRefsSoftDirty(k, p.mm));
    p.load32(AT);
    p.store32(AT + PAGE_SIZE, 1);
    expect(softDirty()).toEqual([false, true, false, false]);
    ends();
  });

  it('a new mapping counts as written, and makes a neighbour so that it merges with', () => {
    asked();
    mapAnon(p, 1, RW, TO);
    expect([isSoftDirty(TO), isSoftDirty(AT)]).toEqual([true, false]);
    mapAnon(p, 1, RW, AT + LEN);
    expect(p.mm.vmas.length).toBe(2);
    expect(isSoftDirty(AT)).toBe(true);
    ends();
  });

  it('mprotect() and back does not make entries writable behind its back', () => {
    asked();
    drive(mprotect(k, p.mm, AT, LEN, PROT_READ));
    drive(mprotect(k, p.mm, AT, LEN, RW));
    expect([softDirty()[0], pteWrite(entryAt(p, AT))]).toEqual([false, false]);
    p.store32(AT, 1);
    drive(mprotect(k, p.mm, AT, LEN, PROT_READ));
    drive(mprotect(k, p.mm, AT, LEN, RW));
    expect([softDirty()[0], pteWrite(entryAt(p, AT))]).toEqual([true, true]);
    ends();
  });

  it('of PROT_NONE nobody knows: it counts as written', () => {
    asked();
    drive(mprotect(k, p.mm, AT, PAGE_SIZE, PROT_NONE));
    drive(mprotect(k, p.mm, AT, PAGE_SIZE, RW));
    expect(softDirty()[0]).toBe(true);
    ends();
  });

  it('what mremap() moves counts as written', () => {
    asked();
    drive(mremap(k, p.mm, AT, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, TO));
    expect([isSoftDirty(TO), isSoftDirty(TO + 3 * PAGE_SIZE)]).toEqual([true, true]);
    ends();
  });

  it('pages that may be pinned are passed over: a device may be writing', () => {
    mapAnon(p, N, RW, AT);
    fill();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, AT, 1, FOLL_WRITE, pages));
    drive(clearRefsSoftDirty(k, p.mm));
    expect(softDirty()).toEqual([true, false, false, false]);
    expect(pteWrite(entryAt(p, AT))).toBe(true);
    unpinUserPages(k, pages, 1);
    drive(clearRefsSoftDirty(k, p.mm));
    expect(softDirty()[0]).toBe(false);
    ends();
  });

  it('a pin for writing faults, and so counts as a write', () => {
    asked();
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(k, p.mm, AT, 1, FOLL_WRITE, pages))).toBe(1);
    expect(softDirty()[0]).toBe(true);
    unpinUserPages(k, pages, 1);
    ends();
  });

  it('a debugger that writes to a read-only mapping sets it too (FOLL_FORCE)', () => {
    asked();
    drive(mprotect(k, p.mm, AT, LEN, PROT_READ));
    const bytes = new Uint8Array([5]);
    expect(drive(accessRemoteVm(k, p.mm, AT, bytes, true))).toBe(1);
    expect([softDirty()[0], p.load8(AT)]).toEqual([true, 5]);
    ends();
  });

  it('shared memory is tracked as well: entries come read-only, and the first write sets the bit', () => {
    const mapping = shmemCreate(k, N);
    const flags = MAP_SHARED | MAP_FIXED;
    drive(mmap(k, p.mm, { hva: AT, lenBytes: LEN, prot: RW, flags, mapping }));
    drive(mappingPut(k, mapping));
    p.store32(AT, 1);
    drive(clearRefsSoftDirty(k, p.mm));
    p.load32(AT + PAGE_SIZE);
    expect(softDirty()).toEqual([false, false, false, false]);
    p.store32(AT, 2);
    p.store32(AT + PAGE_SIZE, 2);
    expect(softDirty()).toEqual([true, true, false, false]);
    drive(madvise(k, p.mm, AT, LEN, MADV_DONTNEED));
    expect(p.load32(AT)).toBe(2);
    ends();
  });

  it('the child of a fork knows what its parent knew', () => {
    asked();
    p.store32(AT, 1);
    const child = createProcess(w, drive(fork(k, p.mm)) as MmStruct);
    expect([isSoftDirty(AT, child), isSoftDirty(AT + PAGE_SIZE, child)]).toEqual([true, false]);
    child.store32(AT + PAGE_SIZE, 1);
    expect([isSoftDirty(AT + PAGE_SIZE, child), softDirty()[1]]).toEqual([true, false]);
    ends(child);
  });

  it('the notifiers hear SOFT_DIRTY over everything, and the TLBs are flushed before the end', () => {
    mapAnon(p, N, RW, AT);
    fill();
    recordNotifier(w, 'rec');
    mmuNotifierRegister(k, p.mm, 'rec', 1);
    w.log.length = 0;
    drive(clearRefsSoftDirty(k, p.mm));
    expect(w.log.map((line) => line.replace(/ Infinity/, ''))).toEqual([
      'start SOFT_DIRTY',
      'flush',
      'end SOFT_DIRTY',
    ]);
  });
});

describe('the bit goes with the page through', () => {
  it('swap: an entry keeps it, loses it to clear_refs, and brings it back', () => {
    swapon(k, 16);
    asked();
    p.store32(AT, 1);
    drive(madvise(k, p.mm, AT, LEN, MADV_PAGEOUT));
    const swapped = [0, 1].map((i) => entryAt(p, AT + i * PAGE_SIZE));
    expect(swapped.every(isSwapEntry)).toBe(true);
    expect(swapped.map((entry) => (entry & PTE_SWP_SOFT_DIRTY) !== 0)).toEqual([true, false]);
    p.load32(AT);
    p.load32(AT + PAGE_SIZE);
    expect(softDirty(2)).toEqual([true, false]);
    drive(madvise(k, p.mm, AT, LEN, MADV_PAGEOUT));
    drive(clearRefsSoftDirty(k, p.mm));
    p.load32(AT);
    expect(softDirty(1)).toEqual([false]);
    ends();
  });

  it('migration, also when clear_refs comes between', () => {
    asked();
    p.store32(AT, 1);
    for (const i of [0, 1]) drive(migrateFolio(k, pageAt(p, AT + i * PAGE_SIZE)));
    expect(softDirty(2)).toEqual([true, false]);
    const moving = migrateFolio(k, pageAt(p, AT));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    drive(clearRefsSoftDirty(k, p.mm));
    drive(moving);
    expect(softDirty(2)).toEqual([false, false]);
    p.store32(AT, 2);
    expect(softDirty(1)).toEqual([true]);
    ends();
  });

  it('a huge entry, and the split of it', () => {
    w = createWorld(64 << 20);
    k = w.k;
    k.state.thp.madvise = 1 << 9;
    p = createProcess(w);
    mapAnon(p, 512, RW, AT);
    drive(madvise(k, p.mm, AT, 512 * PAGE_SIZE, MADV_HUGEPAGE));
    fill(512);
    drive(clearRefsSoftDirty(k, p.mm));
    const pmd = pmdLeafAt(k, p.mm, AT);
    expect([pteSoftDirty(ptepGet(k, pmd)), pteWrite(ptepGet(k, pmd))]).toEqual([false, false]);
    p.store32(AT + 7 * PAGE_SIZE, 1);
    expect(pteSoftDirty(ptepGet(k, pmd))).toBe(true);
    drive(madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED));
    expect(softDirty(3)).toEqual([false, true, true]);
    ends();
  });
});

describe('incremental copies of a process (CRIU)', () => {
  for (let seed = 1; seed <= 6; seed++)
    it(`pages that are not reported have not changed, whatever runs beside it, seed ${seed}`, () => {
      const nr = 8;
      mapAnon(p, nr, RW, AT);
      fill(nr);
      const random = rng(seed);
      const hva = (): number => AT + random.below(nr) * PAGE_SIZE;
      for (let round = 0; round < 6; round++) {
        drive(clearRefsSoftDirty(k, p.mm));
        const before = Array.from({ length: nr }, (_, i) => p.load32(AT + i * PAGE_SIZE));
        function* writer() {
          for (let i = 0; i < 2; i++) yield* p.storePath(hva(), 4, random.u32());
        }
        function* mover() {
          for (let i = 0; i < 4; i++) yield* migrateFolio(k, Math.max(0, pageAt(p, hva())));
        }
        function* protector() {
          const at = hva();
          yield* mprotect(k, p.mm, at, PAGE_SIZE, PROT_READ);
          yield* mprotect(k, p.mm, at, PAGE_SIZE, RW);
        }
        interleave(k, [writer(), mover(), protector(), writer()], random);
        for (let i = 0; i < nr; i++)
          if (!isSoftDirty(AT + i * PAGE_SIZE))
            expect(p.load32(AT + i * PAGE_SIZE)).toBe(before[i]);
      }
      ends();
    });
});
