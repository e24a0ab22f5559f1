/** msync(): what shared mappings of files have written is on its device. Compare mm/msync.c. */
import { PAGE_SIZE } from '#emu';
import { vfsFsync } from '../cache/fsync.ts';
import { EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import { mappingGet, mappingPut } from '../fs/mapping.ts';
import type { Path } from '../path.ts';
import { taskSize } from '../pgtable/walk.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { linearPageIndex, VM_LOCKED, VM_SHARED } from './flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './lock.ts';
import { roundUp } from './unmapped-area.ts';
import { vmaIndexAbove } from './vma.ts';

export const MS_ASYNC = 1;
export const MS_INVALIDATE = 2;
export const MS_SYNC = 4;

/**
 * Makes [hva, hva + lenBytes) durable with MS_SYNC, where it is a shared mapping of a file. MS_ASYNC
 * starts nothing: background writeback knows of the pages. MS_INVALIDATE has nothing to do either:
 * every mapping of a file sees the same pages.
 * @param hva page-aligned
 * @param flags MS_*
 * @returns 0; -EINVAL; -EBUSY: MS_INVALIDATE of locked memory; -ENOMEM: something is not mapped, the
 *   rest has been done; -EIO, -ENOSPC as vfsFsync
 */
export function* msync(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  flags: number,
): Path<number> {
  if ((flags & ~(MS_ASYNC | MS_INVALIDATE | MS_SYNC)) !== 0 || hva % PAGE_SIZE !== 0)
    return -EINVAL;
  if ((flags & MS_ASYNC) !== 0 && (flags & MS_SYNC) !== 0) return -EINVAL;
  const end = hva + roundUp(lenBytes);
  if (lenBytes < 0 || hva < 0 || end > taskSize(k)) return -ENOMEM;
  let unmapped = 0;
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  for (let at = hva; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) {
      unmapped = -ENOMEM;
      break;
    }
    if (vma.start > at) {
      unmapped = -ENOMEM;
      at = vma.start;
    }
    if ((flags & MS_INVALIDATE) !== 0 && (vma.flags & VM_LOCKED) !== 0) {
      mmapReadUnlock(mm);
      return -EBUSY;
    }
    const to = Math.min(vma.end, end);
    const { mapping } = vma;
    if ((flags & MS_SYNC) !== 0 && mapping !== null && (vma.flags & VM_SHARED) !== 0) {
      const from = linearPageIndex(vma, at) * PAGE_SIZE;
      // The lock is not held while a device is waited for; the file must not go meanwhile.
      mappingGet(mapping);
      mmapReadUnlock(mm);
      const error = yield* vfsFsync(k, mapping, from, from + (to - at));
      yield* mappingPut(k, mapping);
      if (error !== 0) return error;
      if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    }
    at = to;
  }
  mmapReadUnlock(mm);
  return unmapped;
}
