/**
 * Unmapping for swap: every entry that maps a folio names its slot instead.
 * Compare mm/rmap.c:try_to_unmap_one().
 *
 * An entry of an exclusive page says so in the entry of the slot; where the page may be pinned it
 * stays as it is. What has been replaced when that happens need not be put back: a fault finds the
 * folio in the swap cache.
 */
import { setField } from '#cells';
import { EAGAIN, EBUSY } from '../errno.ts';
import { folioMarkDirty, folioOf, folioPut, pageAnonExclusive } from '../folio/folio.ts';
import type { Path } from '../path.ts';
import { pteDirty, pteSoftDirty, pteUffdWp } from '../pgtable/pte.ts';
import {
  makeSwapEntry,
  PTE_SWP_EXCLUSIVE,
  PTE_SWP_SOFT_DIRTY,
  PTE_SWP_UFFD_WP,
} from '../pgtable/swapops.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import { folioRemoveRmap, folioTryShareAnonRmap } from '../rmap/rmap.ts';
import { unmapFolio } from '../rmap/unmap.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_LOCKED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { pageSwapSlot } from './cache.ts';
import { swapDuplicate, swapFree } from './slots.ts';

/**
 * Replaces every entry that maps the folio by one that names its slot. The caller holds the folio's
 * lock and a reference; the folio is in the swap cache.
 * @returns 0; -EBUSY: it may be pinned; -EAGAIN: something maps it still, locked in memory or new
 */
export const tryToUnmap = (k: Kernel, folio: number): Path<number> =>
  unmapFolio(k, folio, 1, unmapOne);

const unmapOne = (k: Kernel, page: number, vma: Vma, hva: number, word: number): number => {
  if ((vma.flags & VM_LOCKED) !== 0) return -EAGAIN;
  const { mm } = vma;
  const folio = folioOf(k, page);
  const slot = pageSwapSlot(k, page);
  // Cleared and flushed before the pins are looked at: GUP-fast counts first, and reads the entry after.
  const pte = ptepGetAndClear(k, word);
  flushTlbPage(k, mm, hva);
  if (pteDirty(pte)) folioMarkDirty(k, folio);
  swapDuplicate(k, slot);
  const exclusive = pageAnonExclusive(k, page);
  if (exclusive && folioTryShareAnonRmap(k, page) !== 0) {
    swapFree(k, slot);
    setPteAt(k, word, pte);
    return -EBUSY;
  }
  addRss(mm, true, -1);
  setField(mm, 'rssSwap', mm.rssSwap + 1);
  let bits = exclusive ? PTE_SWP_EXCLUSIVE : 0;
  if (pteSoftDirty(pte)) bits |= PTE_SWP_SOFT_DIRTY;
  if (pteUffdWp(pte)) bits |= PTE_SWP_UFFD_WP;
  setPteAt(k, word, makeSwapEntry(slot, bits));
  folioRemoveRmap(k, page);
  folioPut(k, folio);
  return 0;
};
