/**
 * Writeback: the dirty folios of a file go to where its file system keeps them. Compare
 * mm/page-writeback.c:writeback_iter(), mm/filemap.c:filemap_fdatawrite_range() and
 * filemap_fdatawait_range().
 *
 * Which folios are dirty is seen from their flags: an entry that can be written to belongs to a folio
 * that is dirty already, so nobody has to look at the tables for that.
 */
import { readOnce, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioOf, folioPut, folioTestDirty, folioUnlock } from '../folio/folio.ts';
import { PG_DIRTY, PG_LOCKED, PG_WRITEBACK } from '../frames/table.ts';
import { daxWriteback } from '../fs/dax/writeback.ts';
import { mappingLockPage } from '../fs/mapping.ts';
import { type AddressSpaceOperations, operationsOf } from '../fs/operations.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import { type Path, YP_WRITEBACK_CLEANED } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { folioClearDirtyForIo, folioTestWriteback, folioWaitWriteback } from './clean.ts';

/** An error of writeback is kept for whoever asks next (vfsFsync). Compare mapping_set_error() */
export const mappingSetError = (mapping: AddressSpace, error: number): void => {
  if (error !== 0 && mapping.wbErr === 0) setField(mapping, 'wbErr', error);
};

/** Does writeback of the file have anything to do: a page cache, and storage under it? */
const writesBack = (mapping: AddressSpace): boolean =>
  tracksDirty(mapping) && mapping.kind !== 'fsdax';

/** A locked folio as well: somebody may have cleaned it, and not yet begun to write it. */
const UNSETTLED = PG_DIRTY | PG_WRITEBACK | PG_LOCKED;

/** Offsets of the pages of [startByte, endByte) that are dirty or on their way, in order. */
const dirtyOffsets = (
  k: Kernel,
  { pages }: AddressSpace,
  startByte: number,
  endByte: number,
): number[] => {
  const { flags } = k.state.frames;
  const first = Math.floor(startByte / PAGE_SIZE);
  const end = Math.ceil(endByte / PAGE_SIZE);
  const found: number[] = [];
  const look = (pgoff: number, page: number | undefined): void => {
    if (page !== undefined && (readOnce(flags, folioOf(k, page)) & UNSETTLED) !== 0)
      found.push(pgoff);
  };
  if (end - first <= pages.size) {
    for (let pgoff = first; pgoff < end; pgoff++) look(pgoff, pages.get(pgoff));
    return found;
  }
  for (const [pgoff, page] of pages) if (pgoff >= first && pgoff < end) look(pgoff, page);
  return found.sort((a, b) => a - b);
};

/**
 * Writes the page at an offset out, if it is dirty: whichever is there once its folio is locked.
 * @param sync wait for a writeback that is under way, and write again what was dirtied since; without
 *   it such a folio is left to the next round
 * @returns 0, -EIO, -ENOSPC
 */
function* writeOne(k: Kernel, mapping: AddressSpace, pgoff: number, sync: boolean): Path<number> {
  const { writeFolio } = operationsOf(mapping);
  if (writeFolio === undefined) throw new Error(`${mapping.kind} is not written back`);
  const page = yield* mappingLockPage(k, mapping, pgoff);
  if (page < 0) return 0;
  const folio = folioOf(k, page);
  const error = yield* writeLocked(k, mapping, folio, sync, writeFolio);
  folioPut(k, folio);
  return error;
}

/** The same for a locked folio, which is unlocked afterwards. */
function* writeLocked(
  k: Kernel,
  mapping: AddressSpace,
  folio: number,
  sync: boolean,
  writeFolio: NonNullable<AddressSpaceOperations['writeFolio']>,
): Path<number> {
  if (sync) yield* folioWaitWriteback(k, folio);
  if (!folioTestDirty(k, folio) || folioTestWriteback(k, folio)) {
    folioUnlock(k, folio);
    return 0;
  }
  const dirty = yield* folioClearDirtyForIo(k, folio);
  if (!dirty) {
    folioUnlock(k, folio);
    return 0;
  }
  if (k.watched) yield YP_WRITEBACK_CLEANED;
  return yield* writeFolio(k, mapping, folio);
}

/**
 * Writes out the dirty pages of [startByte, endByte) of a file, one after the other, and comes back
 * when the device has them. What is dirtied behind it is not waited for.
 * @param sync for data integrity (WB_SYNC_ALL): also what is on its way already is on the device
 *   afterwards; false: in the background, nothing is waited for that somebody else writes
 * @returns 0, or the first error: -EIO, -ENOSPC. The others are written all the same, and the error
 *   stays in mapping.wbErr
 */
export function* writebackMapping(
  k: Kernel,
  mapping: AddressSpace,
  startByte = 0,
  endByte = Number.POSITIVE_INFINITY,
  sync = true,
): Path<number> {
  if (mapping.kind === 'fsdax') yield* daxWriteback(k, mapping, startByte, endByte);
  if (!writesBack(mapping)) return 0;
  let error = 0;
  // What is dirty now, so that a folio that stays dirty (it may be pinned) is not written for ever.
  for (const pgoff of dirtyOffsets(k, mapping, startByte, endByte)) {
    const failed = yield* writeOne(k, mapping, pgoff, sync);
    if (error === 0) error = failed;
  }
  return error;
}
