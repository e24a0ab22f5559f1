/** Truncation of files on a device and holes in them: pages, blocks and promises (fs/ext4/inode.c: ext4_setattr(), ext4_punch_hole()). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EFAULT,
  filePunchHole,
  fileRead,
  fileTruncate,
  fileWrite,
  MAP_PRIVATE,
  nrFreePages,
  type Path,
} from '#mm';
import { writebackMapping } from '../../mm/cache/writeback.ts';
import { blockAt } from '../../mm/fs/extent/extents.ts';
import { pinUserPagesFast } from '../../mm/gup/fast.ts';
import { FOLL_WRITE } from '../../mm/gup/flags.ts';
import { unpinUserPages, unpinUserPagesDirtyLock } from '../../mm/gup/unpin.ts';
import {
  YP_FAULT_COPIED,
  YP_FAULT_LOCKED,
  YP_MKWRITE,
  YP_TRUNCATE_UNMAPPED,
  YP_WAIT,
} from '../../mm/path.ts';
import { rng } from '../support/rng.ts';
import {
  cached,
  type FileWorld,
  isDirty,
  onDevice,
  pageOfBytes,
  quiet,
  sync,
  withFile,
} from './file-world.ts';
import { interleave, pageAt, stepTo, mapOf } from './support.ts';

const readWord = ({ w, file }: FileWorld, offset: number): number => {
  const bytes = new Uint8Array(4);
  const n = drive(fileRead(w.k, file, offset, bytes));
  return n === 4 ? new DataView(bytes.buffer).getUint32(0, true) : -1;
};

describe('a file becomes shorter', () => {
  it('pages, blocks and promises behind the new end go', () => {
    const fw = withFile();
    const { w, p, fs, inode, file, hva } = fw;
    p.store32(hva + 3 * PAGE_SIZE, 9);
    expect(inode.reserved.has(3)).toBe(true);
    const free = fs.nrFree;
    expect(drive(fileTruncate(w.k, file, 2 * PAGE_SIZE))).toBe(0);
    expect([file.pages.size, inode.reserved.size, blockAt(inode, 3)]).toEqual([2, 0, -1]);
    expect([p.load32(hva + PAGE_SIZE), p.load32(hva + 2 * PAGE_SIZE)]).toEqual([2, -EFAULT]);
    quiet(fw);
    sync(fw);
    expect(fs.nrFree).toBe(free + 2);
  });

  it('a promise of a block that was never written is given back', () => {
    const fw = withFile(1);
    const { w, fs, file } = fw;
    drive(fileWrite(w.k, file, 3 * PAGE_SIZE, pageOfBytes(7)));
    expect(fs.nrReserved).toBe(1);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect(fs.nrReserved).toBe(0);
    quiet(fw);
  });

  it('what the last page has behind the end is zeroes, in memory and on the device', () => {
    const fw = withFile(2);
    const { w, p, file, hva } = fw;
    p.store32(hva + PAGE_SIZE + 400, 44);
    sync(fw);
    expect(onDevice(fw, 1, 100)).toBe(44);
    drive(fileTruncate(w.k, file, PAGE_SIZE + 400));
    sync(fw);
    expect(onDevice(fw, 1, 100)).toBe(0);
    drive(fileTruncate(w.k, file, 2 * PAGE_SIZE));
    expect([p.load32(hva + PAGE_SIZE), p.load32(hva + PAGE_SIZE + 400)]).toEqual([2, 0]);
    quiet(fw);
  });

  it('what a mapping stored behind the end is not there when the file grows again', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    drive(fileTruncate(w.k, file, PAGE_SIZE + 400));
    p.store32(hva + PAGE_SIZE + 800, 88);
    sync(fw);
    expect(onDevice(fw, 1, 200)).toBe(0);
    p.store32(hva + PAGE_SIZE + 800, 89);
    drive(fileTruncate(w.k, file, 4 * PAGE_SIZE));
    expect([readWord(fw, PAGE_SIZE + 800), p.load32(hva + PAGE_SIZE + 800)]).toEqual([0, 0]);
    expect(p.load32(hva + 2 * PAGE_SIZE)).toBe(0);
    quiet(fw);
  });

  it('private copies behind the end go, others stay', () => {
    const fw = withFile();
    const own = mapOf(fw.p, fw.file, { flags: MAP_PRIVATE });
    for (const i of [0, 3]) fw.p.store32(own + i * PAGE_SIZE, 50 + i);
    drive(fileTruncate(fw.w.k, fw.file, PAGE_SIZE));
    expect([fw.p.load32(own), fw.p.load32(own + 3 * PAGE_SIZE)]).toEqual([50, -EFAULT]);
    quiet(fw);
  });

  it('a pinned page stays alive without a file, dirty or not; the block is free (truncation vs GUP)', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(fileTruncate(w.k, file, 0));
    expect(w.k.state.frames.mapping[pages[0]!]).toBe(0);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect(p.load32(hva)).toBe(0);
    const free = nrFreePages(w.k);
    // Whoever unpins it marks it dirty: there is nobody to write it for.
    drive(unpinUserPagesDirtyLock(w.k, pages, 1, true));
    expect(nrFreePages(w.k)).toBe(free + 1);
    quiet(fw);
  });
});

describe('truncation against faults, step by step', () => {
  it('page_mkwrite() that comes after the end has passed: SIGBUS', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    p.load32(hva + 3 * PAGE_SIZE);
    const store = p.storePath(hva + 3 * PAGE_SIZE, 4, 9);
    stepTo(w.k, store, YP_FAULT_LOCKED);
    drive(fileTruncate(w.k, file, PAGE_SIZE));
    expect(drive(store)).toBe(-EFAULT);
    expect(fw.inode.reserved.size).toBe(0);
    quiet(fw);
  });

  it('page_mkwrite() that came first: the page goes with its promise, and the entry', () => {
    const fw = withFile();
    const { w, p, file, fs, hva } = fw;
    const store = p.storePath(hva + 3 * PAGE_SIZE, 4, 9);
    stepTo(w.k, store, YP_MKWRITE);
    const truncate = fileTruncate(w.k, file, PAGE_SIZE);
    stepTo(w.k, truncate, YP_WAIT);
    expect(drive(store)).toBe(0);
    expect(drive(truncate)).toBe(0);
    expect([pageAt(p, hva + 3 * PAGE_SIZE), fw.inode.reserved.size, fs.nrReserved]).toEqual([
      -1, 0, 0,
    ]);
    quiet(fw);
  });

  it('a fault that has to read waits until the end is where it will be, and SIGBUS', () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    const truncate = fileTruncate(w.k, file, PAGE_SIZE);
    stepTo(w.k, truncate, YP_TRUNCATE_UNMAPPED);
    expect(p.load32(hva + 3 * PAGE_SIZE)).toBe(-EFAULT);
    expect(p.load32(hva)).toBe(1);
    drive(truncate);
    quiet(fw);
  });

  it('a private copy that is made meanwhile is taken back', () => {
    const fw = withFile();
    const { w, p, file } = fw;
    const own = mapOf(p, file, { flags: MAP_PRIVATE });
    const fault = p.storePath(own + 3 * PAGE_SIZE, 4, 9);
    stepTo(w.k, fault, YP_FAULT_COPIED);
    const truncate = fileTruncate(w.k, file, PAGE_SIZE);
    stepTo(w.k, truncate, YP_WAIT);
    drive(fault);
    drive(truncate);
    expect(pageAt(p, own + 3 * PAGE_SIZE)).toBe(-1);
    quiet(fw);
  });
});

describe('a hole', () => {
  it('whole pages give their blocks back, of others the part is zeroed; the size stays', () => {
    const fw = withFile();
    const { w, p, inode, file, hva } = fw;
    for (const at of [100, 3 * PAGE_SIZE + 8]) p.store32(hva + at, 9);
    expect(drive(filePunchHole(w.k, file, 100, 3 * PAGE_SIZE + 4))).toBe(0);
    expect([0, 1, 2, 3].map((i) => blockAt(inode, i) >= 0)).toEqual([true, false, false, true]);
    const words = [0, 100, PAGE_SIZE, 2 * PAGE_SIZE, 3 * PAGE_SIZE, 3 * PAGE_SIZE + 8];
    expect(words.map((at) => p.load32(hva + at))).toEqual([1, 0, 0, 0, 0, 9]);
    sync(fw);
    expect([onDevice(fw, 0, 25), onDevice(fw, 3), onDevice(fw, 3, 2)]).toEqual([0, 0, 9]);
    expect(inode.sizeBytes).toBe(4 * PAGE_SIZE);
    quiet(fw);
  });

  it('private copies stay', () => {
    const fw = withFile();
    const own = mapOf(fw.p, fw.file, { flags: MAP_PRIVATE });
    fw.p.store32(own, 50);
    drive(filePunchHole(fw.w.k, fw.file, 0, 4 * PAGE_SIZE));
    expect([fw.p.load32(own), fw.p.load32(own + PAGE_SIZE)]).toEqual([50, 0]);
    quiet(fw);
  });

  it('up to the end of the file takes the page that it ends in', () => {
    const fw = withFile(2);
    drive(fileTruncate(fw.w.k, fw.file, PAGE_SIZE + 100));
    drive(filePunchHole(fw.w.k, fw.file, PAGE_SIZE, PAGE_SIZE + 100));
    expect([blockAt(fw.inode, 1), fw.inode.sizeBytes]).toEqual([-1, PAGE_SIZE + 100]);
    quiet(fw);
  });

  it('a store into it is promised a new block, and a fault waits until the old one is gone', () => {
    const fw = withFile();
    const { w, p, file, inode, hva } = fw;
    const punch = filePunchHole(w.k, file, 0, 2 * PAGE_SIZE);
    stepTo(w.k, punch, YP_TRUNCATE_UNMAPPED);
    // What is cached still may be found: it goes with the page.
    const store = p.storePath(hva + 4, 4, 9);
    drive(store);
    drive(punch);
    expect([cached(fw, 0), inode.reserved.size]).toEqual([-1, 0]);
    const next = filePunchHole(w.k, file, 2 * PAGE_SIZE, 4 * PAGE_SIZE);
    stepTo(w.k, next, YP_TRUNCATE_UNMAPPED);
    const read = p.loadPath(hva, 4);
    stepTo(w.k, read, YP_WAIT);
    drive(next);
    expect(drive(read)).toBe(0);
    p.store32(hva, 5);
    expect(inode.reserved.get(0)).toBe('delalloc');
    quiet(fw);
  });

  it("a page that was pinned before the hole is not the file's any more", () => {
    const fw = withFile();
    const { w, p, file, hva } = fw;
    const pages = new Int32Array(1);
    drive(pinUserPagesFast(w.k, p.mm, hva, 1, FOLL_WRITE, pages));
    drive(filePunchHole(w.k, file, 0, PAGE_SIZE));
    w.k.memory.i32[w.k.memory.pageOffset(pages[0]!) >>> 2] = 77;
    expect([p.load32(hva), pageAt(p, hva) === pages[0]!]).toEqual([0, false]);
    unpinUserPages(w.k, pages, 1);
    sync(fw);
    quiet(fw);
  });
});

describe('truncation, holes, writes, stores and writeback in an order drawn from a seed, against the bytes', () => {
  const PAGES = 5;
  const END = PAGES * PAGE_SIZE;
  for (let seed = 1; seed <= 10; seed++)
    it(`seed ${seed}`, () => {
      const fw = withFile(PAGES, { checksums: seed % 2 === 0, stablePages: seed % 3 === 0 });
      const { w, p, file, hva } = fw;
      const { k } = w;
      const random = rng(seed);
      // The file as a process sees it: bytes up to its size.
      const bytes = new Uint8Array(END);
      for (let i = 0; i < PAGES; i++) bytes.set(pageOfBytes(i + 1), i * PAGE_SIZE);
      let size = END;
      const word = (at: number): number => new DataView(bytes.buffer).getUint32(at, true);
      function* user(): Path<void> {
        for (let i = 1; i <= 60; i++) {
          const at = random.below(END / 4) * 4;
          const how = random.below(10);
          if (how < 4) {
            const stored = yield* p.storePath(hva + at, 4, i);
            const inside = at < Math.ceil(size / PAGE_SIZE) * PAGE_SIZE;
            expect(stored).toBe(inside ? 0 : -EFAULT);
            if (inside && at < size) bytes.set(pageOfBytes(i, 4), at);
            if (inside && at >= size) yield* fileTruncate(k, file, size);
          } else if (how < 6) {
            const from = pageOfBytes(i, 1 + random.below(PAGE_SIZE)).subarray(0, END - at);
            expect(yield* fileWrite(k, file, at, from)).toBe(from.length);
            bytes.set(from, at);
            size = Math.max(size, at + from.length);
          } else if (how < 8) {
            const next = 1 + random.below(END);
            expect(yield* fileTruncate(k, file, next)).toBe(0);
            bytes.fill(0, Math.min(next, size));
            size = next;
          } else if (how < 9) {
            const end = at + 1 + random.below(2 * PAGE_SIZE);
            expect(yield* filePunchHole(k, file, at, end)).toBe(0);
            bytes.fill(0, at, Math.min(end, END));
          } else {
            const read = new Uint8Array(4);
            const n = yield* fileRead(k, file, at, read);
            expect(n).toBe(Math.max(0, Math.min(4, size - at)));
            if (n === 4) expect(new DataView(read.buffer).getUint32(0, true)).toBe(word(at));
          }
        }
      }
      function* flusher(): Path<void> {
        for (let i = 0; i < 30; i++) yield* writebackMapping(k, file, 0, END, random.chance(0.5));
      }
      interleave(k, [user(), flusher(), flusher()], random);
      quiet(fw);
      sync(fw);
      quiet(fw);
      const back = new Uint8Array(END);
      expect(drive(fileRead(k, file, 0, back))).toBe(size);
      expect(back.subarray(0, size)).toEqual(bytes.subarray(0, size));
      for (let pgoff = 0; pgoff < Math.ceil(size / PAGE_SIZE); pgoff++) {
        expect(isDirty(fw, pgoff)).toBe(false);
        expect(onDevice(fw, pgoff)).toBe(word(pgoff * PAGE_SIZE));
      }
    });
});
