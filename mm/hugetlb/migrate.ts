/**
 * Migration of hugetlb folios, whole, 2 MiB or 1 GiB: to a page that the pool has left over, or to one
 * beyond it. Compare mm/migrate.c:unmap_and_move_huge_folio(), mm/hugetlb.c:folio_isolate_hugetlb().
 *
 * As of other folios, with the pool's active list (PG_MIGRATABLE) in the place of the LRU. What a
 * mapping was promised does not change hands: promises are by place in the file, and a folio that is
 * in use has none left to give back (PG_RESTORE_RESERVE).
 */
import { cmpxchg, mapSet, readOnce, writeOnce } from '#cells';
import { expectedRefs, heldBy } from '../compact/move.ts';
import { EAGAIN, EBUSY, EHWPOISON, ENOMEM } from '../errno.ts';
import {
  folioClearFlags,
  folioGet,
  folioLock,
  folioMapcount,
  folioPut,
  folioRefCount,
  folioSetFlags,
  folioSetMapping,
  folioTestFlags,
  folioTryGet,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { folioMaybeDmaPinned } from '../folio/pin.ts';
import {
  PG_ANON,
  PG_DIRTY,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_MIGRATABLE,
  PG_REFERENCED,
  PG_SWAPBACKED,
  PG_TEMPORARY,
  PG_UPTODATE,
} from '../frames/table.ts';
import { type Path, YP_MIGRATE_COPIED, YP_MIGRATE_UNMAPPED } from '../path.ts';
import { removeHugetlbMigrationPtes, tryToMigrateHugetlb } from '../rmap/hugetlb.ts';
import { folioMapping } from '../rmap/rmap.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { copyHugeFolio } from './alloc.ts';
import { allocHugetlbTarget } from './pool.ts';

/** Flags that go with the contents. The exclusive flag travels in the migration entries. */
const MIGRATED_FLAGS = PG_REFERENCED | PG_UPTODATE | PG_DIRTY | PG_SWAPBACKED | PG_ANON;

/**
 * Takes a huge page that is in use off its pool's active list, with a reference: nobody else will
 * migrate it. @returns false: free, on its way to its first user, isolated, or no hugetlb at all
 */
export const isolateHugetlb = (k: Kernel, folio: number): boolean => {
  if (!folioTestFlags(k, folio, PG_HUGETLB | PG_MIGRATABLE) || !folioTryGet(k, folio)) return false;
  folioClearFlags(k, folio, PG_MIGRATABLE);
  folioSetFlags(k, folio, PG_ISOLATED);
  return true;
};

/**
 * Ends an isolation, whether the folio has moved or not: back to the active list, or to the pool if
 * nobody has it any more.
 */
export const putbackHugetlb = (k: Kernel, folio: number): void => {
  folioClearFlags(k, folio, PG_ISOLATED);
  folioSetFlags(k, folio, PG_MIGRATABLE);
  folioPut(k, folio);
};

/**
 * Moves an isolated hugetlb folio to a fresh one. The caller puts the old one back afterwards, in any
 * case: that ends its isolation, and frees it if it has moved.
 * @param wait for its lock; otherwise that is -EAGAIN
 * @returns 0: it has moved, or everybody else has let go of it; -EBUSY pinned; -EAGAIN referenced by
 *   somebody who may let go soon; -ENOMEM neither the pool nor the buddy allocator has a page; -EHWPOISON
 */
export function* unmapAndMoveHugetlb(k: Kernel, src: number, wait: boolean): Path<number> {
  const ignorePins = k.sabotage.migratePinned;
  if (folioRefCount(k, src) === 1) return 0;
  if (!ignorePins && folioMaybeDmaPinned(k, src)) return -EBUSY;
  const dst = allocHugetlbTarget(k, src);
  if (dst < 0) return -ENOMEM;
  if (!folioTrylock(k, src)) {
    if (!wait) {
      folioPut(k, dst);
      return -EAGAIN;
    }
    yield* folioLock(k, src);
  }
  folioTrylock(k, dst);
  let error = folioTestFlags(k, src, PG_HWPOISON) ? -EHWPOISON : yield* tryToMigrateHugetlb(k, src);
  if (error === 0 && folioMapcount(k, src) > 0) error = -EAGAIN;
  if (error === 0) {
    if (k.watched) yield YP_MIGRATE_UNMAPPED;
    error = yield* moveToNew(k, dst, src, ignorePins);
  }
  removeHugetlbMigrationPtes(k, src, error === 0 ? dst : src);
  folioUnlock(k, dst);
  if (error === 0) moveState(k, dst, src);
  folioUnlock(k, src);
  // The entries and the cache hold the new folio now; or nobody does, and it is free.
  folioPut(k, dst);
  return error;
}

/** The new one stays, and the old one will be freed: that is temporary now. Compare move_hugetlb_state(). */
const moveState = (k: Kernel, dst: number, src: number): void => {
  if ((folioClearFlags(k, dst, PG_TEMPORARY) & PG_TEMPORARY) !== 0)
    folioSetFlags(k, src, PG_TEMPORARY);
  folioSetFlags(k, dst, PG_MIGRATABLE);
};

/** Copies, and puts the new folio in the old one's place. Both are locked, the old one is unmapped. */
function* moveToNew(k: Kernel, dst: number, src: number, ignorePins: boolean): Path<number> {
  const expected = expectedRefs(k, src);
  if (!ignorePins && folioRefCount(k, src) !== expected) return heldBy(k, src);
  copyHugeFolio(k, dst, src);
  if (k.watched) yield YP_MIGRATE_COPIED;

  const { refcount, mapping, index, flags } = k.state.frames;
  const object = folioMapping(k, src);
  const frozen = ignorePins ? folioRefCount(k, src) : expected;
  if (object?.kind === 'hugetlbfs') {
    // Frozen at 0 nobody can take a reference while the cache's entry is exchanged.
    if (cmpxchg(refcount, src, frozen, 0) !== frozen) return heldBy(k, src);
  } else if (folioRefCount(k, src) !== frozen) {
    return heldBy(k, src);
  }

  // From here there is no way back, and no yield until the new folio is whole.
  folioSetMapping(k, dst, readOnce(mapping, src), readOnce(index, src));
  folioSetFlags(k, dst, readOnce(flags, src) & MIGRATED_FLAGS);
  if (object?.kind === 'hugetlbfs') {
    replaceInCache(k, object, dst, src);
    writeOnce(refcount, src, frozen - 1);
    writeOnce(mapping, src, 0);
  }
  return 0;
}

/** The new folio takes over the one entry of the page cache, and its reference. */
const replaceInCache = (k: Kernel, object: AddressSpace, dst: number, src: number): void => {
  const pgoff = readOnce(k.state.frames.index, src);
  if (object.pages.get(pgoff) !== src)
    throw new Error(`hugetlb folio ${src} is not in its own page cache`);
  folioGet(k, dst);
  mapSet(object.pages, pgoff, dst);
};
