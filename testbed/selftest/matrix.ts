/** The rows, in the order and by the names of the kernel's own test: tools/testing/selftests/mm/cow.c. */
import { BASE_KINDS } from './kinds/base.ts';
import { TWICE_MAPPED_KINDS } from './kinds/twice-mapped.ts';
import type { Kind, Memory, Scenario } from './scenario.ts';
import { FORK_SCENARIOS } from './scenarios/fork.ts';
import { PIN_SCENARIOS } from './scenarios/pins.ts';
import { TWICE_MAPPED_SCENARIOS } from './scenarios/twice-mapped.ts';
import type { Trial } from './trial.ts';

export interface Row {
  name: string;
  /** @throws RowFailed, RowSkipped */
  run(trial: Trial): void;
}

/** Every scenario with every kind. */
const product = <M extends Memory>(
  scenarios: readonly Scenario<M>[],
  kinds: readonly Kind<M>[],
): Row[] =>
  scenarios.flatMap((scenario) =>
    kinds.map((kind) => ({
      name: `${scenario.title} ... with ${kind.title}`,
      run: (trial) => scenario.run(trial, kind.make(trial)),
    })),
  );

export const MATRIX: readonly Row[] = [
  ...product([...FORK_SCENARIOS, ...PIN_SCENARIOS], BASE_KINDS),
  ...product(TWICE_MAPPED_SCENARIOS, TWICE_MAPPED_KINDS),
];
