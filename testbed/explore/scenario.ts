/**
 * What a scenario is: a small piece of the kernel, the actors that meet in it, and what has to be
 * true when they have all ended. How to write one is in docs/explore.md.
 */
import type { PhysMemory } from '#emu';
import type { Sabotage } from '#mm';
import type { MemoryModel } from '#cells/explorer';

/** Where an actor stopped: a yield point of the kernel (YP_*), or what a scenario says of its own. */
export type Point = number | string;

/** One CPU's or one device's part: it can be stopped wherever it yields. */
export type ActorPath = Generator<Point, void, undefined>;

export interface Actor {
  name: string;
  path: ActorPath;
}

/** One run through the scenario, from its beginning. What the actors share outside of cells begins anew. */
export interface Play {
  actors: readonly Actor[];
  /** Judges after every step. @returns what is wrong, or null */
  invariant?: () => string | null;
  /** Judges when all actors have ended and every store is in memory. @returns what is wrong, or null */
  check: () => string | null;
}

/** A word whose value is shown beside the steps that change it. */
export interface WatchedWord {
  name: string;
  words: Int32Array;
  index: number;
  show: (value: number) => string;
}

/** The same of what is no word. */
export interface WatchedValue {
  name: string;
  /** As it is now; changes nothing. */
  read: () => string;
}

/** The state in which every run begins. */
export interface Stage {
  /** Everything that runs change, but RAM, as plain data: looked at to see that it was all taken back. */
  roots: () => unknown;
  memory: PhysMemory | null;
  watched: readonly (WatchedWord | WatchedValue)[];
  /** Actors and judges of one run. Changes nothing by itself. */
  start: () => Play;
}

/** How a search has to end. */
export type Ending = 'holds' | 'breaks';

/** The scenario with everything right, or with one rule taken away. */
export interface Variant {
  name: string;
  /** What is left out, in a few words. */
  title: string;
  declared: Ending;
  sabotage: Partial<Sabotage>;
  /** Actors whose smpMb() does nothing. */
  withoutBarriers: readonly string[];
}

export interface Scenario {
  name: string;
  title: string;
  model: MemoryModel;
  /** Preemptions that are tried unless the user says otherwise. */
  bound: number;
  variants: readonly Variant[];
  build: (variant: Variant) => Stage;
}
