/**
 * Direct I/O of block devices. Compare block/fops.c, blkdev_direct_IO().
 *
 * Everything begins and ends at multiples of 512 bytes, in memory and on the device. What fits into one
 * bio and meets memory that is not there is cut short; what takes more than one is an error then, though
 * the bios that were sent off are done.
 */
import { BLOCK_SIZE, type BlockDevice, SECTOR_SIZE } from '../block/state.ts';
import { EINVAL, ENOSPC } from '../errno.ts';
import {
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterIsAligned,
  iovIterNpages,
  iovIterReexpand,
  iovIterTruncate,
} from '../iov/iter.ts';
import type { Path } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { BIO_MAX_PAGES, dioComplete, dioCreate, dioSubmit, dioWait } from './bios.ts';

/** Nothing is done where anything is not of whole sectors. */
export const dioAligned = (offset: number, it: IovIter): boolean =>
  offset % SECTOR_SIZE === 0 && iovIterIsAligned(it, SECTOR_SIZE);

/** @returns bytes moved, or the error. The iterator goes on by what was moved */
function* direct(
  k: Kernel,
  mm: MmStruct | null,
  dev: BlockDevice,
  offset: number,
  it: IovIter,
): Path<number> {
  const count = it.count;
  const oneBio = iovIterNpages(it, BIO_MAX_PAGES + 1) <= BIO_MAX_PAGES;
  const dio = dioCreate(k, dev, it);
  let sent = 0;
  while (it.count > 0) {
    const n = yield* dioSubmit(k, mm, dio, offset + sent, it, it.count);
    if (n <= 0) {
      if (!oneBio || sent === 0) dio.error = n;
      break;
    }
    sent += n;
  }
  yield* dioWait(k, dio);
  return dioComplete(dio, it, count, dio.sizeBytes);
}

function* withinDevice(
  k: Kernel,
  mm: MmStruct | null,
  dev: BlockDevice,
  offset: number,
  it: IovIter,
): Path<number> {
  const count = it.count;
  if (count === 0) return 0;
  iovIterTruncate(it, dev.nrBlocks * BLOCK_SIZE - offset);
  const shorted = count - it.count;
  const n = dioAligned(offset, it) ? yield* direct(k, mm, dev, offset, it) : -EINVAL;
  iovIterReexpand(it, it.count + shorted);
  return n;
}

/**
 * read() of a block device with O_DIRECT, into the iterator, which goes on by what was read.
 * @param offset byte on the device
 * @param mm of a user-backed iterator
 * @returns bytes, fewer at the end of the device; -EINVAL not of whole sectors; -EIO; -EFAULT and what
 *   else GUP returns
 */
export function* blockDirectRead(
  k: Kernel,
  mm: MmStruct | null,
  dev: BlockDevice,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_DEST) return -EINVAL;
  if (offset >= dev.nrBlocks * BLOCK_SIZE) return 0;
  return yield* withinDevice(k, mm, dev, offset, it);
}

/** write() of a block device with O_DIRECT. @returns as blockDirectRead; -ENOSPC beyond the end of the device */
export function* blockDirectWrite(
  k: Kernel,
  mm: MmStruct | null,
  dev: BlockDevice,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_SOURCE) return -EINVAL;
  if (it.count > 0 && offset >= dev.nrBlocks * BLOCK_SIZE) return -ENOSPC;
  return yield* withinDevice(k, mm, dev, offset, it);
}
