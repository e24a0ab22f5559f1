/**
 * The four rules whose absence the fight must notice: each is taken away alone, and a guest then finds
 * bytes that are not what it or its device wrote. With all of them nothing is lost.
 */
import { describe, expect, it } from 'vitest';
import type { Sabotage } from '#mm';
import { bootFight, fightOf, runUntilLine } from '../support/fight.ts';

const LIMIT = 120e6;

const cases: { rule: string; sabotage: Partial<Sabotage>; guest: 'memwalk' | 'dmacopy' }[] = [
  {
    rule: 'the TLB flush of the notifier (no entry may outlive end())',
    sabotage: { notifierKeepsTlb: true },
    guest: 'memwalk',
  },
  {
    rule: 'the look at the invalidate sequence before a fault installs its page',
    sabotage: { faultSkipsRetry: true },
    guest: 'memwalk',
  },
  {
    rule: 'the copy of pinned pages at fork',
    sabotage: { forkSharesPinned: true },
    guest: 'dmacopy',
  },
  {
    rule: 'the refusal to migrate a pinned folio',
    sabotage: { migratePinned: true },
    guest: 'dmacopy',
  },
];

describe('a guest loses bytes when the host leaves out', () => {
  for (const { rule, sabotage, guest } of cases)
    it(rule, { timeout: 120_000 }, () => {
      const machine = bootFight(fightOf(guest, 1), { sabotage });
      const wrong = runUntilLine(machine, /MISMATCH/, LIMIT);
      const { end } = machine.guests[0]!;
      // Wrong bytes; or its own code, stack or tables are among them, and it fails altogether.
      const failed = end !== null && !(end.kind === 'shutdown' && end.resetReason === 0);
      expect(wrong !== undefined || failed).toBe(true);
    });
});
