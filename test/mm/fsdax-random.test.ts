/**
 * Random calls on a DAX file against a plain list of words: processes, read() and write(), pins through
 * which a device writes, truncation and holes that wait for it, fsync(), and a loss of power at the end.
 */
import { PAGE_SIZE } from '#emu';
import {
  assertKernel,
  createPolicy,
  drive,
  EFAULT,
  fileRead,
  fileTruncate,
  fileWrite,
  filePunchHole,
  type HostProcess,
  MADV_DONTNEED,
  madvise,
  munmap,
  type Path,
  vfsFsync,
  writebackMapping,
  YP_WAIT,
} from '#mm';
import {
  FOLL_WRITE,
  pinUserPagesFast,
  unpinUserPagesDirtyLock,
  writePinnedPage,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { type Rng, rng } from '../support/rng.ts';
import { AT, type DaxWorld, daxWorld, mapFile, pageOf, powerFail, wordOf } from './dax-world.ts';
import { createProcess, exit, forked } from './support.ts';

const PAGES = 6;
/** Words of each page that are used, at these offsets. */
const OFFSETS = [0, 8, 2048, 4092];

interface Pin {
  pgoff: number;
  pages: Int32Array;
}

class Driver {
  readonly d: DaxWorld;
  readonly random: Rng;
  procs: HostProcess[] = [];
  pins: Pin[] = [];
  sizePages = PAGES;
  /** What the file has, by page and word. */
  words: number[][];
  /** Values that a loss of power may leave of each word: what was durable, and what was stored since. */
  allowed: Set<number>[][];
  /** Pages that were not in the file all the time since fsync(): anything may be left of them. */
  open = new Set<number>();
  value = 1000;

  constructor(seed: number) {
    this.random = rng(seed);
    this.d = daxWorld(PAGES);
    this.d.k.policy = createPolicy('target');
    this.procs = [this.d.p];
    const other = createProcess(this.d.w);
    mapFile(other, this.d.file, PAGES);
    this.procs.push(other);
    this.words = Array.from({ length: PAGES }, (_, i) => [100 + i, 0, 0, 0]);
    this.allowed = this.words.map((page) => page.map((word) => new Set([word])));
    this.fsync();
  }

  /** A word has been stored. */
  note(pgoff: number, i: number, value: number): void {
    const page = this.words[pgoff];
    if (page !== undefined) page[i] = value;
    this.allowed[pgoff]?.[i]?.add(value);
  }

  place(): { pgoff: number; i: number; offset: number } {
    const i = this.random.below(OFFSETS.length);
    const pgoff = this.random.below(PAGES);
    return { pgoff, i, offset: pgoff * PAGE_SIZE + (OFFSETS[i] ?? 0) };
  }

  store(): void {
    const { pgoff, i, offset } = this.place();
    const value = this.value++;
    const outcome = this.random.pick(this.procs).store32(AT + offset, value);
    expect(outcome).toBe(pgoff < this.sizePages ? 0 : -EFAULT);
    if (outcome === 0) this.note(pgoff, i, value);
  }

  load(): void {
    const { pgoff, i, offset } = this.place();
    const expected = pgoff < this.sizePages ? this.words[pgoff]?.[i] : -EFAULT;
    expect(this.random.pick(this.procs).load32(AT + offset)).toBe(expected);
  }

  write(): void {
    const { pgoff, i, offset } = this.place();
    const value = this.value++;
    expect(drive(fileWrite(this.d.k, this.d.file, offset, pageOf(value).subarray(0, 4)))).toBe(4);
    // Up to the end of the page, which a mapping reaches.
    if (pgoff >= this.sizePages) {
      for (let at = this.sizePages; at <= pgoff; at++) this.open.add(at);
      this.sizePages = pgoff + 1;
      drive(fileTruncate(this.d.k, this.d.file, this.sizePages * PAGE_SIZE));
    }
    this.note(pgoff, i, value);
  }

  read(): void {
    const { pgoff, i, offset } = this.place();
    const bytes = new Uint8Array(4);
    const n = drive(fileRead(this.d.k, this.d.file, offset, bytes));
    expect(n).toBe(pgoff < this.sizePages ? 4 : 0);
    if (n === 4) expect(wordOf(bytes)).toBe(this.words[pgoff]?.[i]);
  }

  pin(): void {
    if (this.pins.length > 3) return;
    const pgoff = this.random.below(PAGES);
    const pages = new Int32Array(1);
    const { k } = this.d;
    const { mm } = this.random.pick(this.procs);
    const n = drive(pinUserPagesFast(k, mm, AT + pgoff * PAGE_SIZE, 1, FOLL_WRITE, pages));
    expect(n).toBe(pgoff < this.sizePages ? 1 : -EFAULT);
    if (n === 1) this.pins.push({ pgoff, pages });
  }

  dma(): void {
    const pin = this.pins[0];
    if (pin === undefined) return;
    const i = this.random.below(OFFSETS.length);
    const value = this.value++;
    writePinnedPage(this.d.k, pin.pages[0] ?? 0, OFFSETS[i] ?? 0, pageOf(value), 0, 4);
    this.note(pin.pgoff, i, value);
  }

  unpin(pin = this.pins[0]): void {
    if (pin === undefined) return;
    this.pins.splice(this.pins.indexOf(pin), 1);
    drive(unpinUserPagesDirtyLock(this.d.k, pin.pages, 1, true));
  }

  /** Runs what has to wait for the pins of some pages; they write once more, and go. */
  waitingFor(path: Path<number>, pgoffs: number[]): void {
    for (let i = 0; i < 1000; i++) {
      const step = path.next();
      if (step.done === true) {
        expect(step.value).toBe(0);
        expect(this.pins.filter(({ pgoff }) => pgoffs.includes(pgoff))).toEqual([]);
        return;
      }
      expect(step.value).toBe(YP_WAIT);
      assertKernel(this.d.k);
      const held = this.pins.find(({ pgoff }) => pgoffs.includes(pgoff));
      if (held === undefined) continue;
      writePinnedPage(this.d.k, held.pages[0] ?? 0, 0, pageOf(1), 0, 4);
      this.unpin(held);
    }
    throw new Error('it waits for ever');
  }

  /** Pages become zeroes: of what they had before a loss of power may leave anything. */
  zero(pgoffs: number[]): void {
    for (const pgoff of pgoffs) {
      this.words[pgoff] = OFFSETS.map(() => 0);
      this.open.add(pgoff);
    }
  }

  truncate(): void {
    const size = this.random.below(PAGES + 1);
    const gone = Array.from({ length: PAGES - size }, (_, i) => size + i);
    const { k, file } = this.d;
    if (size < this.sizePages) this.waitingFor(fileTruncate(k, file, size * PAGE_SIZE), gone);
    else expect(drive(fileTruncate(k, file, size * PAGE_SIZE))).toBe(0);
    if (size < this.sizePages) this.zero(gone);
    for (let at = this.sizePages; at < size; at++) this.open.add(at);
    this.sizePages = size;
  }

  punch(): void {
    const first = this.random.below(PAGES);
    const end = first + 1 + this.random.below(PAGES - first);
    const gone = Array.from({ length: end - first }, (_, i) => first + i);
    const { k, file } = this.d;
    const inside = gone.filter((pgoff) => pgoff < this.sizePages);
    this.waitingFor(filePunchHole(k, file, first * PAGE_SIZE, end * PAGE_SIZE), inside);
    this.zero(inside);
  }

  fsync(): void {
    expect(drive(vfsFsync(this.d.k, this.d.file))).toBe(0);
    this.allowed = this.words.map((page) => page.map((word) => new Set([word])));
    this.open.clear();
  }

  unmap(): void {
    const p = this.random.pick(this.procs);
    const hva = AT + this.random.below(PAGES) * PAGE_SIZE;
    if (this.random.chance(0.5)) drive(madvise(p.k, p.mm, hva, PAGE_SIZE, MADV_DONTNEED));
    else {
      drive(munmap(p.k, p.mm, AT, PAGES * PAGE_SIZE));
      mapFile(p, this.d.file, PAGES);
    }
  }

  forkOne(): void {
    if (this.procs.length < 4) this.procs.push(forked(this.d.w, this.random.pick(this.procs)));
    else exit(this.procs.splice(this.random.below(4), 1)[0] ?? this.d.p);
  }

  step(): void {
    const acts = [
      () => this.store(),
      () => this.store(),
      () => this.load(),
      () => this.write(),
      () => this.read(),
      () => this.pin(),
      () => this.dma(),
      () => this.unpin(),
      () => this.unmap(),
      () => this.fsync(),
      () => void drive(writebackMapping(this.d.k, this.d.file)),
    ];
    const rare = [() => this.truncate(), () => this.punch(), () => this.forkOne()];
    this.random.pick(this.random.chance(0.1) ? rare : acts)();
  }

  /** Everybody lets go, power fails, and each word is one that the file may have. */
  crash(): void {
    while (this.pins.length > 0) this.unpin();
    for (const p of this.procs) exit(p);
    assertKernel(this.d.k, { quiescent: true });
    const file = powerFail(this.d, () => this.random.chance(0.5));
    if (typeof file === 'number') throw new Error(`after the loss of power: ${file}`);
    const bytes = new Uint8Array(PAGES * PAGE_SIZE);
    drive(fileRead(this.d.k, file, 0, bytes));
    this.allowed.forEach((page, pgoff) => {
      page.forEach((values, i) => {
        const found = wordOf(bytes.subarray(pgoff * PAGE_SIZE + (OFFSETS[i] ?? 0)));
        if (!this.open.has(pgoff) && pgoff < this.sizePages) expect([...values]).toContain(found);
      });
    });
  }
}

describe('a DAX file against a list of words', () => {
  it('12 seeds, 150 calls each, the sanitizer after every fifth, and a loss of power', () => {
    for (let seed = 1; seed <= 12; seed++) {
      const driver = new Driver(seed);
      for (let i = 0; i < 150; i++) {
        driver.step();
        if (i % 5 === 0) assertKernel(driver.d.k, { quiescent: true });
      }
      driver.crash();
    }
  });
});
