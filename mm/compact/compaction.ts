/**
 * Compaction: pages that are in use move to one end of a zone, so that what is free comes to lie
 * together. Compare mm/compaction.c:compact_zone().
 *
 * One scanner goes up from the start of the zone and isolates what can be moved, the other
 * (free-scanner.ts) goes down from its end and takes free pages for it. It is over when there is a
 * free block of the size that is wanted, or when they meet. What is pinned or held otherwise stays,
 * and keeps the block that it is in from becoming whole: the report says who has it.
 *
 *   firstPage                                                    endPage
 *   | . A . . B P | . . C . . . | ........... | D E . F | G H I J |
 *     migrate scanner ->                          <- free scanner
 *
 * Pageblocks are all looked at, as by direct compaction that may wait: no hints about blocks where it
 * was for nothing are kept.
 */
import { readOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import {
  folioExpectedRefs,
  folioNrPages,
  folioOf,
  folioOrder,
  folioRefCount,
} from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import {
  MIGRATE_ISOLATE,
  pageblockStart,
  pageblockType,
  pageOnline,
  pageZoneIndex,
} from '../frames/pageblock.ts';
import {
  PAGEBLOCK_PAGES,
  PG_BUDDY,
  PG_HUGETLB,
  PG_LRU,
  PG_RESERVED,
  PG_TABLE,
} from '../frames/table.ts';
import { MAX_PAGE_ORDER, type Zone } from '../frames/zone.ts';
import { lruAddDrain } from '../lru/batch.ts';
import { type Path, YP_COMPACT } from '../path.ts';
import { type HeldPage, heldPage } from '../provenance/holders.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel } from '../types.ts';
import {
  createFreeScanner,
  type FreeScanner,
  releaseFree,
  scanForFree,
  takeTarget,
} from './free-scanner.ts';
import { fragmentationIndex, freeBlocksOf } from './fragmentation.ts';
import { isolateMovable, migratePages } from './migrate.ts';

/**
 * How it ended: `success`: there is a free block of the order; `skipped`: there was one before, or too
 * little is free for one; `complete`: the scanners have met; `interrupted` by a fatal signal.
 */
export type CompactResult = 'success' | 'skipped' | 'complete' | 'interrupted';

/** One compaction of one zone. Plain data. */
export interface CompactReport {
  zone: string;
  /** Wanted; -1: as much as possible. */
  order: number;
  result: CompactResult;
  /** Pages that have moved; pages that each scanner has looked at. */
  moved: number;
  scannedToMove: number;
  scannedForFree: number;
  /** fragmentationIndex() for the order (of -1: for the largest), before and afterwards. */
  indexBefore: number;
  indexAfter: number;
  /** Free blocks of the zone by order, before and afterwards. */
  freeBefore: number[];
  freeAfter: number[];
  /** Pages of the kernel's own, which never move. */
  unmovable: number;
  /** Pages that could have moved, and have not; with folios of more pages each counted. */
  nrHeld: number;
  /** First page of each such folio, and who has it. */
  held: HeldPage[];
}

/** Pages that are isolated before they are moved. Compare COMPACT_CLUSTER_MAX. */
const COMPACT_CLUSTER_MAX = 32;

/** Where the migrate scanner is. */
interface MigrateScanner {
  page: number;
  folios: number[];
  nrPages: number;
}

const orderOfIndex = (order: number): number => (order < 0 ? MAX_PAGE_ORDER : order);

const createReport = (zone: Zone, order: number): CompactReport => {
  const index = fragmentationIndex(zone, orderOfIndex(order));
  const { byOrder } = freeBlocksOf(zone);
  return {
    zone: zone.name,
    order,
    result: 'complete',
    moved: 0,
    scannedToMove: 0,
    scannedForFree: 0,
    indexBefore: index,
    indexAfter: index,
    freeBefore: byOrder,
    freeAfter: byOrder,
    unmovable: 0,
    nrHeld: 0,
    held: [],
  };
};

/** Is there a free block of the order, in a pageblock that may be allocated from? */
const hasBlock = (zone: Zone, order: number): boolean =>
  order >= 0 &&
  freeBlocksOf(zone)
    .byOrder.slice(order)
    .some((blocks) => blocks > 0);

/** Is it worth the effort? Twice the pages have to be free: the targets, and what becomes free. Compare compaction_suitable() */
const suitable = (zone: Zone, order: number): boolean =>
  order < 0 || freeBlocksOf(zone).pages >= 2 << order;

const keepHeld = (k: Kernel, report: CompactReport, folio: number): void => {
  report.held.push(heldPage(k, folio));
  report.nrHeld += folioNrPages(k, folio);
};

/**
 * One page that is in use. Compare isolate_migratepages_block()
 * @returns pages to go on by
 */
const isolateOne = (
  k: Kernel,
  scanner: MigrateScanner,
  order: number,
  report: CompactReport,
): number => {
  const folio = folioOf(k, scanner.page);
  const nr = folioNrPages(k, folio);
  const rest = folio + nr - scanner.page;
  const word = readOnce(k.state.frames.flags, folio);
  // What is as large as what is wanted is as good as free, and moving it makes nothing.
  if (order >= 0 && folioOrder(k, folio) >= order && nr > 1) return rest;
  // Pools are moved for CMA and offlining, and not for this.
  if ((word & PG_LRU) === 0) {
    const own = (word & PG_HUGETLB) !== 0 ? rest : 1;
    report.unmovable += own;
    return own;
  }
  // Somebody holds it: it is not even unmapped. What counts is looked at by migration.
  if (folioRefCount(k, folio) > folioExpectedRefs(k, folio) || isolateMovable(k, folio) !== 0) {
    keepHeld(k, report, folio);
    return rest;
  }
  scanner.folios.push(folio);
  scanner.nrPages += nr;
  return rest;
};

/** Isolates a cluster of folios, from where the scanner is up to `limit`, of one pageblock. */
const isolateCluster = (
  k: Kernel,
  zone: Zone,
  scanner: MigrateScanner,
  limit: number,
  order: number,
  report: CompactReport,
): void => {
  const { flags, refcount, private: orders } = k.state.frames;
  const from = scanner.page;
  const end = Math.min(limit, pageblockStart(from) + PAGEBLOCK_PAGES);
  while (scanner.page < end && scanner.nrPages < COMPACT_CLUSTER_MAX) {
    const { page } = scanner;
    if (page % PAGEBLOCK_PAGES === 0 && !mayScan(k, zone, page)) {
      scanner.page += PAGEBLOCK_PAGES;
      continue;
    }
    const word = readOnce(flags, page);
    if ((word & PG_BUDDY) !== 0) scanner.page += 1 << readOnce(orders, page);
    else if ((word & (PG_TABLE | PG_RESERVED)) !== 0) {
      report.unmovable++;
      scanner.page++;
    } else if (readOnce(refcount, folioOf(k, page)) === 0) scanner.page++;
    else scanner.page += isolateOne(k, scanner, order, report);
  }
  report.scannedToMove += scanner.page - from;
};

/** Is the pageblock one of the zone's, and nobody's who is emptying it? */
const mayScan = (k: Kernel, zone: Zone, page: number): boolean =>
  pageOnline(k, page) &&
  pageZoneIndex(k, page) === zone.index &&
  pageblockType(k, page) !== MIGRATE_ISOLATE;

/** Moves what is isolated to what the free scanner has. @returns false: it has nothing left */
function* moveCluster(
  k: Kernel,
  scanner: MigrateScanner,
  free: FreeScanner,
  report: CompactReport,
): Path<boolean> {
  const target = (_k: Kernel, order: number): number => {
    scanForFree(k, free, 1 << order, scanner.page);
    return takeTarget(k, free, order);
  };
  const { folios } = scanner;
  scanner.folios = [];
  scanner.nrPages = 0;
  const { nrPages, failed } = yield* migratePages(k, folios, GFP_MOVABLE, 'compaction', target);
  report.moved += nrPages;
  for (const { folio, error } of failed) if (error !== -ENOMEM) keepHeld(k, report, folio);
  // A batch that has what was moved keeps the old frame, too.
  lruAddDrain(k);
  return failed.every(({ error }) => error !== -ENOMEM);
}

/** From one end to the other. */
function* scanZone(k: Kernel, zone: Zone, order: number, report: CompactReport): Path<void> {
  const scanner: MigrateScanner = { page: zone.firstPage, folios: [], nrPages: 0 };
  const free = createFreeScanner(zone);
  for (;;) {
    const limit = Math.min(free.block + PAGEBLOCK_PAGES, zone.endPage);
    if (scanner.page >= limit) break;
    isolateCluster(k, zone, scanner, limit, order, report);
    if (scanner.folios.length > 0 && !(yield* moveCluster(k, scanner, free, report))) break;
    if (hasBlock(zone, order)) report.result = 'success';
    else if (fatalSignalPending(k)) report.result = 'interrupted';
    if (report.result !== 'complete') break;
    if (k.watched) yield YP_COMPACT;
  }
  report.scannedForFree = free.scanned;
  releaseFree(k, free);
  if (hasBlock(zone, order)) report.result = 'success';
}

/**
 * Compacts a zone until it has a free block of 1 << order pages.
 * @param order -1: all of it, as far as it goes (/proc/sys/vm/compact_memory)
 */
export function* compactZone(k: Kernel, zone: Zone, order: number): Path<CompactReport> {
  const report = createReport(zone, order);
  if (hasBlock(zone, order) || !suitable(zone, order)) {
    report.result = 'skipped';
    return report;
  }
  lruAddDrain(k);
  yield* scanZone(k, zone, order, report);
  report.indexAfter = fragmentationIndex(zone, orderOfIndex(order));
  report.freeAfter = freeBlocksOf(zone).byOrder;
  return report;
}

/**
 * Direct compaction: before an allocation of 1 << order movable pages fails. @returns true: there is
 * a block now. Compare try_to_compact_pages()
 */
export function* tryToCompactPages(k: Kernel, order: number): Path<boolean> {
  for (const zone of k.state.zones.toReversed()) {
    if (zone.managedPages === 0) continue;
    const { result } = yield* compactZone(k, zone, order);
    if (result === 'success') return true;
    if (result === 'interrupted') return false;
  }
  return false;
}
