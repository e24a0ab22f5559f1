/** Everything at once: paths interleaved by the seed, against a shadow of memory and the sanitizer. */
import { describe, expect, it } from 'vitest';
import { freeOf, createWorld, pinsLive } from './gup-world.ts';
import { RandomDriver } from './random-driver.ts';

const STEPS = 60_000;

describe('random interleavings of mmap, fork, faults, GUP, unpin, migration, write protection, exit', () => {
  for (const { seed, policy, ramBytes } of [
    { seed: 1, policy: 'linux-7', ramBytes: 4 << 20 },
    { seed: 2, policy: 'target', ramBytes: 4 << 20 },
    { seed: 3, policy: 'target', ramBytes: 256 << 10 },
  ] as const)
    it(`seed ${seed}, ${policy}, ${ramBytes >> 10} KiB: every byte as stored, no violation, nothing leaked`, () => {
      const k = createWorld(policy, ramBytes);
      const free = freeOf(k);
      const driver = new RandomDriver(k, seed);
      for (let i = 1; i <= STEPS; i++) {
        driver.step();
        if (i % 500 === 0) expect(driver.violations(false)).toEqual([]);
        if (i % 2000 === 0) {
          driver.drain();
          expect(driver.violations(true)).toEqual([]);
        }
      }
      driver.finish();
      expect(driver.violations(true)).toEqual([]);
      expect(pinsLive(k)).toBe(0);
      expect(freeOf(k)).toBe(free);
      // The driver did what its name says.
      const least = {
        store: 1000,
        load: 500,
        migrate: 500,
        fork: 20,
        exit: 20,
        dontneed: 100,
        unpin: 50,
      };
      for (const [what, n] of Object.entries(least))
        expect(driver.counts.get(what) ?? 0, what).toBeGreaterThan(n);
    });
});
