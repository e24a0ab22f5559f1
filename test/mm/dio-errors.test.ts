/**
 * Direct I/O that fails: memory that ends, bad blocks, no space, a signal that kills, and all of them at
 * random. Afterwards nothing is held, and every byte of file and memory is an old one or a new one.
 */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EFAULT,
  EIO,
  ENOSPC,
  extentBlockAt,
  extentCheck,
  extentCreate,
  extentFallocate,
  extentUnlink,
  fileDirectRead,
  fileDirectWrite,
  fileTruncate,
  fileWrite,
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterIovec,
  mappingPut,
  munmap,
  SIGNAL_FATAL,
  sendSignal,
  setPolicyApi,
  signalHandled,
  vfsFsync,
} from '#mm';
import { type Rng, rng } from '../support/rng.ts';
import { contents, type DioWorld, dioWorld, directRead, directWrite } from './dio-world.ts';
import { expectNothingHeld, pattern } from './iov-world.ts';
import { interleave, mapAnon } from './support.ts';

const expectSound = (d: DioWorld): void => {
  expectNothingHeld(d.w);
  expect(extentCheck(d.w.k, d.fs)).toEqual([]);
  expect(d.file.inode?.lock).toEqual({ readers: 0, writer: false });
  expect(d.dev.inFlight).toEqual([]);
};

/** Every byte is the old one or the new one of that place. */
const expectOldOrNew = (
  now: Uint8Array,
  old: Uint8Array,
  fresh: Uint8Array,
  what: string,
): void => {
  const bad = now.findIndex((byte, i) => byte !== old[i] && byte !== fresh[i]);
  if (bad >= 0)
    throw new Error(`${what}: byte ${bad} is ${now[bad]}, and was ${old[bad]} or ${fresh[bad]}`);
};

describe('after an error', () => {
  it('memory that ends in the middle: -EFAULT, the size as it was, and no block of it the file has', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    drive(munmap(d.w.k, d.p.mm, d.hva + 2 * PAGE_SIZE, PAGE_SIZE));
    expect(directWrite(d, PAGE_SIZE, 4 * PAGE_SIZE)).toBe(-EFAULT);
    expect(contents(d)).toEqual(pattern(PAGE_SIZE));
    expect(d.file.inode?.extents.reduce((sum, { nr }) => sum + nr, 0)).toBe(1);
    expect(directRead(d, 0, PAGE_SIZE, 2 * PAGE_SIZE)).toBe(-EFAULT);
    expectSound(d);
  });

  it('the iterator is where it was', () => {
    const d = dioWorld(pattern(4 * PAGE_SIZE));
    drive(munmap(d.w.k, d.p.mm, d.hva + PAGE_SIZE, PAGE_SIZE));
    const it = iovIterIovec(ITER_DEST, [
      { hva: d.hva, lenBytes: 512 },
      { hva: d.hva, lenBytes: 2 * PAGE_SIZE },
    ]);
    expect(drive(fileDirectRead(d.w.k, d.p.mm, d.file, 0, it))).toBe(-EFAULT);
    expect([it.piece, it.done, it.count]).toEqual([0, 0, 512 + 2 * PAGE_SIZE]);
    expectSound(d);
  });

  it('a bad block: -EIO, of a read and of a write', () => {
    const d = dioWorld(pattern(4 * PAGE_SIZE));
    const inode = d.file.inode;
    if (inode === null) throw new Error('no inode');
    const block = extentBlockAt(inode, 2);
    d.dev.badReads.add(block);
    expect(directRead(d, 0, 4 * PAGE_SIZE)).toBe(-EIO);
    expect(directRead(d, 0, 2 * PAGE_SIZE)).toBe(2 * PAGE_SIZE);
    d.dev.badReads.clear();
    d.dev.badWrites.add(block);
    d.p.copyIn(d.hva, pattern(4 * PAGE_SIZE, 3));
    expect(directWrite(d, 0, 4 * PAGE_SIZE)).toBe(-EIO);
    expectOldOrNew(contents(d), pattern(4 * PAGE_SIZE), pattern(4 * PAGE_SIZE, 3), 'file');
    expectSound(d);
  });

  it('no space: -ENOSPC, and the blocks that it had found are free again', () => {
    const d = dioWorld(pattern(PAGE_SIZE), {}, 'pin', 400);
    const free = d.fs.nrFree;
    const hva = mapAnon(d.p, free + 2);
    const it = iovIterIovec(ITER_SOURCE, [{ hva, lenBytes: (free + 1) * PAGE_SIZE }]);
    expect(drive(fileDirectWrite(d.w.k, d.p.mm, d.file, PAGE_SIZE, it))).toBe(-ENOSPC);
    expect([d.fs.nrFree, d.file.inode?.sizeBytes]).toEqual([free, PAGE_SIZE]);
    expect(contents(d)).toEqual(pattern(PAGE_SIZE));
    expectSound(d);
  });

  it('writeback that fails before: its error, and the write has not begun', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    drive(fileWrite(d.w.k, d.file, 0, Uint8Array.of(9)));
    const inode = d.file.inode;
    if (inode === null) throw new Error('no inode');
    d.dev.badWrites.add(extentBlockAt(inode, 0));
    expect(directRead(d, 0, PAGE_SIZE)).toBe(-EIO);
    expect(d.p.load8(d.hva)).toBe(0);
    expectSound(d);
  });
});

const PAGES = 12;
const MEMORY_PAGES = 40;

/** File and memory go. */
const endCase = ({ d: { w, p, fs, file, hva } }: Case): void => {
  drive(munmap(w.k, p.mm, hva, MEMORY_PAGES * PAGE_SIZE));
  drive(extentUnlink(w.k, fs, file.inode?.ino ?? -1));
  drive(mappingPut(w.k, file));
};

/** Old bytes of the file and of memory, and what a transfer would make of them. */
interface Case {
  d: DioWorld;
  random: Rng;
  write: boolean;
  offset: number;
  it: IovIter;
  oldFile: Uint8Array;
  newFile: Uint8Array;
  oldMemory: Uint8Array;
  newMemory: Uint8Array;
}

/** A file with extents, holes and unwritten blocks; pieces of memory that do not overlap. */
const randomCase = (base: DioWorld, seed: number): Case => {
  const random = rng(seed);
  const { w, p } = base;
  setPolicyApi(w.k.policy, 'block-dio', random.below(2) === 0 ? 'pin' : 'get');
  const d = { ...base, file: extentCreate(w.k, base.fs), hva: mapAnon(p, MEMORY_PAGES) };
  const { file, hva } = d;
  drive(fileTruncate(w.k, file, PAGES * PAGE_SIZE - 512 * random.below(16)));
  const size = file.inode?.sizeBytes ?? 0;
  for (let i = 0; i < 4; i++) {
    const pgoff = random.below(PAGES - 2);
    if (random.below(3) === 0) drive(extentFallocate(w.k, file, pgoff, 1));
    else drive(fileWrite(w.k, file, pgoff * PAGE_SIZE, pattern(PAGE_SIZE + 700, seed + i)));
  }
  if (random.below(2) === 0) drive(vfsFsync(w.k, file));
  // Some pages of memory have never been touched: to have them takes a fault.
  const oldMemory = pattern(PAGES * PAGE_SIZE, seed + 9);
  for (let at = 0; at < oldMemory.length; at += PAGE_SIZE) {
    const page = oldMemory.subarray(at, at + PAGE_SIZE);
    if (random.below(5) === 0) page.fill(0);
    else p.copyIn(hva + at, page);
  }
  const write = random.below(2) === 0;
  const offset = 512 * random.below((PAGES - 2) * 8);
  let left = 512 * (1 + random.below(PAGES * 8 - offset / 512));
  const pieces: { hva: number; lenBytes: number }[] = [];
  for (let at = 0; left > 0 && at < PAGES * 8; ) {
    const n = Math.min(left, 512 * (1 + random.below(24)), (PAGES * 8 - at) * 512);
    pieces.push({ hva: hva + at * 512, lenBytes: n });
    left -= n;
    at += n / 512 + random.below(2);
  }
  const it = iovIterIovec(write ? ITER_SOURCE : ITER_DEST, pieces);
  const oldFile = contents(d);
  const end = Math.max(size, write ? offset + it.count : 0);
  const newFile = new Uint8Array(end);
  newFile.set(oldFile);
  const newMemory = oldMemory.slice();
  let at = offset;
  for (const { hva: from, lenBytes } of pieces) {
    const i = from - hva;
    if (write) newFile.set(oldMemory.subarray(i, i + lenBytes), at);
    // The last sector is read as a whole, and behind the end of the file are zeroes.
    else
      for (let b = 0; b < lenBytes && at + b < Math.ceil(size / 512) * 512; b++)
        newMemory[i + b] = oldFile[at + b] ?? 0;
    at += lenBytes;
  }
  return { d, random, write, offset, it, oldFile, newFile, oldMemory, newMemory };
};

/** Some blocks: that the file has, and that it may get. */
const someBlocks = ({ d: { file, fs }, random }: Case): number[] => [
  ...(file.inode?.extents ?? []).map(({ block, nr }) => block + random.below(nr)),
  fs.cursor + random.below(4),
];

/** Something is about to go wrong, or nothing. */
const sabotage = (c: Case): void => {
  const { d, random } = c;
  const { dev, p, w, hva } = d;
  const at = hva + random.below(PAGES) * PAGE_SIZE;
  switch (random.below(5)) {
    case 0:
      drive(munmap(w.k, p.mm, at, PAGE_SIZE));
      break;
    case 1:
      for (const block of someBlocks(c)) dev.badReads.add(block);
      break;
    case 2:
      for (const block of someBlocks(c)) dev.badWrites.add(block);
      break;
    case 3:
      sendSignal(w.k, SIGNAL_FATAL);
      break;
    default:
  }
};

/** Memory of the process that is still there, page by page; what is not counts as old. */
const memoryOf = ({ d, oldMemory }: Case): Uint8Array => {
  const now = oldMemory.slice();
  for (let i = 0; i < PAGES; i++) {
    const into = new Uint8Array(PAGE_SIZE);
    if (d.p.copyOut(d.hva + i * PAGE_SIZE, into) === 0) now.set(into, i * PAGE_SIZE);
  }
  return now;
};

const heal = ({ d }: Case): void => {
  signalHandled(d.w.k);
  d.dev.badReads.clear();
  d.dev.badWrites.clear();
};

/** The outcome of a transfer of `n` bytes, or its error, against what is there now. */
const judge = (c: Case, n: number, wanted: number, what: string): void => {
  heal(c);
  const file = contents(c.d);
  const memory = memoryOf(c);
  if (n < 0) {
    expect(file.length, what).toBe(c.oldFile.length);
    expectOldOrNew(file, c.oldFile, c.newFile, `${what}: file`);
    expectOldOrNew(memory, c.oldMemory, c.newMemory, `${what}: memory`);
  } else {
    expect(n, what).toBe(wanted);
    expect(Buffer.compare(file, c.newFile), `${what}: file`).toBe(0);
    expect(Buffer.compare(memory, c.newMemory), `${what}: memory`).toBe(0);
  }
  expectSound(c.d);
};

const transfer = (c: Case) =>
  (c.write ? fileDirectWrite : fileDirectRead)(c.d.w.k, c.d.p.mm, c.d.file, c.offset, c.it);

describe('whatever goes wrong (seeded)', () => {
  it('nothing stays held, and every byte is old or new', () => {
    const outcomes = new Map<string, number>();
    const base = dioWorld();
    for (let seed = 1; seed <= 150; seed++) {
      const c = randomCase(base, seed);
      const count = c.it.count;
      const size = c.d.file.inode?.sizeBytes ?? 0;
      const wanted = c.write ? count : Math.max(0, Math.min(count, size - c.offset));
      sabotage(c);
      const n = drive(transfer(c));
      const outcome = n < 0 ? String(n) : 'done';
      outcomes.set(outcome, (outcomes.get(outcome) ?? 0) + 1);
      judge(c, n, wanted, `seed ${seed}`);
      expect(count - c.it.count, `seed ${seed}`).toBe(Math.max(0, n));
      endCase(c);
    }
    for (const seen of ['done', '-5', '-14', '-4'])
      expect(outcomes.get(seen), seen).toBeGreaterThan(3);
  });

  it('two at a time on one file, one step after the other: each byte is of one of them or old', () => {
    const base = dioWorld();
    for (let seed = 1; seed <= 40; seed++) {
      const c = randomCase(base, seed);
      const { d } = c;
      const old = c.oldFile;
      const size = old.length;
      const writes = [1, 2].map((salt) => {
        const nr = 1 + c.random.below(4);
        const offset = 512 * c.random.below(Math.max(1, Math.floor(size / 512) - nr * 8));
        const at = d.hva + (20 + salt * 8) * PAGE_SIZE;
        d.p.copyIn(at, new Uint8Array(nr * PAGE_SIZE).fill(100 + salt));
        const it = iovIterIovec(ITER_SOURCE, [{ hva: at, lenBytes: nr * PAGE_SIZE }]);
        return { salt, offset, nr, path: fileDirectWrite(d.w.k, d.p.mm, d.file, offset, it) };
      });
      const results: number[] = [];
      const run = function* (path: (typeof writes)[number]['path']) {
        results.push(yield* path);
      };
      interleave(
        d.w.k,
        writes.map(({ path }) => run(path)),
        c.random,
      );
      expect(results.toSorted(), `seed ${seed}`).toEqual(
        writes.map(({ nr }) => nr * PAGE_SIZE).toSorted(),
      );
      const now = contents(d);
      for (const [i, byte] of now.entries()) {
        const by = writes.filter(({ offset, nr }) => i >= offset && i < offset + nr * PAGE_SIZE);
        const allowed = by.length > 0 ? by.map(({ salt }) => 100 + salt) : [old[i] ?? 0];
        if (!allowed.includes(byte)) throw new Error(`seed ${seed}: byte ${i} is ${byte}`);
      }
      expectSound(d);
      endCase(c);
    }
  });
});
