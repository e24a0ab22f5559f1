/**
 * Reverse mapping: counting the entries that map a page, and finding them. Compare mm/rmap.c.
 *
 * The counting functions are called under the page-table lock, right beside the store of the entry.
 * The walk goes over the VMAs of the folio's anon_vma or address space; a walker that yields takes
 * them from rmapVmas and asks rmapStillLinked after each yield.
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd, fetchAndNot, fetchOr, readOnce, smpMb } from '#cells';
import { EBUSY } from '../errno.ts';
import { folioSetMapping } from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_SWAPBACKED } from '../frames/table.ts';
import { ptePage, ptePresent, pteSpecial } from '../pgtable/pte.ts';
import { ptepGet, walkPte } from '../pgtable/walk.ts';
import type { AddressSpace, AnonVma, Kernel, Vma } from '../types.ts';
import { linearPageIndex } from '../vma/flags.ts';

/** Maps a new anonymous page: it becomes the VMA's, exclusively. Compare folio_add_new_anon_rmap(). */
export const folioAddNewAnonRmap = (k: Kernel, page: number, vma: Vma, hva: number): void => {
  if (vma.anonVma === null) throw new Error(`page ${page} mapped by a VMA without anon_vma`);
  folioSetMapping(k, page, vma.anonVma.id, linearPageIndex(vma, hva));
  fetchOr(k.state.frames.flags, page, PG_ANON | PG_SWAPBACKED | PG_ANON_EXCLUSIVE);
  atomicAdd(k.state.frames.mapcount, page, 1);
};

/** Maps an anonymous page that has its anon_vma already. Compare folio_add_anon_rmap_pte(). */
export const folioAddAnonRmap = (k: Kernel, page: number, exclusive: boolean): void => {
  atomicAdd(k.state.frames.mapcount, page, 1);
  if (exclusive) fetchOr(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
};

/** Maps a page of a file. */
export const folioAddFileRmap = (k: Kernel, page: number): void => {
  atomicAdd(k.state.frames.mapcount, page, 1);
};

/** An entry that mapped the page is gone. */
export const folioRemoveRmap = (k: Kernel, page: number): void => {
  if (atomicAdd(k.state.frames.mapcount, page, -1) < 0)
    throw new Error(`page ${page}: unmapped more often than mapped`);
};

/** A page that one VMA has to itself from now on belongs to that VMA's anon_vma. Compare folio_move_anon_rmap(). */
export const folioMoveAnonRmap = (k: Kernel, page: number, vma: Vma, hva: number): void => {
  if (vma.anonVma !== null) folioSetMapping(k, page, vma.anonVma.id, linearPageIndex(vma, hva));
};

/**
 * Maps an anonymous page a second time, in a fork: it stops being exclusive.
 * @param mustCopyPinned the parent has pinned pages: one that may be pinned cannot be shared
 * @returns 0, or -EBUSY with nothing changed. Compare folio_try_dup_anon_rmap_pte()
 */
export const folioTryDupAnonRmap = (k: Kernel, page: number, mustCopyPinned: boolean): number => {
  if ((readOnce(k.state.frames.flags, page) & PG_ANON_EXCLUSIVE) !== 0) {
    if (mustCopyPinned && folioMaybeDmaPinned(k, page)) return -EBUSY;
    fetchAndNot(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
  }
  atomicAdd(k.state.frames.mapcount, page, 1);
  return 0;
};

/**
 * Ends exclusiveness before an entry is taken away (migration, swap). The entry has been cleared;
 * the barrier pairs with the one of GUP-fast, which counts its pin first and reads the entry after.
 * @returns 0, or -EBUSY: maybe pinned, put the entry back. Compare folio_try_share_anon_rmap_pte()
 */
export const folioTryShareAnonRmap = (k: Kernel, page: number): number => {
  smpMb();
  if (folioMaybeDmaPinned(k, page) && !k.sabotage.migratePinned) return -EBUSY;
  fetchAndNot(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
  return 0;
};

/** The anon_vma or address space of a folio; null when it has none (any more). */
export const folioMapping = (k: Kernel, folio: number): AnonVma | AddressSpace | null =>
  k.state.mappings.get(readOnce(k.state.frames.mapping, folio)) ?? null;

/** VMAs that may map the folio: the list itself, which changes when VMAs come and go. */
export const rmapVmaList = (k: Kernel, folio: number): readonly Vma[] =>
  folioMapping(k, folio)?.vmas ?? [];

/** The same as a copy, for walks that yield. */
export const rmapVmas = (k: Kernel, folio: number): Vma[] => [...rmapVmaList(k, folio)];

/** After a yield: is the VMA still one of the folio's? While it is, its page tables exist. */
export const rmapStillLinked = (k: Kernel, folio: number, vma: Vma): boolean =>
  rmapVmaList(k, folio).includes(vma);

/**
 * Where a VMA would map the folio, or -1: outside of it. Compare vma_address().
 * The frame table keeps offsets modulo 1 << 32 pages; no VMA is half that large.
 */
export const vmaAddress = (k: Kernel, vma: Vma, folio: number): number => {
  const pages = (readOnce(k.state.frames.index, folio) - vma.pgoff) | 0;
  const hva = vma.start + pages * PAGE_SIZE;
  return hva >= vma.start && hva < vma.end ? hva : -1;
};

/** Word of the present entry at `hva` that maps `page`, or 0. Compare page_vma_mapped_walk(). */
export const pageVmaMapped = (k: Kernel, vma: Vma, hva: number, page: number): number => {
  const word = walkPte(k, vma.mm, hva, false);
  if (word <= 0) return 0;
  const pte = ptepGet(k, word);
  return ptePresent(pte) && !pteSpecial(pte) && ptePage(pte) === page ? word : 0;
};
