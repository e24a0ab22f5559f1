/** `gupbed resume`: a saved machine goes on. */
import type { Guest } from '../machine/guest.ts';
import { hostRamBytes } from '../machine/guest-config.ts';
import { HostMachine, type HostState, isHostState } from '../machine/host.ts';
import { readSnapshot, SnapshotError } from '../machine/snapshot.ts';
import { parseCommandLine } from './args.ts';
import { printLine } from './fight.ts';
import { limitOf, RUN_OPTIONS, SAVE_OPTIONS, savePlanOf, wantsJson } from './host-options.ts';
import { runHost } from './host-run.ts';
import { readInput, withRoomFor } from './input.ts';
import { UsageError } from './usage-error.ts';

export const resumeCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('resume', words, { ...RUN_OPTIONS, ...SAVE_OPTIONS });
  if (args.positionals.length !== 1)
    throw new UsageError('resume: name one saved machine, as in: gupbed resume FILE');
  const file = args.positionals[0]!;
  const limit = limitOf(args);
  const save = savePlanOf(args);
  const json = wantsJson(args);
  const state = readState(file);
  const onLine = (guest: Guest, line: string): void => {
    if (json) return;
    if (machine.guests.length > 1) printLine(guest, line);
    else process.stdout.write(`${line}\n`);
  };
  const machine = restored(file, state, onLine);
  const summary = machine.guests.some((guest) => guest.config.activity !== null);
  return runHost(machine, { limit, save, json, summary });
};

/** @throws UsageError when the records of the file do not make a machine */
const restored = (
  file: string,
  state: HostState,
  onLine: (guest: Guest, line: string) => void,
): HostMachine => {
  try {
    return withRoomFor(
      hostRamBytes(state.config),
      () => new HostMachine(state.config, { onLine }, state),
    );
  } catch (error) {
    if (error instanceof UsageError) throw error;
    throw new UsageError(`${file}: a saved machine, but its records do not fit together`);
  }
};

/** @throws UsageError when the file is not a saved machine of this version */
const readState = (file: string): HostState => {
  try {
    const state = readSnapshot(readInput(file));
    if (!isHostState(state)) throw new SnapshotError('a saved machine of another version');
    return state;
  } catch (error) {
    if (error instanceof SnapshotError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
};
