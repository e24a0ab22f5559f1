/** Guests of several harts, and several guests on one host, while the host moves their memory. */
import { describe, expect, it } from 'vitest';
import { FIGHT_GAPS, type GuestConfig, HostMachine } from '#testbed';
import type { BackingKind } from '../../testbed/machine/backing.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import { elfImage, runUntilLine } from '../support/fight.ts';

const MIB = 2 ** 20;
const NEVER = /the line that no guest prints/;

const guestOf = (name: string, harts: number, backing: BackingKind = 'mixed'): GuestConfig => ({
  name,
  memoryBytes: 16 * MIB,
  harts,
  activity: FIGHT_GAPS,
  backing,
});

/** A machine whose guests all run smp. @param parameters remaps, hops, 1 = no remote fences */
const bootSmp = (guests: GuestConfig[], ...parameters: number[]): HostMachine => {
  const machine = new HostMachine({ seed: 9, policy: 'linux-7', guests }, { checked: true });
  const image = putParameters(elfImage('smp'), parameters);
  for (const guest of machine.guests) machine.boot(guest, image);
  return machine;
};

/** What each guest says in the end, with all of its memory given back. */
const outcome = (machine: HostMachine, limit = 30e6): string[] => {
  runUntilLine(machine, NEVER, limit);
  machine.tearDown();
  expect(machine.violations).toEqual([]);
  return machine.guests.map((guest) => guest.console.lines.at(-1) ?? 'nothing');
};

describe('harts of one guest', () => {
  for (const harts of [1, 2, 4, 7])
    it(`${harts}: no page is seen after its fence, no IPI and no count is lost`, () => {
      expect(outcome(bootSmp([guestOf('smp', harts)], 120, 60))).toEqual([
        `smp: ${harts} harts, 120 remaps, 60 of 60 IPIs, counts agree, 0 mismatches`,
      ]);
    });

  it('without the remote fences the guest finds out what its harts still see', () => {
    const [line] = outcome(bootSmp([guestOf('smp', 2)], 120, 60, 1));
    expect(line).toMatch(/counts agree, [1-9][0-9]* mismatches$/);
  });

  it('a seed decides the order in which they run, to the instruction', () => {
    const retired = (): number[] => {
      const machine = bootSmp([guestOf('smp', 3)], 40, 20);
      runUntilLine(machine, NEVER, 30e6);
      return machine.guests[0]!.vcpus.map((vcpu) => vcpu.state.retired);
    };
    expect(retired()).toEqual(retired());
  });
});

describe('harts in round robin, by a quantum of instructions', () => {
  const machineOf = (seed: number, quantum: number): HostMachine => {
    const guests = [{ ...guestOf('smp', 4), activity: null }];
    const machine = new HostMachine({ seed, policy: 'linux-7', guests, quantum });
    machine.boot(machine.guests[0]!, putParameters(elfImage('smp'), [60, 40]));
    return machine;
  };
  const retired = (machine: HostMachine): number[] =>
    machine.guests[0]!.vcpus.map((vcpu) => vcpu.state.retired);

  it('all of them come to the end, and the seed has no part in it', () => {
    const runs = [1, 2].map((seed) => {
      const machine = machineOf(seed, 500);
      expect(outcome(machine)[0]).toMatch(/^smp: 4 harts, .* 0 mismatches$/);
      return retired(machine);
    });
    expect(runs[0]).toEqual(runs[1]);
  });

  it('none is a quantum ahead while all of them are busy', () => {
    const quantum = 500;
    const machine = machineOf(1, quantum);
    for (let i = 0; i < 3000; i++) machine.step(1e9);
    const [, ...others] = retired(machine);
    expect(Math.min(...others)).toBeGreaterThan(10 * quantum);
    // They were started one after the other, and each of their faults ends a turn.
    expect(Math.max(...others) - Math.min(...others)).toBeLessThan(Math.max(...others) / 4);
  });
});

describe('several VMs on one host', () => {
  it('three guests of two harts, each over memory of another kind, do not meet', () => {
    const guests = (['anon', 'shmem', 'thp'] as const).map((backing, i) =>
      guestOf(`smp${i}`, 2, backing),
    );
    const machine = bootSmp(guests, 80, 40);
    expect(outcome(machine)).toEqual(
      Array(3).fill('smp: 2 harts, 80 remaps, 40 of 40 IPIs, counts agree, 0 mismatches'),
    );
    expect(new Set(machine.guests.map(({ vm }) => vm.vmid)).size).toBe(3);
    for (const { vm } of machine.guests) {
      expect(vm.stat.zaps).toBeGreaterThan(0);
      expect(vm.stat.gstageInstalled + vm.stat.gstageInstalledHuge).toBeGreaterThan(0);
    }
  });

  it('the end of one VM takes nothing from another', () => {
    const machine = bootSmp([guestOf('short', 2), guestOf('long', 2)], 20, 20);
    const long = putParameters(elfImage('smp'), [200, 20]);
    machine.boot(machine.guests[1]!, long);
    const lines = outcome(machine);
    expect(lines[0]).toMatch(/20 remaps, .* 0 mismatches$/);
    expect(lines[1]).toMatch(/200 remaps, .* 0 mismatches$/);
  });
});
