/**
 * Which entries of a last-level table may be collapsed into a huge folio: a look beforehand, and,
 * once nobody reaches the table any more, the look that counts. Compare mm/khugepaged.c,
 * collapse_check_pte(), collapse_scan_pmd() and __collapse_huge_page_isolate().
 */
import { EAGAIN, EBUSY, EINVAL } from '../errno.ts';
import {
  folioExpectedRefs,
  folioMapcount,
  folioOf,
  folioRefCount,
  folioTestAnon,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioTestLarge } from '../folio/large.ts';
import { PG_LOCKED, PG_LRU, PG_REFERENCED } from '../frames/table.ts';
import { folioIsolateLru, folioPutbackLru } from '../lru/isolate.ts';
import {
  pteNone,
  ptePage,
  ptePresent,
  pteSpecial,
  pteUffdWp,
  pteYoung,
  vmNormalPage,
} from '../pgtable/pte.ts';
import { PTE_SWP_UFFD_WP } from '../pgtable/swapops.ts';
import { PTE_WORDS, ptepGet } from '../pgtable/walk.ts';
import { folioMappedElsewhere } from '../rmap/rmap.ts';
import { freeSwapCache } from '../swap/cache.ts';
import type { Kernel, Vma } from '../types.ts';
import { VM_UFFD_MISSING, VM_UFFD_WP } from '../vma/flags.ts';
import { HPAGE_PMD_NR } from './state.ts';

/** What one scan may meet, and what it has met. Swap entries are for the first scan alone. */
export interface Scan {
  khugepaged: boolean;
  /** At most so many entries that are none or the zero page, not present, of pages that others map. */
  maxNone: number;
  maxSwap: number;
  maxShared: number;
  none: number;
  unmapped: number;
  shared: number;
  /** Pages that were used of late. */
  young: number;
}

/**
 * A scan of a VMA. Asked for by MADV_COLLAPSE there are no limits; userfaultfd wants to hear of what
 * is missing, so there nothing may be.
 * @param swap entries that are not present will be read in
 */
export const createScan = (k: Kernel, vma: Vma, khugepaged: boolean, swap: boolean): Scan => {
  const { maxPtesNone, maxPtesSwap, maxPtesShared } = k.state.thp;
  const armed = (vma.flags & (VM_UFFD_MISSING | VM_UFFD_WP)) !== 0;
  const none = khugepaged ? maxPtesNone : HPAGE_PMD_NR;
  return {
    khugepaged,
    maxNone: armed ? 0 : none,
    maxSwap: swap ? (khugepaged ? maxPtesSwap : HPAGE_PMD_NR) : 0,
    maxShared: khugepaged ? maxPtesShared : HPAGE_PMD_NR,
    none: 0,
    unmapped: 0,
    shared: 0,
    young: 0,
  };
};

/** Instead of a folio: nothing is mapped, or what is there will be seen to. */
const NO_FOLIO = -1;

/** One entry. @returns the folio that it maps a page of; NO_FOLIO; -EINVAL, -EBUSY: one too many */
const checkEntry = (k: Kernel, vma: Vma, pte: number, scan: Scan): number => {
  if (pteNone(pte) || (pteSpecial(pte) && ptePresent(pte) && ptePage(pte) === k.state.zeroPage))
    return ++scan.none > scan.maxNone ? -EBUSY : NO_FOLIO;
  if (!ptePresent(pte)) {
    if (++scan.unmapped > scan.maxSwap || (pte & PTE_SWP_UFFD_WP) !== 0) return -EINVAL;
    return NO_FOLIO;
  }
  const page = vmNormalPage(pte);
  if (pteUffdWp(pte) || page < 0) return -EINVAL;
  const folio = folioOf(k, page);
  if (!folioTestAnon(k, folio)) return -EINVAL;
  if (scan.khugepaged && mappedShared(k, folio, vma) && ++scan.shared > scan.maxShared)
    return -EINVAL;
  if (pteYoung(pte) || folioTestFlags(k, folio, PG_REFERENCED)) scan.young++;
  return folio;
};

const mappedShared = (k: Kernel, folio: number, vma: Vma): boolean =>
  folioTestLarge(k, folio) ? folioMappedElsewhere(k, folio, vma.mm) : folioMapcount(k, folio) > 1;

/**
 * Looks at a table whose pages may change meanwhile: is it worth trying?
 * @param first word of the table's first entry
 * @returns 0; -EAGAIN: a page is in use, or pinned; -EINVAL; -EBUSY: too much is missing
 */
export const scanTable = (k: Kernel, vma: Vma, first: number, scan: Scan): number => {
  for (let i = 0; i < HPAGE_PMD_NR; i++) {
    const folio = checkEntry(k, vma, ptepGet(k, first + i * PTE_WORDS), scan);
    if (folio === NO_FOLIO) continue;
    if (folio < 0) return folio;
    if (!folioTestFlags(k, folio, PG_LRU) || folioTestFlags(k, folio, PG_LOCKED)) return -EAGAIN;
    if (folioRefCount(k, folio) !== folioExpectedRefs(k, folio)) return -EAGAIN;
  }
  const cold = scan.young === 0 || (scan.unmapped > 0 && scan.young < HPAGE_PMD_NR / 2);
  return scan.khugepaged && cold ? -EINVAL : 0;
};

/**
 * Locks and isolates every folio of a table that nobody reaches any more. References besides those
 * of entries and caches are GUP's, or somebody's who works with the page: neither may lose it.
 * @param isolated receives the folios, also after an error: to be released
 * @returns as scanTable
 */
export const isolateTable = (
  k: Kernel,
  vma: Vma,
  first: number,
  scan: Scan,
  isolated: number[],
): number => {
  for (let i = 0; i < HPAGE_PMD_NR; i++) {
    const folio = checkEntry(k, vma, ptepGet(k, first + i * PTE_WORDS), scan);
    if (folio === NO_FOLIO) continue;
    if (folio < 0) return folio;
    if (folioTestLarge(k, folio) && isolated.includes(folio)) continue;
    if (!folioTrylock(k, folio)) return -EAGAIN;
    if (
      folioRefCount(k, folio) !== folioExpectedRefs(k, folio) ||
      !folioTestFlags(k, folio, PG_LRU)
    ) {
      folioUnlock(k, folio);
      return -EAGAIN;
    }
    folioIsolateLru(k, folio);
    isolated.push(folio);
  }
  return scan.khugepaged && scan.young === 0 ? -EINVAL : 0;
};

/** Lets go of what isolateTable took; what nobody maps any more is freed. */
export const releaseIsolated = (k: Kernel, isolated: readonly number[]): void => {
  for (const folio of isolated) {
    folioUnlock(k, folio);
    freeSwapCache(k, folio);
    folioPutbackLru(k, folio);
  }
};
