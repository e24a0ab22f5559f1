/**
 * fsync(): what was written to a file is on its device, or somebody is told that it is not. Compare
 * fs/sync.c:vfs_fsync_range(), mm/filemap.c:file_write_and_wait_range(), lib/errseq.c.
 *
 * An error of writeback is reported once, to whoever asks first: Linux tells every open file of it
 * once, and here a file is open once.
 */
import { setField } from '#cells';
import { operationsOf } from '../fs/operations.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { writebackMapping } from './writeback.ts';

/**
 * The error of writeback since somebody last asked, and it is forgotten. @returns 0, -EIO, -ENOSPC.
 * Compare file_check_and_advance_wb_err()
 */
const checkAndAdvanceWbErr = (mapping: AddressSpace): number => {
  const error = mapping.wbErr;
  if (error !== 0) setField(mapping, 'wbErr', 0);
  return error;
};

/**
 * Makes [startByte, endByte) of a file durable, with everything that it takes to find it again. Of
 * files in memory there is nothing to do.
 * @returns 0; -EIO, -ENOSPC: now, or in some writeback since the last call
 */
export function* vfsFsync(
  k: Kernel,
  mapping: AddressSpace,
  startByte = 0,
  endByte = Number.POSITIVE_INFINITY,
): Path<number> {
  if (!tracksDirty(mapping)) return 0;
  const written = yield* writebackMapping(k, mapping, startByte, endByte, true);
  const reported = checkAndAdvanceWbErr(mapping);
  const error = written !== 0 ? written : reported;
  const { syncMetadata } = operationsOf(mapping);
  return error === 0 && syncMetadata !== undefined ? yield* syncMetadata(k, mapping) : error;
}
