/** Swap and KSM among everything else: paths interleaved by the seed, against a shadow of memory and the sanitizer. */
import { describe, expect, it } from 'vitest';
import { swapon } from '../../mm/swap/slots.ts';
import { createWorld, freeOf, pinsLive } from './gup-world.ts';
import { RandomDriver } from './random-driver.ts';

const STEPS = 30_000;
const SLOTS = 200;

describe('random interleavings with swapping out and merging', () => {
  for (const { seed, also, ramBytes, nrSlots } of [
    { seed: 11, also: { swap: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 12, also: { swap: true }, ramBytes: 256 << 10, nrSlots: 12 },
    { seed: 13, also: { ksm: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 14, also: { swap: true, ksm: true }, ramBytes: 4 << 20, nrSlots: SLOTS },
    { seed: 15, also: { swap: true, ksm: true }, ramBytes: 320 << 10, nrSlots: 20 },
  ])
    it(`seed ${seed}, ${Object.keys(also).join(' and ')}, ${ramBytes >> 10} KiB, ${nrSlots} slots: every byte as stored, no violation, nothing leaked`, () => {
      const k = createWorld('linux-7', ramBytes);
      swapon(k, nrSlots);
      const free = freeOf(k);
      const driver = new RandomDriver(k, seed, also);
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
      expect(k.state.swap.nrFree).toBe(nrSlots);
      expect(k.state.ksm.nodes).toEqual([]);
      if (also.swap) expect(driver.counts.get('reclaimed')).toBeGreaterThan(100);
      if (also.ksm) expect(driver.counts.get('merged')).toBeGreaterThan(20);
    });
});
