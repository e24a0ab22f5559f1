/**
 * The extent file system as memory management meets it: promises and blocks, read() and write(), unlink,
 * no space. Compare fs/ext4/inode.c, fs/iomap/buffered-io.c.
 */
import { PAGE_SIZE } from '#emu';
import {
  drive,
  extentBlockAt,
  extentCheck,
  extentCreate,
  extentFallocate,
  extentFreeBlocks,
  extentRead,
  extentSetSize,
  extentUnlink,
  extentWrite,
  filePunchHole,
  fileTruncate,
  mappingPut,
  nrFreePages,
} from '#mm';
import { describe, expect, it } from 'vitest';
import { EFAULT, EFBIG, EINVAL, ENOENT, ENOSPC } from '../../mm/errno.ts';
import {
  contents,
  createDiskWorld,
  fileOf,
  firstBytes,
  fsync,
  inodeOf,
  pageOf,
  storeMapped,
  write,
  writeback,
  onDisk,
  dropCache,
  room,
  fillUp,
} from './extent-support.ts';

describe('delayed allocation: a block is promised when a page becomes dirty, and chosen when it is written', () => {
  it('write() promises, writeback chooses, neighbours get neighbouring blocks', () => {
    const { k, fs } = createDiskWorld();
    const free = fs.nrFree;
    const file = fileOf(k, fs, 1, 2, 3);
    const inode = inodeOf(file);
    expect(inode.extents).toEqual([]);
    expect([...inode.reserved.values()]).toEqual(['delalloc', 'delalloc', 'delalloc']);
    expect([fs.nrFree, fs.nrReserved]).toEqual([free, 3]);
    expect(writeback(k, file)).toBe(0);
    expect(inode.extents).toMatchObject([{ pgoff: 0, nr: 3, unwritten: false }]);
    expect([fs.nrFree, fs.nrReserved, inode.reserved.size]).toEqual([free - 3, 0, 0]);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('a page that has a block is promised that one, which is written over', () => {
    const { k, fs, file } = onDisk({}, 1);
    const block = extentBlockAt(inodeOf(file), 0);
    write(k, file, 10, Uint8Array.of(9));
    expect([...inodeOf(file).reserved]).toEqual([[0, 'mapped']]);
    expect(fs.nrReserved).toBe(0);
    expect(fsync(k, file)).toBe(0);
    expect(extentBlockAt(inodeOf(file), 0)).toBe(block);
  });

  it('with checksums nothing is written over: bytes and checksum change as one, at a new block', () => {
    const { k, fs, file } = onDisk({ checksums: true }, 1);
    const block = extentBlockAt(inodeOf(file), 0);
    write(k, file, 10, Uint8Array.of(9));
    expect([...inodeOf(file).reserved]).toEqual([[0, 'delalloc']]);
    expect(writeback(k, file)).toBe(0);
    expect(extentBlockAt(inodeOf(file), 0)).not.toBe(block);
    // The old one is nobody's until that is committed: a crash would bring it back.
    const free = fs.nrFree;
    expect(fsync(k, file)).toBe(0);
    expect(fs.nrFree).toBe(free + 1);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('truncation gives promises and blocks back; the blocks may be had when it is committed', () => {
    const { k, fs, file } = onDisk({}, 1, 2, 3);
    const free = fs.nrFree;
    write(k, file, 3 * PAGE_SIZE, pageOf(4));
    expect(drive(fileTruncate(k, file, PAGE_SIZE))).toBe(0);
    expect([fs.nrFree, fs.nrReserved]).toEqual([free, 0]);
    expect(fsync(k, file)).toBe(0);
    expect(fs.nrFree).toBe(free + 2);
    expect(inodeOf(file).extents).toMatchObject([{ pgoff: 0, nr: 1 }]);
  });

  it('a hole in the middle of a run leaves two runs, and reads as zeroes', () => {
    const { k, fs, file } = onDisk({}, 1, 2, 3);
    expect(drive(filePunchHole(k, file, PAGE_SIZE, 2 * PAGE_SIZE))).toBe(0);
    expect(inodeOf(file).extents.map(({ pgoff, nr }) => [pgoff, nr])).toEqual([
      [0, 1],
      [2, 1],
    ]);
    expect(firstBytes(k, file)).toEqual([1, 0, 3]);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('blocks that were allocated and never written read as zeroes, and are written without another promise', () => {
    const { k, fs, file } = onDisk({}, 1);
    expect(drive(extentFallocate(k, file, 0, 4))).toBe(0);
    expect(drive(extentSetSize(k, file, 4 * PAGE_SIZE))).toBe(0);
    expect(inodeOf(file).extents.map(({ nr, unwritten }) => [nr, unwritten])).toEqual([
      [1, false],
      [3, true],
    ]);
    expect(firstBytes(k, file)).toEqual([1, 0, 0, 0]);
    const free = fs.nrFree;
    write(k, file, 2 * PAGE_SIZE, pageOf(7));
    expect(fs.nrReserved).toBe(0);
    expect(fsync(k, file)).toBe(0);
    expect(fs.nrFree).toBe(free);
    expect(inodeOf(file).extents.map(({ nr, unwritten }) => [nr, unwritten])).toEqual([
      [1, false],
      [1, true],
      [1, false],
      [1, true],
    ]);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('a page beyond the end is not written: its promise goes back', () => {
    const { k, fs } = createDiskWorld();
    const file = fileOf(k, fs, 1, 2);
    // The size has changed, and the page has not gone yet.
    inodeOf(file).sizeBytes = PAGE_SIZE;
    expect(writeback(k, file)).toBe(0);
    expect(inodeOf(file).extents).toMatchObject([{ pgoff: 0, nr: 1 }]);
    expect(fs.nrReserved).toBe(0);
  });
});

describe('read() and write()', () => {
  it('write() makes the file longer, in bytes; a gap is a hole', () => {
    const { k, fs } = createDiskWorld();
    const file = extentCreate(k, fs);
    write(k, file, 3 * PAGE_SIZE + 5, Uint8Array.of(1, 2));
    expect(inodeOf(file).sizeBytes).toBe(3 * PAGE_SIZE + 7);
    expect(file.nrPages).toBe(4);
    const bytes = contents(k, file);
    expect([...bytes.subarray(-3)]).toEqual([0, 1, 2]);
    expect(fsync(k, file)).toBe(0);
    expect(inodeOf(file).extents).toMatchObject([{ pgoff: 3, nr: 1 }]);
  });

  it('read() ends at the end of the file, and there reads nothing', () => {
    const { k, file } = onDisk({}, 1);
    expect(drive(extentRead(k, file, PAGE_SIZE - 2, new Uint8Array(10)))).toBe(2);
    expect(drive(extentRead(k, file, PAGE_SIZE, new Uint8Array(10)))).toBe(0);
    expect(drive(extentRead(k, file, -1, new Uint8Array(10)))).toBe(-EINVAL);
    expect(drive(extentWrite(k, file, 2 ** 43, Uint8Array.of(1)))).toBe(-EFBIG);
  });

  it('a part of a page that is not cached is read first, a whole one is not', () => {
    const { k, dev, file } = onDisk({}, 1, 2);
    dropCache(k, file);
    const reads = dev.nrReads;
    write(k, file, 0, pageOf(5));
    expect(dev.nrReads).toBe(reads);
    write(k, file, PAGE_SIZE + 7, Uint8Array.of(9));
    expect(dev.nrReads).toBe(reads + 1);
    expect([...contents(k, file).subarray(PAGE_SIZE + 6, PAGE_SIZE + 9)]).toEqual([2, 9, 2]);
  });

  it('what is stored behind the end through a mapping is not seen when the file grows, nor on the device', () => {
    const { k, dev, fs } = createDiskWorld();
    const file = extentCreate(k, fs);
    write(k, file, 0, Uint8Array.of(1, 2, 3));
    expect(drive(storeMapped(k, file, 0, pageOf(9)))).toBe(0);
    expect(fsync(k, file)).toBe(0);
    expect(dev.media.get(extentBlockAt(inodeOf(file), 0))?.slice(0, 5)).toEqual(
      Uint8Array.of(9, 9, 9, 0, 0),
    );
    expect(drive(storeMapped(k, file, 0, pageOf(8)))).toBe(0);
    expect(drive(fileTruncate(k, file, 6))).toBe(0);
    expect([...contents(k, file)]).toEqual([8, 8, 8, 0, 0, 0]);
  });

  it('what was behind the end before the file was cut is not there when it grows again', () => {
    for (const grow of [true, false]) {
      const { k, file } = onDisk({}, 7);
      expect(drive(fileTruncate(k, file, 100))).toBe(0);
      expect(fsync(k, file)).toBe(0);
      dropCache(k, file);
      if (grow) expect(drive(fileTruncate(k, file, 200))).toBe(0);
      else write(k, file, 199, Uint8Array.of(0));
      expect(fsync(k, file)).toBe(0);
      dropCache(k, file);
      const bytes = contents(k, file);
      expect([bytes.length, bytes[99], ...bytes.subarray(100)]).toEqual([
        200,
        7,
        ...Array(100).fill(0),
      ]);
    }
  });
});

describe('unlink', () => {
  it('the blocks go with the last user, and may be had when that is committed', () => {
    const { k, fs, file } = onDisk({}, 1, 2);
    const other = extentCreate(k, fs);
    const free = fs.nrFree;
    expect(drive(extentUnlink(k, fs, inodeOf(file).ino))).toBe(0);
    expect(drive(extentUnlink(k, fs, inodeOf(file).ino))).toBe(-ENOENT);
    expect(firstBytes(k, file)).toEqual([1, 2]);
    drive(mappingPut(k, file));
    expect(fs.nrFree).toBe(free);
    expect(fsync(k, other)).toBe(0);
    expect(fs.nrFree).toBe(free + 2);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('pages and promises of a file that is dirty go with it', () => {
    const { k, fs } = createDiskWorld();
    const before = nrFreePages(k);
    const file = fileOf(k, fs, 1, 2, 3);
    expect(drive(extentUnlink(k, fs, inodeOf(file).ino))).toBe(0);
    drive(mappingPut(k, file));
    expect(nrFreePages(k)).toBe(before);
    expect(fs.nrReserved).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });
});

describe('no space', () => {
  it('write() is short, and then -ENOSPC; nothing that was promised is lost', () => {
    const w = createDiskWorld();
    const { k, fs } = w;
    fillUp(w, 2);
    const file = extentCreate(k, fs);
    expect(drive(extentWrite(k, file, 0, new Uint8Array(3 * PAGE_SIZE).fill(1)))).toBe(
      2 * PAGE_SIZE,
    );
    expect(drive(extentWrite(k, file, 2 * PAGE_SIZE, pageOf(1)))).toBe(-ENOSPC);
    expect(inodeOf(file).sizeBytes).toBe(2 * PAGE_SIZE);
    expect(fsync(k, file)).toBe(0);
    expect(firstBytes(k, file)).toEqual([1, 1]);
    expect(extentCheck(k, fs)).toEqual([]);
  });

  it('page_mkwrite of a hole: SIGBUS; of a page that has a block: none is needed', () => {
    const w = onDisk({}, 1);
    const { k, file } = w;
    expect(drive(extentSetSize(k, file, 2 * PAGE_SIZE))).toBe(0);
    fillUp(w, 0);
    expect(drive(storeMapped(k, file, PAGE_SIZE, Uint8Array.of(1)))).toBe(-EFAULT);
    expect(drive(storeMapped(k, file, 0, Uint8Array.of(1)))).toBe(0);
    expect(fsync(k, file)).toBe(0);
  });

  it('page_mkwrite with checksums: SIGBUS also of a page that has a block, since it needs another', () => {
    const w = onDisk({ checksums: true }, 1);
    fillUp(w, 0);
    expect(drive(storeMapped(w.k, w.file, 0, Uint8Array.of(1)))).toBe(-EFAULT);
  });

  it('blocks that wait for a commit are committed for rather than missed', () => {
    const w = createDiskWorld();
    const { k, fs } = w;
    const big = fillUp(w, 0);
    const file = extentCreate(k, fs);
    expect(drive(extentFreeBlocks(k, big, 0, 1))).toBe(0);
    expect(room(fs)).toBe(0);
    expect(drive(extentWrite(k, file, 0, pageOf(1)))).toBe(PAGE_SIZE);
    expect(fsync(k, file)).toBe(0);
    expect(extentCheck(k, fs)).toEqual([]);
  });
});
