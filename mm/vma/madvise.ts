/** madvise(), of which there is MADV_DONTNEED. Compare mm/madvise.c:madvise_dontneed_free(). */
import { PAGE_SIZE } from '#emu';
import { EINVAL, ENOMEM } from '../errno.ts';
import type { Path } from '../path.ts';
import { taskSize } from '../pgtable/walk.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type MmStruct, type Vma } from '../types.ts';
import { VM_PFNMAP } from './flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from './lock.ts';
import { vmaIndexAbove } from './vma.ts';
import { zapRange } from './zap.ts';

/**
 * Drops the pages of [hva, hva + lenBytes): private memory is zero, or the file's, at the next
 * touch; shared memory comes back as it is. Needs mmap_lock for reading only.
 * @returns 0; -EINVAL; -ENOMEM where something is not mapped (the rest is done)
 */
export function* madviseDontneed(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> {
  const end = hva + Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;
  if (hva % PAGE_SIZE !== 0 || lenBytes < 0 || hva < 0 || end > taskSize(k)) return -EINVAL;
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  let error = 0;
  let at = hva;
  for (let i = vmaIndexAbove(mm, hva); at < end; i++) {
    const vma: Vma | undefined = mm.vmas[i];
    if (vma === undefined || vma.start > at) error = -ENOMEM;
    if (vma === undefined || vma.start >= end) break;
    if ((vma.flags & VM_PFNMAP) !== 0) {
      error = -EINVAL;
      break;
    }
    const from = Math.max(at, vma.start);
    at = Math.min(end, vma.end);
    yield* zapRange(k, vma, from, at, MMU_NOTIFY_CLEAR);
  }
  mmapReadUnlock(mm);
  return error;
}
