/**
 * read() and write() of DAX files: bytes go to and from the blocks, with no page cache between. Compare
 * fs/dax.c:dax_iomap_rw(), fs/ext4/file.c:ext4_dax_write_iter().
 *
 * What write() stores goes past the caches of CPUs, so it is durable with the metadata. Other processes
 * see it at once: it is the memory that they map.
 */
import { PAGE_SIZE } from '#emu';
import { downRead, downReadTrylock, upRead } from '../../cache/rwsem.ts';
import { unmapMappingRange } from '../../cache/unmap.ts';
import { EFBIG, EINVAL, ENOENT } from '../../errno.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { writeInPages } from '../extent/file.ts';
import { inodeOfMapping } from '../extent/inode.ts';
import { FILE_BYTES_MAX } from '../extent/layout.ts';
import { extentDioEnd } from '../extent/map.ts';
import { daxMapPage, persistPage, pmemOf } from './blocks.ts';
import { daxOf, deleteEntry, lockEntry, unlockEntry } from './entries.ts';

/**
 * Reads from `offset` on; holes are zeroes.
 * @returns bytes read, fewer than asked for at the end of the file; -EINVAL
 */
export function* daxRead(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  into: Uint8Array,
): Path<number> {
  if (offset < 0) return -EINVAL;
  const inode = inodeOfMapping(mapping);
  // Against truncation: the block must not be another file's when its bytes are read.
  if (!downReadTrylock(inode.lock)) yield* downRead(inode.lock);
  const end = Math.min(into.length, Math.max(0, inode.sizeBytes - offset));
  let done = 0;
  while (done < end) {
    const within = (offset + done) % PAGE_SIZE;
    const n = Math.min(end - done, PAGE_SIZE - within);
    const page = yield* daxMapPage(k, mapping, Math.floor((offset + done) / PAGE_SIZE), false);
    if (page === -ENOENT) into.fill(0, done, done + n);
    if (page < 0 && page !== -ENOENT) break;
    const from = k.memory.pageOffset(page) + within;
    if (page >= 0) into.set(k.memory.u8.subarray(from, from + n), done);
    done += n;
  }
  upRead(inode.lock);
  return done;
}

/**
 * Writes from `offset` on; the file grows if it ends before.
 * @returns bytes written, fewer before an error; with none: -ENOSPC, -EIO, -EFBIG, -EINVAL
 */
export function* daxWrite(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  from: Uint8Array,
): Path<number> {
  if (offset < 0) return -EINVAL;
  if (offset + from.length > FILE_BYTES_MAX) return -EFBIG;
  return yield* writeInPages(k, mapping, offset, from, writePart);
}

/** A part of one page, under i_rwsem. @returns 0 or -errno */
function* writePart(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  bytes: Uint8Array,
): Path<number> {
  const pgoff = Math.floor(offset / PAGE_SIZE);
  yield* lockEntry(mapping, pgoff);
  const error = yield* writeEntry(k, mapping, pgoff, offset, bytes);
  unlockEntry(mapping, pgoff);
  return error;
}

function* writeEntry(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  offset: number,
  bytes: Uint8Array,
): Path<number> {
  const page = yield* daxMapPage(k, mapping, pgoff, true);
  if (page < 0) return page;
  // Whoever has read the hole has to find the block there from now on.
  if (daxOf(mapping).entries.get(pgoff) === k.state.zeroPage) {
    yield* unmapMappingRange(k, mapping, pgoff, 1, false);
    deleteEntry(k, mapping, pgoff);
  }
  const dev = pmemOf(k, mapping);
  const within = offset % PAGE_SIZE;
  k.memory.setBytes(k.memory.pageOffset(page) + within, bytes);
  persistPage(k, dev, page, within, bytes.length);
  const end = offset + bytes.length;
  if (end <= inodeOfMapping(mapping).sizeBytes) return 0;
  const run = { pgoff, block: page - dev.pmemPage, nr: 1, unwritten: false, fresh: false };
  return yield* extentDioEnd(k, mapping, run, end, 0);
}
