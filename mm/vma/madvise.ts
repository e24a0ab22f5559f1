/** madvise(): what a process says about a range of its memory. Compare mm/madvise.c. */
import { PAGE_SIZE } from '#emu';
import { EACCES, EAGAIN, EINVAL, ENOMEM } from '../errno.ts';
import { filePunchHole } from '../fs/file.ts';
import { mappingGet, mappingPut } from '../fs/mapping.ts';
import { vmaPageSize } from '../hugetlb/vma.ts';
import { ksmUnmerge } from '../ksm/unmerge.ts';
import type { Path } from '../path.ts';
import { pageoutRange } from '../swap/pageout.ts';
import { madviseCollapse } from '../thp/collapse.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type MmStruct, type Vma } from '../types.ts';
import {
  linearPageIndex,
  MADV_COLLAPSE,
  MADV_DOFORK,
  MADV_DONTFORK,
  MADV_DONTNEED,
  MADV_HUGEPAGE,
  MADV_MERGEABLE,
  MADV_NOHUGEPAGE,
  MADV_PAGEOUT,
  MADV_POPULATE_READ,
  MADV_POPULATE_WRITE,
  MADV_REMOVE,
  MADV_UNMERGEABLE,
  VM_DONTCOPY,
  VM_HUGEPAGE,
  VM_HUGETLB,
  VM_LOCKED,
  VM_MAYSHARE,
  VM_MAYWRITE,
  VM_MERGEABLE,
  VM_NOHUGEPAGE,
  VM_PFNMAP,
  VM_SHARED,
  VM_SPECIAL,
} from './flags.ts';
import {
  mmapReadLock,
  mmapReadTrylock,
  mmapReadUnlock,
  mmapWriteLock,
  mmapWriteTrylock,
  mmapWriteUnlock,
} from './lock.ts';
import { madvisePopulate } from './populate.ts';
import { modifyFlags, vmaIndexAbove } from './vma.ts';
import { zapRange } from './zap.ts';

/** KSM leaves shared, special and hugetlb memory alone. Compare vma_ksm_compatible(). */
const ksmCompatible = (vma: Vma): boolean =>
  (vma.flags & (VM_SHARED | VM_MAYSHARE | VM_SPECIAL | VM_HUGETLB)) === 0;

/** Pages are dropped: private memory is zero, or the file's, at the next touch. Compare madvise_dontneed_free(). */
function* dontneed(k: Kernel, vma: Vma, start: number, end: number): Path<number> {
  let to = end;
  if ((vma.flags & VM_HUGETLB) !== 0) {
    // Rather too little than too much: callers may not know that the pages are huge.
    if (start % vmaPageSize(vma) !== 0) return -EINVAL;
    to -= to % vmaPageSize(vma);
  } else if ((vma.flags & (VM_LOCKED | VM_PFNMAP)) !== 0) {
    return -EINVAL;
  }
  if (start < to) yield* zapRange(k, vma, start, to, MMU_NOTIFY_CLEAR);
  return 0;
}

/** Anonymous pages are swapped out. Compare madvise_pageout(). */
function* pageout(k: Kernel, vma: Vma, start: number, end: number): Path<number> {
  if ((vma.flags & (VM_LOCKED | VM_PFNMAP | VM_HUGETLB)) !== 0) return -EINVAL;
  yield* pageoutRange(k, vma, start, end);
  return 0;
}

/**
 * What the file has there becomes a hole. Without mmap_lock, as a hole waits for folios that faults may
 * have locked. Compare madvise_remove().
 */
function* remove(k: Kernel, vma: Vma, start: number, end: number): Path<number> {
  const { mm, mapping } = vma;
  if ((vma.flags & VM_LOCKED) !== 0 || mapping === null) return -EINVAL;
  const shared = VM_SHARED | VM_MAYWRITE;
  if ((vma.flags & shared) !== shared) return -EACCES;
  const from = linearPageIndex(vma, start) * PAGE_SIZE;
  mappingGet(mapping);
  mmapReadUnlock(mm);
  const error = yield* filePunchHole(k, mapping, from, from + (end - start));
  yield* mappingPut(k, mapping);
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  return error;
}

/** Small pages become huge ones, now. The locks are the collapse's own. Compare madvise_collapse(). */
function* collapse(k: Kernel, vma: Vma, start: number, end: number): Path<number> {
  const { mm } = vma;
  mmapReadUnlock(mm);
  const error = yield* madviseCollapse(k, mm, start, end);
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  return error;
}

/** The VMA's flags as an advice wants them, null where it may not be given. */
const flagsFor = (vma: Vma, advice: number): number | null => {
  const { flags } = vma;
  switch (advice) {
    case MADV_DONTFORK:
      return flags | VM_DONTCOPY;
    case MADV_DOFORK:
      return (flags & VM_SPECIAL) !== 0 ? null : flags & ~VM_DONTCOPY;
    case MADV_MERGEABLE:
      return ksmCompatible(vma) ? flags | VM_MERGEABLE : flags;
    case MADV_UNMERGEABLE:
      return flags & ~VM_MERGEABLE;
    case MADV_HUGEPAGE:
      return (flags & ~VM_NOHUGEPAGE) | VM_HUGEPAGE;
    default:
      return (flags & ~VM_HUGEPAGE) | VM_NOHUGEPAGE;
  }
};

/** An advice that changes the flags of [start, end) of a VMA, which is split and merged as that asks for. */
function* changeFlags(
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  advice: number,
): Path<number> {
  const flags = flagsFor(vma, advice);
  if (flags === null) return -EINVAL;
  if (flags === vma.flags) return 0;
  if (advice === MADV_UNMERGEABLE && vma.anonVma !== null) {
    const error = yield* ksmUnmerge(k, vma, start, end);
    if (error !== 0) return error === -ENOMEM ? -EAGAIN : error;
  }
  return yield* modifyFlags(k, vma.mm, start, end, flags);
}

const adviseVma = (
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  advice: number,
): Path<number> => {
  if (advice === MADV_DONTNEED) return dontneed(k, vma, start, end);
  if (advice === MADV_PAGEOUT) return pageout(k, vma, start, end);
  if (advice === MADV_REMOVE) return remove(k, vma, start, end);
  if (advice === MADV_COLLAPSE) return collapse(k, vma, start, end);
  return changeFlags(k, vma, start, end, advice);
};

/**
 * Each VMA's part of [start, end), under mmap_lock; holes are skipped and remembered. Compare
 * madvise_walk_vmas().
 */
function* adviseRange(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  advice: number,
): Path<number> {
  let unmapped = 0;
  for (let at = start; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) return -ENOMEM;
    if (vma.start > at) unmapped = -ENOMEM;
    const from = Math.max(at, vma.start);
    at = Math.min(end, vma.end);
    const error = yield* adviseVma(k, vma, from, at, advice);
    if (error !== 0) return error;
  }
  return unmapped;
}

/** Advices that leave the VMAs as they are: mmap_lock for reading will do. */
const READ_LOCK = [MADV_DONTNEED, MADV_REMOVE, MADV_PAGEOUT, MADV_COLLAPSE];
const WRITE_LOCK = [
  MADV_DONTFORK,
  MADV_DOFORK,
  MADV_MERGEABLE,
  MADV_UNMERGEABLE,
  MADV_HUGEPAGE,
  MADV_NOHUGEPAGE,
];

/**
 * Advises about [hva, hva + lenBytes); what lies behind a hole is done all the same.
 *
 * DONTNEED drops the pages, REMOVE those of the file as well; DONTFORK and DOFORK say whether a child gets them; MERGEABLE,
 * UNMERGEABLE whether KSM may merge them; HUGEPAGE, NOHUGEPAGE whether they may be huge; COLLAPSE
 * makes them huge, PAGEOUT swaps them out; POPULATE_READ and POPULATE_WRITE fault them in.
 * @param advice MADV_*
 * @returns 0; -EINVAL: unknown advice, odd address, not for that memory; -ENOMEM: something is not
 *   mapped; -EAGAIN: no memory for UNMERGEABLE; -EACCES: REMOVE of what is not shared and writable; besides those
 *   of filePunchHole, madviseCollapse and madvisePopulate
 */
export function* madvise(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  advice: number,
): Path<number> {
  const populate = advice === MADV_POPULATE_READ || advice === MADV_POPULATE_WRITE;
  const read = READ_LOCK.includes(advice);
  if (!read && !populate && !WRITE_LOCK.includes(advice)) return -EINVAL;
  if (hva % PAGE_SIZE !== 0 || lenBytes < 0 || hva < 0) return -EINVAL;
  const end = hva + Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;
  if (end === hva) return 0;
  if (populate) return yield* madvisePopulate(k, mm, hva, end, advice === MADV_POPULATE_WRITE);
  if (read) {
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  } else if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const error = yield* adviseRange(k, mm, hva, end, advice);
  if (read) mmapReadUnlock(mm);
  else mmapWriteUnlock(mm);
  return error;
}
