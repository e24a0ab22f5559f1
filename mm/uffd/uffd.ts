/**
 * userfaultfd's write protection: a process hears of the next write to each page of its memory, and
 * says when that may go on. Compare fs/userfaultfd.c, and mm/userfaultfd.c:mwriteprotect_range().
 *
 *   uffdRegister()                the VMA has VM_UFFD_WP
 *   uffdWriteprotect(true)        entries lose W and get PTE_UFFD_WP; where a file's page is missing, a marker
 *   a write                       waits: handleUserfault()
 *   uffdRead()                    says where
 *   uffdWriteprotect(false)       the bit goes, the write goes on
 *
 * Reading, UNSHARE among it, is not its business. One context for each address space, where Linux has
 * as many as there are file descriptors; no missing and minor faults, and mremap() ends a registration.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { EBUSY, EINVAL, ENOENT, ENOMEM, EPERM } from '../errno.ts';
import { vmaPageSize } from '../hugetlb/vma.ts';
import type { Path } from '../path.ts';
import { vmPageProt } from '../pgtable/pte.ts';
import { taskSize } from '../pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { changeProtection } from '../vma/change-protection.ts';
import { MM_CP_TRY_CHANGE_WRITABLE, MM_CP_UFFD_WP, MM_CP_UFFD_WP_RESOLVE } from '../vma/cp.ts';
import { VM_MAYWRITE, VM_SPECIAL, VM_HUGETLB, VM_UFFD_WP } from '../vma/flags.ts';
import {
  mmapReadLock,
  mmapReadTrylock,
  mmapReadUnlock,
  mmapWriteLock,
  mmapWriteTrylock,
  mmapWriteUnlock,
} from '../vma/lock.ts';
import { modifyFlags, vmaIndexAbove } from '../vma/vma.ts';
import { createUffd, UFFD_FEATURE_EVENT_FORK } from './state.ts';

/**
 * Opens the context of an address space. Without it uffdRegister() opens one without features.
 * @param features UFFD_FEATURE_*
 * @returns 0; -EBUSY: there is one
 */
export const uffdOpen = (mm: MmStruct, features = 0): number => {
  if (mm.uffd !== null) return -EBUSY;
  setField(mm, 'uffd', createUffd(features));
  return 0;
};

/** A range that may be asked for. @returns 0 or -EINVAL. Compare validate_range() */
const checkRange = (k: Kernel, hva: number, lenBytes: number): number => {
  if (hva % PAGE_SIZE !== 0 || lenBytes % PAGE_SIZE !== 0) return -EINVAL;
  return hva < 0 || lenBytes <= 0 || hva + lenBytes > taskSize(k) ? -EINVAL : 0;
};

/** Memory of a kind that write protection works for. Compare vma_can_userfault(). */
const canUserfault = (vma: Vma): boolean =>
  vma.mapping === null
    ? (vma.flags & VM_SPECIAL) === 0
    : vma.mapping.kind === 'shmem' || vma.mapping.kind === 'hugetlbfs';

/** The VMAs that [start, end) meets. */
const vmasOf = (mm: MmStruct, start: number, end: number): Vma[] =>
  mm.vmas.filter((vma) => vma.start < end && vma.end > start);

/**
 * Registers [hva, hva + lenBytes) for write protection; nothing is protected yet. Holes are no error.
 * @returns 0; -EINVAL: no range, nothing mapped, not for that memory, huge pages cut; -EPERM: a VMA
 *   that can never be written; -ENOMEM: nothing mapped there or above
 */
export function* uffdRegister(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> {
  const error = checkRange(k, hva, lenBytes);
  if (error !== 0) return error;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const outcome = yield* registerLocked(k, mm, hva, hva + lenBytes);
  mmapWriteUnlock(mm);
  return outcome;
}

function* registerLocked(k: Kernel, mm: MmStruct, start: number, end: number): Path<number> {
  if (vmaIndexAbove(mm, start) === mm.vmas.length) return -ENOMEM;
  const vmas = vmasOf(mm, start, end);
  if (vmas.length === 0) return -EINVAL;
  for (const vma of vmas) {
    if (!canUserfault(vma)) return -EINVAL;
    if ((vma.flags & VM_MAYWRITE) === 0) return -EPERM;
    if (start % vmaPageSize(vma) !== 0 || end % vmaPageSize(vma) !== 0) return -EINVAL;
  }
  if (mm.uffd === null) setField(mm, 'uffd', createUffd(0));
  for (let at = start; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) return 0;
    const from = Math.max(at, vma.start);
    at = Math.min(end, vma.end);
    const error = yield* modifyFlags(k, mm, from, at, vma.flags | VM_UFFD_WP);
    if (error !== 0) return error;
  }
  return 0;
}

/**
 * Ends the registration of [hva, hva + lenBytes): nothing is protected any more, and faults that wait
 * there go on. @returns 0 or -EINVAL
 */
export function* uffdUnregister(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<number> {
  const error = checkRange(k, hva, lenBytes);
  if (error !== 0) return error;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const outcome = yield* unregisterLocked(k, mm, hva, hva + lenBytes);
  mmapWriteUnlock(mm);
  uffdWake(mm, hva, lenBytes);
  return outcome;
}

function* unregisterLocked(k: Kernel, mm: MmStruct, start: number, end: number): Path<number> {
  for (let at = start; at < end; ) {
    const vma = mm.vmas[vmaIndexAbove(mm, at)];
    if (vma === undefined || vma.start >= end) return 0;
    const from = Math.max(at, vma.start);
    at = Math.min(end, vma.end);
    if ((vma.flags & VM_UFFD_WP) === 0) continue;
    yield* protectVma(k, vma, from, at, false);
    const error = yield* modifyFlags(k, mm, from, at, vma.flags & ~VM_UFFD_WP);
    if (error !== 0) return error;
  }
  return 0;
}

/** Compare uffd_wp_range(). @returns 0 or -ENOMEM */
const protectVma = (
  k: Kernel,
  vma: Vma,
  start: number,
  end: number,
  protect: boolean,
): Path<number> => {
  const cp = protect ? MM_CP_UFFD_WP : MM_CP_UFFD_WP_RESOLVE | MM_CP_TRY_CHANGE_WRITABLE;
  return changeProtection(k, vma, start, end, vmPageProt(vma.flags), cp);
};

/**
 * UFFDIO_WRITEPROTECT: the next write to each page of [hva, hva + lenBytes) is to wait; or it may go on,
 * and whoever waits there with it. Anonymous memory that has not been touched cannot be protected.
 * @returns 0; -EINVAL: no range, huge pages cut; -ENOENT: something is not registered, what lies below
 *   is done; -ENOMEM: no table for a marker
 */
export function* uffdWriteprotect(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  protect: boolean,
): Path<number> {
  const error = checkRange(k, hva, lenBytes);
  if (error !== 0) return error;
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const outcome = yield* writeprotectLocked(k, mm, hva, hva + lenBytes, protect);
  mmapReadUnlock(mm);
  if (outcome === 0 && !protect) uffdWake(mm, hva, lenBytes);
  return outcome;
}

function* writeprotectLocked(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  protect: boolean,
): Path<number> {
  const vmas = vmasOf(mm, start, end);
  if (vmas.length === 0) return -ENOENT;
  for (const vma of vmas) {
    if ((vma.flags & VM_UFFD_WP) === 0) return -ENOENT;
    const unit = (vma.flags & VM_HUGETLB) !== 0 ? vmaPageSize(vma) : PAGE_SIZE;
    if (start % unit !== 0 || end % unit !== 0) return -EINVAL;
    const error = yield* protectVma(
      k,
      vma,
      Math.max(start, vma.start),
      Math.min(end, vma.end),
      protect,
    );
    if (error !== 0) return error;
  }
  return 0;
}

/** What the handler reads: where the oldest fault waits that it has not heard of; -1: there is none. */
export const uffdRead = (mm: MmStruct): number => {
  const fault = mm.uffd?.pending.find(({ read }) => !read);
  if (fault === undefined) return -1;
  setField(fault, 'read', true);
  return fault.hva;
};

/** UFFDIO_WAKE: faults that wait in [hva, hva + lenBytes) look again. */
export const uffdWake = (mm: MmStruct, hva: number, lenBytes: number): void => {
  for (const fault of mm.uffd?.pending ?? [])
    if (fault.hva >= hva && fault.hva < hva + lenBytes) setField(fault, 'woken', true);
};

/** Of a fork: flags of the child's VMA, which stays registered only with UFFD_FEATURE_EVENT_FORK. Compare dup_userfaultfd(). */
export const uffdForkFlags = (child: MmStruct, src: Vma): number => {
  const features = src.mm.uffd?.features ?? 0;
  if ((features & UFFD_FEATURE_EVENT_FORK) === 0) return src.flags & ~VM_UFFD_WP;
  if ((src.flags & VM_UFFD_WP) !== 0 && child.uffd === null)
    setField(child, 'uffd', createUffd(features));
  return src.flags;
};
