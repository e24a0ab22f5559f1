/**
 * Crash consistency of the extent file system: a seeded workload, and a power failure wherever the
 * device changes, with any part of its volatile cache surviving.
 */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockCrashImage,
  blockDeviceCreate,
  blockDeviceRemove,
  drive,
  type ExtentFs,
  extentCheck,
  extentCreate,
  extentForget,
  extentOpen,
  extentRead,
  extentWrite,
  fileDirectWrite,
  filePunchHole,
  fileTruncate,
  ITER_SOURCE,
  iovIterBvec,
  type Kernel,
  mappingPut,
  type MkfsOptions,
  type Path,
  vfsFsync,
  writebackMapping,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { folioAlloc, folioPut } from '../../mm/folio/folio.ts';
import { type Rng, rng } from '../support/rng.ts';
import { createDiskWorld, inodeOf, mounted, storeMapped } from './extent-support.ts';
import { createWorld } from './support.ts';

const FILE_PAGES = 8;
const FILE_BYTES = FILE_PAGES * PAGE_SIZE;

/** A file, and every content that a crash may leave of it. */
interface Subject {
  mapping: AddressSpace;
  ino: number;
  /** First what the last fsync() has made durable, then what has become of it since; null: no file. */
  versions: (Uint8Array | null)[];
  /** What it holds now. */
  now: Uint8Array;
}

/** The file is about to hold something else: parts of that may be on the device before it is done. */
const willBe = (file: Subject, bytes: Uint8Array): void => {
  file.versions.push(bytes);
  file.now = bytes;
};

/** A content with some bytes changed, longer if need be. */
const changed = (old: Uint8Array, offset: number, bytes: Uint8Array): Uint8Array => {
  const fresh = new Uint8Array(Math.max(old.length, offset + bytes.length));
  fresh.set(old);
  fresh.set(bytes, offset);
  return fresh;
};

const succeeds = (what: string, result: number, wanted = 0): void => {
  if (result !== wanted) throw new Error(`${what}: ${result}`);
};

function* doWrite(k: Kernel, file: Subject, r: Rng): Path<void> {
  const offset = r.below(FILE_BYTES - 1);
  const length = 1 + r.below(Math.min(3 * PAGE_SIZE, FILE_BYTES - offset));
  const bytes = new Uint8Array(length).fill(1 + r.below(255));
  willBe(file, changed(file.now, offset, bytes));
  succeeds('write', yield* extentWrite(k, file.mapping, offset, bytes), length);
}

function* doStore(k: Kernel, file: Subject, r: Rng): Path<void> {
  if (file.now.length === 0) return;
  const offset = r.below(file.now.length);
  const end = Math.min(file.now.length, (Math.floor(offset / PAGE_SIZE) + 1) * PAGE_SIZE);
  const bytes = new Uint8Array(1 + r.below(end - offset)).fill(1 + r.below(255));
  willBe(file, changed(file.now, offset, bytes));
  succeeds('store', yield* storeMapped(k, file.mapping, offset, bytes));
}

/** write() with O_DIRECT, of whole blocks. */
function* doDirect(k: Kernel, file: Subject, r: Rng): Path<void> {
  const first = r.below(FILE_PAGES);
  const nr = 1 + r.below(Math.min(3, FILE_PAGES - first));
  const bytes = new Uint8Array(nr * PAGE_SIZE).fill(1 + r.below(255));
  willBe(file, changed(file.now, first * PAGE_SIZE, bytes));
  const vec = Array.from({ length: nr }, (_, i) => {
    const page = folioAlloc(k, 0);
    k.memory.setBytes(
      k.memory.pageOffset(page),
      bytes.subarray(i * PAGE_SIZE, (i + 1) * PAGE_SIZE),
    );
    return { page, offset: 0, lenBytes: PAGE_SIZE };
  });
  const from = iovIterBvec(ITER_SOURCE, vec);
  const n = yield* fileDirectWrite(k, null, file.mapping, first * PAGE_SIZE, from);
  succeeds('direct write', n, bytes.length);
  for (const { page } of vec) folioPut(k, page);
}

function* doTruncate(k: Kernel, file: Subject, r: Rng): Path<void> {
  const size = r.below(FILE_BYTES + 1);
  const kept = file.now.slice(0, size);
  const zeroes = new Uint8Array(Math.max(0, size - kept.length));
  willBe(file, changed(kept, kept.length, zeroes));
  succeeds('truncate', yield* fileTruncate(k, file.mapping, size));
}

function* doPunch(k: Kernel, file: Subject, r: Rng): Path<void> {
  const start = r.below(FILE_BYTES - 1);
  const end = start + 1 + r.below(FILE_BYTES - start);
  const hole = new Uint8Array(Math.max(0, Math.min(end, file.now.length) - start));
  if (hole.length > 0) willBe(file, changed(file.now, start, hole));
  succeeds('punch', yield* filePunchHole(k, file.mapping, start, end));
}

function* doFsync(k: Kernel, file: Subject): Path<void> {
  const { now } = file;
  succeeds('fsync', yield* vfsFsync(k, file.mapping));
  file.versions = [now];
}

/** One user of one file. */
function* user(k: Kernel, file: Subject, r: Rng, steps: number): Path<void> {
  for (let i = 0; i < steps; i++) {
    const what = r.below(10);
    if (what < 3) yield* doWrite(k, file, r);
    else if (what < 4) yield* doDirect(k, file, r);
    else if (what < 6) yield* doStore(k, file, r);
    else if (what < 7) yield* doTruncate(k, file, r);
    else if (what < 8) yield* doPunch(k, file, r);
    else yield* doFsync(k, file);
  }
}

/** The flusher: writes files out now and then, and makes nothing durable. */
function* flusher(k: Kernel, files: readonly Subject[], r: Rng, steps: number): Path<void> {
  for (let i = 0; i < steps; i++)
    succeeds('writeback', yield* writebackMapping(k, r.pick(files).mapping, 0, FILE_BYTES, false));
}

/** May byte `i` be `value` after a crash? Zero also where the file once ended before it. */
const allowed = (versions: Subject['versions'], i: number, value: number): boolean =>
  versions.some((v) => (v === null || i >= v.length ? value === 0 : v[i] === value));

/** What is wrong with what a crash has left of a file, or null. @param found null: no file */
const judge = ({ ino, versions }: Subject, found: Uint8Array | null): string | null => {
  if (found === null) return versions.includes(null) ? null : `file ${ino} has gone`;
  const sizes = versions.map((v) => v?.length ?? 0);
  const { length } = found;
  if (length < Math.min(...sizes) || length > Math.max(...sizes))
    return `file ${ino} has ${length} bytes, and had ${sizes.join(', ')}`;
  if (versions.some((v) => v !== null && Buffer.compare(v, found) === 0)) return null;
  const wrong = found.findIndex((value, i) => !allowed(versions, i, value));
  if (wrong < 0) return null;
  return `file ${ino}: byte ${wrong} of ${length} is ${found[wrong]}, and was ${versions.map((v) => v?.[wrong])}`;
};

/** What is in a file of a mounted file system; null: there is none. */
const readAll = (k: Kernel, fs: ExtentFs, ino: number): Uint8Array | null => {
  const mapping = extentOpen(k, fs, ino);
  if (typeof mapping === 'number') return null;
  const into = new Uint8Array(inodeOf(mapping).sizeBytes);
  succeeds(
    `read of file ${ino} after the crash`,
    drive(extentRead(k, mapping, 0, into)),
    into.length,
  );
  drive(mappingPut(k, mapping));
  return into;
};

/** Another machine, which gets the disk after the power failure. @returns what it finds wrong */
const createJudge = (): ((
  dev: BlockDevice,
  keeps: (block: number) => boolean,
  files: readonly Subject[],
) => string[]) => {
  const { k } = createWorld(2 ** 21);
  return (dev, keeps, files) => {
    const copy = blockDeviceCreate(k, 'after the crash', dev.nrBlocks);
    copy.media = blockCrashImage(dev, keeps);
    const fs = mounted(k, copy);
    const wrong = extentCheck(k, fs);
    for (const file of files) {
      const bad = judge(file, readAll(k, fs, file.ino));
      if (bad !== null) wrong.push(bad);
    }
    drive(extentForget(k, fs));
    blockDeviceRemove(k, copy);
    return wrong;
  };
};

/** Steps the actors in an order drawn from the seed, and calls back after each step that may have changed the device. */
const run = (k: Kernel, actors: Path<void>[], r: Rng, crashed: () => boolean): void => {
  k.watched = true;
  let waits = 0;
  for (let running = actors; running.length > 0; ) {
    const actor = r.pick(running);
    const step = actor.next();
    if (step.done === true) running = running.filter((one) => one !== actor);
    waits = step.done !== true && step.value === 0 ? waits + 1 : 0;
    if (waits > 1000) throw new Error('deadlock');
    if (waits === 0 && crashed()) break;
  }
  k.watched = false;
};

const subjectOf = (k: Kernel, fs: ExtentFs): Subject => {
  const mapping = extentCreate(k, fs);
  const now = new Uint8Array(0);
  return { mapping, ino: inodeOf(mapping).ino, versions: [null, now], now };
};

/** What tells one state of the device from another. */
const stamp = (dev: BlockDevice): string =>
  [dev.nrWrites, dev.nrFlushes, ...dev.inFlight.map(({ transferred }) => transferred)].join();

interface Crashes {
  points: number;
  wrong: string[];
}

/** A whole workload, with a power failure at every point. */
const crashEverywhere = (seed: number, options: MkfsOptions, steps: number): Crashes => {
  const r = rng(seed);
  const { k, dev, fs } = createDiskWorld({ ...options, ramBytes: 2 ** 22 });
  const files = [subjectOf(k, fs), subjectOf(k, fs)];
  const find = createJudge();
  const crashes: Crashes = { points: 0, wrong: [] };
  let last = '';
  const actors = files.map((file) => user(k, file, r, steps));
  run(k, [...actors, flusher(k, files, r, steps)], r, () => {
    if (stamp(dev) === last) return false;
    last = stamp(dev);
    crashes.points++;
    const p = r.u32() / 2 ** 32;
    for (const keeps of [() => false, () => true, () => r.chance(p)])
      crashes.wrong.push(...find(dev, keeps, files));
    return crashes.wrong.length > 0;
  });
  crashes.wrong.push(...extentCheck(k, fs));
  return crashes;
};

describe('a power failure at every point of a workload: what was fsynced is there, and nothing is out of order', () => {
  for (const [name, options] of [
    ['written over', {}],
    ['checksums: nothing is written over', { checksums: true, stablePages: true }],
  ] as const)
    for (const seed of [1, 2])
      it(`${name}, seed ${seed}`, () => {
        const { points, wrong } = crashEverywhere(seed, options, 25);
        expect(wrong).toEqual([]);
        expect(points).toBeGreaterThan(100);
      });
});
