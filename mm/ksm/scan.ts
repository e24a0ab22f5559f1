/**
 * The scan for pages with the same bytes. Compare mm/ksm.c, ksm_do_scan() and cmp_and_merge_page().
 *
 * Each page of a VM_MERGEABLE VMA is looked up first among the merged pages, then among those that the
 * same scan has met and found no match for: Linux's stable and unstable trees, here two indexes by
 * checksum. Nothing runs by itself, and a page is merged in the first scan that meets it twice,
 * where Linux waits until its checksum has stayed the same from one scan to the next. Zero pages are
 * merged like any others, and a merged page may be shared any number of times.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { EBUSY } from '../errno.ts';
import {
  folioGet,
  folioOf,
  folioPut,
  folioTestAnon,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
} from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { PG_HWPOISON, PG_KSM } from '../frames/table.ts';
import { lruAddDrainAll } from '../lru/batch.ts';
import type { Path } from '../path.ts';
import { ptePage, ptePresent, vmNormalPage } from '../pgtable/pte.ts';
import {
  isMigrationEntry,
  isSwapEntry,
  migrationEntryPage,
  swapEntrySlot,
} from '../pgtable/swapops.ts';
import {
  nextMapped,
  PTRS_PER_TABLE,
  pmdLeafAt,
  ptepGet,
  tableEnd,
  walkPte,
} from '../pgtable/walk.ts';
import { countStat } from '../stat.ts';
import { folioUnlockFreeSwap, swapCachePage } from '../swap/cache.ts';
import { splitFolio } from '../thp/split.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { VM_MERGEABLE } from '../vma/flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { pagesIdentical, tryToMergePage } from './merge.ts';
import type { KsmItem, KsmNode } from './state.ts';
import { ksmBreakCow } from './unmerge.ts';

const WORDS_PER_PAGE = PAGE_SIZE / 4;

/** A page that the scan has passed, where it was. */
interface Candidate {
  mm: MmStruct;
  hva: number;
  page: number;
}

/** Of one scan: by checksum, merged pages, and pages that have met none like them yet. */
interface Indexes {
  stable: Map<number, number[]>;
  unstable: Map<number, Candidate[]>;
}

/** FNV-1a over the words of a page. */
const checksum = (k: Kernel, page: number): number => {
  const { i32 } = k.memory;
  const first = k.memory.pageOffset(page) / 4;
  let sum = 0x811c9dc5 | 0;
  for (let i = 0; i < WORDS_PER_PAGE; i++) sum = Math.imul(sum ^ i32[first + i]!, 0x01000193);
  return sum;
};

const addTo = <T>(index: Map<number, T[]>, sum: number, item: T): void => {
  const items = index.get(sum);
  if (items === undefined) index.set(sum, [item]);
  else items.push(item);
};

/** Does anything at an item's address still lead to the merged page? */
const itemLives = (k: Kernel, node: KsmNode, { anonVma, hva }: KsmItem): boolean =>
  anonVma.vmas.some((vma) => {
    if (hva < vma.start || hva >= vma.end) return false;
    const word = walkPte(k, vma.mm, hva, false);
    const pte = word > 0 ? ptepGet(k, word) : 0;
    if (ptePresent(pte)) return ptePage(pte) === node.page;
    if (isMigrationEntry(pte)) return migrationEntryPage(pte) === node.page;
    return isSwapEntry(pte) && swapCachePage(k, swapEntrySlot(pte)) === node.page;
  });

/** Items whose pages were written to, or unmapped, since. Compare remove_rmap_item_from_tree(). */
const dropStaleItems = (k: Kernel, node: KsmNode): void => {
  const items = node.items.filter((item) => itemLives(k, node, item));
  if (items.length < node.items.length) setField(node, 'items', items);
};

/**
 * Merges what can be merged.
 * @param mm the address space to scan; null for all of them, one after the other
 * @returns entries that map another page than before: as many frames less
 */
export function* ksmScan(k: Kernel, mm: MmStruct | null): Path<number> {
  const indexes: Indexes = { stable: new Map(), unstable: new Map() };
  // A page that is in a batch has a reference too many to be merged.
  lruAddDrainAll(k);
  for (const node of k.state.ksm.nodes) {
    dropStaleItems(k, node);
    addTo(indexes.stable, checksum(k, node.page), node.page);
  }
  let merged = 0;
  for (const scanned of mm === null ? [...k.state.mms.values()] : [mm]) {
    if (!mmapReadTrylock(scanned)) yield* mmapReadLock(scanned);
    if (!scanned.exited) merged += yield* scanMm(k, scanned, indexes);
    mmapReadUnlock(scanned);
  }
  countStat(k, 'ksm_merged', merged);
  return merged;
}

function* scanMm(k: Kernel, mm: MmStruct, indexes: Indexes): Path<number> {
  let merged = 0;
  for (const vma of mm.vmas) {
    const { start, end } = vma;
    if ((vma.flags & VM_MERGEABLE) === 0 || vma.anonVma === null) continue;
    for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
      const to = tableEnd(at, end);
      for (; at < to; at += PAGE_SIZE) merged += yield* scanPage(k, vma, at, indexes);
    }
  }
  return merged;
}

/** The anonymous page that a VMA maps at `hva`, with a reference, or -1. Compare follow_page(). */
const getAnonPage = (k: Kernel, vma: Vma, hva: number): number => {
  const pmd = pmdLeafAt(k, vma.mm, hva);
  const word = pmd > 0 ? pmd : walkPte(k, vma.mm, hva, false);
  const pte = word > 0 ? ptepGet(k, word) : 0;
  if (!ptePresent(pte)) return -1;
  let page = vmNormalPage(pte);
  if (page < 0) return -1;
  if (pmd > 0) page += (hva / PAGE_SIZE) % PTRS_PER_TABLE;
  const folio = folioOf(k, page);
  if (!folioTestAnon(k, folio) || folioTestFlags(k, page, PG_HWPOISON)) return -1;
  folioGet(k, folio);
  return page;
};

/** A large folio is split, so that its pages can be merged one by one. @returns 0 or -errno */
function* splitHeld(k: Kernel, folio: number): Path<number> {
  if (!folioTrylock(k, folio)) return -EBUSY;
  const error = yield* splitFolio(k, folio);
  folioUnlockFreeSwap(k, folio);
  return error;
}

/** One address. @returns how many entries map another page now */
function* scanPage(k: Kernel, vma: Vma, hva: number, indexes: Indexes): Path<number> {
  let page = getAnonPage(k, vma, hva);
  if (page >= 0 && folioTestLarge(k, folioOf(k, page))) {
    const folio = folioOf(k, page);
    const error = yield* splitHeld(k, folio);
    folioPut(k, folio);
    page = error === 0 ? getAnonPage(k, vma, hva) : -1;
  }
  if (page < 0) return 0;
  setField(k.state.ksm, 'pagesScanned', k.state.ksm.pagesScanned + 1);
  let merged = 0;
  if (!folioTestFlags(k, page, PG_KSM) && !folioTestLarge(k, folioOf(k, page)))
    merged = yield* compareAndMerge(k, vma, hva, page, indexes);
  folioPut(k, folioOf(k, page));
  return merged;
}

/** A page of which the caller holds a reference. */
function* compareAndMerge(
  k: Kernel,
  vma: Vma,
  hva: number,
  page: number,
  indexes: Indexes,
): Path<number> {
  const sum = checksum(k, page);
  for (const kpage of indexes.stable.get(sum) ?? []) {
    // Freed since it was indexed, perhaps, or used for something else.
    if (!folioTryGet(k, kpage)) continue;
    const usable = folioTestFlags(k, kpage, PG_KSM) && !folioTestFlags(k, kpage, PG_HWPOISON);
    const same = usable && pagesIdentical(k, page, kpage);
    const error = same ? yield* tryToMergePage(k, vma, hva, page, kpage) : -EBUSY;
    folioPut(k, kpage);
    if (same) return error === 0 ? 1 : 0;
  }
  for (const other of indexes.unstable.get(sum) ?? []) {
    const merged = yield* mergeTwo(k, vma, hva, page, other);
    if (merged < 0) continue;
    if (merged > 0) addTo(indexes.stable, sum, page);
    return merged;
  }
  addTo(indexes.unstable, sum, { mm: vma.mm, hva, page });
  return 0;
}

/**
 * Makes `page` a merged one and lets the other's entry map it. Compare try_to_merge_two_pages().
 * @returns 1; 0: alike, but one of them cannot be merged now; -EBUSY: not alike (any more), go on looking
 */
function* mergeTwo(k: Kernel, vma: Vma, hva: number, page: number, other: Candidate): Path<number> {
  const foreign = other.mm !== vma.mm;
  // Its turn may have come while that mm's lock is held for longer: then not now.
  if (other.mm.exited || (foreign && !mmapReadTrylock(other.mm))) return -EBUSY;
  const otherVma = findVma(other.mm, other.hva);
  const mergeable = otherVma !== null && (otherVma.flags & VM_MERGEABLE) !== 0;
  const otherPage = mergeable ? getAnonPage(k, otherVma, other.hva) : -1;
  let merged = -EBUSY;
  if (otherVma !== null && otherPage >= 0) {
    const unmerged =
      otherPage === other.page &&
      otherPage !== page &&
      !folioTestLarge(k, folioOf(k, otherPage)) &&
      !folioTestFlags(k, otherPage, PG_KSM);
    if (unmerged && pagesIdentical(k, page, otherPage)) {
      merged = 0;
      if ((yield* tryToMergePage(k, vma, hva, page, -1)) === 0) {
        const error = yield* tryToMergePage(k, otherVma, other.hva, otherPage, page);
        if (error === 0) merged = 1;
        else yield* ksmBreakCow(k, vma, hva);
      }
    }
    folioPut(k, folioOf(k, otherPage));
  }
  if (foreign) mmapReadUnlock(other.mm);
  return merged;
}
