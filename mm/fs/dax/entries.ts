/**
 * What a DAX file shows, page by page: which block stands at an offset, whether it may have stores that
 * are not durable, and who is changing it. Compare fs/dax.c:grab_mapping_entry(), dax_insert_entry(),
 * dax_delete_mapping_entry().
 *
 * An entry is locked while a block is looked up or chosen and mapped, and while it is flushed: so a
 * fault and writeback of one page come one after the other.
 */
import { mapDelete, mapSet, readOnce } from '#cells';
import { folioSetMapping } from '../../folio/folio.ts';
import { type Path, YP_WAIT } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { inodeOfMapping } from '../extent/inode.ts';
import type { DaxState } from './state.ts';

/** @throws Error for a file of another kind */
export const daxOf = (mapping: AddressSpace): DaxState => {
  if (mapping.dax === null) throw new Error(`file ${mapping.id}: ${mapping.kind} is not DAX`);
  return mapping.dax;
};

/** Waits until nobody else changes what is at an offset, and keeps others out until unlockEntry(). */
export function* lockEntry(mapping: AddressSpace, pgoff: number): Path<void> {
  const { locked } = daxOf(mapping);
  while (locked.has(pgoff)) yield YP_WAIT;
  mapSet(locked, pgoff, true);
}

export const unlockEntry = (mapping: AddressSpace, pgoff: number): void => {
  if (!mapDelete(daxOf(mapping).locked, pgoff))
    throw new Error(`file ${mapping.id}: entry ${pgoff} is unlocked, and was not locked`);
};

/**
 * From now on the file shows the block in frame `page` there; nothing else is mapped there any more. The
 * entry is locked. Compare dax_associate_entry()
 */
export const setEntry = (k: Kernel, mapping: AddressSpace, pgoff: number, page: number): void => {
  const { entries } = daxOf(mapping);
  const old = entries.get(pgoff);
  if (old === page) return;
  if (old !== undefined && old !== k.state.zeroPage)
    throw new Error(`file ${mapping.id}: page ${old} at ${pgoff} becomes page ${page}`);
  mapSet(entries, pgoff, page);
  if (page !== k.state.zeroPage) folioSetMapping(k, page, mapping.id, pgoff);
};

/** Stores to it are expected: it has to be flushed some time, and its block is there for good. */
export const markEntryDirty = (mapping: AddressSpace, pgoff: number): void => {
  mapSet(daxOf(mapping).dirty, pgoff, true);
  mapSet(inodeOfMapping(mapping).reserved, pgoff, 'mapped');
};

/** It is flushed, and its mappings are read-only. */
export const clearEntryDirty = (mapping: AddressSpace, pgoff: number): void => {
  mapDelete(daxOf(mapping).dirty, pgoff);
  mapDelete(inodeOfMapping(mapping).reserved, pgoff);
};

/**
 * The file shows nothing there any more: nobody maps or holds the block. The entry is locked.
 * @throws Error where somebody holds it. Compare dax_disassociate_entry()
 */
export const deleteEntry = (k: Kernel, mapping: AddressSpace, pgoff: number): void => {
  const { entries } = daxOf(mapping);
  const page = entries.get(pgoff);
  if (page === undefined) return;
  if (page !== k.state.zeroPage) {
    const refs = readOnce(k.state.frames.refcount, page);
    if (refs !== 0)
      throw new Error(`file ${mapping.id}: page ${page} at ${pgoff} goes with ${refs} references`);
    folioSetMapping(k, page, 0, 0);
  }
  mapDelete(entries, pgoff);
  clearEntryDirty(mapping, pgoff);
};

/** Offsets of [first, end) that a map has, in order. */
export const offsetsIn = (
  map: ReadonlyMap<number, unknown>,
  first: number,
  end: number,
): number[] => {
  const found: number[] = [];
  for (const pgoff of map.keys()) if (pgoff >= first && pgoff < end) found.push(pgoff);
  return found.sort((a, b) => a - b);
};
