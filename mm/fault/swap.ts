/**
 * Faults on entries that are not present: swap, migration, poison, markers.
 * Compare mm/memory.c:do_swap_page().
 */
import { setField } from '#cells';
import { EAGAIN, EBUSY, EHWPOISON } from '../errno.ts';
import {
  folioAlloc,
  folioGet,
  folioMarkDirty,
  folioNrPages,
  folioOf,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
} from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_HWPOISON, PG_KSM, PG_LRU, PG_UPTODATE } from '../frames/table.ts';
import { lruAddDrain } from '../lru/batch.ts';
import { folioAddLruVma, mlockVmaFolio } from '../lru/mlock.ts';
import { type Path, YP_FAULT_COPIED } from '../path.ts';
import {
  mkPte,
  pteMkdirty,
  pteMksoftDirty,
  pteMkuffdWp,
  pteMkwrite,
  pteMkyoung,
  pteNeedsSoftDirtyWp,
  pteNeedsUffdWp,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import {
  isHwpoisonEntry,
  isMigrationEntry,
  isPteMarker,
  isSwapEntry,
  PTE_SWP_SOFT_DIRTY,
  PTE_SWP_UFFD_WP,
  swapEntryExclusive,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import { ptepGet, setPteAt } from '../pgtable/walk.ts';
import { folioAddAnonRmap, folioAddNewAnonRmap } from '../rmap/rmap.ts';
import {
  folioFreeSwap,
  folioTestSwapcache,
  folioUnlockFreeSwap,
  swapCachePage,
} from '../swap/cache.ts';
import { swapinFolio, swapinNeedsCopy } from '../swap/in.ts';
import { swapFree, swapFull } from '../swap/slots.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_LOCKED, VM_UFFD_WP, VM_WRITE } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { doFileFault } from './file.ts';
import { FAULT_FLAG_WRITE, VM_FAULT_RETRY } from './flags.ts';
import { faultWait } from './retry.ts';
import { doWpPage } from './wp.ts';

/**
 * @param word the entry, and `entry` what it was
 * @returns 0: try again; VM_FAULT_RETRY; -EHWPOISON; -ENOMEM
 */
export function* doSwapPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  entry: number,
  flags: number,
): Path<number> {
  if (isSwapEntry(entry)) return yield* doSwapIn(k, vma, hva, word, entry, flags);
  if (isMigrationEntry(entry)) return yield* migrationEntryWait(k, vma.mm, word, entry, flags);
  if (isHwpoisonEntry(entry)) return -EHWPOISON;
  if (isPteMarker(entry)) return yield* handlePteMarker(k, vma, hva, word, flags);
  throw new Error(`mm ${vma.mm.id}: hva ${hva}: entry ${entry} of no known kind`);
}

/**
 * A marker: a file's page that userfaultfd had protected, and is protected again when it is back; of no
 * meaning where nobody is registered any more. Compare handle_pte_marker().
 */
function* handlePteMarker(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  if (vma.mapping !== null && (vma.flags & VM_UFFD_WP) !== 0)
    return yield* doFileFault(k, vma, hva, flags);
  setPteAt(k, word, 0);
  return 0;
}

/**
 * Until whoever moves the folio has put entries back. Linux waits with mmap_lock held, and with
 * FAULT_FLAG_RETRY_NOWAIT too. Compare migration_entry_wait().
 * @returns 0 or VM_FAULT_RETRY, as faultWait
 */
export const migrationEntryWait = (
  k: Kernel,
  mm: MmStruct,
  word: number,
  entry: number,
  flags: number,
): Path<number> => faultWait(k, mm, flags, () => ptepGet(k, word) !== entry);

/** The entry of a slot: its page is found, or read in, and mapped. @returns 0, -ENOMEM or -EHWPOISON */
function* doSwapIn(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  entry: number,
  flags: number,
): Path<number> {
  const folio = yield* swapinFolio(k, vma.mm, word, entry, flags);
  if (folio === -EBUSY) return VM_FAULT_RETRY;
  if (folio < 0) return folio === -EAGAIN ? 0 : folio;
  const page = swapCachePage(k, swapEntrySlot(entry));
  let error = 0;
  let copy = -1;
  if (swapinNeedsCopy(k, page, vma, hva)) {
    copy = folioAlloc(k, GFP_MOVABLE);
    if (copy < 0) error = copy;
    else {
      k.memory.copyPage(copy, page);
      if (k.watched) yield YP_FAULT_COPIED;
    }
  }
  const changed = ptepGet(k, word) !== entry;
  if (error === 0 && !changed && folioTestFlags(k, page, PG_HWPOISON)) error = -EHWPOISON;
  const maps = error === 0 && !changed;
  if (maps) {
    // The batch that a folio which was just read in is in has a reference as well.
    if (!folioTestFlags(k, folio, PG_LRU)) lruAddDrain(k);
    installSwapped(k, vma, hva, word, entry, page, copy, flags);
    if (shouldTryToFreeSwap(k, folio, vma, flags)) folioFreeSwap(k, folio);
  } else if (copy >= 0) {
    folioPut(k, copy);
  }
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  if (!maps || (flags & FAULT_FLAG_WRITE) === 0) return error;
  const pte = ptepGet(k, word);
  return pteWrite(pte) ? 0 : yield* doWpPage(k, vma, hva, word, pte, flags);
}

/**
 * The entry maps the page, or the copy of it, and names the slot no more: under the page-table lock.
 * Exclusive is what the entry said, and a copy. Writable at once only where it is exclusive; whether
 * one that nobody else uses may become so is for the next write to find out (wp.ts).
 */
const installSwapped = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  entry: number,
  page: number,
  copy: number,
  flags: number,
): void => {
  const { mm } = vma;
  const folio = folioOf(k, page);
  const ksm = copy < 0 && folioTestFlags(k, folio, PG_KSM);
  const exclusive = copy >= 0 || (swapEntryExclusive(entry) && !ksm);
  let pte = pteMkyoung(mkPte(copy >= 0 ? copy : page, vmPageProt(vma.flags)));
  if ((entry & PTE_SWP_SOFT_DIRTY) !== 0) pte = pteMksoftDirty(pte);
  if ((entry & PTE_SWP_UFFD_WP) !== 0) pte = pteMkuffdWp(pte);
  const wpDue = pteNeedsUffdWp(vma, pte) || pteNeedsSoftDirtyWp(vma, pte);
  if (exclusive && (vma.flags & VM_WRITE) !== 0 && !wpDue) {
    pte = pteMkwrite(pte);
    if ((flags & FAULT_FLAG_WRITE) !== 0) pte = pteMkdirty(pte);
  }
  if (copy >= 0) {
    folioSetFlags(k, copy, PG_UPTODATE);
    folioMarkDirty(k, copy);
    folioAddNewAnonRmap(k, copy, vma, hva);
    folioAddLruVma(k, copy, vma);
  } else {
    folioGet(k, folio);
    if (folioTestAnon(k, folio)) folioAddAnonRmap(k, page, exclusive);
    else folioAddNewAnonRmap(k, folio, vma, hva, exclusive);
    mlockVmaFolio(k, folio, vma);
  }
  addRss(mm, true, 1);
  setField(mm, 'rssSwap', mm.rssSwap - 1);
  setPteAt(k, word, pte);
  swapFree(k, swapEntrySlot(entry));
};

/**
 * Is it worth trying to give the slots back now? Where slots are scarce, where the page is not to be
 * swapped out again, and for a write whose page has no other user than the cache (and us): then it
 * can be reused instead of copied.
 */
const shouldTryToFreeSwap = (k: Kernel, folio: number, vma: Vma, flags: number): boolean => {
  if (!folioTestSwapcache(k, folio)) return false;
  if (swapFull(k) || (vma.flags & VM_LOCKED) !== 0) return true;
  return (
    (flags & FAULT_FLAG_WRITE) !== 0 &&
    !folioTestFlags(k, folio, PG_KSM) &&
    folioRefCount(k, folio) === 2 + folioNrPages(k, folio)
  );
};
