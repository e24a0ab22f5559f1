/**
 * The rows, in the order and by the names of the kernel's own tests: cow.c and gup_longterm.c in
 * tools/testing/selftests/mm/.
 */
import { HUGETLB_ORDER_1G, HUGETLB_ORDER_2M } from '#mm';
import { BASE_KINDS } from './kinds/base.ts';
import { fileKinds } from './kinds/file.ts';
import { hugetlbKind } from './kinds/hugetlb.ts';
import { COLLAPSIBLE, THP_KINDS } from './kinds/thp.ts';
import { hugetlbFileKind, TWICE_MAPPED_KINDS } from './kinds/twice-mapped.ts';
import type { Kind, Scenario } from './scenario.ts';
import { COLLAPSE_SCENARIOS } from './scenarios/collapse.ts';
import { FIXED_BUFFER_SCENARIOS } from './scenarios/fixed-buffer.ts';
import { FORK_SCENARIOS } from './scenarios/fork.ts';
import { LONGTERM_SCENARIOS } from './scenarios/longterm.ts';
import { PIN_SCENARIOS } from './scenarios/pins.ts';
import { TWICE_MAPPED_SCENARIOS } from './scenarios/twice-mapped.ts';
import { VMSPLICE_SCENARIOS } from './scenarios/vmsplice.ts';
import type { Trial } from './trial.ts';

export interface Row {
  name: string;
  /** @throws RowFailed, RowSkipped */
  run(trial: Trial): void;
}

/** A scenario with memory of a kind. */
const rowOf = <M>(name: string, scenario: Scenario<M>, kind: Kind<M>): Row => ({
  name,
  run: (trial) => scenario.run(trial, kind.make(trial)),
});

/** Every scenario with every kind. */
const product = <M>(scenarios: readonly Scenario<M>[], kinds: readonly Kind<M>[]): Row[] =>
  scenarios.flatMap((scenario) =>
    kinds.map((kind) => rowOf(`${scenario.title} ... with ${kind.title}`, scenario, kind)),
  );

/** @param hugetlbOrders sizes that the host has pools of */
const cowRows = (hugetlbOrders: readonly number[]): Row[] => [
  ...product(
    [...FORK_SCENARIOS, ...VMSPLICE_SCENARIOS, ...FIXED_BUFFER_SCENARIOS, ...PIN_SCENARIOS],
    [...BASE_KINDS, ...THP_KINDS, ...hugetlbOrders.map(hugetlbKind)],
  ),
  ...COLLAPSE_SCENARIOS.map((scenario) => rowOf(scenario.title, scenario, COLLAPSIBLE)),
  ...product(TWICE_MAPPED_SCENARIOS, [
    ...TWICE_MAPPED_KINDS,
    ...hugetlbOrders.map(hugetlbFileKind),
  ]),
];

const longtermRows = (hugetlbOrders: readonly number[]): Row[] =>
  product(LONGTERM_SCENARIOS, fileKinds(hugetlbOrders));

/** The kernel's tests that there are rows of, by their names. */
const SUITES = { cow: cowRows, gup_longterm: longtermRows };
export type SuiteName = keyof typeof SUITES;
export const SUITE_NAMES = Object.keys(SUITES) as SuiteName[];

/**
 * The rows of a suite on a host with a pool of 2 MiB pages.
 * @param gigantic and one of 1 GiB pages
 */
export const rowsOf = (suite: SuiteName, gigantic: boolean): readonly Row[] =>
  SUITES[suite](gigantic ? [HUGETLB_ORDER_2M, HUGETLB_ORDER_1G] : [HUGETLB_ORDER_2M]);
