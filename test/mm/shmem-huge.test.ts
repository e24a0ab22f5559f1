/** Files with folios of 2 MiB, mapped by one entry where they can be. Compare mm/shmem.c, mm/memory.c:do_set_pmd(). */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  drive,
  EAGAIN,
  EBUSY,
  EFAULT,
  EHWPOISON,
  folioMapcount,
  folioOrder,
  folioRefCount,
  folioWriteProtect,
  fork,
  type HostProcess,
  MADV_DONTNEED,
  MADV_NOHUGEPAGE,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  memoryFailure,
  migrateFolio,
  mmap,
  munmap,
  nrFreePages,
  type Path,
  PROT_READ,
  pteDirty,
  pteWrite,
  shmemCreate,
  mappingPut,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { splitHugePage } from '../../mm/thp/split.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../../mm/thp/state.ts';
import { rng } from '../support/rng.ts';
import { leafAt } from './hugetlb-world.ts';
import {
  createProcess,
  createWorld,
  entryAt,
  exit,
  interleave,
  pageAt,
  RW,
  type World,
} from './support.ts';

/** A world in which shmem may have huge folios. */
const createShmemWorld = (): World => {
  const w = createWorld(32 << 20);
  w.k.state.thp.shmem = true;
  return w;
};

/** Where mappings go: aligned to 2 MiB, with room on both sides. */
const HVA = 0x4000_0000;

/** Maps `nr` pages of a file at `hva`. */
const map = (
  p: HostProcess,
  mapping: AddressSpace,
  { hva = HVA, nr = mapping.nrPages, pgoff = 0, flags = MAP_SHARED, prot = RW } = {},
): number => {
  const at = drive(
    mmap(p.k, p.mm, {
      hva,
      lenBytes: nr * PAGE_SIZE,
      prot,
      flags: flags | MAP_FIXED,
      mapping,
      pgoff,
    }),
  );
  if (at < 0) throw new Error(`mmap: ${at}`);
  return at;
};

const levelAt = (p: HostProcess, hva: number): number => leafAt(p, hva).level;

describe('the folios of a file', () => {
  it('are of 2 MiB where one fits into the size; the rest is single pages', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR + 10);
    const hva = map(p, mapping);
    p.store32(hva + 5 * PAGE_SIZE, 5);
    p.store32(hva + HPAGE_PMD_SIZE, 6);
    expect(mapping.pages.size).toBe(HPAGE_PMD_NR + 1);
    const folio = mapping.pages.get(0) ?? -1;
    expect(folioOrder(w.k, folio)).toBe(HPAGE_PMD_ORDER);
    for (let i = 0; i < HPAGE_PMD_NR; i++) expect(mapping.pages.get(i)).toBe(folio + i);
    expect(folioOrder(w.k, mapping.pages.get(HPAGE_PMD_NR) ?? -1)).toBe(0);
    // A reference of the cache for each page, and one of the entry.
    expect(folioRefCount(w.k, folio)).toBe(HPAGE_PMD_NR + 1);
    assertKernel(w.k, { quiescent: true });
    exit(p);
    drive(mappingPut(w.k, mapping));
    expect(nrFreePages(w.k)).toBe(w.freeAtStart);
  });

  it('are single pages where a page of the range is there already, and without shmem_enabled', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    w.k.state.thp.shmem = false;
    const plain = shmemCreate(w.k, HPAGE_PMD_NR);
    p.store32(map(p, plain), 1);
    expect(plain.pages.size).toBe(1);
    w.k.state.thp.shmem = true;
    const mapping = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
    const hva = map(p, mapping, { hva: HVA + 8 * HPAGE_PMD_SIZE });
    w.k.state.thp.shmem = false;
    p.store32(hva + 7 * PAGE_SIZE, 1);
    w.k.state.thp.shmem = true;
    p.store32(hva, 1);
    expect(mapping.pages.size).toBe(2);
    p.store32(hva + HPAGE_PMD_SIZE, 1);
    expect(mapping.pages.size).toBe(2 + HPAGE_PMD_NR);
    assertKernel(w.k, { quiescent: true });
  });

  it('are single pages without 2 MiB to be had, and for a VMA that asked for none', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR);
    const hva = map(p, mapping);
    drive(madvise(w.k, p.mm, hva, HPAGE_PMD_SIZE, MADV_NOHUGEPAGE));
    p.store32(hva, 1);
    expect(mapping.pages.size).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });
});

describe('a folio of 2 MiB', () => {
  it('is mapped by one entry in a shared mapping, writable at once; dirty only after a write', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, HPAGE_PMD_NR));
    p.load32(hva + 100 * PAGE_SIZE);
    const { entry, level } = leafAt(p, hva);
    expect(level).toBe(1);
    expect(pteWrite(entry)).toBe(true);
    expect(pteDirty(entry)).toBe(false);
    expect(p.mm.rssFile).toBe(HPAGE_PMD_NR);
    const faults = w.k.state.stat.pgfault;
    for (let i = 0; i < HPAGE_PMD_NR; i += 50) p.store32(hva + i * PAGE_SIZE, i);
    expect(w.k.state.stat.pgfault).toBe(faults);
    expect(pteDirty(leafAt(p, hva).entry)).toBe(true);
    assertKernel(w.k, { quiescent: true });
  });

  it('is mapped page by page where the mapping does not lie as the file does, or does not hold it whole', () => {
    const w = createShmemWorld();
    const mapping = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
    const a = createProcess(w);
    const hva = map(a, mapping);
    a.store32(hva, 7);
    a.store32(hva + 9 * PAGE_SIZE, 9);
    const b = createProcess(w);
    const shifted = map(b, mapping, { hva: HVA + PAGE_SIZE });
    expect(b.load32(shifted)).toBe(7);
    expect(levelAt(b, shifted)).toBe(0);
    const c = createProcess(w);
    const part = map(c, mapping, { nr: HPAGE_PMD_NR - 1 });
    expect(c.load32(part)).toBe(7);
    expect(levelAt(c, part)).toBe(0);
    const d = createProcess(w);
    const inside = map(d, mapping, { pgoff: 8, nr: 100 });
    expect(d.load32(inside + PAGE_SIZE)).toBe(9);
    expect(pageAt(d, inside + PAGE_SIZE)).toBe(mapping.pages.get(9));
    expect(folioMapcount(w.k, mapping.pages.get(0) ?? -1)).toBe(4);
    assertKernel(w.k, { quiescent: true });
  });

  it('in a private mapping is read by one entry; a write copies one page, and the rest is found again', () => {
    const w = createShmemWorld();
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR);
    const file = map(a, mapping);
    a.store32(file, 1);
    a.store32(file + PAGE_SIZE, 2);
    const own = map(b, mapping, { flags: MAP_PRIVATE });
    expect(b.load32(own)).toBe(1);
    expect(levelAt(b, own)).toBe(1);
    expect(pteWrite(leafAt(b, own).entry)).toBe(false);
    b.store32(own, 10);
    expect(levelAt(b, own)).toBe(0);
    expect(pageAt(b, own)).not.toBe(mapping.pages.get(0));
    // The other entries went with the huge one: a file's pages are found by faults.
    expect(entryAt(b, own + PAGE_SIZE)).toBe(0);
    expect([b.load32(own), b.load32(own + PAGE_SIZE), a.load32(file)]).toEqual([10, 2, 1]);
    expect([b.mm.rssAnon, b.mm.rssFile]).toEqual([1, 1]);
    assertKernel(w.k, { quiescent: true });
  });

  it('is not mapped huge by a write in a private mapping', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR);
    const own = map(p, mapping, { flags: MAP_PRIVATE });
    p.store32(own + PAGE_SIZE, 1);
    expect(levelAt(p, own)).toBe(0);
    expect(mapping.pages.size).toBe(HPAGE_PMD_NR);
    assertKernel(w.k, { quiescent: true });
  });

  it('is left out by fork', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, HPAGE_PMD_NR));
    p.store32(hva, 5);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(leafAt(c, hva).entry).toBe(0);
    expect(c.load32(hva)).toBe(5);
    expect(levelAt(c, hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('in a private mapping with copies is left out by fork beside them, and found again', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
    const own = map(p, mapping, { flags: MAP_PRIVATE });
    p.load32(own + HPAGE_PMD_SIZE);
    p.store32(own, 1);
    expect([levelAt(p, own), levelAt(p, own + HPAGE_PMD_SIZE)]).toEqual([0, 1]);
    const child = drive(fork(w.k, p.mm));
    if (typeof child === 'number') throw new Error('fork');
    const c = createProcess(w, child);
    expect(leafAt(c, own + HPAGE_PMD_SIZE).entry).toBe(0);
    expect(c.load32(own)).toBe(1);
    expect(c.load32(own + HPAGE_PMD_SIZE)).toBe(0);
    assertKernel(w.k, { quiescent: true });
  });

  it('loses its entry where a part is unmapped or dropped; the pages stay in the file', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
    const hva = map(p, mapping);
    for (let i = 0; i < 2; i++) p.store32(hva + i * HPAGE_PMD_SIZE, i + 1);
    drive(madvise(w.k, p.mm, hva + PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED));
    expect(leafAt(p, hva).entry).toBe(0);
    expect(p.load32(hva)).toBe(1);
    drive(munmap(w.k, p.mm, hva + HPAGE_PMD_SIZE + PAGE_SIZE, PAGE_SIZE));
    expect(p.load32(hva + HPAGE_PMD_SIZE)).toBe(2);
    expect(p.load32(hva + HPAGE_PMD_SIZE + PAGE_SIZE)).toBe(-EFAULT);
    expect(levelAt(p, hva + HPAGE_PMD_SIZE)).toBe(0);
    expect(mapping.pages.size).toBe(2 * HPAGE_PMD_NR);
    assertKernel(w.k, { quiescent: true });
  });

  it('that was write-protected is mapped huge again by the next store, which faults once', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR);
    const hva = map(p, mapping);
    p.store32(hva, 1);
    expect(drive(folioWriteProtect(w.k, mapping.pages.get(0) ?? -1))).toBe(1);
    const faults = w.k.state.stat.pgfault;
    p.store32(hva + 3 * PAGE_SIZE, 2);
    p.store32(hva, 3);
    expect(w.k.state.stat.pgfault).toBe(faults + 1);
    expect(levelAt(p, hva)).toBe(1);
    assertKernel(w.k, { quiescent: true });
  });

  it('is read-only in a mapping that is', () => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const hva = map(p, shmemCreate(w.k, HPAGE_PMD_NR), { prot: PROT_READ });
    expect(p.load32(hva)).toBe(0);
    expect(levelAt(p, hva)).toBe(1);
    expect(p.store32(hva, 1)).toBe(-EFAULT);
  });
});

describe('a folio of 2 MiB that is mapped by one entry', () => {
  const written = (): { w: World; p: HostProcess; mapping: AddressSpace; hva: number } => {
    const w = createShmemWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, HPAGE_PMD_NR);
    const hva = map(p, mapping);
    for (let i = 0; i < HPAGE_PMD_NR; i += 64) p.store32(hva + i * PAGE_SIZE, i + 1);
    expect(levelAt(p, hva)).toBe(1);
    return { w, p, mapping, hva };
  };
  const expectWritten = (p: HostProcess, hva: number): void => {
    for (let i = 0; i < HPAGE_PMD_NR; i += 64) expect(p.load32(hva + i * PAGE_SIZE)).toBe(i + 1);
  };

  it('moves as a whole', () => {
    const { w, p, mapping, hva } = written();
    const folio = mapping.pages.get(0) ?? -1;
    expect(drive(migrateFolio(w.k, folio))).toBe(0);
    const now = mapping.pages.get(0) ?? -1;
    expect(now).not.toBe(folio);
    expect(folioOrder(w.k, now)).toBe(HPAGE_PMD_ORDER);
    expectWritten(p, hva);
    assertKernel(w.k, { quiescent: true });
  });

  it('is split into pages of the same file', () => {
    const { w, p, mapping, hva } = written();
    const folio = mapping.pages.get(0) ?? -1;
    expect(drive(splitHugePage(w.k, folio))).toBe(0);
    expect(folioOrder(w.k, folio)).toBe(0);
    expect(mapping.pages.size).toBe(HPAGE_PMD_NR);
    expectWritten(p, hva);
    assertKernel(w.k, { quiescent: true });
  });

  it('loses a page to memory failure, and no other', () => {
    const { w, p, mapping, hva } = written();
    expect(drive(memoryFailure(w.k, mapping.pages.get(1) ?? -1))).toBe(0);
    expect(p.load32(hva + PAGE_SIZE)).toBe(-EHWPOISON);
    expect(createReader(w, mapping)).toBe(-EHWPOISON);
    expectWritten(p, hva);
  });

  /** Another process that reads the second page. */
  const createReader = (w: World, mapping: AddressSpace): number => {
    const q = createProcess(w);
    return q.load32(map(q, mapping) + PAGE_SIZE);
  };

  for (const seed of [1, 2, 3])
    it(`is moved and split under two processes that write to it, seed ${seed}`, () => {
      const { w, p, mapping, hva } = written();
      const q = createProcess(w);
      const other = map(q, mapping);
      function* writer(who: HostProcess, at: number): Path<void> {
        for (let n = 1; n < 60; n++) {
          const page = at + (n % 8) * 40 * PAGE_SIZE;
          expect(yield* who.storePath(page + (who === p ? 8 : 16), 4, n)).toBe(0);
          expect(yield* who.loadPath(page + (who === p ? 8 : 16), 4)).toBe(n);
        }
      }
      function* mover(): Path<void> {
        for (let n = 0; n < 6; n++) {
          const error = yield* migrateFolio(w.k, mapping.pages.get(0) ?? -1);
          expect([0, -EAGAIN, -EBUSY]).toContain(error);
        }
        yield* splitHugePage(w.k, mapping.pages.get(0) ?? -1);
      }
      interleave(w.k, [writer(p, hva), writer(q, other), mover()], rng(seed));
      assertKernel(w.k, { quiescent: true });
      exit(p);
      exit(q);
      drive(mappingPut(w.k, mapping));
      expect(nrFreePages(w.k)).toBe(w.freeAtStart);
    });
});
