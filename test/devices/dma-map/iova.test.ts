/** Bus addresses of a domain: from the top down, aligned, cached by size. Compare drivers/iommu/iova.c. */
import { describe, expect, it } from 'vitest';
import { IovaAllocator } from '../../../devices/host/iova.ts';
import { rng } from '../../support/rng.ts';

const LIMIT = 0xffff;

describe('a range of bus addresses', () => {
  it('is the highest that is free', () => {
    const iova = new IovaAllocator(1, LIMIT);
    expect([iova.alloc(1), iova.alloc(1), iova.alloc(1)]).toEqual([LIMIT, LIMIT - 1, LIMIT - 2]);
  });

  for (const [nr, align] of [
    [1, 1],
    [2, 2],
    [3, 4],
    [32, 32],
    [33, 64],
    [512, 512],
    [700, 1024],
  ] as const)
    it(`of ${nr} pages begins at a multiple of ${align}`, () => {
      const iova = new IovaAllocator(1, LIMIT);
      iova.alloc(1);
      const pfn = iova.alloc(nr);
      expect(pfn % align).toBe(0);
      expect(pfn).toBe(Math.floor((LIMIT - (nr < 32 ? align : nr)) / align) * align);
    });

  it('is never page 0', () => {
    const iova = new IovaAllocator(1, 3);
    const pages = [iova.alloc(1), iova.alloc(1), iova.alloc(1), iova.alloc(1)];
    expect(pages).toEqual([3, 2, 1, -1]);
  });

  it('fits into a gap that others have left', () => {
    const iova = new IovaAllocator(1, LIMIT);
    const [a, b, c] = [iova.alloc(40), iova.alloc(40), iova.alloc(40)];
    iova.free(b, 40);
    expect([iova.alloc(40), a > b, b > c]).toEqual([b, true, true]);
  });

  it('is not given back twice, nor by another size', () => {
    const iova = new IovaAllocator(1, LIMIT);
    const pfn = iova.alloc(40);
    expect(() => iova.free(pfn, 41)).toThrow(/not in use/);
    iova.free(pfn, 40);
    expect(() => iova.free(pfn, 40)).toThrow(/not in use/);
  });
});

describe('the caches by size', () => {
  it('give out what came back last, and search nothing', () => {
    const iova = new IovaAllocator(1, LIMIT);
    const first = iova.alloc(3);
    const second = iova.alloc(3);
    iova.free(first, 3);
    iova.free(second, 3);
    const { searches } = iova;
    expect([iova.alloc(3), iova.alloc(4)]).toEqual([second, first]);
    expect([iova.searches, iova.cacheHits]).toEqual([searches, 2]);
  });

  it('keep nothing above 32 pages', () => {
    const iova = new IovaAllocator(1, LIMIT);
    iova.free(iova.alloc(33), 33);
    iova.free(iova.alloc(64), 64);
    iova.alloc(64);
    expect(iova.cacheHits).toBe(0);
  });

  it('are emptied when other sizes find no room', () => {
    const iova = new IovaAllocator(64, 127);
    const single = Array.from({ length: 64 }, () => iova.alloc(1));
    for (const pfn of single) iova.free(pfn, 1);
    expect([iova.alloc(64), iova.alloc(1)]).toEqual([64, -1]);
  });
});

describe('a reserved range', () => {
  it('is not given out, and merges with those it meets', () => {
    const iova = new IovaAllocator(1, 15);
    iova.reserve(4, 7);
    iova.reserve(6, 11);
    iova.reserve(1, 4);
    expect([...Array(4)].map(() => iova.alloc(1))).toEqual([15, 14, 13, 12]);
    expect(iova.alloc(1)).toBe(-1);
    expect([iova.isTaken(1), iova.isTaken(11), iova.nrTaken]).toEqual([true, true, 15]);
  });
});

describe('at random', () => {
  for (const seed of [1, 2, 3])
    it(`no two ranges overlap, all are in bounds, and a saved state goes on the same (seed ${seed})`, () => {
      const random = rng(seed);
      let iova = new IovaAllocator(1, 4095);
      const owner = new Int32Array(4096);
      const live: { pfn: number; nr: number }[] = [];
      for (let step = 0; step < 4000; step++) {
        if (random.chance(0.55)) {
          const nr = random.pick([1, 1, 2, 3, 5, 17, 32, 40, 130]);
          const pfn = iova.alloc(nr);
          if (pfn < 0) continue;
          for (let page = pfn; page < pfn + nr; page++) {
            expect(owner[page]).toBe(0);
            owner[page] = 1;
          }
          expect(pfn >= 1 && pfn + nr <= 4096).toBe(true);
          live.push({ pfn, nr });
        } else if (live.length > 0) {
          const [gone] = live.splice(random.below(live.length), 1);
          iova.free(gone!.pfn, gone!.nr);
          owner.fill(0, gone!.pfn, gone!.pfn + gone!.nr);
        }
        if (step % 500 !== 0) continue;
        const restored = new IovaAllocator(1, 4095);
        restored.restore(structuredClone(iova.save()));
        iova = restored;
      }
      for (const { pfn, nr } of live) iova.free(pfn, nr);
      expect(iova.nrTaken).toBe(0);
    });
});
