/** Results in the Test Anything Protocol, version 13, as the kernel's self-tests print it. */
import type { Summary } from './run.ts';
import type { RowResult } from './verdict.ts';

/** Before the first row. */
export const tapHead = (nrRows: number): string[] => ['TAP version 13', `1..${nrRows}`];

/** A row, and below it why, as diagnostics. @param number counted from 1 */
export const tapRow = (number: number, { name, answer, reasons }: RowResult): string[] => {
  if (answer === 'skip') return [`ok ${number} ${name} # SKIP ${reasons.join('; ')}`];
  return [`${answer} ${number} ${name}`, ...reasons.map((reason) => `# ${reason}`)];
};

/** After the last row: the line that kselftest's tools read. */
export const tapTotals = ({ ok, notOk, skipped }: Summary): string =>
  `# Totals: pass:${ok} fail:${notOk} xfail:0 xpass:0 skip:${skipped} error:0`;
