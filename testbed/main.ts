#!/usr/bin/env node
/** The command line: finds the command, and turns what goes wrong into one line and an exit code. */
import { GUEST_BENCH_COMMAND, guestBenchCommand } from './bench/guest-process.ts';
import { auditCommand } from './cli/audit.ts';
import { bareCommand } from './cli/bare.ts';
import { benchCommand } from './cli/bench.ts';
import { crashStatesCommand } from './cli/crash-states.ts';
import { exploreCommand } from './cli/explore.ts';
import { fightCommand } from './cli/fight.ts';
import { fuzzCommand } from './cli/fuzz.ts';
import { harmCommand } from './cli/harm.ts';
import { helpText, isCommand } from './cli/help.ts';
import { reasonOf } from './cli/input.ts';
import { inspectCommand } from './cli/inspect.ts';
import { resumeCommand } from './cli/resume.ts';
import { runCommand } from './cli/run.ts';
import { selftestCommand } from './cli/selftest.ts';
import { EXIT_FAILED, EXIT_OK, EXIT_USAGE, FailureError, UsageError } from './cli/usage-error.ts';
import { version } from './cli/version.ts';

/** A command gets its words and returns the exit code. */
type Command = (words: string[]) => Promise<number>;

const COMMANDS: Record<string, Command> = {
  run: runCommand,
  bare: bareCommand,
  fight: fightCommand,
  resume: resumeCommand,
  inspect: inspectCommand,
  audit: auditCommand,
  bench: benchCommand,
  explore: exploreCommand,
  'crash-states': crashStatesCommand,
  fuzz: fuzzCommand,
  harm: harmCommand,
  selftest: selftestCommand,
};

const unknownCommand = (word: string): UsageError =>
  new UsageError(`unknown command ${word}: see gupbed --help`);

const main = async (words: string[]): Promise<number> => {
  const [first, ...rest] = words;
  if (first === '--version' || first === '-V') {
    process.stdout.write(`gupbed ${version()}\n`);
    return EXIT_OK;
  }
  if (first === undefined || first === '--help' || first === '-h' || first === 'help') {
    const topic = first === 'help' ? rest[0] : undefined;
    if (topic !== undefined && !isCommand(topic)) throw unknownCommand(topic);
    process.stdout.write(helpText(topic));
    return first === undefined ? EXIT_USAGE : EXIT_OK;
  }
  if (first === GUEST_BENCH_COMMAND && process.send !== undefined) return guestBenchCommand(rest);
  if (first.startsWith('-')) throw new UsageError(`unknown option ${first}: see gupbed --help`);
  if (!isCommand(first)) throw unknownCommand(first);
  if (rest.includes('--help') || rest.includes('-h')) {
    process.stdout.write(helpText(first));
    return EXIT_OK;
  }
  return COMMANDS[first]!(rest);
};

// A reader that has seen enough (`| head`) closes the pipe: end as any filter does.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(EXIT_OK);
  process.stderr.write(`gupbed: standard output: ${reasonOf(error)}\n`);
  process.exit(EXIT_FAILED);
});
// Whoever was to read what is wrong has gone: the exit code still says it.
process.stderr.on('error', () => {});

main(process.argv.slice(2)).then(
  (code) => {
    process.exitCode = code;
  },
  (error: unknown) => {
    if (error instanceof UsageError || error instanceof FailureError) {
      process.stderr.write(`gupbed: ${error.message}\n`);
      process.exitCode = error instanceof UsageError ? EXIT_USAGE : EXIT_FAILED;
      return;
    }
    // A broken rule of our own: say what and where, once.
    process.stderr.write(`gupbed: internal error: ${(error as Error).stack ?? String(error)}\n`);
    process.exitCode = EXIT_FAILED;
  },
);
