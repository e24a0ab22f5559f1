/**
 * Pages leave the page cache: beyond a file's new end, in a hole, before direct I/O goes past them.
 * Compare mm/truncate.c.
 *
 * Whoever holds a page by GUP keeps the frame, and the file has none there, or another: nobody waits
 * for pins. Only of DAX, where the frame is the block, that must not be (mm/fs/dax/).
 */
import { readOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EBUSY } from '../errno.ts';
import { folioMapcount, folioOf, folioPut, folioTestDirty, folioUnlock } from '../folio/folio.ts';
import { mappingLockPage } from '../fs/mapping.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { folioWaitWriteback } from './clean.ts';
import { filemapInvalidateFolio, filemapReleaseFolio, filemapRemoveFolio } from './remove.ts';
import { unmapMappingFolio, unmapMappingRange } from './unmap.ts';

/** Offsets of the pages that the cache has in [first, end), in order. */
export const cachedOffsets = ({ pages }: AddressSpace, first: number, end: number): number[] => {
  const found: number[] = [];
  if (end - first <= pages.size) {
    for (let pgoff = first; pgoff < end; pgoff++) if (pages.has(pgoff)) found.push(pgoff);
    return found;
  }
  for (const pgoff of pages.keys()) if (pgoff >= first && pgoff < end) found.push(pgoff);
  return found.sort((a, b) => a - b);
};

/**
 * A locked folio goes, whatever is in it: nobody maps it, it is not dirty, and what was promised for it
 * is given back. Compare truncate_cleanup_folio(), truncate_inode_folio()
 */
export function* truncateFolio(k: Kernel, mapping: AddressSpace, folio: number): Path<void> {
  yield* folioWaitWriteback(k, folio);
  if (folioMapcount(k, folio) > 0) yield* unmapMappingFolio(k, mapping, folio);
  filemapInvalidateFolio(k, mapping, folio);
  filemapRemoveFolio(k, mapping, readOnce(k.state.frames.index, folio), folio);
}

/** Zeroes [startByte, endByte) of a file, which lies in one page. @returns 0 or -errno */
type ZeroInPage = (
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
) => Path<number>;

/**
 * Zeroes what [startByte, endByte) has of pages at its ends that it does not cover: the first, then the
 * last, unless both are one.
 * @param unitBytes of a page
 * @param endByte Infinity: to the end, where nothing is to be zeroed
 * @returns 0, or the first error of `zeroInPage`
 */
export function* zeroEnds(
  k: Kernel,
  mapping: AddressSpace,
  unitBytes: number,
  startByte: number,
  endByte: number,
  zeroInPage: ZeroInPage,
): Path<number> {
  const first = Math.ceil(startByte / unitBytes);
  const end = Math.floor(endByte / unitBytes);
  const headEnd = Math.min(endByte, first * unitBytes);
  if (startByte < headEnd) {
    const error = yield* zeroInPage(k, mapping, startByte, headEnd);
    if (error !== 0) return error;
  }
  if (end < first || !Number.isFinite(end) || end * unitBytes === endByte) return 0;
  return yield* zeroInPage(k, mapping, end * unitBytes, endByte);
}

/** The same if the cache has the page, for zeroEnds. @returns 0 */
function* zeroInPage(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<number> {
  const pgoff = Math.floor(startByte / PAGE_SIZE);
  const page = yield* mappingLockPage(k, mapping, pgoff);
  if (page < 0) return 0;
  const folio = folioOf(k, page);
  yield* folioWaitWriteback(k, folio);
  const from = k.memory.pageOffset(page) + (startByte % PAGE_SIZE);
  k.memory.setBytes(from, new Uint8Array(endByte - startByte));
  folioUnlock(k, folio);
  folioPut(k, folio);
  return 0;
}

/**
 * Takes the whole pages of [startByte, endByte) out of the cache, and zeroes what there is of pages at
 * its ends. What is not in the cache is not looked at, and nothing becomes dirty. For folios of one
 * page. The caller sees to it that no page comes back meanwhile.
 * @param endByte Infinity: to the end. Compare truncate_inode_pages_range()
 */
export function* truncateInodePagesRange(
  k: Kernel,
  mapping: AddressSpace,
  startByte: number,
  endByte: number,
): Path<void> {
  const first = Math.ceil(startByte / PAGE_SIZE);
  const end = Math.floor(endByte / PAGE_SIZE);
  yield* zeroEnds(k, mapping, PAGE_SIZE, startByte, endByte, zeroInPage);
  for (;;) {
    const offsets = cachedOffsets(mapping, first, end);
    if (offsets.length === 0) return;
    for (const pgoff of offsets) {
      const folio = yield* mappingLockPage(k, mapping, pgoff);
      if (folio < 0) continue;
      yield* truncateFolio(k, mapping, folio);
      folioUnlock(k, folio);
      folioPut(k, folio);
    }
  }
}

/**
 * Unmaps and takes away the clean pages of [pgoff, endPgoff), so that what is read next comes from the
 * device. That somebody has a reference is no obstacle; what may be pinned the file system keeps.
 * @returns 0; -EBUSY: some are dirty or pinned, and stay. Compare invalidate_inode_pages2_range()
 */
export function* invalidateInodePages2Range(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  endPgoff: number,
): Path<number> {
  let error = 0;
  const offsets = cachedOffsets(mapping, pgoff, endPgoff);
  const [first] = offsets;
  if (first !== undefined) yield* unmapMappingRange(k, mapping, first, endPgoff - first, false);
  for (const at of offsets) {
    const page = yield* mappingLockPage(k, mapping, at);
    if (page < 0) continue;
    const folio = folioOf(k, page);
    yield* folioWaitWriteback(k, folio);
    // Mapped again since.
    if (folioMapcount(k, folio) > 0) yield* unmapMappingFolio(k, mapping, folio);
    if (folioTestDirty(k, folio) || !filemapReleaseFolio(k, mapping, folio)) error = -EBUSY;
    else filemapRemoveFolio(k, mapping, at - (page - folio), folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
  }
  return error;
}
