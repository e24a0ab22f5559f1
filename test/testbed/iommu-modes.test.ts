/**
 * The guest that moves bytes by DMA, its engine behind the host's IOMMU in every mode, while the host
 * migrates, protects, remaps and forks its memory.
 */
import { describe, expect, it } from 'vitest';
import type { IommuMode } from '#devices/host';
import { HostMachine, hostReport } from '#testbed';
import { bootFight, fightOf, runUntilLine } from '../support/fight.ts';

const configOf = (mode: IommuMode) => {
  const config = fightOf('dmacopy', 2);
  return { ...config, guests: config.guests.map((guest) => ({ ...guest, iommu: mode })) };
};

/** Runs to an instruction count, without stopping at a line. */
const run = (machine: HostMachine, instructions: number): void => {
  runUntilLine(machine, /MISMATCH/, instructions);
  while (!machine.quiet) machine.step(0);
};

/** The guest is shut down; whatever is held is given back, and everything ends. */
const end = (machine: HostMachine): void => {
  machine.guests[0]!.ended({ kind: 'shutdown', resetType: 0, resetReason: 0 });
  for (let turn = 0; !machine.done && turn < 100_000; turn++) machine.step(1000);
  expect(machine.done).toBe(true);
  machine.tearDown();
};

const reportOf = (machine: HostMachine): string => {
  const { host: _host, ...rest } = hostReport(machine, 'limit', 1);
  return JSON.stringify(rest);
};

describe.each(['off', 'strict', 'deferred', 'sva'] as const)('--iommu %s', (mode) => {
  it('loses nothing, leaves nothing behind, and is the same after a restore in the middle', {
    timeout: 120_000,
  }, () => {
    const straight = bootFight(configOf(mode), { checked: true, provenance: true });
    run(straight, 2_300_000);
    const saved = structuredClone(straight.save());
    run(straight, 2_600_000);
    const restored = new HostMachine(saved.config, { checked: true }, saved);
    run(restored, 2_600_000);
    expect(reportOf(restored)).toBe(reportOf(straight));
    const { transfers } = straight.guests[0]!.dmaSide.counts;
    expect(transfers).toBeGreaterThan(5);
    expect(straight.guests[0]!.console.lines.join()).not.toMatch(/MISMATCH/);
    end(straight);
    end(restored);
    expect([...straight.violations, ...restored.violations]).toEqual([]);
    const pins = straight.k.state.stat.nr_foll_pin_acquired;
    if (mode === 'sva') expect(pins).toBe(0);
    else expect(pins).toBeGreaterThan(transfers);
  });
});

it('a device that the host cuts off in the middle moves nothing any more; its guest is told, and runs on', {
  timeout: 60_000,
}, () => {
  const machine = bootFight(configOf('strict'), { checked: true });
  const { counts } = machine.guests[0]!.dmaSide;
  run(machine, 2_300_000);
  const host = machine.iommu!;
  host.detachDevice(host.allDevices[0]!);
  const before = counts.bytesWritten;
  expect(before).toBeGreaterThan(0);
  run(machine, 2_600_000);
  expect(counts.bytesWritten).toBe(before);
  end(machine);
  expect(machine.violations).toEqual([]);
});
