/**
 * The cache lines of persistent memory whose bytes are newer than the media: of each the stores that
 * the media may lack, in the order in which caches saw them.
 *
 * A store is kept as what its 8-byte unit held afterwards. Within a line the media can have any prefix
 * of the stores, since a line is written back as a whole; a unit is never torn.
 */

/** Bytes of a cache line: what CBO instructions work on. */
export const PERSIST_LINE_BYTES = 64;
export const PERSIST_LINE_SHIFT = 6;
/** Bytes that reach the media together or not at all, when they are aligned. */
export const PERSIST_UNIT_BYTES = 8;

/** Numbers that a store has in a line's log: its event, its hart, its unit, and what that held, low and high. */
const STORE_WORDS = 5;
const AT_EVENT = 0;
const AT_HART = 1;
const AT_UNIT = 2;
const AT_LO = 3;
const AT_HI = 4;

/** A line that is newer than the media. */
export class PendingLine {
  /** What the line holds. */
  readonly now: Int32Array;
  /** STORE_WORDS a store. */
  log: number[];

  constructor() {
    this.now = new Int32Array(PERSIST_LINE_BYTES / 4);
    this.log = [];
  }

  get nrStores(): number {
    return this.log.length / STORE_WORDS;
  }

  push(event: number, hart: number, unit: number, lo: number, hi: number): void {
    this.now[unit * 2] = lo;
    this.now[unit * 2 + 1] = hi;
    this.log.push(event, hart, unit, lo, hi);
  }

  /** Takes a log as it was saved; `now` holds what the media has. */
  restore(log: readonly number[]): void {
    this.log = log.slice();
    this.apply(this.now, 0, this.nrStores);
  }

  /** How many stores, from the first, are not younger than an event. */
  storesUpTo(event: number): number {
    let n = this.nrStores;
    while (n > 0 && this.log[(n - 1) * STORE_WORDS + AT_EVENT]! > event) n--;
    return n;
  }

  /** How many stores, from the first, up to the last one of a hart. */
  storesUpToHart(hart: number): number {
    let n = this.nrStores;
    while (n > 0 && this.log[(n - 1) * STORE_WORDS + AT_HART] !== hart) n--;
    return n;
  }

  /** Carries the first `n` stores out on the words of a line, which begin at `word`. */
  apply(words: Int32Array, word: number, n: number): void {
    const { log } = this;
    for (let at = 0; at < n * STORE_WORDS; at += STORE_WORDS) {
      const to = word + log[at + AT_UNIT]! * 2;
      words[to] = log[at + AT_LO]!;
      words[to + 1] = log[at + AT_HI]!;
    }
  }

  /** Forgets the first `n` stores. */
  drop(n: number): void {
    this.log = n * STORE_WORDS >= this.log.length ? [] : this.log.slice(n * STORE_WORDS);
  }
}

/** A line as it is saved. */
export interface PendingLineState {
  line: number;
  log: number[];
}
