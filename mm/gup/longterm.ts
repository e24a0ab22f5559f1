/**
 * FOLL_LONGTERM: before a pin without time limit, pages move to where they may stay. Compare mm/gup.c,
 * check_and_migrate_movable_pages_or_folios().
 *
 * Everything is pinned first, and then looked at. If a page is where it has to be able to move away
 * (folioIsLongtermPinnable()), all pins of the call are given back, what can be isolated is migrated,
 * and everything is pinned anew, without a limit: only a folio that has been isolated and does not
 * move ends it. Meanwhile the task allocates nothing where pages have to be able to move.
 *
 *   pin all ---> all may stay ---> done
 *    ^  |
 *    |  v
 *    |  isolate those that may not; those that cannot be isolated are met again
 *    |  |
 *    |  v
 *    +-- unpin all, migrate ---> one does not move: -ENOMEM
 *
 * A migration fails while anybody has a reference, a batch of LRU lists too: the policy says how much
 * is done about that (longtermDrain).
 */
import { readOnce } from '#cells';
import { migrateDeviceCoherent } from '../compact/device.ts';
import { migratePages, putbackMovable } from '../compact/migrate.ts';
import { EAGAIN, ENOMEM } from '../errno.ts';
import {
  folioExpectedRefs,
  folioGet,
  folioOf,
  folioRefCount,
  folioTestFlags,
} from '../folio/folio.ts';
import { folioIsLongtermPinnable, GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { PG_DEVICE_COHERENT, PG_HUGETLB, PG_LRU } from '../frames/table.ts';
import { isolateHugetlb } from '../hugetlb/migrate.ts';
import { folioMayBeLruCached, lruAddDrain, lruAddDrainAll } from '../lru/batch.ts';
import { folioIsolateLru } from '../lru/isolate.ts';
import { type Path, YP_LONGTERM_UNPINNED, YP_LONGTERM_WAIT, YP_WAIT } from '../path.ts';
import { memallocPinBegin, memallocPinEnd } from '../signal.ts';
import type { Kernel } from '../types.ts';

/** Gives the pins of pages[0 .. n) back; entries of -1 are skipped. */
type Unpin = (k: Kernel, pages: Int32Array, n: number) => void;

/** With longtermDrain 'wait': yields for which a migration waits for references to go. */
const WAIT_YIELDS = 64;

/**
 * Runs a path as one task whose allocations are for pages that will be pinned for long
 * (memalloc_pin_save()): the others that run between two of its steps are not.
 */
export function* memallocPinScope<T>(k: Kernel, path: Path<T>): Path<T> {
  for (;;) {
    // As before when the step is over: nobody else ever sees it.
    memallocPinBegin(k);
    let step: IteratorResult<number, T>;
    try {
      step = path.next();
    } finally {
      memallocPinEnd(k);
    }
    if (step.done === true) return step.value;
    yield step.value;
  }
}

/**
 * References of a folio that are neither mappings nor caches nor pins: a batch's, or somebody's who
 * will let go. Of a small folio pins are a multiple of 1024 references.
 */
const strangeRefs = (k: Kernel, folio: number): number =>
  (folioRefCount(k, folio) % GUP_PIN_COUNTING_BIAS) - folioExpectedRefs(k, folio);

/** What has been drained by one collection: nothing, this CPU's batches, those of all. */
const DRAINED_NONE = 0;
const DRAINED_OWN = 1;
const DRAINED_ALL = 2;

/**
 * Batches that may hold a folio are drained, at most once in a collection, as far as the policy goes.
 * @returns DRAINED_*, from now on
 */
const drainFor = (k: Kernel, folio: number, drained: number): number => {
  const { longtermDrain } = k.policy;
  if (drained === DRAINED_ALL || longtermDrain === 'none') return drained;
  if (longtermDrain === 'not-lru') {
    if (folioTestFlags(k, folio, PG_LRU)) return drained;
    lruAddDrainAll(k);
    return DRAINED_ALL;
  }
  if (!folioMayBeLruCached(k, folio)) return drained;
  let now = drained;
  if (now === DRAINED_NONE && strangeRefs(k, folio) > 0) {
    lruAddDrain(k);
    now = DRAINED_OWN;
  }
  if (now === DRAINED_OWN && strangeRefs(k, folio) > 0) {
    lruAddDrainAll(k);
    now = DRAINED_ALL;
  }
  return now;
};

/** What a collection has found: folios that may not stay, and those of them that nobody could isolate. */
interface Unpinnable {
  collected: number;
  stuck: number;
  /** Isolated. */
  movable: number[];
}

/**
 * Finds the folios among pages[0 .. n) that may not stay, and isolates what can be. Compare
 * collect_longterm_unpinnable_folios()
 */
const collectUnpinnable = (k: Kernel, pages: Int32Array, n: number): Unpinnable => {
  const found: Unpinnable = { collected: 0, stuck: 0, movable: [] };
  let drained = DRAINED_NONE;
  let before = -1;
  for (let i = 0; i < n; i++) {
    const folio = folioOf(k, pages[i]!);
    if (folio === before) continue;
    before = folio;
    if (folioIsLongtermPinnable(k, folio)) continue;
    found.collected++;
    const flags = readOnce(k.state.frames.flags, folio);
    if ((flags & PG_DEVICE_COHERENT) !== 0) continue;
    const hugetlb = (flags & PG_HUGETLB) !== 0;
    if (!hugetlb) drained = drainFor(k, folio, drained);
    const isolated = hugetlb ? isolateHugetlb(k, folio) : folioIsolateLru(k, folio);
    if (isolated) found.movable.push(folio);
    else if (!found.movable.includes(folio)) found.stuck++;
  }
  return found;
};

/** Coherent memory of devices moves one by one, its pin turned into a plain reference. @returns 0 or -EBUSY */
function* migrateCoherent(k: Kernel, pages: Int32Array, n: number, unpin: Unpin): Path<number> {
  for (let i = 0; i < n; i++) {
    const page = pages[i]!;
    if (!folioTestFlags(k, folioOf(k, page), PG_DEVICE_COHERENT)) continue;
    folioGet(k, page);
    unpin(k, pages.subarray(i, i + 1), 1);
    pages[i] = -1;
    const error = yield* migrateDeviceCoherent(k, page);
    if (error !== 0) return error;
  }
  return 0;
}

/** With longtermDrain 'wait': until nobody but its entries, caches and the isolation holds the folio, but not for ever. */
function* waitForReferences(k: Kernel, folio: number): Path<void> {
  for (let i = 0; i < WAIT_YIELDS && k.watched; i++) {
    if (folioRefCount(k, folio) <= folioExpectedRefs(k, folio) + 1) return;
    yield YP_LONGTERM_WAIT;
  }
}

/**
 * Gives all pins back, and moves what has been isolated.
 * @returns -EAGAIN: everything is to be pinned again; -EBUSY: coherent memory of a device stays where
 *   it is; -ENOMEM: a folio has not moved. Compare migrate_longterm_unpinnable_folios()
 */
function* migrateUnpinnable(
  k: Kernel,
  pages: Int32Array,
  n: number,
  movable: readonly number[],
  unpin: Unpin,
): Path<number> {
  const stays = yield* migrateCoherent(k, pages, n, unpin);
  unpin(k, pages, n);
  if (stays !== 0) {
    for (const folio of movable) putbackMovable(k, folio);
    return stays;
  }
  if (k.watched) yield YP_LONGTERM_UNPINNED;
  if (k.policy.longtermDrain === 'wait')
    for (const folio of movable) yield* waitForReferences(k, folio);
  const { failed } = yield* migratePages(k, movable, GFP_KERNEL, 'longterm-pin');
  return failed.length > 0 ? -ENOMEM : -EAGAIN;
}

/**
 * May all of the pinned pages stay for ever? If not, they are unpinned, and moved.
 * @param pages entries of pages[0 .. n) are pages or folios, pinned once each; used up where it is not 0
 * @param unpin gives them back
 * @returns 0: they may, and are pinned; -EAGAIN: pin them again; -EBUSY, -ENOMEM
 */
export function* checkAndMigrateMovable(
  k: Kernel,
  pages: Int32Array,
  n: number,
  unpin: Unpin,
): Path<number> {
  const { collected, stuck, movable } = collectUnpinnable(k, pages, n);
  if (collected === 0) return 0;
  const outcome = yield* migrateUnpinnable(k, pages, n, movable, unpin);
  // In a batch, or somebody else's: nothing that is done here changes that. Linux spins.
  if (outcome === -EAGAIN && stuck > 0) yield YP_WAIT;
  return outcome;
}

/** Does anything of pages[0 .. n) have to move? Without a path, for the usual case that nothing does. */
export const allLongtermPinnable = (k: Kernel, pages: Int32Array, n: number): boolean => {
  for (let i = 0; i < n; i++) if (!folioIsLongtermPinnable(k, folioOf(k, pages[i]!))) return false;
  return true;
};
