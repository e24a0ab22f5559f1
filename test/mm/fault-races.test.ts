/** Two threads of one process fault on one page: whoever comes second finds the entry changed. Compare pte_same(). */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  drive,
  fork,
  type HostProcess,
  MAP_PRIVATE,
  MAP_SHARED,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  mmap,
  nrFreePages,
  type Path,
  shmemCreate,
  YP_FAULT_ALLOCATED,
  YP_FAULT_COPIED,
  YP_FAULT_LOCKED,
  YP_MIGRATE_COPIED,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { shmemGetPage } from '../../mm/fs/shmem.ts';
import { folioPut, folioTrylock, folioUnlock } from '../../mm/folio/folio.ts';
import {
  createProcess,
  createWorld,
  mapAnon,
  pageAt,
  RW,
  stepTo,
  withPage,
  type World,
} from './support.ts';

/** One thread's store stopped at `point`; the other's runs through; then the first one ends. */
const race = (w: World, p: HostProcess, hva: number, point: number): void => {
  const first = p.storePath(hva, 4, 1);
  stepTo(w.k, first, point);
  expect(p.store32(hva + 4, 2)).toBe(0);
  const page = pageAt(p, hva);
  const free = nrFreePages(w.k);
  expect(drive(first)).toBe(0);
  expect(pageAt(p, hva)).toBe(page);
  expect(nrFreePages(w.k)).toBeGreaterThanOrEqual(free);
  expect([p.load32(hva), p.load32(hva + 4)]).toEqual([1, 2]);
  assertKernel(w.k, { quiescent: true });
};

const mapFile = (w: World, p: HostProcess, flags: number): number =>
  drive(mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags, mapping: shmemCreate(w.k, 1) }));

describe('two write faults on one page end on one page with both stores', () => {
  it('first touch of anonymous memory', () => {
    const w = createWorld();
    const p = createProcess(w);
    race(w, p, mapAnon(p, 1), YP_FAULT_ALLOCATED);
  });

  it('a page shared with a child', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 9);
    drive(fork(w.k, p.mm));
    race(w, p, hva, YP_FAULT_COPIED);
  });

  it('the zero page', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.load32(hva);
    race(w, p, hva, YP_FAULT_ALLOCATED);
  });

  it('a hole of a shared file', () => {
    const w = createWorld();
    const p = createProcess(w);
    race(w, p, mapFile(w, p, MAP_SHARED), YP_FAULT_ALLOCATED);
  });

  it('a private file mapping', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapFile(w, p, MAP_PRIVATE);
    p.load32(hva);
    race(w, p, hva, YP_FAULT_COPIED);
  });
});

describe('a fault that was overtaken', () => {
  it('by MADV_DONTNEED during its copy: the store goes to a page of zeros', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 9);
    drive(fork(w.k, p.mm));
    const store = p.storePath(hva + 4, 4, 1);
    stepTo(w.k, store, YP_FAULT_COPIED);
    drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(drive(store)).toBe(0);
    expect([p.load32(hva), p.load32(hva + 4)]).toEqual([0, 1]);
    assertKernel(w.k, { quiescent: true });
  });

  it('by a move of the page it was to copy: it tries again with the new one', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = mapAnon(p, 1);
    p.store32(hva, 9);
    const child = drive(fork(w.k, p.mm));
    const store = p.storePath(hva, 4, 1);
    stepTo(w.k, store, YP_FAULT_LOCKED);
    expect(drive(migrateFolio(w.k, pageAt(p, hva)))).toBe(0);
    expect(drive(store)).toBe(0);
    if (typeof child === 'number') throw new Error('fork');
    expect(createProcess(w, child).load32(hva)).toBe(9);
    assertKernel(w.k, { quiescent: true });
  });

  it('while it waits for the lock of a file page that is moved: it takes the page that is there then', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 1);
    const take = (path: Path<number>): number => {
      const folio = drive(path);
      folioUnlock(w.k, folio);
      folioPut(w.k, folio);
      return folio;
    };
    const old = take(shmemGetPage(w.k, mapping, 0));
    const move = migrateFolio(w.k, old);
    stepTo(w.k, move, YP_MIGRATE_COPIED);
    expect(drive(move)).toBe(0);
    const now = take(shmemGetPage(w.k, mapping, 0));
    expect(now).not.toBe(old);
    // Locked by somebody, truncated meanwhile: a fresh page is made.
    folioTrylock(w.k, now);
    const waiting = shmemGetPage(w.k, mapping, 0);
    expect(waiting.next().value).toBe(YP_WAIT);
    mapping.pages.delete(0);
    w.k.state.frames.mapping[now] = 0;
    folioUnlock(w.k, now);
    folioPut(w.k, now);
    const fresh = drive(waiting);
    expect(mapping.pages.get(0)).toBe(fresh);
    expect(w.k.state.frames.refcount[now]).toBe(0);
    folioUnlock(w.k, fresh);
    folioPut(w.k, fresh);
    assertKernel(w.k, { quiescent: true });
  });

  it('by two moves at once: one of them has the page, the other is told it is isolated', () => {
    const { w, p, hva, page } = withPage(5);
    const first = migrateFolio(w.k, page);
    stepTo(w.k, first, YP_MIGRATE_UNMAPPED);
    expect(drive(migrateFolio(w.k, page))).toBeLessThan(0);
    expect(drive(first)).toBe(0);
    expect(p.load32(hva)).toBe(5);
    assertKernel(w.k, { quiescent: true });
  });
});
