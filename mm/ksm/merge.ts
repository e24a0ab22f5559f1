/**
 * Merging: an entry is write-protected, its page compared with a merged one, and the entry pointed
 * there. Compare mm/ksm.c, write_protect_page(), replace_page(), try_to_merge_one_page().
 *
 * A page that somebody may write to by number cannot be merged: one reference more than entries, swap
 * cache and KSM itself account for, and it stays as it is. So a merged page never changes; it is
 * never exclusive, and who writes to it, or pins it, gets a copy.
 */
import { PAGE_SIZE } from '#emu';
import { EBUSY, EFAULT } from '../errno.ts';
import {
  folioGet,
  folioMapcount,
  folioMarkDirty,
  folioPut,
  folioRefCount,
  folioTestAnon,
  folioTestFlags,
  folioTrylock,
  pageAnonExclusive,
} from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { PG_KSM } from '../frames/table.ts';
import { folioMarkAccessed } from '../lru/batch.ts';
import {
  mmHasNotifiers,
  notifierRange,
  notifyRangeEnd,
  notifyRangeStart,
} from '../notifier/notifier.ts';
import { type Path, YP_KSM_PROTECTED, YP_NOTIFIER_END, YP_NOTIFIER_START } from '../path.ts';
import {
  mkPte,
  pteDirty,
  pteMkclean,
  pteMksoftDirty,
  pteMkuffdWp,
  pteMkyoung,
  pteSoftDirty,
  pteUffdWp,
  pteWrite,
  pteWrprotect,
  vmPageProt,
} from '../pgtable/pte.ts';
import { flushTlbPage } from '../pgtable/tlb.ts';
import { ptepGet, ptepGetAndClear, setPteAt } from '../pgtable/walk.ts';
import {
  folioAddFileRmap,
  folioMapping,
  folioRemoveRmap,
  folioTryShareAnonRmap,
  pageVmaMapped,
  rmapPlaces,
} from '../rmap/rmap.ts';
import { folioTestSwapcache, folioUnlockFreeSwap } from '../swap/cache.ts';
import { type Kernel, MMU_NOTIFY_CLEAR, type Vma } from '../types.ts';
import { ksmNodeAppend, ksmNodeCreate, ksmNodeOf } from './node.ts';
import type { KsmItem } from './state.ts';

const WORDS_PER_PAGE = PAGE_SIZE / 4;

/** Have the two pages the same bytes? */
export const pagesIdentical = (k: Kernel, a: number, b: number): boolean => {
  const { i32 } = k.memory;
  const atA = k.memory.pageOffset(a) / 4;
  const atB = k.memory.pageOffset(b) / 4;
  for (let i = 0; i < WORDS_PER_PAGE; i++) if (i32[atA + i] !== i32[atB + i]) return false;
  return true;
};

/**
 * Makes the entry at `hva` map the merged page `kpage`, if its page has the same bytes; or, without
 * one, makes its own page a merged one. The caller holds mmap_lock, and a reference of each.
 * @param page small and anonymous, as the caller saw it there
 * @param kpage -1 for none
 * @returns 0; -EBUSY: locked, pinned or held by somebody; -EFAULT: the entry or the bytes are others
 */
export function* tryToMergePage(
  k: Kernel,
  vma: Vma,
  hva: number,
  page: number,
  kpage: number,
): Path<number> {
  if (page === kpage) return 0;
  if (!folioTestAnon(k, page) || folioTestLarge(k, page)) return -EFAULT;
  if (!folioTrylock(k, page)) return -EBUSY;
  const error = folioTestFlags(k, page, PG_KSM)
    ? -EFAULT
    : yield* mergeLocked(k, vma, hva, page, kpage);
  folioUnlockFreeSwap(k, page);
  return error;
}

function* mergeLocked(k: Kernel, vma: Vma, hva: number, page: number, kpage: number): Path<number> {
  const pte = yield* writeProtectPage(k, vma, hva, page);
  if (pte < 0) return pte;
  if (kpage < 0) {
    becomeMerged(k, page);
    return 0;
  }
  if (k.watched) yield YP_KSM_PROTECTED;
  return pagesIdentical(k, page, kpage)
    ? yield* replacePage(k, vma, hva, page, kpage, pte)
    : -EFAULT;
}

/** Runs `change` between the notifiers' start and end for one page. */
function* notifying(k: Kernel, vma: Vma, hva: number, change: () => number): Path<number> {
  if (!mmHasNotifiers(vma.mm)) return change();
  const range = notifierRange(vma.mm, hva, hva + PAGE_SIZE, MMU_NOTIFY_CLEAR);
  notifyRangeStart(k, range);
  if (k.watched) yield YP_NOTIFIER_START;
  const outcome = change();
  if (k.watched) yield YP_NOTIFIER_END;
  notifyRangeEnd(k, range);
  return outcome;
}

/** @returns the entry, read-only and clean, of a page that is not exclusive any more; -EBUSY; -EFAULT */
const writeProtectPage = (k: Kernel, vma: Vma, hva: number, page: number): Path<number> =>
  notifying(k, vma, hva, () => {
    const word = pageVmaMapped(k, vma, hva, page);
    if (word === 0) return -EFAULT;
    let pte = ptepGet(k, word);
    const exclusive = pageAnonExclusive(k, page);
    if (!exclusive && !pteWrite(pte) && !pteDirty(pte)) return pte;
    // GUP-fast counts first and reads the entry after: cleared, it cannot take a reference unseen.
    pte = ptepGetAndClear(k, word);
    flushTlbPage(k, vma.mm, hva);
    const cached = folioTestSwapcache(k, page) ? 1 : 0;
    const held = folioRefCount(k, page) !== folioMapcount(k, page) + cached + 1;
    if (held || (exclusive && folioTryShareAnonRmap(k, page) !== 0)) {
      setPteAt(k, word, pte);
      return -EBUSY;
    }
    if (pteDirty(pte)) folioMarkDirty(k, page);
    pte = pteWrprotect(pteMkclean(pte));
    setPteAt(k, word, pte);
    return pte;
  });

/**
 * The page, which is read-only wherever it is mapped, is a merged one from now on. Every place that
 * maps it becomes an item: a fork may have made several.
 */
const becomeMerged = (k: Kernel, page: number): void => {
  const anonVma = folioMapping(k, page);
  if (anonVma === null || anonVma.kind !== 'anon')
    throw new Error(`page ${page} is mapped and has no anon_vma`);
  const items: KsmItem[] = [];
  for (const { vma, hva } of rmapPlaces(k, page))
    if (pageVmaMapped(k, vma, hva, page) > 0 && !items.some((item) => item.hva === hva))
      items.push({ anonVma, hva });
  ksmNodeCreate(k, page, items);
  folioMarkAccessed(k, page);
};

/** @param pte the entry as write protection left it. @returns 0, or -EFAULT: it has changed since */
const replacePage = (
  k: Kernel,
  vma: Vma,
  hva: number,
  page: number,
  kpage: number,
  pte: number,
): Path<number> =>
  notifying(k, vma, hva, () => {
    const word = pageVmaMapped(k, vma, hva, page);
    const { anonVma } = vma;
    if (word === 0 || anonVma === null || pteMkyoung(ptepGet(k, word)) !== pteMkyoung(pte))
      return -EFAULT;
    folioGet(k, kpage);
    folioAddFileRmap(k, kpage);
    ksmNodeAppend(ksmNodeOf(k, kpage), anonVma, hva);
    let entry = pteMkyoung(mkPte(kpage, vmPageProt(vma.flags)));
    if (pteSoftDirty(pte)) entry = pteMksoftDirty(entry);
    if (pteUffdWp(pte)) entry = pteMkuffdWp(entry);
    ptepGetAndClear(k, word);
    flushTlbPage(k, vma.mm, hva);
    setPteAt(k, word, entry);
    folioRemoveRmap(k, page);
    folioPut(k, page);
    return 0;
  });
