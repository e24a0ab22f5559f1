/** mprotect(). What it does to the entries is in change-protection.ts. Compare mm/mprotect.c. */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EACCES, EINVAL, ENOMEM } from '../errno.ts';
import type { Path } from '../path.ts';
import { vmPageProt } from '../pgtable/pte.ts';
import { taskSize } from '../pgtable/walk.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { changeProtection } from './change-protection.ts';
import { MM_CP_TRY_CHANGE_WRITABLE } from './cp.ts';
import { VM_ACCESS_FLAGS, VM_LOCKED, VM_MAY_SHIFT, VM_SHARED, VM_WRITE } from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { populateLocked } from './populate.ts';
import { isolateRange, mergeAround, vmaIndexAbove } from './vma.ts';

/**
 * Changes what [hva, hva + lenBytes) may be used for.
 * @param prot PROT_*
 * @returns 0; -EINVAL; -ENOMEM where something is not mapped, -EACCES where a VMA may not have it:
 *   what lies below that place has been changed
 */
export function* mprotect(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  prot: number,
): Path<number> {
  const end = hva + Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;
  if (hva % PAGE_SIZE !== 0 || (prot & ~VM_ACCESS_FLAGS) !== 0 || lenBytes < 0) return -EINVAL;
  if (lenBytes === 0) return 0;
  if (hva < 0 || end > taskSize(k)) return -ENOMEM;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const error = yield* mprotectLocked(k, mm, hva, end, prot);
  mmapWriteUnlock(mm);
  return error;
}

function* mprotectLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  prot: number,
): Path<number> {
  for (let at = start; at < end; ) {
    const found = mm.vmas[vmaIndexAbove(mm, at)];
    if (found === undefined || found.start > at) return -ENOMEM;
    const flags = (found.flags & ~VM_ACCESS_FLAGS) | prot;
    if ((flags & ~(flags >> VM_MAY_SHIFT) & VM_ACCESS_FLAGS) !== 0) return -EACCES;
    const to = Math.min(found.end, end);
    if (flags !== found.flags) {
      const i = isolateRange(k, mm, at, to);
      if (i < 0) return i;
      const vma = mm.vmas[i];
      if (vma === undefined) throw new Error('a VMA vanished under mmap_lock');
      const old = vma.flags;
      setField(vma, 'flags', flags);
      const page = vmPageProt(flags);
      yield* changeProtection(k, vma, at, to, page, MM_CP_TRY_CHANGE_WRITABLE);
      // Locked memory does not fault: what has to be copied for writing is copied now.
      const locked = (old & (VM_WRITE | VM_SHARED | VM_LOCKED)) === VM_LOCKED;
      if (locked && (flags & VM_WRITE) !== 0) yield* populateLocked(k, vma, at, to);
      yield* mergeAround(k, mm, i);
    }
    at = to;
  }
  return 0;
}
