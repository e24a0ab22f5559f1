/**
 * Pin against try-share: two sides that each write one word and then read the other's (Dekker).
 *
 *   GUP-fast                               whoever ends exclusiveness: swap, migration, KSM
 *   refcount of the page += 1024           entry of the page = none
 *   smp_mb()                               smp_mb()
 *   entry still the same? then pinned      refcount below 1024? then no longer exclusive
 *
 * With both barriers at least one of them sees the other. Without either, its write can wait in a
 * store buffer while it reads: both go on, and the next write to the page makes a copy that the
 * device does not see. The kernel's own callers do more than the two lines under one page-table lock,
 * some of it with atomics that are barriers by themselves; here the sharer does nothing else, and
 * can be stopped at each of them.
 */
import { FOLL_NOFAULT, FOLL_WRITE, pinUserPagesFast } from '#mm/driver-api';
import {
  drive,
  folioTryShareAnonRmap,
  pteMkclean,
  ptepGet,
  ptepGetAndClear,
  pteWrprotect,
  setPteAt,
} from '#mm';
import type { ActorPath, Play, Scenario, Stage, Variant } from '../scenario.ts';
import {
  createExploredWorld,
  type ExploredWorld,
  frameWord,
  pinnedStaysExclusive,
  rootsOf,
  storePath,
  watchedOf,
} from '../world.ts';

const OLD = 1;
const NEW = 2;

interface Notes {
  /** The page that the pinner holds, -1 = none. */
  pinned: number;
}

/** FOLL_NOFAULT: without a fault that would bring the page back, the fast way is the only one. */
function* pinner(w: ExploredWorld, notes: Notes): ActorPath {
  const pages = new Int32Array(1);
  const n = yield* pinUserPagesFast(w.k, w.mm, w.hva, 1, FOLL_WRITE | FOLL_NOFAULT, pages);
  if (n !== 1) return;
  notes.pinned = pages[0]!;
  yield 'has pinned the page';
}

/**
 * Under the page-table lock in Linux, which GUP-fast does not take. The entry comes back read-only,
 * as from swap. Compare mm/rmap.c:try_to_unmap_one().
 */
function* sharer(w: ExploredWorld): ActorPath {
  const pte = ptepGetAndClear(w.k, w.entry);
  yield 'has cleared the entry';
  if (folioTryShareAnonRmap(w.k, w.page) !== 0) {
    yield 'has found a pin';
    setPteAt(w.k, w.entry, pte);
    return;
  }
  yield 'has found no pin, the page is not exclusive any more';
  setPteAt(w.k, w.entry, pteWrprotect(pte));
}

/** I2, and I4 by a byte: what the process writes, the device must see. */
const judge = (w: ExploredWorld, { pinned }: Notes): string | null => {
  if (pinned < 0) return null;
  const wrong: string[] = [];
  const shared = pinnedStaysExclusive(w.k, pinned);
  if (shared !== null) wrong.push(shared);
  drive(storePath(w.k, w.mm, w.hva, NEW));
  if (frameWord(w.k, pinned, 0) !== NEW)
    wrong.push('I4: the device does not see what the process writes');
  return wrong.length === 0 ? null : wrong.join('; ');
};

const build = (variant: Variant): Stage => {
  const w = createExploredWorld(variant.sabotage, OLD);
  // Written back, or swapped in again: nothing of the entry has to be told to the folio first.
  setPteAt(w.k, w.entry, pteMkclean(ptepGet(w.k, w.entry)));
  return {
    roots: () => rootsOf(w),
    memory: w.k.memory,
    watched: watchedOf(w),
    start: (): Play => {
      const notes: Notes = { pinned: -1 };
      return {
        actors: [
          { name: 'pinner', path: pinner(w, notes) },
          { name: 'sharer', path: sharer(w) },
        ],
        check: () => judge(w, notes),
      };
    },
  };
};

export const pinShare: Scenario = {
  name: 'pin-share',
  title: 'the pin against the end of exclusiveness: one of the two sees the other',
  model: 'tso',
  bound: 5,
  build,
  variants: [
    { name: 'right', title: 'as it is', declared: 'holds', sabotage: {}, withoutBarriers: [] },
    {
      name: 'no-pin-barrier',
      title: 'no smp_mb() between counting the pin and reading the entry again',
      declared: 'breaks',
      sabotage: {},
      withoutBarriers: ['pinner'],
    },
    {
      name: 'no-share-barrier',
      title: 'no smp_mb() between clearing the entry and looking at the pins',
      declared: 'breaks',
      sabotage: {},
      withoutBarriers: ['sharer'],
    },
    {
      name: 'no-recheck',
      title: 'GUP-fast does not read the entry again',
      declared: 'breaks',
      sabotage: { gupFastSkipsRecheck: true },
      withoutBarriers: [],
    },
  ],
};
