/** Slow GUP: facts sheet 1.2, and COW, exclusiveness and unsharing as GUP sees them: 1.5, 1.6. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL, ENOMEM } from '../../mm/errno.ts';
import { folioPut } from '../../mm/folio/folio.ts';
import { folioMaybeDmaPinned, GUP_PIN_COUNTING_BIAS } from '../../mm/folio/pin.ts';
import { PG_ANON_EXCLUSIVE, PG_DIRTY } from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import {
  FOLL_ANON,
  FOLL_DUMP,
  FOLL_FORCE,
  FOLL_LONGTERM,
  FOLL_MADV_POPULATE,
  FOLL_NOFAULT,
  FOLL_TOUCH,
  FOLL_UNLOCKABLE,
  FOLL_WRITE,
} from '../../mm/gup/flags.ts';
import { getUserPagesUnlocked, pinUserPages, pinUserPagesUnlocked } from '../../mm/gup/slow.ts';
import { unpinUserPage, unpinUserPages, unpinUserPagesDirtyLock } from '../../mm/gup/unpin.ts';
import { getUserPagesLocked } from '../../mm/gup/walk.ts';
import { drive, type Path, YP_WAIT } from '../../mm/path.ts';
import { pteWrite } from '../../mm/pgtable/pte.ts';
import type { Kernel, MmStruct } from '../../mm/types.ts';
import {
  MADV_DONTNEED,
  MAP_PRIVATE,
  MAP_SHARED,
  PROT_NONE,
  PROT_READ,
  PROT_WRITE,
} from '../../mm/vma/flags.ts';
import { madvise } from '../../mm/vma/madvise.ts';
import { mmapRead } from '../../mm/vma/lock.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { mmap, munmap } from '../../mm/vma/mmap.ts';
import {
  forkMm,
  byteOf,
  createWorld,
  entryAt,
  freeOf,
  load,
  mapAnon,
  mapFile,
  pageAt,
  pinsLive,
  RW,
  store,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
const pages = new Int32Array(64);

const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const pin = (hva: number, n: number, flags: number, of = mm): number =>
  drive(pinUserPagesUnlocked(k, of, hva, n, flags, pages));
const get = (hva: number, n: number, flags: number, of = mm): number =>
  drive(getUserPagesUnlocked(k, 'access-remote-vm', of, hva, n, flags, pages));
const exclusive = (page: number): boolean =>
  (k.state.frames.flags[page]! & PG_ANON_EXCLUSIVE) !== 0;
const dirty = (page: number): boolean => (k.state.frames.flags[page]! & PG_DIRTY) !== 0;

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
});

describe('the walk of slow GUP — 1.2', () => {
  it('step 1: no pages asked for, none given, and the mm is not marked', () => {
    expect(pin(0, 0, 0)).toBe(0);
    expect(mm.hasPinned).toBe(false);
  });

  it('step 1: the first pin sets the sticky flag of the mm', () => {
    const hva = mapAnon(k, mm, 1);
    get(hva, 1, 0);
    folioPut(k, pages[0]!);
    expect(mm.hasPinned).toBe(false);
    expect(pin(hva, 1, FOLL_WRITE)).toBe(1);
    unpinUserPage(k, pages[0]!);
    expect(mm.hasPinned).toBe(true);
  });

  it('step 2: no VMA is -EFAULT', () => expect(pin(0x1000, 1, 0)).toBe(-EFAULT));

  it('step 2: FOLL_ANON on a file is -EFAULT', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    expect(pin(hva, 1, FOLL_ANON)).toBe(-EFAULT);
    expect(get(mapAnon(k, mm, 1), 1, FOLL_ANON)).toBe(1);
  });

  it('step 2: WRITE without VM_WRITE is -EFAULT', () => {
    const hva = mapAnon(k, mm, 1, PROT_READ);
    expect(pin(hva, 1, FOLL_WRITE)).toBe(-EFAULT);
    expect(pin(hva, 1, 0)).toBe(1);
  });

  it('step 2: READ without VM_READ is -EFAULT, with FORCE it is not', () => {
    const hva = mapAnon(k, mm, 1, PROT_NONE);
    expect(get(hva, 1, 0)).toBe(-EFAULT);
    expect(get(hva, 1, FOLL_FORCE)).toBe(1);
  });

  it('step 4: what is absent is faulted in, in order of address', () => {
    const hva = mapAnon(k, mm, 8);
    store(k, mm, hva + 3 * PAGE_SIZE, 7);
    expect(pin(hva, 8, FOLL_WRITE)).toBe(8);
    for (let i = 0; i < 8; i++) expect(pages[i]).toBe(pageAt(k, mm, hva + i * PAGE_SIZE));
    unpinUserPages(k, pages, 8);
    expect(violations(k)).toEqual([]);
  });

  it('step 4: the address is rounded down to its page', () => {
    const hva = mapAnon(k, mm, 1);
    expect(pin(hva + 123, 1, FOLL_WRITE)).toBe(1);
    expect(pages[0]).toBe(pageAt(k, mm, hva));
  });

  it('step 4: NOFAULT gives -EFAULT instead of a fault', () => {
    const hva = mapAnon(k, mm, 2);
    expect(get(hva, 1, FOLL_NOFAULT)).toBe(-EFAULT);
    store(k, mm, hva, 1);
    expect(get(hva, 2, FOLL_NOFAULT)).toBe(1);
  });

  it('step 4: DUMP leaves holes and refuses the zero page', () => {
    const hva = mapAnon(k, mm, 1);
    expect(get(hva, 1, FOLL_DUMP)).toBe(-EFAULT);
    load(k, mm, hva);
    expect(get(hva, 1, FOLL_DUMP)).toBe(-EFAULT);
    store(k, mm, hva, 1);
    expect(get(hva, 1, FOLL_DUMP)).toBe(1);
  });

  it('step 6: TOUCH with WRITE marks a clean folio dirty; plain pin_user_pages does not', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 2));
    load(k, mm, hva);
    load(k, mm, hva + PAGE_SIZE);
    const plain = mmapRead(mm, pinUserPages(k, mm, hva, 1, FOLL_WRITE, pages));
    expect(drive(plain)).toBe(1);
    expect(dirty(pages[0]!)).toBe(false);
    expect(get(hva + PAGE_SIZE, 1, 0)).toBe(1);
    expect(dirty(pages[0]!)).toBe(false);
    expect(get(hva + PAGE_SIZE, 1, FOLL_WRITE)).toBe(1);
    expect(dirty(pages[0]!)).toBe(true);
  });

  it('partial success: the count so far, the error only without any', () => {
    const hva = mapAnon(k, mm, 3);
    drive(munmap(k, mm, hva + 2 * PAGE_SIZE, PAGE_SIZE));
    expect(pin(hva, 3, FOLL_WRITE)).toBe(2);
    unpinUserPages(k, pages, 2);
    expect(pin(hva + 2 * PAGE_SIZE, 1, FOLL_WRITE)).toBe(-EFAULT);
  });

  it('out of memory is -ENOMEM, or the count so far', () => {
    const hva = mapAnon(k, mm, 4096);
    const many = new Int32Array(4096);
    const n = drive(pinUserPagesUnlocked(k, mm, hva, 4096, FOLL_WRITE, many));
    expect(n).toBeGreaterThan(1000);
    expect(n).toBeLessThan(2048);
    expect(pin(hva + n * PAGE_SIZE, 1, FOLL_WRITE)).toBe(-ENOMEM);
    unpinUserPages(k, many, n);
  });

  it('beyond the end of the file: SIGBUS is -EFAULT', () => {
    const file = shmemCreate(k, 1);
    const lenBytes = 2 * PAGE_SIZE;
    const hva = drive(mmap(k, mm, { lenBytes, prot: RW, flags: MAP_SHARED, mapping: file }));
    expect(pin(hva, 2, FOLL_WRITE)).toBe(1);
    unpinUserPages(k, pages, 1);
    expect(pin(hva + PAGE_SIZE, 1, FOLL_WRITE)).toBe(-EFAULT);
  });

  it('MADV_POPULATE has errors of its own: -ENOMEM without a VMA, -EINVAL where it refuses', () => {
    const populate = (at: number, flags: number): number => {
      const all = FOLL_MADV_POPULATE | FOLL_TOUCH | FOLL_UNLOCKABLE | flags;
      return drive(getUserPagesLocked(k, mm, at, 1, all, null, { locked: 0 }));
    };
    expect(populate(0x1_0000, 0)).toBe(-ENOMEM);
    expect(populate(mapAnon(k, mm, 1, PROT_READ), FOLL_WRITE)).toBe(-EINVAL);
    expect(populate(mapAnon(k, mm, 1), FOLL_WRITE)).toBe(1);
  });

  it('across two VMAs and two page tables', () => {
    const file = mapFile(k, mm, shmemCreate(k, 600));
    expect(drive(pinUserPagesUnlocked(k, mm, file, 600, FOLL_WRITE, new Int32Array(600)))).toBe(
      600,
    );
    expect(pinsLive(k)).toBe(600);
  });
});

describe('pins, references and what they do to a write — 1.3, 1.5', () => {
  it('a pin adds 1024, a reference 1, and both keep the page after munmap', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const page = pageAt(k, mm, hva);
    pin(hva, 1, FOLL_WRITE);
    get(hva, 1, 0);
    expect(k.state.frames.refcount[page]).toBe(1 + GUP_PIN_COUNTING_BIAS + 1);
    const free = freeOf(k);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    expect(byteOf(k, page)).toBe(42);
    folioPut(k, page);
    unpinUserPage(k, page);
    expect(freeOf(k)).toBeGreaterThan(free);
    expect(pinsLive(k)).toBe(0);
  });

  it('a R/W pin of fresh memory pins an exclusive page', () => {
    const hva = mapAnon(k, mm, 1);
    pin(hva, 1, FOLL_WRITE);
    expect(exclusive(pages[0]!)).toBe(true);
  });

  it('a R/O pin of a shared anonymous page unshares it first, and leaves it read-only', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 9);
    const shared = pageAt(k, mm, hva);
    const child = forkOf(mm);
    expect(exclusive(shared)).toBe(false);
    expect(pin(hva, 1, 0, child)).toBe(1);
    const own = pages[0]!;
    expect(own).not.toBe(shared);
    expect(own).toBe(pageAt(k, child, hva));
    expect(exclusive(own)).toBe(true);
    expect(pteWrite(entryAt(k, child, hva))).toBe(false);
    expect(byteOf(k, own)).toBe(9);
    // The child's own write stays on the page that is pinned.
    store(k, child, hva, 10);
    expect(pageAt(k, child, hva)).toBe(own);
    expect(byteOf(k, own)).toBe(10);
    expect(load(k, mm, hva)).toBe(9);
    unpinUserPage(k, own);
    expect(violations(k)).toEqual([]);
  });

  it('FOLL_GET never unshares: the holder keeps the old page while the process moves on', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 9);
    const child = forkOf(mm);
    get(hva, 1, 0, child);
    const held = pages[0]!;
    expect(held).toBe(pageAt(k, mm, hva));
    store(k, child, hva, 10);
    expect(pageAt(k, child, hva)).not.toBe(held);
    expect(byteOf(k, held)).toBe(9);
    folioPut(k, held);
  });

  it('a R/O pin of a private file mapping breaks COW only with LONGTERM', () => {
    const file = shmemCreate(k, 1);
    const hva = mapFile(k, mm, file, MAP_PRIVATE);
    pin(hva, 1, 0);
    expect(pages[0]).toBe(file.pages.get(0));
    unpinUserPage(k, pages[0]!);
    pin(hva, 1, FOLL_LONGTERM);
    expect(pages[0]).not.toBe(file.pages.get(0));
    expect(exclusive(pages[0]!)).toBe(true);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  it('a R/O pin of the zero page counts nothing; LONGTERM replaces it', () => {
    const hva = mapAnon(k, mm, 1);
    load(k, mm, hva);
    expect(pin(hva, 1, 0)).toBe(1);
    expect(pages[0]).toBe(k.state.zeroPage);
    unpinUserPage(k, pages[0]!);
    expect(pinsLive(k)).toBe(0);
    pin(hva, 1, FOLL_LONGTERM);
    expect(pages[0]).not.toBe(k.state.zeroPage);
    expect(pinsLive(k)).toBe(1);
    unpinUserPage(k, pages[0]!);
  });

  it('fork copies a pinned page for the child at once; the parent keeps it, writable', () => {
    const hva = mapAnon(k, mm, 2);
    store(k, mm, hva, 1);
    store(k, mm, hva + PAGE_SIZE, 2);
    pin(hva, 1, FOLL_WRITE);
    const pinned = pages[0]!;
    const child = forkOf(mm);
    expect(pageAt(k, mm, hva)).toBe(pinned);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(true);
    expect(exclusive(pinned)).toBe(true);
    expect(pageAt(k, child, hva)).not.toBe(pinned);
    expect(pageAt(k, child, hva + PAGE_SIZE)).toBe(pageAt(k, mm, hva + PAGE_SIZE));
    expect(k.state.stat.fork_copied_pinned).toBe(1);
    // What the device writes after the fork is the parent's alone (I13).
    k.memory.u8[k.memory.pageOffset(pinned)] = 77;
    expect(load(k, mm, hva)).toBe(77);
    expect(load(k, child, hva)).toBe(1);
    unpinUserPage(k, pinned);
    expect(violations(k)).toEqual([]);
  });

  it('a reference does not make fork copy', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    get(hva, 1, FOLL_WRITE);
    const child = forkOf(mm);
    expect(pageAt(k, child, hva)).toBe(pages[0]);
    folioPut(k, pages[0]!);
  });

  it('after MADV_DONTNEED the pinned page is not the mapped one any more', () => {
    const hva = mapAnon(k, mm, 1);
    pin(hva, 1, FOLL_WRITE);
    drive(madvise(k, mm, hva, PAGE_SIZE, MADV_DONTNEED));
    store(k, mm, hva, 5);
    expect(pageAt(k, mm, hva)).not.toBe(pages[0]);
    expect(folioMaybeDmaPinned(k, pages[0]!)).toBe(true);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });
});

describe('unpinning with dirty — 1.3', () => {
  const pinClean = (): number => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    load(k, mm, hva);
    pin(hva, 1, FOLL_WRITE);
    k.state.frames.flags[pages[0]!]! &= ~PG_DIRTY;
    return pages[0]!;
  };

  it('make_dirty marks the folio', () => {
    const page = pinClean();
    drive(unpinUserPagesDirtyLock(k, pages, 1, true));
    expect(dirty(page)).toBe(true);
    expect(pinsLive(k)).toBe(0);
  });

  it('without it the folio stays clean', () => {
    const page = pinClean();
    drive(unpinUserPagesDirtyLock(k, pages, 1, false));
    expect(dirty(page)).toBe(false);
  });

  it('waits for the folio lock with the pin still held: dirty comes before the unpin', () => {
    const page = pinClean();
    k.state.frames.flags[page]! |= 1;
    const path: Path<void> = unpinUserPagesDirtyLock(k, pages, 1, true);
    expect(path.next()).toEqual({ done: false, value: YP_WAIT });
    expect(folioMaybeDmaPinned(k, page)).toBe(true);
    k.state.frames.flags[page]! &= ~1;
    expect(path.next().done).toBe(true);
    expect(dirty(page)).toBe(true);
  });

  it('a pinned anonymous page that has become shared is a bug that is reported', () => {
    const hva = mapAnon(k, mm, 1);
    pin(hva, 1, FOLL_WRITE);
    k.state.frames.flags[pages[0]!]! &= ~PG_ANON_EXCLUSIVE;
    expect(() => unpinUserPages(k, pages, 1)).toThrow(/not exclusive/);
  });
});

describe('nothing is left behind', () => {
  it('pin, unpin and exit give every frame back', () => {
    const before = freeOf(k);
    const other = mmCreate(k);
    const hva = mapAnon(k, other, 16, PROT_READ | PROT_WRITE);
    pin(hva, 16, FOLL_WRITE, other);
    drive(unpinUserPagesDirtyLock(k, pages, 16, true));
    drive(mmExit(k, other));
    expect(freeOf(k)).toBe(before);
    expect(violations(k)).toEqual([]);
  });
});
