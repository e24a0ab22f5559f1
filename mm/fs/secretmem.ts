/**
 * memfd_secret(): memory that only the processes that map it can reach. Compare mm/secretmem.c.
 *
 * Its pages are not in the kernel's direct map, so nothing that reaches memory by frame may have
 * one: GUP refuses them, they do not move, and are not swapped out. Mappings are shared and count
 * as locked. The bytes are gone before a frame is used for anything else.
 */
import { EINVAL, ENOENT } from '../errno.ts';
import { folioAlloc, folioPut } from '../folio/folio.ts';
import { GFP_ZERO } from '../frames/buddy.ts';
import { PG_UNEVICTABLE } from '../frames/table.ts';
import { type Path, YP_FAULT_ALLOCATED } from '../path.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { mappingAddFolio, mappingCreate, mappingLockPage } from './mapping.ts';

/** A secret file of `nrPages` pages, all holes; the caller is its first user. It has no read() or write(). */
export const secretmemCreate = (k: Kernel, nrPages: number): AddressSpace =>
  mappingCreate(k, 'secretmem', nrPages);

/** Compare vma_is_secretmem(). */
export const vmaIsSecretmem = (vma: Vma): boolean => vma.mapping?.kind === 'secretmem';

/**
 * The page at an offset, made if it is a hole. Compare secretmem_fault().
 * @returns the page, locked and with a reference for the caller; -EINVAL beyond the end; -ENOMEM
 */
export function* secretmemGetPage(k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> {
  for (;;) {
    if (pgoff >= mapping.nrPages) return -EINVAL;
    const page = yield* mappingLockPage(k, mapping, pgoff);
    if (page !== -ENOENT) return page;
    const folio = folioAlloc(k, GFP_ZERO);
    if (folio < 0) return folio;
    if (k.watched) yield YP_FAULT_ALLOCATED;
    if (mapping.pages.has(pgoff)) {
      folioPut(k, folio);
      continue;
    }
    mappingAddFolio(k, mapping, pgoff, folio, PG_UNEVICTABLE);
    return folio;
  }
}
