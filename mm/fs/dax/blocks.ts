/**
 * The blocks of a DAX file are frames. Compare fs/dax.c:dax_iomap_pfn(), fs/ext4/inode.c:ext4_iomap_begin()
 * for IOMAP_DAX.
 */
import { PAGE_SIZE } from '#emu';
import { blockDeviceOf } from '../../block/device.ts';
import { pmemPersist } from '../../block/pmem.ts';
import { BLOCK_SIZE, type BlockDevice } from '../../block/state.ts';
import { ENOENT } from '../../errno.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { fsOfInode, inodeOfMapping } from '../extent/inode.ts';
import { extentDioEnd, extentMapBlocks } from '../extent/map.ts';

/** The persistent memory that a DAX file is on. */
export const pmemOf = (k: Kernel, mapping: AddressSpace): BlockDevice =>
  blockDeviceOf(k, fsOfInode(k, inodeOfMapping(mapping)).device);

/** What a frame of persistent memory has now is durable: its lines are written back. Compare dax_flush() */
export const persistPage = (
  k: Kernel,
  dev: BlockDevice,
  page: number,
  within = 0,
  lenBytes = PAGE_SIZE,
): void => pmemPersist(k, dev, (page - dev.pmemPage) * BLOCK_SIZE + within, lenBytes);

/**
 * The frame of the block at an offset. For writing a hole gets one, of zeroes that are durable before
 * the block is the file's; the caller has the entry locked.
 * @returns the page; -ENOENT for a hole, which reads as zeroes; -ENOSPC; -EIO
 */
export function* daxMapPage(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  write: boolean,
): Path<number> {
  const run = yield* extentMapBlocks(k, mapping, pgoff, 1, write);
  if (typeof run === 'number') return run;
  if (run.block < 0 || (run.unwritten && !write)) return -ENOENT;
  const dev = pmemOf(k, mapping);
  const page = dev.pmemPage + run.block;
  if (!run.fresh && !run.unwritten) return page;
  k.memory.zeroPage(page);
  persistPage(k, dev, page);
  const { sizeBytes } = inodeOfMapping(mapping);
  const endByte = Math.min(sizeBytes, (pgoff + 1) * PAGE_SIZE);
  const error = yield* extentDioEnd(k, mapping, run, endByte, 0);
  return error === 0 ? page : error;
}
