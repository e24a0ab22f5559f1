/** `gupbed fight`, the main job: two guests check their memory while the host moves it under them. */
import { fightConfig, FIGHT_GUESTS } from '../machine/fight.ts';
import type { Guest } from '../machine/guest.ts';
import { HostMachine } from '../machine/host.ts';
import { parseCommandLine } from './args.ts';
import { guestFile } from './guest-file.ts';
import {
  JSON_OPTION,
  LIMIT_OPTION,
  limitOf,
  POLICY_OPTION,
  policyOf,
  SAVE_OPTIONS,
  SEED_OPTION,
  savePlanOf,
  seedOf,
} from './host-options.ts';
import { runHost } from './host-run.ts';
import { readElf } from './input.ts';
import { paint, wantsColour } from './table.ts';
import { UsageError } from './usage-error.ts';

export const fightCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('fight', words, {
    ...SEED_OPTION,
    ...LIMIT_OPTION,
    ...POLICY_OPTION,
    ...SAVE_OPTIONS,
    ...JSON_OPTION,
  });
  if (args.positionals.length > 0)
    throw new UsageError(`fight: takes no argument, but got ${args.positionals[0]}`);
  const limit = limitOf(args);
  const save = savePlanOf(args);
  const json = args.values['json'] === true;
  const config = fightConfig(seedOf(args), policyOf(args));
  const machine = new HostMachine(config, { onLine: json ? () => {} : printLine });
  for (const guest of machine.guests) machine.boot(guest, readElf(guestFile(guest.config.name)));
  return runHost(machine, { limit, save, json, summary: true });
};

/** A guest's line, behind the guest's name. */
export const printLine = (guest: Guest, line: string): void => {
  const width = Math.max(...FIGHT_GUESTS.map((name) => name.length));
  const name = paint(wantsColour(process.stdout), 'cyan', guest.config.name.padEnd(width));
  process.stdout.write(`${name} | ${line}\n`);
};
