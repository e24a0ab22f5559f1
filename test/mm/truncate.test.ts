/** Truncation: what becomes of pages behind a file's new end, and of whoever maps or holds them (mm/truncate.c). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  drive,
  EFAULT,
  EINVAL,
  EPERM,
  fileTruncate,
  folioRefCount,
  type HostProcess,
  MAP_PRIVATE,
  MAP_SHARED,
  mappingPut,
  mmap,
  nrFreePages,
  secretmemCreate,
  shmemCreate,
  swapon,
} from '#mm';
import { F_SEAL_GROW, F_SEAL_SHRINK } from '../../mm/fs/seals.ts';
import { memfdAddSeals, memfdCreate, MFD_ALLOW_SEALING } from '../../mm/fs/memfd.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPages } from '../../mm/gup/unpin.ts';
import { YP_FAULT_ALLOCATED, YP_FAULT_COPIED, YP_TRUNCATE_UNMAPPED } from '../../mm/path.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { HPAGE_PMD_NR } from '../../mm/thp/state.ts';
import {
  createProcess,
  createWorld,
  exit,
  pageAt,
  RW,
  stepTo,
  type World,
  settled,
} from './support.ts';
import { forked } from './hugetlb-world.ts';

/** Maps all of a file. */
const map = (p: HostProcess, mapping: AddressSpace, flags = MAP_SHARED, prot = RW): number => {
  const lenBytes = mapping.nrPages * PAGE_SIZE;
  const at = drive(mmap(p.k, p.mm, { lenBytes, prot, flags, mapping }));
  if (at < 0) throw new Error(`mmap: ${at}`);
  return at;
};

interface FileWorld {
  w: World;
  p: HostProcess;
  file: AddressSpace;
  hva: number;
}

/** A file of shmem of `nrPages` pages, mapped shared; page i begins with i + 1. */
const withFile = (nrPages = 4): FileWorld => {
  const w = createWorld();
  const p = createProcess(w);
  const file = shmemCreate(w.k, nrPages);
  const hva = map(p, file);
  for (let i = 0; i < nrPages; i++) p.store32(hva + i * PAGE_SIZE, i + 1);
  return { w, p, file, hva };
};

describe('shmem becomes shorter: shmem_setattr(), shmem_undo_range()', () => {
  it('pages behind the new end are freed, and touching them is SIGBUS', () => {
    const { w, p, file, hva } = withFile();
    const free = nrFreePages(w.k);
    expect(drive(fileTruncate(w.k, file, 2 * PAGE_SIZE))).toBe(0);
    expect(nrFreePages(w.k)).toBe(free + 2);
    expect(p.load32(hva + PAGE_SIZE)).toBe(2);
    expect(p.load32(hva + 2 * PAGE_SIZE)).toBe(-EFAULT);
    expect(p.store32(hva + 3 * PAGE_SIZE, 1)).toBe(-EFAULT);
    settled(w);
  });

  it('what the last page has behind the new end is zeroed; longer again it is a hole', () => {
    const { w, p, file, hva } = withFile(2);
    p.store32(hva + PAGE_SIZE + 100, 7);
    p.store32(hva + PAGE_SIZE + 200, 8);
    drive(fileTruncate(w.k, file, PAGE_SIZE + 200));
    expect([p.load32(hva + PAGE_SIZE + 100), p.load32(hva + PAGE_SIZE + 200)]).toEqual([7, 0]);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect(drive(fileTruncate(w.k, file, 2 * PAGE_SIZE))).toBe(0);
    expect(p.load32(hva + PAGE_SIZE + 100)).toBe(0);
    settled(w);
  });

  it('private copies behind the end go as well (even_cows), those before it stay', () => {
    const { w, p, file } = withFile();
    const own = map(p, file, MAP_PRIVATE);
    p.store32(own, 50);
    p.store32(own + 3 * PAGE_SIZE, 53);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect([p.load32(own), p.load32(own + 3 * PAGE_SIZE)]).toEqual([50, -EFAULT]);
    expect(p.mm.rssAnon).toBe(1);
    settled(w);
  });

  it('in every process that maps it, and in the middle of a VMA that was split', () => {
    const { w, p, file, hva } = withFile();
    const child = forked(w, p);
    child.load32(hva + 3 * PAGE_SIZE);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    for (const q of [p, child]) expect(q.load32(hva + 3 * PAGE_SIZE)).toBe(-EFAULT);
    exit(child);
    settled(w);
  });

  it('slots of pages that are swapped out are free', () => {
    const { w, p, file, hva } = withFile();
    swapon(w.k, 16);
    for (const pgoff of [1, 3])
      expect(drive(reclaimFolio(w.k, file.pages.get(pgoff) ?? -1))).toBe(0);
    expect(w.k.state.swap.nrFree).toBe(14);
    drive(fileTruncate(w.k, file, 2 * PAGE_SIZE));
    expect(w.k.state.swap.nrFree).toBe(15);
    expect(p.load32(hva + PAGE_SIZE)).toBe(2);
    settled(w);
  });

  it('a page that is swapped out is brought back to be zeroed in part', () => {
    const { w, p, file, hva } = withFile(1);
    swapon(w.k, 16);
    p.store32(hva + 512, 9);
    drive(reclaimFolio(w.k, file.pages.get(0) ?? -1));
    drive(fileTruncate(w.k, file, 512));
    expect([p.load32(hva), p.load32(hva + 512)]).toEqual([1, 0]);
    settled(w);
  });

  it('a folio of 2 MiB is split at the new end', () => {
    const w = createWorld(32 << 20);
    w.k.state.thp.shmem = true;
    const p = createProcess(w);
    const file = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
    const hva = map(p, file);
    for (const i of [0, 99, 100, HPAGE_PMD_NR]) p.store32(hva + i * PAGE_SIZE, 1 + i);
    expect(file.pages.size).toBe(2 * HPAGE_PMD_NR);
    drive(fileTruncate(w.k, file, 100 * PAGE_SIZE));
    expect(file.pages.size).toBe(100);
    expect([p.load32(hva + 99 * PAGE_SIZE), p.load32(hva + 100 * PAGE_SIZE)]).toEqual([
      100,
      -EFAULT,
    ]);
    settled(w);
  });

  it('a folio of 2 MiB that somebody has pinned stays whole, with zeroes behind the end', () => {
    const w = createWorld(32 << 20);
    w.k.state.thp.shmem = true;
    const p = createProcess(w);
    const file = shmemCreate(w.k, HPAGE_PMD_NR);
    const hva = map(p, file);
    p.store32(hva + 200 * PAGE_SIZE, 5);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(fileTruncate(w.k, file, 100 * PAGE_SIZE));
    expect(file.pages.size).toBe(HPAGE_PMD_NR);
    drive(fileTruncate(w.k, file, HPAGE_PMD_NR * PAGE_SIZE));
    expect(p.load32(hva + 200 * PAGE_SIZE)).toBe(0);
    unpinUserPages(w.k, pages, 1);
    settled(w);
  });
});

describe('truncation against GUP: nobody waits for pins', () => {
  it('a pinned page of a file that was truncated stays alive, and belongs to no file', () => {
    const { w, p, file, hva } = withFile();
    const { k } = w;
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, hva + PAGE_SIZE, 1, FOLL_WRITE, pages));
    const [page] = pages;
    drive(fileTruncate(k, file, 0));
    expect(k.state.frames.mapping[page!]).toBe(0);
    expect(folioRefCount(k, page!)).toBe(1024);
    // What the device writes now reaches nobody.
    k.memory.i32[k.memory.pageOffset(page!) >>> 2] = 77;
    drive(fileTruncate(k, file, 4 * PAGE_SIZE));
    expect(p.load32(hva + PAGE_SIZE)).toBe(0);
    expect(pageAt(p, hva + PAGE_SIZE)).not.toBe(page!);
    settled(w);
    const free = nrFreePages(k);
    unpinUserPages(k, pages, 1);
    expect(nrFreePages(k)).toBe(free + 1);
    settled(w);
  });
});

describe('truncation against a fault, step by step', () => {
  it('a fault that has a new page for a hole finds the new end, and SIGBUS', () => {
    const w = createWorld();
    const p = createProcess(w);
    const file = shmemCreate(w.k, 2);
    const hva = map(p, file);
    const fault = p.storePath(hva + PAGE_SIZE, 4, 1);
    stepTo(w.k, fault, YP_FAULT_ALLOCATED);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect(drive(fault)).toBe(-EFAULT);
    expect(file.pages.size).toBe(0);
    settled(w);
  });

  it('a private copy that is made while the end passes it is taken back by the second unmapping', () => {
    const { w, p, file } = withFile();
    const own = map(p, file, MAP_PRIVATE);
    const fault = p.storePath(own + 3 * PAGE_SIZE, 4, 9);
    stepTo(w.k, fault, YP_FAULT_COPIED);
    // Entries beyond the end are unmapped once, and truncation waits for the fault's folio.
    const truncate = fileTruncate(w.k, file, PAGE_SIZE);
    stepTo(w.k, truncate, 0);
    drive(fault);
    expect(drive(truncate)).toBe(0);
    expect(pageAt(p, own + 3 * PAGE_SIZE)).toBe(-1);
    expect(p.load32(own + 3 * PAGE_SIZE)).toBe(-EFAULT);
    settled(w);
  });

  it('a shared page that was locked by a fault is unmapped again before it goes', () => {
    const { w, p, file, hva } = withFile();
    const truncate = fileTruncate(w.k, file, 0);
    stepTo(w.k, truncate, YP_TRUNCATE_UNMAPPED);
    expect(pageAt(p, hva)).toBe(-1);
    expect(p.load32(hva)).toBe(-EFAULT);
    drive(truncate);
    expect(file.pages.size).toBe(0);
    settled(w);
  });
});

describe('what cannot be truncated', () => {
  it('F_SEAL_SHRINK and F_SEAL_GROW: -EPERM', () => {
    const w = createWorld();
    const file = memfdCreate(w.k, 2, MFD_ALLOW_SEALING) as AddressSpace;
    drive(memfdAddSeals(w.k, file, F_SEAL_SHRINK));
    expect(drive(fileTruncate(w.k, file, PAGE_SIZE))).toBe(-EPERM);
    expect(drive(fileTruncate(w.k, file, 3 * PAGE_SIZE))).toBe(0);
    drive(memfdAddSeals(w.k, file, F_SEAL_GROW));
    expect(drive(fileTruncate(w.k, file, 4 * PAGE_SIZE))).toBe(-EPERM);
    drive(mappingPut(w.k, file));
    settled(w);
  });

  it('memfd_secret() has its size for good; a size below 0 is none', () => {
    const w = createWorld();
    const secret = secretmemCreate(w.k, 2);
    expect(drive(fileTruncate(w.k, secret, PAGE_SIZE))).toBe(-EINVAL);
    const file = shmemCreate(w.k, 1);
    expect(drive(fileTruncate(w.k, file, -1))).toBe(-EINVAL);
    drive(mappingPut(w.k, secret));
    drive(mappingPut(w.k, file));
    settled(w);
  });
});
