/**
 * A guest with an IOMMU of its own, in front of its DMA engine: the guest's driver tries the rules, while
 * the host moves, protects, remaps and forks the memory that tables, queues and buffers are in.
 */
import { describe, expect, it } from 'vitest';
import { HostMachine } from '#testbed';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { ActivityGaps } from '../../testbed/machine/guest-config.ts';
import { elfImage } from '../support/fight.ts';

const ACTIVITY = { migrate: 2500, protect: 4000, remap: 30_000, fork: 200_000, harvest: 400_000 };
const LIMIT = 1e8;

const boot = (
  name: string,
  parameters: number[],
  activity: ActivityGaps | null,
  extended = true,
) => {
  const machine = new HostMachine(
    {
      seed: 11,
      policy: 'linux-7',
      guests: [
        {
          name,
          memoryBytes: 16 << 20,
          harts: 1,
          activity,
          parts: [{ kind: 'iommu', extended }],
        },
      ],
    },
    { checked: true },
  );
  machine.boot(machine.guests[0]!, putParameters(elfImage(name), parameters));
  return machine;
};

const finish = (machine: HostMachine): readonly string[] => {
  while (!machine.done && machine.retired < LIMIT) machine.step(LIMIT);
  const guest = machine.guests[0]!;
  machine.tearDown();
  expect(machine.violations).toEqual([]);
  return guest.console.lines;
};

describe('a guest’s IOMMU', () => {
  for (const extended of [true, false])
    it(`${extended ? 'extended' : 'base'} format: the guest’s driver finds every rule kept`, () => {
      expect(finish(boot('iommu', [2], null, extended)).at(-1)).toBe('iommu: ok');
    });

  it('finds it so while the host takes its pages away all the time', () => {
    expect(finish(boot('iommu', [3], ACTIVITY)).at(-1)).toBe('iommu: ok');
  });

  it('saved in the middle, and restored, it says the same', () => {
    const straight = finish(boot('iommu', [2], null));
    const machine = boot('iommu', [2], null);
    while (!machine.done && machine.retired < 600_000) machine.step(600_000);
    const state = structuredClone(machine.save());
    expect(machine.done).toBe(false);
    const restored = new HostMachine(state.config, { checked: true }, state);
    expect(structuredClone(restored.save())).toEqual(state);
    expect(finish(restored)).toEqual(straight);
    machine.tearDown();
  });

  it('is Bare after reset: a guest that does not know of it copies as ever', () => {
    expect(finish(boot('dmacopy', [], null)).at(-1)).toBe('dmacopy: ok');
  });
});
