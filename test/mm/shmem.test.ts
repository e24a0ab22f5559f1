/** shmem: files in memory, mapped shared and private. Compare mm/shmem.c. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  drive,
  EFAULT,
  folioRefCount,
  folioTestDirty,
  folioWriteProtect,
  fork,
  type HostProcess,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  MAP_SHARED,
  mmap,
  munmap,
  nrFreePages,
  pageMapcount,
  PROT_READ,
  pteDirty,
  pteWrite,
  shmemCreate,
  mappingPut,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { createProcess, createWorld, entryAt, exit, pageAt, RW } from './support.ts';

const map = (p: HostProcess, mapping: AddressSpace, flags = MAP_SHARED, prot = RW): number =>
  drive(mmap(p.k, p.mm, { lenBytes: mapping.nrPages * PAGE_SIZE, prot, flags, mapping }));

describe('shared mappings of a file', () => {
  it('of two processes at different addresses are the same bytes', () => {
    const w = createWorld();
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = shmemCreate(w.k, 4);
    const inA = map(a, mapping);
    const inB = drive(
      mmap(w.k, b.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping, pgoff: 2 }),
    );
    a.store32(inA + 2 * PAGE_SIZE, 77);
    expect(b.load32(inB)).toBe(77);
    b.store32(inB + 4, 78);
    expect(a.load32(inA + 2 * PAGE_SIZE + 4)).toBe(78);
    // Page cache and two entries.
    expect(folioRefCount(w.k, pageAt(b, inB))).toBe(3);
    expect(pageMapcount(w.k, pageAt(b, inB))).toBe(2);
    assertKernel(w.k, { quiescent: true });
  });

  it('a read fault maps the page writable at once: shmem wants no writenotify', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, 1));
    p.load32(hva);
    expect(pteWrite(entryAt(p, hva))).toBe(true);
    expect(pteDirty(entryAt(p, hva))).toBe(false);
  });

  it('a store through such an entry sets D, and the zap makes the folio dirty', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = map(p, mapping);
    p.load32(hva);
    const page = pageAt(p, hva);
    const faults = w.k.state.stat.pgfault;
    p.store32(hva, 1);
    expect(w.k.state.stat.pgfault).toBe(faults);
    expect(folioTestDirty(w.k, page)).toBe(false);
    drive(munmap(w.k, p.mm, hva, PAGE_SIZE));
    expect(folioTestDirty(w.k, page)).toBe(true);
  });

  it('after write-protection the next store faults once and goes to the same page', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, 1));
    p.store32(hva, 1);
    const page = pageAt(p, hva);
    expect(drive(folioWriteProtect(w.k, page))).toBe(1);
    const faults = w.k.state.stat.pgfault;
    p.store32(hva, 2);
    p.store32(hva + 4, 3);
    expect(w.k.state.stat.pgfault).toBe(faults + 1);
    expect(pageAt(p, hva)).toBe(page);
    expect(pteWrite(entryAt(p, hva)) && pteDirty(entryAt(p, hva))).toBe(true);
  });

  it('beyond the end of the file faults: SIGBUS', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: 2 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
    );
    expect(p.load32(hva + PAGE_SIZE)).toBe(-EFAULT);
    expect(p.store32(hva + PAGE_SIZE, 1)).toBe(-EFAULT);
  });

  it('are left out by a fork, which finds the pages again', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, 2));
    p.store32(hva, 5);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(entryAt(c, hva)).toBe(0);
    expect(c.load32(hva)).toBe(5);
    c.store32(hva, 6);
    expect(p.load32(hva)).toBe(6);
  });
});

describe('private mappings of a file', () => {
  it('see the file until their first write to a page, and then their copy', () => {
    const w = createWorld();
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = shmemCreate(w.k, 1);
    const shared = map(a, mapping);
    const own = map(b, mapping, MAP_PRIVATE);
    a.store32(shared, 1);
    expect(b.load32(own)).toBe(1);
    a.store32(shared, 2);
    expect(b.load32(own)).toBe(2);
    b.store32(own + 4, 9);
    a.store32(shared, 3);
    expect(b.load32(own)).toBe(2);
    expect(a.load32(shared + 4)).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });

  it('a first touch by a write copies without mapping the file page', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = map(p, mapping, MAP_PRIVATE);
    p.store32(hva, 1);
    expect(pageAt(p, hva)).not.toBe(mapping.pages.get(0));
    expect(pageMapcount(w.k, mapping.pages.get(0) ?? -1)).toBe(0);
  });
});

describe('life of a file', () => {
  it('pages stay after the last mapping, and go with the last user', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 8);
    const hva = map(p, mapping);
    for (let i = 0; i < 8; i++) p.store32(hva + i * PAGE_SIZE, i);
    exit(p);
    expect(w.freeAtStart - nrFreePages(w.k)).toBe(8);
    drive(mappingPut(w.k, mapping));
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    expect(w.k.state.mappings.size).toBe(0);
  });

  it('a mapping keeps a file that was closed', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 1);
    const hva = map(p, mapping);
    p.store32(hva, 4);
    drive(mappingPut(w.k, mapping));
    expect(p.load32(hva)).toBe(4);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('shared anonymous memory is an unnamed file: parent and child share it', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: PAGE_SIZE, prot: RW, flags: MAP_SHARED | MAP_ANONYMOUS }),
    );
    p.store32(hva, 1);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    c.store32(hva, 2);
    expect(p.load32(hva)).toBe(2);
    exit(c);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('a read-only shared mapping refuses writes', () => {
    const w = createWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, 1), MAP_SHARED, PROT_READ);
    expect(p.load32(hva)).toBe(0);
    expect(p.store32(hva, 1)).toBe(-EFAULT);
  });
});
