/**
 * memfd_secret(): memory that only the processes that map it can reach. Compare mm/secretmem.c.
 *
 * Its pages are not in the kernel's direct map, so nothing that reaches memory by frame may have
 * one: GUP refuses them, they do not move, and are not swapped out. Mappings are shared and count
 * as locked. The bytes are gone before a frame is used for anything else.
 */
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { mappingCreate, mappingGetUnevictable } from './mapping.ts';

/** A secret file of `nrPages` pages, all holes; the caller is its first user. It has no read() or write(). */
export const secretmemCreate = (k: Kernel, nrPages: number): AddressSpace =>
  mappingCreate(k, 'secretmem', nrPages);

/** Compare vma_is_secretmem(). */
export const vmaIsSecretmem = (vma: Vma): boolean => vma.mapping?.kind === 'secretmem';

/**
 * The page at an offset, made if it is a hole. Compare secretmem_fault().
 * @returns the page, locked and with a reference for the caller; -EINVAL beyond the end; -ENOMEM
 */
export const secretmemGetPage = (k: Kernel, mapping: AddressSpace, pgoff: number): Path<number> =>
  mappingGetUnevictable(k, mapping, pgoff, false);
