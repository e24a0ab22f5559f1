/**
 * read() and write() of files with a page cache. Compare mm/filemap.c:filemap_read(),
 * generic_perform_write(), fs/iomap/buffered-io.c.
 */
import { PAGE_SIZE } from '#emu';
import { folioWaitStable } from '../../cache/clean.ts';
import { downWrite, upWrite } from '../../cache/rwsem.ts';
import { EFBIG, EINVAL } from '../../errno.ts';
import { folioMarkDirty, folioOf, folioPut, folioUnlock } from '../../folio/folio.ts';
import { folioMarkAccessed } from '../../lru/batch.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { fsOfInode, inodeOfMapping, setInodeSize } from './inode.ts';
import { FILE_BYTES_MAX } from './layout.ts';
import { extentGetPage, lockPage } from './read.ts';
import { reservePage, reservePageSlow, unreservePage } from './reserve.ts';
import { zeroTail } from './size.ts';

/**
 * read(): bytes of a file from `offset` on; holes are zeroes.
 * @returns bytes read, fewer than asked for at the end of the file or before an error; with none: -EIO
 *   (the device, a checksum), -ENOMEM, -EINVAL
 */
export function* extentRead(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  into: Uint8Array,
): Path<number> {
  if (mapping.kind !== 'extent' || offset < 0) return -EINVAL;
  const inode = inodeOfMapping(mapping);
  for (let done = 0; ; ) {
    const at = offset + done;
    if (done === into.length || at >= inode.sizeBytes) return done;
    const page = yield* extentGetPage(k, mapping, Math.floor(at / PAGE_SIZE));
    // Cut off meanwhile?
    if (page === -EINVAL) return done;
    if (page < 0) return done > 0 ? done : page;
    const within = at % PAGE_SIZE;
    const left = Math.min(into.length - done, PAGE_SIZE - within, inode.sizeBytes - at);
    const n = Math.max(0, left);
    const from = k.memory.pageOffset(page) + within;
    into.set(k.memory.u8.subarray(from, from + n), done);
    const folio = folioOf(k, page);
    folioMarkAccessed(k, folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    done += n;
  }
}

/** Stores bytes of one page of a file, under i_rwsem. @returns 0 or -errno */
type WritePart = (
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  bytes: Uint8Array,
) => Path<number>;

/**
 * write() under i_rwsem, page by page, whatever the pages are. What the file has behind its end, where
 * it ends before `offset`, is zeroes first.
 * @returns bytes written, fewer before an error; with none the error, of zeroTail or of `writePart`
 */
export function* writeInPages(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  from: Uint8Array,
  writePart: WritePart,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  yield* downWrite(inode.lock);
  let error = offset > inode.sizeBytes ? yield* zeroTail(k, mapping) : 0;
  let done = 0;
  while (error === 0 && done < from.length) {
    const within = (offset + done) % PAGE_SIZE;
    const part = from.subarray(done, done + PAGE_SIZE - within);
    error = yield* writePart(k, mapping, offset + done, part);
    if (error === 0) done += part.length;
  }
  upWrite(inode.lock);
  return done > 0 ? done : error;
}

/**
 * write(): stores bytes from `offset` on, in the page cache; the file grows if it ends before. A block
 * is promised to each page.
 * @returns bytes written, fewer before an error; with none: -ENOSPC, -ENOMEM, -EIO, -EFBIG, -EINVAL
 */
export function* extentWrite(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  from: Uint8Array,
): Path<number> {
  if (mapping.kind !== 'extent' || offset < 0) return -EINVAL;
  if (offset + from.length > FILE_BYTES_MAX) return -EFBIG;
  if (from.length === 0) return 0;
  return yield* writeInPages(k, mapping, offset, from, writePart);
}

/** A part of one page, under i_rwsem. @returns 0 or -errno */
function* writePart(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  bytes: Uint8Array,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const pgoff = Math.floor(offset / PAGE_SIZE);
  // First the promise: a page that is not read since all of it is written must not be left without it.
  const early = reservePage(fs, inode, pgoff) ? 0 : yield* reservePageSlow(k, fs, inode, pgoff);
  if (early !== 0) return early;
  const page = yield* lockPage(k, mapping, pgoff, bytes.length === PAGE_SIZE);
  if (page < 0) {
    unreservePage(fs, inode, pgoff);
    return page;
  }
  const folio = folioOf(k, page);
  yield* folioWaitStable(k, folio, fs.stablePages);
  // Used up by writeback, while the lock was waited for?
  const error = reservePage(fs, inode, pgoff) ? 0 : yield* reservePageSlow(k, fs, inode, pgoff);
  if (error === 0) {
    k.memory.setBytes(k.memory.pageOffset(page) + (offset % PAGE_SIZE), bytes);
    folioMarkDirty(k, folio);
    const end = offset + bytes.length;
    if (end > inode.sizeBytes) setInodeSize(mapping, end);
  }
  folioUnlock(k, folio);
  folioPut(k, folio);
  return error;
}
