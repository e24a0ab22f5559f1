/**
 * The size of a file, in memory and in the journal. Compare fs/ext4/inode.c: i_size and i_disksize,
 * fs/xfs/xfs_aops.c:xfs_setfilesize().
 *
 * The size in the journal grows when data has reached the device, so that after a crash no file ends
 * in what was never written. The page that the old size ends in has zeroes behind it, which must be on
 * the device first: as long as that page is dirty or on its way, the size waits for it.
 */
import { readOnce, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { blockDeviceOf } from '../../block/device.ts';
import { pmemPersist } from '../../block/pmem.ts';
import { folioWaitStable } from '../../cache/clean.ts';
import { EFBIG, EINVAL } from '../../errno.ts';
import { folioMarkDirty, folioOf, folioPut, folioUnlock } from '../../folio/folio.ts';
import { PG_WRITEBACK } from '../../frames/table.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { blockAt, removeExtents } from './extents.ts';
import { inodeCredits, journalDirtyInode } from './handle.ts';
import { fsOfInode, inodeOfMapping, setInodeSize } from './inode.ts';
import { journalStart, journalStop } from './journal.ts';
import { FILE_BYTES_MAX, geometryOf } from './layout.ts';
import { lockPage } from './read.ts';
import { reservePage, reservePageSlow, unreservePage } from './reserve.ts';
import { freeBlocks } from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';

/** Has the page that the size in the journal ends in still to be written? @param except of a page that has just been */
export const tailIsPending = (k: Kernel, mapping: AddressSpace, except: number): boolean => {
  const inode = inodeOfMapping(mapping);
  if (inode.diskSizeBytes % PAGE_SIZE === 0) return false;
  const tail = Math.floor(inode.diskSizeBytes / PAGE_SIZE);
  if (tail === except) return false;
  if (inode.reserved.has(tail)) return true;
  const page = mapping.pages.get(tail);
  return page !== undefined && (readOnce(k.state.frames.flags, page) & PG_WRITEBACK) !== 0;
};

/** What the size in the journal is to be once data up to `endByte` is on the device. @param written the page that has just been, -1: none */
export const diskSizeAfter = (
  k: Kernel,
  mapping: AddressSpace,
  endByte: number,
  written: number,
): number => {
  const inode = inodeOfMapping(mapping);
  const wanted = Math.min(endByte, inode.sizeBytes);
  const stays = wanted <= inode.diskSizeBytes || tailIsPending(k, mapping, written);
  return stays ? inode.diskSizeBytes : wanted;
};

/**
 * Data up to `endByte` is on the device: the size in the journal grows, now or by the next fsync(). In
 * a handle where diskSizeAfter() says that it grows now.
 */
export const growDiskSize = (
  k: Kernel,
  fs: ExtentFs,
  mapping: AddressSpace,
  endByte: number,
  written: number,
): void => {
  const inode = inodeOfMapping(mapping);
  const size = diskSizeAfter(k, mapping, endByte, written);
  if (size <= inode.diskSizeBytes) return;
  setField(inode, 'diskSizeBytes', size);
  journalDirtyInode(fs, inode);
};

/**
 * Zeroes [startByte, endByte) of a file, which lies in one page, and the page becomes dirty; nothing
 * where the file has a hole that is not cached. The caller holds i_rwsem for writing.
 * @returns 0, -ENOSPC, -EIO, -ENOMEM. Compare fs/iomap/buffered-io.c:iomap_zero_range()
 */
export function* extentZeroRange(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const pgoff = Math.floor(startByte / PAGE_SIZE);
  const within = startByte - pgoff * PAGE_SIZE;
  if (endByte > (pgoff + 1) * PAGE_SIZE)
    throw new Error(`inode ${inode.ino}: ${startByte} to ${endByte} is more than a page`);
  const block = blockAt(inode, pgoff);
  if (mapping.kind === 'fsdax') {
    if (block >= 0) {
      const dev = blockDeviceOf(k, fs.device);
      zeroBytes(k, dev.pmemPage + block, within, endByte - startByte);
      pmemPersist(k, dev, block * PAGE_SIZE + within, endByte - startByte);
    }
    return 0;
  }
  if (block < 0 && !mapping.pages.has(pgoff)) return 0;
  const page = yield* lockPage(k, mapping, pgoff, false);
  if (page < 0) return page;
  const folio = folioOf(k, page);
  yield* folioWaitStable(k, folio, fs.stablePages);
  const error = reservePage(fs, inode, pgoff) ? 0 : yield* reservePageSlow(k, fs, inode, pgoff);
  if (error === 0) {
    zeroBytes(k, page, within, endByte - startByte);
    folioMarkDirty(k, folio);
  }
  folioUnlock(k, folio);
  folioPut(k, folio);
  return error;
}

const zeroBytes = (k: Kernel, page: number, within: number, lenBytes: number): void =>
  k.memory.setBytes(k.memory.pageOffset(page) + within, new Uint8Array(lenBytes));

/**
 * Before a file grows, or is written beyond its end: what its last page has behind the end is zeroes.
 * @returns 0, -ENOSPC, -EIO, -ENOMEM
 */
export function* zeroTail(k: Kernel, mapping: AddressSpace): Path<number> {
  const { sizeBytes } = inodeOfMapping(mapping);
  if (sizeBytes % PAGE_SIZE === 0) return 0;
  return yield* extentZeroRange(
    k,
    mapping,
    sizeBytes,
    Math.ceil(sizeBytes / PAGE_SIZE) * PAGE_SIZE,
  );
}

/** Blocks of [pgoff, pgoff + nr) go, and what was promised to pages there. In a handle. */
const freeRange = (fs: ExtentFs, inode: ExtentInode, pgoff: number, nr: number): void => {
  for (const { block, nr: length } of removeExtents(inode, pgoff, nr))
    freeBlocks(fs, block, length);
  for (const at of [...inode.reserved.keys()])
    if (at >= pgoff && at < pgoff + nr) unreservePage(fs, inode, at);
  journalDirtyInode(fs, inode);
};

/** Credits to free any of a file's blocks. */
const freeCredits = (fs: ExtentFs, inode: ExtentInode): number =>
  inodeCredits(fs, inode, 1) + geometryOf(fs.nrBlocks, fs.checksums !== null).nrBitmap;

/**
 * Sets the size of a file: its blocks beyond go, and nothing of its page cache does, which is the
 * caller's (fileTruncate()). The caller holds i_rwsem for writing.
 * @returns 0; -EINVAL; -EFBIG; where the file grows -ENOSPC and -ENOMEM, for the page that it ended in;
 *   -EIO. Compare fs/ext4/inode.c:ext4_setattr(), ext4_truncate()
 */
export function* extentSetSize(k: Kernel, mapping: AddressSpace, sizeBytes: number): Path<number> {
  if (sizeBytes < 0) return -EINVAL;
  if (sizeBytes > FILE_BYTES_MAX) return -EFBIG;
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  if (sizeBytes > inode.sizeBytes) {
    const error = yield* zeroTail(k, mapping);
    if (error !== 0) return error;
  }
  const error = yield* journalStart(k, fs, () => freeCredits(fs, inode));
  if (error !== 0) return error;
  const grows = sizeBytes > inode.sizeBytes;
  setInodeSize(mapping, sizeBytes);
  if (grows) {
    growDiskSize(k, fs, mapping, sizeBytes, -1);
  } else {
    const first = Math.ceil(sizeBytes / PAGE_SIZE);
    freeRange(fs, inode, first, FILE_BYTES_MAX / PAGE_SIZE - first);
    setField(inode, 'diskSizeBytes', Math.min(inode.diskSizeBytes, sizeBytes));
  }
  journalDirtyInode(fs, inode);
  journalStop(fs);
  return 0;
}

/**
 * The blocks of [pgoff, pgoff + nr) of a file go, and it has a hole there: a hole is punched, whose
 * pages the caller has taken out of the cache. The caller holds i_rwsem for writing.
 * @returns 0 or -EIO. Compare fs/ext4/inode.c:ext4_punch_hole()
 */
export function* extentFreeBlocks(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  nr: number,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const error = yield* journalStart(k, fs, () => freeCredits(fs, inode));
  if (error !== 0) return error;
  freeRange(fs, inode, pgoff, nr);
  journalStop(fs);
  return 0;
}
