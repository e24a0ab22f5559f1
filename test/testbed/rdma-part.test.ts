/**
 * The guest with two RDMA NICs, while the host migrates, protects, remaps and forks its memory: regions
 * pinned and on demand, over a wire that loses packets, behind the host's IOMMU, saved in the middle.
 */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { parseElf } from '#emu';
import { HostMachine, hostReport } from '#testbed';
import { DMA_FIGHT_GAPS } from '../../testbed/machine/guest-config.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { RdmaPartConfig } from '../../testbed/machine/parts/rdma.ts';
import { guest } from '../support/cli.ts';

const IMAGE = parseElf(readFileSync(guest('rdma')));

interface Setup extends Omit<RdmaPartConfig, 'kind'> {
  iommu?: 'strict' | 'deferred';
  disturbed?: boolean;
  rounds?: number;
}

const boot = ({ iommu, disturbed = true, rounds = 1, ...part }: Setup): HostMachine => {
  const machine = new HostMachine(
    {
      seed: 3,
      policy: 'linux-7',
      guests: [
        {
          name: 'rdma',
          memoryBytes: 8 << 20,
          harts: 1,
          activity: disturbed ? DMA_FIGHT_GAPS : null,
          parts: [{ kind: 'rdma', ...part }],
          ...(iommu === undefined ? {} : { iommu }),
        },
      ],
    },
    { checked: true },
  );
  machine.boot(machine.guests[0]!, putParameters(IMAGE, [rounds]));
  return machine;
};

const run = (machine: HostMachine, until = Number.POSITIVE_INFINITY): void => {
  for (let turn = 0; !machine.done && machine.retired < until; turn++) {
    if (turn > 3_000_000) throw new Error('no end');
    machine.step(50_000);
  }
  while (!machine.done && !machine.quiet) machine.step(0);
};

const end = (machine: HostMachine): string[] => {
  run(machine);
  machine.tearDown();
  expect(machine.violations).toEqual([]);
  expect(machine.guests[0]!.end).toMatchObject({ kind: 'shutdown', resetReason: 0 });
  return machine.guests[0]!.console.lines.filter((line) => !/instructions/.test(line));
};

describe('gupbed run rdma.elf --rdma', () => {
  const straight = end(boot({ mr: 'pin', disturbed: false }));

  it('every byte arrives', () => {
    expect(straight.at(-1)).toBe('rdma: ok');
  });

  for (const setup of [
    { mr: 'pin' },
    { mr: 'odp' },
    { mr: 'odp', lossPermille: 15, seed: 2 },
    { mr: 'pin', iommu: 'strict' },
    { mr: 'pin', iommu: 'deferred' },
  ] as Setup[])
    it(`the same under host activity: ${JSON.stringify(setup)}`, { timeout: 60_000 }, () => {
      const machine = boot(setup);
      const lines = end(machine);
      expect(lines).toEqual(straight);
      const { nr_foll_pin_acquired: pins } = machine.k.state.stat;
      if (setup.mr === 'odp') expect(pins).toBe(0);
      else expect(pins).toBeGreaterThan(90);
      // Each region is mapped for the NIC, and unmapped again.
      if (setup.iommu !== undefined) expect(machine.iommu?.nrCommands).toBeGreaterThan(10);
    });

  for (const setup of [{ mr: 'pin', iommu: 'strict' }, { mr: 'odp' }] as Setup[])
    it(`saved in the middle it goes on: ${JSON.stringify(setup)}`, { timeout: 60_000 }, () => {
      const machine = boot(setup);
      run(machine, 4_000_000);
      const saved = structuredClone(machine.save());
      run(machine, 5_000_000);
      const restored = new HostMachine(saved.config, { checked: true }, saved);
      run(restored, 5_000_000);
      const reportOf = (m: HostMachine): string => {
        const { host: _host, ...rest } = hostReport(m, 'limit', 1);
        return JSON.stringify(rest);
      };
      expect(reportOf(restored)).toBe(reportOf(machine));
      expect(end(restored)).toEqual(straight);
    });
});
