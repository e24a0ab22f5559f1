/**
 * Promises to dirty pages: that what is in them can be written one day. Compare
 * fs/ext4/inode.c:ext4_da_reserve_space(), fs/btrfs/delalloc-space.c.
 *
 * A page that has a block is promised that it may be written over; one of a hole, and every page where
 * checksums are kept, since then nothing is written over, is promised a block.
 */
import { mapDelete, mapSet, readOnce } from '#cells';
import { EAGAIN, EFAULT, EIO, ENOSPC } from '../../errno.ts';
import {
  folioLock,
  folioOf,
  folioTestDirty,
  folioTrylock,
  folioUnlock,
} from '../../folio/folio.ts';
import { folioMaybeDmaPinned } from '../../folio/pin.ts';
import { folioTestWriteback, folioWaitStable } from '../../cache/clean.ts';
import { PAGE_SIZE } from '#emu';
import { type Path, YP_WAIT } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { extentAt } from './extents.ts';
import { fsOfInode, inodeOfMapping } from './inode.ts';
import { journalCommit } from './journal.ts';
import { reserveBlock, unreserveBlocks } from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';

/** Promises that a page can be written, if it has not been promised yet. @returns false: there is no space, or the journal has been aborted */
export const reservePage = (fs: ExtentFs, inode: ExtentInode, pgoff: number): boolean => {
  if (fs.journal.aborted) return false;
  if (inode.reserved.has(pgoff)) return true;
  if (fs.checksums === null && extentAt(inode, pgoff) !== undefined) {
    mapSet(inode.reserved, pgoff, 'mapped');
    return true;
  }
  if (!reserveBlock(fs)) return false;
  mapSet(inode.reserved, pgoff, 'delalloc');
  return true;
};

/** The page is dirty no more, or gone: what it was promised goes back. */
export const unreservePage = (fs: ExtentFs, inode: ExtentInode, pgoff: number): void => {
  if (inode.reserved.get(pgoff) === 'delalloc') unreserveBlocks(fs, 1);
  mapDelete(inode.reserved, pgoff);
};

/** Would a commit give blocks back? Compare ext4_should_retry_alloc(). */
export const commitFreesBlocks = ({ journal }: ExtentFs): boolean =>
  !journal.aborted && (journal.busy || journal.running.freed.length > 0);

/** Waits for the commit that is on its way, or commits: afterwards what was freed can be had. */
export function* commitToFreeBlocks(k: Kernel, fs: ExtentFs): Path<void> {
  if (fs.journal.busy) while (fs.journal.busy) yield YP_WAIT;
  else yield* journalCommit(k, fs);
}

/** reservePage(), after a commit if there is no space without one. @returns 0, -ENOSPC, -EIO */
export function* reservePageSlow(
  k: Kernel,
  fs: ExtentFs,
  inode: ExtentInode,
  pgoff: number,
): Path<number> {
  for (;;) {
    if (fs.journal.aborted) return -EIO;
    if (reservePage(fs, inode, pgoff)) return 0;
    if (!commitFreesBlocks(fs)) return -ENOSPC;
    yield* commitToFreeBlocks(k, fs);
  }
}

/** Offset of a folio in its file, in pages. */
export const pgoffOf = (k: Kernel, folio: number): number =>
  readOnce(k.state.frames.index, folio) >>> 0;

/**
 * page_mkwrite: AddressSpaceOperations.pageMkwrite(). With stable pages it waits while the folio is
 * written out. Compare fs/ext4/inode.c:ext4_page_mkwrite(), fs/btrfs/file.c:btrfs_page_mkwrite().
 */
export function* extentPageMkwrite(k: Kernel, mapping: AddressSpace, page: number): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const folio = folioOf(k, page);
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  yield* folioWaitStable(k, folio, fs.stablePages);
  const pgoff = pgoffOf(k, folio);
  if (
    readOnce(k.state.frames.mapping, folio) !== mapping.id ||
    pgoff * PAGE_SIZE >= inode.sizeBytes
  ) {
    folioUnlock(k, folio);
    return -EAGAIN;
  }
  const error = reservePage(fs, inode, pgoff) ? 0 : yield* reservePageSlow(k, fs, inode, pgoff);
  if (error === 0) return 0;
  folioUnlock(k, folio);
  return -EFAULT;
}

/**
 * AddressSpaceOperations.releaseFolio(). Never of a folio that may be pinned: a device may write to it,
 * and then it would be dirty without a promise. Compare mm/filemap.c:filemap_release_folio()
 */
export const extentReleaseFolio = (k: Kernel, mapping: AddressSpace, folio: number): boolean => {
  if (folioTestDirty(k, folio) || folioTestWriteback(k, folio)) return false;
  if (folioMaybeDmaPinned(k, folio)) return false;
  const inode = inodeOfMapping(mapping);
  unreservePage(fsOfInode(k, inode), inode, pgoffOf(k, folio));
  return true;
};

/** AddressSpaceOperations.invalidateFolio(): pinned or not, its place in the file is gone. */
export const extentInvalidateFolio = (k: Kernel, mapping: AddressSpace, folio: number): void => {
  const inode = inodeOfMapping(mapping);
  const fs = k.state.filesystems.get(inode.fs);
  if (fs !== undefined) unreservePage(fs, inode, pgoffOf(k, folio));
};
