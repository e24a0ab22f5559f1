/** Faults and copy on write of hugetlb memory. Compare mm/hugetlb.c:hugetlb_no_page(), hugetlb_wp(). */
import {
  allocPages,
  assertKernel,
  drive,
  EFAULT,
  ENOMEM,
  freePages,
  GFP_KERNEL,
  folioMapcount,
  folioRefCount,
  handleMmFault,
  FAULT_FLAG_UNSHARE,
  MAP_PRIVATE,
  MAP_SHARED,
  mmuNotifierRegister,
  mprotect,
  pageAnonExclusive,
  type Path,
  PROT_READ,
  pteDirty,
  pteWrite,
  mappingPut,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { folioGet, folioPut } from '../../mm/folio/folio.ts';
import { rng } from '../support/rng.ts';
import { createProcess, exit, interleave, RW, recordNotifier, stepTo } from './support.ts';
import {
  createHugeWorld,
  folioAt,
  forked,
  HUGE,
  HUGE_NR,
  hugeFile,
  leafAt,
  mapHuge,
  mapHugeFile,
  poolState,
  settled,
  sharedPage,
} from './hugetlb-world.ts';
import { YP_FAULT_ALLOCATED } from '../../mm/path.ts';

describe('first touch', () => {
  it('of private memory maps a zeroed page by one entry, exclusive and writable, for a read too', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    expect(p.load32(hva + 5 * 4096)).toBe(0);
    const { entry, level } = leafAt(p, hva);
    expect(level).toBe(1);
    expect(pteWrite(entry)).toBe(false);
    const folio = folioAt(p, hva);
    expect(pageAnonExclusive(w.k, folio)).toBe(true);
    expect(p.store32(hva + 7 * 4096, 9)).toBe(0);
    expect(folioAt(p, hva)).toBe(folio);
    p.store32(hva + HUGE, 1);
    expect(pteWrite(leafAt(p, hva + HUGE).entry)).toBe(true);
    // One reference and one mapping for 512 pages, and none of them counts as resident.
    expect(folioRefCount(w.k, folio)).toBe(1);
    expect(folioMapcount(w.k, folio)).toBe(1);
    expect([p.mm.rssAnon, p.mm.rssFile, p.mm.hugetlbUsage]).toEqual([0, 0, 2 * HUGE_NR]);
    settled(w);
  });

  it('finds nothing of who had the page before', () => {
    const w = createHugeWorld(1);
    const a = createProcess(w);
    const inA = mapHuge(a, 1);
    for (let at = 0; at < HUGE; at += 4096) a.store32(inA + at, 0xdead);
    exit(a);
    const b = createProcess(w);
    const inB = mapHuge(b, 1);
    for (let at = 0; at < HUGE; at += 4096) expect(b.load32(inB + at)).toBe(0);
  });

  it('of shared memory puts the page into the file, mapped writable and dirty at once', () => {
    const w = createHugeWorld(2);
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = hugeFile(w, 2);
    const inA = mapHugeFile(a, mapping);
    const inB = mapHugeFile(b, mapping);
    a.load32(inA + HUGE);
    const { entry } = leafAt(a, inA + HUGE);
    expect(pteWrite(entry) && pteDirty(entry)).toBe(true);
    a.store32(inA + HUGE + 8, 77);
    expect(b.load32(inB + HUGE + 8)).toBe(77);
    // One reference of the page cache, and one of each entry.
    const folio = folioAt(b, inB + HUGE);
    expect(mapping.pages).toEqual(new Map([[HUGE_NR, folio]]));
    expect(folioRefCount(w.k, folio)).toBe(3);
    settled(w);
  });

  it('of a private mapping of a file reads the file, and copies it at the first write', () => {
    const w = createHugeWorld(3);
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = hugeFile(w, 1);
    const file = mapHugeFile(a, mapping);
    a.store32(file, 1);
    const own = mapHugeFile(b, mapping, MAP_PRIVATE);
    expect(b.load32(own)).toBe(1);
    expect(folioAt(b, own)).toBe(folioAt(a, file));
    a.store32(file, 2);
    expect(b.load32(own)).toBe(2);
    expect(b.store32(own + 4, 9)).toBe(0);
    expect(folioAt(b, own)).not.toBe(folioAt(a, file));
    a.store32(file, 3);
    expect([b.load32(own), b.load32(own + 4), a.load32(file + 4)]).toEqual([2, 9, 0]);
    settled(w);
  });

  it('of a private mapping of a file by a write copies without a second fault', () => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    p.store32(mapHugeFile(p, mapping), 5);
    const own = mapHugeFile(p, mapping, MAP_PRIVATE);
    const faults = w.k.state.stat.pgfault;
    p.store32(own + 4, 6);
    expect(w.k.state.stat.pgfault).toBe(faults + 1);
    expect(p.load32(own)).toBe(5);
    settled(w);
  });

  it('beyond the end of the file is SIGBUS', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHugeFile(p, hugeFile(w, 1), MAP_SHARED, PROT_READ);
    expect(p.load32(hva)).toBe(0);
    expect(p.load32(hva + HUGE)).toBe(-EFAULT);
  });

  it('without memory for a table is -ENOMEM, and the promise stays', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    const taken: number[] = [];
    for (let page = 0; page >= 0; ) {
      page = allocPages(w.k, 0, GFP_KERNEL);
      if (page >= 0) taken.push(page);
    }
    expect(p.store32(hva, 1)).toBe(-ENOMEM);
    expect(poolState(w)).toBe('1/1/1');
    for (const page of taken) freePages(w.k, page, 0);
    settled(w);
    expect(p.store32(hva, 1)).toBe(0);
  });
});

describe('a write to a shared page — hugetlb_wp()', () => {
  it('of the parent copies, and the child keeps the page', () => {
    const { w, p, c, hva } = sharedPage(1);
    const folio = folioAt(p, hva);
    expect(pageAnonExclusive(w.k, folio)).toBe(false);
    p.store32(hva, 2);
    expect(folioAt(p, hva)).not.toBe(folio);
    expect(folioAt(c, hva)).toBe(folio);
    expect(c.load32(hva)).toBe(1);
    settled(w);
    // The last who maps a page writes to it in place.
    const copied = w.k.state.stat.cow_copied;
    c.store32(hva, 3);
    expect(folioAt(c, hva)).toBe(folio);
    expect(w.k.state.stat.cow_copied).toBe(copied);
    expect(p.load32(hva)).toBe(2);
    settled(w);
  });

  it('goes to the same page once nobody else maps it, whatever references there are: no other memory does that', () => {
    const { w, p, c, hva } = sharedPage(1);
    const folio = folioAt(p, hva);
    // What vmsplice() in the child takes.
    folioGet(w.k, folio);
    exit(c);
    p.store32(hva, 2);
    expect(folioAt(p, hva)).toBe(folio);
    settled(w, 1);
    folioPut(w.k, folio);
  });

  it('is told to whoever follows the tables', () => {
    const { w, p, hva } = sharedPage(1);
    recordNotifier(w, 'n');
    mmuNotifierRegister(w.k, p.mm, 'n', 1);
    w.log.length = 0;
    p.store32(hva, 2);
    expect(w.log).toEqual([`start CLEAR ${HUGE_NR}`, 'flush', `end CLEAR ${HUGE_NR}`]);
  });

  it('in a shared mapping that was made read-only makes it writable again', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    const hva = mapHugeFile(p, mapping);
    p.store32(hva, 1);
    drive(mprotect(w.k, p.mm, hva, HUGE, PROT_READ));
    expect(p.store32(hva, 2)).toBe(-EFAULT);
    drive(mprotect(w.k, p.mm, hva, HUGE, RW));
    expect(p.store32(hva, 2)).toBe(0);
    settled(w);
    exit(p);
    drive(mappingPut(w.k, mapping));
    expect(poolState(w)).toBe('1/1/0');
  });

  it('with hugetlbAlwaysReuses goes to the page that the other reads', () => {
    const { w, p, c, hva } = sharedPage(1);
    w.k.sabotage.hugetlbAlwaysReuses = true;
    p.store32(hva, 2);
    expect(c.load32(hva)).toBe(2);
    expect(() => assertKernel(w.k)).toThrow(/I3 .*exclusive page/);
  });
});

describe('UNSHARE', () => {
  it('of a shared page makes an exclusive copy that stays read-only', () => {
    const { w, p, c, hva } = sharedPage(1);
    expect(drive(handleMmFault(w.k, p.mm, hva, FAULT_FLAG_UNSHARE))).toBe(0);
    expect(folioAt(p, hva)).not.toBe(folioAt(c, hva));
    expect(pageAnonExclusive(w.k, folioAt(p, hva))).toBe(true);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    expect(p.load32(hva)).toBe(1);
    expect(w.k.state.stat.unshare_copied).toBe(1);
    settled(w);
  });

  it('of a page that nobody else maps any more says that it is exclusive', () => {
    const { w, p, c, hva } = sharedPage(1);
    exit(c);
    const folio = folioAt(p, hva);
    expect(drive(handleMmFault(w.k, p.mm, hva, FAULT_FLAG_UNSHARE))).toBe(0);
    expect(folioAt(p, hva)).toBe(folio);
    expect(pageAnonExclusive(w.k, folio)).toBe(true);
    expect(pteWrite(leafAt(p, hva).entry)).toBe(false);
    settled(w);
  });

  it('of a page of the file, mapped privately, copies it', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    p.store32(mapHugeFile(p, mapping), 5);
    const own = mapHugeFile(p, mapping, MAP_PRIVATE);
    p.load32(own);
    expect(drive(handleMmFault(w.k, p.mm, own, FAULT_FLAG_UNSHARE))).toBe(0);
    expect(folioAt(p, own)).not.toBe(mapping.pages.get(0));
    expect(p.load32(own)).toBe(5);
    settled(w);
  });
});

describe('a copy from an empty pool', () => {
  it('for who made the mapping: the page is taken from the child, which dies at its next touch', () => {
    const { w, p, c, hva } = sharedPage(0);
    const folio = folioAt(p, hva);
    recordNotifier(w, 'n');
    mmuNotifierRegister(w.k, c.mm, 'n', 1);
    w.log.length = 0;
    expect(p.store32(hva, 2)).toBe(0);
    expect(w.log).toEqual([`start CLEAR ${HUGE_NR}`, 'flush', `end CLEAR ${HUGE_NR}`]);
    expect(folioAt(p, hva)).toBe(folio);
    expect(folioAt(c, hva)).toBe(-1);
    expect(c.mm.hugetlbUsage).toBe(0);
    settled(w);
    expect(c.load32(hva)).toBe(-EFAULT);
    expect(c.store32(hva, 3)).toBe(-EFAULT);
    exit(c);
    exit(p);
    expect(poolState(w)).toBe('1/1/0');
  });

  it('for who made the mapping: what the child forks afterwards does not die, and finds zeroes', () => {
    const { w, p, c, hva } = sharedPage(0);
    p.store32(hva, 2);
    const g = forked(w, c);
    exit(p);
    expect(c.load32(hva)).toBe(-EFAULT);
    expect(g.load32(hva)).toBe(0);
    settled(w);
  });

  it('for the child is SIGBUS, and the parent does not notice', () => {
    const { w, p, c, hva } = sharedPage(0);
    expect(c.store32(hva, 2)).toBe(-EFAULT);
    expect(c.load32(hva)).toBe(1);
    expect(p.load32(hva)).toBe(1);
    settled(w);
  });

  it('for who made the mapping takes the page from grandchildren too, and from nobody who shares the file', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    const other = createProcess(w);
    const inOther = mapHugeFile(other, mapping);
    other.store32(inOther, 7);
    const hva = mapHugeFile(p, mapping, MAP_PRIVATE);
    p.store32(hva, 1);
    const c = forked(w, p);
    const g = forked(w, c);
    expect(p.store32(hva, 2)).toBe(0);
    expect([folioAt(c, hva), folioAt(g, hva)]).toEqual([-1, -1]);
    expect(other.load32(inOther)).toBe(7);
    settled(w);
  });

  it('for UNSHARE is the same', () => {
    const { w, p, c, hva } = sharedPage(0);
    expect(drive(handleMmFault(w.k, p.mm, hva, FAULT_FLAG_UNSHARE))).toBe(0);
    expect(pageAnonExclusive(w.k, folioAt(p, hva))).toBe(true);
    expect(c.load32(hva)).toBe(-EFAULT);
    settled(w);
  });

  it('for a page of a file finds the promise that the private mapping has', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    p.store32(mapHugeFile(p, mapping), 5);
    const own = mapHugeFile(p, mapping, MAP_PRIVATE);
    expect(poolState(w)).toBe('2/1/1');
    expect(p.store32(own, 6)).toBe(0);
    expect(poolState(w)).toBe('2/0/0');
    settled(w);
  });
});

describe('faults that meet', () => {
  it('two on the last page of the pool both succeed: the second waits for the first', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHugeFile(p, hugeFile(w, 1), MAP_SHARED | 0x4000);
    const touch = (at: number): Path<number> => p.storePath(hva + at, 4, at);
    const first = touch(0);
    stepTo(w.k, first, YP_FAULT_ALLOCATED);
    const second = touch(8);
    w.k.watched = true;
    let steps = 0;
    while (steps++ < 20) expect(second.next().done).toBe(false);
    w.k.watched = false;
    expect(drive(first)).toBe(0);
    expect(drive(second)).toBe(0);
    expect([p.load32(hva), p.load32(hva + 8)]).toEqual([0, 8]);
    settled(w);
  });

  for (const seed of [1, 2, 3])
    it(`of three processes on one page of a file, and on their own copies of it, seed ${seed}`, () => {
      const w = createHugeWorld(5);
      const random = rng(seed);
      const mapping = hugeFile(w, 1);
      const processes = [0, 1, 2].map(() => createProcess(w));
      const places = processes.map((p, i) => ({
        p,
        file: mapHugeFile(p, mapping),
        own: i > 0 ? mapHugeFile(p, mapping, MAP_PRIVATE) : 0,
      }));
      function* life(i: number): Path<void> {
        const place = places[i];
        if (place === undefined) return;
        const { p, file, own } = place;
        for (let n = 1; n < 20; n++) {
          expect(yield* p.storePath(file + i * 4, 4, n)).toBe(0);
          expect(yield* p.loadPath(file + i * 4, 4)).toBe(n);
          if (own === 0) continue;
          expect(yield* p.storePath(own + 64, 4, n)).toBe(0);
          expect(yield* p.loadPath(own + 64, 4)).toBe(n);
        }
      }
      interleave(w.k, [life(0), life(1), life(2)], random);
      settled(w);
      expect(processes[0]?.load32((places[0]?.file ?? 0) + 64)).toBe(0);
      for (const p of processes) exit(p);
      drive(mappingPut(w.k, mapping));
      expect(poolState(w)).toBe('5/5/0');
    });
});
