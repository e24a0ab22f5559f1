/**
 * mlock(): memory that stays resident, and how much of it RLIMIT_MEMLOCK allows. Compare mm/mlock.c.
 *
 * A locked VMA is faulted in, and its pages are unevictable (mm/lru/mlock.ts). Nobody has the privilege
 * to go over the limit.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EFAULT, EINVAL, ENOMEM, EPERM } from '../errno.ts';
import { mlockRange } from '../lru/mlock.ts';
import type { Path } from '../path.ts';
import { taskSize } from '../pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_HUGETLB, VM_LOCKED, VM_SPECIAL } from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { mmPopulate } from './populate.ts';
import { isolateRange, mergeAround, vmaIndexAbove } from './vma.ts';

/** May `lenBytes` more be locked? Compare mlock_future_ok(). */
export const mlockFutureOk = (mm: MmStruct, lenBytes: number): boolean =>
  mm.lockedVm * PAGE_SIZE + lenBytes <= mm.rlimitMemlock;

/** Is there a limit above zero? Compare can_do_mlock(). */
export const canDoMlock = (mm: MmStruct): boolean => mm.rlimitMemlock > 0;

/** Memory that is always there, or is not the kernel's, has nothing to lock. Compare vma_supports_mlock(). */
export const vmaSupportsMlock = (vma: Vma): boolean =>
  (vma.flags & (VM_SPECIAL | VM_HUGETLB)) === 0;

/** Pages of a VMA that is about to come or go, if it is locked. @param sign 1 or -1 */
export const accountLocked = (vma: Vma, sign: number): void => {
  if ((vma.flags & VM_LOCKED) === 0) return;
  const { mm } = vma;
  setField(mm, 'lockedVm', mm.lockedVm + (sign * (vma.end - vma.start)) / PAGE_SIZE);
};

/** Bytes of [start, end) that are locked already. Compare count_mm_mlocked_page_nr(). */
const lockedBytes = (mm: MmStruct, start: number, end: number): number => {
  let bytes = 0;
  for (const vma of mm.vmas) {
    const overlap = Math.min(end, vma.end) - Math.max(start, vma.start);
    if (overlap > 0 && (vma.flags & VM_LOCKED) !== 0) bytes += overlap;
  }
  return bytes;
};

/** @returns 0; -ENOMEM where something is not mapped; -EINVAL where a VMA cannot be cut there */
function* applyLock(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  lock: boolean,
): Path<number> {
  for (let at = start; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start > at) return -ENOMEM;
    const to = Math.min(end, vma.end);
    const secret = vma.mapping !== null && vma.mapping.kind === 'secretmem';
    if (((vma.flags & VM_LOCKED) !== 0) !== lock && vmaSupportsMlock(vma) && !secret) {
      const i = isolateRange(k, mm, at, to);
      if (i < 0) return i;
      const part = mm.vmas[i];
      if (part === undefined) throw new Error('a VMA vanished under mmap_lock');
      accountLocked(part, -1);
      setField(part, 'flags', lock ? part.flags | VM_LOCKED : part.flags & ~VM_LOCKED);
      accountLocked(part, 1);
      mlockRange(k, part, part.start, part.end, lock);
      yield* mergeAround(k, mm, i);
    }
    at = to;
  }
  return 0;
}

/** The pages that [hva, hva + lenBytes) touches: [start, end), or null where it is no range. */
const pageRange = (k: Kernel, hva: number, lenBytes: number): [number, number] | null => {
  const start = hva - (hva % PAGE_SIZE);
  const end = Math.ceil((hva + lenBytes) / PAGE_SIZE) * PAGE_SIZE;
  return hva < 0 || lenBytes < 0 || end > taskSize(k) ? null : [start, end];
};

/**
 * Locks the pages that [hva, hva + lenBytes) touches, and faults them in.
 * @returns 0; -EPERM: RLIMIT_MEMLOCK is 0; -ENOMEM: more than it allows, not mapped, or not to be
 *   faulted in; -EAGAIN: no memory; -EINVAL
 */
export function* mlock(k: Kernel, mm: MmStruct, hva: number, lenBytes: number): Path<number> {
  if (!canDoMlock(mm)) return -EPERM;
  const range = pageRange(k, hva, lenBytes);
  if (range === null) return -EINVAL;
  const [start, end] = range;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const more = end - start - lockedBytes(mm, start, end);
  const error = mlockFutureOk(mm, more) ? yield* applyLock(k, mm, start, end, true) : -ENOMEM;
  mmapWriteUnlock(mm);
  if (error !== 0) return error;
  const populated = yield* mmPopulate(k, mm, start, end, false);
  // As POSIX wants it. Compare __mlock_posix_error_return().
  if (populated === -EFAULT) return -ENOMEM;
  return populated === -ENOMEM ? -EAGAIN : populated;
}

/** Unlocks the pages that [hva, hva + lenBytes) touches. @returns 0; -ENOMEM: not mapped; -EINVAL */
export function* munlock(k: Kernel, mm: MmStruct, hva: number, lenBytes: number): Path<number> {
  const range = pageRange(k, hva, lenBytes);
  if (range === null) return -EINVAL;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const error = yield* applyLock(k, mm, range[0], range[1], false);
  mmapWriteUnlock(mm);
  return error;
}
