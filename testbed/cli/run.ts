/** `gupbed run`: one guest program under the hypervisor. */
import { basename } from 'node:path';
import { BACKING_KINDS, type BackingKind, isBackingKind } from '../machine/backing.ts';
import type { Guest } from '../machine/guest.ts';
import {
  FIGHT_GAPS,
  GUEST_MEMORY_DEFAULT,
  GUEST_MEMORY_MAX,
  GUEST_MEMORY_MIN,
  type HostConfig,
  hostRamBytes,
} from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { putParameters } from '../machine/parameters.ts';
import { formatSize, parseCommandLine, parseCount, parseSize } from './args.ts';
import { HOST_OPTIONS, hostPlanOf, parametersOf } from './host-options.ts';
import { runHost } from './host-run.ts';
import { readElf, refusingElf, withRoomFor } from './input.ts';
import { PART_OPTIONS, partsOf } from './part-options.ts';
import { UsageError } from './usage-error.ts';

/** One hart a vCPU, and a machine has eight; the last is kept for host processes. */
const MAX_VCPUS = 7;

/** `--backing`. @throws UsageError for a kind that is none */
const backingOf = (kind: string): BackingKind => {
  if (!isBackingKind(kind))
    throw new UsageError(`--backing ${kind}: one of ${BACKING_KINDS.join(', ')}`);
  return kind;
};

export const runCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('run', words, {
    memory: { type: 'string', default: formatSize(GUEST_MEMORY_DEFAULT) },
    harts: { type: 'string', default: '1' },
    activity: { type: 'boolean', default: false },
    param: { type: 'string', multiple: true },
    backing: { type: 'string', default: 'mixed' },
    ...PART_OPTIONS,
    ...HOST_OPTIONS,
  });
  const { values, positionals } = args;
  if (positionals.length !== 1)
    throw new UsageError('run: name one guest program, as in: gupbed run GUEST.elf');
  const file = positionals[0]!;
  const { seed, policy, provenance, limit, save, json } = hostPlanOf(args);
  const config: HostConfig = {
    seed,
    policy,
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
        backing: backingOf(String(values['backing'])),
        parts: partsOf(args),
      },
    ],
  };
  const image = putParameters(readElf(file), parametersOf(args));
  const onLine = (_guest: Guest, line: string): void => {
    if (!json) process.stdout.write(`${line}\n`);
  };
  const machine = withRoomFor(
    hostRamBytes(config),
    () => new HostMachine(config, { onLine, provenance }),
  );
  refusingElf(file, () => machine.boot(machine.guests[0]!, image));
  return runHost(machine, { limit, save, json, summary: values['activity'] === true });
};
