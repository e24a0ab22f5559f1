/** Memory regions of RDMA: pinned for long, counted, dirty when they go. Compare drivers/infiniband/core/umem.c. */
import { beforeEach, describe, expect, it } from 'vitest';
import { Mmu, PAGE_SIZE, PhysMemory } from '#emu';
import {
  blockDeviceCreate,
  checkKernel,
  createKernel,
  createPolicy,
  drive,
  explainFrame,
  extentCreate,
  extentMkfs,
  fileTruncate,
  folioMaybeDmaPinned,
  folioTestDirty,
  HostProcess,
  ibUmemGet,
  ibUmemRelease,
  type Kernel,
  MAP_SHARED,
  shmemCreate,
  migrateFolio,
  mmap,
  mmCreate,
  munmap,
  PROT_READ,
  provenanceStart,
  sendSignal,
  SIGNAL_FATAL,
  type Umem,
  umemPageAt,
  ZONE_MOVABLE,
} from '#mm';
import { pinUserPagesFast, writePinnedPage } from '#mm/driver-api';
import { EFAULT, EINTR, EINVAL, ENOMEM, EPERM } from '../../mm/errno.ts';
import { nrRunPages } from '../../mm/gup/page-runs.ts';
import {
  createProcess,
  createWorld,
  exit,
  forked,
  mapAnon,
  pageAt,
  RW,
  type World,
  pinsLive,
  settled,
} from './support.ts';

const MIB = 2 ** 20;

let w: World;
let k: Kernel;
let p: HostProcess;

beforeEach(() => {
  w = createWorld();
  k = w.k;
  p = createProcess(w);
});

const registered = (hva: number, lenBytes: number, writable = true): Umem => {
  const umem = drive(ibUmemGet(k, p.mm, hva, lenBytes, writable));
  if (typeof umem === 'number') throw new Error(`ib_umem_get: ${umem}`);
  return umem;
};

describe('ib_umem_get()', () => {
  it('pins every page that the region touches once, and counts them in pinned_vm', () => {
    const hva = mapAnon(p, 5);
    const umem = registered(hva + 100, 3 * PAGE_SIZE);
    expect([umem.nrPages, nrRunPages(umem.runs), p.mm.pinnedVm, pinsLive(k)]).toEqual([4, 4, 4, 4]);
    for (let i = 0; i < 4; i++) {
      expect(umemPageAt(umem, i === 0 ? 0 : i * PAGE_SIZE - 100)).toBe(
        pageAt(p, hva + i * PAGE_SIZE),
      );
      expect(folioMaybeDmaPinned(k, pageAt(p, hva + i * PAGE_SIZE))).toBe(true);
    }
    expect([umemPageAt(umem, -1), umemPageAt(umem, 3 * PAGE_SIZE)]).toEqual([-1, -1]);
    settled(w);
    drive(ibUmemRelease(k, umem));
    expect([p.mm.pinnedVm, pinsLive(k), k.state.umems.size]).toEqual([0, 0, 0]);
    settled(w);
  });

  it('a region larger than one batch of pages: contiguous frames are one run', () => {
    const hva = mapAnon(p, 1300);
    const umem = registered(hva, 1300 * PAGE_SIZE);
    expect(nrRunPages(umem.runs)).toBe(1300);
    expect(umem.runs.length).toBeLessThan(1300);
    for (const at of [0, 511, 512, 1024, 1299])
      expect(umemPageAt(umem, at * PAGE_SIZE)).toBe(pageAt(p, hva + at * PAGE_SIZE));
    drive(ibUmemRelease(k, umem));
  });

  it('a region for reading is unshared first: the adapter sees what the process writes later (1.5)', () => {
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const child = forked(w, p);
    const umem = registered(hva, PAGE_SIZE, false);
    p.store32(hva, 2);
    expect(pageAt(p, hva)).toBe(umemPageAt(umem, 0));
    expect(child.load32(hva)).toBe(1);
    drive(ibUmemRelease(k, umem));
  });

  it('the process and its child part: the region stays the parent’s (I4, I13)', () => {
    const hva = mapAnon(p, 1);
    p.store32(hva, 1);
    const umem = registered(hva, PAGE_SIZE);
    const child = forked(w, p);
    expect(child.mm.pinnedVm).toBe(0);
    writePinnedPage(k, umemPageAt(umem, 0), 0, Uint8Array.of(7), 0, 1);
    expect([p.load8(hva), child.load8(hva)]).toEqual([7, 1]);
    settled(w);
    drive(ibUmemRelease(k, umem));
  });

  it('its pages do not migrate (1.9)', () => {
    const hva = mapAnon(p, 1);
    const umem = registered(hva, PAGE_SIZE);
    expect(drive(migrateFolio(k, umemPageAt(umem, 0)))).toBeLessThan(0);
    drive(ibUmemRelease(k, umem));
    expect(drive(migrateFolio(k, pageAt(p, hva)))).toBe(0);
  });

  it.each([
    { what: 'nothing', at: 0, lenBytes: 0, error: -EINVAL },
    { what: 'more than there are numbers', at: 0, lenBytes: 2 ** 53, error: -EINVAL },
    { what: 'memory that is not there', at: 2, lenBytes: PAGE_SIZE, error: -EFAULT },
    {
      what: 'memory of which the end is not there',
      at: 0,
      lenBytes: 4 * PAGE_SIZE,
      error: -EFAULT,
    },
  ])('$what: an error, and nothing is left pinned or counted', ({ at, lenBytes, error }) => {
    const hva = mapAnon(p, 2);
    expect(drive(ibUmemGet(k, p.mm, hva + at * PAGE_SIZE, lenBytes, true))).toBe(error);
    expect([p.mm.pinnedVm, pinsLive(k), k.state.umems.size]).toEqual([0, 0, 0]);
    settled(w);
  });

  it('memory that may only be read cannot be registered for writing', () => {
    const hva = mapAnon(p, 1, PROT_READ);
    expect(drive(ibUmemGet(k, p.mm, hva, PAGE_SIZE, true))).toBe(-EFAULT);
    drive(ibUmemRelease(k, registered(hva, PAGE_SIZE, false)));
  });

  it('RLIMIT_MEMLOCK: -ENOMEM beyond it over all regions, -EPERM where it is 0', () => {
    const hva = mapAnon(p, 4);
    p.mm.rlimitMemlock = 3 * PAGE_SIZE + 5;
    const first = registered(hva, 2 * PAGE_SIZE);
    expect(drive(ibUmemGet(k, p.mm, hva, 2 * PAGE_SIZE, true))).toBe(-ENOMEM);
    const second = registered(hva, PAGE_SIZE);
    expect(p.mm.pinnedVm).toBe(3);
    drive(ibUmemRelease(k, first));
    drive(ibUmemRelease(k, second));
    p.mm.rlimitMemlock = 0;
    expect(drive(ibUmemGet(k, p.mm, hva, PAGE_SIZE, true))).toBe(-EPERM);
  });

  it('a fatal signal in the middle: -EINTR, and what was pinned is given back', () => {
    const hva = mapAnon(p, 600);
    sendSignal(k, SIGNAL_FATAL);
    expect(drive(ibUmemGet(k, p.mm, hva, 600 * PAGE_SIZE, true))).toBe(-EINTR);
    expect([p.mm.pinnedVm, pinsLive(k)]).toEqual([0, 0]);
  });
});

describe('what may be registered for long (1.8)', () => {
  /** A file of one page on the extent file system, mapped shared. */
  const mapFile = (): number => {
    const file = extentCreate(k, extentMkfs(k, blockDeviceCreate(k, 'disk', 64)));
    drive(fileTruncate(k, file, PAGE_SIZE));
    return drive(
      mmap(k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: file, pgoff: 0 }),
    );
  };

  it('a file that is written back: for reading, and never for writing', () => {
    const hva = mapFile();
    p.store8(hva, 1);
    expect(drive(ibUmemGet(k, p.mm, hva, PAGE_SIZE, true))).toBe(-EFAULT);
    expect([p.mm.pinnedVm, pinsLive(k)]).toEqual([0, 0]);
    drive(ibUmemRelease(k, registered(hva, PAGE_SIZE, false)));
  });

  it('under linux-6.5 as well: both refuse since 6.5', () => {
    k.policy = createPolicy('linux-6.5');
    expect(drive(ibUmemGet(k, p.mm, mapFile(), PAGE_SIZE, true))).toBe(-EFAULT);
  });

  it('pages in zone MOVABLE move out first, with their bytes (I5)', () => {
    const memory = new PhysMemory(32 * MIB);
    const tlb = { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} };
    const policy = createPolicy('linux-7');
    const zoned = createKernel({ memory, tlb, policy, movableBytes: 16 * MIB });
    zoned.checked = true;
    const user = new HostProcess(zoned, mmCreate(zoned), new Mmu(memory, 0));
    const hva = mapAnon(user, 32);
    for (let i = 0; i < 32; i++) user.store8(hva + i * PAGE_SIZE, i);
    const movable = zoned.state.zones[ZONE_MOVABLE]!.firstPage;
    expect(pageAt(user, hva)).toBeGreaterThanOrEqual(movable);
    const umem = drive(ibUmemGet(zoned, user.mm, hva, 32 * PAGE_SIZE, true));
    if (typeof umem === 'number') throw new Error(`ib_umem_get: ${umem}`);
    for (const { page, nr } of umem.runs) expect(page + nr).toBeLessThanOrEqual(movable);
    for (let i = 0; i < 32; i++) {
      expect(user.load8(hva + i * PAGE_SIZE)).toBe(i);
      expect(umemPageAt(umem, i * PAGE_SIZE)).toBe(pageAt(user, hva + i * PAGE_SIZE));
    }
    drive(ibUmemRelease(zoned, umem));
    expect(checkKernel(zoned, { quiescent: true })).toEqual([]);
  });
});

describe('ib_umem_release()', () => {
  it('marks the folios of a writable region dirty, and leaves the others alone', () => {
    const file = shmemCreate(k, 2);
    const hva = drive(
      mmap(k, p.mm, {
        lenBytes: 2 * PAGE_SIZE,
        prot: RW,
        flags: MAP_SHARED,
        mapping: file,
        pgoff: 0,
      }),
    );
    for (const [i, writable] of [true, false].entries()) {
      p.load8(hva + i * PAGE_SIZE);
      const umem = registered(hva + i * PAGE_SIZE, PAGE_SIZE, writable);
      const page = umemPageAt(umem, 0);
      drive(ibUmemRelease(k, umem));
      expect(folioTestDirty(k, page)).toBe(writable);
    }
  });

  it('after the memory has been unmapped, and after the process has gone', () => {
    const hva = mapAnon(p, 2);
    const [one, two] = [registered(hva, PAGE_SIZE), registered(hva + PAGE_SIZE, PAGE_SIZE)];
    drive(munmap(k, p.mm, hva, PAGE_SIZE));
    drive(ibUmemRelease(k, one));
    exit(p);
    expect(folioMaybeDmaPinned(k, umemPageAt(two, 0))).toBe(true);
    drive(ibUmemRelease(k, two));
    expect(pinsLive(k)).toBe(0);
    settled(w);
  });

  it('twice is a bug of the caller’s', () => {
    const umem = registered(mapAnon(p, 1), PAGE_SIZE);
    drive(ibUmemRelease(k, umem));
    expect(() => drive(ibUmemRelease(k, umem))).toThrow(/released twice/);
  });
});

describe('who holds a page of a region', () => {
  it('without provenance it is known by the region', () => {
    const hva = mapAnon(p, 1);
    const umem = registered(hva, PAGE_SIZE);
    expect(explainFrame(k, umemPageAt(umem, 0))).toMatchObject({
      pins: 1,
      longterm: [{ user: 'rdma', mm: p.mm.id, at: umem.id, pins: 1 }],
      unexplained: { pins: 0, references: 0 },
    });
  });

  it('with provenance each pin has the name, and a region of many folios gives back its own', () => {
    provenanceStart(k);
    const hva = mapAnon(p, 3);
    const other = new Int32Array(3);
    drive(pinUserPagesFast(k, p.mm, hva, 3, 1, other));
    const umem = registered(hva, 3 * PAGE_SIZE);
    const users = (page: number): string[] => explainFrame(k, page).holds.map(({ user }) => user);
    for (const page of other) expect(users(page)).toEqual(['', 'rdma']);
    drive(ibUmemRelease(k, umem));
    for (const page of other) expect(users(page)).toEqual(['']);
    settled(w);
  });
});
