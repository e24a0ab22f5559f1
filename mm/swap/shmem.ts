/**
 * Swap of shmem: a page goes from the page cache to the swap cache and back; meanwhile the file names
 * the slot. Compare mm/shmem.c, shmem_writeout() and shmem_swapin_folio().
 *
 * Entries do not name slots here: they are cleared, and faults ask the file again. A page that nobody
 * has written to is a hole again.
 */
import { mapDelete, mapSet, readOnce } from '#cells';
import { EAGAIN, EBUSY, EINVAL } from '../errno.ts';
import {
  folioMarkDirty,
  folioOf,
  folioPut,
  folioRefCount,
  folioSetMapping,
  folioTestDirty,
} from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { mappingAddFolio } from '../fs/mapping.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import type { Path } from '../path.ts';
import { pteDirty, pteUffdWp, pteYoung } from '../pgtable/pte.ts';
import { makeUffdWpMarker } from '../pgtable/swapops.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import { folioMapping, folioRemoveRmap } from '../rmap/rmap.ts';
import { unmapFolio } from '../rmap/unmap.ts';
import type { AddressSpace, Kernel, Vma } from '../types.ts';
import { VM_LOCKED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { folioAllocSwap, folioFreeSwap, folioUnlockFreeSwap, pageSwapSlot } from './cache.ts';
import { swapinFileSlot } from './in.ts';
import { swapDuplicate, swapFree } from './slots.ts';

/** One entry of a file's page goes, as in zapping. @returns 0, or -EAGAIN: it is locked in memory there */
export const unmapFileOne = (
  k: Kernel,
  page: number,
  vma: Vma,
  hva: number,
  word: number,
): number => {
  if ((vma.flags & VM_LOCKED) !== 0) return -EAGAIN;
  const folio = folioOf(k, page);
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  if (pteYoung(pte)) folioMarkAccessed(k, folio);
  if (pteUffdWp(pte)) setPteAt(k, word, makeUffdWpMarker());
  addRss(vma.mm, false, -1);
  folioRemoveRmap(k, page);
  folioPut(k, folio);
  return 0;
};

/**
 * Unmaps a small folio of shmem and moves it to the swap cache, dirty. The caller holds its lock and
 * the reference of isolation.
 * @returns 0: in the swap cache, or in no cache where it was clean; -EBUSY pinned; -EAGAIN held, or
 *   mapped still; -ENOMEM no slot; -EINVAL no longer of a file, or of another kind of file
 */
export function* shmemToSwap(k: Kernel, folio: number): Path<number> {
  const mapping = folioMapping(k, folio);
  if (mapping === null || mapping.kind !== 'shmem') return -EINVAL;
  const error = yield* unmapFolio(k, folio, 1, unmapFileOne);
  if (error !== 0) return error;
  // Its holder reaches it by number: it stays in the page cache, and faults map it again.
  if (folioMaybeDmaPinned(k, folio)) return -EBUSY;
  if (folioRefCount(k, folio) !== 2) return -EAGAIN;
  const pgoff = readOnce(k.state.frames.index, folio);
  if (folioTestDirty(k, folio)) {
    const full = folioAllocSwap(k, folio);
    if (full !== 0) return full;
    const slot = pageSwapSlot(k, folio);
    swapDuplicate(k, slot);
    mapSet(mapping.swapped, pgoff, slot);
  }
  mapDelete(mapping.pages, pgoff);
  folioSetMapping(k, folio, 0, 0);
  folioPut(k, folio);
  return 0;
}

/**
 * The page of a slot that a file names comes back into the page cache.
 * @returns the page, its folio locked and with a reference for the caller; -EAGAIN: look again; -ENOMEM
 */
export function* shmemSwapin(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  slot: number,
): Path<number> {
  const folio = yield* swapinFileSlot(k, slot, () => mapping.swapped.get(pgoff) === slot);
  if (folio < 0) return folio;
  // Whoever had been first would have taken it out of the swap cache; truncation takes the name only.
  if (mapping.swapped.get(pgoff) !== slot) {
    folioUnlockFreeSwap(k, folio);
    folioPut(k, folio);
    return -EAGAIN;
  }
  mapDelete(mapping.swapped, pgoff);
  swapFree(k, slot);
  folioFreeSwap(k, folio);
  mappingAddFolio(k, mapping, pgoff, folio, 0);
  return folio;
}
