/** `gupbed run`: one guest program under the hypervisor. */
import { basename } from 'node:path';
import { ElfError } from '#emu';
import {
  FIGHT_GAPS,
  GUEST_MEMORY_MAX,
  GUEST_MEMORY_MIN,
  type HostConfig,
} from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { parseCommandLine, parseCount, parseSize } from './args.ts';
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
import { UsageError } from './usage-error.ts';

/** One hart a vCPU, and a machine has eight; the last is kept for host processes. */
const MAX_VCPUS = 7;

export const runCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('run', words, {
    memory: { type: 'string', default: '64M' },
    harts: { type: 'string', default: '1' },
    activity: { type: 'boolean', default: false },
    ...SEED_OPTION,
    ...LIMIT_OPTION,
    ...POLICY_OPTION,
    ...SAVE_OPTIONS,
    ...JSON_OPTION,
  });
  const { values, positionals } = args;
  if (positionals.length !== 1)
    throw new UsageError('run: name one guest program, as in: gupbed run GUEST.elf');
  const file = positionals[0]!;
  const config: HostConfig = {
    seed: seedOf(args),
    policy: policyOf(args),
    guests: [
      {
        name: basename(file).replace(/\.elf$/, ''),
        memoryBytes: parseSize(
          '--memory',
          String(values['memory']),
          GUEST_MEMORY_MIN,
          GUEST_MEMORY_MAX,
        ),
        harts: parseCount('--harts', String(values['harts']), 1, MAX_VCPUS),
        activity: values['activity'] === true ? FIGHT_GAPS : null,
      },
    ],
  };
  const limit = limitOf(args);
  const save = savePlanOf(args);
  const json = values['json'] === true;
  const image = readElf(file);
  const machine = new HostMachine(config, {
    onLine: (_guest, line) => {
      if (!json) process.stdout.write(`${line}\n`);
    },
  });
  try {
    machine.boot(machine.guests[0]!, image);
  } catch (error) {
    if (error instanceof ElfError) throw new UsageError(`${file}: ${error.message}`);
    throw error;
  }
  return runHost(machine, { limit, save, json, summary: values['activity'] === true });
};
