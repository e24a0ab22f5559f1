/** The scenarios that `gupbed explore` knows. */
import type { Scenario } from './scenario.ts';
import { gupFastFork } from './scenarios/gup-fast-fork.ts';
import { pinShare } from './scenarios/pin-share.ts';
import { ptraceWriteback } from './scenarios/ptrace-writeback.ts';
import { secondaryMmu } from './scenarios/secondary-mmu.ts';

export const SCENARIOS: readonly Scenario[] = [
  gupFastFork,
  pinShare,
  ptraceWriteback,
  secondaryMmu,
];

export const scenarioOf = (name: string): Scenario | undefined =>
  SCENARIOS.find((scenario) => scenario.name === name);
