/** The main job's machine: who fights, with how much memory, and how hard the host strikes. */
import type { PolicyName } from '#mm';
import { DMA_FIGHT_GAPS, FIGHT_GAPS, type HostConfig } from './guest-config.ts';

const MIB = 2 ** 20;

/** Guest programs of the fight, by name. */
export const FIGHT_GUESTS = ['memwalk', 'dmacopy'] as const;

/** @param policy what users of GUP take */
export const fightConfig = (seed: number, policy: PolicyName): HostConfig => ({
  seed,
  policy,
  guests: FIGHT_GUESTS.map((name) => ({
    name,
    memoryBytes: 64 * MIB,
    harts: 1,
    activity: name === 'dmacopy' ? DMA_FIGHT_GAPS : FIGHT_GAPS,
  })),
});
