/** fsync() of a file whose pages have been written. Compare fs/ext4/fsync.c:ext4_sync_file(). */
import { PAGE_SIZE } from '#emu';
import { blockDeviceFlush } from '../../block/bio.ts';
import { blockDeviceOf } from '../../block/device.ts';
import { writebackMapping } from '../../cache/writeback.ts';
import { EIO } from '../../errno.ts';
import { type Path, YP_WAIT } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { inodeCredits, journalDirtyInode } from './handle.ts';
import { fsOfInode, inodeOfMapping } from './inode.ts';
import { journalCommit, journalStart, journalStop } from './journal.ts';
import { diskSizeAfter, growDiskSize, tailIsPending } from './size.ts';

/**
 * AddressSpaceOperations.syncMetadata(): a crash from now on takes back nothing that had reached the
 * device before the call, data or metadata.
 */
export function* extentSyncMetadata(k: Kernel, mapping: AddressSpace): Path<number> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const { journal } = fs;
  // The page that the size in the journal ends in may be dirty again, or go on being so as long as it is
  // pinned: written once more its zeroes are on the device, whatever comes after.
  const tail = Math.floor(inode.diskSizeBytes / PAGE_SIZE);
  if (inode.sizeBytes > inode.diskSizeBytes && tailIsPending(k, mapping, -1)) {
    const error = yield* writebackMapping(k, mapping, tail * PAGE_SIZE, (tail + 1) * PAGE_SIZE);
    if (error !== 0) return error;
  }
  if (
    inode.transaction < 0 ||
    diskSizeAfter(k, mapping, inode.sizeBytes, tail) > inode.diskSizeBytes
  ) {
    const error = yield* journalStart(k, fs, () => inodeCredits(fs, inode, 0));
    if (error !== 0) return error;
    // Every page has been written: what lies between them is holes.
    growDiskSize(k, fs, mapping, inode.sizeBytes, tail);
    journalDirtyInode(fs, inode);
    journalStop(fs);
  }
  const seq = inode.transaction;
  let flushed = false;
  while (journal.committedSeq < seq) {
    if (journal.aborted) return -EIO;
    if (journal.busy) {
      yield YP_WAIT;
    } else {
      const error = yield* journalCommit(k, fs);
      if (error !== 0) return error;
      flushed = true;
    }
  }
  return flushed ? 0 : yield* blockDeviceFlush(k, blockDeviceOf(k, fs.device));
}
