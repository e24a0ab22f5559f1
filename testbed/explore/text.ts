/** What `gupbed explore` prints for people. */
import { withCommas } from '../report/numbers.ts';
import { paint } from '../report/table.ts';
import type { Scenario } from './scenario.ts';
import { stepLines, type Told } from './steps.ts';
import type { Verdict } from './verdict.ts';

/** `1 preemption`, `2 preemptions`. */
const count = (n: number, noun: string): string => `${withCommas(n)} ${noun}${n === 1 ? '' : 's'}`;

/** What is wrong, a line for each rule that it breaks. */
const wrongLines = (message: string): string[] => message.split('; ').map((part) => `     ${part}`);

export const headLine = (scenario: Scenario, colour: boolean): string =>
  `${paint(colour, 'bold', scenario.name)}: ${scenario.title}`;

/** The scenarios and their variants. */
export const listLines = (scenarios: readonly Scenario[], colour: boolean): string[] =>
  scenarios.flatMap((scenario) => {
    const { variants, bound } = scenario;
    const width = Math.max(...variants.map(({ name }) => name.length));
    return [
      `${headLine(scenario, colour)} (bound: ${count(bound, 'preemption')})`,
      ...variants.map((v) => `  ${v.name.padEnd(width)}  ${v.declared.padEnd(6)}  ${v.title}`),
    ];
  });

/** How the search of a variant ended, and the schedule that goes wrong. */
export const verdictLines = (verdict: Verdict, colour: boolean): string[] => {
  const { name, title, declared, ended, asDeclared, violation } = verdict;
  const mark = asDeclared
    ? paint(colour, 'green', 'as declared')
    : paint(colour, 'red', `declared ${declared}`);
  const head = `${name} (${title}): ${ended}, ${mark}`;
  if (violation === null) return [head, `     ${extent(verdict)}`];
  const { preemptions } = violation;
  return [
    head,
    ...wrongLines(violation.message),
    `     with ${count(preemptions, 'preemption')}, found after ${count(verdict.allSchedules, 'schedule')}:`,
    ...stepLines(violation.steps),
  ];
};

/** What has been tried. */
const extent = ({ schedules, longest, bound, complete, ended }: Verdict): string => {
  const tried = `${count(schedules, 'schedule')} of up to ${count(longest, 'step')}`;
  if (complete) return `${tried}: all that there are`;
  const limit = `with at most ${count(bound, 'preemption')}`;
  return ended === 'interrupted' ? `${tried} so far, ${limit}` : `${tried}: all ${limit}`;
};

/** A schedule that was run again. */
export const replayLines = (scenario: Scenario, told: Told, colour: boolean): string[] => [
  headLine(scenario, colour),
  ...stepLines(told.steps),
  ...wrongLines(told.violation ?? 'nothing is wrong'),
];
