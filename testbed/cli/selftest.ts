/** `gupbed selftest`: the rows of the kernel's self-tests `cow` and `gup_longterm`, run on the host model. */
import { paint, type Style, wantsColour } from '../report/table.ts';
import { type Row, rowsOf, SUITE_NAMES } from '../selftest/matrix.ts';
import { runRows, type Summary, summaryOf } from '../selftest/run.ts';
import { tapHead, tapRow, tapTotals } from '../selftest/tap.ts';
import type { Answer, RowResult } from '../selftest/verdict.ts';
import { GIGANTIC_RAM_BYTES, RAM_BYTES } from '../selftest/world.ts';
import { type ParsedArgs, parseCommandLine } from './args.ts';
import { changedPolicyOf, POLICY_OPTIONS, wantsJson } from './host-options.ts';
import { withRoomFor } from './input.ts';
import { EXIT_FAILED, EXIT_OK, UsageError } from './usage-error.ts';

/** How results are printed: lines before the first row, of each row, and after the last. */
interface Format {
  head(nrRows: number): string[];
  row(result: RowResult, number: number): string[];
  end(results: RowResult[], policy: string, seconds: number): string[];
}

export const selftestCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('selftest', words, {
    ...POLICY_OPTIONS,
    tap: { type: 'boolean', default: false },
    json: { type: 'boolean', default: false },
    list: { type: 'boolean', default: false },
    gigantic: { type: 'boolean', default: false },
    suite: { type: 'string', default: 'cow' },
  });
  const policy = changedPolicyOf(args);
  const json = wantsJson(args);
  const tap = args.values['tap'] === true;
  const list = args.values['list'] === true;
  if (tap && json) throw new UsageError('selftest: --tap or --json, not both');
  if (tap && list)
    throw new UsageError('selftest: --list runs nothing, so there is no --tap of it');
  const gigantic = args.values['gigantic'] === true;
  const named = args.values['suite'];
  const suite = SUITE_NAMES.find((name) => name === named);
  if (suite === undefined)
    throw new UsageError(`selftest: --suite ${named}: it is ${SUITE_NAMES.join(' or ')}`);
  const rows = chosenRows(args, rowsOf(suite, gigantic));
  if (list) {
    const names = rows.map(({ name }) => name);
    print(json ? [JSON.stringify(names, null, 2)] : names);
    return EXIT_OK;
  }
  const format = json ? JSON_FORMAT : tap ? TAP_FORMAT : textFormat(wantsColour(process.stdout));
  const startedAt = performance.now();
  const results: RowResult[] = [];
  withRoomFor(gigantic ? GIGANTIC_RAM_BYTES : RAM_BYTES, () => {
    for (const result of runRows(rows, { policy, gigantic })) {
      results.push(result);
      // Not before there is a host: without memory for one, nothing is printed.
      if (results.length === 1) print(format.head(rows.length));
      print(format.row(result, results.length));
    }
  });
  print(format.end(results, policy.name, (performance.now() - startedAt) / 1000));
  return summaryOf(results).notOk > 0 ? EXIT_FAILED : EXIT_OK;
};

const print = (lines: string[]): void => {
  if (lines.length > 0) process.stdout.write(`${lines.join('\n')}\n`);
};

/** Rows with the pattern in their names. @throws UsageError where there is none, or two patterns */
const chosenRows = ({ positionals }: ParsedArgs, matrix: readonly Row[]): readonly Row[] => {
  const [pattern, second] = positionals;
  if (pattern === undefined) return matrix;
  if (second !== undefined)
    throw new UsageError(
      `selftest: one pattern at most: is "${pattern} ${second}" what was meant?`,
    );
  const parts = pattern.split('*').map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'));
  const wanted = new RegExp(parts.join('.*'), 'i');
  const rows = matrix.filter(({ name }) => wanted.test(name));
  if (rows.length === 0)
    throw new UsageError(`selftest: no row has ${pattern} in its name: see gupbed selftest --list`);
  return rows;
};

const STYLES: Record<Answer, Style> = { ok: 'green', 'not ok': 'red', skip: 'yellow' };
const WIDTH = 'not ok'.length;

const textFormat = (colour: boolean): Format => ({
  head: () => [],
  row: ({ name, answer, reasons }) => [
    `${paint(colour, STYLES[answer], answer.padEnd(WIDTH))}  ${name}`,
    ...reasons.map((reason) => `${' '.repeat(WIDTH)}  ${paint(colour, 'dim', reason)}`),
  ],
  end: (results, policy, seconds) => ['', summaryLine(summaryOf(results), policy, seconds)],
});

const summaryLine = ({ rows, ok, notOk, skipped }: Summary, policy: string, seconds: number) =>
  `${rows} rows under ${policy}: ${ok} ok, ${notOk} not ok, ${skipped} skipped, in ${seconds.toFixed(1)} s`;

const TAP_FORMAT: Format = {
  head: tapHead,
  row: (result, number) => tapRow(number, result),
  end: (results) => [tapTotals(summaryOf(results))],
};

const JSON_FORMAT: Format = {
  head: () => [],
  row: () => [],
  end: (rows, policy, seconds) => [
    JSON.stringify({ policy, rows, summary: summaryOf(rows), host: { seconds } }, null, 2),
  ],
};
