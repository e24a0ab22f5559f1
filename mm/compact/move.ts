/**
 * Moving one isolated folio: what migration is made of. Compare mm/migrate.c, migrate_folio_unmap(),
 * migrate_folio_move() and __folio_migrate_mapping().
 *
 * Lock it; replace every entry by a migration entry, so that whoever touches the page waits for the
 * lock; if nobody else holds a reference copy the bytes, give the new frame the old one's place, and
 * turn the entries back. A reference that is neither entry nor cache belongs to somebody who reaches
 * the old frame by number, and then nothing moves.
 */
import { cmpxchg, mapSet, readOnce, writeOnce } from '#cells';
import { folioTestWriteback, folioWaitWriteback } from '../cache/clean.ts';
import { EAGAIN, EBUSY, ENOMEM } from '../errno.ts';
import {
  folioCacheRefs,
  folioGet,
  folioLock,
  folioMapcount,
  folioNrPages,
  folioOrder,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioSetMapping,
  folioTrylock,
} from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_DIRTY,
  PG_KSM,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_SWAPBACKED,
  PG_UNEVICTABLE,
  PG_UPTODATE,
} from '../frames/table.ts';
import { isZoneDevice } from '../frames/zone-device.ts';
import { guestMemfdMigrateBegin, guestMemfdMigrateEnd } from '../fs/guestmemfd.ts';
import { ksmMigratePage } from '../ksm/node.ts';
import { folioAddLru } from '../lru/batch.ts';
import { type Path, YP_MIGRATE_COPIED, YP_MIGRATE_UNMAPPED } from '../path.ts';
import { removeMigrationPtes, tryToMigrate } from '../rmap/migration.ts';
import { folioMapping } from '../rmap/rmap.ts';
import { folioTestSwapcache, folioUnlockFreeSwap, swapCacheReplace } from '../swap/cache.ts';
import type { AddressSpace, Kernel } from '../types.ts';

/** Where a folio of 1 << order pages may go: a fresh one with one reference, or -ENOMEM. */
export type MigrateTarget = (k: Kernel, order: number) => number;

/** To wherever the flags allow. @param gfp GFP_* */
export const migrateTarget =
  (gfp: number): MigrateTarget =>
  (k, order) =>
    folioAllocOrder(k, order, gfp);

/** Flags that go with the contents. The exclusive flag travels in the migration entries. */
const MIGRATED_FLAGS =
  PG_REFERENCED |
  PG_UPTODATE |
  PG_DIRTY |
  PG_ACTIVE |
  PG_SWAPBACKED |
  PG_UNEVICTABLE |
  PG_MLOCKED |
  PG_ANON |
  PG_KSM;

/** References of an unmapped folio that only migration and the caches hold. */
export const expectedRefs = (k: Kernel, folio: number): number => 1 + folioCacheRefs(k, folio);

/** Why a folio that is unmapped cannot move: pinned, or just held. */
export const heldBy = (k: Kernel, folio: number): number =>
  folioMaybeDmaPinned(k, folio) ? -EBUSY : -EAGAIN;

/**
 * Moves an isolated folio, and leaves the isolation of the old one to the caller. The new one is on
 * its list.
 * @param wait for its lock, and for its writeback; otherwise they are -EAGAIN
 * @returns 0; -EBUSY pinned; -EAGAIN referenced by somebody who may let go soon; -ENOMEM
 */
export function* moveFolio(
  k: Kernel,
  src: number,
  target: MigrateTarget,
  wait: boolean,
): Path<number> {
  const ignorePins = k.sabotage.migratePinned;
  // Unmapping for nothing is costly: a look without a barrier before it, the one that counts after.
  if (!ignorePins && folioMaybeDmaPinned(k, src)) return -EBUSY;
  const order = folioOrder(k, src);
  const dst = target(k, order);
  if (dst < 0) return -ENOMEM;
  if (!folioTrylock(k, src)) {
    if (!wait) {
      folioPut(k, dst);
      return -EAGAIN;
    }
    yield* folioLock(k, src);
  }
  folioTrylock(k, dst);
  // Whoever had the lock may have split the folio: then it is no longer the one that was asked for.
  let error = folioOrder(k, src) === order ? 0 : -EAGAIN;
  if (folioTestWriteback(k, src)) {
    // What is being written stays where the device reads it.
    if (wait) yield* folioWaitWriteback(k, src);
    else error = -EAGAIN;
  }
  if (error === 0) error = yield* tryToMigrate(k, src);
  if (error === 0 && folioMapcount(k, src) > 0) error = -EAGAIN;
  if (error === 0) {
    if (k.watched) yield YP_MIGRATE_UNMAPPED;
    error = yield* moveInFile(k, dst, src, ignorePins);
  }
  yield* removeMigrationPtes(k, src, error === 0 ? dst : src);
  folioUnlockFreeSwap(k, dst);
  folioUnlockFreeSwap(k, src);
  if (error === 0 && !isZoneDevice(readOnce(k.state.frames.flags, dst))) folioAddLru(k, dst);
  // The entries and the cache hold the new folio now; or nobody does, and it is freed.
  folioPut(k, dst);
  return error;
}

/** moveToNew(), with whoever has entries for pages of a guest_memfd told before and after. */
function* moveInFile(k: Kernel, dst: number, src: number, ignorePins: boolean): Path<number> {
  const object = folioMapping(k, src);
  if (object?.kind !== 'gmem') return yield* moveToNew(k, dst, src, ignorePins);
  const pgoff = readOnce(k.state.frames.index, src);
  const begun = guestMemfdMigrateBegin(k, object, src);
  if (begun !== 0) return begun;
  const error = yield* moveToNew(k, dst, src, ignorePins);
  guestMemfdMigrateEnd(k, object, pgoff);
  return error;
}

/** Copies, and puts the new folio in the old one's place. Both are locked, the old one is unmapped. */
function* moveToNew(k: Kernel, dst: number, src: number, ignorePins: boolean): Path<number> {
  const expected = expectedRefs(k, src);
  if (!ignorePins && folioRefCount(k, src) !== expected) return heldBy(k, src);
  const nr = folioNrPages(k, src);
  for (let i = 0; i < nr; i++) k.memory.copyPage(dst + i, src + i);
  if (k.watched) yield YP_MIGRATE_COPIED;

  const { refcount, mapping, index, flags } = k.state.frames;
  const object = folioMapping(k, src);
  const swapped = folioTestSwapcache(k, src);
  const cached = object !== null && object.kind !== 'anon' && object.kind !== 'ksm';
  // Frozen at 0 nobody can take a reference while the entries of a cache are exchanged.
  const frozen = ignorePins ? folioRefCount(k, src) : expected;
  if (cached || swapped) {
    if (cmpxchg(refcount, src, frozen, 0) !== frozen) return heldBy(k, src);
  } else if (!ignorePins && folioRefCount(k, src) !== expected) {
    return heldBy(k, src);
  }

  // From here there is no way back, and no yield until the new folio is whole.
  folioSetMapping(k, dst, readOnce(mapping, src), readOnce(index, src));
  folioSetFlags(k, dst, readOnce(flags, src) & MIGRATED_FLAGS);
  if (cached || swapped) writeOnce(refcount, src, frozen);
  if (swapped) swapCacheReplace(k, dst, src);
  if (object?.kind === 'ksm') ksmMigratePage(k, dst, src);
  if (cached) {
    replaceInCache(k, object, dst, src);
    writeOnce(refcount, src, frozen - nr);
    writeOnce(mapping, src, 0);
  }
  return 0;
}

/** The new folio takes the cache's references over, one for each page. */
const replaceInCache = (k: Kernel, object: AddressSpace, dst: number, src: number): void => {
  const first = readOnce(k.state.frames.index, src);
  for (let i = 0; i < folioNrPages(k, src); i++) {
    if (object.pages.get(first + i) !== src + i)
      throw new Error(`page ${src + i} is not in its own page cache`);
    folioGet(k, dst);
    mapSet(object.pages, first + i, dst + i);
  }
};
