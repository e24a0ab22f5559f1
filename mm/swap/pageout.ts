/**
 * MADV_PAGEOUT: a process asks for a range of its memory to be swapped out.
 * Compare mm/madvise.c:madvise_cold_or_pageout_pte_range().
 *
 * Anonymous pages and those of shmem; what other mappings share is left alone. A large folio that lies in the range as a whole goes
 * as a whole; of one that sticks out the pages that are meant go by themselves, after a split.
 */
import { PAGE_SIZE } from '#emu';
import { EBUSY } from '../errno.ts';
import {
  folioGet,
  folioMapcount,
  folioNrPages,
  folioOf,
  folioPut,
  folioTrylock,
} from '../folio/folio.ts';
import { lruAddDrain } from '../lru/batch.ts';
import type { Path } from '../path.ts';
import { ptePresent, vmNormalPage } from '../pgtable/pte.ts';
import { nextMapped, PTE_WORDS, pmdLeafAt, ptepGet, tableEnd, walkPte } from '../pgtable/walk.ts';
import { folioMappedElsewhere } from '../rmap/rmap.ts';
import { splitFolio } from '../thp/split.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import type { Kernel, Vma } from '../types.ts';
import { folioUnlockFreeSwap } from './cache.ts';
import { isolateForReclaim, reclaimIsolated } from './out.ts';

/**
 * Swaps out what [start, end) of a VMA maps, as far as that is possible: what is pinned, shared or
 * held stays. The caller holds mmap_lock.
 * @param vma not VM_LOCKED, VM_HUGETLB or VM_PFNMAP
 */
export function* pageoutRange(k: Kernel, vma: Vma, start: number, end: number): Path<void> {
  const { mm } = vma;
  lruAddDrain(k);
  for (let at = nextMapped(k, mm, start, end); at < end; at = nextMapped(k, mm, at, end)) {
    const to = tableEnd(at, end);
    const isolated: number[] = [];
    yield* isolateTable(k, vma, at, to, isolated);
    for (const folio of isolated) yield* reclaimIsolated(k, folio);
    at = to;
  }
}

/** One table's part of the range. */
function* isolateTable(
  k: Kernel,
  vma: Vma,
  from: number,
  to: number,
  isolated: number[],
): Path<void> {
  const { mm } = vma;
  const pmd = pmdLeafAt(k, mm, from);
  if (pmd > 0) {
    const folio = vmNormalPage(ptepGet(k, pmd));
    if (folio < 0 || folioMapcount(k, folio) > 1) return;
    if (to - from === HPAGE_PMD_SIZE) {
      if (isolateForReclaim(k, folio) === 0) isolated.push(folio);
      return;
    }
    if ((yield* splitHeld(k, folio)) !== 0) return;
  }
  for (let at = from; at < to; ) {
    const word = walkPte(k, mm, at, false);
    if (word <= 0) return;
    const page = mappedPage(k, word);
    if (page < 0) {
      at += PAGE_SIZE;
      continue;
    }
    const folio = folioOf(k, page);
    const nr = folioNrPages(k, folio);
    const run = mappedRun(k, word, page, Math.min((to - at) / PAGE_SIZE, folio + nr - page));
    if (run < nr) {
      const shared = folioMappedElsewhere(k, folio, mm);
      // Split, the page is looked at again; else the rest of the folio is passed over.
      if (shared || (yield* splitHeld(k, folio)) !== 0) at += run * PAGE_SIZE;
      continue;
    }
    if (folioMapcount(k, folio) === nr && isolateForReclaim(k, folio) === 0) isolated.push(folio);
    at += nr * PAGE_SIZE;
  }
}

/** Page of a present entry, -1 for none that counts. */
const mappedPage = (k: Kernel, word: number): number => {
  const pte = ptepGet(k, word);
  return ptePresent(pte) ? vmNormalPage(pte) : -1;
};

/** How many entries from `word` on map `page` and those after it. */
const mappedRun = (k: Kernel, word: number, page: number, max: number): number => {
  let n = 1;
  while (n < max && mappedPage(k, word + n * PTE_WORDS) === page + n) n++;
  return n;
};

/** Splits a folio that is mapped, if nobody has its lock. @returns 0 or -errno */
function* splitHeld(k: Kernel, folio: number): Path<number> {
  if (!folioTrylock(k, folio)) return -EBUSY;
  folioGet(k, folio);
  const error = yield* splitFolio(k, folio);
  folioUnlockFreeSwap(k, folio);
  folioPut(k, folio);
  return error;
}
