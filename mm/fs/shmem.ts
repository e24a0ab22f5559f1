/**
 * shmem: files that live in memory alone, and their page cache. Compare mm/shmem.c.
 *
 * A page appears, zeroed, when it is first touched, and stays until the last user of the file is
 * gone: there is no swap, truncation or sealing yet. Offsets and sizes are in pages.
 */
import { mapSet, readOnce } from '#cells';
import { EINVAL } from '../errno.ts';
import {
  folioAddLru,
  folioAlloc,
  folioGet,
  folioLock,
  folioPut,
  folioSetFlags,
  folioSetMapping,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { GFP_ZERO } from '../frames/buddy.ts';
import { PG_LOCKED, PG_SWAPBACKED, PG_UPTODATE } from '../frames/table.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { mappingCreate } from './mapping.ts';

/** A file of `nrPages` pages, all holes; the caller is its first user. */
export const shmemCreate = (k: Kernel, nrPages: number): AddressSpace =>
  mappingCreate(k, 'shmem', nrPages);

/**
 * The folio at an offset, made if it is a hole.
 * @returns the folio, locked and with a reference for the caller; -EINVAL beyond the end; -ENOMEM
 */
export function* shmemGetFolio(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  for (;;) {
    if (pgoff >= mapping.nrPages) return -EINVAL;
    const folio = mapping.pages.get(pgoff);
    if (folio !== undefined) {
      folioGet(k, folio);
      if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
      // Moved or truncated while the lock was waited for?
      if (
        readOnce(k.state.frames.mapping, folio) === mapping.id &&
        mapping.pages.get(pgoff) === folio
      )
        return folio;
      folioUnlock(k, folio);
      folioPut(k, folio);
      continue;
    }
    const page = folioAlloc(k, GFP_ZERO);
    if (page < 0) return page;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    if (mapping.pages.has(pgoff)) {
      folioPut(k, page);
      continue;
    }
    folioSetFlags(k, page, PG_LOCKED | PG_UPTODATE | PG_SWAPBACKED);
    folioSetMapping(k, page, mapping.id, pgoff);
    mapSet(mapping.pages, pgoff, page);
    folioGet(k, page);
    folioAddLru(k, page);
    return page;
  }
}
