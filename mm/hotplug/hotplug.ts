/**
 * Memory goes out of use and comes back, by memory blocks of 128 MiB: what is plugged in and out of a
 * machine that runs. Compare mm/memory_hotplug.c and drivers/base/memory.c.
 *
 * Offlining isolates a range and moves what is in it, again and again: it ends when everything is
 * free, or with a fatal signal. A page that somebody holds keeps it going for as long as he holds it.
 */
import { setField } from '#cells';
import { isolateMovable, migratePages } from '../compact/migrate.ts';
import { createMoveReport, type MoveReport, reportFailed } from '../compact/report.ts';
import { EBUSY, EINTR, EINVAL } from '../errno.ts';
import { folioNrPages, folioOf, folioRefCount, folioTestFlags } from '../folio/folio.ts';
import { freeRange, GFP_MOVABLE } from '../frames/buddy.ts';
import {
  busyPage,
  startIsolatePageRange,
  takeIsolatedRange,
  undoIsolatePageRange,
} from '../frames/isolation.ts';
import {
  MIGRATE_ISOLATE,
  MIGRATE_MOVABLE,
  pageblockOwnType,
  pageblockType,
  pageOnline,
  pageZoneIndex,
  setPageblock,
} from '../frames/pageblock.ts';
import { PAGEBLOCK_PAGES, PG_HWPOISON } from '../frames/table.ts';
import { DMA32_END_PAGE, pageZone, ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL } from '../frames/zone.ts';
import { dissolveFreeHugetlbFolios } from '../hugetlb/dissolve.ts';
import { lruCacheDisable, lruCacheEnable } from '../lru/batch.ts';
import { type Path, YP_ISOLATED_BLOCKS, YP_WAIT } from '../path.ts';
import { heldPage } from '../provenance/holders.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel } from '../types.ts';

/** Pages of a memory block: 128 MiB, a section of riscv's. Compare SECTION_SIZE_BITS. */
export const MEMORY_BLOCK_PAGES = 1 << 15;

/** Folios that are isolated before they are moved. */
const CLUSTER_FOLIOS = 32;

export interface OfflineOptions {
  /** Rounds over the range before giving up with -EBUSY. Linux goes on for ever, which is the default. */
  maxRounds?: number;
}

/** What offlining has done: `rounds` are passes of migration, `scans` rounds over the range. */
export interface OfflineReport extends MoveReport {
  scans: number;
}

/** Whole memory blocks of RAM, online or not as asked. */
const areBlocks = (k: Kernel, startPage: number, nrPages: number, online: boolean): boolean => {
  const end = startPage + nrPages;
  if (startPage < 0 || nrPages <= 0 || end > k.state.frames.nrPages) return false;
  if (startPage % MEMORY_BLOCK_PAGES !== 0 || nrPages % MEMORY_BLOCK_PAGES !== 0) return false;
  for (let page = startPage; page < end; page += PAGEBLOCK_PAGES)
    if (pageOnline(k, page) !== online) return false;
  return true;
};

const inOneZone = (k: Kernel, startPage: number, nrPages: number): boolean => {
  const zone = pageZoneIndex(k, startPage);
  for (let page = startPage; page < startPage + nrPages; page += PAGEBLOCK_PAGES)
    if (pageZoneIndex(k, page) !== zone) return false;
  return true;
};

/**
 * Takes memory out of use.
 * @param startPage first page of a memory block
 * @param nrPages a multiple of MEMORY_BLOCK_PAGES, all online and of one zone
 * @returns what was done; its `error` is 0; -EBUSY: a page that can never be moved, a pool of hugetlb
 *   that has promised its pages, or `maxRounds` were not enough; -EINTR: a fatal signal; -EINVAL: no
 *   such range, and then nothing has changed. Compare offline_pages()
 */
export function* offlinePages(
  k: Kernel,
  startPage: number,
  nrPages: number,
  options: OfflineOptions = {},
): Path<OfflineReport> {
  const report: OfflineReport = { ...createMoveReport(), scans: 0 };
  if (!areBlocks(k, startPage, nrPages, true) || !inOneZone(k, startPage, nrPages)) {
    report.error = -EINVAL;
    return report;
  }
  const endPage = startPage + nrPages;
  lruCacheDisable(k);
  const unmovable = startIsolatePageRange(k, startPage, endPage, 'offline');
  if (unmovable >= 0) {
    const isolated = pageblockType(k, unmovable) === MIGRATE_ISOLATE;
    report.held.push(heldPage(k, unmovable, isolated ? 'isolated by somebody else' : undefined));
    report.error = -EBUSY;
  } else {
    if (k.watched) yield YP_ISOLATED_BLOCKS;
    report.error = yield* emptyRange(k, startPage, endPage, options.maxRounds, report);
    if (report.error === 0) takeOut(k, startPage, endPage);
    else undoIsolatePageRange(k, startPage, endPage);
  }
  lruCacheEnable(k);
  return report;
}

/** Round after round, until nothing is left. @returns 0 or -errno */
function* emptyRange(
  k: Kernel,
  startPage: number,
  endPage: number,
  maxRounds: number | undefined,
  report: OfflineReport,
): Path<number> {
  for (;;) {
    report.scans++;
    report.held = [];
    const movedBefore = report.moved;
    const killed = yield* moveAll(k, startPage, endPage, report);
    if (killed !== 0) return killed;
    const promised = dissolveFreeHugetlbFolios(k, startPage, endPage);
    if (promised !== 0) return promised;
    if (busyPage(k, startPage, endPage, 'offline') < 0) {
      report.held = [];
      return 0;
    }
    if (report.scans === maxRounds) {
      reportBusy(k, startPage, endPage, report);
      return -EBUSY;
    }
    if (report.moved > movedBefore) continue;
    // Linux goes on at once. Nothing will change here unless somebody else runs.
    if (maxRounds === undefined || k.watched) yield YP_WAIT;
  }
}

/** One round: every folio of the range that can be isolated is tried. @returns 0, or -EINTR */
function* moveAll(
  k: Kernel,
  startPage: number,
  endPage: number,
  report: OfflineReport,
): Path<number> {
  for (let page = startPage; page < endPage; ) {
    if (fatalSignalPending(k)) return -EINTR;
    const folios: number[] = [];
    while (page < endPage && folios.length < CLUSTER_FOLIOS) {
      const folio = folioOf(k, page);
      page = folio + folioNrPages(k, folio);
      if (folioTestFlags(k, folio, PG_HWPOISON)) continue;
      if (isolateMovable(k, folio) === 0) folios.push(folio);
    }
    const result = yield* migratePages(k, folios, GFP_MOVABLE, 'memory-hotplug');
    report.moved += result.nrPages;
    report.rounds += result.passes;
    reportFailed(k, report, result.failed);
  }
  return 0;
}

/** Adds what is in use and in nobody's report. */
const reportBusy = (k: Kernel, startPage: number, endPage: number, report: OfflineReport): void => {
  const known = new Set(report.held.map(({ page }) => page));
  for (let page = busyPage(k, startPage, endPage, 'offline'); page >= 0; ) {
    const folio = folioOf(k, page);
    if (!known.has(folio)) report.held.push(heldPage(k, folio));
    page = busyPage(k, folio + folioNrPages(k, folio), endPage, 'offline');
  }
};

/** The range is empty, but for what is broken: it is nobody's from now on. Compare __offline_isolated_pages(). */
const takeOut = (k: Kernel, startPage: number, endPage: number): void => {
  const zone = pageZone(k, startPage);
  takeIsolatedRange(k, startPage, endPage);
  for (let page = startPage; page < endPage; page += PAGEBLOCK_PAGES)
    setPageblock(k, page, zone.index, pageblockOwnType(k, page), false);
  setField(zone, 'managedPages', zone.managedPages - (endPage - startPage));
};

/** The zone that memory is of by its address. */
const kernelZone = (page: number): number => (page < DMA32_END_PAGE ? ZONE_DMA32 : ZONE_NORMAL);

/**
 * Brings memory back into use, every pageblock for pages that can be moved; what is broken stays
 * out.
 * @param zone ZONE_MOVABLE, or that which its address says; default: the one that it was of
 * @returns 0, or -EINVAL: no memory blocks that are offline, or another zone. Compare online_pages()
 */
export const onlinePages = (
  k: Kernel,
  startPage: number,
  nrPages: number,
  zone: number = pageZoneIndex(k, startPage),
): number => {
  const endPage = startPage + nrPages;
  if (!areBlocks(k, startPage, nrPages, false)) return -EINVAL;
  if (zone !== ZONE_MOVABLE && zone !== kernelZone(startPage)) return -EINVAL;
  const into = k.state.zones[zone];
  if (into === undefined) return -EINVAL;
  const empty = into.firstPage === into.endPage;
  setField(into, 'firstPage', empty ? startPage : Math.min(into.firstPage, startPage));
  setField(into, 'endPage', empty ? endPage : Math.max(into.endPage, endPage));
  setField(into, 'managedPages', into.managedPages + nrPages);
  for (let page = startPage; page < endPage; page += PAGEBLOCK_PAGES)
    setPageblock(k, page, zone, MIGRATE_MOVABLE, true);
  let first = startPage;
  for (let page = startPage; page < endPage; page++) {
    if (folioRefCount(k, page) === 0) continue;
    freeRange(k, first, page);
    first = page + 1;
  }
  freeRange(k, first, endPage);
  return 0;
};
