/** Migration of hugetlb folios, 2 MiB and 1 GiB. Compare mm/migrate.c:unmap_and_move_huge_folio(). */
import {
  checkKernel,
  drive,
  EAGAIN,
  EBUSY,
  EFAULT,
  EINVAL,
  ENOMEM,
  folioMapcount,
  folioOrder,
  folioRefCount,
  HUGETLB_ORDER_1G,
  HUGETLB_ORDER_2M,
  type HostProcess,
  hugetlbSetPool,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mappingPut,
  memoryFailure,
  migrateFolio,
  mmap,
  mmuNotifierRegister,
  mprotect,
  munmap,
  nrFreePages,
  type Path,
  PROT_READ,
  pageAnonExclusive,
  pteDirty,
  pteWrite,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_NOTIFIER_START,
  YP_WAIT,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { EHWPOISON } from '../../mm/errno.ts';
import { folioGet, folioPut, folioTestFlags } from '../../mm/folio/folio.ts';
import { allocPages, GFP_KERNEL } from '../../mm/frames/buddy.ts';
import { PG_DIRTY, PG_MIGRATABLE } from '../../mm/frames/table.ts';
import { isMigrationEntry } from '../../mm/pgtable/swapops.ts';
import {
  createHugeWorld,
  folioAt,
  forked,
  GIB,
  HUGE,
  HUGE_NR,
  hugeFile,
  leafAt,
  mapHuge,
  mapHugeFile,
  poolState,
  settled,
} from './hugetlb-world.ts';
import {
  createProcess,
  createWorld,
  exit,
  recordNotifier,
  RW,
  stepTo,
  type World,
} from './support.ts';

/** A written huge page, private, of a pool of `nr`; `left` of them neither promised nor used. */
const onePage = (nr = 2): { w: World; p: HostProcess; hva: number; folio: number } => {
  const w = createHugeWorld(nr);
  const p = createProcess(w);
  const hva = mapHuge(p, 1);
  p.store32(hva, 1);
  p.store32(hva + HUGE - 4, 2);
  return { w, p, hva, folio: folioAt(p, hva) };
};

const bytes = (p: HostProcess, hva: number): number[] => [p.load32(hva), p.load32(hva + HUGE - 4)];

/** Steps a path to its end. */
const finish = <T>(path: Path<T>): T => drive(path);

/** The same, and the yield points on the way. */
const finishWatched = (w: World, path: Path<number>): { error: number; seen: number[] } => {
  const seen: number[] = [];
  w.k.watched = true;
  let step = path.next();
  for (; step.done !== true; step = path.next()) seen.push(step.value);
  w.k.watched = false;
  return { error: step.value, seen };
};

describe('a huge page moves to another one — unmap_and_move_huge_folio()', () => {
  it('with bytes, rights and exclusiveness, still by one entry; the old one is free in the pool', () => {
    const { w, p, hva, folio } = onePage();
    expect(drive(migrateFolio(w.k, folio + 5))).toBe(0);
    const to = folioAt(p, hva);
    expect(to).not.toBe(folio);
    expect(leafAt(p, hva).level).toBe(1);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(true);
    expect(pteDirty(leafAt(p, hva).entry)).toBe(true);
    expect(pageAnonExclusive(w.k, to)).toBe(true);
    expect([folioRefCount(w.k, to), folioMapcount(w.k, to)]).toEqual([1, 1]);
    expect(poolState(w)).toBe('2/1/0');
    expect(w.k.state.stat.pgmigrate_success).toBe(HUGE_NR);
    settled(w);
    expect(bytes(p, hva)).toEqual([1, 2]);
    exit(p);
    expect(poolState(w)).toBe('2/2/0');
    settled(w);
  });

  it('shared by fork: both entries follow, read-only, and a write copies', () => {
    const { w, p, hva, folio } = onePage(4);
    const c = forked(w, p);
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    expect(folioAt(c, hva)).toBe(folioAt(p, hva));
    expect(folioAt(c, hva)).not.toBe(folio);
    expect(pageAnonExclusive(w.k, folioAt(p, hva))).toBe(false);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    c.store32(hva, 9);
    expect([p.load32(hva), c.load32(hva)]).toEqual([1, 9]);
    settled(w);
  });

  it('of a file: all mappings and the one entry of the page cache', () => {
    const w = createHugeWorld(5);
    const p = createProcess(w);
    const q = createProcess(w);
    const file = hugeFile(w, 2);
    const [hva, there] = [mapHugeFile(p, file), mapHugeFile(q, file)];
    const own = mapHugeFile(q, file, MAP_PRIVATE, PROT_READ);
    p.store32(hva + HUGE, 7);
    q.load32(there + HUGE);
    q.load32(own + HUGE);
    const folio = folioAt(p, hva + HUGE);
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    const to = file.pages.get(HUGE_NR) ?? -1;
    expect(to).not.toBe(folio);
    expect([folioAt(p, hva + HUGE), folioAt(q, there + HUGE), folioAt(q, own + HUGE)]).toEqual([
      to,
      to,
      to,
    ]);
    expect(folioRefCount(w.k, to)).toBe(4);
    expect(folioTestFlags(w.k, to, PG_DIRTY)).toBe(true);
    expect(q.load32(own + HUGE)).toBe(7);
    q.store32(there + HUGE, 8);
    expect(p.load32(hva + HUGE)).toBe(8);
    settled(w);
    exit(p);
    exit(q);
    drive(mappingPut(w.k, file));
    expect(poolState(w)).toBe('5/5/0');
  });

  it('of a file that nobody maps', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const file = hugeFile(w, 1);
    const hva = mapHugeFile(p, file);
    p.store32(hva, 7);
    drive(munmap(w.k, p.mm, hva, HUGE));
    const folio = file.pages.get(0) ?? -1;
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    expect(file.pages.get(0)).not.toBe(folio);
    expect(p.load32(mapHugeFile(p, file))).toBe(7);
    settled(w);
  });

  it('1 GiB: one entry of the level above', () => {
    const w = createWorld(3.5 * GIB);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, 2)).toBe(2);
    const p = createProcess(w);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | (30 << 26);
    const hva = drive(mmap(w.k, p.mm, { lenBytes: GIB, prot: RW, flags }));
    const places = [0, 7 * HUGE + 4096, GIB - 4];
    for (const at of places) p.store32(hva + at, at + 1);
    const folio = folioAt(p, hva);
    expect(drive(migrateFolio(w.k, folio + 1000))).toBe(0);
    expect(folioAt(p, hva)).not.toBe(folio);
    expect(leafAt(p, hva).level).toBe(2);
    expect(folioOrder(w.k, folioAt(p, hva))).toBe(HUGETLB_ORDER_1G);
    for (const at of places) expect(p.load32(hva + at)).toBe(at + 1);
    settled(w);
  });

  it('subscribers are told of the whole huge page', () => {
    const { w, p, hva, folio } = onePage();
    recordNotifier(w, 'test');
    mmuNotifierRegister(w.k, p.mm, 'test', 1);
    w.log.length = 0;
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    expect(w.log).toEqual([`start CLEAR ${HUGE_NR}`, 'flush', `end CLEAR ${HUGE_NR}`]);
    expect(bytes(p, hva)).toEqual([1, 2]);
  });
});

describe('where it goes — alloc_hugetlb_folio_nodemask(), move_hugetlb_state()', () => {
  it('what the pool has promised is not taken: a page beyond the pool comes, and one leaves', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    const free = nrFreePages(w.k);
    expect(poolState(w)).toBe('2/1/1');
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    expect(poolState(w)).toBe('2/1/1');
    expect(nrFreePages(w.k)).toBe(free);
    expect(w.k.state.frames.refcount[folio]).toBe(0);
    expect(p.store32(hva + HUGE, 6)).toBe(0);
    expect([p.load32(hva), p.load32(hva + HUGE)]).toEqual([5, 6]);
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('2/2/0');
    expect(nrFreePages(w.k)).toBe(w.freeAtStart - 2 * HUGE_NR);
  });

  it('a temporary page that has become the place of one is the pool’s own, and moves again', () => {
    const { w, p, hva, folio } = onePage(1);
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    const second = folioAt(p, hva);
    expect(drive(migrateFolio(w.k, second))).toBe(0);
    expect(folioAt(p, hva)).not.toBe(second);
    expect(poolState(w)).toBe('1/0/0');
    exit(p);
    expect(poolState(w)).toBe('1/1/0');
    settled(w);
  });

  it('neither the pool nor the buddy allocator has one: -ENOMEM, everything as before', () => {
    const { w, p, hva, folio } = onePage(1);
    while (allocPages(w.k, HUGETLB_ORDER_2M, GFP_KERNEL) >= 0);
    expect(drive(migrateFolio(w.k, folio))).toBe(-ENOMEM);
    expect(folioAt(p, hva)).toBe(folio);
    expect(poolState(w)).toBe('1/0/0');
    expect(checkKernel(w.k)).toEqual([]);
  });

  it('a free page does not move: -EINVAL', () => {
    const w = createHugeWorld(1);
    const [free] = w.k.state.hugetlb.hstates[0]?.free ?? [];
    expect(drive(migrateFolio(w.k, free ?? -1))).toBe(-EINVAL);
  });
});

describe('who holds it keeps it — 1.5, 1.9', () => {
  for (const kind of ['private', 'shared'] as const)
    it(`pinned (${kind}): -EBUSY, and after the unpin it moves`, () => {
      const w = createHugeWorld(2);
      const p = createProcess(w);
      const hva = mapHuge(p, 1, kind === 'shared' ? MAP_SHARED : 0);
      const pages = new Int32Array(3);
      expect(drive(pinUserPagesFast(w.k, p.mm, hva + 4096, 3, FOLL_WRITE, pages))).toBe(3);
      const folio = folioAt(p, hva);
      expect(drive(migrateFolio(w.k, folio))).toBe(-EBUSY);
      expect(w.k.state.stat.pgmigrate_fail).toBe(HUGE_NR);
      expect(folioAt(p, hva)).toBe(folio);
      unpinUserPages(w.k, pages, 3);
      expect(drive(migrateFolio(w.k, folio))).toBe(0);
      settled(w);
    });

  for (const kind of ['private', 'shared'] as const)
    it(`referenced (${kind}): -EAGAIN, the entry as it was`, () => {
      const w = createHugeWorld(2);
      const p = createProcess(w);
      const hva = mapHuge(p, 1, kind === 'shared' ? MAP_SHARED : 0);
      p.store32(hva, 5);
      const { entry } = leafAt(p, hva);
      const folio = folioAt(p, hva);
      folioGet(w.k, folio);
      const { error, seen } = finishWatched(w, migrateFolio(w.k, folio));
      expect(error).toBe(-EAGAIN);
      // Unmapped, and nothing copied for nothing.
      expect(seen).toContain(YP_MIGRATE_UNMAPPED);
      expect(seen).not.toContain(YP_MIGRATE_COPIED);
      expect(leafAt(p, hva).entry).toBe(entry);
      expect(pageAnonExclusive(w.k, folio)).toBe(kind === 'private');
      settled(w, 1);
      folioPut(w.k, folio);
      expect(drive(migrateFolio(w.k, folio))).toBe(0);
    });

  it('pinned between the first look and the clearing of the entry: try-share sees it', () => {
    const { w, p, hva, folio } = onePage();
    recordNotifier(w, 'test');
    mmuNotifierRegister(w.k, p.mm, 'test', 1);
    const { entry } = leafAt(p, hva);
    const moving = migrateFolio(w.k, folio);
    stepTo(w.k, moving, YP_NOTIFIER_START);
    const pages = new Int32Array(1);
    expect(drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages))).toBe(1);
    const { error, seen } = finishWatched(w, moving);
    expect(error).toBe(-EBUSY);
    expect(seen).not.toContain(YP_MIGRATE_UNMAPPED);
    expect(leafAt(p, hva).entry).toBe(entry);
    expect(pageAnonExclusive(w.k, folio)).toBe(true);
    unpinUserPages(w.k, pages, 1);
    settled(w);
  });

  it('a page of a file, found in the cache while it is copied: -EAGAIN at the freeze', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 1, MAP_SHARED);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    const moving = migrateFolio(w.k, folio);
    stepTo(w.k, moving, YP_MIGRATE_COPIED);
    folioGet(w.k, folio);
    expect(finish(moving)).toBe(-EAGAIN);
    folioPut(w.k, folio);
    expect(folioAt(p, hva)).toBe(folio);
    settled(w);
  });

  it('isolated by somebody who moves it already: -EBUSY', () => {
    const { w, folio } = onePage(3);
    const moving = migrateFolio(w.k, folio);
    stepTo(w.k, moving, YP_MIGRATE_UNMAPPED);
    expect(folioTestFlags(w.k, folio, PG_MIGRATABLE)).toBe(false);
    expect(drive(migrateFolio(w.k, folio))).toBe(-EBUSY);
    expect(finish(moving)).toBe(0);
    settled(w);
  });

  it('poisoned: it does not move, -EHWPOISON', () => {
    const { w, folio } = onePage();
    expect(drive(memoryFailure(w.k, folio))).toBe(0);
    expect(drive(migrateFolio(w.k, folio))).toBe(-EHWPOISON);
  });
});

describe('whoever meets the migration entry', () => {
  /** A page that is being moved: entries are migration entries, the bytes copied or not. */
  const moving = (
    point = YP_MIGRATE_UNMAPPED,
    flags = 0,
  ): { w: World; p: HostProcess; hva: number; path: Path<number>; folio: number } => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const hva = mapHuge(p, 1, flags);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    const path = migrateFolio(w.k, folio);
    stepTo(w.k, path, point);
    expect(isMigrationEntry(leafAt(p, hva).entry)).toBe(true);
    expect(checkKernel(w.k)).toEqual([]);
    return { w, p, hva, path, folio };
  };

  for (const flags of [0, MAP_SHARED])
    it(`a ${flags === 0 ? 'private' : 'shared'} store waits, and finds the new page`, () => {
      const { w, p, hva, path, folio } = moving(YP_MIGRATE_UNMAPPED, flags);
      const storing = p.storePath(hva, 4, 6);
      expect(storing.next()).toEqual({ done: false, value: YP_WAIT });
      expect(finish(path)).toBe(0);
      expect(finish(storing)).toBe(0);
      expect(folioAt(p, hva)).not.toBe(folio);
      expect(p.load32(hva)).toBe(6);
      settled(w);
    });

  it('GUP-fast leaves it to the slow walk, which waits', () => {
    const { w, p, hva, path } = moving();
    const pages = new Int32Array(1);
    const pinning = pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages);
    expect(pinning.next()).toEqual({ done: false, value: YP_WAIT });
    expect(finish(path)).toBe(0);
    expect(finish(pinning)).toBe(1);
    expect(pages[0]).toBe(folioAt(p, hva));
    unpinUserPages(w.k, pages, 1);
    settled(w);
  });

  it('fork copies it, for reading alone, and it counts for the child', () => {
    const { w, p, hva, path } = moving();
    const c = forked(w, p);
    expect(isMigrationEntry(leafAt(c, hva).entry)).toBe(true);
    expect(c.mm.hugetlbUsage).toBe(HUGE_NR);
    expect(checkKernel(w.k)).toEqual([]);
    expect(finish(path)).toBe(0);
    expect(folioAt(c, hva)).toBe(folioAt(p, hva));
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    settled(w);
    p.store32(hva, 6);
    expect([p.load32(hva), c.load32(hva)]).toEqual([6, 5]);
    settled(w);
  });

  it('mprotect makes it readable, and still exclusive', () => {
    const { w, p, hva, path } = moving();
    expect(drive(mprotect(w.k, p.mm, hva, HUGE, PROT_READ))).toBe(0);
    expect(finish(path)).toBe(0);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    expect(pageAnonExclusive(w.k, folioAt(p, hva))).toBe(true);
    expect(p.store32(hva, 6)).toBe(-EFAULT);
    settled(w);
  });

  for (const point of [YP_MIGRATE_UNMAPPED, YP_MIGRATE_COPIED])
    it(`munmap drops it (at ${point === YP_MIGRATE_COPIED ? 'copied' : 'unmapped'}): both pages are free`, () => {
      const { w, p, hva, path } = moving(point);
      expect(drive(munmap(w.k, p.mm, hva, HUGE))).toBe(0);
      expect(p.mm.hugetlbUsage).toBe(0);
      finish(path);
      expect(poolState(w)).toBe('3/3/0');
      settled(w);
    });

  it('MADV_DONTNEED drops it; the next touch brings zeros', () => {
    const { w, p, hva, path } = moving();
    expect(drive(madvise(w.k, p.mm, hva, HUGE, MADV_DONTNEED))).toBe(0);
    expect(finish(path)).toBe(0);
    expect(p.load32(hva)).toBe(0);
    settled(w);
  });

  it('exit of the last who maps it', () => {
    const { w, p, path } = moving(YP_MIGRATE_COPIED);
    exit(p);
    finish(path);
    expect(poolState(w)).toBe('3/3/0');
    settled(w);
  });

  it('the last user of a file waits for the folio, and by its reference keeps it where it is', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const file = hugeFile(w, 1);
    const hva = mapHugeFile(p, file);
    p.store32(hva, 7);
    drive(munmap(w.k, p.mm, hva, HUGE));
    const path = migrateFolio(w.k, file.pages.get(0) ?? -1);
    stepTo(w.k, path, YP_MIGRATE_COPIED);
    const closing = mappingPut(w.k, file);
    expect(closing.next()).toEqual({ done: false, value: YP_WAIT });
    expect(finish(path)).toBe(-EAGAIN);
    finish(closing);
    expect(poolState(w)).toBe('2/2/0');
    settled(w);
  });
});
