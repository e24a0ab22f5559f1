/**
 * Truncation of files of hugetlbfs, and holes in them: whole huge pages go back to the pool, and the
 * promises of that part of the file with them. Compare fs/hugetlbfs/inode.c, hugetlb_vmtruncate(),
 * remove_inode_hugepages() and hugetlbfs_punch_hole().
 */
import { mapDelete, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { filemapInvalidateFolio, filemapRemoveFolio } from '../cache/remove.ts';
import { downWrite, upWrite } from '../cache/rwsem.ts';
import { zeroEnds } from '../cache/truncate.ts';
import { unmapMappingFolio, unmapMappingRange } from '../cache/unmap.ts';
import { EINVAL, EPERM } from '../errno.ts';
import { folioMapcount, folioPut, folioUnlock } from '../folio/folio.ts';
import { mappingLockPage } from '../fs/mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE } from '../fs/seals.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { hugetlbFaultingOf, hugetlbFaultLock, hugetlbFaultUnlock } from './lock.ts';
import { hugetlbAcctMemory } from './pool.ts';
import { fileHstate } from './vma.ts';

/** Huge pages of [first, end) that the file has, was promised, or is about to get by a fault. */
const indicesOf = (k: Kernel, mapping: AddressSpace, first: number, end: number): number[] => {
  const nr = 1 << mapping.hugeOrder;
  const indices = new Set<number>(hugetlbFaultingOf(k, mapping));
  for (const pgoff of mapping.pages.keys()) indices.add(pgoff / nr);
  for (const index of mapping.resv?.pages.keys() ?? []) indices.add(index);
  return [...indices].filter((index) => index >= first && index < end).sort((a, b) => a - b);
};

/** One huge page leaves the file, with the promise of it. The lock of faults on it is held. */
function* removeAt(k: Kernel, mapping: AddressSpace, index: number): Path<void> {
  const pgoff = index * (1 << mapping.hugeOrder);
  const folio = yield* mappingLockPage(k, mapping, pgoff);
  const promised = mapping.resv !== null && mapDelete(mapping.resv.pages, index);
  if (folio < 0) {
    // Promised, and not there: the pool need not keep a page for it.
    if (promised) hugetlbAcctMemory(fileHstate(k, mapping), -1);
    return;
  }
  if (folioMapcount(k, folio) > 0) yield* unmapMappingFolio(k, mapping, folio);
  filemapInvalidateFolio(k, mapping, folio);
  filemapRemoveFolio(k, mapping, pgoff, folio);
  folioUnlock(k, folio);
  folioPut(k, folio);
}

/** The huge pages [first, end) of a file, by number, leave it. Nothing of them is mapped. */
function* removePages(k: Kernel, mapping: AddressSpace, first: number, end: number): Path<void> {
  for (const index of indicesOf(k, mapping, first, end)) {
    yield* hugetlbFaultLock(k, mapping, index);
    yield* removeAt(k, mapping, index);
    hugetlbFaultUnlock(k, mapping, index);
  }
}

/**
 * ftruncate() of hugetlbfs, by whole huge pages. Private copies behind the new end go as well.
 * @returns 0; -EINVAL for a size that is no multiple; -EPERM sealed
 */
export function* hugetlbTruncate(
  k: Kernel,
  mapping: AddressSpace,
  sizeBytes: number,
): Path<number> {
  const nr = 1 << mapping.hugeOrder;
  if (sizeBytes % (nr * PAGE_SIZE) !== 0) return -EINVAL;
  const nrPages = sizeBytes / PAGE_SIZE;
  if (nrPages < mapping.nrPages && (mapping.seals & F_SEAL_SHRINK) !== 0) return -EPERM;
  if (nrPages > mapping.nrPages && (mapping.seals & F_SEAL_GROW) !== 0) return -EPERM;
  yield* downWrite(mapping.invalidateLock);
  const shorter = nrPages < mapping.nrPages;
  setField(mapping, 'nrPages', nrPages);
  if (shorter) {
    yield* unmapMappingRange(k, mapping, nrPages, Number.POSITIVE_INFINITY, true);
    yield* removePages(k, mapping, nrPages / nr, Number.POSITIVE_INFINITY);
  }
  upWrite(mapping.invalidateLock);
  return 0;
}

/** Zeroes [startByte, endByte) of a file, which lies in one huge page, if that is there. @returns 0 */
function* zeroInHugePage(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const size = (1 << mapping.hugeOrder) * PAGE_SIZE;
  const within = startByte % size;
  const folio = yield* mappingLockPage(k, mapping, (startByte - within) / PAGE_SIZE);
  if (folio < 0) return 0;
  k.memory.setBytes(k.memory.pageOffset(folio) + within, new Uint8Array(endByte - startByte));
  folioUnlock(k, folio);
  folioPut(k, folio);
  return 0;
}

/**
 * fallocate(FALLOC_FL_PUNCH_HOLE) of hugetlbfs: huge pages that lie in [startByte, endByte) as a whole
 * go, and whoever maps them loses private copies too; of others the part is zeroed.
 * @returns 0, or -EPERM sealed
 */
export function* hugetlbPunchHole(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  if ((mapping.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) !== 0) return -EPERM;
  const nr = 1 << mapping.hugeOrder;
  const size = nr * PAGE_SIZE;
  const first = Math.ceil(startByte / size);
  const end = Math.floor(endByte / size);
  yield* downWrite(mapping.invalidateLock);
  yield* zeroEnds(k, mapping, size, startByte, endByte, zeroInHugePage);
  if (first < end) {
    yield* unmapMappingRange(k, mapping, first * nr, (end - first) * nr, true);
    yield* removePages(k, mapping, first, end);
  }
  upWrite(mapping.invalidateLock);
  return 0;
}
