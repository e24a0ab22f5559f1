/**
 * Random interleavings over huge pages: stores, loads, fork, DONTNEED, pins and a device that writes
 * through them, against split, collapse, migration, swapping out. No byte is lost, no rule is broken
 * between any two steps, nothing is left behind. For a seed that fails, run it alone.
 */
import { PAGE_SIZE } from '#emu';
import {
  checkKernel,
  collapseHugePage,
  fork,
  folioOf,
  type HostProcess,
  MADV_DONTNEED,
  madvise,
  migrateFolio,
  nrFreePages,
  type Path,
  ptePage,
  splitHugePage,
} from '#mm';
import {
  FOLL_WRITE,
  pinUserPagesFast,
  readPinnedPage,
  unpinUserPages,
  writePinnedPage,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { reclaimFolio } from '../../mm/swap/out.ts';
import { swapon } from '../../mm/swap/slots.ts';
import { rng, type Rng } from '../support/rng.ts';
import { createProcess, exit, pageAt, type World } from './support.ts';
import { AT, HPAGE_PMD_NR, mapAt, pmdAt, thpWorld } from './thp-world.ts';

/** Pages of a process: one huge page and a bit, of which these are touched. */
const NR_PAGES = HPAGE_PMD_NR + 32;
const MAX_PROCESSES = 3;

interface Pin {
  page: number;
  frame: number;
  write: boolean;
}

/** A process, what its memory must hold, and who is at it. */
interface Actor {
  p: HostProcess;
  model: Uint32Array;
  /** Paths under way; alone: one that must have the process to itself (fork, DONTNEED). */
  running: number;
  alone: boolean;
  pins: Pin[];
}

interface Running {
  name: string;
  path: Path<void>;
}

class Driver {
  readonly w: World;
  readonly random: Rng;
  readonly actors: Actor[] = [];
  readonly running: Running[] = [];
  readonly done = new Map<string, number>();
  waits = 0;

  constructor(seed: number, orders: number) {
    this.random = rng(seed);
    this.w = thpWorld(orders, 24);
    swapon(this.w.k, 4096);
    this.add(createProcess(this.w), new Uint32Array(NR_PAGES));
    const first = this.actors[0];
    if (first !== undefined) mapAt(first.p, NR_PAGES);
  }

  add(p: HostProcess, model: Uint32Array): void {
    this.actors.push({ p, model, running: 0, alone: false, pins: [] });
  }

  /** One step: something new begins, or something under way goes on. */
  step(): void {
    const { random, running } = this;
    if (running.length < 5 && random.chance(0.3)) {
      this.begin();
      return;
    }
    const i = random.below(running.length);
    const { k } = this.w;
    k.watched = true;
    const step = running[i]?.path.next();
    k.watched = false;
    if (step === undefined || step.done === true) {
      running.splice(i, 1);
      this.waits = 0;
    } else if (step.value !== 0) this.waits = 0;
    else if (++this.waits > 10_000)
      throw new Error(`deadlock of ${running.map((r) => r.name).join(', ')}`);
  }

  start(name: string, actor: Actor | null, path: Path<void>, alone = false): void {
    if (actor !== null) actor.running++;
    if (actor !== null && alone) actor.alone = true;
    const end = (): void => {
      this.done.set(name, (this.done.get(name) ?? 0) + 1);
      if (actor !== null) actor.running--;
      if (actor !== null && alone) actor.alone = false;
    };
    function* run(): Path<void> {
      yield* path;
      end();
    }
    this.running.push({ name, path: run() });
  }

  /** Few pages are touched often, all of them sometimes. */
  anyPage(): number {
    const { random } = this;
    return random.chance(0.8) ? random.below(8) * 70 : random.below(NR_PAGES);
  }

  begin(): void {
    const { random } = this;
    const actor = random.pick(this.actors);
    const what = random.below(100);
    if (what < 30) this.store(actor);
    else if (what < 45) this.load(actor);
    else if (what < 50) this.pin(actor);
    else if (what < 62) this.device(actor);
    else if (what < 72) this.kernel(actor);
    else if (what < 85) this.collapse(actor);
    else if (what < 90) this.dontneed(actor);
    else if (what < 95) this.fork(actor);
    else this.end(actor);
  }

  store(actor: Actor): void {
    if (actor.alone) return;
    const page = this.anyPage();
    const value = this.random.u32();
    function* run(): Path<void> {
      expect(yield* actor.p.storePath(AT + page * PAGE_SIZE, 4, value)).toBe(0);
      actor.model[page] = value;
    }
    this.start('store', actor, run());
  }

  load(actor: Actor): void {
    if (actor.alone) return;
    const page = this.anyPage();
    function* run(): Path<void> {
      const value = yield* actor.p.loadPath(AT + page * PAGE_SIZE, 4);
      expect(value, `page ${page} of mm ${actor.p.mm.id}`).toBe(actor.model[page]);
    }
    this.start('load', actor, run());
  }

  pin(actor: Actor): void {
    if (actor.alone || actor.pins.length >= 2) return;
    const page = this.anyPage();
    const write = this.random.chance(0.5);
    const { k } = this.w;
    function* run(): Path<void> {
      const pages = new Int32Array(1);
      const flags = write ? FOLL_WRITE : 0;
      const n = yield* pinUserPagesFast(k, actor.p.mm, AT + page * PAGE_SIZE, 1, flags, pages);
      if (n === 1) actor.pins.push({ page, frame: pages[0]!, write });
    }
    this.start('pin', actor, run());
  }

  /** A device: reads what the process has written, writes what it will read; or lets go. */
  device(actor: Actor): void {
    const pin = actor.pins[this.random.below(actor.pins.length + 1)];
    if (pin === undefined) return;
    const { k } = this.w;
    const bytes = new Uint8Array(4);
    // A read-only pin of what was never written pins zeros that a later store leaves behind.
    const zero = pin.frame === k.state.zeroPage || folioOf(k, pin.frame) === k.state.hugeZeroFolio;
    if (this.random.chance(0.5)) {
      actor.pins.splice(actor.pins.indexOf(pin), 1);
      unpinUserPages(k, Int32Array.of(pin.frame), 1);
    } else if (pin.write) {
      const value = this.random.u32();
      new DataView(bytes.buffer).setUint32(0, value, true);
      writePinnedPage(k, pin.frame, 0, bytes, 0, 4);
      actor.model[pin.page] = value;
    } else if (!zero) {
      readPinnedPage(k, pin.frame, 0, bytes, 0, 4);
      expect(new DataView(bytes.buffer).getUint32(0, true)).toBe(actor.model[pin.page]);
    }
  }

  kernel(actor: Actor): void {
    const { k } = this.w;
    const hva = AT + this.anyPage() * PAGE_SIZE;
    const entry = pmdAt(actor.p, hva);
    const page = entry !== 0 ? ptePage(entry) : pageAt(actor.p, hva);
    if (page < 0) return;
    function* run(path: Path<number>): Path<void> {
      yield* path;
    }
    const what = this.random.below(4);
    if (what === 0) this.start('split', null, run(splitHugePage(k, page)));
    else if (what < 3) this.start('migrate', null, run(migrateFolio(k, page)));
    else this.start('swap out', null, run(reclaimFolio(k, folioOf(k, page))));
  }

  collapse(actor: Actor): void {
    if (actor.alone) return;
    const { k } = this.w;
    const count = (name: string): void => {
      this.done.set(name, (this.done.get(name) ?? 0) + 1);
    };
    function* run(): Path<void> {
      const error = yield* collapseHugePage(k, actor.p.mm, AT);
      if (error === 0) count('collapsed');
    }
    this.start('collapse', actor, run());
  }

  dontneed(actor: Actor): void {
    if (actor.running > 0 || actor.pins.length > 0) return;
    const { random } = this;
    const nr = random.chance(0.2) ? HPAGE_PMD_NR : 1 + random.below(200);
    const from = nr === HPAGE_PMD_NR ? 0 : random.below(NR_PAGES - nr);
    const path = madvise(
      this.w.k,
      actor.p.mm,
      AT + from * PAGE_SIZE,
      nr * PAGE_SIZE,
      MADV_DONTNEED,
    );
    function* run(): Path<void> {
      expect(yield* path).toBe(0);
      actor.model.fill(0, from, from + nr);
    }
    this.start('dontneed', actor, run(), true);
  }

  fork(actor: Actor): void {
    if (actor.running > 0 || this.actors.length >= MAX_PROCESSES) return;
    const { w } = this;
    const add = (p: HostProcess): void => this.add(p, actor.model.slice());
    function* run(): Path<void> {
      // A device may write meanwhile: to the parent's page, or before the copy. Nobody knows: not now.
      const pins = actor.pins.splice(0);
      const child = yield* fork(w.k, actor.p.mm);
      actor.pins.push(...pins);
      if (typeof child !== 'number') add(createProcess(w, child));
    }
    this.start('fork', actor, run(), true);
  }

  end(actor: Actor): void {
    if (actor.running > 0 || this.actors.length < 2) return;
    this.release(actor);
    this.actors.splice(this.actors.indexOf(actor), 1);
    exit(actor.p);
  }

  release(actor: Actor): void {
    for (const { frame } of actor.pins) unpinUserPages(this.w.k, Int32Array.of(frame), 1);
    actor.pins.length = 0;
  }
}

describe('huge pages under everything at once', () => {
  for (const { seed, orders } of [
    { seed: 1, orders: 1 << 9 },
    { seed: 2, orders: 0 },
    { seed: 3, orders: (1 << 9) | (1 << 4) | (1 << 2) },
    { seed: 4, orders: 1 << 6 },
  ])
    it(`seed ${seed}, orders 0x${orders.toString(16)}`, () => {
      const driver = new Driver(seed, orders);
      const { w } = driver;
      for (let i = 0; i < 8000; i++) {
        driver.step();
        if (i % 40 === 0) expect(checkKernel(w.k), `step ${i}`).toEqual([]);
      }
      while (driver.running.length > 0) {
        const { random, running } = driver;
        const i = random.below(running.length);
        w.k.watched = true;
        if (running[i]?.path.next().done === true) running.splice(i, 1);
        w.k.watched = false;
      }
      for (const actor of driver.actors) {
        driver.release(actor);
        for (let page = 0; page < NR_PAGES; page++)
          expect(actor.p.load32(AT + page * PAGE_SIZE)).toBe(actor.model[page]);
      }
      expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
      for (const name of ['collapsed', 'split', 'migrate', 'swap out', 'fork', 'dontneed'])
        expect(driver.done.get(name) ?? 0, name).toBeGreaterThan(0);
      for (const { p } of driver.actors) exit(p);
      const zero = w.k.state.hugeZeroFolio >= 0 ? HPAGE_PMD_NR : 0;
      expect(nrFreePages(w.k)).toBe(w.freeAtStart - zero);
      expect(w.k.state.swap.nrFree).toBe(4096);
      expect(checkKernel(w.k, { quiescent: true })).toEqual([]);
    });
});
