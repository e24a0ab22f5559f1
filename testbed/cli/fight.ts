/** `gupbed fight`, the main job: two guests check their memory while the host moves it under them. */
import { fightConfig, FIGHT_GUESTS } from '../machine/fight.ts';
import type { Guest } from '../machine/guest.ts';
import { hostRamBytes } from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { paint, wantsColour } from '../report/table.ts';
import { parseCommandLine } from './args.ts';
import { guestFile } from './guest-file.ts';
import { HOST_OPTIONS, hostPlanOf } from './host-options.ts';
import { runHost } from './host-run.ts';
import { readElf, withRoomFor } from './input.ts';
import { UsageError } from './usage-error.ts';

export const fightCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('fight', words, HOST_OPTIONS);
  if (args.positionals.length > 0)
    throw new UsageError(`fight: takes no argument, but got ${args.positionals[0]}`);
  const { seed, policy, provenance, limit, save, json } = hostPlanOf(args);
  const config = fightConfig(seed, policy);
  const machine = withRoomFor(
    hostRamBytes(config),
    () => new HostMachine(config, { onLine: json ? () => {} : printLine, provenance }),
  );
  for (const guest of machine.guests) machine.boot(guest, readElf(guestFile(guest.config.name)));
  return runHost(machine, { limit, save, json, summary: true });
};

/** A guest's line, behind the guest's name. */
export const printLine = (guest: Guest, line: string): void => {
  const width = Math.max(...FIGHT_GUESTS.map((name) => name.length));
  const name = paint(wantsColour(process.stdout), 'cyan', guest.config.name.padEnd(width));
  process.stdout.write(`${name} | ${line}\n`);
};
