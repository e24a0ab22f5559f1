/** Guest memory of every kind: a guest that fights for it loses nothing, and nothing of it is left. */
import { describe, expect, it } from 'vitest';
import { FIGHT_GAPS, hostRamBytes, type HostConfig } from '#testbed';
import {
  BACKING_KINDS,
  type BackingKind,
  backingHostRamBytes,
  backingMemoryMax,
} from '../../testbed/machine/backing.ts';
import { bootFight, runUntilLine } from '../support/fight.ts';

const MIB = 2 ** 20;

const configOf = (backing: BackingKind): HostConfig => ({
  seed: 5,
  policy: 'linux-7',
  guests: [{ name: 'memwalk', memoryBytes: 40 * MIB, harts: 1, activity: FIGHT_GAPS, backing }],
});

describe('guest memory', () => {
  for (const backing of BACKING_KINDS)
    it(`of kind ${backing}: memwalk finds its bytes under host activity, and all of it goes`, () => {
      const machine = bootFight(configOf(backing), { checked: true });
      expect(runUntilLine(machine, /MISMATCH/, 8e6)).toBeUndefined();
      expect(machine.guests[0]!.end).toBeNull();
      machine.tearDown();
      expect(machine.violations).toEqual([]);
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
