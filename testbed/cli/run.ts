/** `gupbed run`: guest programs under the hypervisor, each in a VM of its own. */
import { basename } from 'node:path';
import type { IommuMode } from '#devices/host';
import {
  BACKING_KINDS,
  type BackingKind,
  backingMemoryMax,
  isBackingKind,
} from '../machine/backing.ts';
import type { Guest } from '../machine/guest.ts';
import {
  FIGHT_GAPS,
  GUEST_MEMORY_DEFAULT,
  GUEST_MEMORY_MAX,
  GUEST_MEMORY_MIN,
  type GuestConfig,
  type HostConfig,
  hostRamBytes,
} from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { putParameters } from '../machine/parameters.ts';
import { formatSize, type ParsedArgs, parseCommandLine, parseCount, parseSize } from './args.ts';
import { HOST_OPTIONS, hostPlanOf, parametersOf } from './host-options.ts';
import { runHost } from './host-run.ts';
import { readElf, refusingElf, withRoomFor } from './input.ts';
import { PART_OPTIONS, partsOf } from './part-options.ts';
import { UsageError } from './usage-error.ts';

/** One hart a vCPU, and a machine has eight; the last is kept for host processes. */
const MAX_VCPUS = 7;
/** Instructions of a turn, at most. */
const MAX_QUANTUM = 1e9;

/** `--backing`. @throws UsageError for a kind that is none */
const backingOf = (kind: string): BackingKind => {
  if (!isBackingKind(kind))
    throw new UsageError(`--backing ${kind}: one of ${BACKING_KINDS.join(', ')}`);
  return kind;
};

const IOMMU_MODES: readonly IommuMode[] = ['off', 'strict', 'deferred', 'sva'];

const DIRTY_LOGS = ['bitmap', 'manual', 'ring'] as const;

/** An option that is one of a few words. @throws UsageError for another one */
const oneOf = <T extends string>(option: string, word: string, known: readonly T[]): T => {
  const found = known.find((name) => name === word);
  if (found === undefined) throw new UsageError(`${option} ${word}: one of ${known.join(', ')}`);
  return found;
};

/** `--power-fail-at N` or `event:N`: after so many instructions, or with that event of the NVDIMM. 0: never. */
const powerFailOf = ({ values }: ParsedArgs): { instruction: number; event: number } => {
  const word = values['power-fail-at'];
  if (typeof word !== 'string') return { instruction: 0, event: 0 };
  const option = '--power-fail-at';
  const most = Number.MAX_SAFE_INTEGER;
  if (word.startsWith('event:'))
    return { instruction: 0, event: parseCount(option, word.slice('event:'.length), 1, most) };
  return { instruction: parseCount(option, word, 1, most), event: 0 };
};

/** One guest for each program, alike but for the devices, which the first one gets. @throws UsageError */
const guestsOf = (args: ParsedArgs): GuestConfig[] => {
  const { values, positionals: files } = args;
  const memoryBytes = parseSize(
    '--memory',
    String(values['memory']),
    GUEST_MEMORY_MIN,
    GUEST_MEMORY_MAX,
  );
  const harts = parseCount('--harts', String(values['harts']), 1, MAX_VCPUS);
  if (files.length * harts > MAX_VCPUS)
    throw new UsageError(
      `run: ${files.length} guests of ${harts} harts: the host has ${MAX_VCPUS} for guests`,
    );
  if (files.length * memoryBytes > GUEST_MEMORY_MAX)
    throw new UsageError(
      `run: ${files.length} guests of ${formatSize(memoryBytes)}: the host has ${formatSize(GUEST_MEMORY_MAX)} for guests`,
    );
  const activity = values['activity'] === true ? FIGHT_GAPS : null;
  const backing = backingOf(String(values['backing']));
  const most = backingMemoryMax(backing);
  if (memoryBytes > most)
    throw new UsageError(
      `--memory ${formatSize(memoryBytes)}: ${backing} has ${formatSize(most)} at most`,
    );
  const iommu = oneOf('--iommu', String(values['iommu']), IOMMU_MODES);
  const dirtyLog = oneOf('--dirty-log', String(values['dirty-log']), DIRTY_LOGS);
  const parts = partsOf(args, powerFailOf(args).event);
  return files.map((file, i) => ({
    name: guestName(file, files.indexOf(file) === i ? 0 : i),
    memoryBytes,
    harts,
    activity,
    backing,
    iommu,
    dirtyLog,
    parts: i === 0 ? parts : [],
  }));
};

/** @param number told where the same program runs more than once */
const guestName = (file: string, number: number): string =>
  basename(file).replace(/\.elf$/, '') + (number === 0 ? '' : `#${number}`);

export const runCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('run', words, {
    memory: { type: 'string', default: formatSize(GUEST_MEMORY_DEFAULT) },
    harts: { type: 'string', default: '1' },
    activity: { type: 'boolean', default: false },
    param: { type: 'string', multiple: true },
    backing: { type: 'string', default: 'mixed' },
    iommu: { type: 'string', default: 'off' },
    quantum: { type: 'string', default: '0' },
    'dirty-log': { type: 'string', default: 'bitmap' },
    'power-fail-at': { type: 'string' },
    ...PART_OPTIONS,
    ...HOST_OPTIONS,
  });
  const { values, positionals: files } = args;
  if (files.length === 0)
    throw new UsageError('run: name a guest program, as in: gupbed run GUEST.elf');
  const { seed, policy, provenance, limit, save, json } = hostPlanOf(args);
  const config: HostConfig = {
    seed,
    policy,
    guests: guestsOf(args),
    quantum: parseCount('--quantum', String(values['quantum']), 0, MAX_QUANTUM),
  };
  const parameters = parametersOf(args);
  const images = files.map((file) => putParameters(readElf(file), parameters));
  const onLine = (_guest: Guest, line: string): void => {
    if (!json) process.stdout.write(`${line}\n`);
  };
  const machine = withRoomFor(
    hostRamBytes(config),
    () => new HostMachine(config, { onLine, provenance }),
  );
  for (const [i, file] of files.entries())
    refusingElf(file, () => machine.boot(machine.guests[i]!, images[i]!));
  const summary = values['activity'] === true;
  const { instruction } = powerFailOf(args);
  return runHost(machine, { limit, save, json, summary, powerFailAt: instruction });
};
