/**
 * guest_memfd: a file whose pages are the guest's own until it shares them. Compare
 * virt/kvm/guest_memfd.c; facts sheet 1.13, and recipe 2.16: nobody holds what becomes private.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  accessRemoteVm,
  checkKernel,
  createPolicy,
  drive,
  EAGAIN,
  EBUSY,
  EFAULT,
  EHWPOISON,
  EINVAL,
  ENODEV,
  EOPNOTSUPP,
  FALLOC_FL_KEEP_SIZE,
  FALLOC_FL_PUNCH_HOLE,
  fileRead,
  fileTruncate,
  fileWrite,
  folioRefCount,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdConvert,
  guestMemfdCreate,
  guestMemfdFallocate,
  guestMemfdIsPrivate,
  type HostProcess,
  type Kernel,
  lruConfigure,
  MAP_PRIVATE,
  MAP_SHARED,
  mappingPut,
  memoryFailure,
  migrateFolio,
  mmap,
  nrFreePages,
  type Path,
  type PolicyName,
  procMaps,
  YP_MIGRATE_COPIED,
  YP_NOTIFIER_START,
  YP_SECONDARY_PFN,
} from '#mm';
import {
  FOLL_LONGTERM,
  FOLL_WRITE,
  pinUserPagesFast,
  readPinnedPage,
  unpinUserPages,
  writePinnedPage,
} from '#mm/driver-api';
import {
  createInvalidateState,
  createSecondaryPfn,
  guestMemfdBind,
  guestMemfdGetPfn,
  guestMemfdUnbind,
  invalidateBegin,
  invalidateEnd,
  invalidateOpen,
  invalidateRetry,
  invalidateSeq,
  pfnToPage,
  registerGuestMemfdOps,
  releasePfn,
} from '#mm/secondary';
import { describe, expect, it } from 'vitest';
import { rng } from '../support/rng.ts';
import { dioWorld } from './dio-world.ts';
import {
  createProcess,
  createWorld,
  exit,
  forkMm,
  interleave,
  pageAt,
  RW,
  settled,
  stepTo,
  type World,
} from './support.ts';

const MMAP = GUEST_MEMFD_FLAG_MMAP;
const SHARED = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
const PUNCH = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;

const createFile = (k: Kernel, nrPages: number, flags: number): AddressSpace => {
  const file = guestMemfdCreate(k, nrPages * PAGE_SIZE, flags);
  if (typeof file === 'number') throw new Error(`guestMemfdCreate: ${file}`);
  return file;
};

const mapFile = (p: HostProcess, mapping: AddressSpace, flags = MAP_SHARED): number =>
  drive(
    mmap(p.k, p.mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot: RW, flags, mapping, pgoff: 0 }),
  );

/** What a guest has: entries by page of the file, and an invalidate sequence in pages. */
interface Guest {
  k: Kernel;
  file: AddressSpace;
  entries: Map<number, number>;
  state: ReturnType<typeof createInvalidateState>;
  bound: boolean;
  retries: number;
}

/** A guest whose memory is all of the file. */
const bindGuest = (k: Kernel, file: AddressSpace): Guest => {
  const guest: Guest = {
    k,
    file,
    entries: new Map(),
    state: createInvalidateState(),
    bound: true,
    retries: 0,
  };
  registerGuestMemfdOps(k, 'guest', {
    invalidateStart: (_binding, first, end) => {
      invalidateBegin(guest.state, first, end);
      for (let pgoff = first; pgoff < end; pgoff++) guest.entries.delete(pgoff);
    },
    invalidateEnd: () => invalidateEnd(guest.state),
    released: () => {
      guest.bound = false;
    },
    visitFileEntries: (visit) => {
      for (const [pgoff, pfn] of guest.entries) visit(file, pgoff, pfn, true);
    },
  });
  expect(drive(guestMemfdBind(k, file, binding(file)))).toBe(0);
  return guest;
};

const binding = (
  file: AddressSpace,
  over: { pgoff?: number; owner?: number; slot?: number } = {},
) => ({
  ops: 'guest',
  owner: 1,
  slot: 0,
  pgoff: 0,
  nrPages: file.nrPages,
  ...over,
});

/** The guest's fault at a page. @returns 0 or -errno */
function* guestFault(guest: Guest, pgoff: number): Path<number> {
  const { k, file, state } = guest;
  const out = createSecondaryPfn();
  for (;;) {
    const seq = invalidateSeq(state);
    const error = yield* guestMemfdGetPfn(k, file, pgoff, out);
    if (error !== 0) return error;
    if (invalidateRetry(state, seq, pgoff)) {
      guest.retries++;
      releasePfn(k, out, false, false);
      while (invalidateOpen(state, pgoff)) yield 0;
      continue;
    }
    guest.entries.set(pgoff, out.pfn);
    releasePfn(k, out, true, true);
    return 0;
  }
}

/** Index of the first word of a page as the guest reaches it. @throws Error where it cannot */
const guestWord = (guest: Guest, pgoff: number): number => {
  if (!guest.entries.has(pgoff)) expect(drive(guestFault(guest, pgoff))).toBe(0);
  return guest.k.memory.pageOffset(pfnToPage(guest.entries.get(pgoff) ?? -1)) >>> 2;
};
const guestStore = (guest: Guest, pgoff: number, value: number): void => {
  guest.k.memory.i32[guestWord(guest, pgoff)] = value;
};
const guestLoad = (guest: Guest, pgoff: number): number =>
  guest.k.memory.i32[guestWord(guest, pgoff)]!;

/** A file that a process maps, and a guest that has it for its memory. */
const withGuest = (flags = SHARED, policy: PolicyName = 'linux-7', nrPages = 4) => {
  const w = createWorld();
  w.k.policy = createPolicy(policy);
  const p = createProcess(w);
  const file = createFile(w.k, nrPages, flags);
  const hva = (flags & MMAP) !== 0 ? mapFile(p, file) : -1;
  return { w, k: w.k, p, file, hva, guest: bindGuest(w.k, file) };
};

const convert = (
  k: Kernel,
  file: AddressSpace,
  pgoff: number,
  toPrivate: boolean,
  nr = 1,
): number => drive(guestMemfdConvert(k, file, pgoff, nr, toPrivate));

/** A device stores a byte at the beginning of a page that it has pinned. */
const deviceWrites = (k: Kernel, page: number, value: number): void =>
  writePinnedPage(k, page, 0, Uint8Array.of(value), 0, 1);

const allIsWell = ({ k }: Pick<World, 'k'>): void =>
  expect(checkKernel(k, { quiescent: true })).toEqual([]);

describe('making one — kvm_gmem_create()', () => {
  it('wants whole pages, and no flags but MMAP and INIT_SHARED', () => {
    const { k } = createWorld();
    for (const [sizeBytes, flags] of [
      [0, 0],
      [-PAGE_SIZE, 0],
      [PAGE_SIZE + 1, 0],
      [PAGE_SIZE, 4],
      [PAGE_SIZE, SHARED | 8],
    ] as const)
      expect(guestMemfdCreate(k, sizeBytes, flags)).toBe(-EINVAL);
    for (const flags of [0, MMAP, GUEST_MEMFD_FLAG_INIT_SHARED, SHARED])
      expect(createFile(k, 2, flags).nrPages).toBe(2);
  });

  it('all of it is private, or shared with INIT_SHARED', () => {
    const { k } = createWorld();
    const privateOf = (flags: number) =>
      [0, 31, 32, 39].map((pgoff) => guestMemfdIsPrivate(createFile(k, 40, flags), pgoff));
    expect(privateOf(MMAP)).toEqual([true, true, true, true]);
    expect(privateOf(SHARED)).toEqual([false, false, false, false]);
  });

  it('it cannot be read, written or resized: there is no read(), and its size is for good', () => {
    const { k } = createWorld();
    const file = createFile(k, 2, SHARED);
    expect(drive(fileRead(k, file, 0, new Uint8Array(4)))).toBe(-EINVAL);
    expect(drive(fileWrite(k, file, 0, new Uint8Array(4)))).toBe(-EINVAL);
    expect(drive(fileTruncate(k, file, PAGE_SIZE))).toBe(-EINVAL);
  });
});

describe('mmap() — kvm_gmem_mmap()', () => {
  it('is -ENODEV without the flag, and -EINVAL privately', () => {
    const w = createWorld();
    const p = createProcess(w);
    expect(mapFile(p, createFile(w.k, 2, 0))).toBe(-ENODEV);
    expect(mapFile(p, createFile(w.k, 2, GUEST_MEMFD_FLAG_INIT_SHARED))).toBe(-ENODEV);
    expect(mapFile(p, createFile(w.k, 2, SHARED), MAP_PRIVATE)).toBe(-EINVAL);
  });

  it('shows shared pages, zeroed at first, to every process', () => {
    const { w, p, hva } = withGuest();
    const child = createProcess(w, forkMm(w.k, p.mm));
    expect(p.load32(hva)).toBe(0);
    p.store32(hva, 5);
    expect(child.load32(hva)).toBe(5);
    child.store32(hva + PAGE_SIZE, 6);
    expect(p.load32(hva + PAGE_SIZE)).toBe(6);
    allIsWell(w);
  });

  it('a private page, and what is beyond the end, is SIGBUS; GUP finds neither', () => {
    const { w, k, p, file } = withGuest(MMAP);
    const hva = mapFile(p, file);
    expect(p.load32(hva)).toBe(-EFAULT);
    expect(p.store32(hva, 1)).toBe(-EFAULT);
    const pages = new Int32Array(1);
    for (const flags of [0, FOLL_WRITE, FOLL_WRITE | FOLL_LONGTERM])
      expect(drive(pinUserPagesFast(k, p.mm, hva, 1, flags, pages))).toBe(-EFAULT);
    expect(drive(accessRemoteVm(k, p.mm, hva, new Uint8Array(4), false))).toBe(0);
    expect(file.pages.size).toBe(0);
    const longer = drive(
      mmap(k, p.mm, { lenBytes: 5 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: file }),
    );
    convert(k, file, 3, false);
    expect(p.load32(longer + 3 * PAGE_SIZE)).toBe(0);
    expect(p.load32(longer + 4 * PAGE_SIZE)).toBe(-EFAULT);
    allIsWell(w);
  });

  it('has a name in /proc/PID/maps', () => {
    const { p } = withGuest();
    expect(procMaps(p.mm)).toContain('/[kvm-gmem] (deleted)');
  });

  it('GUP on a shared page is like GUP on memory of a file that is not written back: for long, too', () => {
    const { w, k, p, file, hva } = withGuest();
    const pages = new Int32Array(2);
    expect(drive(pinUserPagesFast(k, p.mm, hva, 2, FOLL_WRITE | FOLL_LONGTERM, pages))).toBe(2);
    expect([...pages]).toEqual([file.pages.get(0), file.pages.get(1)]);
    deviceWrites(k, pages[0]!, 9);
    expect(p.load32(hva)).toBe(9);
    unpinUserPages(k, pages, 2);
    allIsWell(w);
  });
});

describe('fallocate() — kvm_gmem_fallocate()', () => {
  it('wants KEEP_SIZE, whole pages, and no page beyond the end', () => {
    const { k, file } = withGuest();
    const call = (mode: number, offset: number, lenBytes: number) =>
      drive(guestMemfdFallocate(k, file, mode, offset, lenBytes));
    expect(call(0, 0, PAGE_SIZE)).toBe(-EOPNOTSUPP);
    expect(call(FALLOC_FL_PUNCH_HOLE, 0, PAGE_SIZE)).toBe(-EOPNOTSUPP);
    expect(call(FALLOC_FL_KEEP_SIZE | 0x10, 0, PAGE_SIZE)).toBe(-EOPNOTSUPP);
    expect(call(FALLOC_FL_KEEP_SIZE, 1, PAGE_SIZE)).toBe(-EINVAL);
    expect(call(FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE - 1)).toBe(-EINVAL);
    expect(call(FALLOC_FL_KEEP_SIZE, 0, 0)).toBe(-EINVAL);
    expect(call(FALLOC_FL_KEEP_SIZE, 3 * PAGE_SIZE, 2 * PAGE_SIZE)).toBe(-EINVAL);
    expect(file.pages.size).toBe(0);
    expect(call(FALLOC_FL_KEEP_SIZE, PAGE_SIZE, 2 * PAGE_SIZE)).toBe(0);
    expect([...file.pages.keys()]).toEqual([1, 2]);
    expect(call(PUNCH, 3 * PAGE_SIZE, 9 * PAGE_SIZE)).toBe(0);
  });

  for (const flags of [SHARED, 0])
    it(`a hole takes ${flags === 0 ? 'private' : 'shared'} pages from guest and host, and reads as zeroes`, () => {
      const { w, k, p, file, hva, guest } = withGuest(flags);
      for (let i = 0; i < 4; i++) guestStore(guest, i, 10 + i);
      const free = nrFreePages(k);
      expect(drive(guestMemfdFallocate(k, file, PUNCH, PAGE_SIZE, 2 * PAGE_SIZE))).toBe(0);
      expect([...guest.entries.keys()]).toEqual([0, 3]);
      expect(nrFreePages(k)).toBe(free + 2);
      expect([0, 1, 2, 3].map((i) => guestLoad(guest, i))).toEqual([10, 0, 0, 13]);
      if (hva >= 0) expect(p.load32(hva + PAGE_SIZE)).toBe(0);
      allIsWell(w);
    });

  it('whoever has pinned a page of a hole keeps the frame; the file has another', () => {
    const { w, k, p, file, hva, guest } = withGuest();
    guestStore(guest, 0, 7);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, hva, 1, 0, pages));
    drive(guestMemfdFallocate(k, file, PUNCH, 0, PAGE_SIZE));
    expect(guestLoad(guest, 0)).toBe(0);
    expect(file.pages.get(0)).not.toBe(pages[0]);
    const bytes = new Uint8Array(4);
    readPinnedPage(k, pages[0]!, 0, bytes, 0, 4);
    expect([...bytes]).toEqual([7, 0, 0, 0]);
    unpinUserPages(k, pages, 1);
    allIsWell(w);
  });
});

describe('a bound slot — kvm_gmem_bind()', () => {
  it('shows pages of one file, which no other slot shows, nor another VM', () => {
    const { k, file } = withGuest();
    const bind = (over: { pgoff?: number; owner?: number; slot?: number; nrPages?: number }) =>
      drive(guestMemfdBind(k, file, { ...binding(file), nrPages: 1, ...over }));
    expect(bind({ slot: 1 })).toBe(-EINVAL);
    drive(guestMemfdUnbind(file, 'guest', 1, 0));
    expect(bind({ pgoff: -1 })).toBe(-EINVAL);
    expect(bind({ pgoff: 3, nrPages: 2 })).toBe(-EINVAL);
    expect(bind({ pgoff: 0, nrPages: 2, slot: 1 })).toBe(0);
    expect(bind({ pgoff: 1, slot: 2 })).toBe(-EINVAL);
    expect(bind({ pgoff: 2, slot: 2, owner: 2 })).toBe(-EINVAL);
    expect(bind({ pgoff: 2, slot: 2 })).toBe(0);
  });

  it('guest and host see the same bytes of a shared page', () => {
    for (const policy of ['linux-7', 'target'] as const) {
      const { w, p, hva, guest } = withGuest(SHARED, policy);
      guestStore(guest, 1, 42);
      expect(p.load32(hva + PAGE_SIZE)).toBe(42);
      p.store32(hva + PAGE_SIZE, 43);
      expect(guestLoad(guest, 1)).toBe(43);
      allIsWell(w);
    }
  });

  it('holds no reference once the entry is installed', () => {
    for (const policy of ['linux-7', 'target'] as const) {
      const { k, file, guest } = withGuest(0, policy);
      guestStore(guest, 0, 1);
      expect(folioRefCount(k, file.pages.get(0) ?? -1)).toBe(1);
    }
  });

  it('a fault that has its page when a hole is punched starts again', () => {
    const { w, k, file, guest } = withGuest(0, 'target');
    guestStore(guest, 0, 5);
    guest.entries.clear();
    const fault = guestFault(guest, 0);
    stepTo(k, fault, YP_SECONDARY_PFN);
    drive(guestMemfdFallocate(k, file, PUNCH, 0, PAGE_SIZE));
    expect(drive(fault)).toBe(0);
    expect(guest.retries).toBe(1);
    expect(guestLoad(guest, 0)).toBe(0);
    allIsWell(w);
  });

  it('shows nothing any more when the file is gone', () => {
    const { w, k, p, file, guest } = withGuest();
    guestStore(guest, 0, 5);
    exit(p);
    expect(guest.bound).toBe(true);
    drive(mappingPut(k, file));
    expect([guest.bound, guest.entries.size]).toEqual([false, 0]);
    expect(nrFreePages(k)).toBe(w.freeAtStart);
    settled(w);
  });
});

describe('a page changes sides', () => {
  it('to private: the host loses it, the bytes stay the guest`s', () => {
    const { w, k, p, file, hva, guest } = withGuest();
    p.store32(hva, 5);
    expect(guestLoad(guest, 0)).toBe(5);
    expect(convert(k, file, 0, true)).toBe(0);
    expect(guest.entries.size).toBe(0);
    expect(p.load32(hva)).toBe(-EFAULT);
    expect(p.load32(hva + PAGE_SIZE)).toBe(0);
    expect(guestLoad(guest, 0)).toBe(5);
    expect(convert(k, file, 0, false)).toBe(0);
    expect(p.load32(hva)).toBe(5);
    allIsWell(w);
  });

  it('beyond the end is -EINVAL', () => {
    const { k, file } = withGuest();
    for (const [first, nr] of [
      [-1, 1],
      [0, 0],
      [3, 2],
    ] as const)
      expect(drive(guestMemfdConvert(k, file, first, nr, true))).toBe(-EINVAL);
  });

  it('not while a pin holds any of them: -EAGAIN, and none has changed (2.16)', () => {
    const { w, k, p, file, hva } = withGuest();
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(k, p.mm, hva + 2 * PAGE_SIZE, 1, FOLL_WRITE, pages));
    expect(convert(k, file, 0, true, 4)).toBe(-EAGAIN);
    expect([0, 1, 2, 3].map((i) => guestMemfdIsPrivate(file, i))).toEqual([
      false,
      false,
      false,
      false,
    ]);
    expect(p.load32(hva + 2 * PAGE_SIZE)).toBe(0);
    expect(convert(k, file, 0, true, 2)).toBe(0);
    unpinUserPages(k, pages, 1);
    expect(convert(k, file, 0, true, 4)).toBe(0);
    allIsWell(w);
  });

  it('a batch of the LRU is nobody who holds it', () => {
    const { w, k, p, file, hva } = withGuest();
    lruConfigure(k, 15);
    p.store32(hva, 1);
    expect(folioRefCount(k, pageAt(p, hva))).toBeGreaterThan(2);
    expect(convert(k, file, 0, true)).toBe(0);
    allIsWell(w);
  });

  it('not while a fault of the host has the page in its hands', () => {
    const { w, k, p, file, hva, guest } = withGuest();
    guestStore(guest, 0, 1);
    k.watched = true;
    const conversion = guestMemfdConvert(k, file, 0, 1, true);
    while (conversion.next().value !== YP_NOTIFIER_START);
    k.watched = false;
    // The lock of the file is held: the fault waits, and finds the page private.
    const fault = accessRemoteVm(k, p.mm, hva, new Uint8Array(4), false);
    expect(fault.next().done).toBe(false);
    expect(drive(conversion)).toBe(0);
    expect(drive(fault)).toBe(0);
    allIsWell(w);
  });

  for (const seed of [1, 2, 3, 4, 5, 6])
    it(`seed ${seed}: no pin is ever of a private page, whoever comes first`, () => {
      const random = rng(seed);
      const { w, k, p, file, hva, guest } = withGuest(
        SHARED,
        seed % 2 === 0 ? 'target' : 'linux-7',
      );
      const wrong: string[] = [];
      let converted = 0;
      function* pinner(): Path<void> {
        const pages = new Int32Array(1);
        for (let i = 0; i < 30; i++) {
          const pgoff = random.below(4);
          const n = yield* pinUserPagesFast(k, p.mm, hva + pgoff * PAGE_SIZE, 1, FOLL_WRITE, pages);
          if (n !== 1) continue;
          const page = pages[0]!;
          for (let j = 0; j < 3; j++) {
            if (file.pages.get(pgoff) === page && guestMemfdIsPrivate(file, pgoff))
              wrong.push(`page ${pgoff} is pinned and private`);
            yield 1;
          }
          unpinUserPages(k, pages, 1);
        }
      }
      function* converter(): Path<void> {
        for (let i = 0; i < 40; i++) {
          const pgoff = random.below(4);
          const error = yield* guestMemfdConvert(k, file, pgoff, 1, random.chance(0.6));
          if (error === 0) converted++;
          else if (error !== -EAGAIN) wrong.push(`conversion: ${error}`);
        }
      }
      function* runner(): Path<void> {
        for (let i = 0; i < 40; i++) {
          const pgoff = random.below(4);
          const error = yield* guestFault(guest, pgoff);
          if (error !== 0) wrong.push(`guest: ${error}`);
        }
      }
      function* mover(): Path<void> {
        for (let i = 0; i < 20; i++) {
          const page = file.pages.get(random.below(4));
          if (page !== undefined) yield* migrateFolio(k, page);
        }
      }
      function* puncher(): Path<void> {
        for (let i = 0; i < 10; i++)
          yield* guestMemfdFallocate(k, file, PUNCH, random.below(4) * PAGE_SIZE, PAGE_SIZE);
      }
      interleave(k, [pinner(), pinner(), converter(), runner(), mover(), puncher()], random);
      expect(wrong).toEqual([]);
      expect(converted).toBeGreaterThan(10);
      allIsWell(w);
    });
});

describe('recipe 2.16: direct I/O into a shared page, and a conversion', () => {
  /** A read of a file by O_DIRECT into the page is on its way when it is to become private. */
  const race = (sabotaged: boolean) => {
    const d = dioWorld(new Uint8Array(PAGE_SIZE).fill(0xab));
    const { k } = d.w;
    k.sabotage.gmemConvertsHeld = sabotaged;
    const file = createFile(k, 1, SHARED);
    const hva = mapFile(d.p, file);
    const guest = bindGuest(k, file);
    guestStore(guest, 0, 0x11);
    return { ...d, k, gmem: file, gmemHva: hva, guest };
  };

  for (const sabotaged of [false, true])
    it(
      sabotaged
        ? 'without the look at the references the disk writes into private memory'
        : 'is refused until the transfer is over: after it no byte of the disk arrives',
      () => {
        const { k, p, gmem, gmemHva, guest } = race(sabotaged);
        // A device has pinned the page and has not yet written.
        const pages = new Int32Array(1);
        expect(drive(pinUserPagesFast(k, p.mm, gmemHva, 1, FOLL_WRITE, pages))).toBe(1);
        const error = convert(k, gmem, 0, true);
        expect(error).toBe(sabotaged ? 0 : -EAGAIN);
        if (error === 0) guestStore(guest, 0, 0x22);
        deviceWrites(k, pages[0]!, 0xab);
        unpinUserPages(k, pages, 1);
        expect(guestLoad(guest, 0)).toBe(0xab);
        if (error === 0) return;
        expect(convert(k, gmem, 0, true)).toBe(0);
        guestStore(guest, 0, 0x22);
        expect(drive(pinUserPagesFast(k, p.mm, gmemHva, 1, FOLL_WRITE, pages))).toBe(-EFAULT);
        expect(guestLoad(guest, 0)).toBe(0x22);
      },
    );
});

describe('migration — kvm_gmem_migrate_folio()', () => {
  it('moves shared pages under host and guest', () => {
    const { w, k, p, file, hva, guest } = withGuest();
    guestStore(guest, 0, 5);
    p.store32(hva + 4, 6);
    const old = file.pages.get(0) ?? -1;
    expect(drive(migrateFolio(k, old))).toBe(0);
    expect(file.pages.get(0)).not.toBe(old);
    expect(guest.entries.size).toBe(0);
    expect([guestLoad(guest, 0), p.load32(hva + 4)]).toEqual([5, 6]);
    allIsWell(w);
  });

  it('a guest that faults while the bytes are copied waits, and holds the page: it stays', () => {
    const { w, k, file, guest } = withGuest();
    guestStore(guest, 0, 5);
    const move = migrateFolio(k, file.pages.get(0) ?? -1);
    stepTo(k, move, YP_MIGRATE_COPIED);
    const fault = guestFault(guest, 0);
    for (let i = 0; i < 20; i++) fault.next();
    expect(guest.entries.size).toBe(0);
    expect(drive(move)).toBe(-EAGAIN);
    expect(drive(fault)).toBe(0);
    expect(guestLoad(guest, 0)).toBe(5);
    allIsWell(w);
  });

  it('private pages stay: nobody could copy them', () => {
    const { w, k, file, guest } = withGuest(0);
    guestStore(guest, 0, 5);
    const page = file.pages.get(0) ?? -1;
    expect(drive(migrateFolio(k, page))).toBe(-EBUSY);
    expect(file.pages.get(0)).toBe(page);
    expect(guestLoad(guest, 0)).toBe(5);
    allIsWell(w);
  });

  it('while pages of the file go it is -EAGAIN', () => {
    const { k, file, guest } = withGuest();
    guestStore(guest, 0, 5);
    k.watched = true;
    const punch = guestMemfdFallocate(k, file, PUNCH, PAGE_SIZE, PAGE_SIZE);
    while (punch.next().value !== YP_NOTIFIER_START);
    k.watched = false;
    expect(drive(migrateFolio(k, file.pages.get(0) ?? -1))).toBe(-EAGAIN);
    drive(punch);
    expect(drive(migrateFolio(k, file.pages.get(0) ?? -1))).toBe(0);
  });
});

describe('memory that has gone bad — kvm_gmem_error_folio()', () => {
  for (const flags of [SHARED, 0])
    it(`a ${flags === 0 ? 'private' : 'shared'} page is taken from the guest, and stays in the file, marked`, () => {
      const { w, k, p, file, hva, guest } = withGuest(flags);
      guestStore(guest, 0, 5);
      if (hva >= 0) p.load32(hva);
      const page = file.pages.get(0) ?? -1;
      expect(drive(memoryFailure(k, page))).toBe(0);
      expect(guest.entries.size).toBe(0);
      expect(drive(guestFault(guest, 0))).toBe(-EHWPOISON);
      expect(file.pages.get(0)).toBe(page);
      if (hva >= 0) expect(p.load32(hva)).toBeLessThan(0);
      expect(guestLoad(guest, 1)).toBe(0);
      // A hole takes it away, and the next page is a good one.
      expect(drive(guestMemfdFallocate(k, file, PUNCH, 0, PAGE_SIZE))).toBe(0);
      expect(guestLoad(guest, 0)).toBe(0);
      expect(checkKernel(w.k)).toEqual([]);
    });
});
