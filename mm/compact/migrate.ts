/**
 * Migration: a folio moves to another frame, and whoever maps it does not notice.
 * Compare mm/migrate.c, migrate_folio_unmap() and migrate_folio_move().
 *
 * Isolate and lock it; replace every entry by a migration entry, so that whoever touches the page
 * waits for the lock; if nobody else holds a reference copy the bytes, give the new frame the old
 * one's place, and turn the entries back. A reference that is neither entry nor cache belongs to
 * somebody who reaches the old frame by number, and then nothing moves.
 */
import { cmpxchg, mapSet, readOnce, writeOnce } from '#cells';
import { EAGAIN, EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import {
  folioAddLru,
  folioAlloc,
  folioClearFlags,
  folioGet,
  folioLock,
  folioMapcount,
  folioNrPages,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioSetMapping,
  folioTestAnon,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_BUDDY,
  PG_DIRTY,
  PG_HEAD,
  PG_ISOLATED,
  PG_LRU,
  PG_REFERENCED,
  PG_RESERVED,
  PG_SWAPBACKED,
  PG_TABLE,
  PG_TAIL,
  PG_UNEVICTABLE,
  PG_UPTODATE,
} from '../frames/table.ts';
import { type Path, YP_MIGRATE_COPIED, YP_MIGRATE_UNMAPPED } from '../path.ts';
import { removeMigrationPtes, tryToMigrate } from '../rmap/migration.ts';
import { countStat } from '../stat.ts';
import type { AddressSpace, Kernel } from '../types.ts';

/** Flags that go with the contents. The exclusive flag travels in the migration entries. */
const MIGRATED_FLAGS =
  PG_REFERENCED | PG_UPTODATE | PG_DIRTY | PG_ACTIVE | PG_SWAPBACKED | PG_UNEVICTABLE | PG_ANON;

/**
 * Moves a folio to a fresh frame. The caller needs no reference.
 * @param folio a page number: any, also one that is not in use
 * @returns 0; -EBUSY pinned, or isolated by somebody else; -EAGAIN referenced by somebody who may
 *   let go soon; -ENOMEM; -EINVAL not a folio of an address space or a file (large folios included)
 */
export function* migrateFolio(k: Kernel, folio: number): Path<number> {
  const isolated = isolate(k, folio);
  if (isolated !== 0) return isolated;
  const error = yield* migrateIsolated(k, folio);
  countStat(k, error === 0 ? 'pgmigrate_success' : 'pgmigrate_fail');
  folioClearFlags(k, folio, PG_ISOLATED);
  if (error !== 0) folioAddLru(k, folio);
  folioPut(k, folio);
  return error;
}

/** Takes the folio off its LRU list, with a reference. Compare folio_isolate_lru(). */
const isolate = (k: Kernel, folio: number): number => {
  const unfit = PG_TABLE | PG_RESERVED | PG_BUDDY | PG_HEAD | PG_TAIL;
  if (folio < 0 || folio >= k.state.frames.nrPages) return -EINVAL;
  if ((readOnce(k.state.frames.flags, folio) & unfit) !== 0) return -EINVAL;
  if (readOnce(k.state.frames.mapping, folio) === 0) return -EINVAL;
  if (folioTestFlags(k, folio, PG_ISOLATED)) return -EBUSY;
  if (!folioTryGet(k, folio)) return -EINVAL;
  folioSetFlags(k, folio, PG_ISOLATED);
  folioClearFlags(k, folio, PG_LRU);
  return 0;
};

/** References of a folio that only migration holds: its own, and the page cache's. */
const expectedRefs = (k: Kernel, folio: number): number =>
  1 + (folioTestAnon(k, folio) ? 0 : folioNrPages(k, folio));

/** Why a folio that is unmapped cannot move: pinned, or just held. */
const heldBy = (k: Kernel, folio: number): number =>
  folioMaybeDmaPinned(k, folio) ? -EBUSY : -EAGAIN;

function* migrateIsolated(k: Kernel, src: number): Path<number> {
  const ignorePins = k.sabotage.migratePinned;
  // Unmapping for nothing is costly: a look without a barrier before it, the one that counts after.
  if (!ignorePins && folioMaybeDmaPinned(k, src)) return -EBUSY;
  const dst = folioAlloc(k, GFP_KERNEL);
  if (dst < 0) return -ENOMEM;
  if (!folioTrylock(k, src)) yield* folioLock(k, src);
  folioTrylock(k, dst);

  let error = yield* tryToMigrate(k, src);
  if (error === 0 && folioMapcount(k, src) > 0) error = -EAGAIN;
  if (error === 0) {
    if (k.watched) yield YP_MIGRATE_UNMAPPED;
    error = yield* moveToNew(k, dst, src, ignorePins);
  }
  yield* removeMigrationPtes(k, src, error === 0 ? dst : src);
  folioUnlock(k, dst);
  folioUnlock(k, src);
  if (error === 0) folioAddLru(k, dst);
  // The entries and the cache hold the new folio now; or nobody does, and it is freed.
  folioPut(k, dst);
  return error;
}

/** Copies, and puts the new folio in the old one's place. Both are locked, the old one is unmapped. */
function* moveToNew(k: Kernel, dst: number, src: number, ignorePins: boolean): Path<number> {
  const expected = expectedRefs(k, src);
  if (!ignorePins && folioRefCount(k, src) !== expected) return heldBy(k, src);
  k.memory.copyPage(dst, src);
  if (k.watched) yield YP_MIGRATE_COPIED;

  const { refcount, mapping, index, flags } = k.state.frames;
  const object = k.state.mappings.get(readOnce(mapping, src));
  const cached = object !== undefined && object.kind !== 'anon' && object.kind !== 'ksm';
  // Frozen at 0 nobody can take a reference while the cache's entry is exchanged.
  const frozen = ignorePins ? folioRefCount(k, src) : expected;
  if (cached && cmpxchg(refcount, src, frozen, 0) !== frozen) return heldBy(k, src);
  if (!cached && !ignorePins && folioRefCount(k, src) !== expected) return heldBy(k, src);

  // From here there is no way back, and no yield until the new folio is whole.
  folioSetMapping(k, dst, readOnce(mapping, src), readOnce(index, src));
  folioSetFlags(k, dst, readOnce(flags, src) & MIGRATED_FLAGS);
  if (cached) {
    replaceInCache(k, object, dst, src);
    writeOnce(refcount, src, frozen - 1);
    writeOnce(mapping, src, 0);
  }
  return 0;
}

/** The new folio takes the cache's reference over. */
const replaceInCache = (k: Kernel, object: AddressSpace, dst: number, src: number): void => {
  const index = readOnce(k.state.frames.index, src);
  if (object.pages.get(index) !== src) throw new Error(`page ${src} is not in its own page cache`);
  folioGet(k, dst);
  mapSet(object.pages, index, dst);
};
