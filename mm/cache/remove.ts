/**
 * A folio leaves the page cache: for good, or because reclaim wants its frame. Compare
 * mm/filemap.c:filemap_remove_folio(), mm/vmscan.c:__remove_mapping().
 *
 * Whoever holds the page by GUP keeps the frame, which has no file any more: what is written to it
 * reaches nobody.
 */
import { cmpxchg, mapDelete, readOnce, writeOnce } from '#cells';
import {
  folioClearFlags,
  folioNrPages,
  folioPut,
  folioSetMapping,
  folioTestDirty,
  folioTestFlags,
} from '../folio/folio.ts';
import { PG_DIRTY, PG_WRITEBACK } from '../frames/table.ts';
import { operationsOf } from '../fs/operations.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import { dropFor } from '../provenance/provenance.ts';
import type { AddressSpace, Kernel } from '../types.ts';

/** Its pages are the file's no longer. References of the cache: of hugetlb one, else one for each page. */
const dropFromPages = (k: Kernel, mapping: AddressSpace, pgoff: number, folio: number): number => {
  const nr = mapping.kind === 'hugetlbfs' ? 1 : folioNrPages(k, folio);
  for (let i = 0; i < nr; i++) mapDelete(mapping.pages, pgoff + i);
  // Nobody reads a secret by way of a frame that has been freed.
  if (mapping.kind === 'secretmem') k.memory.zeroPage(folio);
  folioSetMapping(k, folio, 0, 0);
  return nr;
};

/**
 * A locked folio leaves the page cache, with the references that the cache had.
 * @param pgoff of its first page
 */
export const filemapRemoveFolio = (
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  folio: number,
): void => {
  dropFor(k, `file ${mapping.id}, which gave it up`);
  folioPut(k, folio, dropFromPages(k, mapping, pgoff, folio));
  dropFor(k, '');
};

/** A locked folio is about to go whatever is in it: what was promised for it is given back, and it is not dirty. */
export const filemapInvalidateFolio = (k: Kernel, mapping: AddressSpace, folio: number): void => {
  if (tracksDirty(mapping)) operationsOf(mapping).invalidateFolio?.(k, mapping, folio);
  folioClearFlags(k, folio, PG_DIRTY);
};

/** What the file has of a locked folio besides its bytes goes. @returns false: it cannot now. Compare filemap_release_folio() */
export const filemapReleaseFolio = (k: Kernel, mapping: AddressSpace, folio: number): boolean => {
  if (folioTestFlags(k, folio, PG_WRITEBACK)) return false;
  return operationsOf(mapping).releaseFolio?.(k, mapping, folio) ?? true;
};

/**
 * Takes a clean folio that nobody else holds out of its file, so that its frame can be freed. The
 * caller holds its lock and one reference, which stays.
 * @returns false with nothing changed: dirty, under writeback, mapped or held by somebody, or the file
 *   system cannot let go of it. Compare remove_mapping()
 */
export const removeMapping = (k: Kernel, mapping: AddressSpace, folio: number): boolean => {
  const { refcount, mapping: mappings, index } = k.state.frames;
  if (readOnce(mappings, folio) !== mapping.id) return false;
  const held = 1 + folioNrPages(k, folio);
  // Frozen at 0 nobody can take a reference: GUP-fast that comes now finds that it was too late.
  if (cmpxchg(refcount, folio, held, 0) !== held) return false;
  const keep = folioTestDirty(k, folio) || !filemapReleaseFolio(k, mapping, folio);
  writeOnce(refcount, folio, held);
  if (keep) return false;
  const nr = dropFromPages(k, mapping, readOnce(index, folio), folio);
  writeOnce(refcount, folio, held - nr);
  return true;
};
