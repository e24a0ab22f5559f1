/**
 * Direct reclaim: whoever needs memory and gets none makes some. Compare mm/vmscan.c,
 * try_to_free_pages(), shrink_lruvec() and balance_pgdat().
 *
 * Each zone's lists are looked at from their old end: first a small part of them, then more and more.
 * What is inactive is let go of (shrink.ts); active folios become inactive where those have become
 * few. Files go before anonymous memory, by Linux's swappiness of 60, and anonymous memory only where
 * there is a slot of the swap device for it.
 *
 *   new ---> inactive ---> used again ---> active
 *               ^  |                         |
 *               |  +---> freed               |  too few are inactive
 *               +----------------------------+
 */
import { readOnce } from '#cells';
import { folioClearFlags, folioTestFlags } from '../folio/folio.ts';
import { currentGfp, GFP_DMA32, GFP_MOVABLE } from '../frames/buddy.ts';
import { PG_ACTIVE, PG_SWAPBACKED } from '../frames/table.ts';
import { ZONE_DMA32, ZONE_MOVABLE, ZONE_NORMAL, type Zone } from '../frames/zone.ts';
import { lruAddDrain } from '../lru/batch.ts';
import { folioIsolateLru, folioPutbackLru } from '../lru/isolate.ts';
import { lruListLast, lruListPages } from '../lru/list.ts';
import {
  LRU_ACTIVE_ANON,
  LRU_ACTIVE_FILE,
  LRU_INACTIVE_ANON,
  LRU_INACTIVE_FILE,
} from '../lru/state.ts';
import { type Path, YP_RECLAIM } from '../path.ts';
import { fatalSignalPending } from '../signal.ts';
import type { Kernel } from '../types.ts';
import { VM_EXEC } from '../vma/flags.ts';
import { folioReferenced } from './references.ts';
import { createShrinkResult, shrinkFolios, type ShrinkResult } from './shrink.ts';
import { zoneWatermarks } from './watermark.ts';

/** The first look is at 1 / 4096 of each list, every further one at twice as much. */
const DEF_PRIORITY = 12;
/** Folios that are isolated at once, and how many a caller is content with at least. */
export const SWAP_CLUSTER_MAX = 32;
/** How often a fault that gets no memory reclaims some, as long as that frees anything. */
export const MAX_RECLAIM_RETRIES = 16;
/** Of 200: the share of anonymous memory in what is looked at. */
const SWAPPINESS = 60;

/** Isolates up to `nr` folios from the old end of a list. Compare isolate_lru_folios() */
const isolateOldest = (k: Kernel, zone: number, lru: number, nr: number): number[] => {
  const isolated: number[] = [];
  for (let i = 0; i < nr; i++) {
    const folio = lruListLast(k, zone, lru);
    if (folio < 0) break;
    folioIsolateLru(k, folio);
    isolated.push(folio);
  }
  return isolated;
};

/** Active folios become inactive, but for code that is being run. Compare shrink_active_list() */
function* shrinkActive(k: Kernel, zone: number, lru: number, nr: number): Path<void> {
  lruAddDrain(k);
  for (const folio of isolateOldest(k, zone, lru, nr)) {
    if (k.watched) yield YP_RECLAIM;
    const { used, vmFlags } = folioReferenced(k, folio);
    const code = used > 0 && (vmFlags & VM_EXEC) !== 0 && !folioTestFlags(k, folio, PG_SWAPBACKED);
    if (!code) folioClearFlags(k, folio, PG_ACTIVE);
    folioPutbackLru(k, folio);
  }
}

/** Are so few folios inactive that used ones would not be noticed before they are gone? In a machine below 1 GiB: fewer than active ones. */
const inactiveIsLow = (k: Kernel, zone: number, inactive: number): boolean => {
  const few = lruListPages(k, zone, inactive);
  const many = lruListPages(k, zone, inactive + LRU_ACTIVE_ANON);
  const gib = (few + many) >>> 18;
  return few * (gib > 0 ? Math.floor(Math.sqrt(10 * gib)) : 1) < many;
};

/** Pages of one kind that a look at this priority goes over. Compare get_scan_count() */
const scanCount = (k: Kernel, zone: number, inactive: number, priority: number): number => {
  const pages = lruListPages(k, zone, inactive) + lruListPages(k, zone, inactive + LRU_ACTIVE_ANON);
  if (priority === 0) return pages;
  const share = inactive === LRU_INACTIVE_ANON ? SWAPPINESS : 200 - SWAPPINESS;
  return Math.ceil(((pages >>> priority) * share) / 100);
};

/** Looks at one kind of folio of a zone. Compare shrink_list() */
function* shrinkKind(
  k: Kernel,
  zone: number,
  inactive: number,
  priority: number,
  wanted: number,
  result: ShrinkResult,
): Path<void> {
  let scan = scanCount(k, zone, inactive, priority);
  while (scan > 0 && result.freed < wanted && !fatalSignalPending(k)) {
    const nr = Math.min(scan, SWAP_CLUSTER_MAX);
    scan -= nr;
    if (inactiveIsLow(k, zone, inactive))
      yield* shrinkActive(k, zone, inactive + LRU_ACTIVE_ANON, nr);
    lruAddDrain(k);
    yield* shrinkFolios(k, isolateOldest(k, zone, inactive, nr), result);
  }
}

/** One look at the lists of some zones. */
function* shrinkZones(
  k: Kernel,
  zones: readonly Zone[],
  priority: number,
  wanted: number,
  result: ShrinkResult,
): Path<void> {
  for (const { index } of zones) {
    yield* shrinkKind(k, index, LRU_INACTIVE_FILE, priority, wanted, result);
    if (k.state.swap.nrFree > 0)
      yield* shrinkKind(k, index, LRU_INACTIVE_ANON, priority, wanted, result);
  }
}

/** Zones that an allocation by these flags may come from. */
const zonesFor = (k: Kernel, gfp: number): Zone[] => {
  let best = (gfp & GFP_MOVABLE) !== 0 ? ZONE_MOVABLE : ZONE_NORMAL;
  if ((gfp & GFP_DMA32) !== 0) best = ZONE_DMA32;
  return k.state.zones.filter(({ index }) => index <= best);
};

/** Could anything be reclaimed at all? Without storage behind it nothing is. */
const anythingReclaimable = (k: Kernel): boolean => {
  const anon = k.state.swap.nrFree > 0;
  for (const { index } of k.state.zones) {
    const file = [LRU_INACTIVE_FILE, LRU_ACTIVE_FILE];
    const lists = anon ? [LRU_INACTIVE_ANON, LRU_ACTIVE_ANON, ...file] : file;
    if (lists.some((lru) => lruListPages(k, index, lru) > 0)) return true;
  }
  return false;
};

/**
 * Frees at least `nr` folios, if they can be had. The caller may hold mmap_lock for reading, and no
 * folio's lock.
 * @param order of the allocation that has failed: 1 << order folios are the least
 * @param gfp of that allocation: only zones that it may come from are looked at
 * @returns folios freed, 0 where nothing can be reclaimed
 */
export function* tryToFreePages(
  k: Kernel,
  order: number,
  nr: number,
  gfp = GFP_MOVABLE,
): Path<number> {
  const result = createShrinkResult();
  const zones = zonesFor(k, currentGfp(k, gfp));
  const wanted = Math.max(nr, 1 << order);
  for (let priority = DEF_PRIORITY; priority >= 0 && anythingReclaimable(k); priority--) {
    yield* shrinkZones(k, zones, priority, wanted, result);
    if (result.freed >= wanted || fatalSignalPending(k)) break;
  }
  return result.freed;
}

/** Free pages of a zone that are few: fewer than its mark. */
const belowHigh = (k: Kernel, zone: Zone): boolean =>
  zone.managedPages > 0 && readOnce(zone.nrFree, 0) < zoneWatermarks(k, zone).high;

/**
 * What kswapd does when it is woken: reclaims until every zone has its high watermark of free pages,
 * or nothing more can be had. Nobody wakes it here: a machine runs it as it likes.
 * @returns what has become of the folios that it looked at
 */
export function* balanceZones(k: Kernel): Path<ShrinkResult> {
  const result = createShrinkResult();
  for (let priority = DEF_PRIORITY; priority >= 0; ) {
    const low = k.state.zones.filter((zone) => belowHigh(k, zone));
    if (low.length === 0 || !anythingReclaimable(k)) break;
    const before = result.freed;
    yield* shrinkZones(k, low, priority, before + SWAP_CLUSTER_MAX, result);
    if (result.freed - before < SWAP_CLUSTER_MAX) priority--;
  }
  return result;
}

/**
 * A fault that would fail for want of memory: reclaims some. Compare __alloc_pages_slowpath(), which
 * does it for every allocation.
 * @returns true: something was freed, and the fault is worth another try
 */
export function* reclaimForFault(k: Kernel): Path<boolean> {
  return (yield* tryToFreePages(k, 0, SWAP_CLUSTER_MAX)) > 0;
}
