/** hugetlb under random calls of several processes: bytes, promises and the pool hold. Compare mm/hugetlb.c. */
import {
  type AddressSpace,
  assertKernel,
  drive,
  EAGAIN,
  EBUSY,
  EFAULT,
  EINVAL,
  ENOMEM,
  fork,
  type HostProcess,
  MADV_DONTNEED,
  MAP_ANONYMOUS,
  MAP_HUGETLB,
  MAP_NORESERVE,
  MAP_PRIVATE,
  MAP_SHARED,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  migrateFolio,
  mmap,
  mmExit,
  mprotect,
  mremap,
  munmap,
  type Path,
  PROT_READ,
  mappingPut,
  YP_FAULT_DONE,
  YP_WAIT,
} from '#mm';
import { memfdPinFolios, pinUserPagesFast, unpinFolios, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { PG_HUGETLB } from '../../mm/frames/table.ts';
import { isolateOrDissolveHugetlb } from '../../mm/hugetlb/dissolve.ts';
import { type Rng, rng } from '../support/rng.ts';
import { createHugeWorld, HUGE, HUGE_NR, hugeFile, poolState, settled } from './hugetlb-world.ts';
import { createProcess, interleave, RW, type World } from './support.ts';

const POOL = 10;
const FILE_NR = 3;

/** A mapping, and what its process reads at one place of each huge page. */
interface Mapping {
  hva: number;
  /** Of shared mappings that of all of them. */
  words: number[];
  shared: boolean;
  /** It was promised all its pages, and has not given one up: each touch must work. */
  owner: boolean;
  writable: boolean;
}

/** What all of them share. */
interface Scene {
  w: World;
  random: Rng;
  file: AddressSpace;
  actors: Path<void>[];
  alive: number;
  forks: number;
  sigbus: number;
  moved: number;
  replaced: number;
  steps: number;
}

/**
 * Tries to move huge pages that are in use, one after the other, for as long as somebody uses them; a
 * free one is given up for another now and then.
 */
function* mover(scene: Scene): Path<void> {
  const { w, random } = scene;
  const { flags, nrPages, refcount } = w.k.state.frames;
  while (scene.alive > 0) {
    const first = random.below(nrPages / HUGE_NR) * HUGE_NR;
    if ((flags[first]! & PG_HUGETLB) === 0) {
      yield YP_WAIT;
      continue;
    }
    if (refcount[first] === 0 && random.chance(0.2)) {
      expect([0, -ENOMEM]).toContain(isolateOrDissolveHugetlb(w.k, first));
      scene.replaced++;
    }
    const error = yield* migrateFolio(w.k, first + random.below(HUGE_NR));
    expect([0, -EAGAIN, -EBUSY, -EINVAL, -ENOMEM]).toContain(error);
    if (error === 0) scene.moved++;
    yield YP_FAULT_DONE;
  }
}

/** One process that makes random calls. Words at `slot` of each page of the file are its alone. */
class HugeProcess {
  readonly scene: Scene;
  readonly p: HostProcess;
  readonly slot: number;
  readonly mappings: Mapping[];
  /** What it has written to the file. */
  readonly inFile: number[];
  /** Pages pinned, one each. */
  readonly pins: Int32Array[];

  constructor(scene: Scene, p: HostProcess, slot: number, mappings: Mapping[]) {
    this.scene = scene;
    this.p = p;
    this.slot = slot;
    this.inFile = new Array<number>(FILE_NR).fill(0);
    this.mappings = mappings.map((mapping) => ({
      ...mapping,
      words: mapping.shared ? this.inFile : [...mapping.words],
      // A child's private memory is promised nothing.
      owner: mapping.shared,
    }));
    this.pins = [];
  }

  *life(steps: number): Path<void> {
    for (let i = 0; i < steps; i++) {
      yield* this.step();
      if (this.scene.steps++ % 100 === 0) assertKernel(this.p.k);
    }
    yield* this.end();
  }

  private *end(): Path<void> {
    for (const pages of this.pins) unpinUserPages(this.p.k, pages, 1);
    yield* mmExit(this.p.k, this.p.mm);
    this.scene.alive--;
  }

  private *step(): Path<void> {
    const { random } = this.scene;
    const mapping = this.mappings.length === 0 ? undefined : random.pick(this.mappings);
    if (mapping === undefined || (this.mappings.length < 3 && random.chance(0.2)))
      return yield* this.map();
    const nr = random.below(mapping.words.length);
    const roll = random.below(100);
    if (roll < 45) yield* this.store(mapping, nr);
    else if (roll < 70) yield* this.load(mapping, nr);
    else if (roll < 76) yield* this.dontneed(mapping, nr);
    else if (roll < 82) yield* this.protect(mapping);
    else if (roll < 86) yield* this.unmap(mapping);
    else if (roll < 90) yield* this.move(mapping);
    else if (roll < 95) yield* this.pin(mapping, nr);
    else if (roll < 97) yield* this.pinFile();
    else yield* this.fork();
  }

  private *map(): Path<void> {
    const { random, file } = this.scene;
    const kind = random.below(4);
    const flags =
      [MAP_PRIVATE, MAP_SHARED, MAP_PRIVATE, MAP_PRIVATE | MAP_NORESERVE][kind] ?? MAP_PRIVATE;
    const named = kind === 1 || kind === 2;
    const nr = named ? FILE_NR : 1 + random.below(2);
    const hva = yield* mmap(this.p.k, this.p.mm, {
      lenBytes: nr * HUGE,
      prot: RW,
      flags: named ? flags : flags | MAP_ANONYMOUS | MAP_HUGETLB,
      ...(named ? { mapping: file } : {}),
    });
    if (hva === -ENOMEM) return;
    expect(hva).toBeGreaterThan(0);
    const shared = kind === 1;
    const words = shared ? this.inFile : new Array<number>(nr).fill(0);
    this.mappings.push({ hva, words, shared, owner: kind !== 3, writable: true });
  }

  private wordAt(mapping: Mapping, nr: number): number {
    return mapping.hva + nr * HUGE + (mapping.shared ? 8 + this.slot * 4096 : 4);
  }

  /** Only who was promised nothing, or has its page from a fork, may be refused one: SIGBUS. */
  private refused(mapping: Mapping, error: number): void {
    expect(error).toBe(-EFAULT);
    expect(mapping.owner).toBe(false);
    this.scene.sigbus++;
  }

  private *store(mapping: Mapping, nr: number): Path<void> {
    const value = 1 + this.scene.random.below(1_000_000);
    const error = yield* this.p.storePath(this.wordAt(mapping, nr), 4, value);
    if (!mapping.writable) expect(error).toBe(-EFAULT);
    else if (error === 0) mapping.words[nr] = value;
    else this.refused(mapping, error);
  }

  private *load(mapping: Mapping, nr: number): Path<void> {
    const value = yield* this.p.loadPath(this.wordAt(mapping, nr), 4);
    if (value < 0) this.refused(mapping, value);
    else expect(value).toBe(mapping.words[nr]);
  }

  private *dontneed(mapping: Mapping, nr: number): Path<void> {
    const { k, mm } = this.p;
    expect(yield* madvise(k, mm, mapping.hva + nr * HUGE, HUGE, MADV_DONTNEED)).toBe(0);
    if (mapping.shared) return;
    mapping.words[nr] = 0;
    // A page that is pinned, or that a child has too, is not there for the next touch.
    mapping.owner = false;
  }

  private *protect(mapping: Mapping): Path<void> {
    mapping.writable = !mapping.writable;
    const prot = mapping.writable ? RW : PROT_READ;
    const lenBytes = mapping.words.length * HUGE;
    expect(yield* mprotect(this.p.k, this.p.mm, mapping.hva, lenBytes, prot)).toBe(0);
  }

  private *unmap(mapping: Mapping): Path<void> {
    const lenBytes = mapping.words.length * HUGE;
    expect(yield* munmap(this.p.k, this.p.mm, mapping.hva, lenBytes)).toBe(0);
    this.mappings.splice(this.mappings.indexOf(mapping), 1);
  }

  private *move(mapping: Mapping): Path<void> {
    const lenBytes = mapping.words.length * HUGE;
    const { k, mm } = this.p;
    const to = mapping.hva - 64 * HUGE;
    if (mm.vmas.some(({ start, end }) => start < to + lenBytes && end > to)) return;
    expect(
      yield* mremap(k, mm, mapping.hva, lenBytes, lenBytes, MREMAP_MAYMOVE | MREMAP_FIXED, to),
    ).toBe(to);
    mapping.hva = to;
  }

  private *pin(mapping: Mapping, nr: number): Path<void> {
    if (this.pins.length > 1) {
      unpinUserPages(this.p.k, this.pins.splice(0, 1)[0] ?? new Int32Array(0), 1);
      return;
    }
    const pages = new Int32Array(1);
    const { k, mm } = this.p;
    const n = yield* pinUserPagesFast(k, mm, this.wordAt(mapping, nr), 1, FOLL_WRITE, pages);
    if (n === 1) this.pins.push(pages);
    else if (mapping.writable) this.refused(mapping, n);
  }

  private *pinFile(): Path<void> {
    const folios = new Int32Array(FILE_NR);
    const { file } = this.scene;
    const end = FILE_NR * HUGE - 1;
    const n = yield* memfdPinFolios(this.p.k, file, 0, end, folios, FILE_NR, { offset: 0 });
    if (n < 0) expect(n).toBe(-ENOMEM);
    else unpinFolios(this.p.k, folios, n);
  }

  private *fork(): Path<void> {
    const { scene } = this;
    if (scene.alive >= 4 || scene.forks >= 40) return;
    const child = yield* fork(this.p.k, this.p.mm);
    if (child === -ENOMEM) return;
    if (typeof child === 'number') throw new Error(`fork: ${child}`);
    // Where a VMA has lost a page to its owner the child would find zeroes.
    if (this.p.mm.vmas.some(({ resvUnmapped }) => resvUnmapped)) {
      yield* mmExit(this.p.k, child);
      return;
    }
    scene.alive++;
    const slot = ++scene.forks;
    const process = new HugeProcess(scene, createProcess(scene.w, child), slot, this.mappings);
    scene.actors.push(process.life(40 + scene.random.below(60)));
  }
}

describe('processes that map, write, fork, pin and move huge pages, which somebody migrates', () => {
  for (const seed of [1, 58, 248, 336])
    it(`find their own bytes, and leave the pool as it was, seed ${seed}`, () => {
      const w = createHugeWorld(POOL);
      const file = hugeFile(w, FILE_NR);
      const random = rng(seed);
      const scene: Scene = {
        w,
        random,
        file,
        actors: [],
        alive: 2,
        forks: 1,
        sigbus: 0,
        moved: 0,
        replaced: 0,
        steps: 0,
      };
      for (const slot of [0, 1])
        scene.actors.push(new HugeProcess(scene, createProcess(w), slot, []).life(300));
      scene.actors.push(mover(scene));
      interleave(w.k, scene.actors, random);
      settled(w);
      drive(mappingPut(w.k, file));
      settled(w);
      expect(poolState(w)).toBe(`${POOL}/${POOL}/0`);
      expect(w.k.state.mms.size).toBe(0);
      expect(w.k.state.mappings.size).toBe(0);
      expect(scene.forks).toBeGreaterThan(3);
      expect(scene.sigbus).toBeGreaterThan(0);
      expect(scene.moved).toBeGreaterThan(10);
      expect(scene.replaced).toBeGreaterThan(0);
    });
});
