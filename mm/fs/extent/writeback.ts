/**
 * Writing one page of a file out: a block is found for it, its checksum taken, its bytes sent, and when
 * the device has them the file gets the block. Compare fs/ext4/inode.c:ext4_writepages(),
 * fs/xfs/xfs_aops.c, fs/btrfs/extent_io.c.
 *
 * A page is promised a block when it becomes dirty. One that is dirty without a promise was dirtied by
 * somebody whom the file system never saw: he held it by GUP while it was cleaned. It is counted and
 * named, and gets a block if there happens to be one; otherwise its data is lost.
 */
import { addField, listPush, listRemoveAt, mapDelete, mapSet } from '#cells';
import { PAGE_SIZE } from '#emu';
import { bioAlloc, bioSubmit, bioWait } from '../../block/bio.ts';
import { blockDeviceOf } from '../../block/device.ts';
import { BLOCK_SIZE, type Bio } from '../../block/state.ts';
import { folioEndWriteback, folioStartWriteback } from '../../cache/clean.ts';
import { mappingSetError } from '../../cache/writeback.ts';
import { EIO, ENOSPC } from '../../errno.ts';
import { folioMarkDirty, folioUnlock } from '../../folio/folio.ts';
import { folioMaybeDmaPinned } from '../../folio/pin.ts';
import { type Path, YP_WRITEBACK_STARTED } from '../../path.ts';
import { holderNames } from '../../provenance/holders.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { extentAt, goalFor, insertExtent, removeExtents } from './extents.ts';
import { inodeCredits, journalDirtyInode } from './handle.ts';
import { fsOfInode, inodeOfMapping } from './inode.ts';
import { journalStart, journalStop, journalTryStart } from './journal.ts';
import { zeroBeyondEnd } from './read.ts';
import {
  commitFreesBlocks,
  commitToFreeBlocks,
  pgoffOf,
  reservePage,
  unreservePage,
} from './reserve.ts';
import { diskSizeAfter, growDiskSize } from './size.ts';
import {
  freeBlocks,
  reserveBlock,
  returnBlocks,
  takeBlock,
  unreserveBlocks,
  useBlocks,
} from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';
import { checksumPage, extentChecksumOf, setChecksum } from './sums.ts';

/** So many pages that were dirtied behind the file system's back are remembered by name. */
const BEHIND_MAX = 64;

/**
 * A page is dirty, and nothing was promised for it. @returns 0: it has a promise now; -ENOSPC, or -EIO
 * where such pages are dropped: its data is lost
 */
const dirtiedBehind = (
  k: Kernel,
  fs: ExtentFs,
  inode: ExtentInode,
  pgoff: number,
  folio: number,
): number => {
  addField(fs, 'dirtiedBehind', 1);
  const noSpace = reservePage(fs, inode, pgoff) ? 0 : -ENOSPC;
  const status = fs.dropsBehind ? -EIO : noSpace;
  if (status !== 0) {
    addField(fs, 'lostPages', 1);
    unreservePage(fs, inode, pgoff);
  }
  const writer = k.state.provenance?.writers.get(folio) ?? null;
  const holders = holderNames(k, folio);
  listPush(fs.behind, { ino: inode.ino, pgoff, writer, holders, status });
  if (fs.behind.length > BEHIND_MAX) listRemoveAt(fs.behind, 0);
  return status;
};

/** Where a page is written. */
interface Target {
  block: number;
  /** The block is no part of the file yet. */
  fresh: boolean;
}

/**
 * The block for a page that has a promise, which is used up; kept for a page that stays dirty.
 * @returns false where there is none: only of a page that stays dirty
 */
const chooseBlock = (
  fs: ExtentFs,
  inode: ExtentInode,
  pgoff: number,
  keep: boolean,
  target: Target,
): boolean => {
  const extent = fs.checksums === null ? extentAt(inode, pgoff) : undefined;
  const promised = inode.reserved.get(pgoff) === 'delalloc';
  const inPlace = extent !== undefined;
  // With checksums a page that stays dirty will need another block, so this one is not the promised.
  const kept = keep && fs.checksums !== null;
  if (promised && !kept) unreserveBlocks(fs, 1);
  target.block = inPlace
    ? extent.block + (pgoff - extent.pgoff)
    : takeBlock(fs, goalFor(inode, pgoff));
  target.fresh = !inPlace;
  if (target.block < 0) return false;
  if (!keep) mapDelete(inode.reserved, pgoff);
  else if (!kept) mapSet(inode.reserved, pgoff, 'mapped');
  return true;
};

/** What is sent to the device: the page, or a copy of what is in it now. */
const dataBio = (folio: number, block: number, copy: Uint8Array | null): Bio =>
  copy === null
    ? bioAlloc('write', block * BLOCK_SIZE, [{ page: folio, offset: 0, lenBytes: PAGE_SIZE }])
    : bioAlloc('write', block * BLOCK_SIZE, [], false, copy);

/** Does the file change by the page being on the device? */
const changesMetadata = (
  k: Kernel,
  fs: ExtentFs,
  mapping: AddressSpace,
  pgoff: number,
  fresh: boolean,
): boolean => {
  const inode = inodeOfMapping(mapping);
  return (
    fresh ||
    fs.checksums !== null ||
    extentAt(inode, pgoff)?.unwritten === true ||
    diskSizeAfter(k, mapping, (pgoff + 1) * PAGE_SIZE, pgoff) > inode.diskSizeBytes
  );
};

/** The device has the page: the file has the block from now on, in place of what it had there. In a handle. */
const blockWritten = (
  fs: ExtentFs,
  inode: ExtentInode,
  pgoff: number,
  { block, fresh }: Target,
  sum: number,
): void => {
  if (fresh || extentAt(inode, pgoff)?.unwritten === true) {
    for (const old of removeExtents(inode, pgoff, 1))
      if (old.block !== block) freeBlocks(fs, old.block, 1);
    insertExtent(inode, { pgoff, block, nr: 1, unwritten: false });
    if (fresh) useBlocks(fs, block, 1);
    journalDirtyInode(fs, inode);
  }
  setChecksum(fs, block, sum);
};

/** The file's record; the bitmap for the block, and for the one before it; the checksum. */
const writeCredits = (fs: ExtentFs, inode: ExtentInode): number => inodeCredits(fs, inode, 2) + 3;

/** The device has the page, or has refused it. @returns 0 or -EIO */
function* endWrite(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  target: Target,
  sum: number,
  status: number,
): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  let error = status;
  if (error === 0 && changesMetadata(k, fs, mapping, pgoff, target.fresh)) {
    if (!journalTryStart(fs, writeCredits(fs, inode)))
      error = yield* journalStart(k, fs, () => writeCredits(fs, inode));
    if (error === 0) {
      blockWritten(fs, inode, pgoff, target, sum);
      growDiskSize(k, fs, mapping, (pgoff + 1) * PAGE_SIZE, pgoff);
      journalStop(fs);
    }
  }
  if (error === 0 || !target.fresh) return error;
  returnBlocks(fs, target.block, 1);
  // A page that stayed dirty counted on the block.
  if (inode.reserved.get(pgoff) === 'mapped' && reserveBlock(fs))
    mapSet(inode.reserved, pgoff, 'delalloc');
  return error;
}

/** The data of a page will not be written: it is clean, and somebody will be told. */
const giveUp = (k: Kernel, mapping: AddressSpace, folio: number, error: number): number => {
  mappingSetError(mapping, error);
  folioUnlock(k, folio);
  return error;
};

/**
 * AddressSpaceOperations.writeFolio(). Where the policy has writeback bounce what is pinned, a folio
 * that may be is written as a copy, and stays dirty with its promise, to be written again.
 */
export function* extentWriteFolio(k: Kernel, mapping: AddressSpace, folio: number): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const pgoff = pgoffOf(k, folio);
  if (pgoff * PAGE_SIZE >= inode.sizeBytes) {
    unreservePage(fs, inode, pgoff);
    folioUnlock(k, folio);
    return 0;
  }
  if (fs.journal.aborted) {
    unreservePage(fs, inode, pgoff);
    return giveUp(k, mapping, folio, -EIO);
  }
  if (!inode.reserved.has(pgoff)) {
    const lost = dirtiedBehind(k, fs, inode, pgoff, folio);
    if (lost !== 0) return giveUp(k, mapping, folio, lost);
  }
  // Pins are looked for after the entries were cleaned: who pins from now on has to fault first.
  const bounce = k.policy.pinnedWriteback === 'bounce' && folioMaybeDmaPinned(k, folio);
  const target: Target = { block: -1, fresh: false };
  while (!chooseBlock(fs, inode, pgoff, bounce, target)) {
    if (commitFreesBlocks(fs)) {
      yield* commitToFreeBlocks(k, fs);
      continue;
    }
    if (bounce) folioMarkDirty(k, folio);
    else unreservePage(fs, inode, pgoff);
    return giveUp(k, mapping, folio, -ENOSPC);
  }
  zeroBeyondEnd(k, folio, pgoff, inode.sizeBytes);
  if (bounce) folioMarkDirty(k, folio);
  folioStartWriteback(k, folio);
  folioUnlock(k, folio);
  if (k.watched) yield YP_WRITEBACK_STARTED;
  const at = k.memory.pageOffset(folio);
  const copy = bounce ? k.memory.u8.slice(at, at + PAGE_SIZE) : null;
  const sum =
    fs.checksums === null ? 0 : copy === null ? checksumPage(k, folio) : extentChecksumOf(copy);
  const dev = blockDeviceOf(k, fs.device);
  const bio = dataBio(folio, target.block, copy);
  bioSubmit(k, dev, bio);
  const sent = yield* bioWait(k, dev, bio);
  const status = yield* endWrite(k, mapping, pgoff, target, sum, sent);
  if (status !== 0) mappingSetError(mapping, status);
  folioEndWriteback(k, folio);
  return status;
}
