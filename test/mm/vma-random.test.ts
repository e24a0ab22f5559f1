/** One mapping that moves, and everything that is done to its pages meanwhile, in orders drawn from seeds. */
import { PAGE_SIZE } from '#emu';
import {
  changeProtNuma,
  checkKernel,
  clearRefsSoftDirty,
  collapseHugePage,
  drive,
  fork,
  HostProcess,
  type Kernel,
  ksmScan,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_PAGEOUT,
  MREMAP_FIXED,
  MREMAP_MAYMOVE,
  madvise,
  migrateFolio,
  mlock,
  mmExit,
  mprotect,
  mremap,
  munlock,
  nrFreePages,
  type Path,
  PROT_READ,
  splitHugePage,
  swapon,
  uffdRead,
  uffdRegister,
  uffdWriteprotect,
  YP_WAIT,
} from '#mm';
import { pinUserPagesFast, unpinUserPages } from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { type Rng, rng } from '../support/rng.ts';
import { createProcess, createWorld, exit, interleave, mapAnon, pageAt, RW } from './support.ts';

const AT = 0x1000_0000;
const TO = 0x4000_0000;
const NR = 512;
const LEN = NR * PAGE_SIZE;
/** Where in a page its number is, which nobody changes, and what was written last. */
const NUMBER = 0;
const VALUE = 8;

/** The mapping: where it is now, and what its pages hold. */
interface Region {
  k: Kernel;
  p: HostProcess;
  at: number;
  values: number[];
  random: Rng;
  /** What has been done how often. */
  done: Map<string, number>;
}

const count = (r: Region, what: string): void => {
  r.done.set(what, (r.done.get(what) ?? 0) + 1);
};

/** A page, and its address: now, or before the last move. */
const pick = ({ random, at }: Region): { i: number; hva: number } => {
  const i = random.below(NR);
  return { i, hva: (random.chance(0.9) ? at : AT + TO - at) + i * PAGE_SIZE };
};

const part = (r: Region): { hva: number; lenBytes: number } => {
  const { hva } = pick(r);
  const room = NR - ((hva / PAGE_SIZE) % NR);
  return { hva, lenBytes: (1 + r.random.below(Math.min(room, 40))) * PAGE_SIZE };
};

function* write(r: Region): Path<void> {
  const { i, hva } = pick(r);
  const value = r.random.u32();
  // A store that succeeds has reached the page: nothing else is ever mapped at the two places.
  if ((yield* r.p.storePath(hva + VALUE, 4, value)) !== 0) return;
  r.values[i] = value;
  count(r, 'write');
}

function* move(r: Region): Path<void> {
  const to = AT + TO - r.at;
  const moved = yield* mremap(r.k, r.p.mm, r.at, LEN, LEN, MREMAP_MAYMOVE | MREMAP_FIXED, to);
  if (moved < 0) return;
  r.at = moved;
  count(r, 'move');
}

function* migrate(r: Region): Path<void> {
  const page = pageAt(r.p, pick(r).hva);
  if (page >= 0 && (yield* migrateFolio(r.k, page)) === 0) count(r, 'migrate');
}

function* forkAndLook(r: Region): Path<void> {
  const mm = yield* fork(r.k, r.p.mm);
  if (typeof mm === 'number') return;
  const child = new HostProcess(r.k, mm, r.p.mmu);
  for (let n = 0; n < 4; n++) {
    const { i, hva } = pick(r);
    const number = yield* child.loadPath(hva + NUMBER, 4);
    if (number >= 0 && number !== i) throw new Error(`child: page ${i} is ${number}`);
    yield* child.storePath(hva + VALUE, 4, 1);
  }
  yield* mmExit(r.k, mm);
  count(r, 'fork');
}

function* pin(r: Region): Path<void> {
  const { i, hva } = pick(r);
  const n = 1 + r.random.below(4);
  const pages = new Int32Array(n);
  const flags = r.random.chance(0.5) ? FOLL_WRITE : 0;
  const got = yield* pinUserPagesFast(r.k, r.p.mm, hva, Math.min(n, NR - i), flags, pages);
  for (let j = 0; j < got; j++) {
    const number = r.k.memory.i32[r.k.memory.pageOffset(pages[j]!) / 4];
    if (number !== i + j) throw new Error(`pinned: page ${i + j} is ${number}`);
  }
  if (got <= 0) return;
  for (let turns = r.random.below(6); turns > 0 && r.k.watched; turns--) yield 1;
  unpinUserPages(r.k, pages, got);
  count(r, 'pin');
}

function* protect(r: Region): Path<void> {
  const { hva, lenBytes } = part(r);
  yield* mprotect(r.k, r.p.mm, hva, lenBytes, PROT_READ);
  yield* mprotect(r.k, r.p.mm, hva, lenBytes, RW);
  count(r, 'protect');
}

/** Registers all of it, as mremap() moves several VMAs only where none is registered, and protects a part. */
function* trackWrites(r: Region): Path<void> {
  const { hva, lenBytes } = part(r);
  if ((yield* uffdRegister(r.k, r.p.mm, r.at, LEN)) !== 0) return;
  if ((yield* uffdWriteprotect(r.k, r.p.mm, hva, lenBytes, true)) === 0) count(r, 'uffd');
}

const resolver = (r: Region, live: () => boolean) =>
  (function* (): Path<void> {
    while (live()) {
      const hva = uffdRead(r.p.mm);
      if (hva < 0) yield YP_WAIT;
      // Moved away meanwhile: then nobody is registered there, and waking is all there is to do.
      else if ((yield* uffdWriteprotect(r.k, r.p.mm, hva, PAGE_SIZE, false)) !== 0)
        for (const fault of r.p.mm.uffd?.pending ?? []) if (fault.hva === hva) fault.woken = true;
    }
  })();

const ACTIONS: Record<string, (r: Region) => Path<unknown>> = {
  write,
  move,
  migrate,
  forkAndLook,
  pin,
  protect,
  trackWrites,
  pageout: (r) => madvise(r.k, r.p.mm, part(r).hva, part(r).lenBytes, MADV_PAGEOUT),
  merge: (r) => ksmScan(r.k, r.p.mm),
  collapse: (r) => collapseHugePage(r.k, r.p.mm, r.at),
  split: (r) => splitHugePage(r.k, Math.max(0, pageAt(r.p, pick(r).hva))),
  hints: (r) => changeProtNuma(r.k, r.p.mm, part(r).hva, part(r).hva + part(r).lenBytes),
  clearRefs: (r) => clearRefsSoftDirty(r.k, r.p.mm),
  lock: (r) => mlock(r.k, r.p.mm, part(r).hva, part(r).lenBytes),
  unlock: (r) => munlock(r.k, r.p.mm, AT, LEN),
};
const WEIGHTS = ['write', 'write', 'write', 'move', 'migrate', 'pin', ...Object.keys(ACTIONS)];

const storm = (seed: number, orders: number, actions: number): Region => {
  const w = createWorld(32 << 20);
  const { k } = w;
  const random = rng(seed);
  k.state.thp.madvise = orders;
  swapon(k, 2048);
  const p = createProcess(w);
  mapAnon(p, NR, RW, AT);
  drive(madvise(k, p.mm, AT, LEN, MADV_HUGEPAGE));
  drive(madvise(k, p.mm, AT, LEN, MADV_MERGEABLE));
  const r: Region = { k, p, at: AT, values: new Array(NR).fill(0), random, done: new Map() };
  for (let i = 0; i < NR; i++) p.store32(AT + i * PAGE_SIZE + NUMBER, i);
  let live = 4;
  function* actor(): Path<void> {
    for (let i = 0; i < actions; i++) {
      yield* ACTIONS[random.pick(WEIGHTS)]?.(r) ?? write(r);
      yield 1;
    }
    live--;
  }
  const actors = Array.from({ length: live }, actor);
  interleave(k, [...actors, resolver(r, () => live > 0)], random);
  expect(checkKernel(k, { quiescent: true })).toEqual([]);
  drive(uffdWriteprotect(k, p.mm, r.at, LEN, false));
  for (let i = 0; i < NR; i++) {
    const hva = r.at + i * PAGE_SIZE;
    if (p.load32(hva + NUMBER) !== i) throw new Error(`page ${i} is ${p.load32(hva + NUMBER)}`);
    if (p.load32(hva + VALUE) !== r.values[i]) throw new Error(`page ${i} has lost a write`);
  }
  exit(p);
  expect(checkKernel(k, { quiescent: true })).toEqual([]);
  expect(nrFreePages(k)).toBe(w.freeAtStart);
  return r;
};

describe('a mapping that moves keeps every byte', () => {
  for (const [name, orders] of [
    ['small pages', 0],
    ['folios of 64 KiB', 1 << 4],
    ['huge pages', 1 << 9],
    ['all sizes', (1 << 9) | (1 << 4) | (1 << 2)],
  ] as const)
    for (let seed = 1; seed <= 2; seed++)
      it(`${name}, seed ${seed}`, () => {
        const { done } = storm(seed, orders, 60);
        for (const what of ['write', 'move', 'migrate', 'pin', 'fork'])
          expect(done.get(what) ?? 0).toBeGreaterThan(0);
      });
});
