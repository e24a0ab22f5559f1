/**
 * Pages of a file come from the device into the page cache. Compare mm/filemap.c:filemap_fault(),
 * fs/iomap/buffered-io.c:iomap_read_folio(), fs/btrfs/extent_io.c.
 *
 * A folio is locked from when it is in the cache until its bytes are there, and taken out again if they
 * cannot be had: whoever finds one unlocked finds it up to date. One page at a time, nothing is read ahead.
 */
import { PAGE_SIZE } from '#emu';
import { bioAlloc, bioSubmit, bioWait } from '../../block/bio.ts';
import { blockDeviceOf } from '../../block/device.ts';
import { BLOCK_SIZE } from '../../block/state.ts';
import { filemapRemoveFolio } from '../../cache/remove.ts';
import { downRead, downReadTrylock, upRead } from '../../cache/rwsem.ts';
import { EINVAL, ENOENT } from '../../errno.ts';
import {
  folioAlloc,
  folioClearFlags,
  folioPut,
  folioSetFlags,
  folioUnlock,
} from '../../folio/folio.ts';
import { folioAddLru } from '../../lru/batch.ts';
import { GFP_MOVABLE } from '../../frames/buddy.ts';
import { PG_UPTODATE } from '../../frames/table.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { mappingAddFolio, mappingLockPage } from '../mapping.ts';
import { extentAt } from './extents.ts';
import { fsOfInode, inodeOfMapping } from './inode.ts';
import { checkBlock } from './sums.ts';
import type { ExtentFs } from './state.ts';

/** Zeroes what a page has beyond the end of its file. */
export const zeroBeyondEnd = (k: Kernel, page: number, pgoff: number, sizeBytes: number): void => {
  const within = sizeBytes - pgoff * PAGE_SIZE;
  if (within >= PAGE_SIZE) return;
  if (within <= 0) k.memory.zeroPage(page);
  else k.memory.setBytes(k.memory.pageOffset(page) + within, ZEROES.subarray(within));
};

const ZEROES = new Uint8Array(PAGE_SIZE);

/** Reads a block into a page. @returns 0 or -EIO */
function* readBlock(k: Kernel, fs: ExtentFs, block: number, page: number): Path<number> {
  const dev = blockDeviceOf(k, fs.device);
  const bio = bioAlloc('read', block * BLOCK_SIZE, [{ page, offset: 0, lenBytes: PAGE_SIZE }]);
  bioSubmit(k, dev, bio);
  const status = yield* bioWait(k, dev, bio);
  return status !== 0 ? status : checkBlock(k, fs, block, page);
}

/**
 * The page at an offset, in the cache or put there.
 * @param overwrite all of it is about to be written: what is on the device is not read
 * @returns the page, locked and with a reference; -ENOMEM, -EIO
 */
export function* lockPage(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  overwrite: boolean,
): Path<number> {
  for (;;) {
    const page = yield* mappingLockPage(k, mapping, pgoff);
    if (page !== -ENOENT) return page;
    const folio = folioAlloc(k, GFP_MOVABLE);
    if (folio < 0) return folio;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    if (mapping.pages.has(pgoff)) {
      folioPut(k, folio);
      continue;
    }
    mappingAddFolio(k, mapping, pgoff, folio, 0);
    folioClearFlags(k, folio, PG_UPTODATE);
    folioAddLru(k, folio);
    const error = yield* fillPage(k, mapping, pgoff, folio, overwrite);
    if (error === 0) return folio;
    filemapRemoveFolio(k, mapping, pgoff, folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    return error;
  }
}

/** The bytes of a new page of the cache. @returns 0 or -EIO */
function* fillPage(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  page: number,
  overwrite: boolean,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const extent = extentAt(inode, pgoff);
  if (overwrite || extent === undefined || extent.unwritten) {
    k.memory.zeroPage(page);
  } else {
    const block = extent.block + (pgoff - extent.pgoff);
    const error = yield* readBlock(k, fsOfInode(k, inode), block, page);
    if (error !== 0) return error;
    zeroBeyondEnd(k, page, pgoff, inode.sizeBytes);
  }
  folioSetFlags(k, page, PG_UPTODATE);
  return 0;
}

/** AddressSpaceOperations.getPage(). The invalidate_lock is held for reading while the page comes into the cache. */
export function* extentGetPage(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  if (pgoff >= mapping.nrPages) return -EINVAL;
  const cached = yield* mappingLockPage(k, mapping, pgoff);
  if (cached !== -ENOENT) return cached;
  if (!downReadTrylock(mapping.invalidateLock)) yield* downRead(mapping.invalidateLock);
  const page =
    pgoff < mapping.nrPages ? yield* lockPage(k, mapping, pgoff, false) : (-EINVAL as number);
  upRead(mapping.invalidateLock);
  return page;
}
