/** Every kind of entry through everything that is done to address spaces: what must be read, and nothing lost. */
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  changeProtNuma,
  checkKernel,
  clearRefsSoftDirty,
  deviceFileCreate,
  drive,
  EFAULT,
  ENOMEM,
  fork,
  freePages,
  GFP_KERNEL,
  type HostProcess,
  hugetlbSetPool,
  type Kernel,
  ksmScan,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  memoryFailure,
  type MmStruct,
  mmap,
  mmExit,
  mprotect,
  mremap,
  munmap,
  nrFreePages,
  PROT_NONE,
  PROT_READ,
  pageToPfn,
  shmemCreate,
  mappingPut,
  swapon,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { pmdLeafAt } from '../../mm/pgtable/walk.ts';
import { createProcess, createWorld, exit, mapAnon, pageAt, RW, type World } from './support.ts';

const AT = 0x1000_0000;
const TO = 0x4000_0000;
const HUGE_PAGES = 512;
const SMALL_PAGES = 16;

/** A process with one mapping at AT of `nrPages` pages, entries of one kind. */
interface Setup {
  w: World;
  k: Kernel;
  p: HostProcess;
  nrPages: number;
  /** Pages that are moved, protected and unmapped together. */
  unit: number;
  shared: boolean;
  /** GUP can pin it for writing. */
  pinnable: boolean;
  /** Frames that stay in use when the process is gone. */
  kept: number;
  cleanup?: () => void;
}

const setup = (nrPages: number, shared = false): Setup => {
  const w = createWorld(nrPages > SMALL_PAGES ? 16 << 20 : 4 << 20);
  const p = createProcess(w);
  return { w, k: w.k, p, nrPages, unit: 1, shared, pinnable: true, kept: 0 };
};

const at = (page: number): number => AT + page * PAGE_SIZE;

const fill = (s: Setup): void => {
  for (let i = 0; i < s.nrPages; i++)
    if (s.p.store32(at(i), 1000 + i) !== 0) throw new Error(`page ${i}`);
};

const anon = (nrPages: number): Setup => {
  const s = setup(nrPages);
  mapAnon(s.p, nrPages, RW, AT);
  return s;
};

const thp = (orders: number): Setup => {
  const s = setup(HUGE_PAGES);
  s.k.state.thp.madvise = orders;
  mapAnon(s.p, HUGE_PAGES, RW, AT);
  drive(madvise(s.k, s.p.mm, AT, HUGE_PAGES * PAGE_SIZE, MADV_HUGEPAGE));
  return s;
};

const file = (nrPages: number, flags: number): Setup => {
  const s = setup(nrPages, flags === MAP_SHARED);
  const mapping = shmemCreate(s.k, nrPages);
  const lenBytes = nrPages * PAGE_SIZE;
  drive(mmap(s.k, s.p.mm, { hva: AT, lenBytes, prot: RW, flags: flags | MAP_FIXED, mapping }));
  drive(mappingPut(s.k, mapping));
  return s;
};

const KINDS: Record<string, () => Setup> = {
  'small anonymous pages': () => {
    const s = anon(SMALL_PAGES);
    fill(s);
    return s;
  },
  'pages that a child shares': () => {
    const s = anon(SMALL_PAGES);
    fill(s);
    const child = drive(fork(s.k, s.p.mm)) as MmStruct;
    s.cleanup = () => drive(mmExit(s.k, child));
    return s;
  },
  'the zero page': () => {
    const s = anon(SMALL_PAGES);
    for (let i = 0; i < SMALL_PAGES; i++) s.p.load32(at(i));
    return s;
  },
  'folios of 64 KiB': () => {
    const s = thp(1 << 4);
    fill(s);
    return s;
  },
  'a huge entry': () => {
    const s = thp(1 << 9);
    fill(s);
    if (pmdLeafAt(s.k, s.p.mm, AT) === 0) throw new Error('not huge');
    return s;
  },
  'the huge zero folio': () => {
    const s = thp(1 << 9);
    s.p.load32(AT);
    s.kept = HUGE_PAGES;
    return s;
  },
  'merged pages': () => {
    const s = anon(SMALL_PAGES);
    for (let i = 0; i < SMALL_PAGES; i++) s.p.store32(at(i), 5);
    drive(madvise(s.k, s.p.mm, AT, SMALL_PAGES * PAGE_SIZE, MADV_MERGEABLE));
    drive(ksmScan(s.k, s.p.mm));
    drive(ksmScan(s.k, s.p.mm));
    if (pageAt(s.p, at(0)) !== pageAt(s.p, at(1))) throw new Error('not merged');
    return s;
  },
  'swapped pages': () => {
    const s = anon(SMALL_PAGES);
    swapon(s.k, 64);
    fill(s);
    drive(madvise(s.k, s.p.mm, AT, SMALL_PAGES * PAGE_SIZE, MADV_PAGEOUT));
    return s;
  },
  'a huge page that was swapped out': () => {
    const s = thp(1 << 9);
    swapon(s.k, 1024);
    fill(s);
    drive(madvise(s.k, s.p.mm, AT, HUGE_PAGES * PAGE_SIZE, MADV_PAGEOUT));
    return s;
  },
  'shared memory': () => {
    const s = file(SMALL_PAGES, MAP_SHARED);
    fill(s);
    return s;
  },
  'huge shared memory': () => {
    const s = setup(HUGE_PAGES, true);
    s.k.state.thp.shmem = true;
    const lenBytes = HUGE_PAGES * PAGE_SIZE;
    const flags = MAP_SHARED | MAP_ANONYMOUS | MAP_FIXED;
    drive(mmap(s.k, s.p.mm, { hva: AT, lenBytes, prot: RW, flags }));
    fill(s);
    if (pmdLeafAt(s.k, s.p.mm, AT) === 0) throw new Error('not huge');
    return s;
  },
  'a private file, some pages written': () => {
    const s = file(SMALL_PAGES, MAP_PRIVATE);
    for (let i = 0; i < SMALL_PAGES; i++)
      if (i % 3 === 0) s.p.store32(at(i), i);
      else s.p.load32(at(i));
    return s;
  },
  'private huge pages of a pool': () => {
    const s = setup(2 * HUGE_PAGES);
    s.unit = HUGE_PAGES;
    hugetlbSetPool(s.k, 9, 4);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_FIXED;
    drive(mmap(s.k, s.p.mm, { hva: AT, lenBytes: s.nrPages * PAGE_SIZE, prot: RW, flags }));
    fill(s);
    s.cleanup = () => hugetlbSetPool(s.k, 9, 0);
    return s;
  },
  'memory mapped by frame number': () => {
    const s = setup(SMALL_PAGES, true);
    const block = allocPages(s.k, 4, GFP_KERNEL);
    const device = { how: 'remap', firstPfn: pageToPfn(block) } as const;
    const mapping = deviceFileCreate(s.k, SMALL_PAGES, device);
    const lenBytes = SMALL_PAGES * PAGE_SIZE;
    drive(
      mmap(s.k, s.p.mm, { hva: AT, lenBytes, prot: RW, flags: MAP_SHARED | MAP_FIXED, mapping }),
    );
    drive(mappingPut(s.k, mapping));
    fill(s);
    s.pinnable = false;
    s.cleanup = () => freePages(s.k, block, 4);
    return s;
  },
  'poisoned pages': () => {
    const s = anon(SMALL_PAGES);
    fill(s);
    for (const i of [3, 7]) if (drive(memoryFailure(s.k, pageAt(s.p, at(i)))) !== 0) throw i;
    s.pinnable = false;
    s.kept = 2;
    return s;
  },
};

/** The first word of every page, or the errno; as the process itself reads it. */
const read = (q: HostProcess, first: number, nrPages: number): number[] =>
  Array.from({ length: nrPages }, (_, i) => q.load32(first + i * PAGE_SIZE));

/** What each operation does, and what must be readable at AT afterwards, given what was. */
const OPERATIONS: Record<string, (s: Setup, was: number[]) => void> = {
  'fork: both see the same, and a write reaches the other only in shared memory': (s, was) => {
    const child = createProcess(s.w, drive(fork(s.k, s.p.mm)) as MmStruct);
    expect(read(child, AT, s.nrPages)).toEqual(was);
    expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
    child.store32(AT, 77);
    expect(s.p.load32(AT)).toBe(s.shared ? 77 : was[0]);
    expect(child.load32(AT)).toBe(77);
    s.p.store32(at(s.nrPages - 1), 78);
    expect(child.load32(at(s.nrPages - 1))).toBe(s.shared ? 78 : was[s.nrPages - 1]);
    exit(child);
  },
  'fork with everything pinned: the pinned frames stay the parent’s': (s, was) => {
    if (!s.pinnable) return;
    const pages = new Int32Array(s.nrPages);
    expect(drive(pinUserPagesFast(s.k, s.p.mm, AT, s.nrPages, FOLL_WRITE, pages))).toBe(s.nrPages);
    const child = createProcess(s.w, drive(fork(s.k, s.p.mm)) as MmStruct);
    expect(read(child, AT, s.nrPages)).toEqual(was);
    s.p.store32(AT, 79);
    expect(s.k.memory.i32[s.k.memory.pageOffset(pages[0]!) / 4]).toBe(79);
    expect(child.load32(AT)).toBe(s.shared ? 79 : was[0]);
    unpinUserPages(s.k, pages, s.nrPages);
    exit(child);
  },
  'munmap of the middle': (s, was) => {
    const [first, nr] = middle(s);
    expect(drive(munmap(s.k, s.p.mm, at(first), nr * PAGE_SIZE))).toBe(0);
    const left = was.map((value, i) => (i >= first && i < first + nr ? -EFAULT : value));
    expect(read(s.p, AT, s.nrPages)).toEqual(left);
  },
  'MADV_DONTNEED of the middle': (s, was) => {
    const [first, nr] = middle(s);
    const error = drive(madvise(s.k, s.p.mm, at(first), nr * PAGE_SIZE, MADV_DONTNEED));
    const now = read(s.p, AT, s.nrPages);
    expect(now.slice(0, first)).toEqual(was.slice(0, first));
    expect(now.slice(first + nr)).toEqual(was.slice(first + nr));
    // Shared memory comes back; mapped by frame number it may not go.
    if (s.shared || error !== 0) expect(now).toEqual(was);
    else expect(now.slice(first, first + nr).every((value) => value === 0)).toBe(true);
  },
  'mprotect of the middle, to reading, to nothing, and back': (s, was) => {
    const [first, nr] = middle(s);
    for (const prot of [PROT_READ, PROT_NONE, RW]) {
      expect(drive(mprotect(s.k, s.p.mm, at(first), nr * PAGE_SIZE, prot))).toBe(0);
      expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
      if (prot === PROT_READ) expect(s.p.store32(at(first), 1)).toBe(-EFAULT);
      if (prot === PROT_NONE) expect(s.p.load32(at(first))).toBe(-EFAULT);
    }
    expect(read(s.p, AT, s.nrPages)).toEqual(was);
    const writable = was.filter((value) => value >= 0).length;
    let written = 0;
    for (let i = 0; i < s.nrPages; i++) if (s.p.store32(at(i), i) === 0) written++;
    expect(written).toBe(writable);
  },
  'mremap to an aligned place and back': (s, was) => {
    for (const [from, to] of [
      [AT, TO],
      [TO, AT],
    ] as const) {
      move(s, from, to);
      expect(read(s.p, to, s.nrPages)).toEqual(was);
      expect(s.p.load32(from)).toBe(-EFAULT);
      expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
    }
  },
  'mremap to a place one unit further': (s, was) => {
    const to = TO + s.unit * PAGE_SIZE;
    move(s, AT, to);
    expect(read(s.p, to, s.nrPages)).toEqual(was);
    move(s, to, AT);
  },
  'NUMA hints and soft-dirty tracking': (s, was) => {
    drive(changeProtNuma(s.k, s.p.mm, AT, at(s.nrPages)));
    drive(clearRefsSoftDirty(s.k, s.p.mm));
    expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
    expect(read(s.p, AT, s.nrPages)).toEqual(was);
    for (let i = 0; i < s.nrPages; i++) s.p.store32(at(i), i);
    for (let i = 0; i < s.nrPages; i++) if ((was[i] ?? 0) >= 0) expect(s.p.load32(at(i))).toBe(i);
  },
  'a fork that finds no memory leaves nothing behind': (s, was) => {
    const hog = createProcess(s.w);
    mapAnon(hog, 16384, RW, AT);
    for (let i = 0; hog.store32(at(i), 1) === 0; ) i++;
    expect(drive(fork(s.k, s.p.mm))).toBe(-ENOMEM);
    expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
    exit(hog);
    expect(read(s.p, AT, s.nrPages)).toEqual(was);
  },
};

/** The part of the mapping that is worked on: neither begins nor ends with a huge page, where it may. */
const middle = ({ nrPages, unit }: Setup): [number, number] =>
  unit > 1 ? [unit, nrPages - unit] : [Math.floor(nrPages / 4), Math.floor(nrPages / 2)];

const move = (s: Setup, from: number, to: number): void => {
  const lenBytes = s.nrPages * PAGE_SIZE;
  const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
  expect(drive(mremap(s.k, s.p.mm, from, lenBytes, lenBytes, flags, to))).toBe(to);
};

/** Of what can be read without changing which kind of entry is there, on a copy of the setting. */
const contents = (make: () => Setup): number[] => {
  const s = make();
  return read(s.p, AT, s.nrPages);
};

for (const [kind, make] of Object.entries(KINDS))
  describe(kind, () => {
    const was = contents(make);
    for (const [operation, run] of Object.entries(OPERATIONS))
      it(operation, () => {
        const s = make();
        run(s, was);
        expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
        exit(s.p);
        s.cleanup?.();
        expect(checkKernel(s.k, { quiescent: true })).toEqual([]);
        expect(nrFreePages(s.k)).toBe(s.w.freeAtStart - s.kept);
      });
  });
