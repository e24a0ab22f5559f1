/**
 * guest_memfd: a file whose pages are the guest's own until it shares them. Compare
 * virt/kvm/guest_memfd.c; facts sheet 1.13, and recipe 2.16: nobody holds what becomes private.
 */
import { PAGE_SIZE } from '#emu';
import {
  accessRemoteVm,
  checkKernel,
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
  fileDirectRead,
  fileRead,
  fileTruncate,
  fileWrite,
  folioRefCount,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  guestMemfdConvert,
  guestMemfdCreate,
  guestMemfdFallocate,
  guestMemfdIsPrivate,
  ITER_DEST,
  iovIterUbuf,
  lruConfigure,
  MAP_PRIVATE,
  MAP_SHARED,
  mappingPut,
  memoryFailure,
  migrateFolio,
  mmap,
  nrFreePages,
  type Path,
  procMaps,
  YP_BIO_SUBMITTED,
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
} from '#mm/driver-api';
import { guestMemfdBind, guestMemfdUnbind } from '#mm/secondary';
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
} from './support.ts';

import {
  MMAP,
  SHARED,
  PUNCH,
  createFile,
  mapFile,
  bindGuest,
  binding,
  guestFault,
  guestStore,
  guestLoad,
  withGuest,
  convert,
  deviceWrites,
  allIsWell,
} from './guest-memfd-world.ts';

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
  /** A read by O_DIRECT has pinned the page of the guest, and the disk has not yet answered. */
  const race = (sabotaged: boolean) => {
    const { w, p, file } = dioWorld(new Uint8Array(PAGE_SIZE).fill(0xab));
    const { k } = w;
    k.sabotage.gmemConvertsHeld = sabotaged;
    const gmem = createFile(k, 1, SHARED);
    const hva = mapFile(p, gmem);
    const guest = bindGuest(k, gmem);
    guestStore(guest, 0, 0x11);
    const read = () => fileDirectRead(k, p.mm, file, 0, iovIterUbuf(ITER_DEST, hva, PAGE_SIZE));
    const transfer = read();
    stepTo(k, transfer, YP_BIO_SUBMITTED);
    return { w, k, gmem, guest, read, transfer };
  };

  it('is refused until the disk has answered: no byte of it arrives in private memory', () => {
    const { w, k, gmem, guest, read, transfer } = race(false);
    expect(convert(k, gmem, 0, true)).toBe(-EAGAIN);
    expect(drive(transfer)).toBe(PAGE_SIZE);
    expect(guestLoad(guest, 0)).toBe(0xabab_abab | 0);
    expect(convert(k, gmem, 0, true)).toBe(0);
    guestStore(guest, 0, 0x22);
    expect(drive(read())).toBe(-EFAULT);
    expect(guestLoad(guest, 0)).toBe(0x22);
    allIsWell(w);
  });

  it('without the look at the references the disk writes into what is the guest`s own by then', () => {
    const { k, gmem, guest, transfer } = race(true);
    expect(convert(k, gmem, 0, true)).toBe(0);
    guestStore(guest, 0, 0x22);
    expect(drive(transfer)).toBe(PAGE_SIZE);
    expect(guestLoad(guest, 0)).not.toBe(0x22);
  });
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
