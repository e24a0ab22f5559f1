/** Host machines as objects: they share nothing, and refuse a program that does not fit. */
import { describe, expect, it } from 'vitest';
import { type ElfImage, PAGE_SIZE, RAM_BASE } from '#emu';
import { type HostConfig, HostMachine, hostReport } from '#testbed';
import { bootFight, fightOf } from '../support/fight.ts';

const LIMIT = 600_000;

const traceOf = (machine: HostMachine): string => {
  const { host: _host, ...rest } = hostReport(machine, 'limit', 1);
  return JSON.stringify(rest);
};

/** The trace of a machine that has the process for itself. */
const alone = (config: HostConfig): string => {
  const machine = bootFight(config);
  while (machine.retired < LIMIT) machine.step(LIMIT - machine.retired);
  return traceOf(machine);
};

describe('two machines in one process', () => {
  it('do not disturb each other: the same traces as alone', () => {
    const configs = [fightOf('memwalk', 1), fightOf('dmacopy', 2)];
    const machines = configs.map((config) => bootFight(config));
    while (machines.some((machine) => machine.retired < LIMIT))
      for (const machine of machines)
        if (machine.retired < LIMIT) machine.step(LIMIT - machine.retired);
    expect(machines.map(traceOf)).toEqual(configs.map(alone));
  });

  it('the budget of a step is never exceeded, and reached to the instruction', () => {
    const machine = bootFight(fightOf('memwalk', 3));
    const budgets = [1, 17, 300, 5000];
    for (let i = 0; i < 400; i++) {
      const before = machine.retired;
      const budget = budgets[i % budgets.length]!;
      machine.step(budget);
      expect(machine.retired - before).toBeLessThanOrEqual(budget);
    }
    const limit = machine.retired + 12_345;
    while (machine.retired < limit) machine.step(limit - machine.retired);
    expect(machine.retired).toBe(limit);
  });
});

describe('a program on a guest', () => {
  const memoryBytes = 4 * 2 ** 20;
  const end = RAM_BASE + memoryBytes;
  const boot = (pa: number, memBytes: number): void => {
    const machine = new HostMachine({
      seed: 1,
      policy: 'linux-7',
      guests: [{ name: 'g', memoryBytes, harts: 1, activity: null }],
    });
    const image: ElfImage = { entry: pa, segments: [{ pa, bytes: new Uint8Array(64), memBytes }] };
    machine.boot(machine.guests[0]!, image);
  };

  it('may fill memory up to the room of the device tree, the last 64 KiB', () => {
    expect(() => boot(RAM_BASE, memoryBytes - 65536)).not.toThrow();
  });

  it('may not reach into it, nor beyond the end', () => {
    expect(() => boot(RAM_BASE, memoryBytes - 65535)).toThrow(/segment 0 .*device tree/);
    expect(() => boot(end - PAGE_SIZE, 64)).toThrow(/segment 0 .*device tree/);
    expect(() => boot(end, 64)).toThrow(/segment 0 .*outside RAM/);
    expect(() => boot(RAM_BASE - PAGE_SIZE, 64)).toThrow(/segment 0 .*outside RAM/);
  });
});
