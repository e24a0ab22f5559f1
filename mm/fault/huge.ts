/**
 * Faults that one entry of a directory may answer: 2 MiB at once. Compare mm/huge_memory.c,
 * do_huge_pmd_anonymous_page(), do_huge_pmd_wp_page() and huge_pmd_set_accessed().
 *
 * A first write makes a folio of 512 pages, all exclusive by the flag of its head; a first read
 * maps the huge zero folio, which everybody shares. What cannot be answered as a whole is split, and
 * goes on page by page.
 */
import { ENOMEM } from '../errno.ts';
import {
  folioCacheRefs,
  folioGet,
  folioLock,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioTestAnon,
  folioTrylock,
  folioUnlock,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { GFP_MOVABLE, GFP_ZERO } from '../frames/buddy.ts';
import { PG_ANON_EXCLUSIVE, PG_UPTODATE } from '../frames/table.ts';
import { folioAddLruVma } from '../lru/mlock.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_FAULT_ALLOCATED, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteLeaf,
  pteMkdirty,
  pteMkspecial,
  pteMkyoung,
  pteNeedsUffdWp,
  pteNone,
  ptePage,
  pteSpecial,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import { flushTlbRange } from '../pgtable/tlb.ts';
import {
  depositTable,
  freeDeposited,
  ptepGet,
  ptepGetAndClear,
  setPteAt,
} from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddNewAnonRmapPmd, folioMoveAnonRmap } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioFreeSwap, folioUnlockFreeSwap } from '../swap/cache.ts';
import { getHugeZeroFolio } from '../thp/huge-zero.ts';
import { PMD_ORDER_BIT, thpAllowableOrders, thpSuitableOrders } from '../thp/orders.ts';
import { splitHugePmd } from '../thp/split-pmd.ts';
import { HPAGE_PMD_NR, HPAGE_PMD_ORDER, HPAGE_PMD_SIZE } from '../thp/state.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { handleUserfault } from '../uffd/fault.ts';
import { addRss } from '../vma/zap.ts';
import { FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE } from './flags.ts';

/** Not as a whole: the fault goes on with a table. Compare VM_FAULT_FALLBACK. */
export const HUGE_FALLBACK = 1;

/**
 * A PMD entry that is no table: none, or a huge leaf.
 * @param hva page-aligned
 * @param word of the PMD entry
 * @returns HUGE_FALLBACK, with no huge leaf left there; or as handleMmFault
 */
export function* handlePmd(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  const entry = ptepGet(k, word);
  if (pteNone(entry))
    return vma.mapping === null && thpAllowableOrders(k, vma, PMD_ORDER_BIT) !== 0
      ? yield* doHugePmdAnonymous(k, vma, hva, word, flags)
      : HUGE_FALLBACK;
  if (!pteLeaf(entry)) return HUGE_FALLBACK;
  if ((flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE)) !== 0 && !pteWrite(entry))
    return yield* wpHugePmd(k, vma, hva, word, entry, flags);
  const written = (flags & FAULT_FLAG_WRITE) !== 0 ? pteMkdirty(entry) : entry;
  setPteAt(k, word, pteMkyoung(written));
  return 0;
}

/** Somebody else has filled the entry meanwhile. */
const HUGE_TAKEN = 2;

/**
 * First touch of 2 MiB of anonymous memory whose VMA may have huge pages.
 * @param word of the PMD entry, which is none
 * @returns as handlePmd
 */
function* doHugePmdAnonymous(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  if (thpSuitableOrders(vma, hva, PMD_ORDER_BIT) === 0) return HUGE_FALLBACK;
  anonVmaPrepare(k, vma);
  // Also for UNSHARE, as in Linux: the walk that asked for it looks again and faults again.
  if ((flags & FAULT_FLAG_WRITE) === 0 && k.state.thp.useZeroPage) return mapHugeZero(k, vma, word);
  const folio = allocHuge(k);
  if (folio < 0) return HUGE_FALLBACK;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  const error = pteNone(ptepGet(k, word)) ? depositTable(k, vma.mm) : HUGE_TAKEN;
  if (error === 0) mapAnonFolioPmd(k, vma, hva, word, folio);
  else folioPut(k, folio);
  return error === HUGE_TAKEN ? 0 : error;
}

/** A zeroed folio for one entry. @returns the folio, or -ENOMEM, counted as a fallback */
const allocHuge = (k: Kernel): number => {
  const folio = folioAllocOrder(k, HPAGE_PMD_ORDER, GFP_ZERO | GFP_MOVABLE);
  if (folio < 0) countStat(k, 'thp_fault_fallback');
  return folio;
};

/** Maps the huge zero folio, read-only: its entry holds no reference. @returns as handlePmd */
const mapHugeZero = (k: Kernel, vma: Vma, word: number): number => {
  if (depositTable(k, vma.mm) !== 0) return -ENOMEM;
  const zero = getHugeZeroFolio(k);
  if (zero < 0) {
    freeDeposited(k, vma.mm);
    countStat(k, 'thp_fault_fallback');
    return HUGE_FALLBACK;
  }
  setPteAt(k, word, pteMkyoung(pteMkspecial(mkPte(zero, vmPageProt(vma.flags)))));
  return 0;
};

/** Maps a new anonymous folio by one entry, writable where the VMA is. A table has been deposited. */
const mapAnonFolioPmd = (k: Kernel, vma: Vma, hva: number, word: number, folio: number): void => {
  folioSetFlags(k, folio, PG_UPTODATE);
  folioAddNewAnonRmapPmd(k, folio, vma, hva - (hva % HPAGE_PMD_SIZE));
  folioAddLruVma(k, folio, vma);
  addRss(vma.mm, true, HPAGE_PMD_NR);
  const entry = pteMkyoung(pteMkdirty(mkPte(folio, vmPageProt(vma.flags))));
  setPteAt(k, word, maybeMkwrite(entry, vma.flags));
  countStat(k, 'thp_fault_alloc');
};

/** A write (or UNSHARE) to 2 MiB that are mapped read-only. Compare wp_huge_pmd(). @returns as handlePmd */
function* wpHugePmd(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  entry: number,
  flags: number,
): Path<number> {
  if (vma.mapping === null) {
    if ((flags & FAULT_FLAG_UNSHARE) === 0 && pteNeedsUffdWp(vma, entry))
      return yield* handleUserfault(k, vma, hva, flags);
    const error = pteSpecial(entry)
      ? yield* wpHugeZero(k, vma, hva, word, entry)
      : yield* wpHugeAnon(k, vma, word, entry, flags);
    if (error !== HUGE_FALLBACK) return error;
  }
  splitHugePmd(k, vma, hva);
  return HUGE_FALLBACK;
}

/** The huge zero folio makes room for a folio of the mapping's own. Compare do_huge_zero_wp_pmd(). */
function* wpHugeZero(k: Kernel, vma: Vma, hva: number, word: number, entry: number): Path<number> {
  const { mm } = vma;
  anonVmaPrepare(k, vma);
  const folio = allocHuge(k);
  if (folio < 0) return HUGE_FALLBACK;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  const start = hva - (hva % HPAGE_PMD_SIZE);
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, start, start + HPAGE_PMD_SIZE, MMU_NOTIFY_CLEAR)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  if (ptepGet(k, word) !== entry) {
    folioPut(k, folio);
  } else {
    // The table that was deposited for the zero folio stays for the new one.
    ptepGetAndClear(k, word);
    flushTlbRange(k, mm, start, start + HPAGE_PMD_SIZE);
    mapAnonFolioPmd(k, vma, hva, word, folio);
  }
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  return 0;
}

/**
 * An anonymous folio: reused where it is exclusive, or where its one reference is this entry's; a
 * folio of 2 MiB is never copied as a whole. Compare do_huge_pmd_wp_page().
 */
function* wpHugeAnon(
  k: Kernel,
  vma: Vma,
  word: number,
  entry: number,
  flags: number,
): Path<number> {
  const folio = ptePage(entry);
  if (!folioTestAnon(k, folio)) return HUGE_FALLBACK;
  if (!pageAnonExclusive(k, folio)) {
    if (!folioTrylock(k, folio)) {
      folioGet(k, folio);
      yield* folioLock(k, folio);
      const same = ptepGet(k, word) === entry;
      if (!same) folioUnlockFreeSwap(k, folio);
      folioPut(k, folio);
      if (!same) return 0;
    }
    // Whoever had the lock may have made it exclusive.
    const exclusive = pageAnonExclusive(k, folio);
    if (!exclusive && folioRefCount(k, folio) === 1 + folioCacheRefs(k, folio))
      folioFreeSwap(k, folio);
    const sole = exclusive || folioRefCount(k, folio) === 1;
    if (sole && !exclusive) {
      folioMoveAnonRmap(k, folio, vma);
      folioSetFlags(k, folio, PG_ANON_EXCLUSIVE);
    }
    folioUnlock(k, folio);
    if (!sole) return HUGE_FALLBACK;
  }
  if ((flags & FAULT_FLAG_UNSHARE) !== 0) return 0;
  setPteAt(k, word, maybeMkwrite(pteMkyoung(pteMkdirty(entry)), vma.flags));
  countStat(k, 'cow_reused');
  return 0;
}
