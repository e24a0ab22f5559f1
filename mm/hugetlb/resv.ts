/**
 * Reservations: promises of huge pages that a mapping makes when it is made, so that its faults do
 * not find the pool empty. Compare mm/hugetlb.c:hugetlb_reserve_pages(), __vma_reservation_common().
 *
 *   file (shared mappings)   in the map: promised, or in the page cache   kept until the file goes
 *   private mapping          in the map: promise used up                  kept until it is unmapped
 *
 * A fork's child has no promises of its own: only its parent can count on copies.
 */
import { mapDelete, mapSet, setField } from '#cells';
import { ENOMEM } from '../errno.ts';
import { folioTestFlags } from '../folio/folio.ts';
import { PG_RESTORE_RESERVE } from '../frames/table.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { VM_MAYSHARE, VM_NORESERVE } from '../vma/flags.ts';
import { availableHugePages, dequeueHugetlbFolio, hugetlbAcctMemory } from './pool.ts';
import { createResvMap, type ResvMap } from './state.ts';
import { fileHstate, hugeIndex, vmaHstate, vmaHugetlbFile } from './vma.ts';

const isShared = (vma: Vma): boolean => (vma.flags & VM_MAYSHARE) !== 0;

const fileResvMap = (mapping: AddressSpace): ResvMap => {
  if (mapping.resv === null) throw new Error(`file ${mapping.id} has no reserve map`);
  return mapping.resv;
};

const vmaResvMap = (vma: Vma): ResvMap | null =>
  isShared(vma) ? fileResvMap(vmaHugetlbFile(vma)) : vma.resv;

/**
 * Promises a new VMA its pages: of a shared mapping those that the file was not promised before, of
 * a private one all. Nothing with VM_NORESERVE.
 * @returns 0, or -ENOMEM where the pool cannot promise so many
 */
export const hugetlbReservePages = (k: Kernel, vma: Vma): number => {
  if ((vma.flags & VM_NORESERVE) !== 0) return 0;
  const h = vmaHstate(k, vma);
  const from = hugeIndex(vma, vma.start);
  const to = hugeIndex(vma, vma.end);
  if (!isShared(vma)) {
    const error = hugetlbAcctMemory(h, to - from);
    if (error === 0) setField(vma, 'resv', createResvMap());
    return error;
  }
  const { pages } = fileResvMap(vmaHugetlbFile(vma));
  const missing: number[] = [];
  for (let index = from; index < to; index++) if (!pages.has(index)) missing.push(index);
  const error = hugetlbAcctMemory(h, missing.length);
  if (error === 0) for (const index of missing) mapSet(pages, index, true);
  return error;
};

/**
 * A page for a hole of a file, promised to the file if it was not, and the promise used up. It is for a
 * pin that lasts: the caller allocates under memallocPinScope(), holds the lock of faults on it, and
 * puts it into the file.
 * @returns the folio, with one reference, or -ENOMEM. Compare alloc_hugetlb_folio_reserve()
 */
export const hugetlbTakeForFile = (k: Kernel, mapping: AddressSpace, index: number): number => {
  const h = fileHstate(k, mapping);
  const { pages } = fileResvMap(mapping);
  const promised = pages.has(index);
  if (!promised && availableHugePages(h) <= 0) return -ENOMEM;
  const folio = dequeueHugetlbFolio(k, h);
  if (folio < 0) return -ENOMEM;
  if (promised) hugetlbAcctMemory(h, -1);
  else mapSet(pages, index, true);
  return folio;
};

/** True where a page for `hva` has not been promised: it has to come from what nobody was promised. */
export const vmaNeedsReservation = (vma: Vma, hva: number): boolean => {
  const map = vmaResvMap(vma);
  return map === null || map.pages.has(hugeIndex(vma, hva)) !== isShared(vma);
};

/** A page for `hva` has been taken: promise used up, or the file's from now on. */
export const vmaCommitReservation = (vma: Vma, hva: number): void => {
  const map = vmaResvMap(vma);
  if (map !== null) mapSet(map.pages, hugeIndex(vma, hva), true);
};

/** The page at `hva` is about to go back to the pool: its owner is promised another. */
export const vmaAddReservation = (vma: Vma, hva: number): void => {
  if (vma.resv !== null) mapDelete(vma.resv.pages, hugeIndex(vma, hva));
};

/**
 * A page that was allocated for `hva` is about to be freed without having been used: the reserve
 * map is as it was before. Compare restore_reserve_on_error().
 */
export const restoreReserveOnError = (k: Kernel, vma: Vma, hva: number, folio: number): void => {
  const map = vmaResvMap(vma);
  if (map === null) return;
  // Shared: an entry that promised stays, one that the allocation made goes. Private: the other way.
  if (folioTestFlags(k, folio, PG_RESTORE_RESERVE) !== isShared(vma))
    mapDelete(map.pages, hugeIndex(vma, hva));
};

/** A VMA was split off another: both go by the same map. Compare hugetlb_vm_op_open(). */
export const hugetlbVmaOpen = (vma: Vma, from: Vma): void => {
  setField(vma, 'resvUnmapped', from.resvUnmapped);
  if (from.resv === null) return;
  setField(vma, 'resv', from.resv);
  setField(from.resv, 'users', from.resv.users + 1);
};

/**
 * mremap() has moved [hva, hva + lenBytes) of a VMA to another: what its owner was promised there
 * goes with it, and the part that is left behind, to be unmapped, has had its promises. Compare
 * fixup_hugetlb_reservations().
 */
export const hugetlbVmaMoved = (vma: Vma, from: Vma, hva: number, lenBytes: number): void => {
  // The new VMA may have lost a page itself while entries were moved.
  if (from.resvUnmapped) setField(vma, 'resvUnmapped', true);
  const { resv } = from;
  if (resv === null) return;
  const moved = createResvMap();
  const to = hugeIndex(from, hva + lenBytes);
  for (let index = hugeIndex(from, hva); index < to; index++) {
    if (resv.pages.has(index)) mapSet(moved.pages, index, true);
    else mapSet(resv.pages, index, true);
  }
  setField(vma, 'resv', moved);
};

/** A VMA goes, nothing of which is mapped: what its owner was promised is free. Compare hugetlb_vm_op_close(). */
export const hugetlbVmaClose = (k: Kernel, vma: Vma): void => {
  const { resv } = vma;
  if (resv === null) return;
  let promised = 0;
  const to = hugeIndex(vma, vma.end);
  for (let index = hugeIndex(vma, vma.start); index < to; index++)
    if (!resv.pages.has(index)) promised++;
  hugetlbAcctMemory(vmaHstate(k, vma), -promised);
  setField(resv, 'users', resv.users - 1);
  setField(vma, 'resv', null);
};

/** A file goes: what it was promised and never had is free. Compare hugetlb_unreserve_pages(). */
export const hugetlbUnreserveFile = (k: Kernel, mapping: AddressSpace): void => {
  const { pages } = fileResvMap(mapping);
  hugetlbAcctMemory(fileHstate(k, mapping), mapping.pages.size - pages.size);
  setField(mapping, 'resv', null);
};
