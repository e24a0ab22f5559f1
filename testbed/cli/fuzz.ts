/** `gupbed fuzz`: hostile guests against every device, case by case. */
import { FuzzRun, type FuzzFailure } from '../fuzz/run.ts';
import type { FuzzTarget } from '../fuzz/target.ts';
import { FUZZ_TARGETS } from '../fuzz/targets.ts';
import { withCommas } from '../report/numbers.ts';
import { alignRows } from '../report/table.ts';
import { parseCommandLine, parseCount } from './args.ts';
import { seedOf, wantsJson } from './host-options.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, UsageError } from './usage-error.ts';

/** Cases in all, where nothing else is said. */
const DEFAULT_CASES = '100000';

const targetsNamed = (names: readonly string[]): readonly FuzzTarget[] => {
  if (names.length === 0) return FUZZ_TARGETS;
  return names.map((name) => {
    const target = FUZZ_TARGETS.find((t) => t.name === name);
    if (target === undefined) {
      const known = FUZZ_TARGETS.map((t) => t.name).join(', ');
      throw new UsageError(`fuzz: no target is called ${name}; there are ${known}`);
    }
    return target;
  });
};

const failureLine = ({ target, seed, case: number, what }: FuzzFailure): string =>
  `${target}: ${what}\n  again: gupbed fuzz ${target} --seed ${seed} --case ${number}`;

export const fuzzCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('fuzz', words, {
    seed: { type: 'string', default: '1' },
    cases: { type: 'string', default: DEFAULT_CASES },
    case: { type: 'string' },
    json: { type: 'boolean', default: false },
  });
  const targets = targetsNamed(args.positionals);
  const seed = seedOf(args);
  const only = args.values['case'];
  const first = only === undefined ? 0 : parseCount('--case', String(only), 0, 0xffff_ffff);
  if (only !== undefined && targets.length !== 1)
    throw new UsageError('fuzz: --case goes with the name of one target');
  const cases = parseCount('--cases', String(args.values['cases']), 1, 1e9);
  const each = only === undefined ? Math.ceil(cases / targets.length) : 1;

  const runs = targets.map((target) => new FuzzRun(target, seed));
  let next = 0; // of each * runs.length
  const total = each * runs.length;
  const { outcome, seconds } = await runLoop(
    () => {
      const run = runs[Math.floor(next / each)];
      if (run === undefined) return false;
      if (run.hopeless) next += each - (next % each);
      else {
        run.step(first + (next % each));
        next++;
      }
      return next < total;
    },
    (passed) => `${withCommas(next)} of ${withCommas(total)} cases, ${Math.round(passed)} s`,
  );
  const counts = runs.map((run) => run.count);
  const failures = counts.flatMap((count) => count.failures);
  if (wantsJson(args)) {
    const report = { seed, targets: counts, ok: failures.length === 0, host: { seconds } };
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  } else {
    const rows = counts.map((count, i) => [
      count.target,
      withCommas(count.cases),
      String(count.failures.length),
      targets[i]!.describe,
    ]);
    // What is made up goes last, as it is: alignRows() sets columns to the right.
    const lines = alignRows([
      ['target', 'cases', 'failures'],
      ...rows.map((row) => row.slice(0, 3)),
    ]).map((line, i) => `${line}  ${i === 0 ? 'what is made up' : rows[i - 1]![3]!}`);
    process.stdout.write(`${lines.join('\n')}\n`);
    for (const failure of failures) process.stdout.write(`\n${failureLine(failure)}\n`);
  }
  if (outcome === 'interrupted') return EXIT_INTERRUPTED;
  return failures.length === 0 ? EXIT_OK : EXIT_FAILED;
};
