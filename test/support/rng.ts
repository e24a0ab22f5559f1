/** Seeded random numbers for tests: mulberry32. The same seed gives the same sequence everywhere. */

export interface Rng {
  /** An unsigned 32-bit number. */
  u32(): number;
  /** A whole number in [0, n). */
  below(n: number): number;
  /** True with probability `p`. */
  chance(p: number): boolean;
  /** One of the items. */
  pick<T>(items: readonly T[]): T;
  /** 64 random bits, as an unsigned value. */
  u64(): bigint;
}

/** A generator that starts from a 32-bit seed. */
export const rng = (seed: number): Rng => {
  let state = seed | 0;
  const u32 = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (t ^ (t >>> 14)) >>> 0;
  };
  const below = (n: number): number => Math.floor((u32() / 2 ** 32) * n);
  return {
    u32,
    below,
    chance: (p) => u32() / 2 ** 32 < p,
    pick: (items) => {
      const item = items[below(items.length)];
      if (item === undefined) throw new RangeError('pick from an empty list');
      return item;
    },
    u64: () => (BigInt(u32()) << 32n) | BigInt(u32()),
  };
};
