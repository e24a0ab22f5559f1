/**
 * read(), write(), ftruncate() and hole punching of a file, whatever kind it is. Compare
 * fs/read_write.c:vfs_read(), fs/open.c:do_truncate() and vfs_fallocate().
 *
 * Bytes and sizes are in bytes. Files in memory have sizes of whole pages (shmem-range.ts).
 */
import { EINVAL } from '../errno.ts';
import { hugetlbPunchHole, hugetlbTruncate } from '../hugetlb/truncate.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { daxRead, daxWrite } from './dax/rw.ts';
import { extentRead, extentWrite } from './extent/file.ts';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, guestMemfdFallocate } from './guestmemfd.ts';
import { punchFile, resizeFile, zeroFile } from './resize.ts';
import { shmemRead, shmemWrite } from './shmem.ts';
import { shmemPunchHole, shmemTruncate } from './shmem-range.ts';

/**
 * Reads from `offset` on.
 * @returns bytes read, fewer than asked for at the end of the file; -EINVAL for a file that cannot be
 *   read; -EIO
 */
export function* fileRead(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  into: Uint8Array,
): Path<number> {
  if (mapping.kind === 'extent') return yield* extentRead(k, mapping, offset, into);
  if (mapping.kind === 'fsdax') return yield* daxRead(k, mapping, offset, into);
  return shmemRead(k, mapping, offset, into);
}

/**
 * Writes from `offset` on; the file grows if it ends before.
 * @returns bytes written; with none: -EPERM sealed, -ENOMEM, -ENOSPC, -EIO, -EINVAL for a file that
 *   cannot be written
 */
export function* fileWrite(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  from: Uint8Array,
): Path<number> {
  if (mapping.kind === 'extent') return yield* extentWrite(k, mapping, offset, from);
  if (mapping.kind === 'fsdax') return yield* daxWrite(k, mapping, offset, from);
  return yield* shmemWrite(k, mapping, offset, from);
}

/**
 * Makes a file end at `sizeBytes`: what lies behind is gone for everybody who maps it, private copies
 * too, and reading there is SIGBUS. A file that becomes longer has a hole.
 * @returns 0; -EINVAL for a size, or a file, that cannot be; -EPERM sealed; -EFBIG; -ENOMEM; -ENOSPC; -EIO
 */
export function* fileTruncate(k: Kernel, mapping: AddressSpace, sizeBytes: number): Path<number> {
  if (sizeBytes < 0 || !Number.isInteger(sizeBytes)) return -EINVAL;
  switch (mapping.kind) {
    case 'shmem':
      return yield* shmemTruncate(k, mapping, sizeBytes);
    case 'hugetlbfs':
      return yield* hugetlbTruncate(k, mapping, sizeBytes);
    case 'extent':
    case 'fsdax':
      return yield* resizeFile(k, mapping, sizeBytes);
    default:
      // memfd_secret() gets its size once; a driver's file has what the device has.
      return -EINVAL;
  }
}

/**
 * Makes a hole of [startByte, endByte): it reads as zeroes. The file keeps its size.
 * @returns 0; -EINVAL: no such range, or file; -EPERM sealed; -ENOMEM; -EIO
 */
export function* filePunchHole(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  if (startByte < 0 || endByte <= startByte || !Number.isInteger(startByte)) return -EINVAL;
  switch (mapping.kind) {
    case 'shmem':
      return yield* shmemPunchHole(k, mapping, startByte, endByte);
    case 'gmem': {
      const mode = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE;
      return yield* guestMemfdFallocate(k, mapping, mode, startByte, endByte - startByte);
    }
    case 'hugetlbfs':
      return yield* hugetlbPunchHole(k, mapping, startByte, endByte);
    case 'extent':
    case 'fsdax':
      return yield* punchFile(k, mapping, startByte, endByte);
    default:
      return -EINVAL;
  }
}

/**
 * Zeroes [startByte, endByte) of a file on a device without writing them; its blocks stay promised. The
 * file keeps its size.
 * @returns as filePunchHole; -ENOSPC; -EINVAL for files that are not on a device
 */
export function* fileZeroRange(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  if (startByte < 0 || endByte <= startByte || !Number.isInteger(startByte)) return -EINVAL;
  if (mapping.kind !== 'extent' && mapping.kind !== 'fsdax') return -EINVAL;
  return yield* zeroFile(k, mapping, startByte, endByte);
}
