/**
 * The random driver with provenance on: at every moment of rest each reference and each pin of the
 * whole host has an owner by name (I11), and every pin keeps its promises page by page (I2, I4, I13).
 */
import { describe, expect, it } from 'vitest';
import { noteReleasePage } from '../../mm/provenance/provenance.ts';
import { createRandomDriver } from './random/setup.ts';

const OPERATIONS = 2500;
const STEPS_TO_REST = 250;

describe('every reference has an owner', () => {
  for (const policy of ['target', 'linux-7'] as const)
    for (const seed of [1, 2])
      it(`policy ${policy}, seed ${seed}`, () => {
        const driver = createRandomDriver({ seed, policy, provenance: true });
        for (let step = 1; driver.begun < OPERATIONS; step++) {
          driver.step();
          if (step % STEPS_TO_REST !== 0) continue;
          driver.drain();
          expect(driver.violations(true)).toEqual([]);
        }
        const provenance = driver.k.state.provenance!;
        expect(provenance.calls).toBeGreaterThan(100);
        expect(driver.finish()).toEqual([]);
        expect(provenance.unmatched).toBe(0);
        expect([...provenance.holds.keys()]).toEqual([]);
      });

  it('a record that goes while the page is still held is found', () => {
    const driver = createRandomDriver({ seed: 3, policy: 'linux-7', provenance: true });
    const { k } = driver;
    const held = (): [number, 'get' | 'pin'] | undefined => {
      for (const [page, holds] of k.state.provenance!.holds)
        if (page !== k.state.zeroPage) return [page, holds[0]!.kind];
      return undefined;
    };
    // What is held only for a moment is gone when every path has ended.
    do {
      driver.step();
      if (held() !== undefined) driver.drain();
    } while (held() === undefined);
    expect(driver.violations(true)).toEqual([]);
    const [page, kind] = held()!;
    noteReleasePage(k, kind, page, 1);
    expect(driver.violations(true).join('\n')).toMatch(/^I11 /m);
  });
});
