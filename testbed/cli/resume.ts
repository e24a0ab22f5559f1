/** `gupbed resume`: a saved machine goes on. */
import { HostMachine, isHostState } from '../machine/host.ts';
import { readSnapshot, SnapshotError } from '../machine/snapshot.ts';
import { parseCommandLine } from './args.ts';
import { printLine } from './fight.ts';
import { JSON_OPTION, LIMIT_OPTION, limitOf, SAVE_OPTIONS, savePlanOf } from './host-options.ts';
import { runHost } from './host-run.ts';
import { readInput } from './input.ts';
import { UsageError } from './usage-error.ts';

export const resumeCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('resume', words, {
    ...LIMIT_OPTION,
    ...SAVE_OPTIONS,
    ...JSON_OPTION,
  });
  if (args.positionals.length !== 1)
    throw new UsageError('resume: name one saved machine, as in: gupbed resume FILE');
  const file = args.positionals[0]!;
  const limit = limitOf(args);
  const save = savePlanOf(args);
  const json = args.values['json'] === true;
  const state = readState(file);
  const several = state.config.guests.length > 1;
  const machine = new HostMachine(
    state.config,
    {
      onLine: (guest, line) => {
        if (json) return;
        if (several) printLine(guest, line);
        else process.stdout.write(`${line}\n`);
      },
    },
    state,
  );
  return runHost(machine, {
    limit,
    save,
    json,
    summary: state.config.guests.some((g) => g.activity !== null),
  });
};

const readState = (file: string) => {
  try {
    const state = readSnapshot(readInput(file));
    if (!isHostState(state)) throw new SnapshotError('a saved machine of another version');
    return state;
  } catch (error) {
    if (error instanceof SnapshotError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
};
