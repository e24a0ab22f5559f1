/**
 * GUP-fast against fork: a device is to write into a page while its process forks.
 *
 * Fork looks at the pins of each exclusive page under the page-table lock and then write-protects the
 * entry; GUP-fast takes no lock, so it may read the entry in between. write_protect_seq, odd from
 * before the first entry until after the last, tells it; MMF_HAS_PINNED, set before the first pin,
 * tells fork that there may be pins to look for.
 */
import { FOLL_WRITE, pinUserPagesFast, writePinnedPage } from '#mm/driver-api';
import { fork, type MmStruct } from '#mm';
import type { ActorPath, Play, Scenario, Stage, Variant } from '../scenario.ts';
import {
  createExploredWorld,
  type ExploredWorld,
  frameWord,
  loadMapped,
  mappedPage,
  pinnedStaysExclusive,
  rootsOf,
  storePath,
  watchedOf,
} from '../world.ts';

/** Words of the page: what was there, what the parent and what the device write. */
const OLD = 0x01d;
const PARENT = 0xa;
const DEVICE = 0xd;
/** Bytes of the page that each of them writes. */
const PARENT_AT = 64;
const DEVICE_AT = 128;

/** What the actors of one run leave for the judge. */
interface Notes {
  /** The page that the driver holds a pin of, -1 = none. */
  pinned: number;
  child: MmStruct | null;
  /** The device wrote when the child was there already. */
  wroteAfterFork: boolean;
  error: string | null;
}

function* driver(w: ExploredWorld, notes: Notes): ActorPath {
  const pages = new Int32Array(1);
  const n = yield* pinUserPagesFast(w.k, w.mm, w.hva, 1, FOLL_WRITE, pages);
  if (n !== 1) {
    notes.error = `pin_user_pages_fast() returned ${n}`;
    return;
  }
  notes.pinned = pages[0]!;
  yield 'has pinned the page';
  notes.wroteAfterFork = notes.child !== null;
  writePinnedPage(w.k, notes.pinned, DEVICE_AT, Uint8Array.of(DEVICE), 0, 1);
}

function* forker(w: ExploredWorld, notes: Notes): ActorPath {
  const child = yield* fork(w.k, w.mm);
  if (typeof child === 'number') {
    notes.error = `fork() returned ${child}`;
    return;
  }
  notes.child = child;
  yield 'has forked';
  const error = yield* storePath(w.k, w.mm, w.hva + PARENT_AT, PARENT);
  if (error !== 0) notes.error = `the parent's store returned ${error}`;
}

/** I2, I4 and I13, by the bytes that parent, child and device see. */
const judge = (w: ExploredWorld, notes: Notes): string | null => {
  const { k, mm, hva } = w;
  const { pinned, child, wroteAfterFork, error } = notes;
  if (error !== null || child === null) return error ?? 'no child';
  const wrong: string[] = [];
  const shared = pinnedStaysExclusive(k, pinned);
  if (shared !== null) wrong.push(shared);
  if (mappedPage(k, mm, hva) !== pinned)
    wrong.push(`I4: the pin holds page ${pinned}, the parent maps ${mappedPage(k, mm, hva)}`);
  if (loadMapped(k, mm, hva + DEVICE_AT) !== DEVICE)
    wrong.push('I4: the parent does not see what the device wrote');
  if (frameWord(k, pinned, PARENT_AT) !== PARENT)
    wrong.push('I4: the device does not see what the parent wrote');
  if (loadMapped(k, child, hva + PARENT_AT) !== 0)
    wrong.push('I13: the child sees what the parent wrote after the fork');
  if (wroteAfterFork && loadMapped(k, child, hva + DEVICE_AT) !== 0)
    wrong.push('I13: the child sees what the device wrote after the fork');
  if (loadMapped(k, child, hva) !== OLD) wrong.push('the child has lost a byte');
  return wrong.length === 0 ? null : wrong.join('; ');
};

const build = (variant: Variant): Stage => {
  const w = createExploredWorld(variant.sabotage, OLD);
  return {
    roots: () => rootsOf(w),
    memory: w.k.memory,
    watched: watchedOf(w),
    start: (): Play => {
      const notes: Notes = { pinned: -1, child: null, wroteAfterFork: false, error: null };
      return {
        actors: [
          { name: 'driver', path: driver(w, notes) },
          { name: 'forker', path: forker(w, notes) },
        ],
        check: () => judge(w, notes),
      };
    },
  };
};

export const gupFastFork: Scenario = {
  name: 'gup-fast-fork',
  title: 'GUP-fast against fork: who pins a page keeps it, and the child gets none of its bytes',
  model: 'tso',
  bound: 2,
  build,
  variants: [
    { name: 'right', title: 'as it is', declared: 'holds', sabotage: {}, withoutBarriers: [] },
    {
      name: 'no-seq',
      title: 'GUP-fast does not look at write_protect_seq',
      declared: 'breaks',
      sabotage: { gupFastSkipsSeq: true },
      withoutBarriers: [],
    },
    {
      name: 'late-has-pinned',
      title: 'MMF_HAS_PINNED is set after the pin',
      declared: 'breaks',
      sabotage: { gupFastMarksLate: true },
      withoutBarriers: [],
    },
  ],
};
