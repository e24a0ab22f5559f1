/**
 * shmem: files that live in memory alone, and their page cache. Compare mm/shmem.c.
 *
 * A page appears, zeroed, when it is first touched, and stays until the last user of the file is
 * gone: there is no swap, truncation or sealing yet. Offsets and sizes are in pages.
 */
import { listPush, listRemoveAt, mapDelete, mapSet, readOnce, setField } from '#cells';
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
import { newId } from '../rmap/anon-vma.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';

/** A file of `nrPages` pages, all holes; the caller is its first user. */
export const shmemCreate = (k: Kernel, nrPages: number): AddressSpace => {
  const mapping: AddressSpace = {
    kind: 'shmem',
    id: newId(k),
    nrPages,
    seals: 0,
    hugeOrder: 0,
    resv: null,
    pages: new Map(),
    vmas: [],
    users: 1,
  };
  mapSet(k.state.mappings, mapping.id, mapping);
  return mapping;
};

/** One user more: an open file, a VMA. */
export const shmemGet = (mapping: AddressSpace): void =>
  setField(mapping, 'users', mapping.users + 1);

/** One user less; with the last one the pages leave the cache. Waits for pages that are locked. */
export function* shmemPut(k: Kernel, mapping: AddressSpace): Path<void> {
  setField(mapping, 'users', mapping.users - 1);
  if (mapping.users > 0) return;
  if (mapping.users < 0) throw new Error(`address space ${mapping.id}: more puts than users`);
  for (const pgoff of [...mapping.pages.keys()]) {
    let folio = mapping.pages.get(pgoff);
    // The page may have been moved while its lock was waited for: then it is another one.
    while (folio !== undefined) {
      folioGet(k, folio);
      if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
      const still = mapping.pages.get(pgoff) === folio;
      if (still) removeFromCache(k, mapping, pgoff, folio);
      folioUnlock(k, folio);
      folioPut(k, folio);
      folio = still ? undefined : mapping.pages.get(pgoff);
    }
  }
  mapDelete(k.state.mappings, mapping.id);
}

const removeFromCache = (k: Kernel, mapping: AddressSpace, pgoff: number, folio: number): void => {
  mapDelete(mapping.pages, pgoff);
  folioSetMapping(k, folio, 0, 0);
  folioPut(k, folio);
};

/** A VMA maps the file: it is a user, and the rmap finds it. */
export const mappingLink = (mapping: AddressSpace, vma: Vma): void => {
  listPush(mapping.vmas, vma);
  shmemGet(mapping);
};

/** The VMA goes. */
export function* mappingUnlink(k: Kernel, mapping: AddressSpace, vma: Vma): Path<void> {
  listRemoveAt(mapping.vmas, mapping.vmas.indexOf(vma));
  yield* shmemPut(k, mapping);
}

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
