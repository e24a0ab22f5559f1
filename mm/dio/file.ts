/**
 * read() and write() with O_DIRECT of files of the extent file system. Compare fs/iomap/direct-io.c,
 * __iomap_dio_rw(), and fs/ext4/file.c, fs/btrfs/direct-io.c around it.
 *
 * The page cache is written back before, so that a read sees what was written there; a write takes the
 * range out of it besides, before and after, so that the cache does not keep what was. Holes read as
 * zeroes. Blocks that a write chooses, and the new size, become the file's when all of it is on the
 * device: after an error nothing of them is, and what was written over has old bytes or new ones.
 *
 * Buffered instead (buffered.ts): writes of files with checksums, since nobody keeps a process from
 * changing its memory under way (btrfs since 6.15), their reads that are not of whole blocks, and writes
 * whose range cannot leave the cache. A DAX file has no cache to go past: its bytes are copied.
 */
import { blockDeviceOf } from '../block/device.ts';
import { bioAlloc, bioSubmit, bioWait } from '../block/bio.ts';
import { blockBytes } from '../block/media.ts';
import { addField, readOnce } from '#cells';
import { type Bio, BLOCK_SIZE, type BlockDevice, SECTOR_SIZE } from '../block/state.ts';
import { downRead, downReadTrylock, downWrite, upRead, upWrite } from '../cache/rwsem.ts';
import { invalidateInodePages2Range } from '../cache/truncate.ts';
import { mappingSetError, writebackMapping } from '../cache/writeback.ts';
import { EAGAIN, EBUSY, EFAULT, EFBIG, EINVAL, EIO } from '../errno.ts';
import { blockAt } from '../fs/extent/extents.ts';
import { fsOfInode, inodeOfMapping } from '../fs/extent/inode.ts';
import { FILE_BYTES_MAX } from '../fs/extent/layout.ts';
import { extentDioEnd, type ExtentMap, extentMapBlocks } from '../fs/extent/map.ts';
import { zeroTail } from '../fs/extent/size.ts';
import type { ExtentFs, ExtentInode } from '../fs/extent/state.ts';
import { extentChecksumOf } from '../fs/extent/sums.ts';
import { iovIterZero } from '../iov/copy.ts';
import {
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterReexpand,
  iovIterTruncate,
} from '../iov/iter.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel, MmStruct } from '../types.ts';
import { type Dio, dioComplete, dioCreate, dioSubmit, dioWait } from './bios.ts';
import { dioAligned } from './block.ts';
import { bufferedRead, bufferedWrite } from './buffered.ts';

/** Bytes of a run behind `offset` in the file. */
const runLeft = (run: ExtentMap, offset: number): number =>
  (run.pgoff + run.nr) * BLOCK_SIZE - offset;

/** Byte on the device of a byte in the file. */
const deviceByte = (run: ExtentMap, offset: number): number =>
  run.block * BLOCK_SIZE + offset - run.pgoff * BLOCK_SIZE;

/** The run that a byte of the file lies in, with the blocks behind it that are of interest. */
const mapAt = (
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  lenBytes: number,
  write: boolean,
): Path<ExtentMap | number> => {
  const pgoff = Math.floor(offset / BLOCK_SIZE);
  const nr = Math.ceil((offset + lenBytes) / BLOCK_SIZE) - pgoff;
  return extentMapBlocks(k, mapping, pgoff, nr, write);
};

/** Sends off everything that is to be read, with zeroes for what has no bytes yet. @returns 0 or -errno */
function* submitRead(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
  dio: Dio,
  runs: ExtentMap[],
): Path<number> {
  for (let at = offset; it.count > 0; ) {
    const run = yield* mapAt(k, mapping, at, it.count, false);
    if (typeof run === 'number') return run;
    const wanted = Math.min(runLeft(run, at), it.count);
    const empty = run.block < 0 || run.unwritten;
    if (!empty) runs.push(run);
    const n = empty
      ? yield* iovIterZero(k, mm, it, wanted)
      : yield* dioSubmit(k, mm, dio, deviceByte(run, at), it, wanted);
    if (n < 0) return n;
    if (n === 0 || (empty && n < wanted)) return -EFAULT;
    at += n;
  }
  return 0;
}

const ZEROES = new Uint8Array(BLOCK_SIZE);

/** Is what the device had in a run's blocks what was written there? Counts where not. @returns 0 or -EIO */
const checkRun = (k: Kernel, fs: ExtentFs, dev: BlockDevice, { block, nr }: ExtentMap): number => {
  if (fs.checksums === null) return 0;
  let error = 0;
  for (let at = block; at < block + nr; at++) {
    const sum = readOnce(fs.checksums, at);
    if (sum === 0 || sum === extentChecksumOf(blockBytes(k, dev, at) ?? ZEROES)) continue;
    addField(fs, 'checksumErrors', 1);
    error = -EIO;
  }
  return error;
};

/**
 * Are blocks of a run no more those of the file? Where nothing is written over, a page that was dirtied
 * through a mapping meanwhile has another block, and this one may be anybody's.
 */
const hasMoved = (inode: ExtentInode, { pgoff, block, nr }: ExtentMap): boolean => {
  for (let i = 0; i < nr; i++) if (blockAt(inode, pgoff + i) !== block + i) return true;
  return false;
};

/** The read itself, under i_rwsem. @returns bytes or -errno; -EAGAIN: the file has moved away under it */
function* directRead(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const size = inode.sizeBytes;
  const count = it.count;
  if (offset >= size) return 0;
  const flushed = yield* writebackMapping(k, mapping, offset, offset + count);
  if (flushed < 0) return flushed;
  iovIterTruncate(it, Math.ceil((size - offset) / SECTOR_SIZE) * SECTOR_SIZE);
  const taken = it.count;
  const dio = dioCreate(k, blockDeviceOf(k, fs.device), it);
  const runs: ExtentMap[] = [];
  dio.error = yield* submitRead(k, mm, mapping, offset, it, dio, runs);
  yield* dioWait(k, dio);
  for (const run of runs) {
    if (dio.error === 0 && hasMoved(inode, run)) dio.error = -EAGAIN;
    if (dio.error === 0) dio.error = checkRun(k, fs, dio.dev, run);
  }
  const n = dioComplete(dio, it, taken, Math.min(taken, size - offset));
  iovIterReexpand(it, count - Math.max(0, n));
  return n;
}

/** Zeroes for what a write leaves of its first and its last block, where nobody has ever written there. */
const padBlocks = (
  k: Kernel,
  dio: Dio,
  run: ExtentMap,
  offset: number,
  endByte: number,
  pads: Bio[],
): void => {
  if (!run.fresh && !run.unwritten) return;
  const pad = (from: number, to: number): void => {
    if (from >= to) return;
    const vec = [{ page: k.state.zeroPage, offset: 0, lenBytes: to - from }];
    const bio = bioAlloc('write', deviceByte(run, from), vec);
    bioSubmit(k, dio.dev, bio);
    pads.push(bio);
  };
  pad(offset - (offset % BLOCK_SIZE), offset);
  pad(endByte, Math.ceil(endByte / BLOCK_SIZE) * BLOCK_SIZE);
};

/** What a write has under way. */
interface WriteState {
  dio: Dio;
  runs: ExtentMap[];
  /** Zeroes around it. */
  pads: Bio[];
}

/** Sends off everything that is to be written. @returns 0 or -errno */
function* submitWrite(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
  { dio, runs, pads }: WriteState,
): Path<number> {
  for (let at = offset; it.count > 0; ) {
    const run = yield* mapAt(k, mapping, at, it.count, true);
    if (typeof run === 'number') return run;
    runs.push(run);
    const end = at + Math.min(runLeft(run, at), it.count);
    while (at < end) {
      const n = yield* dioSubmit(k, mm, dio, deviceByte(run, at), it, end - at);
      if (n < 0) return n;
      if (n === 0) return -EFAULT;
      at += n;
    }
    const first = Math.max(offset, run.pgoff * BLOCK_SIZE);
    padBlocks(k, dio, run, first, end, pads);
  }
  return 0;
}

/** The write itself, under i_rwsem, with the range out of the page cache. @returns bytes or -errno */
function* directWrite(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const dio = dioCreate(k, blockDeviceOf(k, fsOfInode(k, inode).device), it);
  const state: WriteState = { dio, runs: [], pads: [] };
  const taken = it.count;
  const end = offset + taken;
  dio.error = yield* submitWrite(k, mm, mapping, offset, it, state);
  yield* dioWait(k, dio);
  for (const bio of state.pads) {
    const status = yield* bioWait(k, dio.dev, bio);
    if (dio.error === 0) dio.error = status;
  }
  for (const run of state.runs) {
    const runEnd = Math.min(end, (run.pgoff + run.nr) * BLOCK_SIZE);
    const error = yield* extentDioEnd(k, mapping, run, runEnd, dio.error);
    if (dio.error === 0) dio.error = error;
  }
  return dioComplete(dio, it, taken, taken);
}

/** May a write share the file with others: whole blocks, and the size stays? */
const mayShare = (mapping: AddressSpace, offset: number, lenBytes: number): boolean =>
  offset % BLOCK_SIZE === 0 &&
  lenBytes % BLOCK_SIZE === 0 &&
  offset + lenBytes <= inodeOfMapping(mapping).sizeBytes;

/** i_rwsem, for reading if the write may share the file. @returns was it taken for reading? */
function* lockForWrite(mapping: AddressSpace, offset: number, lenBytes: number): Path<boolean> {
  const { lock } = inodeOfMapping(mapping);
  if (mayShare(mapping, offset, lenBytes)) {
    yield* downRead(lock);
    // The file may have become shorter while the lock was waited for.
    if (mayShare(mapping, offset, lenBytes)) return true;
    upRead(lock);
  }
  yield* downWrite(lock);
  return false;
}

/** Takes the range out of the page cache. @returns 0; -EBUSY: not all of it */
function* invalidate(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  endByte: number,
): Path<number> {
  if (mapping.pages.size === 0) return 0;
  const first = Math.floor(offset / BLOCK_SIZE);
  return yield* invalidateInodePages2Range(k, mapping, first, Math.ceil(endByte / BLOCK_SIZE));
}

/** The same, written back before. @returns 0; -EBUSY it is not all out; -EIO, -ENOSPC */
function* leaveCache(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  endByte: number,
): Path<number> {
  if (mapping.pages.size === 0) return 0;
  const error = yield* writebackMapping(k, mapping, offset, endByte);
  return error < 0 ? error : yield* invalidate(k, mapping, offset, endByte);
}

/**
 * read() with O_DIRECT: bytes of the file from `offset` on, into the iterator, which goes on by what was
 * read. What the last sector has behind the end of the file is read as well, and not counted.
 * @param mm of a user-backed iterator
 * @returns bytes, fewer at the end of the file; -EINVAL not of whole sectors, or such a file cannot;
 *   -EIO; -EFAULT and what else GUP returns. After an error every byte of memory is as before or read
 */
export function* fileDirectRead(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_DEST) return -EINVAL;
  if (mapping.kind === 'fsdax') return yield* bufferedRead(k, mm, mapping, offset, it);
  if (mapping.kind !== 'extent' || !dioAligned(offset, it)) return -EINVAL;
  if (it.count === 0) return 0;
  const inode = inodeOfMapping(mapping);
  const whole = offset % BLOCK_SIZE === 0 && it.count % BLOCK_SIZE === 0;
  if (fsOfInode(k, inode).checksums !== null && !whole)
    return yield* bufferedRead(k, mm, mapping, offset, it);
  if (!downReadTrylock(inode.lock)) yield* downRead(inode.lock);
  const n = yield* directRead(k, mm, mapping, offset, it);
  upRead(inode.lock);
  return n === -EAGAIN ? yield* bufferedRead(k, mm, mapping, offset, it) : n;
}

/**
 * write() with O_DIRECT: the iterator's bytes, to the file from `offset` on; it grows if it ends before.
 * @returns bytes; -EINVAL as fileDirectRead; -EFBIG; -EIO, -ENOSPC, -EFAULT and what else GUP returns.
 *   After an error the size is as before, and every byte of the file is old or new
 */
export function* fileDirectWrite(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_SOURCE) return -EINVAL;
  if (mapping.kind === 'fsdax') return yield* bufferedWrite(k, mm, mapping, offset, it);
  if (mapping.kind !== 'extent' || !dioAligned(offset, it)) return -EINVAL;
  if (it.count === 0) return 0;
  const end = offset + it.count;
  if (end > FILE_BYTES_MAX) return -EFBIG;
  const inode = inodeOfMapping(mapping);
  if (fsOfInode(k, inode).checksums !== null)
    return yield* bufferedWrite(k, mm, mapping, offset, it);
  const shared = yield* lockForWrite(mapping, offset, it.count);
  const unlock = (): void => (shared ? upRead(inode.lock) : upWrite(inode.lock));
  let error = offset > inode.sizeBytes ? yield* zeroTail(k, mapping) : 0;
  if (error === 0) error = yield* leaveCache(k, mapping, offset, end);
  if (error < 0) {
    unlock();
    // What does not leave the cache is written by way of it.
    return error === -EBUSY ? yield* bufferedWrite(k, mm, mapping, offset, it) : error;
  }
  const n = yield* directWrite(k, mm, mapping, offset, it);
  // Somebody may have read the old bytes into the cache meanwhile.
  if (n > 0 && (yield* invalidate(k, mapping, offset, end)) < 0) mappingSetError(mapping, -EIO);
  unlock();
  return n;
}
