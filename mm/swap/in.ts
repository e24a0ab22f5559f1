/**
 * Swapping in: the folio that a slot's bytes are in, read if need be. Compare mm/swap_state.c,
 * swap_cache_get_folio() and read_swap_cache_async(), and mm/ksm.c:ksm_might_need_to_copy().
 *
 * What is read in is one page; there is no read-ahead. A large folio comes back as a whole only
 * while it is still in the swap cache.
 */
import { readOnce } from '#cells';
import { EAGAIN, EBUSY } from '../errno.ts';
import { folioLockOrRetry } from '../fault/retry.ts';
import {
  folioAlloc,
  folioGet,
  folioLock,
  folioOf,
  folioPut,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
  folioTrylock,
  pageIndex,
} from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_KSM, PG_SWAPBACKED, PG_UPTODATE } from '../frames/table.ts';
import { ksmNodeOf } from '../ksm/node.ts';
import { folioAddLru } from '../lru/batch.ts';
import { type Path, YP_FAULT_ALLOCATED, YP_SWAP_READ } from '../path.ts';
import { swapEntrySlot } from '../pgtable/swapops.ts';
import { ptepGet } from '../pgtable/walk.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { linearPageIndex, VM_MERGEABLE } from '../vma/flags.ts';
import { folioUnlockFreeSwap, swapCacheAdd, swapCachePage } from './cache.ts';
import { swapReadPage } from './slots.ts';

/**
 * Puts a fresh folio into the swap cache and reads a slot's bytes into it.
 * @param named does anybody name the slot still? As long as the caller's does it is what it was
 * @returns the folio, locked and with a reference for the caller; -EAGAIN: not named any more, or
 *   somebody else was first; -ENOMEM
 */
function* readSlot(k: Kernel, slot: number, named: () => boolean): Path<number> {
  const fresh = folioAlloc(k, GFP_MOVABLE);
  if (fresh < 0) return fresh;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  if (!named() || swapCachePage(k, slot) >= 0) {
    folioPut(k, fresh);
    return -EAGAIN;
  }
  folioTrylock(k, fresh);
  folioSetFlags(k, fresh, PG_SWAPBACKED);
  swapCacheAdd(k, fresh, slot);
  if (k.watched) yield YP_SWAP_READ;
  swapReadPage(k, slot, fresh);
  folioSetFlags(k, fresh, PG_UPTODATE);
  folioAddLru(k, fresh);
  return fresh;
}

/**
 * The folio of the slot that an entry names, in the swap cache, locked and with a reference for the
 * caller. The caller holds mmap_lock, so that the entry's table stays.
 * @param word the entry, and `entry` what it was
 * @param flags FAULT_FLAG_*: how to wait for the folio's lock
 * @returns the folio; -EAGAIN: the entry or the cache changed meanwhile; -EBUSY: VM_FAULT_RETRY; -ENOMEM
 */
export function* swapinFolio(
  k: Kernel,
  mm: MmStruct,
  word: number,
  entry: number,
  flags: number,
): Path<number> {
  const slot = swapEntrySlot(entry);
  if (swapCachePage(k, slot) < 0) {
    const fresh = yield* readSlot(k, slot, () => ptepGet(k, word) === entry);
    if (fresh !== -EAGAIN || swapCachePage(k, slot) < 0) return fresh;
  }
  const folio = folioOf(k, swapCachePage(k, slot));
  folioGet(k, folio);
  if ((yield* folioLockOrRetry(k, mm, folio, flags)) !== 0) {
    folioPut(k, folio);
    return -EBUSY;
  }
  return stillCached(k, slot, folio);
}

/** The same for a slot that a file names. @returns the folio; -EAGAIN; -ENOMEM */
export function* swapinFileSlot(k: Kernel, slot: number, named: () => boolean): Path<number> {
  if (swapCachePage(k, slot) < 0) {
    const fresh = yield* readSlot(k, slot, named);
    if (fresh !== -EAGAIN || swapCachePage(k, slot) < 0) return fresh;
  }
  const folio = folioOf(k, swapCachePage(k, slot));
  folioGet(k, folio);
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  return stillCached(k, slot, folio);
}

/** A folio whose lock was waited for: is it the slot's still? If not, lock and reference go. */
const stillCached = (k: Kernel, slot: number, folio: number): number => {
  const page = swapCachePage(k, slot);
  if (page >= 0 && folioOf(k, page) === folio) return folio;
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  return -EAGAIN;
};

/**
 * Would the reverse map not find `page` if it was mapped at `hva`? A merged page that was swapped out
 * comes back as the page of whoever touches it first: the others need copies of it. One that is
 * still in the swap cache is found where it was merged, and not where mremap() has moved the entry.
 * A VMA that is not mergeable any more gets a copy, so that mremap() finds no merged page there; Linux
 * maps it, and its reverse map loses it then.
 */
export const swapinNeedsCopy = (k: Kernel, page: number, vma: Vma, hva: number): boolean => {
  const folio = folioOf(k, page);
  if (!folioTestAnon(k, folio)) return false;
  if (folioTestFlags(k, folio, PG_KSM))
    return (
      (vma.flags & VM_MERGEABLE) === 0 ||
      !ksmNodeOf(k, folio).items.some(
        (item) => item.hva === hva && vma.anonChain.includes(item.anonVma),
      )
    );
  const id = readOnce(k.state.frames.mapping, folio);
  return (
    pageIndex(k, page) !== (linearPageIndex(vma, hva) | 0) ||
    !vma.anonChain.some((anonVma) => anonVma.id === id)
  );
};
