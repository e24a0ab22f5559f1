/**
 * The seeded random numbers behind every choice of a run: xoshiro128** (Blackman and Vigna), with
 * a state that can be saved.
 */

/** Four 32-bit words, never all zero. */
export type RngState = [number, number, number, number];

export class Rng {
  private state: RngState;

  /** @param seed any integer; equal seeds give equal sequences */
  constructor(seed: number) {
    // splitmix32 spreads a small seed over the whole state.
    let z = seed | 0;
    const next = (): number => {
      z = (z + 0x9e3779b9) | 0;
      let t = z ^ (z >>> 16);
      t = Math.imul(t, 0x21f0aaad);
      t ^= t >>> 15;
      t = Math.imul(t, 0x735a2d97);
      return (t ^ (t >>> 15)) | 0;
    };
    this.state = [next(), next(), next(), next() | 1];
  }

  /** The next 32 bits, unsigned. */
  next(): number {
    const s = this.state;
    const times5 = Math.imul(s[1], 5);
    const result = Math.imul((times5 << 7) | (times5 >>> 25), 9);
    const t = s[1] << 9;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = (s[3] << 11) | (s[3] >>> 21);
    return result >>> 0;
  }

  /** Uniform in [0, bound). */
  below(bound: number): number {
    return Math.floor((this.next() / 2 ** 32) * bound);
  }

  /** Uniform in [low, high], both included. */
  between(low: number, high: number): number {
    return low + this.below(high - low + 1);
  }

  /** True `percent` times in a hundred. */
  chance(percent: number): boolean {
    return this.below(100) < percent;
  }

  save(): RngState {
    return [...this.state];
  }

  restore(state: RngState): void {
    this.state = [...state];
  }
}
