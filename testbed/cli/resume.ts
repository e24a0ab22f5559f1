/** `gupbed resume`: a saved machine goes on. */
import type { Guest } from '../machine/guest.ts';
import { hostRamBytes } from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { parseCommandLine } from './args.ts';
import { printLine } from './fight.ts';
import { limitOf, RUN_OPTIONS, SAVE_OPTIONS, savePlanOf, wantsJson } from './host-options.ts';
import { runHost } from './host-run.ts';
import { withRoomFor } from './input.ts';
import { fitting, readSaved } from './saved.ts';
import { UsageError } from './usage-error.ts';

export const resumeCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('resume', words, { ...RUN_OPTIONS, ...SAVE_OPTIONS });
  if (args.positionals.length !== 1)
    throw new UsageError('resume: name one saved machine, as in: gupbed resume FILE');
  const file = args.positionals[0]!;
  const limit = limitOf(args);
  const save = savePlanOf(args);
  const json = wantsJson(args);
  const state = readSaved(file);
  const onLine = (guest: Guest, line: string): void => {
    if (json) return;
    if (machine.guests.length > 1) printLine(guest, line);
    else process.stdout.write(`${line}\n`);
  };
  const machine = fitting(file, () =>
    withRoomFor(hostRamBytes(state.config), () => new HostMachine(state.config, { onLine }, state)),
  );
  const summary = machine.guests.some((guest) => guest.config.activity !== null);
  return runHost(machine, { limit, save, json, summary });
};
