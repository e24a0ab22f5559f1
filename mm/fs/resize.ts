/**
 * Truncation of files on a device, and holes in them: first the pages, then the blocks behind them, so
 * that nobody finds a page whose block is somebody else's. Compare fs/ext4/inode.c:ext4_setattr() and
 * ext4_punch_hole(), mm/truncate.c:truncate_setsize().
 *
 * i_rwsem keeps other writers out, invalidate_lock keeps pages from coming back meanwhile. Nobody waits
 * for pins: whoever holds a page keeps a frame without a file. Only of DAX, where the frame is the block,
 * the blocks are free when nobody holds them (dax/layout.ts).
 */
import { PAGE_SIZE } from '#emu';
import { downWrite, upWrite } from '../cache/rwsem.ts';
import { truncateInodePagesRange, zeroEnds } from '../cache/truncate.ts';
import { unmapMappingRange } from '../cache/unmap.ts';
import { type Path, YP_TRUNCATE_UNMAPPED } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { daxBreakLayouts } from './dax/layout.ts';
import { inodeOfMapping, setInodeSize } from './extent/inode.ts';
import { extentFallocate } from './extent/map.ts';
import { extentFreeBlocks, extentSetSize, extentZeroRange } from './extent/size.ts';

const roundUp = (bytes: number): number => Math.ceil(bytes / PAGE_SIZE) * PAGE_SIZE;

/** Pages behind `sizeBytes` go, private copies with them. The size is less than it was. @returns 0 or -errno */
function* shrink(k: Kernel, mapping: AddressSpace, sizeBytes: number): Path<number> {
  // What the last page has behind the end is zeroes on the device too, before it can be read again.
  const zeroed =
    sizeBytes % PAGE_SIZE === 0
      ? 0
      : yield* extentZeroRange(k, mapping, sizeBytes, roundUp(sizeBytes));
  if (zeroed !== 0) return zeroed;
  // First the size: whoever faults from now on finds the new end.
  setInodeSize(mapping, sizeBytes);
  const { nrPages } = mapping;
  yield* unmapMappingRange(k, mapping, nrPages, Number.POSITIVE_INFINITY, true);
  if (k.watched) yield YP_TRUNCATE_UNMAPPED;
  yield* truncateInodePagesRange(k, mapping, sizeBytes, Number.POSITIVE_INFINITY);
  // Private copies of pages that were found before, and mapped since.
  yield* unmapMappingRange(k, mapping, nrPages, Number.POSITIVE_INFINITY, true);
  return yield* extentSetSize(k, mapping, sizeBytes);
}

/** ftruncate(). @returns 0, -EFBIG, -ENOSPC, -ENOMEM, -EIO; -EINTR while it waited for pages of a DAX file */
export function* resizeFile(k: Kernel, mapping: AddressSpace, sizeBytes: number): Path<number> {
  const inode = inodeOfMapping(mapping);
  yield* downWrite(inode.lock);
  yield* downWrite(mapping.invalidateLock);
  const shorter = sizeBytes < inode.sizeBytes;
  let error = 0;
  if (shorter && mapping.dax !== null)
    error = yield* daxBreakLayouts(k, mapping, sizeBytes, Number.POSITIVE_INFINITY);
  if (error === 0)
    error = shorter
      ? yield* shrink(k, mapping, sizeBytes)
      : yield* extentSetSize(k, mapping, sizeBytes);
  upWrite(mapping.invalidateLock);
  upWrite(inode.lock);
  return error;
}

function* punchLocked(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const error = yield* zeroEnds(k, mapping, PAGE_SIZE, startByte, endByte, extentZeroRange);
  if (error !== 0) return error;
  const first = Math.ceil(startByte / PAGE_SIZE);
  const nr = Math.floor(endByte / PAGE_SIZE) - first;
  if (nr <= 0) return 0;
  yield* unmapMappingRange(k, mapping, first, nr, false);
  if (k.watched) yield YP_TRUNCATE_UNMAPPED;
  yield* truncateInodePagesRange(k, mapping, first * PAGE_SIZE, (first + nr) * PAGE_SIZE);
  return yield* extentFreeBlocks(k, mapping, first, nr);
}

/** A hole; with `allocate` its whole pages get blocks again, which have never been written. */
function* punchOrZero(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
  allocate: boolean,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  yield* downWrite(inode.lock);
  // The page that the file ends in goes as a whole where all that the file has of it is meant.
  const { sizeBytes } = inode;
  const end = endByte >= sizeBytes ? roundUp(sizeBytes) : endByte;
  yield* downWrite(mapping.invalidateLock);
  let error = 0;
  if (startByte < end && mapping.dax !== null)
    error = yield* daxBreakLayouts(k, mapping, startByte, end);
  if (startByte < end && error === 0) error = yield* punchLocked(k, mapping, startByte, end);
  const first = Math.ceil(startByte / PAGE_SIZE);
  const nr = Math.floor(end / PAGE_SIZE) - first;
  if (allocate && nr > 0 && error === 0) error = yield* extentFallocate(k, mapping, first, nr);
  upWrite(mapping.invalidateLock);
  upWrite(inode.lock);
  return error;
}

/** fallocate(FALLOC_FL_PUNCH_HOLE). @returns 0, -ENOSPC, -ENOMEM, -EIO, -EINTR as resizeFile */
export const punchFile = (
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> => punchOrZero(k, mapping, startByte, endByte, false);

/** fallocate(FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE). @returns as punchFile */
export const zeroFile = (
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> => punchOrZero(k, mapping, startByte, endByte, true);
