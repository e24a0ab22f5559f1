/** A page of a pipe becomes a page of a file: SPLICE_F_MOVE. Compare fs/fuse/dev.c:fuse_try_move_folio(). */
import { listRemoveAt, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioMarkDirty, folioPut, folioUnlock } from '../folio/folio.ts';
import { PG_SWAPBACKED } from '../frames/table.ts';
import { mappingAddFolio } from '../fs/mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_GROW, F_SEAL_WRITE } from '../fs/seals.ts';
import { folioAddLru } from '../lru/batch.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import type { Pipe, PipeBuffer } from './pipe.ts';
import { pipeBufTrySteal } from './steal.ts';

/** Has shmem room for a page of its own at `pgoff`: nothing is there, and nothing forbids it? */
const isRoom = (mapping: AddressSpace, pgoff: number): boolean => {
  if (mapping.kind !== 'shmem' || mapping.pages.has(pgoff) || mapping.swapped.has(pgoff))
    return false;
  const forbidden =
    F_SEAL_WRITE | F_SEAL_FUTURE_WRITE | (pgoff < mapping.nrPages ? 0 : F_SEAL_GROW);
  return (mapping.seals & forbidden) === 0;
};

/**
 * Moves the page of a pipe's oldest buffer into a file, where it is a whole one and the file has a hole.
 * @param offset in the file
 * @returns false: it cannot be, and has to be copied. Files with storage always copy: they have to be
 *   asked for room first
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
  if (pgoff >= mapping.nrPages) setField(mapping, 'nrPages', pgoff + 1);
  mappingAddFolio(k, mapping, pgoff, page, PG_SWAPBACKED);
  folioMarkDirty(k, page);
  folioAddLru(k, page);
  folioUnlock(k, page);
  folioPut(k, page);
  return true;
}
