/**
 * Does a VMA allow what GUP is to do with it? Compare mm/gup.c, check_vma_flags().
 *
 * The first rule that refuses gives the error. Protection keys and other rights of the architecture
 * are not modelled; a shadow stack does not exist on riscv as we have it.
 */
import { EFAULT, EOPNOTSUPP } from '../errno.ts';
import { vmaIsSecretmem } from '../fs/secretmem.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import {
  isCowMapping,
  VM_HUGETLB,
  VM_IO,
  VM_MAYREAD,
  VM_PFNMAP,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
  vmaIsAnonymous,
} from '../vma/flags.ts';
import {
  FOLL_ANON,
  FOLL_FORCE,
  FOLL_LONGTERM,
  FOLL_PIN,
  FOLL_SPLIT_PMD,
  FOLL_WRITE,
} from './flags.ts';

/** Memory that has page structs to count. Compare vma_can_gup(). */
export const vmaCanGup = (vma: Vma): boolean => (vma.flags & (VM_IO | VM_PFNMAP)) === 0;

/** What GUP has to know of a kind of file. */
interface FileRules {
  /** Its pages are blocks of persistent memory, which a pin without time limit would keep from being truncated. */
  fsdax: boolean;
  /**
   * It is written back, and the file system wants to know of the first write to each page of a shared
   * writable mapping. Compare vma_needs_dirty_tracking().
   */
  tracksDirty: boolean;
}

const FILE_RULES: Record<AddressSpace['kind'], FileRules> = {
  shmem: { fsdax: false, tracksDirty: false },
  hugetlbfs: { fsdax: false, tracksDirty: false },
  secretmem: { fsdax: false, tracksDirty: false },
  gmem: { fsdax: false, tracksDirty: false },
  device: { fsdax: false, tracksDirty: false },
  extent: { fsdax: false, tracksDirty: true },
  fsdax: { fsdax: true, tracksDirty: true },
};

const vmaIsFsdax = ({ mapping }: Vma): boolean =>
  mapping !== null && FILE_RULES[mapping.kind].fsdax;

/** Is the file written back, so that its file system has to know of first writes? */
export const tracksDirty = (mapping: AddressSpace): boolean => FILE_RULES[mapping.kind].tracksDirty;

/** Of a shared writable VMA: does its file want to know of the first write to each page? */
export const vmaNeedsDirtyTracking = ({ flags, mapping }: Vma): boolean =>
  (flags & (VM_SHARED | VM_WRITE)) === (VM_SHARED | VM_WRITE) &&
  mapping !== null &&
  FILE_RULES[mapping.kind].tracksDirty;

/** A write through a pin without time limit would come long after writeback. */
const writableFileMappingAllowed = (k: Kernel, vma: Vma, flags: number): boolean => {
  const longterm = FOLL_PIN | FOLL_LONGTERM;
  if ((flags & longterm) !== longterm || k.sabotage.longtermPinsTracked) return true;
  return !vmaNeedsDirtyTracking(vma);
};

/** Reading without VM_READ, writing without VM_WRITE: what FOLL_FORCE overrides. @returns 0 or -EFAULT */
const checkAccess = (k: Kernel, vma: Vma, flags: number): number => {
  const force = (flags & FOLL_FORCE) !== 0;
  if ((flags & FOLL_WRITE) !== 0) {
    if (!writableFileMappingAllowed(k, vma, flags)) return -EFAULT;
    if ((vma.flags & VM_WRITE) !== 0) return 0;
    return force && isCowMapping(vma.flags) ? 0 : -EFAULT;
  }
  if ((vma.flags & VM_READ) !== 0) return 0;
  return force && (vma.flags & VM_MAYREAD) !== 0 ? 0 : -EFAULT;
};

/** @returns 0, -EFAULT or -EOPNOTSUPP */
export const checkVmaFlags = (k: Kernel, vma: Vma, flags: number): number => {
  if (!vmaCanGup(vma)) return -EFAULT;
  if ((flags & FOLL_ANON) !== 0 && !vmaIsAnonymous(vma)) return -EFAULT;
  if ((flags & FOLL_LONGTERM) !== 0 && vmaIsFsdax(vma)) return -EOPNOTSUPP;
  if ((flags & FOLL_SPLIT_PMD) !== 0 && (vma.flags & VM_HUGETLB) !== 0) return -EOPNOTSUPP;
  if (vmaIsSecretmem(vma)) return -EFAULT;
  return checkAccess(k, vma, flags);
};
