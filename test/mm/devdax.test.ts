/** device-dax: persistent memory from end to end, shared, aligned, and pinned for as long as one likes. Compare drivers/dax/device.c. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  checkKernel,
  deviceDaxCreate,
  deviceDaxRemove,
  drive,
  EFAULT,
  EINVAL,
  ENOMEM,
  explainFrame,
  fileTruncate,
  filePunchHole,
  folioRefCount,
  type HostProcess,
  ibUmemGet,
  ibUmemRelease,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  mappingPut,
  migrateFolio,
  mmap,
  mprotect,
  munmap,
  nrFreePages,
  pageMapcount,
  PROT_READ,
  pfnToPage,
  pteDirty,
  pteWrite,
  YP_WAIT,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  pinUserPagesFast,
  pinUserPagesUnlocked,
  unpinUserPages,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  forked,
  pageAt,
  RW,
  type World,
  settled,
} from './support.ts';

const AT = 0x1000_0000;
const MIB_2 = 1 << 21;

interface DevDax {
  w: World;
  p: HostProcess;
  file: AddressSpace;
  /** The first page of the device. */
  first: number;
}

/** A process that maps a device-dax file of `nrPages` pages at AT. */
const devdax = (nrPages = 8): DevDax => {
  const w = createWorld();
  const file = create(w, nrPages);
  const p = createProcess(w);
  expect(map(p, file, nrPages * PAGE_SIZE)).toBe(AT);
  return { w, p, file, first: pfnToPage(file.device?.firstPfn ?? 0) };
};

const create = (w: World, nrPages: number, alignBytes?: number): AddressSpace => {
  const file = deviceDaxCreate(w.k, nrPages, alignBytes);
  if (typeof file === 'number') throw new Error(`deviceDaxCreate: ${file}`);
  return file;
};

const map = (
  p: HostProcess,
  mapping: AddressSpace,
  lenBytes: number,
  { flags = MAP_SHARED, hva = AT, pgoff = 0 } = {},
): number => drive(mmap(p.k, p.mm, { hva, lenBytes, prot: RW, flags, mapping, pgoff }));

describe('mmap() of a device-dax file', () => {
  it('is shared only', () => {
    const w = createWorld();
    const file = create(w, 4);
    const p = createProcess(w);
    expect(map(p, file, PAGE_SIZE, { flags: MAP_PRIVATE })).toBe(-EINVAL);
  });

  it('lies within the device', () => {
    const d = devdax(4);
    expect(map(d.p, d.file, 2 * PAGE_SIZE, { hva: 0, pgoff: 3 })).toBe(-EINVAL);
    expect(map(d.p, d.file, PAGE_SIZE, { hva: 0, pgoff: 3 })).toBeGreaterThan(0);
  });

  it('begins and ends where the device says, and is not cut in between', () => {
    const w = createWorld();
    const file = create(w, 1024, MIB_2);
    const p = createProcess(w);
    expect(map(p, file, PAGE_SIZE, { hva: 0 })).toBe(-EINVAL);
    const fixed = MAP_SHARED | MAP_FIXED;
    expect(map(p, file, MIB_2, { hva: AT + PAGE_SIZE, flags: fixed })).toBe(-EINVAL);
    const hva = map(p, file, 2 * MIB_2, { hva: 0 });
    expect(hva % MIB_2).toBe(0);
    expect(drive(munmap(w.k, p.mm, hva + PAGE_SIZE, MIB_2))).toBe(-EINVAL);
    expect(drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ))).toBe(-EINVAL);
    expect(drive(munmap(w.k, p.mm, hva, MIB_2))).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });

  it('of more memory than there is fails', () => {
    expect(deviceDaxCreate(createWorld().k, 1 << 20)).toBe(-ENOMEM);
  });
});

describe('a page of a device-dax file', () => {
  it('has one reference of its driver, and one for each entry', () => {
    const d = devdax();
    expect(folioRefCount(d.w.k, d.first)).toBe(1);
    d.p.store32(AT, 1);
    expect(folioRefCount(d.w.k, d.first)).toBe(2);
    expect(pageAt(d.p, AT)).toBe(d.first);
    drive(munmap(d.w.k, d.p.mm, AT, PAGE_SIZE));
    expect(folioRefCount(d.w.k, d.first)).toBe(1);
    settled(d.w);
  });

  it('is zeroes at first, and keeps its bytes from one mapping to the next', () => {
    const d = devdax();
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(0);
    d.p.store32(AT + PAGE_SIZE, 6);
    drive(munmap(d.w.k, d.p.mm, AT, 8 * PAGE_SIZE));
    map(d.p, d.file, 8 * PAGE_SIZE);
    expect(d.p.load32(AT + PAGE_SIZE)).toBe(6);
    settled(d.w);
  });

  it('read first is writable without another fault: nobody keeps track of its dirt', () => {
    const d = devdax();
    d.p.load32(AT);
    const pgfault = d.w.k.state.stat.pgfault;
    d.p.store32(AT, 1);
    expect(d.w.k.state.stat.pgfault - pgfault).toBeLessThanOrEqual(1);
    expect(pteWrite(entryAt(d.p, AT))).toBe(true);
    expect(pteDirty(entryAt(d.p, AT))).toBe(true);
    settled(d.w);
  });

  it('is found by the rmap in every address space', () => {
    const d = devdax();
    d.p.store32(AT, 1);
    const child = forked(d.w, d.p);
    expect(entryAt(child, AT)).toBe(0);
    child.store32(AT, 2);
    expect(d.p.load32(AT)).toBe(2);
    expect(pageMapcount(d.w.k, d.first)).toBe(2);
    exit(child);
    settled(d.w);
  });

  it('neither migrates nor goes: a device-dax file is not truncated', () => {
    const d = devdax();
    d.p.store32(AT, 1);
    expect(drive(migrateFolio(d.w.k, d.first))).toBeLessThan(0);
    expect(drive(fileTruncate(d.w.k, d.file, 0))).toBe(-EINVAL);
    expect(drive(filePunchHole(d.w.k, d.file, 0, PAGE_SIZE))).toBe(-EINVAL);
    settled(d.w);
  });

  it('is explained: the driver, the entry, nothing else', () => {
    const d = devdax();
    d.p.store32(AT, 1);
    const holders = explainFrame(d.w.k, d.first);
    expect(holders.kernel).toEqual(['device-dax']);
    expect(holders.entries).toHaveLength(1);
    expect(holders.unexplained).toEqual({ pins: 0, references: 0 });
  });
});

describe('FOLL_LONGTERM on device-dax is allowed (1.8)', () => {
  for (const write of [0, FOLL_WRITE])
    it(`slow and fast, ${write === 0 ? 'for reading' : 'for writing'}`, () => {
      const d = devdax();
      const pages = new Int32Array(4);
      const flags = FOLL_LONGTERM | write;
      expect(drive(pinUserPagesUnlocked(d.w.k, d.p.mm, AT, 4, flags, pages))).toBe(4);
      expect([...pages]).toEqual([0, 1, 2, 3].map((i) => d.first + i));
      expect(folioRefCount(d.w.k, d.first)).toBe(2 + 1024);
      const again = new Int32Array(4);
      expect(drive(pinUserPagesFast(d.w.k, d.p.mm, AT, 4, flags, again))).toBe(4);
      expect(again).toEqual(pages);
      unpinUserPages(d.w.k, pages, 4);
      unpinUserPages(d.w.k, again, 4);
      expect(folioRefCount(d.w.k, d.first)).toBe(2);
      settled(d.w);
    });

  it('a pin outlives the mapping, the process and the file', () => {
    const d = devdax();
    const pages = new Int32Array(1);
    d.p.store32(AT, 9);
    drive(pinUserPagesFast(d.w.k, d.p.mm, AT, 1, FOLL_LONGTERM, pages));
    exit(d.p);
    drive(mappingPut(d.w.k, d.file));
    expect(folioRefCount(d.w.k, d.first)).toBe(1 + 1024);
    expect(d.w.k.memory.i32[d.w.k.memory.pageOffset(d.first) >> 2]).toBe(9);
    unpinUserPages(d.w.k, pages, 1);
    settled(d.w);
  });

  it('so a memory region of RDMA can be registered', () => {
    const d = devdax();
    const umem = drive(ibUmemGet(d.w.k, d.p.mm, AT, 8 * PAGE_SIZE, true));
    if (typeof umem === 'number') throw new Error(`ibUmemGet: ${umem}`);
    expect(umem.nrPages).toBe(8);
    drive(ibUmemRelease(d.w.k, umem));
    settled(d.w);
  });

  it('beyond the end there is nothing to pin', () => {
    const d = devdax(2);
    const pages = new Int32Array(1);
    const at = AT + 2 * PAGE_SIZE;
    expect(drive(pinUserPagesFast(d.w.k, d.p.mm, at, 1, FOLL_LONGTERM, pages))).toBe(-EFAULT);
  });
});

describe('unbinding the device', () => {
  it('unmaps it, waits for pins, and then the frames are ordinary memory again (I14)', () => {
    const d = devdax();
    const { k } = d.w;
    const free = nrFreePages(k);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, d.p.mm, AT, 1, FOLL_LONGTERM | FOLL_WRITE, pages));
    const removal = deviceDaxRemove(k, d.file);
    expect(removal.next().value).toBe(YP_WAIT);
    expect(pageAt(d.p, AT)).toBe(-1);
    expect(d.p.load32(AT)).toBe(-EFAULT);
    assertKernel(k);
    unpinUserPages(k, pages, 1);
    expect(removal.next().done).toBe(true);
    expect(d.p.load32(AT)).toBe(-EFAULT);
    exit(d.p);
    drive(mappingPut(k, d.file));
    expect(nrFreePages(k)).toBeGreaterThanOrEqual(free + 8);
    settled(d.w);
  });

  it('a page that has lost the driver’s reference is reported', () => {
    const d = devdax();
    d.w.k.state.frames.refcount[d.first] = 0;
    expect(checkKernel(d.w.k)).not.toEqual([]);
  });
});
