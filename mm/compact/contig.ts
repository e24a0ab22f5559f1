/**
 * alloc_contig_range(): a run of frames is emptied, and is the caller's. Compare mm/page_alloc.c,
 * alloc_contig_range() and __alloc_contig_migrate_range().
 *
 * Isolate its pageblocks, so that what leaves does not come back; move what is there; if everything
 * is free then, take it. One page that somebody holds, for however short a time, and all of it was
 * for nothing: -EBUSY, and the pages that have moved stay where they are now.
 */
import { writeOnce } from '#cells';
import { EBUSY, EINTR, EINVAL, ENOMEM } from '../errno.ts';
import { folioNrPages, folioOf, folioTestFlags } from '../folio/folio.ts';
import { freePages, GFP_MOVABLE } from '../frames/buddy.ts';
import {
  busyPage,
  type IsolateMode,
  startIsolatePageRange,
  takeIsolatedRange,
  undoIsolatePageRange,
} from '../frames/isolation.ts';
import { MIGRATE_CMA, pageblockType, pageOnline } from '../frames/pageblock.ts';
import { PAGEBLOCK_PAGES, PG_HUGETLB, PG_RESERVED } from '../frames/table.ts';
import { ZONE_NORMAL } from '../frames/zone.ts';
import { isolateOrDissolveHugetlb, replaceFreeHugetlbFolios } from '../hugetlb/dissolve.ts';
import { lruCacheDisable, lruCacheEnable } from '../lru/batch.ts';
import { type Path, YP_ISOLATED_BLOCKS } from '../path.ts';
import { heldPage } from '../provenance/holders.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel } from '../types.ts';
import { isolateMovable, migratePages } from './migrate.ts';
import { createMoveReport, type MoveReport, reportFailed } from './report.ts';

/** Folios that are isolated before they are moved. Compare COMPACT_CLUSTER_MAX. */
const CLUSTER_FOLIOS = 32;
/** Attempts at one such batch, each of as many passes as migration makes. */
const MIGRATE_TRIES = 5;

/** What is isolated of a range, from a page on: up to a batch of folios. */
interface Batch {
  folios: number[];
  /** Where the next one begins. */
  next: number;
  /** 0, or -ENOMEM: a huge page that nothing can take the place of. */
  error: number;
}

/** Isolates the next folios of a range. What cannot be isolated is left. Compare isolate_migratepages_range(). */
const isolateBatch = (k: Kernel, from: number, endPage: number): Batch => {
  const batch: Batch = { folios: [], next: from, error: 0 };
  while (batch.next < endPage && batch.folios.length < CLUSTER_FOLIOS) {
    const folio = folioOf(k, batch.next);
    if (folioTestFlags(k, folio, PG_HUGETLB)) {
      const got = isolateOrDissolveHugetlb(k, folio);
      if (got === -ENOMEM) {
        batch.error = -ENOMEM;
        return batch;
      }
      if (got === 1) batch.folios.push(folio);
    } else if (isolateMovable(k, folio) === 0) batch.folios.push(folio);
    batch.next = folio + folioNrPages(k, folio);
  }
  return batch;
};

/** Isolates those of a batch again that have not moved. */
const isolateAgain = (k: Kernel, failed: readonly { folio: number }[]): number[] =>
  failed.flatMap(({ folio }) => (isolateMovable(k, folio) === 0 ? [folio] : []));

/**
 * Moves everything out of an isolated range that can be moved.
 * @returns 0; -EBUSY: what is left is in the report, and may be gone by the time that anybody looks;
 *   -ENOMEM; -EINTR a fatal signal
 */
function* migrateRange(
  k: Kernel,
  startPage: number,
  endPage: number,
  report: MoveReport,
): Path<number> {
  for (let page = startPage; page < endPage; ) {
    if (fatalSignalPending(k)) return -EINTR;
    const { folios, next, error } = isolateBatch(k, page, endPage);
    page = next;
    let left = folios;
    for (let tries = 1; left.length > 0; tries++) {
      const result = yield* migratePages(k, left, GFP_MOVABLE, 'contig-range');
      report.moved += result.nrPages;
      report.rounds += result.passes;
      const full = result.failed.some((failure) => failure.error === -ENOMEM);
      if (result.failed.length > 0 && (full || tries === MIGRATE_TRIES)) {
        reportFailed(k, report, result.failed);
        return full ? -ENOMEM : -EBUSY;
      }
      left = isolateAgain(k, result.failed);
      if (fatalSignalPending(k)) return -EINTR;
    }
    if (error !== 0) {
      report.held.push(heldPage(k, next, 'no memory to move it to'));
      return error;
    }
  }
  return 0;
}

/** Every folio of a range that is not free. */
const reportBusy = (k: Kernel, startPage: number, endPage: number, report: MoveReport): void => {
  for (let page = busyPage(k, startPage, endPage, 'contig'); page >= 0; ) {
    const folio = folioOf(k, page);
    report.held.push(heldPage(k, folio));
    page = busyPage(k, folio + folioNrPages(k, folio), endPage, 'contig');
  }
};

/** Takes an isolated range if all of it is free: a reference to each page. @returns 0 or -errno */
const takeRange = (k: Kernel, startPage: number, endPage: number, report: MoveReport): number => {
  const error = replaceFreeHugetlbFolios(k, startPage, endPage);
  if (error !== 0) return error;
  if (busyPage(k, startPage, endPage, 'contig') >= 0) {
    // Behind what did not move nothing has been tried.
    if (report.held.length === 0) reportBusy(k, startPage, endPage, report);
    return -EBUSY;
  }
  takeIsolatedRange(k, startPage, endPage);
  for (let page = startPage; page < endPage; page++) writeOnce(k.state.frames.refcount, page, 1);
  k.memory.mayBeWritten(startPage, endPage - startPage);
  report.held = [];
  return 0;
};

/** Why a pageblock could not be isolated. */
const whyNotIsolated = (k: Kernel, page: number): string | undefined => {
  if (!pageOnline(k, page)) return 'offline';
  const type = pageblockType(k, page);
  if (type === MIGRATE_CMA) return 'CMA';
  return type > MIGRATE_CMA ? 'isolated by somebody else' : undefined;
};

function* emptyAndTake(
  k: Kernel,
  startPage: number,
  endPage: number,
  mode: IsolateMode,
  report: MoveReport,
): Path<number> {
  const unmovable = startIsolatePageRange(k, startPage, endPage, mode);
  if (unmovable >= 0) {
    report.held.push(heldPage(k, unmovable, whyNotIsolated(k, unmovable)));
    return -EBUSY;
  }
  if (k.watched) yield YP_ISOLATED_BLOCKS;
  let error = yield* migrateRange(k, startPage, endPage, report);
  // Whoever was in the way may have gone meanwhile.
  if (error === 0 || error === -EBUSY) error = takeRange(k, startPage, endPage, report);
  undoIsolatePageRange(k, startPage, endPage);
  return error;
}

/**
 * Empties [startPage, endPage), and takes it: every page has one reference then. freeContigRange()
 * gives it back.
 * @param mode 'cma': for the area of CMA that it is in; 'contig': for anybody else, and then there may
 *   be no page in it that cannot be moved, and no CMA
 * @returns what was done; its `error` is 0, -EBUSY: somebody holds a page; -ENOMEM: no memory to move
 *   one to; -EINTR: a fatal signal; -EINVAL: no such range
 */
export function* allocContigRange(
  k: Kernel,
  startPage: number,
  endPage: number,
  mode: 'cma' | 'contig' = 'contig',
): Path<MoveReport> {
  const report = createMoveReport();
  if (startPage < 0 || startPage >= endPage || endPage > k.state.frames.nrPages) {
    report.error = -EINVAL;
    return report;
  }
  lruCacheDisable(k);
  report.error = yield* emptyAndTake(k, startPage, endPage, mode, report);
  lruCacheEnable(k);
  return report;
}

/** Gives back the reference to each page of a range. What somebody else has by then stays until he lets go. */
export const freeContigRange = (k: Kernel, startPage: number, nrPages: number): void => {
  for (let page = startPage; page < startPage + nrPages; page++) freePages(k, page, 0);
};

/** Is it worth trying? Compare pfn_range_valid_contig(). */
const isCandidate = (k: Kernel, startPage: number, endPage: number): boolean => {
  for (let page = startPage; page < endPage; page += PAGEBLOCK_PAGES)
    if (!pageOnline(k, page) || pageblockType(k, page) >= MIGRATE_CMA) return false;
  for (let page = startPage; page < endPage; page++)
    if (folioTestFlags(k, page, PG_RESERVED) || folioTestFlags(k, page, PG_HUGETLB)) return false;
  return true;
};

/**
 * A run of frames anywhere but in zone MOVABLE, emptied if need be: as allocContig(), which takes free
 * ones only, the first page alone has a reference.
 * @param nrPages a multiple of PAGEBLOCK_PAGES
 * @param align pages that the first is a multiple of; at least PAGEBLOCK_PAGES
 * @returns the first page, or -ENOMEM. Compare alloc_contig_pages()
 */
export function* allocContigPages(k: Kernel, nrPages: number, align: number): Path<number> {
  for (let index = ZONE_NORMAL; index >= 0; index--) {
    const { firstPage, endPage } = k.state.zones[index] ?? { firstPage: 0, endPage: 0 };
    const top = endPage - nrPages;
    for (let first = top - (top % align); first >= firstPage; first -= align) {
      if (!isCandidate(k, first, first + nrPages)) continue;
      const { error } = yield* allocContigRange(k, first, first + nrPages);
      if (error !== 0) continue;
      for (let page = first + 1; page < first + nrPages; page++)
        writeOnce(k.state.frames.refcount, page, 0);
      return first;
    }
  }
  return -ENOMEM;
}
