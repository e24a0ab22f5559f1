/** What a row can come to, and how a step says so from anywhere below it. */
import { errnoName } from '../report/errno-names.ts';

/** As the kernel's own self-tests word it. */
export type Answer = 'ok' | 'not ok' | 'skip';

/** One row of the matrix after it has run. */
export interface RowResult {
  name: string;
  answer: Answer;
  /** Why it is not ok, or was skipped: one line each. Empty where it is ok. */
  reasons: string[];
}

/** The row has found what it looks for: bytes where they must not be, or a call that must not fail. */
export class RowFailed extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RowFailed';
  }
}

/** The row's memory cannot be made on this host, so that nothing was decided. */
export class RowSkipped extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'RowSkipped';
  }
}

/** What a system call returned. @throws RowFailed where that is a negative errno */
export const must = (call: string, result: number): number => {
  if (result < 0) throw new RowFailed(`${call} failed: ${errnoName(result)}`);
  return result;
};

/** The same for a call without which there is nothing to test. @throws RowSkipped */
export const mustOrSkip = (call: string, result: number): number => {
  if (result < 0) throw new RowSkipped(`${call} failed: ${errnoName(result)}`);
  return result;
};
