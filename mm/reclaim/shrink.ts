/**
 * Letting go of folios that are isolated from their LRU lists. Compare mm/vmscan.c:shrink_folio_list().
 *
 * Anonymous memory and shmem go to swap (mm/swap/out.ts), pages of files that are written back are
 * dropped, and written first where they are dirty. What may be pinned keeps its place, and its file
 * system what it has of it: the device may be writing to it, so it becomes active (1.9). What was
 * used of late goes round the list once more.
 */
import { folioClearDirtyForIo, folioTestWriteback } from '../cache/clean.ts';
import { removeMapping } from '../cache/remove.ts';
import {
  folioLock,
  folioMapcount,
  folioRefCount,
  folioSetFlags,
  folioTestDirty,
  folioTestFlags,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { PG_ACTIVE, PG_MLOCKED, PG_SWAPBACKED } from '../frames/table.ts';
import { operationsOf } from '../fs/operations.ts';
import { folioDropIsolated, folioPutbackLru } from '../lru/isolate.ts';
import { type Path, YP_RECLAIM, YP_WRITEBACK_CLEANED } from '../path.ts';
import { folioMapping } from '../rmap/rmap.ts';
import { unmapFolio } from '../rmap/unmap.ts';
import { reclaimIsolated } from '../swap/out.ts';
import { unmapFileOne } from '../swap/shmem.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { folioCheckReferences } from './references.ts';

/** What has become of a folio: its frame is free; it goes to the front of its list; it becomes active. */
type Outcome = 'freed' | 'kept' | 'active';

/** What one round has done, in folios. */
export interface ShrinkResult {
  freed: number;
  kept: number;
  activated: number;
  /** Of those that were kept or activated: because somebody may have pinned them. */
  pinned: number;
}

export const createShrinkResult = (): ShrinkResult => ({
  freed: 0,
  kept: 0,
  activated: 0,
  pinned: 0,
});

/**
 * Tries to free each of the isolated folios; those that stay go back to a list.
 * @param result counts what has become of them
 */
export function* shrinkFolios(
  k: Kernel,
  isolated: readonly number[],
  result: ShrinkResult,
): Path<void> {
  for (const folio of isolated) {
    if (k.watched) yield YP_RECLAIM;
    const pinned = folioMaybeDmaPinned(k, folio);
    const outcome = yield* shrinkOne(k, folio);
    if (outcome === 'freed') result.freed++;
    else if (outcome === 'kept') result.kept++;
    else result.activated++;
    if (pinned && outcome !== 'freed') result.pinned++;
  }
}

/** One folio, whose isolation ends. */
function* shrinkOne(k: Kernel, folio: number): Path<Outcome> {
  const verdict = folioCheckReferences(k, folio);
  if (verdict === 'locked') {
    folioSetFlags(k, folio, PG_MLOCKED);
    return putback(k, folio, 'active');
  }
  if (verdict === 'keep') return putback(k, folio, 'kept');
  if (verdict === 'activate') return putback(k, folio, 'active');
  if (folioTestFlags(k, folio, PG_SWAPBACKED)) return yield* shrinkSwapBacked(k, folio);
  const mapping = folioMapping(k, folio);
  if (mapping !== null && mapping.kind === 'extent') return yield* shrinkFile(k, mapping, folio);
  // Truncated meanwhile: this reference may be its last.
  return folioRefCount(k, folio) === 1 ? drop(k, folio) : putback(k, folio, 'kept');
}

const putback = (k: Kernel, folio: number, outcome: Outcome): Outcome => {
  if (outcome === 'active') folioSetFlags(k, folio, PG_ACTIVE);
  folioPutbackLru(k, folio);
  return outcome;
};

const drop = (k: Kernel, folio: number): Outcome => {
  folioDropIsolated(k, folio);
  return 'freed';
};

/** To swap; one that may be pinned becomes active. */
function* shrinkSwapBacked(k: Kernel, folio: number): Path<Outcome> {
  if (folioMaybeDmaPinned(k, folio)) return putback(k, folio, 'active');
  return (yield* reclaimIsolated(k, folio)) === 0 ? 'freed' : 'kept';
}

/** A page of a file that is written back. */
function* shrinkFile(k: Kernel, mapping: AddressSpace, folio: number): Path<Outcome> {
  if (!folioTrylock(k, folio)) return putback(k, folio, 'kept');
  const outcome = yield* releaseLocked(k, mapping, folio);
  folioUnlock(k, folio);
  return outcome === 'freed' ? drop(k, folio) : putback(k, folio, outcome);
}

/** The locked folio, which is locked afterwards as well. @returns 'freed': the isolation has the last reference */
function* releaseLocked(k: Kernel, mapping: AddressSpace, folio: number): Path<Outcome> {
  if (folioTestWriteback(k, folio)) return 'kept';
  if (folioMapcount(k, folio) > 0 && (yield* unmapFolio(k, folio, 1, unmapFileOne)) !== 0)
    return 'kept';
  // Looked at once no entry is left that GUP-fast could pin it through.
  if (folioMaybeDmaPinned(k, folio)) return 'active';
  if (folioTestDirty(k, folio) && !(yield* writeOut(k, mapping, folio))) return 'kept';
  if (folioMapping(k, folio) !== mapping) return folioRefCount(k, folio) === 1 ? 'freed' : 'kept';
  return removeMapping(k, mapping, folio) ? 'freed' : 'kept';
}

/** Writes the locked folio to its file, and locks it again. @returns false: that has failed, or somebody has it */
function* writeOut(k: Kernel, mapping: AddressSpace, folio: number): Path<boolean> {
  const { writeFolio } = operationsOf(mapping);
  if (writeFolio === undefined) return false;
  if (!(yield* folioClearDirtyForIo(k, folio))) return true;
  if (k.watched) yield YP_WRITEBACK_CLEANED;
  const error = yield* writeFolio(k, mapping, folio);
  if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
  return error === 0;
}
