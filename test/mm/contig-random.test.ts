/**
 * Contiguous memory under load: CMA, ranges and memory blocks are emptied while processes fault, fork
 * and unmap, pages migrate and pipes hold some. Every byte is what a plain model says.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocContigRange,
  assertKernel,
  cmaAlloc,
  cmaDefaultArea,
  cmaRelease,
  createMoveReport,
  createPipe,
  drive,
  EBUSY,
  freeContigRange,
  type Kernel,
  MEMORY_BLOCK_PAGES,
  migrateFolio,
  mappingPut,
  nrFreePages,
  offlinePages,
  onlinePages,
  type Path,
  pipeRelease,
  setPolicyApi,
  shmemCreate,
  vmspliceToPipe,
} from '#mm';
import { YP_MIGRATE_COPIED } from '../../mm/path.ts';
import { rng, type Rng } from '../support/rng.ts';
import { PlainProcess, plainFile } from './plain-process.ts';
import { createProcess, exit, interleave, mapAnon } from './support.ts';
import {
  assertAtRest,
  createZonedWorld,
  MIB,
  MIB_PAGES,
  stamp,
  checkStamps,
} from './zone-world.ts';

/** What has come of the attempts of one run. */
interface Tally {
  cma: number;
  ranges: number;
  busy: number;
}

/** Takes pieces of CMA, keeps each for a while, and checks that nobody else has it meanwhile. */
function* cmaUser(k: Kernel, random: Rng, done: () => boolean, tally: Tally): Path<void> {
  while (!done()) {
    const nr = 1 + random.below(600);
    const report = createMoveReport();
    const page = yield* cmaAlloc(k, nr, 1 << random.below(6), report);
    if (page === -EBUSY) tally.busy++;
    if (page === -EBUSY) expect(report.held.length).toBeGreaterThan(0);
    if (page >= 0) {
      tally.cma++;
      for (let i = 0; i < nr; i++) k.memory.i32[k.memory.pageOffset(page + i) / 4] = page + i;
      for (let i = random.below(20); i > 0; i--) yield YP_MIGRATE_COPIED;
      for (let i = 0; i < nr; i++)
        if (k.memory.i32[k.memory.pageOffset(page + i) / 4] !== page + i)
          throw new Error(`page ${page + i} of CMA was written by somebody else`);
      cmaRelease(k, page, nr);
    }
    yield YP_MIGRATE_COPIED;
  }
}

/** Empties ranges outside of CMA. */
function* rangeUser(k: Kernel, random: Rng, done: () => boolean, tally: Tally): Path<void> {
  while (!done()) {
    const first = 1024 + random.below(10 * MIB_PAGES);
    const nr = 1 + random.below(400);
    const { error } = yield* allocContigRange(k, first, first + nr);
    if (error === -EBUSY) tally.busy++;
    if (error === 0) {
      tally.ranges++;
      yield YP_MIGRATE_COPIED;
      freeContigRange(k, first, nr);
    }
    yield YP_MIGRATE_COPIED;
  }
}

/** Moves pages about, as compaction would. */
function* mover(k: Kernel, random: Rng, done: () => boolean): Path<void> {
  while (!done()) {
    yield* migrateFolio(k, random.below(k.state.frames.nrPages));
    yield YP_MIGRATE_COPIED;
  }
}

/** Holds a page by a pipe now and then. */
function* holder(
  plain: PlainProcess,
  random: Rng,
  done: () => boolean,
  hva: number,
  nr: number,
): Path<void> {
  const { p } = plain;
  while (!done()) {
    const pipe = createPipe(p.k);
    const at = hva + random.below(nr) * PAGE_SIZE;
    yield* vmspliceToPipe(p.k, p.mm, pipe, at, PAGE_SIZE, 0);
    for (let i = random.below(30); i > 0; i--) yield YP_MIGRATE_COPIED;
    pipeRelease(p.k, pipe);
  }
}

describe('CMA and ranges while everybody runs', () => {
  for (const { seed, vmsplice } of [
    { seed: 1, vmsplice: 'get' },
    { seed: 2, vmsplice: 'get' },
    { seed: 3, vmsplice: 'copy' },
    { seed: 4, vmsplice: 'pin-longterm' },
  ] as const)
    it(`vmsplice=${vmsplice}, seed ${seed}`, () => {
      const w = createZonedWorld(32 * MIB, { movableBytes: 8 * MIB, cmaBytes: 12 * MIB });
      const { k } = w;
      setPolicyApi(k.policy, 'vmsplice', vmsplice);
      const random = rng(seed);
      const files = [plainFile(shmemCreate(k, 300))];
      const plains = [0, 1].map(() => new PlainProcess(createProcess(w)));
      const victim = new PlainProcess(createProcess(w));
      const hva = mapAnon(victim.p, 1500);
      stamp(victim.p, hva, 1500);
      const tally: Tally = { cma: 0, ranges: 0, busy: 0 };
      let alive = plains.length;
      const done = (): boolean => alive === 0;
      function* life(plain: PlainProcess, slot: number): Path<void> {
        for (let i = 0; i < 500; i++) yield* plain.randomStep(random, files, slot);
        alive--;
      }
      interleave(
        k,
        [
          ...plains.map((plain, slot) => life(plain, slot)),
          cmaUser(k, random, done, tally),
          cmaUser(k, random, done, tally),
          rangeUser(k, random, done, tally),
          mover(k, random, done),
          holder(victim, random, done, hva, 1500),
        ],
        random,
      );
      assertAtRest(k);
      expect(tally.cma).toBeGreaterThan(3);
      expect(tally.ranges).toBeGreaterThan(3);
      plains.forEach((plain, slot) => {
        plain.checkAll(slot);
      });
      checkStamps(victim.p, hva, 1500);
      for (const { p } of [...plains, victim]) exit(p);
      for (const file of files) drive(mappingPut(k, file.mapping));
      expect(nrFreePages(k)).toBe(w.freeAtStart);
      expect(cmaDefaultArea(k)?.available).toBe(12 * MIB_PAGES);
      assertAtRest(k);
    });
});

describe('a memory block goes and comes while everybody runs', () => {
  for (const seed of [1, 2])
    it(`seed ${seed}`, () => {
      const w = createZonedWorld(256 * MIB, { movableBytes: 128 * MIB });
      const { k } = w;
      const random = rng(seed);
      const files = [plainFile(shmemCreate(k, 300))];
      const plains = [0, 1].map(() => new PlainProcess(createProcess(w)));
      const victim = new PlainProcess(createProcess(w));
      const hva = mapAnon(victim.p, 300);
      stamp(victim.p, hva, 300);
      let offlined = 0;
      const done = (): boolean => offlined === 4;
      function* life(plain: PlainProcess, slot: number): Path<void> {
        while (!done()) yield* plain.randomStep(random, files, slot);
      }
      /** I14: whoever holds a page lets go sooner or later, so every round ends. */
      function* plugger(): Path<void> {
        while (!done()) {
          const report = yield* offlinePages(k, MEMORY_BLOCK_PAGES, MEMORY_BLOCK_PAGES);
          expect(report.error).toBe(0);
          for (let i = random.below(50); i > 0; i--) yield YP_MIGRATE_COPIED;
          assertKernel(k);
          expect(onlinePages(k, MEMORY_BLOCK_PAGES, MEMORY_BLOCK_PAGES)).toBe(0);
          offlined++;
          for (let i = random.below(50); i > 0; i--) yield YP_MIGRATE_COPIED;
        }
      }
      interleave(
        k,
        [
          ...plains.map((plain, slot) => life(plain, slot)),
          plugger(),
          mover(k, random, done),
          holder(victim, random, done, hva, 300),
        ],
        random,
      );
      plains.forEach((plain, slot) => {
        plain.checkAll(slot);
      });
      checkStamps(victim.p, hva, 300);
      for (const { p } of [...plains, victim]) exit(p);
      for (const file of files) drive(mappingPut(k, file.mapping));
      expect(nrFreePages(k)).toBe(w.freeAtStart);
      assertAtRest(k);
    });
});
