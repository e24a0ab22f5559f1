/** The main job's machine: who fights, with how much memory. */
import type { PolicyName } from '#mm';
import { FIGHT_GAPS, type HostConfig } from './guest-config.ts';

const MIB = 2 ** 20;

/** Guest programs of the fight, by name. */
export const FIGHT_GUESTS = ['memwalk', 'dmacopy'] as const;

export const fightConfig = (seed: number, policy: PolicyName): HostConfig => ({
  seed,
  policy,
  guests: FIGHT_GUESTS.map((name) => ({ name, memoryBytes: 64 * MIB, harts: 1 })),
  activity: FIGHT_GAPS,
});
