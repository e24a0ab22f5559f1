/** Provenance: who holds each frame, by which function, since when; and what is left is a leak. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  checkKernel,
  createPipe,
  createPolicy,
  drive,
  explainFrame,
  folioOf,
  fork,
  type FrameHolders,
  GFP_KERNEL,
  type Hold,
  type HostProcess,
  HUGETLB_ORDER_2M,
  hugetlbSetPool,
  ioUringRegisterBuffer,
  ioUringUnregisterBuffer,
  type Kernel,
  MADV_PAGEOUT,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  migrateFolio,
  mmap,
  nameGupUser,
  type Path,
  pageToPfn,
  pipeRelease,
  provenanceStart,
  provenanceStop,
  shmemCreate,
  tee,
  vmspliceToPipe,
  YP_MIGRATE_UNMAPPED,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  pinUserPages,
  pinUserPagesFast,
  unpinUserPage,
  unpinUserPages,
  unpinUserPagesDirtyLock,
} from '#mm/driver-api';
import { createSecondaryPfn, faultInPfn, releasePfn } from '#mm/secondary';
import { folioPut } from '../../mm/folio/folio.ts';
import { getUserPagesFast, getUserPagesFastOnly } from '../../mm/gup/fast.ts';
import {
  getUserPages,
  getUserPagesRemote,
  getUserPagesUnlocked,
  pinUserPagesRemote,
  pinUserPagesUnlocked,
} from '../../mm/gup/slow.ts';
import { memfdPinFolios } from '../../mm/gup/memfd.ts';
import { unpinFolio, unpinUserFolio, unpinUserPageRangeDirtyLock } from '../../mm/gup/unpin.ts';
import { noteReleasePage } from '../../mm/provenance/provenance.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { mmapReadTrylock, mmapReadUnlock } from '../../mm/vma/lock.ts';
import { createProcess, createWorld, mapAnon, pageAt, RW, stepTo, type World } from './support.ts';

let w: World;
let k: Kernel;
let p: HostProcess;
/** Two written pages. */
let hva: number;
let pages: Int32Array;
beforeEach(() => {
  w = createWorld(32 << 20);
  k = w.k;
  p = createProcess(w);
  hva = mapAnon(p, 2);
  for (const at of [hva, hva + PAGE_SIZE]) p.store32(at, 1);
  pages = new Int32Array(2);
  provenanceStart(k);
});

const check = (): string[] => checkKernel(k, { quiescent: true });
const explain = (at: number): FrameHolders => explainFrame(k, pageAt(p, at));
/** All records, whatever the page. */
const holds = (): Hold[] => [...k.state.provenance!.holds.values()].flat();
const NOTHING = { pins: 0, references: 0 };

describe('every function of GUP is written down by its name', () => {
  const under = <T>(act: () => T): T => {
    expect(mmapReadTrylock(p.mm)).toBe(true);
    const result = act();
    mmapReadUnlock(p.mm);
    return result;
  };
  const user = 'access-remote-vm';
  const apis: { api: string; kind: 'get' | 'pin'; path: () => Path<number>; locked?: boolean }[] = [
    {
      api: 'get_user_pages',
      kind: 'get',
      locked: true,
      path: () => getUserPages(k, user, p.mm, hva, 2, 0, pages),
    },
    {
      api: 'get_user_pages_remote',
      kind: 'get',
      locked: true,
      path: () => getUserPagesRemote(k, user, p.mm, hva, 2, 0, pages, null),
    },
    {
      api: 'get_user_pages_unlocked',
      kind: 'get',
      path: () => getUserPagesUnlocked(k, user, p.mm, hva, 2, 0, pages),
    },
    {
      api: 'get_user_pages_fast',
      kind: 'get',
      path: () => getUserPagesFast(k, user, p.mm, hva, 2, 0, pages),
    },
    {
      api: 'get_user_pages_fast_only',
      kind: 'get',
      path: () => getUserPagesFastOnly(k, user, p.mm, hva, 2, 0, pages),
    },
    {
      api: 'pin_user_pages',
      kind: 'pin',
      locked: true,
      path: () => pinUserPages(k, p.mm, hva, 2, 0, pages),
    },
    {
      api: 'pin_user_pages_remote',
      kind: 'pin',
      locked: true,
      path: () => pinUserPagesRemote(k, p.mm, hva, 2, 0, pages, null),
    },
    {
      api: 'pin_user_pages_unlocked',
      kind: 'pin',
      path: () => pinUserPagesUnlocked(k, p.mm, hva, 2, FOLL_LONGTERM, pages),
    },
    {
      api: 'pin_user_pages_fast',
      kind: 'pin',
      path: () => pinUserPagesFast(k, p.mm, hva, 2, FOLL_WRITE, pages),
    },
  ];
  for (const { api, kind, path, locked } of apis)
    it(`${api}()`, () => {
      const take = (): number => {
        if (kind === 'pin') nameGupUser(k, 'a driver');
        return drive(path());
      };
      expect(locked === true ? under(take) : take()).toBe(2);
      for (const [i, page] of pages.entries()) {
        expect(k.state.provenance!.holds.get(page)).toMatchObject([
          {
            kind,
            api,
            n: 1,
            since: 1,
            user: kind === 'pin' ? 'a driver' : user,
            mm: p.mm.id,
            hva: hva + i * PAGE_SIZE,
            zapped: false,
          },
        ]);
        expect(explainFrame(k, page).unexplained).toEqual(NOTHING);
      }
      expect(check()).toEqual([]);
      if (kind === 'pin') unpinUserPages(k, pages, 2);
      else
        for (const page of pages) {
          noteReleasePage(k, 'get', page, 1, user);
          folioPut(k, page);
        }
      expect(holds()).toEqual([]);
      expect(check()).toEqual([]);
    });

  it('memfd_pin_folios(): by file, not by address', () => {
    const mapping = shmemCreate(k, 2);
    nameGupUser(k, 'memfd-pin-folios');
    const folios = new Int32Array(2);
    expect(drive(memfdPinFolios(k, mapping, 0, 2 * PAGE_SIZE - 1, folios, 2, { offset: 0 }))).toBe(
      2,
    );
    expect(holds()).toMatchObject([
      { api: 'memfd_pin_folios', kind: 'pin', mm: -1, hva: -1 },
      { api: 'memfd_pin_folios', kind: 'pin', mm: -1, hva: -1 },
    ]);
    expect(check()).toEqual([]);
    for (const folio of folios) unpinFolio(k, folio);
    expect(holds()).toEqual([]);
  });

  it('kvm, between looking a frame up and installing it, under the policies that take a reference', () => {
    const out = createSecondaryPfn();
    expect(drive(faultInPfn(k, p.mm, hva, true, out))).toBe(0);
    expect(holds()).toMatchObject([{ kind: 'get', user: 'kvm', api: 'get_user_pages_fast_only' }]);
    expect(check()).toEqual([]);
    releasePfn(k, out, true, true);
    expect(holds()).toEqual([]);
    k.policy = createPolicy('target');
    expect(drive(faultInPfn(k, p.mm, hva, true, out))).toBe(0);
    expect(holds()).toEqual([]);
    releasePfn(k, out, true, true);
  });

  it('io_uring: a buffer while it is registered', () => {
    const buffer = drive(ioUringRegisterBuffer(k, p.mm, hva, 2 * PAGE_SIZE));
    if (typeof buffer === 'number') throw new Error(`${buffer}`);
    expect(holds()).toMatchObject([{ user: 'io-uring-buffers' }, { user: 'io-uring-buffers' }]);
    const { fixedBuffers, unexplained } = explain(hva + PAGE_SIZE);
    expect(fixedBuffers).toEqual([{ buffer: buffer.id, mm: p.mm.id, hva: hva + PAGE_SIZE }]);
    expect(unexplained).toEqual(NOTHING);
    ioUringUnregisterBuffer(k, buffer);
    expect(holds()).toEqual([]);
  });
});

describe('what is given back', () => {
  const pin = (who = '', at = hva, n = 1): void => {
    nameGupUser(k, who);
    expect(drive(pinUserPagesFast(k, p.mm, at, n, FOLL_WRITE, pages))).toBe(n);
  };

  it('by page, by folio, by run, and with the dirty mark: the record goes', () => {
    for (const giveBack of [
      (page: number) => unpinUserPage(k, page),
      (page: number) => unpinUserPages(k, Int32Array.of(-1, page), 2),
      (page: number) => unpinUserFolio(k, page, 1),
      (page: number) => drive(unpinUserPagesDirtyLock(k, Int32Array.of(page), 1, true)),
      (page: number) => drive(unpinUserPageRangeDirtyLock(k, page, 1, false)),
    ]) {
      pin();
      giveBack(pages[0]!);
      expect(holds()).toEqual([]);
    }
    expect(k.state.provenance!.unmatched).toBe(0);
    expect(check()).toEqual([]);
  });

  it('of two holders of a page the one who is named goes', () => {
    pin('first');
    pin('second');
    nameGupUser(k, 'second');
    unpinUserPage(k, pages[0]!);
    expect(holds()).toMatchObject([{ user: 'first', since: 1 }]);
  });

  it('without a name the oldest of that kind goes', () => {
    pin('first');
    pin('second');
    unpinUserPage(k, pages[0]!);
    expect(holds()).toMatchObject([{ user: 'second', since: 2 }]);
  });

  it('a name is used up by the next call', () => {
    pin('first');
    expect(k.currentUser).toBe('');
    expect(drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect(holds()).toMatchObject([{ user: 'first' }, { user: '' }]);
  });

  it('what was taken before recording began is counted as unmatched', () => {
    provenanceStop(k);
    pin('before');
    expect(k.state.provenance).toBeNull();
    provenanceStart(k);
    unpinUserPage(k, pages[0]!);
    expect(k.state.provenance).toMatchObject({ unmatched: 1 });
    expect(check()).toEqual([]);
  });

  it('an error leaves no record', () => {
    expect(
      drive(pinUserPagesFast(k, p.mm, hva - 64 * PAGE_SIZE, 1, FOLL_WRITE, pages)),
    ).toBeLessThan(0);
    expect(holds()).toEqual([]);
  });

  it('pins of the zero page, which count nothing, are not recorded; references are', () => {
    const zero = mapAnon(p, 1);
    p.load32(zero);
    expect(drive(pinUserPagesFast(k, p.mm, zero, 1, 0, pages))).toBe(1);
    if (pages[0] === k.state.zeroPage) expect(holds()).toEqual([]);
    unpinUserPage(k, pages[0]!);
    expect(check()).toEqual([]);
  });
});

describe('leaks', () => {
  it('a reference without a record is found, and its frame says how many', () => {
    const page = pageAt(p, hva);
    k.state.frames.refcount[page]! += 2;
    expect(check().join('\n')).toMatch(/^I11 2 plain references, 0 are known of/m);
    expect(explain(hva).unexplained).toEqual({ pins: 0, references: 2 });
  });

  it('a pin without a record is found', () => {
    provenanceStop(k);
    drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages));
    expect(check()).toEqual([]);
    provenanceStart(k);
    expect(check().join('\n')).toMatch(/^I11 page \d+: 1 pins of nobody/m);
    expect(explain(hva).unexplained).toEqual({ pins: 1, references: 0 });
  });

  it('a holder that gave back behind the records is found', () => {
    drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages));
    k.state.frames.refcount[pages[0]!]! -= 1024;
    k.state.stat.nr_foll_pin_released++;
    expect(check().join('\n')).toMatch(/^I11 page \d+: 1 pins too few/m);
  });

  it('a pin that is forgotten says who took it, where and when', () => {
    nameGupUser(k, 'forgetful');
    drive(pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages));
    const {
      holds: [hold],
    } = explain(hva);
    expect(hold).toMatchObject({
      pfn: pageToPfn(pages[0]!),
      user: 'forgetful',
      api: 'pin_user_pages_fast',
      hva,
      since: 1,
    });
  });
});

describe('explainFrame()', () => {
  it('a page of a process: its entry, and nothing else', () => {
    expect(explain(hva)).toEqual({
      pfn: pageToPfn(pageAt(p, hva)),
      folioPfn: pageToPfn(pageAt(p, hva)),
      nrPages: 1,
      refcount: 1,
      pins: 0,
      mapcount: 1,
      entries: [{ kind: 'present', mm: p.mm.id, hva, level: 0, writable: true }],
      otherEntries: 0,
      cache: null,
      swapCache: null,
      kernel: [],
      pipes: [],
      fixedBuffers: [],
      longterm: [],
      holds: [],
      unexplained: NOTHING,
    });
  });

  it('after a fork both entries, read-only; a pinned page has one, and the child another frame', () => {
    drive(pinUserPagesFast(k, p.mm, hva + PAGE_SIZE, 1, FOLL_WRITE, pages));
    const child = drive(fork(k, p.mm));
    if (typeof child === 'number') throw new Error(`${child}`);
    expect(explain(hva).entries).toEqual([
      { kind: 'present', mm: p.mm.id, hva, level: 0, writable: false },
      { kind: 'present', mm: child.id, hva, level: 0, writable: false },
    ]);
    expect(explain(hva + PAGE_SIZE)).toMatchObject({
      refcount: 1 + 1024,
      pins: 1,
      entries: [{ mm: p.mm.id, writable: true }],
      holds: [{ kind: 'pin' }],
      unexplained: NOTHING,
    });
  });

  it('vmsplice: the pipe, and the reference by which it has the page', () => {
    const pipe = createPipe(k);
    expect(drive(vmspliceToPipe(k, p.mm, pipe, hva, PAGE_SIZE, 0))).toBe(PAGE_SIZE);
    expect(explain(hva)).toMatchObject({
      refcount: 2,
      pipes: [{ pipe: pipe.id, buffer: 0, hold: 'get' }],
      holds: [{ kind: 'get', user: 'vmsplice', api: 'get_user_pages_fast' }],
      unexplained: NOTHING,
    });
    const other = createPipe(k);
    tee(k, pipe, other, PAGE_SIZE);
    expect(explain(hva).holds.map(({ api }) => api)).toEqual(['get_user_pages_fast', 'tee']);
    expect(check()).toEqual([]);
    pipeRelease(k, pipe);
    pipeRelease(k, other);
    expect(explain(hva)).toMatchObject({ refcount: 1, holds: [], pipes: [] });
  });

  it('vmsplice without records: the pipe explains it', () => {
    provenanceStop(k);
    for (const api of ['get', 'pin-longterm'] as const) {
      k.policy.apis.vmsplice = api;
      const pipe = createPipe(k);
      drive(vmspliceToPipe(k, p.mm, pipe, hva, PAGE_SIZE, 0));
      expect(explain(hva)).toMatchObject({ pipes: [{ pipe: pipe.id }], unexplained: NOTHING });
      pipeRelease(k, pipe);
    }
  });

  it('swap: the cache, and its references', () => {
    swapon(k, 16);
    drive(fork(k, p.mm));
    const page = pageAt(p, hva);
    expect(drive(reclaimFolio(k, page))).toBe(0);
    p.load32(hva);
    const found = explain(hva);
    expect(found.swapCache).toMatchObject({ references: 1 });
    expect(found).toMatchObject({ refcount: 2, unexplained: NOTHING });
    drive(madvise(k, p.mm, hva, PAGE_SIZE, MADV_PAGEOUT));
    expect(check()).toEqual([]);
  });

  it("a file's page: the cache, by offset, and its entries", () => {
    const mapping = shmemCreate(k, 4);
    const request = { lenBytes: 4 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping, pgoff: 0 };
    const at = drive(mmap(k, p.mm, request)) + 2 * PAGE_SIZE;
    p.store32(at, 1);
    expect(explain(at)).toMatchObject({
      refcount: 2,
      cache: { mapping: mapping.id, kind: 'shmem', pgoff: 2, references: 1 },
      unexplained: NOTHING,
    });
  });

  it('a page of a huge folio: the entry in the middle, the pins of the whole', () => {
    k.state.thp.always = 1 << 9;
    const at = mapAnon(p, 512, RW, 0x4000_0000);
    p.store32(at, 1);
    drive(pinUserPagesFast(k, p.mm, at + 7 * PAGE_SIZE, 2, FOLL_WRITE, pages));
    const found = explainFrame(k, pages[0]!);
    expect(found).toMatchObject({
      nrPages: 512,
      refcount: 3,
      pins: 2,
      mapcount: 1,
      entries: [{ mm: p.mm.id, hva: at + 7 * PAGE_SIZE, level: 1, writable: true }],
      holds: [{ pfn: pageToPfn(pages[0]!) }, { pfn: pageToPfn(pages[1]!) }],
      unexplained: NOTHING,
    });
    // Split: this page has an entry of its own, and the folio has 511 others.
    drive(madvise(k, p.mm, at, PAGE_SIZE, 4));
    expect(explainFrame(k, pages[0]!)).toMatchObject({
      otherEntries: 510,
      refcount: 513,
      unexplained: NOTHING,
    });
    unpinUserFolio(k, folioOf(k, pages[0]!), 2);
    expect(holds()).toEqual([]);
  });

  it('hugetlb: one entry, one reference of the cache', () => {
    hugetlbSetPool(k, HUGETLB_ORDER_2M, 1);
    const flags = MAP_SHARED | MAP_ANONYMOUS | MAP_HUGETLB;
    const at = drive(mmap(k, p.mm, { lenBytes: 2 << 20, prot: RW, flags }));
    p.store32(at, 1);
    drive(pinUserPagesFast(k, p.mm, at + PAGE_SIZE, 1, FOLL_WRITE, pages));
    expect(explainFrame(k, pages[0]!)).toMatchObject({
      refcount: 3,
      pins: 1,
      entries: [{ level: 1, hva: at + PAGE_SIZE }],
      cache: { kind: 'hugetlbfs', pgoff: 1, references: 1 },
      unexplained: NOTHING,
    });
    expect(flags & MAP_PRIVATE).toBe(0);
  });

  it('a page on the move: isolated, and its entry says where it was', () => {
    const page = pageAt(p, hva);
    const path = migrateFolio(k, page);
    stepTo(k, path, YP_MIGRATE_UNMAPPED);
    expect(explainFrame(k, page)).toMatchObject({
      kernel: ['isolated'],
      entries: [{ kind: 'migration', mm: p.mm.id, hva }],
    });
    drive(path);
    expect(explain(hva)).toMatchObject({ refcount: 1, kernel: [], unexplained: NOTHING });
  });

  it('frames of the kernel: tables, the zero page; free ones have nobody; others are unexplained', () => {
    expect(explainFrame(k, p.mm.pgd)).toMatchObject({
      kernel: ['page table'],
      unexplained: NOTHING,
    });
    expect(explainFrame(k, k.state.zeroPage)).toMatchObject({
      kernel: ['reserved'],
      unexplained: NOTHING,
    });
    const free = k.state.zones[0]!.freeHead.find((page) => page >= 0) ?? -1;
    expect(explainFrame(k, free)).toMatchObject({ refcount: 0, kernel: [], unexplained: NOTHING });
    const own = allocPages(k, 0, GFP_KERNEL);
    expect(explainFrame(k, own).unexplained).toEqual({ pins: 0, references: 1 });
  });
});

it('records are plain data: they survive a copy of the kernel', () => {
  drive(pinUserPagesFast(k, p.mm, hva, 2, FOLL_WRITE, pages));
  const copy = structuredClone(k.state);
  expect(copy.provenance).toEqual(k.state.provenance);
});
