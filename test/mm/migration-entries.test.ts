/** Migration entries in page tables: what faults, fork, mprotect and zap make of them. Compare include/linux/swapops.h. */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  drive,
  fork,
  MADV_DONTNEED,
  madvise,
  MAP_SHARED,
  migrateFolio,
  mmap,
  mprotect,
  nrFreePages,
  type Path,
  pageAnonExclusive,
  pageMapcount,
  PROT_READ,
  pteWrite,
  shmemCreate,
  YP_MIGRATE_UNMAPPED,
  YP_WAIT,
} from '#mm';
import { describe, expect, it } from 'vitest';
import {
  isMigrationEntry,
  isReadableExclusiveMigrationEntry,
  isReadableMigrationEntry,
  isWritableMigrationEntry,
  migrationEntryPage,
} from '../../mm/pgtable/swapops.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  pageAt,
  RW,
  stepTo,
  type OnePage,
  withPage,
} from './support.ts';

/** A process with a written page that is just being moved. */
const moving = (): OnePage & { move: Path<number> } => {
  const made = withPage();
  const move = migrateFolio(made.w.k, made.page);
  stepTo(made.w.k, move, YP_MIGRATE_UNMAPPED);
  return { ...made, move };
};

describe('a migration entry', () => {
  it('says which frame, and that it was writable; it counts as resident, not as a mapping', () => {
    const { w, p, hva, page } = moving();
    expect(isWritableMigrationEntry(entryAt(p, hva))).toBe(true);
    expect(migrationEntryPage(entryAt(p, hva))).toBe(page);
    expect(pageMapcount(w.k, page)).toBe(0);
    expect(p.mm.rssAnon).toBe(1);
  });

  it('becomes a writable entry of an exclusive page again', () => {
    const { w, p, hva, page, move } = moving();
    expect(drive(move)).toBe(0);
    expect(pageAt(p, hva)).not.toBe(page);
    expect(pteWrite(entryAt(p, hva))).toBe(true);
    expect(pageAnonExclusive(w.k, pageAt(p, hva))).toBe(true);
    expect(p.load32(hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('makes a fault wait until the move is done, without an error', () => {
    const { w, p, hva, move } = moving();
    const load = p.loadPath(hva, 4);
    for (let i = 0; i < 5; i++) expect(load.next().value).toBe(YP_WAIT);
    drive(move);
    expect(drive(load)).toBe(1);
    expect(w.k.state.stat.pgmigrate_success).toBe(1);
  });

  it('is copied by fork as readable on both sides: the page is shared from now on', () => {
    const { w, p, hva, move } = moving();
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(isReadableMigrationEntry(entryAt(p, hva))).toBe(true);
    expect(entryAt(c, hva)).toBe(entryAt(p, hva));
    expect(drive(move)).toBe(0);
    expect(pageAt(c, hva)).toBe(pageAt(p, hva));
    expect(pteWrite(entryAt(p, hva)) || pteWrite(entryAt(c, hva))).toBe(false);
    expect(pageAnonExclusive(w.k, pageAt(p, hva))).toBe(false);
    p.store32(hva, 2);
    expect(c.load32(hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('of an anonymous page is made readable, still exclusive, by mprotect, also to writable', () => {
    const { w, p, hva, move } = moving();
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, PROT_READ));
    expect(isReadableExclusiveMigrationEntry(entryAt(p, hva))).toBe(true);
    drive(mprotect(w.k, p.mm, hva, PAGE_SIZE, RW));
    expect(isReadableExclusiveMigrationEntry(entryAt(p, hva))).toBe(true);
    drive(move);
    expect(pteWrite(entryAt(p, hva))).toBe(false);
    expect(pageAnonExclusive(w.k, pageAt(p, hva))).toBe(true);
    expect(p.store32(hva, 4)).toBe(0);
    expect(w.k.state.stat.cow_copied).toBe(0);
  });

  it('is zapped like a page: the move then finds nothing to put back', () => {
    const { w, p, hva, move } = moving();
    drive(madvise(w.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    expect(entryAt(p, hva)).toBe(0);
    expect(p.mm.rssAnon).toBe(0);
    drive(move);
    expect(p.load32(hva)).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });

  it('does not outlive its process', () => {
    const { w, p, move } = moving();
    exit(p);
    drive(move);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    assertKernel(w.k, { quiescent: true });
  });

  it('of a file page is in every address space, and a fault elsewhere waits for the folio lock', () => {
    const w = createWorld();
    const [a, b, c] = [createProcess(w), createProcess(w), createProcess(w)];
    const mapping = shmemCreate(w.k, 1);
    const request = { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping };
    const [inA, inB, inC] = [a, b, c].map((p) => drive(mmap(w.k, p.mm, request))) as [
      number,
      number,
      number,
    ];
    a.store32(inA, 1);
    b.load32(inB);
    const old = pageAt(a, inA);
    const move = migrateFolio(w.k, old);
    stepTo(w.k, move, YP_MIGRATE_UNMAPPED);
    expect(isMigrationEntry(entryAt(a, inA)) && isMigrationEntry(entryAt(b, inB))).toBe(true);
    const load = c.loadPath(inC, 4);
    expect(load.next().value).toBe(YP_WAIT);
    // The fault that waits holds a reference: the move gives up, and everything is as before.
    expect(drive(move)).toBeLessThan(0);
    expect(drive(load)).toBe(1);
    expect(pageAt(b, inB)).toBe(old);
    expect(drive(migrateFolio(w.k, old))).toBe(0);
    expect([a.load32(inA), b.load32(inB), c.load32(inC)]).toEqual([1, 1, 1]);
    expect(pageAt(a, inA)).not.toBe(old);
    assertKernel(w.k, { quiescent: true });
  });
});
