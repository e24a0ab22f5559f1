/** The enumeration of crash images, held against the plain product of all choices. */
import { describe, expect, it } from 'vitest';
import type { CrashChoices } from '../../../testbed/crash/choices.ts';
import {
  enumerateImages,
  type ImageReader,
  sampleImage,
  shrinkBadImage,
} from '../../../testbed/crash/enumerate.ts';
import { Rng } from '../../../testbed/rng.ts';

const UNIT = 4;

/** Units whose states are made up: byte 0 is the state, the others are the unit's number. */
const choicesOf = (states: readonly number[]): CrashChoices => ({
  sizeBytes: states.length * UNIT,
  unitBytes: UNIT,
  states: (unit) => states[unit]!,
  bytes: (unit, state) => Uint8Array.of(state, unit, unit, unit),
});

/** States of every unit. */
const statesOf = (choices: CrashChoices): number[] =>
  Array.from({ length: choices.sizeBytes / UNIT }, (_, unit) => choices.states(unit));

/** Images of the product. */
const countImages = (choices: CrashChoices): number =>
  statesOf(choices).reduce((product, states) => product * states, 1);

/** Every image of the product, by brute force. */
const allImages = (choices: CrashChoices): Uint8Array[] => {
  const images: Uint8Array[] = [];
  const total = countImages(choices);
  for (let n = 0; n < total; n++) {
    let rest = n;
    const image = new Uint8Array(choices.sizeBytes);
    for (const [unit, states] of statesOf(choices).entries()) {
      image.set(choices.bytes(unit, rest % states), unit * UNIT);
      rest = Math.floor(rest / states);
    }
    images.push(image);
  }
  return images;
};

const readerOf = (image: Uint8Array): ImageReader => ({
  sizeBytes: image.length,
  read: (offset, lenBytes) => image.slice(offset, offset + lenBytes),
});

/** A recovery that reads some units, and which ones depends on what it has read before. */
const recoveryOf =
  (seed: number, seen: Set<string>) =>
  (image: ImageReader): string | null => {
    let at = seed;
    const read: number[] = [];
    for (let i = 0; i < 4; i++) {
      const unit = Math.abs(at * 7 + i * 3) % (image.sizeBytes / UNIT);
      const state = image.read(unit * UNIT, 1)[0]!;
      read.push(unit, state);
      at = at * 5 + state + 1;
    }
    const what = read.join(' ');
    seen.add(what);
    return at % 3 === 0 ? what : null;
  };

describe('enumerating what a loss of power leaves', () => {
  it('shows recovery exactly what the product of all choices shows it, in fewer images', () => {
    const rng = new Rng(5);
    let judged = 0;
    let product = 0;
    for (let round = 0; round < 200; round++) {
      const choices = choicesOf(Array.from({ length: 2 + rng.below(6) }, () => 1 + rng.below(3)));
      const lazy = new Set<string>();
      const plain = new Set<string>();
      const result = enumerateImages(choices, recoveryOf(round, lazy), 1e6);
      const bad = new Set<string>();
      for (const image of allImages(choices)) {
        const what = recoveryOf(round, plain)(readerOf(image));
        if (what !== null) bad.add(what);
      }
      expect(result.complete).toBe(true);
      expect([...lazy].toSorted()).toEqual([...plain].toSorted());
      expect(new Set(result.bad.map(({ what }) => what))).toEqual(bad);
      expect(result.images).toBe(lazy.size); // none is judged twice
      judged += result.images;
      product += countImages(choices);
    }
    expect(judged).toBeLessThan(product / 2);
  });

  it('ends with the number of images it was given, and says that there are more', () => {
    const choices = choicesOf([2, 2, 2, 2, 2, 2]);
    const readAll = (image: ImageReader): null => {
      image.read(0, image.sizeBytes);
      return null;
    };
    expect(enumerateImages(choices, readAll, 10)).toMatchObject({ images: 10, complete: false });
    expect(enumerateImages(choices, readAll, 64)).toMatchObject({ images: 64, complete: true });
  });

  it('samples only images of the product', () => {
    const rng = new Rng(9);
    const choices = choicesOf([1, 3, 2]);
    const seen = new Set<string>();
    for (let i = 0; i < 200; i++)
      sampleImage(
        choices,
        (image) => {
          seen.add(image.read(0, image.sizeBytes).join(' '));
          return null;
        },
        (bound) => rng.below(bound),
      );
    expect(seen).toEqual(new Set(allImages(choices).map((image) => image.join(' '))));
  });

  it('shrinks a bad image until only what makes it bad is lost', () => {
    const choices = choicesOf([3, 3, 3, 3]);
    // Bad when unit 2 has not got to its last state, whatever the others have.
    const judge = (image: ImageReader): string | null => {
      image.read(0, image.sizeBytes);
      return image.read(2 * UNIT, 1)[0] === 2 ? null : 'unit 2';
    };
    const { bad } = enumerateImages(choices, judge, 1, true);
    const { decided } = shrinkBadImage(choices, judge, bad[0]!);
    expect(decided.toSorted((a, b) => a.unit - b.unit).map(({ state }) => state)).toEqual([
      2, 2, 1, 2,
    ]);
  });
});
