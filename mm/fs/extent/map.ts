/**
 * Blocks of a file for whoever goes past its page cache: direct I/O, DAX. Compare fs/iomap/iter.c,
 * fs/iomap/direct-io.c:iomap_dio_complete(), fs/ext4/inode.c:ext4_iomap_begin().
 *
 * Blocks that are to be written and were none of the file's become so when the write has ended:
 * extentDioEnd(). Whoever asked for them calls it whatever happened.
 */
import { PAGE_SIZE } from '#emu';
import { blockDeviceOf } from '../../block/device.ts';
import { blockBytes } from '../../block/media.ts';
import { BLOCK_SIZE } from '../../block/state.ts';
import { EIO, ENOSPC } from '../../errno.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { extentAt, goalFor, holeLength, insertExtent, removeExtents } from './extents.ts';
import { inodeCredits, journalDirtyInode } from './handle.ts';
import { fsOfInode, inodeOfMapping, setInodeSize } from './inode.ts';
import { journalStart, journalStop } from './journal.ts';
import { geometryOf, WORDS_PER_BLOCK } from './layout.ts';
import { commitFreesBlocks, commitToFreeBlocks } from './reserve.ts';
import { growDiskSize } from './size.ts';
import { freeBlocks, returnBlocks, takeBlocks, useBlocks } from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';
import { extentChecksumOf, setChecksum } from './sums.ts';

/** A run of pages of a file and where it is on the device. Compare struct iomap. */
export interface ExtentMap {
  pgoff: number;
  /** First block; -1: a hole, which reads as zeroes. */
  block: number;
  nr: number;
  /** The blocks have never been written: they read as zeroes, and what is not written of them has to be zeroed. */
  unwritten: boolean;
  /** Chosen for this write, and not the file's before extentDioEnd(): as unwritten. */
  fresh: boolean;
}

/**
 * Where a run of pages is, from `pgoff` on and `nr` long at most. For writing, holes get blocks, and
 * with checksums so does everything: nothing is written over.
 * @returns the run, one page at least; -ENOSPC, -EIO
 */
export function* extentMapBlocks(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  nr: number,
  write: boolean,
): Path<ExtentMap | number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  for (;;) {
    if (fs.journal.aborted && write) return -EIO;
    const extent = extentAt(inode, pgoff);
    if (extent !== undefined && !(write && fs.checksums !== null)) {
      const within = pgoff - extent.pgoff;
      const length = Math.min(nr, extent.nr - within);
      const { unwritten } = extent;
      return { pgoff, block: extent.block + within, nr: length, unwritten, fresh: false };
    }
    const length = extent === undefined ? holeLength(inode, pgoff, nr) : nr;
    if (!write) return { pgoff, block: -1, nr: length, unwritten: false, fresh: false };
    const taken = takeBlocks(fs, goalFor(inode, pgoff), length);
    if (taken.nr > 0) return { pgoff, ...taken, unwritten: false, fresh: true };
    if (!commitFreesBlocks(fs)) return -ENOSPC;
    yield* commitToFreeBlocks(k, fs);
  }
}

/** The checksum of each block of a run as the device has it. */
const sumsOnDevice = (k: Kernel, fs: ExtentFs, { block, nr }: ExtentMap): Int32Array => {
  const dev = blockDeviceOf(k, fs.device);
  const zeroes = new Uint8Array(BLOCK_SIZE);
  return Int32Array.from({ length: nr }, (_, i) =>
    extentChecksumOf(blockBytes(k, dev, block + i) ?? zeroes),
  );
};

/** The blocks of a run are the file's, written, in place of what it had there. In a handle. */
const adoptRun = (fs: ExtentFs, inode: ExtentInode, run: ExtentMap): void => {
  const { pgoff, block, nr, fresh } = run;
  for (const old of removeExtents(inode, pgoff, nr)) if (fresh) freeBlocks(fs, old.block, old.nr);
  insertExtent(inode, { pgoff, block, nr, unwritten: false });
  if (fresh) useBlocks(fs, block, nr);
  journalDirtyInode(fs, inode);
};

/**
 * A write to a run of extentMapBlocks() has ended.
 * @param endByte of the file that it ended at, which may be beyond its end; with i_rwsem held for
 *   writing then
 * @param status 0, or the error that it ended with: nothing of the run becomes the file's
 * @param sums checksums of what was sent, one for each block of the run; null: of what the device has
 * @returns 0; the status; -EIO where the journal fails. Compare iomap_dio_complete(), ext4_dio_write_end_io()
 */
export function* extentDioEnd(
  k: Kernel,
  mapping: AddressSpace,
  run: ExtentMap,
  endByte: number,
  status: number,
  sums: Int32Array | null = null,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  let error = status;
  if (error === 0) {
    const { nrBitmap } = geometryOf(fs.nrBlocks, fs.checksums !== null);
    const nrSums = fs.checksums === null ? 0 : 1 + Math.ceil(run.nr / WORDS_PER_BLOCK);
    error = yield* journalStart(k, fs, () => inodeCredits(fs, inode, 2) + nrBitmap + nrSums);
  }
  if (error !== 0) {
    if (run.fresh) returnBlocks(fs, run.block, run.nr);
    return error;
  }
  if (run.fresh || run.unwritten) adoptRun(fs, inode, run);
  if (fs.checksums !== null) {
    const found = sums ?? sumsOnDevice(k, fs, run);
    for (let i = 0; i < run.nr; i++) setChecksum(fs, run.block + i, found[i]!);
  }
  if (endByte > inode.sizeBytes) setInodeSize(mapping, endByte);
  growDiskSize(k, fs, mapping, Math.min(endByte, (run.pgoff + run.nr) * PAGE_SIZE), -1);
  journalStop(fs);
  return 0;
}

/**
 * Blocks for the holes of [pgoff, pgoff + nr), which read as zeroes until they are written. The caller
 * holds i_rwsem for writing; the size stays.
 * @returns 0; -ENOSPC with some of them allocated; -EIO. Compare fs/ext4/extents.c:ext4_fallocate()
 */
export function* extentFallocate(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  nr: number,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  for (let at = pgoff; at < pgoff + nr; ) {
    const extent = extentAt(inode, at);
    if (extent !== undefined) {
      at = extent.pgoff + extent.nr;
      continue;
    }
    const hole = holeLength(inode, at, pgoff + nr - at);
    const { nrBitmap } = geometryOf(fs.nrBlocks, fs.checksums !== null);
    const error = yield* journalStart(k, fs, () => inodeCredits(fs, inode, 1) + nrBitmap);
    if (error !== 0) return error;
    const taken = takeBlocks(fs, goalFor(inode, at), hole);
    if (taken.nr > 0) {
      insertExtent(inode, { pgoff: at, ...taken, unwritten: true });
      useBlocks(fs, taken.block, taken.nr);
      journalDirtyInode(fs, inode);
    }
    journalStop(fs);
    if (taken.nr === 0 && !commitFreesBlocks(fs)) return -ENOSPC;
    if (taken.nr === 0) yield* commitToFreeBlocks(k, fs);
    at += taken.nr;
  }
  return 0;
}
