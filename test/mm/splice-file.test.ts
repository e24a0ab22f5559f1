/** splice() of files on a device: pages on their way, writeback, stealing from the page cache, moving into it. */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  allocPages,
  createPipe,
  drive,
  EAGAIN,
  EIO,
  ENODATA,
  ENOMEM,
  ENOSPC,
  extentBlockAt,
  extentCheck,
  extentCreate,
  fileRead,
  fileTruncate,
  fileWrite,
  folioTestDirty,
  freePages,
  GFP_KERNEL,
  invalidateInodePages2Range,
  munmap,
  pipeRead,
  pipeWrite,
  SPLICE_F_GIFT,
  SPLICE_F_MOVE,
  SPLICE_F_NONBLOCK,
  spliceFileToPipe,
  splicePipeToFile,
  vfsFsync,
  vmspliceToPipe,
  writebackMapping,
  YP_BIO_SUBMITTED,
} from '#mm';
import { contents, type DioWorld, dioWorld, mapShared } from './dio-world.ts';
import { expectNothingHeld, pattern } from './iov-world.ts';
import { stepTo } from './support.ts';

const expectSound = (d: DioWorld): void => {
  expectNothingHeld(d.w);
  expect(extentCheck(d.w.k, d.fs)).toEqual([]);
};

/** Nothing of the file is in the page cache any more. */
const cold = (d: DioWorld): void => {
  expect(drive(invalidateInodePages2Range(d.w.k, d.file, 0, 100))).toBe(0);
};

const moveAll = (d: DioWorld, pipe: ReturnType<typeof createPipe>, at: number): number =>
  drive(splicePipeToFile(d.w.k, pipe, d.file, at, 16 * PAGE_SIZE, SPLICE_F_MOVE));

describe('from a file on a device', () => {
  it('what the cache does not have is read first; without waiting it is -EAGAIN', () => {
    const d = dioWorld(pattern(2 * PAGE_SIZE + 50));
    const { k } = d.w;
    cold(d);
    const pipe = createPipe(k);
    expect(drive(spliceFileToPipe(k, d.file, 0, pipe, 100, SPLICE_F_NONBLOCK))).toBe(-EAGAIN);
    expect(drive(spliceFileToPipe(k, d.file, PAGE_SIZE + 9, pipe, 3 * PAGE_SIZE))).toBe(
      PAGE_SIZE + 41,
    );
    const into = new Uint8Array(3 * PAGE_SIZE);
    expect(pipeRead(k, pipe, into)).toBe(PAGE_SIZE + 41);
    expect(into.subarray(0, PAGE_SIZE + 41)).toEqual(
      pattern(2 * PAGE_SIZE + 50).subarray(PAGE_SIZE + 9),
    );
    expectSound(d);
  });

  it('a page that another path is reading is taken as it is, and confirmed by the reader', () => {
    for (const fails of [false, true]) {
      const d = dioWorld(pattern(2 * PAGE_SIZE));
      const { k } = d.w;
      cold(d);
      drive(fileRead(k, d.file, 0, new Uint8Array(1)));
      const reading = fileRead(k, d.file, PAGE_SIZE, new Uint8Array(1));
      stepTo(k, reading, YP_BIO_SUBMITTED);
      const pipe = createPipe(k);
      expect(drive(spliceFileToPipe(k, d.file, PAGE_SIZE - 1, pipe, 2))).toBe(2);
      const into = new Uint8Array(2);
      expect(pipeRead(k, pipe, into)).toBe(1);
      expect(pipeRead(k, pipe, into)).toBe(-EAGAIN);
      if (fails && d.file.inode !== null) d.dev.badReads.add(extentBlockAt(d.file.inode, 1));
      expect(drive(reading)).toBe(fails ? -EIO : 1);
      // A page that could not be read is no longer the file's.
      expect(pipeRead(k, pipe, into)).toBe(fails ? -ENODATA : 1);
    }
  });

  it('a page that is truncated away stays in the pipe with its bytes', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const pipe = createPipe(d.w.k);
    drive(spliceFileToPipe(d.w.k, d.file, 0, pipe, 3));
    expect(drive(fileTruncate(d.w.k, d.file, 0))).toBe(0);
    const into = new Uint8Array(3);
    expect(pipeRead(d.w.k, pipe, into)).toBe(3);
    expect(into).toEqual(pattern(3));
    expectSound(d);
  });
});

describe('to a file on a device', () => {
  it('the pages of the pipe become its own, promised and dirty, and are on the device in the end', () => {
    const d = dioWorld();
    const { k } = d.w;
    const pipe = createPipe(k);
    pipeWrite(k, pipe, pattern(3 * PAGE_SIZE));
    const pages = pipe.buffers.map(({ page }) => page);
    expect(moveAll(d, pipe, 0)).toBe(3 * PAGE_SIZE);
    expect([...d.file.pages.values()]).toEqual(pages);
    expect([...(d.file.inode?.reserved.keys() ?? [])]).toEqual([0, 1, 2]);
    expect(d.file.inode?.sizeBytes).toBe(3 * PAGE_SIZE);
    expectSound(d);
    expect(drive(vfsFsync(k, d.file))).toBe(0);
    cold(d);
    expect(contents(d)).toEqual(pattern(3 * PAGE_SIZE));
    expect(d.fs.dirtiedBehind).toBe(0);
    expectSound(d);
  });

  it('behind its end, into a page that it has, or of a part of a page, the bytes are copied', () => {
    const d = dioWorld(pattern(PAGE_SIZE));
    const { k } = d.w;
    for (const { at, n } of [
      { at: 0, n: PAGE_SIZE },
      { at: 5 * PAGE_SIZE, n: PAGE_SIZE },
      { at: PAGE_SIZE, n: 100 },
    ]) {
      const pipe = createPipe(k);
      pipeWrite(k, pipe, pattern(n, 3));
      const page = pipe.buffers[0]?.page ?? -1;
      expect(moveAll(d, pipe, at)).toBe(n);
      expect([...d.file.pages.values()]).not.toContain(page);
      expect(contents(d).subarray(at, at + n)).toEqual(pattern(n, 3));
    }
    expectSound(d);
  });

  it('where there is no space it is -ENOSPC, and the pipe keeps its page', () => {
    const d = dioWorld(new Uint8Array(0), {}, 'pin', 300);
    const { k } = d.w;
    const other = extentCreate(k, d.fs);
    while (drive(fileWrite(k, other, other.inode?.sizeBytes ?? 0, pattern(PAGE_SIZE))) > 0);
    const pipe = createPipe(k);
    pipeWrite(k, pipe, pattern(PAGE_SIZE));
    expect(moveAll(d, pipe, 0)).toBe(-ENOSPC);
    expect(pipe.buffers.length).toBe(1);
    expectSound(d);
  });

  it('a page that cannot be moved, and has no memory for a copy, leaves no promise behind', () => {
    const d = dioWorld();
    const { k } = d.w;
    d.p.copyIn(d.hva, pattern(PAGE_SIZE));
    const pipe = createPipe(k);
    drive(vmspliceToPipe(k, d.p.mm, pipe, d.hva, PAGE_SIZE, SPLICE_F_GIFT));
    const taken: number[] = [];
    for (let page = allocPages(k, 0, GFP_KERNEL); page >= 0; page = allocPages(k, 0, GFP_KERNEL))
      taken.push(page);
    expect(moveAll(d, pipe, 0)).toBe(-ENOMEM);
    expect([d.file.inode?.reserved.size, d.fs.nrReserved]).toEqual([0, 0]);
    for (const page of taken) freePages(k, page, 0);
    expect(moveAll(d, pipe, 0)).toBe(PAGE_SIZE);
    expectSound(d);
  });

  it('a clean page of a file that nobody else has leaves its cache for another file', () => {
    for (const used of ['by nobody', 'mapped', 'dirty'] as const) {
      const d = dioWorld(pattern(PAGE_SIZE));
      const { k } = d.w;
      const from = d.file;
      if (used === 'mapped') d.p.load8(mapShared(d.p, from, 1));
      if (used === 'dirty') drive(fileWrite(k, from, 0, pattern(1)));
      const page = from.pages.get(0);
      const pipe = createPipe(k);
      expect(drive(spliceFileToPipe(k, from, 0, pipe, PAGE_SIZE))).toBe(PAGE_SIZE);
      const to = { ...d, file: extentCreate(k, d.fs) };
      expect(moveAll(to, pipe, 0)).toBe(PAGE_SIZE);
      expect(to.file.pages.get(0) === page, used).toBe(used === 'by nobody');
      expect(from.pages.has(0), used).toBe(used !== 'by nobody');
      expect(contents(to)).toEqual(pattern(PAGE_SIZE));
      expect(contents(d)).toEqual(pattern(PAGE_SIZE));
      expectSound(d);
    }
  });

  it("a gift that has been unmapped is moved, and written back as the file's page", () => {
    const d = dioWorld();
    const { k } = d.w;
    d.p.copyIn(d.hva, pattern(PAGE_SIZE));
    const pipe = createPipe(k);
    drive(vmspliceToPipe(k, d.p.mm, pipe, d.hva, PAGE_SIZE, SPLICE_F_GIFT));
    const page = pipe.buffers[0]?.page ?? -1;
    drive(munmap(k, d.p.mm, d.hva, PAGE_SIZE));
    expect(moveAll(d, pipe, 0)).toBe(PAGE_SIZE);
    expect(d.file.pages.get(0)).toBe(page);
    expect(folioTestDirty(k, page)).toBe(true);
    expect(drive(writebackMapping(k, d.file))).toBe(0);
    expect(folioTestDirty(k, page)).toBe(false);
    const at = mapShared(d.p, d.file, 1);
    d.p.store8(at, 9);
    expect(contents(d)[0]).toBe(9);
    expectSound(d);
  });
});
