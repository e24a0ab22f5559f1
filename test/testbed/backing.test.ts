/** Guest memory of every kind: a guest that fights for it loses nothing, and nothing of it is left. */
import { deserialize, serialize } from 'node:v8';
import { describe, expect, it } from 'vitest';
import { RAM_OFFSET } from '#emu';
import { FIGHT_GAPS, hostRamBytes, type HostConfig, HostMachine, type HostState } from '#testbed';
import {
  BACKING_KINDS,
  type BackingKind,
  backingHostRamBytes,
  backingMemoryMax,
} from '../../testbed/machine/backing.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import { bootFight, elfImage, runUntilLine } from '../support/fight.ts';

const MIB = 2 ** 20;

const configOf = (backing: BackingKind): HostConfig => ({
  seed: 5,
  policy: 'linux-7',
  guests: [{ name: 'memwalk', memoryBytes: 40 * MIB, harts: 1, activity: FIGHT_GAPS, backing }],
});

/** A guest that counts in half a thousand pages of its 8 MiB. */
const smallOf = (backing: BackingKind): HostConfig => ({
  seed: 5,
  policy: 'linux-7',
  guests: [{ name: 'count', memoryBytes: 8 * MIB, harts: 1, activity: FIGHT_GAPS, backing }],
});

describe('guest memory', () => {
  for (const backing of BACKING_KINDS)
    it(`of kind ${backing}: memwalk finds its bytes under host activity, and all of it goes`, () => {
      const machine = bootFight(configOf(backing), { checked: true });
      expect(runUntilLine(machine, /MISMATCH/, 3e6)).toBeUndefined();
      expect(machine.guests[0]!.end).toBeNull();
      machine.tearDown();
      expect(machine.violations).toEqual([]);
    });

  for (const backing of ['thp', 'hugetlb', 'file', 'fsdax', 'devdax'] as const)
    it(`of kind ${backing}: a saved machine goes on as one that was not saved`, () => {
      const straight = new HostMachine(smallOf(backing));
      straight.boot(straight.guests[0]!, putParameters(elfImage('pagecount'), [512, 300]));
      while (straight.retired < 3e5 || !straight.quiet) straight.step(1000);
      const state = deserialize(serialize(straight.save())) as HostState;
      const restored = new HostMachine(state.config, {}, state);
      for (const machine of [straight, restored])
        while (machine.retired < 6e5 || !machine.quiet) machine.step(1000);
      const trace = ({ guests, k }: HostMachine): string =>
        JSON.stringify([guests[0]!.vm.stat, guests[0]!.vm.gstage, k.state.stat]);
      expect(trace(restored)).toBe(trace(straight));
      restored.tearDown();
      expect(restored.violations).toEqual([]);
    });

  it('of a file has a largest size, which is said', () => {
    const config = configOf('file');
    config.guests[0]!.memoryBytes = backingMemoryMax('file') + MIB;
    expect(() => bootFight(config)).toThrow(/too many for memory of kind file/);
  });

  it('beside its own bytes takes what its kind needs of the host', () => {
    const [guest] = configOf('fsdax').guests;
    expect(hostRamBytes(configOf('fsdax')) - hostRamBytes(configOf('anon'))).toBe(
      backingHostRamBytes('fsdax', guest!.memoryBytes),
    );
  });
});

describe('a guest on a guest_memfd', () => {
  it('that is saved goes on as if it had not been: slots bound, pages of the file where they were', () => {
    const until = (machine: HostMachine, retired: number): HostMachine => {
      while (machine.retired < retired || !machine.quiet) machine.step(200);
      return machine;
    };
    const machine = until(bootFight(configOf('gmem'), { checked: true }), 3e6);
    const state = structuredClone(machine.save());
    const again = new HostMachine(state.config, { checked: true }, state);
    const slot = again.guests[0]!.vm.slots[0]!;
    expect(again.k.state.mappings.get(slot.gmem!.fileId)).toMatchObject({ kind: 'gmem' });
    for (const m of [machine, again]) until(m, 5e6);
    const ram = ({ memory }: HostMachine) => memory.u8.subarray(RAM_OFFSET);
    expect(Buffer.compare(ram(again), ram(machine))).toBe(0);
    expect(again.guests[0]!.vm.stat.gmemFaults).toBe(machine.guests[0]!.vm.stat.gmemFaults);
    expect(again.guests[0]!.vm.stat.gmemInvalidations).toBeGreaterThan(10);
    again.tearDown();
    expect(again.violations).toEqual([]);
  });
});
