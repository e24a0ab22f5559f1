/**
 * RDMA by on-demand paging: regions that hold nothing, and an adapter that stops where its table says
 * nothing. Compare drivers/infiniband/core/umem_odp.c. With recipe 2.10: RDMA and DAX files.
 */
import {
  odpDeregister,
  odpMapPages,
  odpRead,
  type OdpRegion,
  odpRegister,
  odpWrite,
} from '#devices/host';
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  checkKernel,
  createPolicy,
  deviceDaxCreate,
  drive,
  EFAULT,
  EINVAL,
  EOPNOTSUPP,
  extentCreate,
  fileRead,
  fileTruncate,
  fileWrite,
  filePunchHole,
  folioRefCount,
  folioTestDirty,
  type HostProcess,
  ibUmemGet,
  ibUmemRelease,
  type Kernel,
  MADV_DONTNEED,
  MAP_SHARED,
  madvise,
  mappingPut,
  migrateFolio,
  mmap,
  mprotect,
  munmap,
  type Path,
  PROT_READ,
  shmemCreate,
  vfsFsync,
  YP_DMA_SUBMITTED,
  YP_NOTIFIER_START,
  YP_SECONDARY_PFN,
  YP_WAIT,
} from '#mm';
import { HMM_PFN_REQ_FAULT, HMM_PFN_REQ_WRITE } from '#mm/secondary';
import { describe, expect, it } from 'vitest';
import { rng } from '../../support/rng.ts';
import {
  AT,
  blockPage,
  type DaxWorld,
  daxWorld,
  mapFile,
  pageOf,
  wordOf,
} from '../../mm/dax-world.ts';
import {
  createProcess,
  createWorld,
  exit,
  forked,
  interleave,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  type World,
  settled,
} from '../../mm/support.ts';

interface Odp {
  w: World;
  k: Kernel;
  p: HostProcess;
  region: OdpRegion;
}

const register = (p: HostProcess, nrPages: number, writable = true): OdpRegion => {
  const region = drive(odpRegister(p.k, p.mm, AT, nrPages * PAGE_SIZE, writable));
  if (typeof region === 'number') throw new Error(`odpRegister: ${region}`);
  return region;
};

/** A process with anonymous memory at AT, and a region over it. */
const anonWorld = (nrPages = 4, writable = true): Odp => {
  const w = createWorld();
  const p = createProcess(w);
  mapAnon(p, nrPages, RW, AT);
  return { w, k: w.k, p, region: register(p, nrPages, writable) };
};

/** The adapter reads the word at the beginning of a page of the region; -errno. */
const readWord = (k: Kernel, region: OdpRegion, pgoff: number): number => {
  const bytes = new Uint8Array(4);
  const n = drive(odpRead(k, region, AT + pgoff * PAGE_SIZE, bytes));
  return n === 4 ? wordOf(bytes) : n;
};

const writeWord = (k: Kernel, region: OdpRegion, pgoff: number, value: number): number =>
  drive(odpWrite(k, region, AT + pgoff * PAGE_SIZE, pageOf(value).subarray(0, 4)));

describe('registering', () => {
  it('looks at nothing: memory that is mapped only later is as good', () => {
    const w = createWorld();
    const p = createProcess(w);
    const region = register(p, 4);
    expect(readWord(w.k, region, 0)).toBe(-EFAULT);
    mapAnon(p, 4, RW, AT);
    p.store32(AT, 5);
    expect(readWord(w.k, region, 0)).toBe(5);
    settled(w);
  });

  it('needs no RLIMIT_MEMLOCK and pins nothing', () => {
    const w = createWorld();
    const p = createProcess(w);
    p.mm.rlimitMemlock = 0;
    mapAnon(p, 4, RW, AT);
    expect(drive(ibUmemGet(w.k, p.mm, AT, 4 * PAGE_SIZE, true))).toBeLessThan(0);
    const region = register(p, 4);
    expect(writeWord(w.k, region, 0, 1)).toBe(4);
    expect(p.mm.pinnedVm).toBe(0);
    expect(folioRefCount(w.k, pageAt(p, AT))).toBe(1);
    expect(w.k.state.stat.nr_foll_pin_acquired).toBe(0);
    settled(w);
  });

  it('of nothing is -EINVAL, and releasing twice our own mistake', () => {
    const { k, p, region } = anonWorld();
    expect(drive(odpRegister(k, p.mm, AT, 0, true))).toBe(-EINVAL);
    drive(odpDeregister(k, region));
    expect(() => drive(odpDeregister(k, region))).toThrow('twice');
  });

  it('under every policy: no notifier user takes references', () => {
    for (const name of ['linux-6.5', 'linux-7', 'target'] as const)
      expect(createPolicy(name).apis['rdma-odp']).toBe('secondary');
  });
});

describe('the adapter’s faults', () => {
  it('bring the page in once, and then it goes on without', () => {
    const { k, region } = anonWorld();
    expect(writeWord(k, region, 0, 1)).toBe(4);
    expect(writeWord(k, region, 0, 2)).toBe(4);
    expect(region.faults).toBe(1);
    expect(region.nrEntries).toBe(1);
  });

  it('for writing after reading the zero page: another one, and COW is broken', () => {
    const { k, p, region } = anonWorld();
    expect(readWord(k, region, 0)).toBe(0);
    expect(writeWord(k, region, 0, 3)).toBe(4);
    expect(region.faults).toBe(2);
    expect(p.load32(AT)).toBe(3);
    settled({ k });
  });

  it('end in error beyond the region, in a region for reading, and where the process may not write', () => {
    const ro = anonWorld(4, false);
    expect(writeWord(ro.k, ro.region, 0, 1)).toBe(-EFAULT);
    expect(readWord(ro.k, ro.region, 4)).toBe(-EFAULT);
    const { k, p, region } = anonWorld();
    drive(mprotect(k, p.mm, AT, PAGE_SIZE, PROT_READ));
    expect(writeWord(k, region, 0, 1)).toBe(-EFAULT);
    expect(readWord(k, region, 0)).toBe(0);
  });

  it('stop a transfer in the middle: what went before is moved', () => {
    const { k, p, region } = anonWorld();
    drive(munmap(k, p.mm, AT + 2 * PAGE_SIZE, PAGE_SIZE));
    const bytes = new Uint8Array(4 * PAGE_SIZE).fill(9);
    expect(drive(odpWrite(k, region, AT + 8, bytes.subarray(8)))).toBe(2 * PAGE_SIZE - 8);
    expect(p.load8(AT + 2 * PAGE_SIZE - 1)).toBe(9);
    settled({ k });
  });

  it('prefetching enters what is there, and faults nothing in', () => {
    const { k, p, region } = anonWorld();
    p.store32(AT + PAGE_SIZE, 1);
    expect(drive(odpMapPages(k, region, AT, 4 * PAGE_SIZE, 0))).toBe(1);
    expect(p.mm.rssAnon).toBe(1);
    expect(readWord(k, region, 1)).toBe(1);
    expect(region.faults).toBe(0);
    expect(drive(odpMapPages(k, region, AT, 5 * PAGE_SIZE, 0))).toBe(-EFAULT);
    const all = HMM_PFN_REQ_FAULT | HMM_PFN_REQ_WRITE;
    expect(drive(odpMapPages(k, region, AT, 4 * PAGE_SIZE, all))).toBe(4);
    settled({ k });
  });
});

describe('what takes a page from the adapter', () => {
  const cases: [string, (o: Odp) => void, number][] = [
    ['DONTNEED', ({ k, p }) => void drive(madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED)), 0],
    ['migration', ({ k, p }) => void drive(migrateFolio(k, pageAt(p, AT))), 7],
    ['mprotect()', ({ k, p }) => void drive(mprotect(k, p.mm, AT, PAGE_SIZE, PROT_READ)), 7],
    ['fork()', ({ w, p }) => void forked(w, p), 7],
    ['munmap()', ({ k, p }) => void drive(munmap(k, p.mm, AT, PAGE_SIZE)), -EFAULT],
    ['exit', ({ p }) => exit(p), -EFAULT],
  ];
  for (const [name, act, after] of cases)
    it(`${name}: no entry is left, and the next access finds what is there then`, () => {
      const o = anonWorld();
      writeWord(o.k, o.region, 0, 7);
      act(o);
      expect(o.region.nrEntries).toBe(0);
      expect(readWord(o.k, o.region, 0)).toBe(after);
      assertKernel(o.k);
      drive(odpDeregister(o.k, o.region));
      settled(o);
    });

  it('what it has written is dirty when the entry goes', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    drive(mmap(w.k, p.mm, { hva: AT, lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }));
    const region = register(p, 1);
    writeWord(w.k, region, 0, 1);
    const page = pageAt(p, AT);
    w.k.state.frames.flags[page] = (w.k.state.frames.flags[page] ?? 0) & ~8;
    drive(odpDeregister(w.k, region));
    expect(folioTestDirty(w.k, page)).toBe(true);
  });

  it('a page that is taken away while it is being entered is looked up again', () => {
    const { k, p, region } = anonWorld();
    p.store32(AT, 1);
    const read = odpRead(k, region, AT, new Uint8Array(4));
    stepTo(k, read, YP_SECONDARY_PFN);
    const old = pageAt(p, AT);
    drive(migrateFolio(k, old));
    drive(read);
    expect(region.entries[0]).not.toBe(0);
    expect(pageAt(p, AT)).not.toBe(old);
    expect(checkKernel(k)).toEqual([]);
  });

  it('an open invalidation is waited for', () => {
    const { k, p, region } = anonWorld();
    writeWord(k, region, 0, 1);
    const zap = madvise(k, p.mm, AT, PAGE_SIZE, MADV_DONTNEED);
    stepTo(k, zap, YP_NOTIFIER_START);
    const read = odpRead(k, region, AT, new Uint8Array(4));
    expect(read.next().value).toBe(YP_WAIT);
    drive(zap);
    expect(drive(read)).toBe(4);
    settled({ k });
  });

  it('the sanitizer looks at the adapter’s table: I9, I10', () => {
    const { k, region } = anonWorld();
    writeWord(k, region, 0, 1);
    region.entries[0] = (region.entries[0] ?? 0) + 1;
    expect(checkKernel(k).join('\n')).toContain('I10');
  });
});

describe('recipe 2.10: RDMA over DAX files', () => {
  it('a region that pins for long is -EOPNOTSUPP', () => {
    const { k, p } = daxWorld();
    expect(drive(ibUmemGet(k, p.mm, AT, 8 * PAGE_SIZE, true))).toBe(-EOPNOTSUPP);
    expect(drive(ibUmemGet(k, p.mm, AT, 8 * PAGE_SIZE, false))).toBe(-EOPNOTSUPP);
    expect(p.mm.pinnedVm).toBe(0);
    settled({ k });
  });

  it('over device-dax it is not', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = deviceDaxCreate(w.k, 8);
    if (typeof mapping === 'number') throw new Error(`deviceDaxCreate: ${mapping}`);
    mapFile(p, mapping, 8);
    const umem = drive(ibUmemGet(w.k, p.mm, AT, 8 * PAGE_SIZE, true));
    if (typeof umem === 'number') throw new Error(`ibUmemGet: ${umem}`);
    drive(ibUmemRelease(w.k, umem));
    settled(w);
  });

  it('by on-demand paging the adapter reaches the blocks, and the file system knows of its writes', () => {
    const d = daxWorld();
    const region = register(d.p, 8);
    expect(readWord(d.k, region, 3)).toBe(103);
    expect(writeWord(d.k, region, 3, 55)).toBe(4);
    expect(d.file.dax?.dirty.has(3)).toBe(true);
    expect(d.p.load32(AT + 3 * PAGE_SIZE)).toBe(55);
    expect(folioRefCount(d.k, blockPage(d, 3))).toBe(1);
    settled(d);
  });

  it('truncation does not wait for it: the adapter faults again, gets an error, and writes to nobody’s block', () => {
    const d = daxWorld();
    const region = register(d.p, 8);
    for (let i = 0; i < 8; i++) writeWord(d.k, region, i, i);
    const lost = blockPage(d, 5);
    expect(drive(fileTruncate(d.k, d.file, 2 * PAGE_SIZE))).toBe(0);
    expect(region.nrEntries).toBe(2);
    // The block is another file's now.
    drive(vfsFsync(d.k, d.file));
    const other = extentCreate(d.k, d.fs);
    drive(fileWrite(d.k, other, 0, new Uint8Array(PAGE_SIZE * d.fs.nrFree).fill(0xaa)));
    const owner = { ...d, file: other };
    const pgoff =
      [...Array(d.fs.nrBlocks).keys()].find((at) => blockPage(owner, at) === lost) ?? -1;
    expect(pgoff).toBeGreaterThanOrEqual(0);
    expect(writeWord(d.k, region, 5, 0x1111)).toBe(-EFAULT);
    expect(readWord(d.k, region, 5)).toBe(-EFAULT);
    expect(writeWord(d.k, region, 1, 9)).toBe(4);
    const bytes = new Uint8Array(4);
    drive(fileRead(d.k, other, pgoff * PAGE_SIZE, bytes));
    expect([...bytes]).toEqual([0xaa, 0xaa, 0xaa, 0xaa]);
    drive(mappingPut(d.k, other));
    settled(d);
  });

  it('a transfer that is under way when the file is cut off stops there', () => {
    const d = daxWorld();
    const region = register(d.p, 8);
    const transfer = odpWrite(d.k, region, AT, new Uint8Array(8 * PAGE_SIZE).fill(1));
    for (let i = 0; i < 4; i++) stepTo(d.k, transfer, YP_DMA_SUBMITTED);
    expect(drive(fileTruncate(d.k, d.file, 0))).toBe(0);
    expect(drive(transfer)).toBe(3 * PAGE_SIZE);
    settled(d);
  });

  it('a punched hole: the adapter reads zeroes, and its next write allocates a block', () => {
    const d = daxWorld();
    const region = register(d.p, 8);
    writeWord(d.k, region, 1, 5);
    expect(drive(filePunchHole(d.k, d.file, PAGE_SIZE, 2 * PAGE_SIZE))).toBe(0);
    expect(readWord(d.k, region, 1)).toBe(0);
    expect(blockPage(d, 1)).toBe(-1);
    expect(writeWord(d.k, region, 1, 6)).toBe(4);
    expect(blockPage(d, 1)).toBeGreaterThan(0);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(6);
    settled(d);
  });

  it('fsync() takes the right to write away, so that the next write is flushed by the next fsync()', () => {
    const d = daxWorld();
    const region = register(d.p, 8);
    writeWord(d.k, region, 0, 1);
    const { faults } = region;
    drive(vfsFsync(d.k, d.file));
    expect(d.file.dax?.dirty.size).toBe(0);
    writeWord(d.k, region, 0, 2);
    expect(region.faults).toBe(faults + 1);
    expect(d.file.dax?.dirty.has(0)).toBe(true);
    settled(d);
  });
});

describe('adapter, process and file system at the same time, by a seed', () => {
  /** The adapter and the process write their own words of each page; others move, cut and flush it. */
  const race = (seed: number): void => {
    const d: DaxWorld = daxWorld(4);
    const random = rng(seed);
    const region = register(d.p, 4);
    const word = new Uint8Array(4);
    function* device(): Path<void> {
      for (let i = 0; i < 20; i++) {
        const hva = AT + random.below(4) * PAGE_SIZE;
        if (random.chance(0.5)) yield* odpWrite(d.k, region, hva, pageOf(i).subarray(0, 4));
        else yield* odpRead(d.k, region, hva, word);
      }
    }
    function* cpu(): Path<void> {
      for (let i = 0; i < 20; i++) {
        const error = yield* d.p.storePath(AT + random.below(4) * PAGE_SIZE + 8, 4, i);
        if (error !== 0) expect(error).toBe(-EFAULT);
      }
    }
    function* files(): Path<void> {
      for (let i = 0; i < 10; i++) {
        const size = (1 + random.below(4)) * PAGE_SIZE;
        if (random.chance(0.4)) yield* fileTruncate(d.k, d.file, size);
        else if (random.chance(0.5)) yield* filePunchHole(d.k, d.file, 0, size);
        else yield* vfsFsync(d.k, d.file);
        assertKernel(d.k);
      }
      yield* fileTruncate(d.k, d.file, 4 * PAGE_SIZE);
    }
    interleave(d.k, [device(), cpu(), files()], random);
    settled(d);
    // What the adapter writes now the process reads, and the other way round.
    expect(writeWord(d.k, region, 2, 4711)).toBe(4);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(4711);
    d.p.store32(AT + 3 * PAGE_SIZE, 815);
    expect(readWord(d.k, region, 3)).toBe(815);
    drive(odpDeregister(d.k, region));
    exit(d.p);
    settled(d);
  };

  it('every frame, entry and block agrees, 15 times', () => {
    for (let seed = 1; seed <= 15; seed++) race(seed);
  });
});
