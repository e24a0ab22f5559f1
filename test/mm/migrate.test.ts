/** Migration and write protection: facts sheet 1.5 (try-share), 1.7, 1.9, 1.14. */
import { beforeEach, describe, expect, it } from 'vitest';
import { PAGE_SIZE, PTE_D, PTE_PPN_SHIFT } from '#emu';
import { folioWriteProtect } from '../../mm/cache/clean.ts';
import { writeProtectRange } from '../../mm/cache/write-protect.ts';
import { migrateFolio } from '../../mm/compact/migrate.ts';
import { EAGAIN, EBUSY, EINVAL, ENOMEM } from '../../mm/errno.ts';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import { folioMaybeDmaPinned } from '../../mm/folio/pin.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_ANON_EXCLUSIVE, PG_DIRTY } from '../../mm/frames/table.ts';
import { shmemCreate } from '../../mm/fs/shmem.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPage } from '../../mm/gup/unpin.ts';
import { mmuNotifierRegister } from '../../mm/notifier/notifier.ts';
import {
  drive,
  type Path,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_NOTIFIER_START,
  YP_PROTECT,
  YP_WAIT,
} from '../../mm/path.ts';
import { pteDirty, pteNone, ptePresent, pteWrite } from '../../mm/pgtable/pte.ts';
import {
  type Kernel,
  MMU_NOTIFY_CLEAR,
  MMU_NOTIFY_PROTECTION_PAGE,
  MMU_NOTIFY_SOFT_DIRTY,
  type MmStruct,
  type NotifierRange,
} from '../../mm/types.ts';
import { MAP_PRIVATE, PROT_READ } from '../../mm/vma/flags.ts';
import { mmCreate, mmExit } from '../../mm/vma/mm.ts';
import { munmap } from '../../mm/vma/mmap.ts';
import {
  forkMm,
  byteOf,
  createWorld,
  entryAt,
  finish,
  freeOf,
  load,
  loadPath,
  mapAnon,
  mapFile,
  pageAt,
  stepTo,
  store,
  storePath,
  violations,
} from './gup-world.ts';

let k: Kernel;
let mm: MmStruct;
/** What the subscriber of `mm` was told. */
let told: { call: 'start' | 'end'; range: NotifierRange; entry: number }[];
const pages = new Int32Array(4);

const subscribe = (to: MmStruct): void => {
  const note = (call: 'start' | 'end') => (_owner: number, range: NotifierRange) => {
    told.push({ call, range, entry: entryAt(k, range.mm, range.start) });
    return 0;
  };
  k.notifierOps.set('test', {
    invalidateRangeStart: note('start'),
    invalidateRangeEnd: note('end'),
    release: () => {},
  });
  mmuNotifierRegister(k, to, 'test', 1);
};
const migrate = (page: number): number => drive(migrateFolio(k, page));
const forkOf = (parent: MmStruct): MmStruct => forkMm(k, parent);
const flagsOf = (pte: number): number => pte & ((1 << PTE_PPN_SHIFT) - 1);

beforeEach(() => {
  k = createWorld();
  mm = mmCreate(k);
  told = [];
});

describe('a folio moves', () => {
  it('anonymous: bytes, permissions, A, D and exclusiveness stay', () => {
    const hva = mapAnon(k, mm, 2);
    store(k, mm, hva, 42);
    store(k, mm, hva + 4095, 43);
    const old = pageAt(k, mm, hva);
    const before = flagsOf(entryAt(k, mm, hva));
    expect(migrate(old)).toBe(0);
    const now = pageAt(k, mm, hva);
    expect(now).not.toBe(old);
    expect(flagsOf(entryAt(k, mm, hva))).toBe(before);
    expect(k.state.frames.flags[now]! & PG_ANON_EXCLUSIVE).not.toBe(0);
    expect([load(k, mm, hva), load(k, mm, hva + 4095)]).toEqual([42, 43]);
    expect(k.state.frames.refcount[old]).toBe(0);
    expect(k.state.stat.pgmigrate_success).toBe(1);
    expect(violations(k)).toEqual([]);
  });

  it('shared by fork: both entries follow, still read-only and not exclusive', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const child = forkOf(mm);
    const old = pageAt(k, mm, hva);
    expect(migrate(old)).toBe(0);
    const now = pageAt(k, mm, hva);
    expect(pageAt(k, child, hva)).toBe(now);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(false);
    expect(k.state.frames.flags[now]! & PG_ANON_EXCLUSIVE).toBe(0);
    store(k, child, hva, 43);
    expect(load(k, mm, hva)).toBe(42);
    expect(violations(k)).toEqual([]);
  });

  it('of a file: every mapping and the page cache follow; dirty goes along', () => {
    const file = shmemCreate(k, 3);
    const other = mmCreate(k);
    const one = mapFile(k, mm, file);
    const two = mapFile(k, other, file, MAP_PRIVATE, PROT_READ);
    store(k, mm, one + 2 * PAGE_SIZE, 42);
    load(k, other, two + 2 * PAGE_SIZE);
    const old = pageAt(k, mm, one + 2 * PAGE_SIZE);
    expect(migrate(old)).toBe(0);
    const now = pageAt(k, mm, one + 2 * PAGE_SIZE);
    expect(now).not.toBe(old);
    expect(file.pages.get(2)).toBe(now);
    expect(pageAt(k, other, two + 2 * PAGE_SIZE)).toBe(now);
    expect(load(k, other, two + 2 * PAGE_SIZE)).toBe(42);
    expect(k.state.frames.flags[now]! & PG_DIRTY).not.toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('not mapped at all, only cached', () => {
    const file = shmemCreate(k, 1);
    const hva = mapFile(k, mm, file);
    store(k, mm, hva, 42);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    const old = file.pages.get(0) ?? -1;
    expect(migrate(old)).toBe(0);
    expect(byteOf(k, file.pages.get(0) ?? -1)).toBe(42);
    expect(violations(k)).toEqual([]);
  });

  it('subscribers are told before the entry changes and after', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    subscribe(mm);
    const before = entryAt(k, mm, hva);
    migrate(pageAt(k, mm, hva));
    expect(told.map(({ call }) => call)).toEqual(['start', 'end']);
    expect(told[0]?.range).toMatchObject({
      start: hva,
      end: hva + PAGE_SIZE,
      event: MMU_NOTIFY_CLEAR,
    });
    expect(told[0]?.entry).toBe(before);
    expect(ptePresent(told[1]?.entry ?? -1)).toBe(false);
  });

  for (const { fact, page } of [
    { fact: 'a free frame', page: () => 1000 },
    { fact: 'the zero page', page: () => k.state.zeroPage },
    { fact: 'a page table', page: () => mm.pgd },
    { fact: "somebody's own allocation", page: () => allocPages(k, 0, GFP_KERNEL) },
    { fact: 'no frame at all', page: () => 1 << 20 },
  ])
    it(`${fact} does not: -EINVAL`, () => expect(migrate(page())).toBe(-EINVAL));

  it('without a free frame: -ENOMEM, and everything as before', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 1);
    while (allocPages(k, 0, GFP_KERNEL) >= 0);
    expect(migrate(pageAt(k, mm, hva))).toBe(-ENOMEM);
    expect(load(k, mm, hva)).toBe(1);
    expect(violations(k)).toEqual([]);
  });
});

describe('who holds it keeps it — 1.5, 1.9', () => {
  it('pinned anonymous: -EBUSY; after the unpin it moves', () => {
    const hva = mapAnon(k, mm, 1);
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    const page = pages[0]!;
    expect(migrate(page)).toBe(-EBUSY);
    expect(pageAt(k, mm, hva)).toBe(page);
    expect(k.state.stat.pgmigrate_fail).toBe(1);
    unpinUserPage(k, page);
    expect(migrate(page)).toBe(0);
    expect(violations(k)).toEqual([]);
  });

  it('pinned page of a file: -EBUSY', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    expect(migrate(pages[0]!)).toBe(-EBUSY);
    unpinUserPage(k, pages[0]!);
    expect(violations(k)).toEqual([]);
  });

  for (const kind of ['anonymous', 'file'] as const)
    it(`held by a plain reference (${kind}): -EAGAIN, entries and bytes restored`, () => {
      const hva = kind === 'anonymous' ? mapAnon(k, mm, 1) : mapFile(k, mm, shmemCreate(k, 1));
      store(k, mm, hva, 42);
      const page = pageAt(k, mm, hva);
      const before = entryAt(k, mm, hva);
      folioGet(k, page);
      expect(migrate(page)).toBe(-EAGAIN);
      expect(entryAt(k, mm, hva)).toBe(before);
      folioPut(k, page);
      expect(load(k, mm, hva)).toBe(42);
      expect(violations(k)).toEqual([]);
    });

  it('pinned after the first look, before the entry is cleared: try-share sees it, -EBUSY', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    subscribe(mm);
    const page = pageAt(k, mm, hva);
    const before = entryAt(k, mm, hva);
    const moving = migrateFolio(k, page);
    stepTo(k, moving, YP_NOTIFIER_START);
    expect(drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    expect(finish(moving)).toBe(-EBUSY);
    expect(entryAt(k, mm, hva)).toBe(before);
    expect(k.state.frames.flags[page]! & PG_ANON_EXCLUSIVE).not.toBe(0);
    unpinUserPage(k, page);
    expect(violations(k)).toEqual([]);
  });

  it('a reference taken while the bytes are copied: -EAGAIN at the freeze', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 42);
    const page = pageAt(k, mm, hva);
    const moving = migrateFolio(k, page);
    stepTo(k, moving, YP_MIGRATE_COPIED);
    folioGet(k, page);
    expect(finish(moving)).toBe(-EAGAIN);
    folioPut(k, page);
    expect(pageAt(k, mm, hva)).toBe(page);
    expect(violations(k)).toEqual([]);
  });

  it('two migrations of one folio: the second finds it isolated, -EBUSY', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const page = pageAt(k, mm, hva);
    const moving = migrateFolio(k, page);
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    expect(migrate(page)).toBe(-EBUSY);
    expect(finish(moving)).toBe(0);
  });

  it('sabotage: without the pin check the pinned page is left behind', () => {
    k.sabotage.migratePinned = true;
    const hva = mapAnon(k, mm, 1);
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    const pinned = pages[0]!;
    expect(migrate(pinned)).toBe(0);
    k.memory.u8[k.memory.pageOffset(pinned)] = 99;
    expect(load(k, mm, hva)).toBe(0);
    expect(folioMaybeDmaPinned(k, pinned)).toBe(true);
    unpinUserPage(k, pinned);
    expect(violations(k)).toEqual([]);
  });
});

describe('whoever touches the page meanwhile', () => {
  it('waits at the migration entry, and then finds the new frame', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const old = pageAt(k, mm, hva);
    const moving = migrateFolio(k, old);
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    const storing: Path<number> = storePath(k, mm, hva, 43);
    expect(storing.next()).toEqual({ done: false, value: YP_WAIT });
    expect(finish(moving)).toBe(0);
    expect(finish(storing)).toBe(0);
    expect(pageAt(k, mm, hva)).not.toBe(old);
    expect(load(k, mm, hva)).toBe(43);
  });

  it('fork during a migration: the child gets a migration entry and the new frame', () => {
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const moving = migrateFolio(k, pageAt(k, mm, hva));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    const child = forkOf(mm);
    const reading = loadPath(k, child, hva);
    expect(reading.next()).toEqual({ done: false, value: YP_WAIT });
    expect(finish(moving)).toBe(0);
    expect(finish(reading)).toBe(42);
    expect(violations(k)).toEqual([]);
    store(k, mm, hva, 43);
    expect(load(k, child, hva)).toBe(42);
    expect(violations(k)).toEqual([]);
  });

  it('munmap during a migration: the frames are freed', () => {
    const free = freeOf(k);
    const hva = mapAnon(k, mm, 1);
    store(k, mm, hva, 42);
    const moving = migrateFolio(k, pageAt(k, mm, hva));
    stepTo(k, moving, YP_MIGRATE_COPIED);
    drive(munmap(k, mm, hva, PAGE_SIZE));
    finish(moving);
    expect(freeOf(k)).toBe(free);
    expect(violations(k)).toEqual([]);
  });

  it('exit of the last address space during a migration', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 42);
    const moving = migrateFolio(k, pageAt(k, mm, hva));
    stepTo(k, moving, YP_MIGRATE_UNMAPPED);
    drive(mmExit(k, mm));
    finish(moving);
    expect(violations(k)).toEqual([]);
  });
});

describe('write protection of a folio — 1.7', () => {
  it('shared mappings become read-only and clean, the folio dirty; a store sets dirty again', () => {
    const file = shmemCreate(k, 1);
    const other = mmCreate(k);
    const one = mapFile(k, mm, file);
    const two = mapFile(k, other, file);
    store(k, mm, one, 42);
    load(k, other, two);
    const page = pageAt(k, mm, one);
    k.state.frames.flags[page]! &= ~PG_DIRTY;
    expect(drive(folioWriteProtect(k, page))).toBe(2);
    for (const pte of [entryAt(k, mm, one), entryAt(k, other, two)]) {
      expect(pteWrite(pte)).toBe(false);
      expect(pteDirty(pte)).toBe(false);
    }
    expect(k.state.frames.flags[page]! & PG_DIRTY).not.toBe(0);
    k.state.frames.flags[page]! &= ~PG_DIRTY;
    const faults = k.state.stat.pgfault;
    store(k, mm, one, 43);
    expect(k.state.stat.pgfault).toBe(faults + 1);
    expect(entryAt(k, mm, one) & PTE_D).not.toBe(0);
    expect(k.state.frames.flags[page]! & PG_DIRTY).not.toBe(0);
    expect(pageAt(k, mm, one)).toBe(page);
    expect(load(k, other, two)).toBe(43);
    expect(violations(k)).toEqual([]);
  });

  it('clean and read-only already: nothing is changed; private mappings never are', () => {
    const file = shmemCreate(k, 1);
    const shared = mapFile(k, mm, file);
    store(k, mm, shared, 1);
    const page = pageAt(k, mm, shared);
    drive(folioWriteProtect(k, page));
    expect(drive(folioWriteProtect(k, page))).toBe(0);
    const anon = mapAnon(k, mm, 1);
    store(k, mm, anon, 1);
    expect(drive(folioWriteProtect(k, pageAt(k, mm, anon)))).toBe(0);
    expect(pteWrite(entryAt(k, mm, anon))).toBe(true);
    expect(drive(folioWriteProtect(k, 1500))).toBe(-EINVAL);
  });

  it('subscribers: PROTECTION_PAGE around the change of each mapping', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    store(k, mm, hva, 1);
    subscribe(mm);
    drive(folioWriteProtect(k, pageAt(k, mm, hva)));
    expect(told.map(({ call }) => call)).toEqual(['start', 'end']);
    expect(told[0]?.range.event).toBe(MMU_NOTIFY_PROTECTION_PAGE);
    expect(pteWrite(told[0]?.entry ?? 0)).toBe(true);
    expect(pteWrite(told[1]?.entry ?? 0)).toBe(false);
  });

  it('pages that are pinned are protected all the same', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1));
    drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, pages));
    expect(drive(folioWriteProtect(k, pages[0]!))).toBe(1);
    unpinUserPage(k, pages[0]!);
  });
});

describe('write protection of a range', () => {
  it('takes W and keeps D; the next store reuses the exclusive page', () => {
    const hva = mapAnon(k, mm, 4);
    for (const i of [0, 2]) store(k, mm, hva + i * PAGE_SIZE, i);
    load(k, mm, hva + PAGE_SIZE);
    subscribe(mm);
    const page = pageAt(k, mm, hva);
    const protecting = writeProtectRange(k, mm, hva, hva + 4 * PAGE_SIZE);
    stepTo(k, protecting, YP_PROTECT);
    expect(k.state.stat.wrprotect).toBe(2);
    expect(finish(protecting)).toBe(2);
    expect(told[0]?.range.event).toBe(MMU_NOTIFY_SOFT_DIRTY);
    const pte = entryAt(k, mm, hva);
    expect([pteWrite(pte), pteDirty(pte)]).toEqual([false, true]);
    expect(pteNone(entryAt(k, mm, hva + 3 * PAGE_SIZE))).toBe(true);
    store(k, mm, hva, 9);
    expect(pageAt(k, mm, hva)).toBe(page);
    expect(violations(k)).toEqual([]);
  });

  it('only the range, across page tables', () => {
    const hva = mapFile(k, mm, shmemCreate(k, 1200));
    for (let i = 0; i < 1200; i++) store(k, mm, hva + i * PAGE_SIZE, 1);
    expect(drive(writeProtectRange(k, mm, hva + PAGE_SIZE, hva + 1199 * PAGE_SIZE))).toBe(1198);
    expect(pteWrite(entryAt(k, mm, hva))).toBe(true);
    expect(pteWrite(entryAt(k, mm, hva + 1199 * PAGE_SIZE))).toBe(true);
    expect(pteWrite(entryAt(k, mm, hva + 600 * PAGE_SIZE))).toBe(false);
    expect(violations(k)).toEqual([]);
  });
});
