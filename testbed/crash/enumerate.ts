/**
 * Every image that recovery can tell apart: a unit is decided when recovery first reads it, and
 * recovery runs again with each other state that the unit can have. What it never reads is never
 * decided, so that the images are as many as there are things to be seen (compare Jaaru, ASPLOS 2021).
 */
import type { CrashChoices } from './choices.ts';

/** What recovery reads of an image. */
export interface ImageReader {
  readonly sizeBytes: number;
  /** Bytes [offset, +lenBytes), which are inside one unit or not: all are decided. */
  read(offset: number, lenBytes: number): Uint8Array;
}

/** Judges an image. @returns null: consistent; or what is wrong */
export type Judge = (image: ImageReader) => string | null;

/** An image that was judged bad. */
export interface BadImage {
  what: string;
  /** State of every unit that recovery looked at and that was open: unit, state, states. */
  decided: { unit: number; state: number; states: number }[];
}

export interface Enumeration {
  /** Images judged. */
  images: number;
  /** All that recovery can tell apart were judged. */
  complete: boolean;
  bad: BadImage[];
}

/** An image that takes shape while it is read. */
class LazyImage implements ImageReader {
  readonly sizeBytes: number;
  /** Units in the order in which they were decided, and how. */
  readonly path: { unit: number; state: number; states: number }[];
  private readonly choices: CrashChoices;
  private readonly decided: Map<number, number>;
  private readonly first: (states: number) => number;

  /**
   * @param prefix decisions that stand; those after it begin with state 0
   * @param first the first state of a unit that is not in the prefix
   */
  constructor(
    choices: CrashChoices,
    prefix: readonly { unit: number; state: number; states: number }[],
    first: (states: number) => number,
  ) {
    this.choices = choices;
    this.sizeBytes = choices.sizeBytes;
    this.path = prefix.map((decision) => ({ ...decision }));
    this.decided = new Map(prefix.map(({ unit, state }) => [unit, state]));
    this.first = first;
  }

  read(offset: number, lenBytes: number): Uint8Array {
    const { unitBytes } = this.choices;
    const out = new Uint8Array(lenBytes);
    for (let done = 0; done < lenBytes; ) {
      const unit = Math.floor((offset + done) / unitBytes);
      const within = (offset + done) % unitBytes;
      const n = Math.min(lenBytes - done, unitBytes - within);
      const bytes = this.choices.bytes(unit, this.stateOf(unit));
      out.set(bytes.subarray(within, within + n), done);
      done += n;
    }
    return out;
  }

  private stateOf(unit: number): number {
    const known = this.decided.get(unit);
    if (known !== undefined) return known;
    const states = this.choices.states(unit);
    const state = states === 1 ? 0 : this.first(states);
    this.decided.set(unit, state);
    if (states > 1) this.path.push({ unit, state, states });
    return state;
  }
}

/**
 * Judges images until all that can be told apart have been, or `most`.
 * @param stopAtBad end at the first bad image
 */
export const enumerateImages = (
  choices: CrashChoices,
  judge: Judge,
  most: number,
  stopAtBad = false,
): Enumeration => {
  const result: Enumeration = { images: 0, complete: false, bad: [] };
  let prefix: { unit: number; state: number; states: number }[] = [];
  while (result.images < most) {
    const image = new LazyImage(choices, prefix, () => 0);
    const what = judge(image);
    result.images++;
    if (what !== null) result.bad.push({ what, decided: image.path });
    if (what !== null && stopAtBad) return result;
    // The next: the last decision that has a state left takes it, what came after is open again.
    prefix = image.path;
    while (prefix.length > 0 && prefix.at(-1)!.state + 1 === prefix.at(-1)!.states) prefix.pop();
    const last = prefix.at(-1);
    if (last === undefined) {
      result.complete = true;
      return result;
    }
    last.state++;
  }
  return result;
};

/** Judges one image at random. @param below uniform in [0, bound) */
export const sampleImage = (
  choices: CrashChoices,
  judge: Judge,
  below: (bound: number) => number,
): BadImage | null => {
  const image = new LazyImage(choices, [], below);
  const what = judge(image);
  return what === null ? null : { what, decided: image.path };
};

/**
 * A bad image made as good as it can be: units that need not have lost anything have lost nothing, the
 * others as little as they can for the image to stay bad.
 */
export const shrinkBadImage = (choices: CrashChoices, judge: Judge, bad: BadImage): BadImage => {
  let best = bad;
  for (let again = true; again; ) {
    again = false;
    for (const { unit, states } of best.decided) {
      const now = best.decided.find((d) => d.unit === unit)!.state;
      for (let state = states - 1; state > now; state--) {
        const prefix = best.decided.map((d) => (d.unit === unit ? { ...d, state } : d));
        const image = new LazyImage(choices, prefix, (n) => n - 1);
        const what = judge(image);
        if (what === null) continue;
        best = { what, decided: image.path };
        again = true;
        break;
      }
    }
  }
  return best;
};
