/** A page of a pipe becomes a page of a file: SPLICE_F_MOVE. Compare fs/fuse/dev.c:fuse_try_move_folio(). */
import { listRemoveAt, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { downWrite, upWrite } from '../cache/rwsem.ts';
import { folioMarkDirty, folioPut, folioUnlock } from '../folio/folio.ts';
import { PG_SWAPBACKED } from '../frames/table.ts';
import { fsOfInode, inodeOfMapping, setInodeSize } from '../fs/extent/inode.ts';
import { FILE_BYTES_MAX } from '../fs/extent/layout.ts';
import { reservePage, reservePageSlow, unreservePage } from '../fs/extent/reserve.ts';
import { mappingAddFolio } from '../fs/mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_WRITE } from '../fs/seals.ts';
import { folioAddLru } from '../lru/batch.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import type { Pipe, PipeBuffer } from './pipe.ts';
import { pipeBufTrySteal } from './steal.ts';

/** Has the file nothing at `pgoff`, and does nothing forbid that it has? */
const isRoom = (mapping: AddressSpace, pgoff: number): boolean => {
  if (mapping.pages.has(pgoff) || mapping.swapped.has(pgoff)) return false;
  if (mapping.kind !== 'shmem') return true;
  const growing = pgoff < mapping.nrPages ? 0 : F_SEAL_GROW;
  return (mapping.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | growing)) === 0;
};

/**
 * Takes the page out of the pipe and puts it into the file's cache, dirty.
 * @param flags PG_* that pages of such a file have
 */
function* stealInto(
  k: Kernel,
  pipe: Pipe,
  buffer: PipeBuffer,
  mapping: AddressSpace,
  pgoff: number,
  flags: number,
): Path<boolean> {
  if (!isRoom(mapping, pgoff) || !(yield* pipeBufTrySteal(k, buffer))) return false;
  const { page } = buffer;
  if (!isRoom(mapping, pgoff)) {
    // Somebody came while the page's lock was waited for: now the page is the pipe's own.
    setField(buffer, 'hold', 'own');
    setField(buffer, 'gift', false);
    folioUnlock(k, page);
    return false;
  }
  listRemoveAt(pipe.buffers, 0);
  mappingAddFolio(k, mapping, pgoff, page, flags);
  folioMarkDirty(k, page);
  folioAddLru(k, page);
  if (mapping.inode === null) {
    if (pgoff >= mapping.nrPages) setField(mapping, 'nrPages', pgoff + 1);
  } else {
    const end = (pgoff + 1) * PAGE_SIZE;
    if (end > mapping.inode.sizeBytes) setInodeSize(mapping, end);
  }
  folioUnlock(k, page);
  folioPut(k, page);
  return true;
}

/** A file on a device is asked for room first; nothing is moved behind its end. Under i_rwsem. */
function* moveToDevice(
  k: Kernel,
  pipe: Pipe,
  buffer: PipeBuffer,
  mapping: AddressSpace,
  pgoff: number,
): Path<boolean> {
  const inode = inodeOfMapping(mapping);
  const fs = fsOfInode(k, inode);
  const at = pgoff * PAGE_SIZE;
  if (at > inode.sizeBytes || at >= FILE_BYTES_MAX || !isRoom(mapping, pgoff)) return false;
  const error = reservePage(fs, inode, pgoff) ? 0 : yield* reservePageSlow(k, fs, inode, pgoff);
  // The copy that is made instead says what is wrong.
  if (error !== 0) return false;
  const moved = yield* stealInto(k, pipe, buffer, mapping, pgoff, 0);
  if (!moved && !mapping.pages.has(pgoff)) unreservePage(fs, inode, pgoff);
  return moved;
}

/**
 * Moves the page of a pipe's oldest buffer into a file, where it is a whole one and the file has none.
 * @param offset in the file
 * @returns false: it cannot be, and has to be copied
 */
export function* moveIntoFile(
  k: Kernel,
  pipe: Pipe,
  buffer: PipeBuffer,
  mapping: AddressSpace,
  offset: number,
): Path<boolean> {
  const pgoff = Math.floor(offset / PAGE_SIZE);
  if (offset % PAGE_SIZE !== 0 || buffer.offset !== 0 || buffer.lenBytes !== PAGE_SIZE)
    return false;
  if (mapping.kind === 'shmem')
    return yield* stealInto(k, pipe, buffer, mapping, pgoff, PG_SWAPBACKED);
  if (mapping.kind !== 'extent') return false;
  const { lock } = inodeOfMapping(mapping);
  yield* downWrite(lock);
  const moved = yield* moveToDevice(k, pipe, buffer, mapping, pgoff);
  upWrite(lock);
  return moved;
}
