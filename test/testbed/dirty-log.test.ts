/** Dirty logs of every kind under a guest that fights: what a log calls clean has not changed. */
import { describe, expect, it } from 'vitest';
import { FIGHT_GAPS, hostReport } from '#testbed';
import { bootFight, runUntilLine } from '../support/fight.ts';

const MIB = 2 ** 20;

describe('harvests of the dirty log', () => {
  for (const dirtyLog of ['bitmap', 'manual', 'ring'] as const)
    it(`by ${dirtyLog}: no write is missed while the host moves what is written`, () => {
      const activity = { ...FIGHT_GAPS, harvest: 60_000 };
      const guests = [{ name: 'memwalk', memoryBytes: 40 * MIB, harts: 1, activity, dirtyLog }];
      const machine = bootFight({ seed: 4, policy: 'linux-7', guests });
      expect(runUntilLine(machine, /MISMATCH/, 2e6)).toBeUndefined();
      const [guest] = hostReport(machine, 'limit', 1).guests;
      const harvest = guest?.activity['harvest'] ?? {};
      expect(harvest['missedByLog']).toBeUndefined();
      expect(harvest['cleanPagesChecked']).toBeGreaterThan(10);
      expect(machine.guests[0]!.vm.stat.dirtyPages).toBeGreaterThan(300);
      expect((harvest['ringHarvests'] ?? 0) > 0).toBe(dirtyLog === 'ring');
      machine.tearDown();
      expect(machine.violations).toEqual([]);
    });
});
