/** munmap(), mprotect(), mremap() and madvise() of hugetlb memory, and pages of 1 GiB. Compare mm/hugetlb.c. */
import {
  assertKernel,
  drive,
  EFAULT,
  EINVAL,
  folioMapcount,
  folioRefCount,
  HUGETLB_ORDER_1G,
  type HostProcess,
  hugetlbSetPool,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  mmap,
  mmuNotifierRegister,
  mprotect,
  mremap,
  munmap,
  nrFreePages,
  PROT_NONE,
  PROT_READ,
  pageAnonExclusive,
  pteWrite,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
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
import { createProcess, createWorld, exit, RW, recordNotifier, type World } from './support.ts';

describe('unmapping', () => {
  it('flushes before the pages go back to the pool, and tells whoever follows the tables', () => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const hva = mapHuge(p, 3);
    for (let i = 0; i < 3; i++) p.store32(hva + i * HUGE, i);
    recordNotifier(w, 'n');
    mmuNotifierRegister(w.k, p.mm, 'n', 1);
    w.log.length = 0;
    drive(munmap(w.k, p.mm, hva, 2 * HUGE));
    expect(w.log.slice(0, 3)).toEqual([
      `start UNMAP ${2 * HUGE_NR}`,
      'flush',
      `end UNMAP ${2 * HUGE_NR}`,
    ]);
    expect(poolState(w)).toBe('3/2/0');
    expect(p.load32(hva + 2 * HUGE)).toBe(2);
    expect(p.mm.hugetlbUsage).toBe(HUGE_NR);
    settled(w);
  });

  it('a page that somebody refers to stays away from the pool until he lets go', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const folio = folioAt(p, hva);
    folioGet(w.k, folio);
    drive(munmap(w.k, p.mm, hva, HUGE));
    expect(poolState(w)).toBe('1/0/0');
    assertKernel(w.k, { quiescent: true, gets: 1 });
    folioPut(w.k, folio);
    expect(poolState(w)).toBe('1/1/0');
    settled(w);
  });

  it('a page that was dropped while pinned leaves its owner without a promise, until the pin goes', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(madvise(w.k, p.mm, hva, HUGE, MADV_DONTNEED));
    expect(p.store32(hva, 1)).toBe(-EFAULT);
    unpinUserPages(w.k, pages, 1);
    expect(p.store32(hva, 1)).toBe(0);
    settled(w);
  });

  it('madvise(MADV_DONTNEED) wants a huge page’s beginning, and drops whole ones: the end is rounded down', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    p.store32(hva, 1);
    p.store32(hva + HUGE, 2);
    const dontneed = (at: number, lenBytes: number): number =>
      drive(madvise(w.k, p.mm, at, lenBytes, MADV_DONTNEED));
    expect(dontneed(hva + 4096, HUGE)).toBe(-EINVAL);
    expect(dontneed(hva, HUGE + 4096)).toBe(0);
    expect([p.load32(hva), p.load32(hva + HUGE)]).toEqual([0, 2]);
    settled(w);
  });

  it('leaves the file’s page in the file', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHugeFile(p, hugeFile(w, 1));
    p.store32(hva, 5);
    drive(madvise(w.k, p.mm, hva, HUGE, MADV_DONTNEED));
    expect(folioAt(p, hva)).toBe(-1);
    expect(p.load32(hva)).toBe(5);
    settled(w);
  });
});

describe('mprotect()', () => {
  it('takes W and R; what is private gets W back by a fault, the page being its own', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 1);
    const folio = folioAt(p, hva);
    drive(mprotect(w.k, p.mm, hva, HUGE, PROT_READ));
    expect(p.store32(hva, 2)).toBe(-EFAULT);
    expect(p.load32(hva)).toBe(1);
    drive(mprotect(w.k, p.mm, hva, HUGE, PROT_NONE));
    expect(p.load32(hva)).toBe(-EFAULT);
    drive(mprotect(w.k, p.mm, hva, HUGE, RW));
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    expect(p.store32(hva, 2)).toBe(0);
    expect(folioAt(p, hva)).toBe(folio);
    settled(w);
  });

  it('of a part is of whole huge pages', () => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const hva = mapHuge(p, 3);
    for (let i = 0; i < 3; i++) p.store32(hva + i * HUGE, i);
    expect(drive(mprotect(w.k, p.mm, hva + HUGE, 4096, PROT_READ))).toBe(-EINVAL);
    expect(drive(mprotect(w.k, p.mm, hva + HUGE, HUGE, PROT_READ))).toBe(0);
    expect(p.mm.vmas).toHaveLength(3);
    expect([0, 1, 2].map((i) => p.store32(hva + i * HUGE, 9))).toEqual([0, -EFAULT, 0]);
    settled(w);
    // The three go by one reserve map.
    exit(p);
    expect(poolState(w)).toBe('3/3/0');
  });

  it('tells whoever follows the tables', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 1);
    recordNotifier(w, 'n');
    mmuNotifierRegister(w.k, p.mm, 'n', 1);
    w.log.length = 0;
    drive(mprotect(w.k, p.mm, hva, HUGE, PROT_READ));
    expect(w.log).toEqual([
      `start PROTECTION_VMA ${HUGE_NR}`,
      'flush',
      `end PROTECTION_VMA ${HUGE_NR}`,
    ]);
  });
});

describe('mremap()', () => {
  const move = (w: World, p: HostProcess, hva: number, lenBytes: number, to: number): number =>
    drive(mremap(w.k, p.mm, hva, lenBytes, lenBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to));

  it('moves the entries, and the promises with them', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const hva = mapHuge(p, 3);
    p.store32(hva + HUGE, 5);
    const folio = folioAt(p, hva + HUGE);
    const to = hva - 16 * HUGE;
    expect(move(w, p, hva, 3 * HUGE, to)).toBe(to);
    expect(folioAt(p, to + HUGE)).toBe(folio);
    expect(p.load32(to + HUGE)).toBe(5);
    expect(p.load32(hva + HUGE)).toBe(-EFAULT);
    expect(poolState(w)).toBe('4/3/2');
    settled(w);
    p.store32(to, 1);
    expect(poolState(w)).toBe('4/2/1');
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('4/4/0');
  });

  it('tells whoever follows the tables, and flushes before it says that it is done', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    recordNotifier(w, 'n');
    mmuNotifierRegister(w.k, p.mm, 'n', 1);
    w.log.length = 0;
    move(w, p, hva, HUGE, hva - 16 * HUGE);
    expect(w.log.slice(0, 3)).toEqual([`start CLEAR ${HUGE_NR}`, 'flush', `end CLEAR ${HUGE_NR}`]);
  });

  it('of a part leaves the promises of the rest where they are', () => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const hva = mapHuge(p, 4);
    p.store32(hva, 1);
    p.store32(hva + 2 * HUGE, 3);
    const to = hva - 16 * HUGE;
    expect(move(w, p, hva + HUGE, 2 * HUGE, to)).toBe(to);
    expect(poolState(w)).toBe('6/4/2');
    settled(w);
    for (const at of [to, hva + 3 * HUGE]) expect(p.store32(at, 7)).toBe(0);
    expect(poolState(w)).toBe('6/2/0');
    expect([p.load32(hva), p.load32(to + HUGE)]).toEqual([1, 3]);
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('6/6/0');
  });

  it('does not make huge memory longer, nor cut a huge page', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    const remap = (lenBytes: number, newLen: number, at = hva): number =>
      drive(mremap(w.k, p.mm, at, lenBytes, newLen, MREMAP_MAYMOVE));
    expect(remap(2 * HUGE, 3 * HUGE)).toBe(-EINVAL);
    expect(remap(HUGE, HUGE, hva + 4096)).toBe(-EINVAL);
    expect(remap(2 * HUGE, HUGE)).toBe(hva);
    expect(poolState(w)).toBe('4/4/1');
    settled(w);
  });

  it('of shared memory leaves the file its promises', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHugeFile(p, hugeFile(w, 2));
    p.store32(hva, 5);
    const to = hva - 16 * HUGE;
    expect(move(w, p, hva, 2 * HUGE, to)).toBe(to);
    expect(p.load32(to)).toBe(5);
    expect(poolState(w)).toBe('2/1/1');
    settled(w);
  });
});

describe('pages of 1 GiB', () => {
  const mapGigantic = (p: HostProcess, flags: number): number =>
    drive(
      mmap(p.k, p.mm, {
        lenBytes: GIB,
        prot: RW,
        flags: MAP_ANONYMOUS | MAP_HUGETLB | (30 << 26) | flags,
      }),
    );

  const createGiganticWorld = (nr: number): World => {
    const w = createWorld(2.5 * GIB);
    expect(hugetlbSetPool(w.k, HUGETLB_ORDER_1G, nr)).toBe(nr);
    return w;
  };

  it('are one entry of level 2; memory that nobody touches costs nothing', () => {
    const w = createGiganticWorld(2);
    const p = createProcess(w);
    const hva = mapGigantic(p, MAP_PRIVATE);
    expect(hva % GIB).toBe(0);
    const tables = p.mm.nrTables;
    for (const at of [0, 5 * 4096, GIB / 2, GIB - 4]) {
      expect(p.load32(hva + at)).toBe(0);
      expect(p.store32(hva + at, at + 1)).toBe(0);
    }
    for (const at of [0, 5 * 4096, GIB / 2, GIB - 4]) expect(p.load32(hva + at)).toBe(at + 1);
    expect(leafAt(p, hva + GIB / 2).level).toBe(2);
    expect(p.mm.nrTables).toBe(tables);
    expect(folioRefCount(w.k, folioAt(p, hva))).toBe(1);
    settled(w);
    exit(p);
    expect(nrFreePages(w.k)).toBe(w.freeAtStart - (2 * GIB) / 4096);
    // Who comes next finds zeroes where something was written, and where nothing was.
    const q = createProcess(w);
    const again = mapGigantic(q, MAP_PRIVATE);
    for (const at of [0, 5 * 4096, GIB / 2, GIB - 4]) expect(q.load32(again + at)).toBe(0);
  });

  it('are copied on write, bytes and zeroes', () => {
    const w = createGiganticWorld(2);
    // Somebody has left something in both, in different places.
    const before = createProcess(w);
    for (const page of [900, 901])
      before.store32(mapGigantic(before, MAP_PRIVATE) + page * 4096, 99);
    exit(before);
    const p = createProcess(w);
    const hva = mapGigantic(p, MAP_PRIVATE);
    p.store32(hva + 4096, 1);
    p.store32(hva + 700 * 4096, 2);
    const c = forked(w, p);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    c.store32(hva + 4096, 9);
    expect(folioAt(c, hva)).not.toBe(folioAt(p, hva));
    expect([0, 700, 900, 901].map((page) => c.load32(hva + page * 4096))).toEqual([0, 2, 0, 0]);
    expect(p.load32(hva + 4096)).toBe(1);
    settled(w);
  });

  it('are pinned by hundreds in one go, keep their exclusive flag on the head, and come apart nowhere', () => {
    const w = createGiganticWorld(2);
    const p = createProcess(w);
    const hva = mapGigantic(p, MAP_PRIVATE);
    p.store32(hva, 1);
    const pages = new Int32Array(1000);
    expect(
      drive(pinUserPagesFast(w.k, p.mm, hva + GIB - 1000 * 4096, 1000, FOLL_WRITE, pages)),
    ).toBe(1000);
    const folio = folioAt(p, hva);
    expect(pages[0]).toBe(folio + GIB / 4096 - 1000);
    expect(pages[999]).toBe(folio + GIB / 4096 - 1);
    expect(pageAnonExclusive(w.k, folio)).toBe(true);
    const c = forked(w, p);
    expect(folioAt(c, hva)).not.toBe(folio);
    expect(folioMapcount(w.k, folio)).toBe(1);
    unpinUserPages(w.k, pages, 1000);
    settled(w);
  });

  it('are shared, protected, moved and unmapped like the small ones', () => {
    const w = createGiganticWorld(1);
    const p = createProcess(w);
    const hva = mapGigantic(p, MAP_SHARED);
    p.store32(hva + 123 * 4096, 5);
    const c = forked(w, p);
    expect(c.load32(hva + 123 * 4096)).toBe(5);
    drive(mprotect(w.k, c.mm, hva, GIB, PROT_READ));
    expect(c.store32(hva, 1)).toBe(-EFAULT);
    const to = hva - 4 * GIB;
    const flags = MREMAP_MAYMOVE | MREMAP_FIXED;
    expect(drive(mremap(w.k, p.mm, hva, GIB, GIB, flags, to))).toBe(to);
    expect(p.load32(to + 123 * 4096)).toBe(5);
    settled(w);
    drive(munmap(w.k, p.mm, to, GIB));
    exit(c);
    exit(p);
    settled(w);
    const pool = w.k.state.hugetlb.hstates.find(({ order }) => order === HUGETLB_ORDER_1G);
    expect(pool?.free).toHaveLength(1);
  });
});
