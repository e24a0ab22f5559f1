/** Errors that are printed as one line, and the exit codes. */

/** What is wrong with the user's input, in one line: printed as it is, with exit code 2. */
export class UsageError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'UsageError';
  }
}

/** Why a command could not do what it was asked for, in one line: printed as it is, with exit code 1. */
export class FailureError extends Error {
  constructor(message: string) {
    super(message);
    this.name = 'FailureError';
  }
}

/** Exit codes of every command. */
export const EXIT_OK = 0;
/** The guest, the experiment or the check failed. */
export const EXIT_FAILED = 1;
/** The input or the usage was wrong; nothing ran. */
export const EXIT_USAGE = 2;
export const EXIT_INTERRUPTED = 130;
