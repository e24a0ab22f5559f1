/** fallocate(FALLOC_FL_ZERO_RANGE) of files on a device: zeroes that are not written, blocks that stay (ext4_zero_range()). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '#emu';
import {
  drive,
  EINVAL,
  ENOSPC,
  extentCheck,
  fileTruncate,
  fileZeroRange,
  MAP_SHARED,
  mmap,
  shmemCreate,
} from '#mm';
import { contents, fillUp, firstBytes, fsync, inodeOf, onDisk } from './extent-support.ts';
import { createProcess, RW, settled } from './support.ts';

describe('fileZeroRange()', () => {
  it('whole pages get blocks that were never written, of others the part is zeroed', () => {
    const w = onDisk({}, 1, 2, 3, 4);
    expect(drive(fileZeroRange(w.k, w.file, PAGE_SIZE - 100, 3 * PAGE_SIZE + 50))).toBe(0);
    expect(
      inodeOf(w.file).extents.map(({ pgoff, nr, unwritten }) => [pgoff, nr, unwritten]),
    ).toEqual([
      [0, 1, false],
      [1, 2, true],
      [3, 1, false],
    ]);
    const bytes = contents(w.k, w.file);
    const first = bytes.indexOf(0);
    expect([first, bytes.findIndex((byte, i) => i > first && byte !== 0)]).toEqual([
      PAGE_SIZE - 100,
      3 * PAGE_SIZE + 50,
    ]);
    expect(fsync(w.k, w.file)).toBe(0);
    expect(extentCheck(w.k, w.fs)).toEqual([]);
    settled(w);
  });

  it('holes get blocks too, and the size stays', () => {
    const w = onDisk({}, 1);
    const { sizeBytes } = inodeOf(w.file);
    expect(drive(fileZeroRange(w.k, w.file, 0, 4 * PAGE_SIZE))).toBe(0);
    expect(inodeOf(w.file).sizeBytes).toBe(sizeBytes);
    expect(firstBytes(w.k, w.file)).toEqual([0]);
  });

  it('who has the pages mapped reads zeroes, and what he stores then is written', () => {
    const w = onDisk({}, 1, 2);
    const p = createProcess(w);
    const hva = drive(
      mmap(w.k, p.mm, { lenBytes: 2 * PAGE_SIZE, prot: RW, flags: MAP_SHARED, mapping: w.file }),
    );
    p.store32(hva + PAGE_SIZE, 7);
    expect(drive(fileZeroRange(w.k, w.file, 0, 2 * PAGE_SIZE))).toBe(0);
    expect([p.load32(hva), p.load32(hva + PAGE_SIZE)]).toEqual([0, 0]);
    p.store32(hva, 9);
    expect(fsync(w.k, w.file)).toBe(0);
    expect(firstBytes(w.k, w.file)).toEqual([9, 0]);
    settled(w);
  });

  it('a range that cannot be, and files in memory, are refused', () => {
    const { k, file } = onDisk({}, 1);
    expect(drive(fileZeroRange(k, file, 5, 5))).toBe(-EINVAL);
    expect(drive(fileZeroRange(k, file, -1, 5))).toBe(-EINVAL);
    expect(drive(fileZeroRange(k, shmemCreate(k, 1), 0, PAGE_SIZE))).toBe(-EINVAL);
  });

  it('-ENOSPC where there is no room for the blocks of holes; what had blocks keeps them', () => {
    const w = onDisk({}, 1);
    drive(fileTruncate(w.k, w.file, 8 * PAGE_SIZE));
    fillUp(w, 2);
    expect(drive(fileZeroRange(w.k, w.file, PAGE_SIZE, 8 * PAGE_SIZE))).toBe(-ENOSPC);
    expect(drive(fileZeroRange(w.k, w.file, 0, PAGE_SIZE))).toBe(0);
    expect(extentCheck(w.k, w.fs)).toEqual([]);
  });
});
