/** Truncation and holes of files in memory, against swap, migration, splitting and faults, in an order drawn from a seed. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  assertKernel,
  checkKernel,
  drive,
  EFAULT,
  filePunchHole,
  fileRead,
  fileTruncate,
  HUGETLB_ORDER_2M,
  hugetlbFileSetup,
  hugetlbSetPool,
  type HostProcess,
  type Kernel,
  MADV_DONTNEED,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mappingPut,
  migrateFolio,
  mmap,
  type Path,
  shmemCreate,
  swapon,
} from '#mm';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPagesDirtyLock } from '../../mm/gup/unpin.ts';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { splitHugePage } from '../../mm/thp/split.ts';
import { HPAGE_PMD_NR } from '../../mm/thp/state.ts';
import { type Rng, rng } from '../support/rng.ts';
import { createProcess, createWorld, exit, interleave, RW, type World } from './support.ts';

const HVA = 0x4000_0000;
const PRIVATE_HVA = 0x6000_0000;

/** A file, who maps it, and what it should read as: the first word of each page. */
interface Stage {
  w: World;
  file: AddressSpace;
  owners: HostProcess[];
  /** Pages that are looked at, in order. */
  offsets: number[];
  words: Map<number, number>;
  /** Sizes and holes are multiples of so many pages. */
  grain: number;
  maxPages: number;
}

const mapAt = (p: HostProcess, file: AddressSpace, hva: number, flags: number): void => {
  const lenBytes = file.nrPages * PAGE_SIZE;
  const at = drive(
    mmap(p.k, p.mm, { hva, lenBytes, prot: RW, flags: flags | MAP_FIXED, mapping: file }),
  );
  if (at !== hva) throw new Error(`mmap: ${at}`);
};

const stageOf = (w: World, file: AddressSpace, offsets: number[], grain: number): Stage => {
  const owners = [createProcess(w), createProcess(w)];
  for (const p of owners) {
    mapAt(p, file, HVA, MAP_SHARED);
    mapAt(p, file, PRIVATE_HVA, MAP_PRIVATE);
  }
  return { w, file, owners, offsets, words: new Map(), grain, maxPages: file.nrPages };
};

/** Some pages of two folios of 2 MiB, or of the small ones that are there instead. */
const shmemStage = (huge: boolean): Stage => {
  const w = createWorld(32 << 20);
  swapon(w.k, 64);
  w.k.state.thp.shmem = huge;
  const file = shmemCreate(w.k, 2 * HPAGE_PMD_NR);
  const offsets = [
    0,
    1,
    2,
    300,
    HPAGE_PMD_NR - 1,
    HPAGE_PMD_NR,
    HPAGE_PMD_NR + 1,
    2 * HPAGE_PMD_NR - 1,
  ];
  return stageOf(w, file, offsets, 1);
};

const hugetlbStage = (): Stage => {
  const w = createWorld(64 << 20);
  hugetlbSetPool(w.k, HUGETLB_ORDER_2M, 12);
  const file = hugetlbFileSetup(w.k, HUGETLB_ORDER_2M, 3 * HPAGE_PMD_NR);
  if (typeof file === 'number') throw new Error(`hugetlbfs: ${file}`);
  return stageOf(
    w,
    file,
    [0, 1, HPAGE_PMD_NR, 2 * HPAGE_PMD_NR, 3 * HPAGE_PMD_NR - 1],
    HPAGE_PMD_NR,
  );
};

const pick = <T>(random: Rng, list: readonly T[]): T => {
  const item = list[random.below(list.length)];
  if (item === undefined) throw new Error('nothing to pick from');
  return item;
};

/** Changes the file, one at a time, and knows what it reads as. */
function* user(stage: Stage, random: Rng, turn: { busy: boolean }): Path<void> {
  const { w, file, owners, offsets, words, grain } = stage;
  const { k } = w;
  for (let i = 1; i <= 30; i++) {
    while (turn.busy) yield 0;
    turn.busy = true;
    const value = 1000 + random.below(1 << 20);
    const pgoff = pick(random, offsets);
    const p = pick(random, owners);
    const hva = HVA + pgoff * PAGE_SIZE;
    const how = random.below(8);
    if (how < 4) {
      const stored = yield* p.storePath(hva, 4, value);
      expect(stored).toBe(pgoff < file.nrPages ? 0 : -EFAULT);
      if (stored === 0) words.set(pgoff, value);
    } else if (how === 4) {
      const pages = new Int32Array(1);
      if ((yield* pinUserPagesFast(k, p.mm, hva, 1, FOLL_WRITE, pages)) === 1) {
        k.memory.i32[k.memory.pageOffset(pages[0]!) >>> 2] = value;
        words.set(pgoff, value);
        // The turn goes on while the page is held: truncation finds a pin.
        turn.busy = false;
        if (random.chance(0.5)) yield 1;
        yield* unpinUserPagesDirtyLock(k, pages, 1, true);
        continue;
      }
    } else if (how === 5) {
      const end = pgoff - (pgoff % grain) + grain;
      expect(yield* fileTruncate(k, file, end * PAGE_SIZE)).toBe(0);
      for (const at of offsets) if (at >= end) words.delete(at);
    } else if (how === 6) {
      expect(yield* fileTruncate(k, file, stage.maxPages * PAGE_SIZE)).toBe(0);
    } else {
      const from = pgoff - (pgoff % grain);
      const end = from + grain * (1 + random.below(2));
      expect(yield* filePunchHole(k, file, from * PAGE_SIZE, end * PAGE_SIZE)).toBe(0);
      for (const at of offsets) if (at >= from && at < end) words.delete(at);
    }
    turn.busy = false;
  }
}

/** What changes nothing that anybody can read: but where pages are, and how they are mapped. */
function* others({ w, file, owners, offsets }: Stage, random: Rng): Path<void> {
  const { k } = w;
  for (let i = 0; i < 30; i++) {
    const pgoff = pick(random, offsets);
    const page = file.pages.get(pgoff) ?? -1;
    const p = pick(random, owners);
    const how = random.below(6);
    if (how === 0) yield* migrateFolio(k, page);
    else if (how === 1 && file.kind === 'shmem') yield* splitHugePage(k, page);
    else if (how === 2 && file.kind === 'shmem') yield* reclaimFolio(k, page);
    else if (how === 3 && file.kind === 'shmem')
      yield* madvise(k, p.mm, HVA + pgoff * PAGE_SIZE, PAGE_SIZE, MADV_DONTNEED);
    else if (how === 4) yield* p.storePath(PRIVATE_HVA + pgoff * PAGE_SIZE, 4, 7);
    else yield* p.loadPath(HVA + pgoff * PAGE_SIZE, 4);
    expect(checkKernel(k)).toEqual([]);
  }
}

const readWord = (k: Kernel, file: AddressSpace, pgoff: number): number => {
  const bytes = new Uint8Array(4);
  const n = drive(fileRead(k, file, pgoff * PAGE_SIZE, bytes));
  return n === 0 ? -EFAULT : new DataView(bytes.buffer).getUint32(0, true);
};

const play = (stage: Stage, seed: number): void => {
  const { w, file, owners, offsets, words } = stage;
  const { k } = w;
  const random = rng(seed);
  const turn = { busy: false };
  interleave(
    k,
    [
      user(stage, random, turn),
      user(stage, random, turn),
      others(stage, random),
      others(stage, random),
    ],
    random,
  );
  assertKernel(k, { quiescent: true });
  for (const pgoff of offsets) {
    const expected = pgoff < file.nrPages ? (words.get(pgoff) ?? 0) : -EFAULT;
    expect([pgoff, readWord(k, file, pgoff)]).toEqual([pgoff, expected]);
    for (const p of owners)
      expect([pgoff, p.load32(HVA + pgoff * PAGE_SIZE)]).toEqual([pgoff, expected]);
  }
  for (const p of owners) exit(p);
  drive(mappingPut(k, file));
  assertKernel(k, { quiescent: true });
  expect(k.state.swap.nrFree).toBe(k.state.swap.nrSlots);
};

const KINDS: [string, () => Stage][] = [
  ['shmem of small folios', () => shmemStage(false)],
  ['shmem of folios of 2 MiB', () => shmemStage(true)],
  ['hugetlbfs', hugetlbStage],
];

for (const [kind, make] of KINDS)
  describe(kind, () => {
    for (let seed = 1; seed <= 4; seed++) it(`seed ${seed}`, () => play(make(), seed));
  });
