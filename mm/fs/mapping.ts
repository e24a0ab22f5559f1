/**
 * Files as memory management sees them: made, shared, mapped, and emptied when the last user has
 * gone. Compare include/linux/fs.h, struct address_space, and mm/truncate.c:truncate_inode_pages_final().
 */
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import {
  folioGet,
  folioLock,
  folioNrPages,
  folioOf,
  folioPut,
  folioSetMapping,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { hugetlbUnreserveFile } from '../hugetlb/resv.ts';
import type { Path } from '../path.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { F_SEAL_SEAL } from './seals.ts';

/** A file of `nrPages` pages, all holes, that may not be sealed; the caller is its first user. */
export const mappingCreate = (
  k: Kernel,
  kind: AddressSpace['kind'],
  nrPages: number,
): AddressSpace => {
  const mapping: AddressSpace = {
    kind,
    id: newId(k),
    nrPages,
    seals: F_SEAL_SEAL,
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
export const mappingGet = (mapping: AddressSpace): void =>
  setField(mapping, 'users', mapping.users + 1);

/** One user less; with the last one the pages leave the cache. Waits for pages that are locked. */
export function* mappingPut(k: Kernel, mapping: AddressSpace): Path<void> {
  setField(mapping, 'users', mapping.users - 1);
  if (mapping.users > 0) return;
  if (mapping.users < 0) throw new Error(`address space ${mapping.id}: more puts than users`);
  if (mapping.kind === 'hugetlbfs') hugetlbUnreserveFile(k, mapping);
  for (const pgoff of [...mapping.pages.keys()]) yield* evict(k, mapping, pgoff);
  mapDelete(k.state.mappings, mapping.id);
}

/** Takes the folio at an offset out of the cache, whichever it is once its lock is held. */
function* evict(k: Kernel, mapping: AddressSpace, pgoff: number): Path<void> {
  for (;;) {
    const page = mapping.pages.get(pgoff);
    if (page === undefined) return;
    const folio = folioOf(k, page);
    folioGet(k, folio);
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    // It may have been moved while its lock was waited for: then another one is there.
    const still = mapping.pages.get(pgoff) === page && folioOf(k, page) === folio;
    if (still) removeFromCache(k, mapping, pgoff - (page - folio), folio);
    folioUnlock(k, folio);
    folioPut(k, folio);
    if (still) return;
  }
}

/**
 * A locked folio leaves the page cache, with the references that the cache had: one for each page,
 * of hugetlb one. @param pgoff of its first page
 */
const removeFromCache = (k: Kernel, mapping: AddressSpace, pgoff: number, folio: number): void => {
  const nr = mapping.kind === 'hugetlbfs' ? 1 : folioNrPages(k, folio);
  for (let i = 0; i < nr; i++) mapDelete(mapping.pages, pgoff + i);
  folioSetMapping(k, folio, 0, 0);
  folioPut(k, folio, nr);
};

/** A VMA maps the file: it is a user, and the rmap finds it. */
export const mappingLink = (mapping: AddressSpace, vma: Vma): void => {
  listPush(mapping.vmas, vma);
  mappingGet(mapping);
};

/** The VMA goes. */
export function* mappingUnlink(k: Kernel, mapping: AddressSpace, vma: Vma): Path<void> {
  listRemoveAt(mapping.vmas, mapping.vmas.indexOf(vma));
  yield* mappingPut(k, mapping);
}
