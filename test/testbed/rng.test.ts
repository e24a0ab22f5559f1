/** The random numbers of a run: fixed for ever by the seed, and saved with the machine. */
import { describe, expect, it } from 'vitest';
import { Rng } from '#testbed';

const take = (rng: Rng, count: number): number[] => Array.from({ length: count }, () => rng.next());

describe('xoshiro128**', () => {
  it("gives the authors' reference values from the state 1, 2, 3, 4", () => {
    const rng = new Rng(0);
    rng.restore([1, 2, 3, 4]);
    expect(take(rng, 10)).toEqual([
      11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597,
      4258142804,
    ]);
  });

  it('a seed means the same numbers in every version: traces are compared across them', () => {
    expect(take(new Rng(0), 4)).toEqual([1789933344, 44971166, 2521392804, 3836935353]);
    expect(take(new Rng(1), 4)).toEqual([393288148, 2174103013, 3814759091, 2092745082]);
  });

  it('goes on where it was saved, as often as it is restored', () => {
    const rng = new Rng(9);
    take(rng, 5);
    const state = rng.save();
    const straight = take(rng, 100);
    for (let time = 0; time < 2; time++) {
      const other = new Rng(0);
      other.restore(state);
      expect(take(other, 100)).toEqual(straight);
    }
  });

  it('below, between and chance stay within their bounds and reach them', () => {
    const rng = new Rng(5);
    const seen = new Set<number>();
    for (let i = 0; i < 1000; i++) seen.add(rng.below(3)).add(rng.between(10, 12));
    expect([...seen].sort((a, b) => a - b)).toEqual([0, 1, 2, 10, 11, 12]);
    const hits = Array.from({ length: 10_000 }, () => rng.chance(25)).filter(Boolean).length;
    expect(hits).toBeGreaterThan(2300);
    expect(hits).toBeLessThan(2700);
    expect(rng.chance(0)).toBe(false);
    expect(rng.chance(100)).toBe(true);
  });
});
