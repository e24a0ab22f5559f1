/**
 * Reverse mapping: counting the entries that map a page, and finding them. Compare mm/rmap.c.
 *
 * The counting functions are called under the page-table lock, right beside the store of the entry.
 * A large folio is mapped by entries for single pages, by one for the whole of it (`..Pmd`), or both,
 * in different address spaces. The walk goes over the VMAs of the folio's anon_vma, file or KSM node.
 */
import { PAGE_SIZE } from '#emu';
import { atomicAdd, clearBits, fetchAndNot, fetchOr, readOnce, smpMb, writeOnce } from '#cells';
import { EBUSY } from '../errno.ts';
import { folioNrPages, folioOf, folioSetMapping, pageIndex } from '../folio/folio.ts';
import { folioAddEntireMapcount, folioAddLargeMapcount, folioTestLarge } from '../folio/large.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { PG_ANON, PG_ANON_EXCLUSIVE, PG_SWAPBACKED } from '../frames/table.ts';
import type { KsmNode } from '../ksm/state.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { ptePage, ptePresent, pteSpecial } from '../pgtable/pte.ts';
import { pmdLeafAt, ptepGet, walkPte } from '../pgtable/walk.ts';
import type { AddressSpace, AnonVma, Kernel, MmStruct, Vma } from '../types.ts';
import { linearPageIndex } from '../vma/flags.ts';

const addPte = (k: Kernel, page: number): void => {
  atomicAdd(k.state.frames.mapcount, page, 1);
  const folio = folioOf(k, page);
  if (folioTestLarge(k, folio)) folioAddLargeMapcount(k, folio, 1);
};

const addPmd = (k: Kernel, folio: number): void => {
  folioAddEntireMapcount(k, folio, 1);
  folioAddLargeMapcount(k, folio, 1);
};

/**
 * Gives a new anonymous folio, whose first page is (or would be) at `hva`, to a VMA. One that others
 * may map as well gets the oldest anon_vma, on which all of them hang. Compare __folio_set_anon().
 */
const folioSetAnon = (
  k: Kernel,
  folio: number,
  vma: Vma,
  hva: number,
  exclusive: boolean,
): void => {
  const anonVma = exclusive ? vma.anonVma : vma.anonChain[0];
  if (!anonVma) throw new Error(`page ${folio} mapped by a VMA without anon_vma`);
  folioSetMapping(k, folio, anonVma.id, linearPageIndex(vma, hva));
  fetchOr(k.state.frames.flags, folio, PG_ANON | PG_SWAPBACKED);
};

/**
 * Maps a new anonymous folio by entries of its own for each page, all of them: it becomes the
 * VMA's. Compare folio_add_new_anon_rmap().
 * @param hva of its first page
 * @param exclusive false where a swap slot that others name as well was read
 */
export const folioAddNewAnonRmap = (
  k: Kernel,
  folio: number,
  vma: Vma,
  hva: number,
  exclusive = true,
): void => {
  folioSetAnon(k, folio, vma, hva, exclusive);
  const nr = folioNrPages(k, folio);
  for (let page = folio; page < folio + nr; page++) {
    if (exclusive) fetchOr(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
    atomicAdd(k.state.frames.mapcount, page, 1);
  }
  if (nr > 1) folioAddLargeMapcount(k, folio, nr);
};

/** The same by one entry for the whole folio: then the head alone carries the exclusive flag. */
export const folioAddNewAnonRmapPmd = (k: Kernel, folio: number, vma: Vma, hva: number): void => {
  folioSetAnon(k, folio, vma, hva, true);
  fetchOr(k.state.frames.flags, folio, PG_ANON_EXCLUSIVE);
  addPmd(k, folio);
};

/** Maps an anonymous page that has its anon_vma already. Compare folio_add_anon_rmap_pte(). */
export const folioAddAnonRmap = (k: Kernel, page: number, exclusive: boolean): void => {
  addPte(k, page);
  if (exclusive) fetchOr(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
};

/** The same for a whole folio: also for hugetlb. Compare folio_add_anon_rmap_pmd(), hugetlb_add_anon_rmap(). */
export const folioAddAnonRmapPmd = (k: Kernel, folio: number, exclusive: boolean): void => {
  addPmd(k, folio);
  if (exclusive) fetchOr(k.state.frames.flags, folio, PG_ANON_EXCLUSIVE);
};

/** Maps a page of a file, or a merged page. */
export const folioAddFileRmap = (k: Kernel, page: number): void => addPte(k, page);

/** Maps a whole large folio of a file by one entry. */
export const folioAddFileRmapPmd = (k: Kernel, folio: number): void => addPmd(k, folio);

/** An entry that mapped the page is gone. */
export const folioRemoveRmap = (k: Kernel, page: number): void => {
  if (atomicAdd(k.state.frames.mapcount, page, -1) < 0)
    throw new Error(`page ${page}: unmapped more often than mapped`);
  const folio = folioOf(k, page);
  if (folioTestLarge(k, folio)) folioAddLargeMapcount(k, folio, -1);
};

/** An entry that mapped the whole folio is gone. */
export const folioRemoveRmapPmd = (k: Kernel, folio: number): void => {
  if (folioAddEntireMapcount(k, folio, -1) < 0)
    throw new Error(`folio ${folio}: unmapped as a whole more often than mapped`);
  folioAddLargeMapcount(k, folio, -1);
};

/**
 * A folio that one VMA has to itself from now on belongs to that VMA's anon_vma. The offset stays:
 * it is the same in every anon_vma of a chain. Compare folio_move_anon_rmap().
 */
export const folioMoveAnonRmap = (k: Kernel, folio: number, vma: Vma): void => {
  if (vma.anonVma !== null) writeOnce(k.state.frames.mapping, folio, vma.anonVma.id);
};

/**
 * Maps an anonymous page a second time, in a fork: it stops being exclusive.
 * @param mustCopyPinned the parent has pinned pages: one that may be pinned cannot be shared
 * @returns 0, or -EBUSY with nothing changed. Compare folio_try_dup_anon_rmap_pte()
 */
export const folioTryDupAnonRmap = (k: Kernel, page: number, mustCopyPinned: boolean): number => {
  const error = tryShareInFork(k, page, mustCopyPinned);
  if (error === 0) addPte(k, page);
  return error;
};

/** The same for an entry that maps the whole folio: also for hugetlb. */
export const folioTryDupAnonRmapPmd = (
  k: Kernel,
  folio: number,
  mustCopyPinned: boolean,
): number => {
  const error = tryShareInFork(k, folio, mustCopyPinned);
  if (error === 0) addPmd(k, folio);
  return error;
};

const tryShareInFork = (k: Kernel, page: number, mustCopyPinned: boolean): number => {
  if ((readOnce(k.state.frames.flags, page) & PG_ANON_EXCLUSIVE) === 0) return 0;
  if (mustCopyPinned && folioMaybeDmaPinned(k, folioOf(k, page))) return -EBUSY;
  if (!k.sabotage.forkKeepsExclusive) fetchAndNot(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
  return 0;
};

/**
 * Ends exclusiveness before an entry is taken away (migration, swap, KSM). The entry has been
 * cleared; the barrier pairs with the one of GUP-fast, which counts its pin first and reads the
 * entry after. Of a folio that one entry maps whole: the head.
 * @returns 0, or -EBUSY: maybe pinned, put the entry back. Compare folio_try_share_anon_rmap_pte()
 */
export const folioTryShareAnonRmap = (k: Kernel, page: number): number => {
  smpMb();
  if (folioMaybeDmaPinned(k, folioOf(k, page)) && !k.sabotage.migratePinned) return -EBUSY;
  clearBits(k.state.frames.flags, page, PG_ANON_EXCLUSIVE);
  return 0;
};

/** The anon_vma, file or KSM node of a folio; null when it has none (any more). */
export const folioMapping = (k: Kernel, folio: number): AnonVma | AddressSpace | KsmNode | null =>
  k.state.mappings.get(readOnce(k.state.frames.mapping, folio)) ?? null;

/** A run of a folio's pages, and where a VMA maps it if it does. */
export interface RmapPlace {
  vma: Vma;
  /** The first of the pages that the VMA reaches, and how many there are. */
  page: number;
  nr: number;
  /** Where the first would be. */
  hva: number;
}

/**
 * Everywhere that something of a folio may be mapped, as a fresh list: after a yield a walker asks
 * rmapStillLinked of each place before it uses it. Compare rmap_walk().
 */
export const rmapPlaces = (k: Kernel, folio: number): RmapPlace[] => {
  const object = folioMapping(k, folio);
  if (object === null) return [];
  const places: RmapPlace[] = [];
  if (object.kind === 'ksm') {
    for (const { anonVma, hva } of object.items)
      for (const vma of anonVma.vmas)
        if (hva >= vma.start && hva < vma.end) places.push({ vma, page: folio, nr: 1, hva });
    return places;
  }
  const nr = folioNrPages(k, folio);
  const index = readOnce(k.state.frames.index, folio);
  for (const vma of object.vmas) {
    // Where the folio begins, in pages from the start of the VMA; before it, perhaps.
    const from = (index - vma.pgoff) | 0;
    const first = Math.max(0, -from);
    const end = Math.min(nr, (vma.end - vma.start) / PAGE_SIZE - from);
    if (first < end)
      places.push({
        vma,
        page: folio + first,
        nr: end - first,
        hva: vma.start + (from + first) * PAGE_SIZE,
      });
  }
  return places;
};

/** After a yield: does the VMA still reach something of the folio there? While it does, its tables exist. */
export const rmapStillLinked = (k: Kernel, folio: number, { vma, hva }: RmapPlace): boolean => {
  const object = folioMapping(k, folio);
  if (object === null || hva < vma.start || hva >= vma.end) return false;
  if (object.kind !== 'ksm') return object.vmas.includes(vma);
  return object.items.some((item) => item.hva === hva && item.anonVma.vmas.includes(vma));
};

/**
 * Does somebody have tables apart that may map the folio? Then the walk would miss entries. Compare
 * anon_vma_lock_write().
 */
const rmapLocked = (k: Kernel, folio: number): boolean => {
  const object = folioMapping(k, folio);
  if (object === null) return false;
  if (object.kind === 'ksm') return object.items.some((item) => item.anonVma.locked);
  return object.kind === 'anon' && object.locked;
};

/** Waits until the walk over a folio's mappings finds all of them. Until the next yield they stay findable. */
export function* rmapWait(k: Kernel, folio: number): Path<void> {
  while (rmapLocked(k, folio)) yield YP_WAIT;
}

/**
 * Where a VMA would map a page, or -1: outside of it. Compare vma_address(). Not for merged pages.
 * The frame table keeps offsets modulo 1 << 32 pages; no VMA is half that large.
 */
export const vmaAddress = (k: Kernel, vma: Vma, page: number): number => {
  const pages = (pageIndex(k, page) - vma.pgoff) | 0;
  const hva = vma.start + pages * PAGE_SIZE;
  return hva >= vma.start && hva < vma.end ? hva : -1;
};

/** Word of the present last-level entry at `hva` that maps `page`, or 0. Compare page_vma_mapped_walk(). */
export const pageVmaMapped = (k: Kernel, vma: Vma, hva: number, page: number): number => {
  const word = walkPte(k, vma.mm, hva, false);
  if (word <= 0) return 0;
  const pte = ptepGet(k, word);
  return ptePresent(pte) && !pteSpecial(pte) && ptePage(pte) === page ? word : 0;
};

/** Word of the PMD entry that maps the whole of a folio where the VMA has it at `hva`, or 0. */
export const folioVmaMappedPmd = (k: Kernel, vma: Vma, hva: number, folio: number): number => {
  const word = pmdLeafAt(k, vma.mm, hva);
  return word > 0 && ptePage(ptepGet(k, word)) === folio ? word : 0;
};

/**
 * Does any address space but `mm` map something of an anonymous folio? Looked up, where Linux keeps
 * track of two address spaces for each large folio. Compare folio_maybe_mapped_shared().
 */
export const folioMappedElsewhere = (k: Kernel, folio: number, mm: MmStruct): boolean => {
  for (const { vma, page, nr, hva } of rmapPlaces(k, folio)) {
    if (vma.mm === mm) continue;
    if (folioVmaMappedPmd(k, vma, hva, folio) > 0) return true;
    for (let i = 0; i < nr; i++)
      if (pageVmaMapped(k, vma, hva + i * PAGE_SIZE, page + i) > 0) return true;
  }
  return false;
};
