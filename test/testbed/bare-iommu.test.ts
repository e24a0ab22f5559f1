/** The IOMMU on the bare board: the same driver, as a kernel under OpenSBI, with no host below. */
import { existsSync, readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import { loadElf, parseElf } from '#emu';
import { BareMachine } from '#testbed';
import { ramSink } from '../../testbed/machine/ram-sink.ts';
import { elfImage } from '../support/fight.ts';

const OPENSBI = '/usr/lib/riscv64-linux-gnu/opensbi/generic/fw_jump.elf';
const LIMIT = 60e6;

const boot = (name: string, iommu: boolean): BareMachine => {
  const machine = new BareMachine({ ramBytes: 64 << 20, harts: 1, iommu });
  machine.load(parseElf(new Uint8Array(readFileSync(OPENSBI))));
  loadElf(elfImage(name), ramSink(machine.memory));
  return machine;
};

const linesOf = (machine: BareMachine): readonly string[] => {
  while (machine.end === null && machine.retired < LIMIT) machine.step(LIMIT - machine.retired);
  return machine.console.lines.filter((line) => /^(iommu|dmacopy):/.test(line));
};

const missing = !existsSync(OPENSBI);

describe('the IOMMU on the bare board', () => {
  it.skipIf(missing && process.env.CI === undefined)(
    missing
      ? `the driver finds every rule kept (needs ${OPENSBI})`
      : 'the driver finds every rule kept',
    { timeout: 60_000 },
    () => {
      expect(linesOf(boot('iommu', true)).at(-1)).toBe('iommu: ok');
    },
  );

  it.skipIf(missing && process.env.CI === undefined)(
    missing ? `without it there is none (needs ${OPENSBI})` : 'without it there is none',
    { timeout: 60_000 },
    () => {
      expect(linesOf(boot('iommu', false))).toEqual(['iommu: no IOMMU at 0x10020000']);
    },
  );
});
