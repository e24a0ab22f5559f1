/** Faults, writeback, pins and truncation of DAX files at the same time, stepped and by a seed. Compare fs/dax.c: what a locked entry keeps apart. */
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
  type Path,
  pteSpecial,
  pteWrite,
  vfsFsync,
  writebackMapping,
  YP_BIO_SUBMITTED,
  YP_MKWRITE,
  YP_WAIT,
  YP_WRITEBACK_CLEANED,
} from '#mm';
import {
  FOLL_WRITE,
  pinUserPagesFast,
  unpinUserPagesDirtyLock,
  writePinnedPage,
} from '#mm/driver-api';
import { describe, expect, it } from 'vitest';
import { rng } from '../support/rng.ts';
import { AT, type DaxWorld, daxWorld, mapFile, pageOf } from './dax-world.ts';
import { createProcess, entryAt, exit, interleave, stepTo, settled } from './support.ts';

/** Another process that maps the same file. */
const second = (d: DaxWorld, nrPages: number): HostProcess => {
  const p = createProcess(d.w);
  mapFile(p, d.file, nrPages);
  return p;
};

describe('a store while its page is flushed', () => {
  it('waits until the flush is over, and makes the page dirty again', () => {
    const d = daxWorld(2);
    d.p.store32(AT, 1);
    const writeback = writebackMapping(d.k, d.file);
    stepTo(d.k, writeback, YP_WRITEBACK_CLEANED);
    expect(pteWrite(entryAt(d.p, AT))).toBe(false);
    const store = d.p.storePath(AT, 4, 2);
    expect(store.next().value).toBe(YP_WAIT);
    drive(writeback);
    expect(d.file.dax?.dirty.size).toBe(0);
    expect(drive(store)).toBe(0);
    expect(d.file.dax?.dirty.size).toBe(1);
    settled(d);
  });

  it('through an entry of another process is in the flush or after it, and never forgotten', () => {
    const d = daxWorld(2);
    const other = second(d, 2);
    d.p.store32(AT, 1);
    other.store32(AT, 2);
    drive(writebackMapping(d.k, d.file));
    expect([entryAt(d.p, AT), entryAt(other, AT)].map(pteWrite)).toEqual([false, false]);
    other.store32(AT, 3);
    expect(pteWrite(entryAt(d.p, AT))).toBe(false);
    expect(d.file.dax?.dirty.size).toBe(1);
    settled(d);
  });
});

describe('two first touches of one page', () => {
  it('writes of two processes allocate one block', () => {
    const d = daxWorld(2, false);
    const other = second(d, 2);
    const free = d.fs.nrFree;
    const first = d.p.storePath(AT, 4, 1);
    stepTo(d.k, first, YP_MKWRITE);
    const next = other.storePath(AT + 4, 4, 2);
    expect(next.next().value).toBe(YP_WAIT);
    drive(first);
    drive(next);
    expect(d.fs.nrFree).toBe(free - 1);
    expect([d.p.load32(AT), d.p.load32(AT + 4)]).toEqual([1, 2]);
    settled(d);
  });

  it('a read that comes while a block is chosen finds the block, not the hole', () => {
    const d = daxWorld(2, false);
    const other = second(d, 2);
    const store = d.p.storePath(AT, 4, 1);
    stepTo(d.k, store, YP_MKWRITE);
    const load = other.loadPath(AT, 4);
    expect(load.next().value).toBe(YP_WAIT);
    drive(store);
    expect(drive(load)).toBe(1);
    expect(pteSpecial(entryAt(other, AT))).toBe(false);
    settled(d);
  });

  it('write() into a hole that is being read leaves nobody with the zero page', () => {
    for (let seed = 1; seed <= 10; seed++) {
      const d = daxWorld(1, false);
      const other = second(d, 1);
      const run = function* (path: Path<number>): Path<void> {
        yield* path;
      };
      const bytes = pageOf(7).subarray(0, 4);
      const paths = [
        run(d.p.loadPath(AT, 4)),
        run(other.loadPath(AT, 4)),
        run(fileWrite(d.k, d.file, 0, bytes)),
      ];
      interleave(d.k, paths, rng(seed));
      expect([d.p.load32(AT), other.load32(AT)]).toEqual([7, 7]);
      settled(d);
    }
  });
});

describe('a fault against truncation', () => {
  it('one that has its block maps it, and truncation takes it away again', () => {
    const d = daxWorld(4);
    const store = d.p.storePath(AT + 2 * PAGE_SIZE, 4, 1);
    stepTo(d.k, store, YP_MKWRITE);
    const truncation = fileTruncate(d.k, d.file, 0);
    expect(truncation.next().value).toBe(YP_WAIT);
    expect(drive(store)).toBe(0);
    expect(drive(truncation)).toBe(0);
    expect(d.p.load32(AT + 2 * PAGE_SIZE)).toBe(-EFAULT);
    expect(d.file.inode?.extents).toEqual([]);
    settled(d);
  });

  it('one that comes later waits, and is SIGBUS', () => {
    const d = daxWorld(4);
    d.p.store32(AT, 1);
    const other = second(d, 4);
    d.file.invalidateLock.writer = true;
    const load = other.loadPath(AT, 4);
    expect(load.next().value).toBe(YP_WAIT);
    d.file.invalidateLock.writer = false;
    drive(fileTruncate(d.k, d.file, 0));
    expect(drive(load)).toBe(-EFAULT);
    settled(d);
  });

  it('fsync() of what is being cut off ends, and so does the truncation', () => {
    const d = daxWorld(4);
    for (let i = 0; i < 4; i++) d.p.store32(AT + i * PAGE_SIZE, i);
    const sync = vfsFsync(d.k, d.file);
    stepTo(d.k, sync, YP_WRITEBACK_CLEANED);
    const truncation = fileTruncate(d.k, d.file, 0);
    expect(truncation.next().value).toBe(YP_WAIT);
    expect(drive(sync)).toBe(0);
    expect(drive(truncation)).toBe(0);
    settled(d);
  });

  it('fsync() waits for the journal without the pages: a store goes on meanwhile', () => {
    const d = daxWorld(1, false);
    d.p.store32(AT, 1);
    const sync = vfsFsync(d.k, d.file);
    stepTo(d.k, sync, YP_BIO_SUBMITTED);
    expect(d.p.store32(AT, 2)).toBe(0);
    expect(drive(sync)).toBe(0);
    expect(d.file.dax?.dirty.size).toBe(1);
    settled(d);
  });
});

describe('pins, stores, truncation, holes and fsync() at the same time, by a seed (I14)', () => {
  const race = (seed: number): void => {
    const d = daxWorld(4);
    d.k.policy = createPolicy('target');
    const other = second(d, 4);
    const random = rng(seed);
    function* pinner(p: HostProcess): Path<void> {
      const pages = new Int32Array(2);
      for (let i = 0; i < 12; i++) {
        const hva = AT + random.below(3) * PAGE_SIZE;
        const n = yield* pinUserPagesFast(d.k, p.mm, hva, 2, FOLL_WRITE, pages);
        if (n <= 0) {
          expect(n).toBe(-EFAULT);
          continue;
        }
        // The device takes its time; whatever happens, the block is still the file's.
        for (let turns = random.below(4); turns > 0; turns--) yield YP_BIO_SUBMITTED;
        for (let at = 0; at < n; at++) {
          const page = pages[at] ?? 0;
          expect(d.k.state.frames.mapping[page]).toBe(d.file.id);
          writePinnedPage(d.k, page, 16, pageOf(i), 0, 4);
        }
        yield* unpinUserPagesDirtyLock(d.k, pages, n, true);
      }
    }
    function* cpu(p: HostProcess): Path<void> {
      for (let i = 0; i < 20; i++) {
        const hva = AT + random.below(4) * PAGE_SIZE;
        const outcome = random.chance(0.5)
          ? yield* p.storePath(hva, 4, i)
          : yield* p.loadPath(hva, 4);
        if (outcome < 0) expect(outcome).toBe(-EFAULT);
      }
    }
    function* files(): Path<void> {
      const bytes = new Uint8Array(4);
      for (let i = 0; i < 12; i++) {
        const size = (1 + random.below(4)) * PAGE_SIZE;
        const act = random.below(5);
        if (act === 0) yield* fileTruncate(d.k, d.file, size);
        else if (act === 1) yield* filePunchHole(d.k, d.file, 0, size);
        else if (act === 2) yield* fileWrite(d.k, d.file, size - 4, bytes);
        else if (act === 3) yield* fileRead(d.k, d.file, 0, bytes);
        else yield* vfsFsync(d.k, d.file);
        assertKernel(d.k);
      }
    }
    interleave(d.k, [pinner(d.p), pinner(other), cpu(d.p), cpu(other), files()], random);
    drive(vfsFsync(d.k, d.file));
    settled(d);
    exit(d.p);
    exit(other);
    settled(d);
  };

  it('everybody ends, and frames, entries and blocks agree, 10 times', () => {
    for (let seed = 1; seed <= 10; seed++) race(seed);
  });
});
