/**
 * guest_memfd: memory for guests as a file, part of which the host cannot reach. Compare
 * virt/kvm/guest_memfd.c; conversion in place as it is being proposed for it.
 *
 *   private   the guest alone: no mapping shows it, GUP cannot find it, it does not move
 *   shared    as shmem that is never swapped: mapped, pinned and moved like any page
 *
 * Pages are single, zeroed when they appear, never written back, and go by hole punching or with the
 * file. A page becomes private only if nobody holds it: whoever has pinned it would go on reading and
 * writing what is the guest's own. What bound slots hear of all this is in guestmemfd-state.ts.
 */
import { readOnce, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { downRead, downReadTrylock, downWrite, upRead, upWrite } from '../cache/rwsem.ts';
import { cachedOffsets, truncateInodePagesRange } from '../cache/truncate.ts';
import { unmapMappingRange } from '../cache/unmap.ts';
import { EAGAIN, EBUSY, EINVAL, ENODEV, EOPNOTSUPP } from '../errno.ts';
import { folioOf, folioPut, folioRefCount, folioUnlock } from '../folio/folio.ts';
import { lruAddDrainAll } from '../lru/batch.ts';
import { type Path, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { VM_SHARED } from '../vma/flags.ts';
import {
  createGuestMemfdState,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdInvalidateEnd,
  guestMemfdInvalidateStart,
  guestMemfdIsPrivate,
  guestMemfdSetPrivate,
  guestMemfdState,
} from './guestmemfd-state.ts';
import { mappingCreate, mappingGetUnevictable } from './mapping.ts';

/** Modes of fallocate(), as include/uapi/linux/falloc.h has them. */
export const FALLOC_FL_KEEP_SIZE = 0x01;
export const FALLOC_FL_PUNCH_HOLE = 0x02;

/**
 * KVM_CREATE_GUEST_MEMFD: a file of this size, for good; the caller is its first user.
 * @param flags GUEST_MEMFD_FLAG_MMAP: it may be mapped; GUEST_MEMFD_FLAG_INIT_SHARED: all of it is
 *   shared at first, otherwise private
 * @returns -EINVAL for other flags, or a size that is not of whole pages. Compare kvm_gmem_create()
 */
export const guestMemfdCreate = (
  k: Kernel,
  sizeBytes: number,
  flags: number,
): AddressSpace | number => {
  if ((flags & ~(GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED)) !== 0) return -EINVAL;
  if (sizeBytes <= 0 || sizeBytes % PAGE_SIZE !== 0) return -EINVAL;
  const mapping = mappingCreate(k, 'gmem', sizeBytes / PAGE_SIZE);
  setField(mapping, 'gmem', createGuestMemfdState(mapping.nrPages, flags));
  return mapping;
};

/** May it be mapped so? @returns 0; -ENODEV: not at all; -EINVAL: not privately. Compare kvm_gmem_mmap() */
export const guestMemfdMmap = (mapping: AddressSpace, vmFlags: number): number => {
  if ((guestMemfdState(mapping).flags & GUEST_MEMFD_FLAG_MMAP) === 0) return -ENODEV;
  return (vmFlags & VM_SHARED) === 0 ? -EINVAL : 0;
};

/**
 * The page at an offset, made if it is a hole, whichever side it is on.
 * @returns the page, locked and with a reference for the caller; -EINVAL beyond the end; -ENOMEM.
 *   Compare kvm_gmem_get_folio()
 */
export const guestMemfdGetFolio = (k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> =>
  mappingGetUnevictable(k, mapping, pgoff, true);

/**
 * A page for a mapping of the host. @returns as guestMemfdGetFolio; -EINVAL also for a private page:
 * SIGBUS. Compare kvm_gmem_fault_user_mapping()
 */
export function* guestMemfdGetPage(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  if (pgoff >= mapping.nrPages) return -EINVAL;
  // A conversion looks at the references with the lock held: it sees this one, or this sees what it did.
  yield* downRead(mapping.invalidateLock);
  const page = guestMemfdIsPrivate(mapping, pgoff)
    ? -EINVAL
    : yield* guestMemfdGetFolio(k, mapping, pgoff);
  upRead(mapping.invalidateLock);
  return page;
}

/**
 * fallocate(): pages of [offset, offset + lenBytes) appear, or go with FALLOC_FL_PUNCH_HOLE.
 * @param mode FALLOC_FL_KEEP_SIZE has to be among it
 * @returns 0; -EOPNOTSUPP for another mode; -EINVAL: not of whole pages, or beyond the end; -ENOMEM
 */
export function* guestMemfdFallocate(
  k: Kernel,
  mapping: AddressSpace,
  mode: number,
  offset: number,
  lenBytes: number,
): Path<number> {
  if (offset < 0 || lenBytes <= 0) return -EINVAL;
  if ((mode & FALLOC_FL_KEEP_SIZE) === 0) return -EOPNOTSUPP;
  if ((mode & ~(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE)) !== 0) return -EOPNOTSUPP;
  if (offset % PAGE_SIZE !== 0 || lenBytes % PAGE_SIZE !== 0) return -EINVAL;
  const first = offset / PAGE_SIZE;
  const end = first + lenBytes / PAGE_SIZE;
  if ((mode & FALLOC_FL_PUNCH_HOLE) !== 0) return yield* punchHole(k, mapping, first, end);
  return yield* allocate(k, mapping, first, end);
}

/** Zaps what bound slots have, then the pages go. Whoever holds one by GUP keeps the frame. Compare kvm_gmem_punch_hole() */
function* punchHole(k: Kernel, mapping: AddressSpace, first: number, end: number): Path<number> {
  const stop = Math.min(end, mapping.nrPages);
  yield* downWrite(mapping.invalidateLock);
  guestMemfdInvalidateStart(k, mapping, first, stop);
  if (k.watched) yield YP_NOTIFIER_START;
  yield* truncateInodePagesRange(k, mapping, first * PAGE_SIZE, stop * PAGE_SIZE);
  if (k.watched) yield YP_NOTIFIER_END;
  guestMemfdInvalidateEnd(k, mapping, first, stop);
  upWrite(mapping.invalidateLock);
  return 0;
}

/** Compare kvm_gmem_allocate() */
function* allocate(k: Kernel, mapping: AddressSpace, first: number, end: number): Path<number> {
  if (end > mapping.nrPages) return -EINVAL;
  let error = 0;
  yield* downRead(mapping.invalidateLock);
  for (let pgoff = first; pgoff < end && error === 0; pgoff++) {
    const page = yield* guestMemfdGetFolio(k, mapping, pgoff);
    if (page < 0) {
      error = page;
      break;
    }
    folioUnlock(k, folioOf(k, page));
    folioPut(k, folioOf(k, page));
  }
  upRead(mapping.invalidateLock);
  return error;
}

/** Does anybody but the file hold the page? Entries are gone, so what is left are pins and references of users. */
const isHeld = (k: Kernel, page: number): boolean => {
  const folio = folioOf(k, page);
  if (folioRefCount(k, folio) === 1) return false;
  // A batch of the LRU has one too, which means nothing.
  lruAddDrainAll(k);
  return folioRefCount(k, folio) !== 1;
};

/**
 * Pages [first, first + nrPages) change sides, all of them or none. To private: mappings of the host lose
 * them, and if then anybody still holds one, by GUP or for a transfer, nothing is done.
 * @returns 0; -EINVAL beyond the end; -EAGAIN: somebody holds a page, try again when he has let go
 */
export function* guestMemfdConvert(
  k: Kernel,
  mapping: AddressSpace,
  first: number,
  nrPages: number,
  toPrivate: boolean,
): Path<number> {
  const end = first + nrPages;
  if (first < 0 || nrPages <= 0 || end > mapping.nrPages) return -EINVAL;
  yield* downWrite(mapping.invalidateLock);
  guestMemfdInvalidateStart(k, mapping, first, end);
  if (k.watched) yield YP_NOTIFIER_START;
  let error = 0;
  if (toPrivate) {
    yield* unmapMappingRange(k, mapping, first, nrPages, false);
    // From here to the end nothing yields: GUP-fast that comes now finds no entry, or the count moved.
    if (!k.sabotage.gmemConvertsHeld)
      for (const pgoff of cachedOffsets(mapping, first, end))
        if (isHeld(k, mapping.pages.get(pgoff) ?? -1)) error = -EAGAIN;
  }
  if (error === 0)
    for (let pgoff = first; pgoff < end; pgoff++) guestMemfdSetPrivate(mapping, pgoff, toPrivate);
  if (k.watched) yield YP_NOTIFIER_END;
  guestMemfdInvalidateEnd(k, mapping, first, end);
  upWrite(mapping.invalidateLock);
  return error;
}

/**
 * A folio of the file is about to be copied to another frame: bound slots let go of it, until
 * guestMemfdMigrateEnd().
 * @returns 0; -EAGAIN: pages of the file are going or changing sides; -EBUSY: private. Compare
 *   kvm_gmem_migrate_folio()
 */
export const guestMemfdMigrateBegin = (k: Kernel, mapping: AddressSpace, folio: number): number => {
  if (!downReadTrylock(mapping.invalidateLock)) return -EAGAIN;
  const pgoff = readOnce(k.state.frames.index, folio);
  if (guestMemfdIsPrivate(mapping, pgoff)) {
    upRead(mapping.invalidateLock);
    return -EBUSY;
  }
  guestMemfdInvalidateStart(k, mapping, pgoff, pgoff + 1);
  return 0;
};

/** @param pgoff of the page that has moved, or stayed */
export const guestMemfdMigrateEnd = (k: Kernel, mapping: AddressSpace, pgoff: number): void => {
  guestMemfdInvalidateEnd(k, mapping, pgoff, pgoff + 1);
  upRead(mapping.invalidateLock);
};

/**
 * A page has gone bad: bound slots let go of it, and find the mark when they ask again. It stays in the
 * file. Compare kvm_gmem_error_folio()
 */
export function* guestMemfdPoisoned(k: Kernel, mapping: AddressSpace, pgoff: number): Path<void> {
  yield* downRead(mapping.invalidateLock);
  guestMemfdInvalidateStart(k, mapping, pgoff, pgoff + 1);
  guestMemfdInvalidateEnd(k, mapping, pgoff, pgoff + 1);
  upRead(mapping.invalidateLock);
}
