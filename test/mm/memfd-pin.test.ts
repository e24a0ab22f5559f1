/** memfd_pin_folios(): pins by place in a file (1.15), and the bugs it has had (2.17). Compare mm/gup.c. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  drive,
  EBUSY,
  EINVAL,
  ENOMEM,
  folioPinCount,
  folioRefCount,
  MAP_SHARED,
  migrateFolio,
  mmap,
  secretmemCreate,
  shmemCreate,
  mappingPut,
} from '#mm';
import { type FolioOffset, memfdPinFolios, unpinFolio, unpinFolios } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { type Path, YP_FAULT_ALLOCATED } from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import {
  createHugeWorld,
  HUGE,
  HUGE_NR,
  hugeFile,
  mapHugeFile,
  poolState,
  settled,
} from './hugetlb-world.ts';
import {
  createProcess,
  createWorld,
  interleave,
  RW,
  stepTo,
  type World,
  pinsLive,
} from './support.ts';

interface Pinned {
  n: number;
  folios: Int32Array;
  offset: number;
}

const pin = (
  w: World,
  mapping: AddressSpace | null,
  start: number,
  end: number,
  max = 16,
): Pinned => {
  const folios = new Int32Array(Math.max(max, 1)).fill(-1);
  const offset: FolioOffset = { offset: -1 };
  const n = drive(memfdPinFolios(w.k, mapping, start, end, folios, max, offset));
  return { n, folios, offset: offset.offset };
};

describe('memfd_pin_folios() of shmem', () => {
  it('pins each page once, in order, and says where in the first one the range begins', () => {
    const w = createWorld();
    const p = createProcess(w);
    const mapping = shmemCreate(w.k, 8);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: 8 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping }),
    );
    for (let i = 0; i < 8; i++) p.store32(hva + i * PAGE_SIZE, i);
    const { n, folios, offset } = pin(w, mapping, 2 * PAGE_SIZE + 100, 4 * PAGE_SIZE);
    expect(n).toBe(3);
    expect(offset).toBe(100);
    expect([...folios.subarray(0, 3)]).toEqual([2, 3, 4].map((i) => mapping.pages.get(i)));
    for (const folio of folios.subarray(0, 3)) expect(folioPinCount(w.k, folio)).toBe(1);
    assertKernel(w.k, { quiescent: true });
    unpinFolios(w.k, folios, 3);
    expect(pinsLive(w.k)).toBe(0);
  });

  it('fills holes: what is pinned is what a mapping finds', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 4);
    const { n, folios } = pin(w, mapping, 0, 4 * PAGE_SIZE - 1);
    expect(n).toBe(4);
    expect([...mapping.pages.values()]).toEqual([...folios.subarray(0, 4)]);
    // The page cache, and the pin.
    expect(folioRefCount(w.k, folios[1]!)).toBe(1 + 1024);
    unpinFolios(w.k, folios, n);
    settled(w);
  });

  it('a page that is pinned does not move', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 1);
    const { folios } = pin(w, mapping, 0, 0);
    expect(drive(migrateFolio(w.k, folios[0]!))).toBe(-EBUSY);
    unpinFolio(w.k, folios[0]!);
    expect(drive(migrateFolio(w.k, folios[0]!))).toBe(0);
  });

  it('a folio of 2 MiB is pinned once, whatever part of it is meant', () => {
    const w = createWorld();
    w.k.state.thp.shmem = true;
    const mapping = shmemCreate(w.k, 2 * HUGE_NR);
    const { n, folios, offset } = pin(w, mapping, 5 * PAGE_SIZE + 7, HUGE + 3);
    expect(n).toBe(2);
    expect(offset).toBe(5 * PAGE_SIZE + 7);
    expect([...folios.subarray(0, 2)]).toEqual([mapping.pages.get(0), mapping.pages.get(HUGE_NR)]);
    expect(folioPinCount(w.k, folios[0]!)).toBe(1);
    unpinFolios(w.k, folios, n);
    settled(w);
  });

  it('stops when the array is full', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 8);
    const { n, folios } = pin(w, mapping, 0, 8 * PAGE_SIZE - 1, 3);
    expect(n).toBe(3);
    expect(mapping.pages.size).toBe(3);
    unpinFolios(w.k, folios, n);
  });

  it('outlives the file', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 1);
    const { folios } = pin(w, mapping, 0, 0);
    drive(mappingPut(w.k, mapping));
    expect(folioPinCount(w.k, folios[0]!)).toBe(1);
    unpinFolios(w.k, folios, 1);
    settled(w);
  });
});

describe('memfd_pin_folios() refuses with -EINVAL', () => {
  for (const { fact, start = 0, end = 0, max = 1, file = 'shmem' } of [
    { fact: 'a range that begins before the file', start: -1 },
    { fact: 'a range that ends before it begins', start: 2, end: 1 },
    { fact: 'an array of nothing', max: 0 },
    { fact: 'a range that ends with the file’s size: the end is inclusive', end: 2 * PAGE_SIZE },
    { fact: 'no file', file: 'none' },
    { fact: 'a file that is neither shmem nor hugetlbfs', file: 'secretmem' },
  ])
    it(fact, () => {
      const w = createWorld();
      const files: Record<string, AddressSpace | null> = {
        shmem: shmemCreate(w.k, 2),
        secretmem: secretmemCreate(w.k, 2),
        none: null,
      };
      expect(pin(w, files[file] ?? null, start, end, max).n).toBe(-EINVAL);
      expect(pinsLive(w.k)).toBe(0);
    });

  it('a folio whose count would overflow; what was pinned before is given back', () => {
    const w = createWorld();
    const mapping = shmemCreate(w.k, 3);
    unpinFolios(w.k, pin(w, mapping, 0, 3 * PAGE_SIZE - 1).folios, 3);
    const { refcount } = w.k.state.frames;
    const third = mapping.pages.get(2) ?? -1;
    const before = refcount[third]!;
    refcount[third] = 0x7fff_ff00;
    expect(pin(w, mapping, 0, 3 * PAGE_SIZE - 1).n).toBe(-EINVAL);
    refcount[third] = before;
    expect(pinsLive(w.k)).toBe(0);
    settled(w);
  });
});

describe('memfd_pin_folios() of hugetlbfs', () => {
  it('pins huge pages, each once; the offset is in the first (2.17)', () => {
    const w = createHugeWorld(3);
    const p = createProcess(w);
    const mapping = hugeFile(w, 3);
    const hva = mapHugeFile(p, mapping);
    for (let i = 0; i < 3; i++) p.store32(hva + i * HUGE, i);
    // Begins inside the second huge page, and ends within a page of the third.
    const { n, folios, offset } = pin(w, mapping, HUGE + 3 * PAGE_SIZE + 5, 2 * HUGE + 77);
    expect(n).toBe(2);
    expect(offset).toBe(3 * PAGE_SIZE + 5);
    expect([...folios.subarray(0, 2)]).toEqual([
      mapping.pages.get(HUGE_NR),
      mapping.pages.get(2 * HUGE_NR),
    ]);
    unpinFolios(w.k, folios, n);
    settled(w);
  });

  it('fills a hole with a page of the pool, promised to the file or not, and leaks no reference (2.17)', () => {
    const w = createHugeWorld(2);
    const mapping = hugeFile(w, 2);
    const first = pin(w, mapping, 0, 0);
    expect(first.n).toBe(1);
    expect(poolState(w)).toBe('2/1/0');
    // The page cache, and the pin.
    expect(folioRefCount(w.k, first.folios[0]!)).toBe(2);
    settled(w);
    mapHugeFile(createProcess(w), mapping);
    expect(poolState(w)).toBe('2/1/1');
    const second = pin(w, mapping, HUGE, HUGE);
    expect(second.n).toBe(1);
    expect(poolState(w)).toBe('2/0/0');
    unpinFolios(w.k, first.folios, 1);
    unpinFolios(w.k, second.folios, 1);
    settled(w);
  });

  it('is -ENOMEM where a hole finds the pool empty, or promised to others, and nothing stays pinned', () => {
    const w = createHugeWorld(1);
    const mapping = hugeFile(w, 2);
    expect(pin(w, mapping, 0, 2 * HUGE - 1).n).toBe(-ENOMEM);
    expect(pinsLive(w.k)).toBe(0);
    expect(mapping.pages.size).toBe(1);
    settled(w);
    const other = createHugeWorld(1);
    mapHugeFile(createProcess(other), hugeFile(other, 1));
    expect(pin(other, hugeFile(other, 1), 0, 0).n).toBe(-ENOMEM);
    settled(other);
  });

  it('a hole that two fill at once is filled once; the second finds it filled: -EEXIST is tried again (2.17)', () => {
    const w = createHugeWorld(1);
    const mapping = hugeFile(w, 1);
    const [a, b] = [new Int32Array(1), new Int32Array(1)];
    const pinInto = (folios: Int32Array): Path<number> =>
      memfdPinFolios(w.k, mapping, 0, HUGE - 1, folios, 1, { offset: 0 });
    const first = pinInto(a);
    stepTo(w.k, first, YP_FAULT_ALLOCATED);
    const second = pinInto(b);
    w.k.watched = true;
    for (let i = 0; i < 5; i++) expect(second.next().done).toBe(false);
    w.k.watched = false;
    expect(drive(first)).toBe(1);
    expect(drive(second)).toBe(1);
    expect(b[0]).toBe(a[0]);
    expect(folioPinCount(w.k, a[0]!)).toBe(2);
    unpinFolios(w.k, a, 1);
    unpinFolios(w.k, b, 1);
    settled(w);
    drive(mappingPut(w.k, mapping));
    expect(poolState(w)).toBe('1/1/0');
  });

  for (const seed of [1, 2, 3])
    it(`of pinners and a process that touches the same holes, seed ${seed}`, () => {
      const w = createHugeWorld(3);
      const p = createProcess(w);
      const mapping = hugeFile(w, 3);
      const hva = mapHugeFile(p, mapping);
      const held: Int32Array[] = [];
      function* pinner(): Path<void> {
        const folios = new Int32Array(3);
        const n = yield* memfdPinFolios(w.k, mapping, 0, 3 * HUGE - 1, folios, 3, { offset: 0 });
        expect(n).toBe(3);
        held.push(folios);
      }
      function* toucher(): Path<void> {
        for (let i = 0; i < 3; i++) expect(yield* p.storePath(hva + i * HUGE, 4, i)).toBe(0);
      }
      interleave(w.k, [pinner(), toucher(), pinner()], rng(seed));
      expect(held).toHaveLength(2);
      expect(held[0]).toEqual(held[1]);
      expect(mapping.pages.size).toBe(3);
      for (const folios of held) unpinFolios(w.k, folios, 3);
      settled(w);
      expect(poolState(w)).toBe('3/0/0');
    });
});
