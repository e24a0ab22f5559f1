/** Reservations: a mapping of huge pages is promised its pages when it is made. Compare mm/hugetlb.c:hugetlb_reserve_pages(). */
import {
  drive,
  EFAULT,
  EINVAL,
  ENOMEM,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_HUGETLB,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mmap,
  munmap,
  PROT_READ,
  mappingPut,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { createProcess, exit, RW } from './support.ts';
import {
  createHugeWorld,
  folioAt,
  forked,
  HUGE,
  HUGE_NR,
  hugeFile,
  mapHuge,
  mapHugeFile,
  poolState,
  settled,
  tryMapHuge,
} from './hugetlb-world.ts';

describe('a private mapping', () => {
  it('is promised all its pages, read-only or not, and uses a promise up at each first touch', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const hva = mapHuge(p, 3, 0, PROT_READ);
    expect(poolState(w)).toBe('4/4/3');
    p.load32(hva + HUGE);
    expect(poolState(w)).toBe('4/3/2');
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('4/4/0');
  });

  it('is refused where the pool cannot promise so much: -ENOMEM, and nothing is left of it', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    mapHuge(p, 3);
    expect(tryMapHuge(p, 2)).toBe(-ENOMEM);
    expect(poolState(w)).toBe('4/4/3');
    expect(p.mm.vmas).toHaveLength(1);
    expect(tryMapHuge(p, 1)).toBeGreaterThan(0);
    settled(w);
  });

  it('with MAP_NORESERVE is promised nothing, and takes what is left over: -EFAULT when nothing is', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const own = mapHuge(p, 1);
    const hva = mapHuge(p, 2, MAP_NORESERVE);
    expect(poolState(w)).toBe('2/2/1');
    expect(p.store32(hva, 1)).toBe(0);
    // One page is free, and it is somebody else's.
    expect(poolState(w)).toBe('2/1/1');
    expect(p.store32(hva + HUGE, 1)).toBe(-EFAULT);
    expect(p.store32(own, 1)).toBe(0);
    settled(w);
  });

  it('unmapped in part gives back the promises of that part', () => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const hva = mapHuge(p, 6);
    p.store32(hva + 2 * HUGE, 1);
    expect(poolState(w)).toBe('6/5/5');
    drive(munmap(w.k, p.mm, hva + HUGE, 2 * HUGE));
    expect(poolState(w)).toBe('6/6/4');
    settled(w);
    // What is left on either side goes by the same map.
    p.store32(hva + 5 * HUGE, 1);
    drive(munmap(w.k, p.mm, hva, HUGE));
    expect(poolState(w)).toBe('6/5/2');
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('6/6/0');
  });

  it('gets its promise back for a page that it drops: MADV_DONTNEED', () => {
    const w = createHugeWorld(1);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    expect(drive(madvise(w.k, p.mm, hva, HUGE, MADV_DONTNEED))).toBe(0);
    expect(poolState(w)).toBe('1/1/1');
    expect(tryMapHuge(p, 1)).toBe(-ENOMEM);
    expect(p.load32(hva)).toBe(0);
    settled(w);
  });

  it('of a child has no promises: the child takes what is left over', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    const c = forked(w, p);
    expect(poolState(w)).toBe('2/2/2');
    expect(c.store32(hva, 1)).toBe(-EFAULT);
    expect(p.store32(hva, 1)).toBe(0);
    expect(p.store32(hva + HUGE, 1)).toBe(0);
    settled(w);
    exit(c);
    exit(p);
    expect(poolState(w)).toBe('2/2/0');
  });
});

describe('a page that the child still has', () => {
  it('does not renew its owner’s promise when the owner unmaps it', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 1);
    p.store32(hva, 5);
    const c = forked(w, p);
    drive(munmap(w.k, p.mm, hva, HUGE));
    expect(poolState(w)).toBe('2/1/0');
    settled(w);
    expect(c.load32(hva)).toBe(5);
    exit(c);
    expect(poolState(w)).toBe('2/2/0');
    settled(w);
  });
});

describe('a file', () => {
  it('is promised what its shared mappings ask for, once, and keeps it when they go', () => {
    const w = createHugeWorld(6);
    const [a, b] = [createProcess(w), createProcess(w)];
    const mapping = hugeFile(w, 4);
    expect(poolState(w)).toBe('6/6/0');
    const inA = mapHugeFile(a, mapping);
    expect(poolState(w)).toBe('6/6/4');
    mapHugeFile(b, mapping);
    expect(poolState(w)).toBe('6/6/4');
    a.store32(inA, 1);
    expect(poolState(w)).toBe('6/5/3');
    settled(w);
    exit(a);
    exit(b);
    expect(poolState(w)).toBe('6/5/3');
    drive(mappingPut(w.k, mapping));
    expect(poolState(w)).toBe('6/6/0');
    settled(w);
  });

  it('is promised only the part that is mapped', () => {
    const w = createHugeWorld(6);
    const p = createProcess(w);
    const mapping = hugeFile(w, 4);
    const flags = MAP_SHARED;
    const map = (pgoff: number, nr: number): number =>
      drive(mmap(w.k, p.mm, { lenBytes: nr * HUGE, prot: RW, flags, mapping, pgoff }));
    map(2 * HUGE_NR, 1);
    expect(poolState(w)).toBe('6/6/1');
    map(HUGE_NR, 3);
    expect(poolState(w)).toBe('6/6/3');
    expect(map(1, 1)).toBe(-EINVAL);
    settled(w);
  });

  it('that is mapped without promises takes what is left over, and keeps it', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const mapping = hugeFile(w, 3);
    const hva = mapHugeFile(p, mapping, MAP_SHARED | MAP_NORESERVE);
    expect(poolState(w)).toBe('2/2/0');
    expect(p.store32(hva, 1)).toBe(0);
    expect(p.store32(hva + HUGE, 1)).toBe(0);
    expect(p.store32(hva + 2 * HUGE, 1)).toBe(-EFAULT);
    settled(w);
    drive(munmap(w.k, p.mm, hva, 3 * HUGE));
    // With promises: two pages are there, the third cannot be promised.
    expect(mapHugeFile(p, mapping)).toBe(-ENOMEM);
    settled(w);
  });

  it('mapped privately is promised pages for the copies, besides', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const mapping = hugeFile(w, 2);
    mapHugeFile(p, mapping);
    const own = mapHugeFile(p, mapping, MAP_PRIVATE);
    expect(poolState(w)).toBe('4/4/4');
    p.store32(own, 1);
    expect(poolState(w)).toBe('4/3/3');
    expect(mapping.pages.size).toBe(0);
    settled(w);
    exit(p);
    expect(poolState(w)).toBe('4/4/2');
  });
});

describe('mmap() of huge pages', () => {
  it('rounds the length up and aligns the address', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
    const hva = drive(mmap(w.k, p.mm, { lenBytes: HUGE + 1, prot: RW, flags }));
    expect(hva % HUGE).toBe(0);
    expect(poolState(w)).toBe('2/2/2');
    const fixed = drive(
      mmap(w.k, p.mm, { hva: hva - 4096, lenBytes: 1, prot: RW, flags: flags | MAP_FIXED }),
    );
    expect(fixed).toBe(-EINVAL);
  });

  it('refuses a size that no pool has', () => {
    const w = createHugeWorld(2);
    expect(tryMapHuge(createProcess(w), 1, 16 << 26)).toBe(-EINVAL);
    expect(tryMapHuge(createProcess(w), 1, 21 << 26)).toBeGreaterThan(0);
  });

  it('a huge page is not unmapped in part: -EINVAL, with nothing done', () => {
    const w = createHugeWorld(2);
    const p = createProcess(w);
    const hva = mapHuge(p, 2);
    p.store32(hva, 5);
    expect(drive(munmap(w.k, p.mm, hva, 4096))).toBe(-EINVAL);
    expect(drive(munmap(w.k, p.mm, hva + 4096, HUGE - 4096))).toBe(-EINVAL);
    expect(p.load32(hva)).toBe(5);
    expect(folioAt(p, hva + 4096)).toBe(folioAt(p, hva));
    settled(w);
  });

  it('a writable mapping beyond the end makes the file longer', () => {
    const w = createHugeWorld(4);
    const p = createProcess(w);
    const mapping = hugeFile(w, 1);
    const flags = MAP_SHARED;
    const lenBytes = 2 * HUGE;
    const read = drive(mmap(w.k, p.mm, { lenBytes, prot: PROT_READ, flags, mapping }));
    expect(p.load32(read + HUGE)).toBe(-EFAULT);
    const hva = drive(mmap(w.k, p.mm, { lenBytes, prot: RW, flags, mapping }));
    expect(p.store32(hva + HUGE, 3)).toBe(0);
    expect(p.load32(read + HUGE)).toBe(3);
    settled(w);
  });
});
