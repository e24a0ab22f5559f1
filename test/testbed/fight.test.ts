/** The main job: what it has to go through, that it loses nothing, and that its seed decides it. */
import { describe, expect, it } from 'vitest';
import { fightConfig, hostReport } from '#testbed';
import { bootFight, fightOf, runUntilLine } from '../support/fight.ts';

/** A report without what depends on the host. */
const trace = (seed: number, instructions: number): string => {
  const machine = bootFight(fightConfig(seed, 'linux-7'));
  runUntilLine(machine, /never printed/, instructions);
  const { host: _host, ...rest } = hostReport(machine, 'limit', 1);
  return JSON.stringify(rest);
};

describe('the fight', () => {
  it('is one at least: strikes on what TLBs hold and DMA needs, retries, pins; nothing lost', {
    timeout: 180_000,
  }, () => {
    const machine = bootFight(fightConfig(1, 'linux-7'), { checked: true });
    runUntilLine(machine, /MISMATCH/, 400e6);
    machine.tearDown();
    const report = hostReport(machine, null, 1);
    expect(report.guests.map((g) => g.output.at(-1))).toEqual(['memwalk: ok', 'dmacopy: ok']);
    expect(report.sanitizer.violations).toEqual([]);
    expect(report.ok).toBe(true);
    const [memwalk, dmacopy] = report.guests;
    const inTlb = (g: typeof memwalk): number =>
      (g?.activity['migrate']?.['movedFromTlb'] ?? 0) + (g?.protectionsInTlb ?? 0);
    expect(inTlb(memwalk) + inTlb(dmacopy)).toBeGreaterThan(1000);
    const underDma = dmacopy?.activity['protect']?.['underDma'] ?? 0;
    const refused = dmacopy?.activity['migrate']?.['refusedPinned'] ?? 0;
    expect(underDma + refused).toBeGreaterThan(1000);
    for (const g of report.guests) {
      expect(g.gstageFaults.retries).toBeGreaterThan(0);
      expect(g.activity['fork']?.['childCorrupted']).toBeUndefined();
      expect(g.activity['harvest']?.['missedByLog']).toBeUndefined();
    }
    const { kernel } = report;
    expect(kernel['nr_foll_pin_acquired']).toBeGreaterThan(1000);
    expect(kernel['nr_foll_pin_released']).toBe(kernel['nr_foll_pin_acquired']);
    expect(kernel['fork_copied_pinned']).toBeGreaterThan(0);
  });

  it('the same seed gives the same trace, to the byte', () => {
    expect(trace(3, 3e6)).toBe(trace(3, 3e6));
  });

  it('another seed gives other host activity', () => {
    expect(trace(3, 3e6)).not.toBe(trace(4, 3e6));
  });

  for (const policy of ['linux-6.5', 'target'] as const)
    it(`loses nothing under policy ${policy} either`, { timeout: 120_000 }, () => {
      const machine = bootFight({ ...fightOf('dmacopy', 2), policy });
      expect(runUntilLine(machine, /dmacopy: (ok|MISMATCH)/, 200e6)).toBe('dmacopy: ok');
    });
});
