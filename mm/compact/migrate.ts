/**
 * Migration: folios move to other frames, and whoever maps them does not notice. Compare
 * mm/migrate.c. How one of them moves is in move.ts.
 *
 * What is to move is isolated first, so that nobody else moves it or lets it go. Hugetlb's folios
 * are, from their pool (mm/hugetlb/migrate.ts); what is not on an LRU list, as memory of devices, is
 * not moved here.
 */
import { readOnce } from '#cells';
import { EAGAIN, EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import { folioNrPages, folioOf, folioRefCount, folioTestFlags } from '../folio/folio.ts';
import { GFP_MOVABLE } from '../frames/buddy.ts';
import {
  PG_BUDDY,
  PG_HUGETLB,
  PG_ISOLATED,
  PG_LRU,
  PG_RESERVED,
  PG_TABLE,
} from '../frames/table.ts';
import { isZoneDevice } from '../frames/zone-device.ts';
import { isolateHugetlb, putbackHugetlb, unmapAndMoveHugetlb } from '../hugetlb/migrate.ts';
import { lruAddDrainAll } from '../lru/batch.ts';
import { folioDropIsolated, folioIsolateLru, folioPutbackLru } from '../lru/isolate.ts';
import type { Path } from '../path.ts';
import { SWAP_CLUSTER_MAX, tryToFreePages } from '../reclaim/reclaim.ts';
import { folioMapping } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { type MigrateTarget, migrateTarget, moveFolio } from './move.ts';

/** Why pages move: counted, and said in reports. Compare include/linux/migrate_mode.h, enum migrate_reason. */
export type MigrateReason = 'compaction' | 'memory-hotplug' | 'contig-range' | 'longterm-pin';

/** What has become of the folios of one call. */
export interface MigrateResult {
  reason: MigrateReason;
  /** Folios and pages that have moved, or that nobody needed any more. */
  nrMoved: number;
  nrPages: number;
  /** Passes over the folios. */
  passes: number;
  /** Those that have not moved, and why: -EBUSY pinned, -EAGAIN held to the end, -ENOMEM, -EHWPOISON. */
  failed: { folio: number; error: number }[];
}

/** Passes over what is left before giving up; the first of them wait for nothing. Compare NR_MAX_MIGRATE_PAGES_RETRY. */
const MIGRATE_PASSES = 10;
const MIGRATE_ASYNC_PASSES = 3;

/** What is no folio of an address space or a file, or is not moved: free and reserved frames. */
const UNFIT = PG_TABLE | PG_RESERVED | PG_BUDDY;

/** Files whose pages stay: nobody may copy a secret, and the others' pages are what they are. */
const FIXED: readonly string[] = ['secretmem', 'device', 'fsdax'] satisfies AddressSpace['kind'][];

/**
 * Moves the folio of a page to fresh frames, as a whole. What one entry mapped as 2 MiB is mapped
 * page by page afterwards, unless it is hugetlb's. The caller needs no reference.
 * @param page a page number: any, also one that is not in use
 * @returns 0; -EBUSY pinned, isolated by somebody else, or not to be moved (secretmem); -EAGAIN
 *   referenced by somebody who may let go soon; -ENOMEM; -EINVAL not a folio of an address space or a
 *   file
 */
export function* migrateFolio(k: Kernel, page: number): Path<number> {
  if (page < 0 || page >= k.state.frames.nrPages) return -EINVAL;
  const folio = folioOf(k, page);
  const isolated = isolateMovable(k, folio);
  if (isolated !== 0) return isolated;
  const error = yield* moveIsolated(k, folio, migrateTarget(GFP_MOVABLE), true);
  finishIsolated(k, folio, error);
  return error;
}

/**
 * Takes a folio off its LRU list, or its pool's, with a reference: to be moved, and put back.
 * @returns 0; -EBUSY isolated by somebody else, or not to be moved; -EINVAL free, or no folio of an
 *   address space or a file. Compare isolate_folio_to_list()
 */
export const isolateMovable = (k: Kernel, folio: number): number => {
  const flags = readOnce(k.state.frames.flags, folio);
  if ((flags & UNFIT) !== 0 || isZoneDevice(flags) || folioRefCount(k, folio) === 0) return -EINVAL;
  if ((flags & PG_HUGETLB) !== 0) return isolateHugetlb(k, folio) ? 0 : -EBUSY;
  const object = folioMapping(k, folio);
  if (object === null) return -EINVAL;
  if ((flags & PG_ISOLATED) !== 0 || FIXED.includes(object.kind)) return -EBUSY;
  if ((flags & PG_LRU) === 0) lruAddDrainAll(k);
  return folioIsolateLru(k, folio) ? 0 : -EBUSY;
};

/** The folio that was isolated goes back to where it was. */
export const putbackMovable = (k: Kernel, folio: number): void => {
  if (folioTestFlags(k, folio, PG_HUGETLB)) putbackHugetlb(k, folio);
  else folioPutbackLru(k, folio);
};

/** One try. @returns as moveFolio */
function* moveIsolated(
  k: Kernel,
  folio: number,
  target: MigrateTarget,
  wait: boolean,
): Path<number> {
  if (folioTestFlags(k, folio, PG_HUGETLB)) return yield* unmapAndMoveHugetlb(k, folio, wait);
  // Whoever else had it has let go of it.
  if (folioRefCount(k, folio) === 1) return 0;
  return yield* moveFolio(k, folio, target, wait);
}

/** Nobody tries any more: it is counted, and the isolation ends. */
const finishIsolated = (k: Kernel, folio: number, error: number): void => {
  countStat(k, error === 0 ? 'pgmigrate_success' : 'pgmigrate_fail', folioNrPages(k, folio));
  if (error !== 0 || folioTestFlags(k, folio, PG_HUGETLB)) putbackMovable(k, folio);
  else folioDropIsolated(k, folio);
};

/**
 * Moves isolated folios. Those that are held, pinned or locked are tried again, ten times in all;
 * without memory for one, and none to be reclaimed, it ends at once. All of them are put back, or gone, when it ends.
 * @param folios from isolateMovable(), each once
 * @param gfp GFP_* for where they go
 * @param target where else they go, as compaction knows it; null: wherever the flags allow
 */
export function* migratePages(
  k: Kernel,
  folios: readonly number[],
  gfp: number,
  reason: MigrateReason,
  target: MigrateTarget | null = null,
): Path<MigrateResult> {
  const result: MigrateResult = { reason, nrMoved: 0, nrPages: 0, passes: 0, failed: [] };
  let left = folios;
  while (left.length > 0 && result.passes < MIGRATE_PASSES) {
    result.passes++;
    left = yield* migratePass(k, left, gfp, target, result);
  }
  return result;
}

/** Tries each once. @returns those that are worth another try; none where memory has run out */
function* migratePass(
  k: Kernel,
  folios: readonly number[],
  gfp: number,
  target: MigrateTarget | null,
  result: MigrateResult,
): Path<number[]> {
  const { passes, failed } = result;
  const where = target ?? migrateTarget(gfp);
  const wait = passes > MIGRATE_ASYNC_PASSES;
  const left: number[] = [];
  let full = false;
  for (const folio of folios) {
    const nr = folioNrPages(k, folio);
    let error: number = full ? -ENOMEM : yield* moveIsolated(k, folio, where, wait);
    if (error === -ENOMEM && !full && target === null && nr === 1) {
      const freed = yield* tryToFreePages(k, 0, SWAP_CLUSTER_MAX, gfp);
      if (freed > 0) error = yield* moveIsolated(k, folio, where, wait);
    }
    if (error === 0) {
      result.nrMoved++;
      result.nrPages += nr;
    } else if ((error === -EAGAIN || error === -EBUSY) && passes < MIGRATE_PASSES) {
      left.push(folio);
      continue;
    } else {
      failed.push({ folio, error });
      full ||= error === -ENOMEM;
    }
    finishIsolated(k, folio, error);
  }
  if (!full) return left;
  for (const folio of left) {
    failed.push({ folio, error: -ENOMEM });
    finishIsolated(k, folio, -ENOMEM);
  }
  return [];
}
