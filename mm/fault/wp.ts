/**
 * Faults on present entries that do not allow writing: reuse the page or copy it.
 * Compare mm/memory.c:do_wp_page(), wp_can_reuse_anon_folio(), wp_page_copy().
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN } from '../errno.ts';
import {
  folioAlloc,
  folioGet,
  folioMapcount,
  folioMarkDirty,
  folioOf,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioTestAnon,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { daxPfnMkwrite } from '../fs/dax/fault.ts';
import { GFP_MOVABLE, GFP_ZERO } from '../frames/buddy.ts';
import { PG_ANON_EXCLUSIVE, PG_KSM, PG_LRU, PG_UPTODATE } from '../frames/table.ts';
import { lruAddDrain } from '../lru/batch.ts';
import { folioAddLruVma, munlockVmaFolio } from '../lru/mlock.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import {
  type Path,
  YP_FAULT_ALLOCATED,
  YP_FAULT_COPIED,
  YP_NOTIFIER_END,
  YP_NOTIFIER_START,
} from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMksoftDirty,
  pteMkuffdWp,
  pteMkyoung,
  pteNeedsUffdWp,
  ptePage,
  pteSoftDirty,
  pteUffdWp,
  vmNormalPage,
  vmPageProt,
} from '../pgtable/pte.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import {
  folioAddNewAnonRmap,
  folioMappedElsewhere,
  folioMoveAnonRmap,
  folioRemoveRmap,
} from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioFreeSwap, folioTestSwapcache, freeSwapCache } from '../swap/cache.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { handleUserfault } from '../uffd/fault.ts';
import { VM_MAYSHARE, VM_SHARED } from '../vma/flags.ts';
import { addRss } from '../vma/zap.ts';
import { FAULT_FLAG_UNSHARE } from './flags.ts';
import { pageMkwrite } from './mkwrite.ts';

/**
 * True where the mapping is the only user of an anonymous folio that is not exclusive: every
 * reference is a mapping of this address space. Any GUP reference, short or pinned, makes it false.
 */
const canReuseAnon = (k: Kernel, vma: Vma, folio: number): boolean => {
  if (folioTestLarge(k, folio)) return canReuseLargeAnon(k, vma, folio);
  if (k.sabotage.reuseByMapcount && folioMapcount(k, folio) === 1) return true;
  const cached = folioTestSwapcache(k, folio) ? 1 : 0;
  // The cache, and this CPU's batch; another CPU's cannot be told from somebody who uses the page.
  if (folioTestFlags(k, folio, PG_KSM) || folioRefCount(k, folio) > 3) return false;
  if (!folioTestFlags(k, folio, PG_LRU)) lruAddDrain(k);
  if (folioRefCount(k, folio) > 1 + cached) return false;
  if (!folioTrylock(k, folio)) return false;
  if (cached !== 0) folioFreeSwap(k, folio);
  const sole = folioRefCount(k, folio) === 1;
  if (sole) folioMoveAnonRmap(k, folio, vma);
  folioUnlock(k, folio);
  return sole;
};

/**
 * Of a large folio a single page that is left is copied, so that the rest can go. The folio stays
 * with its anon_vma: other VMAs may map other pages. Compare __wp_can_reuse_large_anon_folio().
 */
const canReuseLargeAnon = (k: Kernel, vma: Vma, folio: number): boolean => {
  if (folioMapcount(k, folio) <= 1) return false;
  if (folioTestSwapcache(k, folio)) {
    if (!folioTrylock(k, folio)) return false;
    folioFreeSwap(k, folio);
    folioUnlock(k, folio);
  }
  return (
    folioMapcount(k, folio) === folioRefCount(k, folio) && !folioMappedElsewhere(k, folio, vma.mm)
  );
};

/** The entry as it is, writable. Compare wp_page_reuse(). */
const reuse = (k: Kernel, vma: Vma, word: number, pte: number): void => {
  setPteAt(k, word, maybeMkwrite(pteMkyoung(pteMkdirty(pte)), vma.flags));
};

/**
 * A write (or UNSHARE) to a page that is mapped read-only.
 * @param word the entry, and `pte` what it was
 * @returns 0, -ENOMEM, or as handleUserfault
 */
export function* doWpPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  pte: number,
  flags: number,
): Path<number> {
  const unshare = (flags & FAULT_FLAG_UNSHARE) !== 0;
  if (!unshare && pteNeedsUffdWp(vma, pte)) return yield* handleUserfault(k, vma, hva, flags);
  const page = vmNormalPage(pte);
  if ((vma.flags & (VM_SHARED | VM_MAYSHARE)) !== 0)
    return vma.mapping?.kind === 'fsdax'
      ? yield* daxPfnMkwrite(k, vma, hva)
      : yield* wpPageShared(k, vma, word, pte, page);
  if (page >= 0 && folioTestAnon(k, folioOf(k, page))) {
    const exclusive = pageAnonExclusive(k, page);
    if (exclusive || canReuseAnon(k, vma, folioOf(k, page))) {
      if (!exclusive) folioSetFlags(k, page, PG_ANON_EXCLUSIVE);
      if (unshare) return 0;
      reuse(k, vma, word, pte);
      countStat(k, 'cow_reused');
      return 0;
    }
  }
  return yield* wpPageCopy(k, vma, hva, word, pte, page, unshare);
}

/**
 * A write to a shared page: write-protected by somebody who wanted to know of it. A file system that
 * keeps track of dirty pages is asked first. Compare wp_page_shared(), wp_pfn_shared().
 * @returns 0; -EFAULT: the file system has no room for it
 */
function* wpPageShared(k: Kernel, vma: Vma, word: number, pte: number, page: number): Path<number> {
  const { mapping } = vma;
  if (page < 0 || mapping === null || !tracksDirty(mapping)) {
    reuse(k, vma, word, pte);
    if (page >= 0) folioMarkDirty(k, folioOf(k, page));
    return 0;
  }
  const folio = folioOf(k, page);
  folioGet(k, folio);
  const asked = yield* pageMkwrite(k, mapping, page);
  if (asked === 0) {
    // Not the same apart from A: somebody came first, and the access tries again.
    if (pteMkyoung(ptepGet(k, word)) === pteMkyoung(pte)) reuse(k, vma, word, pte);
    folioUnlock(k, folio);
  }
  folioPut(k, folio);
  return asked === -EAGAIN ? 0 : asked;
}

/** The bytes behind an entry whose page is not counted, if there are any: the zero page's are there. */
const copySpecial = (k: Kernel, copy: number, pte: number): void => {
  const page = ptePage(pte);
  if (page !== k.state.zeroPage && page >= 0 && page < k.memory.nrPages)
    k.memory.copyPage(copy, page);
};

/** Breaks COW by a copy. @param page what is mapped, or -1: the zero page, or a frame of a driver's */
function* wpPageCopy(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  pte: number,
  page: number,
  unshare: boolean,
): Path<number> {
  const { mm } = vma;
  anonVmaPrepare(k, vma);
  if (page >= 0) folioGet(k, folioOf(k, page));
  const copy = folioAlloc(k, page < 0 ? GFP_ZERO | GFP_MOVABLE : GFP_MOVABLE);
  if (copy < 0) {
    if (page >= 0) folioPut(k, folioOf(k, page));
    return copy;
  }
  if (k.watched) yield YP_FAULT_ALLOCATED;
  if (page >= 0) k.memory.copyPage(copy, page);
  else copySpecial(k, copy, pte);
  countStat(k, unshare ? 'unshare_copied' : 'cow_copied');
  if (page >= 0 && folioTestFlags(k, page, PG_KSM)) countStat(k, 'ksm_cow');
  if (k.watched) yield YP_FAULT_COPIED;
  const range = mmHasNotifiers(mm)
    ? notifierRange(mm, hva, hva + PAGE_SIZE, MMU_NOTIFY_CLEAR)
    : null;
  if (range !== null) {
    notifyRangeStart(k, range);
    if (k.watched) yield YP_NOTIFIER_START;
  }
  // Not the same apart from A, which hardware may have set meanwhile: somebody came first.
  if (pteMkyoung(ptepGet(k, word)) !== pteMkyoung(pte)) folioPut(k, copy);
  else install(k, vma, hva, word, page, copy, unshare);
  if (range !== null) {
    if (k.watched) yield YP_NOTIFIER_END;
    notifyRangeEnd(k, range);
  }
  if (page >= 0) {
    freeSwapCache(k, folioOf(k, page));
    folioPut(k, folioOf(k, page));
  }
  return 0;
}

/** The copy takes the page's place in the entry, under the page-table lock. */
const install = (
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  page: number,
  copy: number,
  unshare: boolean,
): void => {
  const { mm } = vma;
  folioSetFlags(k, copy, PG_UPTODATE);
  let entry = pteMkyoung(mkPte(copy, vmPageProt(vma.flags)));
  if (!unshare) entry = maybeMkwrite(pteMkdirty(entry), vma.flags);
  // No hart may still read the old page when the new one can be written to.
  const old = ptepGetAndClear(k, word);
  if (unshare) {
    // Nothing has been written: whoever waits for the first write goes on waiting.
    if (pteSoftDirty(old)) entry = pteMksoftDirty(entry);
    if (pteUffdWp(old)) entry = pteMkuffdWp(entry);
  }
  flushTlbPage(k, mm, hva);
  folioAddNewAnonRmap(k, copy, vma, hva);
  folioAddLruVma(k, copy, vma);
  setPteAt(k, word, entry);
  if (page < 0) {
    addRss(mm, true, 1);
    return;
  }
  if (!folioTestAnon(k, folioOf(k, page))) {
    addRss(mm, false, -1);
    addRss(mm, true, 1);
  }
  folioRemoveRmap(k, page);
  munlockVmaFolio(k, folioOf(k, page), vma);
  folioPut(k, folioOf(k, page));
};
