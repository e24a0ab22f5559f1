/** Hole punching in files in memory: shmem, and hugetlbfs with its promises (shmem_fallocate(), hugetlbfs_punch_hole()). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  EACCES,
  EFAULT,
  EINVAL,
  EPERM,
  filePunchHole,
  fileTruncate,
  HUGETLB_ORDER_2M,
  type HostProcess,
  hugetlbFileSetup,
  MADV_REMOVE,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mappingPut,
  mmap,
  nrFreePages,
  shmemCreate,
  swapon,
} from '#mm';
import { memfdAddSeals, memfdCreate, MFD_ALLOW_SEALING } from '../../mm/fs/memfd.ts';
import { F_SEAL_WRITE } from '../../mm/fs/seals.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPages } from '../../mm/gup/unpin.ts';
import { YP_FAULT_ALLOCATED } from '../../mm/path.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { HPAGE_PMD_NR } from '../../mm/thp/state.ts';
import { createHugeWorld, HUGE, HUGE_NR, poolState } from './hugetlb-world.ts';
import {
  createProcess,
  createWorld,
  exit,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
  settled,
} from './support.ts';

const map = (p: HostProcess, mapping: AddressSpace, flags = MAP_SHARED): number => {
  const lenBytes = mapping.nrPages * PAGE_SIZE;
  const at = drive(mmap(p.k, p.mm, { lenBytes, prot: RW, flags, mapping }));
  if (at < 0) throw new Error(`mmap: ${at}`);
  return at;
};

/** A file of shmem of `nrPages` pages, mapped shared; page i begins with i + 1. */
const withFile = (nrPages = 4): { w: World; p: HostProcess; file: AddressSpace; hva: number } => {
  const w = createWorld();
  const p = createProcess(w);
  const file = shmemCreate(w.k, nrPages);
  const hva = map(p, file);
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
  return { w, p, file, hva };
};

describe('a hole in shmem', () => {
  it('whole pages go and read as zeroes, of others the part is zeroed; the size stays', () => {
    const { w, p, file, hva } = withFile();
    for (const at of [100, 3 * PAGE_SIZE + 8]) p.store32(hva + at, 9);
    const free = nrFreePages(w.k);
    expect(drive(filePunchHole(w.k, file, 50, 3 * PAGE_SIZE + 4))).toBe(0);
    expect(nrFreePages(w.k)).toBe(free + 2);
    const words = [0, 100, PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 3 * PAGE_SIZE + 8];
    expect(words.map((at) => p.load32(hva + at))).toEqual([1, 0, 0, 0, 0, 9]);
    expect(file.nrPages).toBe(4);
    settled(w);
  });

  it('within one page nothing goes', () => {
    const { w, p, file, hva } = withFile();
    p.store32(hva + 8, 2);
    drive(filePunchHole(w.k, file, 4, 8));
    expect([p.load32(hva), p.load32(hva + 8), file.pages.size]).toEqual([1, 2, 4]);
    settled(w);
  });

  it("private copies stay: a hole is the file's (even_cows = 0)", () => {
    const { w, p, file } = withFile();
    const own = map(p, file, MAP_PRIVATE);
    p.store32(own + PAGE_SIZE, 50);
    expect(p.load32(own + 2 * PAGE_SIZE)).toBe(3);
    drive(filePunchHole(w.k, file, 0, 4 * PAGE_SIZE));
    expect([0, 1, 2].map((i) => p.load32(own + i * PAGE_SIZE))).toEqual([0, 50, 0]);
    settled(w);
  });

  it('slots of swapped pages are free, and private copies that are swapped out stay', () => {
    const { w, p, file } = withFile();
    swapon(w.k, 16);
    const own = map(p, file, MAP_PRIVATE);
    p.store32(own, 50);
    drive(reclaimFolio(w.k, pageAt(p, own)));
    drive(reclaimFolio(w.k, file.pages.get(1) ?? -1));
    drive(filePunchHole(w.k, file, 0, 2 * PAGE_SIZE));
    expect(w.k.state.swap.nrFree).toBe(15);
    expect([p.load32(own), p.load32(own + PAGE_SIZE)]).toEqual([50, 0]);
    settled(w);
  });

  it('a folio of 2 MiB is split around the hole', () => {
    const w = createWorld(32 << 20);
    w.k.state.thp.shmem = true;
    const p = createProcess(w);
    const file = shmemCreate(w.k, HPAGE_PMD_NR);
    const hva = map(p, file);
    for (const i of [9, 10, 19, 20]) p.store32(hva + i * PAGE_SIZE, i);
    drive(filePunchHole(w.k, file, 10 * PAGE_SIZE, 20 * PAGE_SIZE));
    expect(file.pages.size).toBe(HPAGE_PMD_NR - 10);
    expect([9, 10, 19, 20].map((i) => p.load32(hva + i * PAGE_SIZE))).toEqual([9, 0, 0, 20]);
    settled(w);
  });

  it('of a pinned page the pin keeps the old frame, and the file gets a new one', () => {
    const { w, p, file, hva } = withFile();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(filePunchHole(w.k, file, 0, PAGE_SIZE));
    p.store32(hva, 4);
    expect(pageAt(p, hva)).not.toBe(pages[0]!);
    expect(w.k.memory.i32[w.k.memory.pageOffset(pages[0]!) >>> 2]).toBe(1);
    unpinUserPages(w.k, pages, 1);
    settled(w);
  });

  it('F_SEAL_WRITE: -EPERM; an empty range, or another kind of file: -EINVAL', () => {
    const w = createWorld();
    const file = memfdCreate(w.k, 2, MFD_ALLOW_SEALING) as AddressSpace;
    expect(drive(filePunchHole(w.k, file, 8, 8))).toBe(-EINVAL);
    drive(memfdAddSeals(w.k, file, F_SEAL_WRITE));
    expect(drive(filePunchHole(w.k, file, 0, PAGE_SIZE))).toBe(-EPERM);
    drive(mappingPut(w.k, file));
    settled(w);
  });
});

describe('MADV_REMOVE: madvise_remove()', () => {
  it('punches a hole where a shared writable mapping is; private ones and read-only files are -EACCES', () => {
    const { w, p, file, hva } = withFile();
    const own = map(p, file, MAP_PRIVATE);
    expect(drive(madvise(w.k, p.mm, hva + PAGE_SIZE, 2 * PAGE_SIZE, MADV_REMOVE))).toBe(0);
    expect([0, 1, 2, 3].map((i) => p.load32(hva + i * PAGE_SIZE))).toEqual([1, 0, 0, 4]);
    expect(drive(madvise(w.k, p.mm, own, PAGE_SIZE, MADV_REMOVE))).toBe(-EACCES);
    expect(drive(madvise(w.k, p.mm, mapAnon(p, 1), PAGE_SIZE, MADV_REMOVE))).toBe(-EINVAL);
    settled(w);
  });
});

describe('hugetlbfs: remove_inode_hugepages()', () => {
  const withHuge = (nr = 3): { w: World; p: HostProcess; file: AddressSpace; hva: number } => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const file = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, nr * HUGE_NR);
    if (typeof file === 'number') throw new Error(`hugetlbfs: ${file}`);
    const hva = map(p, file);
    for (let i = 0; i < nr; i++) p.store32(hva + i * HUGE, i + 1);
    return { w, p, file, hva };
  };

  it('truncation gives pages back to the pool, and promises of what was not there', () => {
    const { w, p, file, hva } = withHuge();
    expect(poolState(w)).toBe('6/3/0');
    expect(drive(fileTruncate(w.k, file, HUGE))).toBe(0);
    expect(poolState(w)).toBe('6/5/0');
    expect([p.load32(hva), p.load32(hva + HUGE)]).toEqual([1, -EFAULT]);
    expect(drive(fileTruncate(w.k, file, HUGE + PAGE_SIZE))).toBe(-EINVAL);
    settled(w);
    exit(p);
    drive(mappingPut(w.k, file));
    expect(poolState(w)).toBe('6/6/0');
  });

  it('a promise without a page goes too', () => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const file = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, 3 * HUGE_NR) as AddressSpace;
    map(p, file);
    expect(poolState(w)).toBe('6/6/3');
    drive(fileTruncate(w.k, file, HUGE));
    expect(poolState(w)).toBe('6/6/1');
    exit(p);
    drive(mappingPut(w.k, file));
    expect(poolState(w)).toBe('6/6/0');
    settled(w);
  });

  it('a hole takes whole huge pages, and zeroes parts of others', () => {
    const { w, p, file, hva } = withHuge();
    p.store32(hva + HUGE - 4, 8);
    p.store32(hva + 2 * HUGE + 8, 9);
    drive(filePunchHole(w.k, file, HUGE - 8, 2 * HUGE + 4));
    expect(poolState(w)).toBe('6/4/0');
    const words = [0, HUGE - 4, HUGE, 2 * HUGE, 2 * HUGE + 8];
    expect(words.map((at) => p.load32(hva + at))).toEqual([1, 0, 0, 0, 9]);
    settled(w);
  });

  it('private copies go with it, other than of shmem', () => {
    const { w, p, file } = withHuge(1);
    const own = map(p, file, MAP_PRIVATE);
    p.store32(own, 70);
    drive(filePunchHole(w.k, file, 0, HUGE));
    expect(p.load32(own)).toBe(0);
    settled(w);
  });

  it('a pinned huge page returns to the pool with its pin', () => {
    const { w, p, file, hva } = withHuge(1);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(fileTruncate(w.k, file, 0));
    expect(poolState(w)).toBe('6/5/0');
    unpinUserPages(w.k, pages, 1);
    expect(poolState(w)).toBe('6/6/0');
    settled(w);
  });

  it('a fault that is bringing a page is waited for', () => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const file = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, HUGE_NR) as AddressSpace;
    const hva = map(p, file);
    const fault = p.storePath(hva, 4, 1);
    stepTo(w.k, fault, YP_FAULT_ALLOCATED);
    const truncate = fileTruncate(w.k, file, 0);
    stepTo(w.k, truncate, 0);
    drive(fault);
    drive(truncate);
    expect([file.pages.size, p.load32(hva)]).toEqual([0, -EFAULT]);
    settled(w);
  });
});
