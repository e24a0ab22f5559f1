/**
 * Truncation of shmem and holes in it: pages in memory, pages that are swapped out, and folios of 2 MiB,
 * which are split where only a part of them goes. Compare mm/shmem.c:shmem_undo_range(),
 * shmem_setattr(), shmem_fallocate(), mm/truncate.c:truncate_inode_partial_folio().
 */
import { mapDelete, readOnce, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { downWrite, upWrite } from '../cache/rwsem.ts';
import { cachedOffsets, truncateFolio, zeroEnds } from '../cache/truncate.ts';
import { unmapMappingRange } from '../cache/unmap.ts';
import { EPERM } from '../errno.ts';
import { folioMarkDirty, folioNrPages, folioOf, folioPut, folioUnlock } from '../folio/folio.ts';
import { type Path, YP_TRUNCATE_UNMAPPED } from '../path.ts';
import { freeSwapAndCache } from '../swap/cache.ts';
import { splitFolio } from '../thp/split.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { mappingLockPage } from './mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_SHRINK, F_SEAL_WRITE } from './seals.ts';
import { shmemGetPage } from './shmem.ts';

/** Zeroes [startByte, endByte), which lies in one page, in memory or swapped out. @returns 0 or -ENOMEM */
function* zeroInPage(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const pgoff = Math.floor(startByte / PAGE_SIZE);
  if (!mapping.pages.has(pgoff) && !mapping.swapped.has(pgoff)) return 0;
  const page = yield* shmemGetPage(k, mapping, pgoff);
  if (page < 0) return page;
  const from = k.memory.pageOffset(page) + (startByte % PAGE_SIZE);
  k.memory.setBytes(from, new Uint8Array(endByte - startByte));
  const folio = folioOf(k, page);
  folioMarkDirty(k, folio);
  folioUnlock(k, folio);
  folioPut(k, folio);
  return 0;
}

/** Zeroes the pages that a folio has in [first, end). */
const zeroPart = (
  k: Kernel,
  folio: number,
  index: number,
  nr: number,
  first: number,
  end: number,
): void => {
  for (let at = Math.max(first, index); at < Math.min(end, index + nr); at++)
    k.memory.zeroPage(folio + (at - index));
  folioMarkDirty(k, folio);
};

/**
 * The page at an offset goes with its folio, if all of that lies in [first, end). Of a larger one the
 * part is zeroed, and the folio split: then the page is one of its own, and goes. Somebody may hold the
 * folio, so that it cannot be split: it stays, with zeroes.
 * @param kept folios that have turned out to stay
 */
function* undoAt(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  first: number,
  end: number,
  kept: Set<number>,
): Path<boolean> {
  for (let taken = false; ; taken = true) {
    const page = yield* mappingLockPage(k, mapping, pgoff);
    if (page < 0) return taken;
    const folio = folioOf(k, page);
    const index = readOnce(k.state.frames.index, folio);
    const nr = folioNrPages(k, folio);
    const whole = index >= first && index + nr <= end;
    if (whole) yield* truncateFolio(k, mapping, folio);
    else zeroPart(k, folio, index, nr, first, end);
    const split = !whole && (yield* splitFolio(k, folio)) === 0;
    if (!whole && !split) kept.add(folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    if (!split) return true;
  }
}

/**
 * Whatever is at an offset goes, as a page or as the slot that it has been swapped out to: it may become
 * the other while it is waited for. @returns false: there was nothing, or nothing that can go
 */
function* undoEntry(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  first: number,
  end: number,
  kept: Set<number>,
): Path<boolean> {
  for (;;) {
    const slot = mapping.swapped.get(pgoff);
    if (slot !== undefined) {
      mapDelete(mapping.swapped, pgoff);
      freeSwapAndCache(k, slot);
      return true;
    }
    const page = mapping.pages.get(pgoff);
    if (page === undefined || kept.has(folioOf(k, page))) return false;
    if (yield* undoAt(k, mapping, pgoff, first, end, kept)) return true;
  }
}

/** Offsets in [first, end) at which there is something, in memory or swapped out, in order. */
const entryOffsets = (mapping: AddressSpace, first: number, end: number): number[] => {
  const swapped = [...mapping.swapped.keys()].filter((pgoff) => pgoff >= first && pgoff < end);
  const cached = cachedOffsets(mapping, first, end);
  return swapped.length === 0 ? cached : [...cached, ...swapped].sort((a, b) => a - b);
};

/**
 * [startByte, endByte) of a file has nothing any more: whole pages go, parts of pages are zeroed.
 * @param endByte Infinity: to the end. Then no page comes back meanwhile, since the file has been made
 *   shorter before; into a hole one may
 * @returns 0, or -ENOMEM: a page that is swapped out could not be brought back to be zeroed in part
 */
function* undoRange(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const first = Math.ceil(startByte / PAGE_SIZE);
  const end = Math.floor(endByte / PAGE_SIZE);
  const error = yield* zeroEnds(k, mapping, PAGE_SIZE, startByte, endByte, zeroInPage);
  if (error !== 0) return error;
  const kept = new Set<number>();
  for (;;) {
    let found = 0;
    for (const pgoff of entryOffsets(mapping, first, end))
      if (yield* undoEntry(k, mapping, pgoff, first, end, kept)) found++;
    // A page may have come back from somebody who had found it before.
    if (found === 0 || Number.isFinite(end)) return 0;
  }
}

/**
 * ftruncate() of shmem. Its size is whole pages; what the last one has behind the new end is zeroed.
 * @returns 0; -EPERM sealed; -ENOMEM
 */
export function* shmemTruncate(k: Kernel, mapping: AddressSpace, sizeBytes: number): Path<number> {
  const nrPages = Math.ceil(sizeBytes / PAGE_SIZE);
  const old = mapping.nrPages * PAGE_SIZE;
  if (sizeBytes < old && (mapping.seals & F_SEAL_SHRINK) !== 0) return -EPERM;
  if (sizeBytes > old && (mapping.seals & F_SEAL_GROW) !== 0) return -EPERM;
  yield* downWrite(mapping.invalidateLock);
  // First: whoever faults from now on finds the new end.
  setField(mapping, 'nrPages', nrPages);
  let error = 0;
  if (sizeBytes < old) {
    yield* unmapMappingRange(k, mapping, nrPages, Number.POSITIVE_INFINITY, true);
    if (k.watched) yield YP_TRUNCATE_UNMAPPED;
    error = yield* undoRange(k, mapping, sizeBytes, Number.POSITIVE_INFINITY);
    // Private copies of pages that were found before, and mapped since.
    yield* unmapMappingRange(k, mapping, nrPages, Number.POSITIVE_INFINITY, true);
  }
  upWrite(mapping.invalidateLock);
  return error;
}

/**
 * fallocate(FALLOC_FL_PUNCH_HOLE): [startByte, endByte) reads as zeroes, and whole pages of it take no
 * memory. Private copies stay. @returns 0; -EPERM sealed; -ENOMEM
 */
export function* shmemPunchHole(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  if ((mapping.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) !== 0) return -EPERM;
  const first = Math.ceil(startByte / PAGE_SIZE);
  const end = Math.floor(endByte / PAGE_SIZE);
  yield* downWrite(mapping.invalidateLock);
  if (first < end) yield* unmapMappingRange(k, mapping, first, end - first, false);
  const error = yield* undoRange(k, mapping, startByte, endByte);
  upWrite(mapping.invalidateLock);
  return error;
}
