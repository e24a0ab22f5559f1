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
  folioCacheRefs,
  folioGet,
  folioLock,
  folioMapcount,
  folioNrPages,
  folioOf,
  folioOrder,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioSetMapping,
  folioTestFlags,
  folioTrylock,
} from '../folio/folio.ts';
import { folioAllocOrder } from '../folio/large.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import {
  PG_ACTIVE,
  PG_ANON,
  PG_BUDDY,
  PG_DIRTY,
  PG_HUGETLB,
  PG_ISOLATED,
  PG_KSM,
  PG_LRU,
  PG_MLOCKED,
  PG_REFERENCED,
  PG_RESERVED,
  PG_SWAPBACKED,
  PG_TABLE,
  PG_UNEVICTABLE,
  PG_UPTODATE,
} from '../frames/table.ts';
import { migrateHugetlbFolio } from '../hugetlb/migrate.ts';
import { ksmMigratePage } from '../ksm/node.ts';
import { folioAddLru, lruAddDrainAll } from '../lru/batch.ts';
import { folioDropIsolated, folioIsolateLru, folioPutbackLru } from '../lru/isolate.ts';
import { type Path, YP_MIGRATE_COPIED, YP_MIGRATE_UNMAPPED } from '../path.ts';
import { removeMigrationPtes, tryToMigrate } from '../rmap/migration.ts';
import { folioMapping } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import { folioTestSwapcache, folioUnlockFreeSwap, swapCacheReplace } from '../swap/cache.ts';
import type { AddressSpace, Kernel } from '../types.ts';

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

/** What is no folio of an address space or a file, or is not moved: free and reserved frames. */
const UNFIT = PG_TABLE | PG_RESERVED | PG_BUDDY;

/**
 * Moves the folio of a page to fresh frames, as a whole. What one entry mapped as 2 MiB is mapped
 * page by page afterwards, unless it is hugetlb's (mm/hugetlb/migrate.ts). The caller needs no reference.
 * @param page a page number: any, also one that is not in use
 * @returns 0; -EBUSY pinned, isolated by somebody else, or not to be moved (secretmem); -EAGAIN
 *   referenced by somebody who may let go soon; -ENOMEM; -EINVAL not a folio of an address space or a
 *   file
 */
export function* migrateFolio(k: Kernel, page: number): Path<number> {
  if (page < 0 || page >= k.state.frames.nrPages) return -EINVAL;
  const folio = folioOf(k, page);
  if (folioTestFlags(k, folio, PG_HUGETLB)) return yield* migrateHugetlbFolio(k, folio);
  const isolated = isolate(k, folio);
  if (isolated !== 0) return isolated;
  const nr = folioNrPages(k, folio);
  const error = yield* migrateIsolated(k, folio);
  countStat(k, error === 0 ? 'pgmigrate_success' : 'pgmigrate_fail', nr);
  if (error === 0) folioDropIsolated(k, folio);
  else folioPutbackLru(k, folio);
  return error;
}

/** Takes the folio off its LRU list, with a reference. Compare folio_isolate_lru(). */
const isolate = (k: Kernel, folio: number): number => {
  if ((readOnce(k.state.frames.flags, folio) & UNFIT) !== 0) return -EINVAL;
  const object = folioMapping(k, folio);
  if (object === null) return -EINVAL;
  if (object.kind === 'secretmem' || folioTestFlags(k, folio, PG_ISOLATED)) return -EBUSY;
  if (folioRefCount(k, folio) === 0) return -EINVAL;
  if (!folioTestFlags(k, folio, PG_LRU)) lruAddDrainAll(k);
  return folioIsolateLru(k, folio) ? 0 : -EBUSY;
};

/** References of an unmapped folio that only migration and the caches hold. */
const expectedRefs = (k: Kernel, folio: number): number => 1 + folioCacheRefs(k, folio);

/** Why a folio that is unmapped cannot move: pinned, or just held. */
const heldBy = (k: Kernel, folio: number): number =>
  folioMaybeDmaPinned(k, folio) ? -EBUSY : -EAGAIN;

function* migrateIsolated(k: Kernel, src: number): Path<number> {
  const ignorePins = k.sabotage.migratePinned;
  // Unmapping for nothing is costly: a look without a barrier before it, the one that counts after.
  if (!ignorePins && folioMaybeDmaPinned(k, src)) return -EBUSY;
  const order = folioOrder(k, src);
  const dst = folioAllocOrder(k, order, GFP_KERNEL);
  if (dst < 0) return -ENOMEM;
  if (!folioTrylock(k, src)) yield* folioLock(k, src);
  folioTrylock(k, dst);
  // Whoever had the lock may have split the folio: then it is no longer the one that was asked for.
  let error = folioOrder(k, src) === order ? yield* tryToMigrate(k, src) : -EAGAIN;
  if (error === 0 && folioMapcount(k, src) > 0) error = -EAGAIN;
  if (error === 0) {
    if (k.watched) yield YP_MIGRATE_UNMAPPED;
    error = yield* moveToNew(k, dst, src, ignorePins);
  }
  yield* removeMigrationPtes(k, src, error === 0 ? dst : src);
  folioUnlockFreeSwap(k, dst);
  folioUnlockFreeSwap(k, src);
  if (error === 0) folioAddLru(k, dst);
  // The entries and the cache hold the new folio now; or nobody does, and it is freed.
  folioPut(k, dst);
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
