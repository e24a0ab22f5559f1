/**
 * memory_failure(): a page whose memory has gone bad is taken away from everybody who maps it.
 * Compare mm/memory-failure.c.
 *
 * Every entry becomes a hwpoison entry, on which faults are SIGBUS and GUP -EFAULT or -EHWPOISON;
 * a page of shmem stays in the cache, marked, so that nobody reads zeros in its place. The
 * page keeps one reference for ever and never comes back. Who maps it is not told at once: no
 * signals are sent.
 *
 * A page of a file on a device leaves the cache, so that the next access reads it again. If it was
 * dirty what was in it is lost: fsync() says so, and who maps it gets SIGBUS.
 *
 * A page of guest_memfd stays in its file, marked, and guests that show it have to ask again.
 *
 * A large folio is split first. One of hugetlb is poisoned whole and stays out of its pool. A page
 * in the swap cache keeps its slot; who swaps it in finds the mark.
 */
import { readOnce, writeOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { folioMkclean, folioWaitWriteback } from '../cache/clean.ts';
import { filemapInvalidateFolio, filemapRemoveFolio } from '../cache/remove.ts';
import { mappingSetError } from '../cache/writeback.ts';
import { EBUSY, EHWPOISON, EIO, ENXIO } from '../errno.ts';
import {
  folioCacheRefs,
  folioClearFlags,
  folioLock,
  folioMapcount,
  folioNrPages,
  folioOf,
  folioOrder,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioTestAnon,
  folioTestDirty,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { freePages, isFreeBlock, takeFreeBlock } from '../frames/buddy.ts';
import { pageOnline } from '../frames/pageblock.ts';
import {
  PG_ACTIVE,
  PG_DEVDAX,
  PG_FSDAX,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_LRU,
  PG_MLOCKED,
  PG_RESERVED,
  PG_TABLE,
  PG_UNEVICTABLE,
} from '../frames/table.ts';
import { MAX_PAGE_ORDER } from '../frames/zone.ts';
import { guestMemfdPoisoned } from '../fs/guestmemfd.ts';
import { hugetlbCountAdd } from '../hugetlb/fault.ts';
import { lruAddDrainAll } from '../lru/batch.ts';
import { lruListDel } from '../lru/list.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import type { Path } from '../path.ts';
import { pteLeaf, ptePage } from '../pgtable/pte.ts';
import { makeHwpoisonEntry } from '../pgtable/swapops.ts';
import { flushTlbPage, flushTlbRange } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt, walkEntry } from '../pgtable/walk.ts';
import { folioMapping, folioRemoveRmap, folioRemoveRmapPmd, rmapPlaces } from '../rmap/rmap.ts';
import { unmapFolio } from '../rmap/unmap.ts';
import { splitHugePage } from '../thp/split.ts';
import { HPAGE_PMD_ORDER } from '../thp/state.ts';
import { type AddressSpace, type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { addRss } from '../vma/zap.ts';

/** Rounds over the VMAs before giving up: a fork may add mappings behind the walk. */
const POISON_ROUNDS = 3;

/**
 * Takes a page out of use.
 * @param page any page number
 * @returns 0: nobody reaches it any more; -EHWPOISON: it has been poisoned before; -EBUSY: a page of
 *   the kernel's own, of persistent memory, or a folio that cannot be split, and nothing has changed; or it is unmapped and
 *   somebody has a reference or a pin; -ENXIO: no such page, or offline
 */
export function* memoryFailure(k: Kernel, page: number): Path<number> {
  if (!pageOnline(k, page)) return -ENXIO;
  const folio = folioOf(k, page);
  if (isPoisoned(k, page)) return -EHWPOISON;
  if (folioTestFlags(k, folio, PG_TABLE) || folioTestFlags(k, folio, PG_RESERVED)) return -EBUSY;
  // Persistent memory stays its file's: nobody could give it another frame.
  if ((readOnce(k.state.frames.flags, page) & (PG_FSDAX | PG_DEVDAX)) !== 0) return -EBUSY;
  if (folioRefCount(k, folio) === 0) return poisonFree(k, page);
  if (folioTestFlags(k, folio, PG_HUGETLB)) return yield* poisonFolio(k, folio);
  if (folioOrder(k, folio) > 0 && (yield* splitHugePage(k, page)) !== 0) return -EBUSY;
  return yield* poisonFolio(k, page);
}

const isPoisoned = (k: Kernel, page: number): boolean =>
  folioTestFlags(k, page, PG_HWPOISON) || folioTestFlags(k, folioOf(k, page), PG_HWPOISON);

/** A free page: its block is taken off its list, and all the rest of it put back. */
const poisonFree = (k: Kernel, page: number): number => {
  for (let order = 0; order <= MAX_PAGE_ORDER; order++) {
    const block = page & ~((1 << order) - 1);
    if (!isFreeBlock(k, block, order)) continue;
    takeFreeBlock(k, block, order);
    for (let half = order - 1; half >= 0; half--)
      freePages(k, (page & ~((1 << half) - 1)) ^ (1 << half), half);
    writeOnce(k.state.frames.refcount, page, 1);
    folioSetFlags(k, page, PG_HWPOISON);
    return 0;
  }
  return -EBUSY;
};

/** A folio that is in use: of one page, or of hugetlb. */
function* poisonFolio(k: Kernel, folio: number): Path<number> {
  if (!folioTryGet(k, folio)) return -EBUSY;
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  if (folioTestFlags(k, folio, PG_HWPOISON)) {
    folioUnlock(k, folio);
    folioPut(k, folio);
    return -EHWPOISON;
  }
  folioSetFlags(k, folio, PG_HWPOISON);
  // Compare shake_folio().
  if (!folioTestFlags(k, folio, PG_LRU)) lruAddDrainAll(k);
  const object = folioMapping(k, folio);
  if (folioTestFlags(k, folio, PG_HUGETLB)) unmapHugetlb(k, folio);
  else if (object?.kind === 'extent') yield* poisonCached(k, object, folio);
  else yield* unmapFolio(k, folio, POISON_ROUNDS, poisonOne);
  if (folioTestFlags(k, folio, PG_LRU)) lruListDel(k, folio);
  folioClearFlags(k, folio, PG_ACTIVE | PG_UNEVICTABLE | PG_MLOCKED);
  const mine = 1 + folioCacheRefs(k, folio);
  const reached = folioMapcount(k, folio) > 0 || folioRefCount(k, folio) > mine;
  const pgoff = readOnce(k.state.frames.index, folio);
  folioUnlock(k, folio);
  // Behind the lock: whoever punches a hole has invalidate_lock when he waits for that of a folio.
  if (object?.kind === 'gmem') yield* guestMemfdPoisoned(k, object, pgoff);
  // The reference taken above stays.
  return reached ? -EBUSY : 0;
}

/** A page of a file that is written back. Compare hwpoison_user_mappings(), me_pagecache_clean(), me_pagecache_dirty(). */
function* poisonCached(k: Kernel, mapping: AddressSpace, folio: number): Path<void> {
  yield* folioWaitWriteback(k, folio);
  yield* folioMkclean(k, folio);
  const dirty = folioTestDirty(k, folio);
  yield* unmapFolio(k, folio, POISON_ROUNDS, dirty ? poisonOne : dropOne);
  if (folioMapcount(k, folio) > 0) return;
  if (dirty) mappingSetError(mapping, -EIO);
  filemapInvalidateFolio(k, mapping, folio);
  filemapRemoveFolio(k, mapping, readOnce(k.state.frames.index, folio), folio);
}

/** An entry of a clean page: a fault finds what the device has. Private mappings of it alike. */
const dropOne = (k: Kernel, page: number, vma: Vma, hva: number, word: number): number => {
  ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  addRss(vma.mm, false, -1);
  folioRemoveRmap(k, page);
  folioPut(k, page);
  return 0;
};

/** One entry, under its lock. Pins do not matter: the device has the frame, good or bad. */
const poisonOne = (k: Kernel, page: number, vma: Vma, hva: number, word: number): number => {
  ptepGetAndClear(k, word);
  flushTlbPage(k, vma.mm, hva);
  setPteAt(k, word, makeHwpoisonEntry(page));
  addRss(vma.mm, folioTestAnon(k, folioOf(k, page)), -1);
  folioRemoveRmap(k, page);
  folioPut(k, folioOf(k, page));
  return 0;
};

/** Every huge entry of a hugetlb folio. Without a yield, so that no fork comes between. */
const unmapHugetlb = (k: Kernel, folio: number): void => {
  const level = folioOrder(k, folio) === HPAGE_PMD_ORDER ? 1 : 2;
  const lenBytes = folioNrPages(k, folio) * PAGE_SIZE;
  for (const { vma, hva } of rmapPlaces(k, folio)) {
    const word = walkEntry(k, vma.mm, hva, level, false);
    const entry = word > 0 ? ptepGet(k, word) : 0;
    if (!pteLeaf(entry) || ptePage(entry) !== folio) continue;
    const range = mmHasNotifiers(vma.mm)
      ? notifierRange(vma.mm, hva, hva + lenBytes, MMU_NOTIFY_CLEAR)
      : null;
    if (range !== null) notifyRangeStart(k, range);
    ptepGetAndClear(k, word);
    flushTlbRange(k, vma.mm, hva, hva + lenBytes);
    setPteAt(k, word, makeHwpoisonEntry(folio));
    folioRemoveRmapPmd(k, folio);
    hugetlbCountAdd(vma.mm, -folioNrPages(k, folio));
    folioPut(k, folio);
    if (range !== null) notifyRangeEnd(k, range);
  }
};
