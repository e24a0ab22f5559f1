/** `gupbed crash-states`: what a loss of power can leave of a guest's persistent memory, judged image by image. */
import { accessSync, constants, existsSync } from 'node:fs';
import { type ElfImage, parseElf, type PersistDomain } from '#emu';
import { bareChecker, type Checker, programChecker } from '../crash/checker.ts';
import { type CrashResult, CrashRun, type CrashSubject, type Loss } from '../crash/run.ts';
import {
  type CrashSource,
  domainOf,
  fileSource,
  nvdimmSource,
  pmemDiskOf,
} from '../crash/source.ts';
import type { HostConfig } from '../machine/guest-config.ts';
import { hostRamBytes } from '../machine/guest-config.ts';
import { HostMachine } from '../machine/host.ts';
import { putParameters } from '../machine/parameters.ts';
import { withCommas } from '../report/numbers.ts';
import { paint, wantsColour } from '../report/table.ts';
import { Rng } from '../rng.ts';
import { type ParsedArgs, parseCommandLine, parseCount, parseSize } from './args.ts';
import { limitOf, parametersOf, policyOf, seedOf, wantsJson } from './host-options.ts';
import { readElf, readInput, reasonOf, refusingElf, withRoomFor } from './input.ts';
import { partsOf, PERSISTENT_OPTIONS } from './part-options.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, FailureError, UsageError } from './usage-error.ts';

const MIB = 2 ** 20;
/** A guest that runs longer is given up, where nothing else is said. */
const DEFAULT_LIMIT = 1e9;
const ELF_MAGIC = 0x7f;

/** The program that judges. @throws UsageError where there is none */
const checkerOf = (args: ParsedArgs, guest: string): { name: string; checker: Checker } => {
  const named = args.values['checker'];
  const name = typeof named === 'string' ? named : guest.replace(/\.elf$/, '-recover.elf');
  if (named === undefined && (name === guest || !existsSync(name)))
    throw new UsageError(`crash-states: no ${name}: name a program with --checker`);
  const bytes = readInput(name);
  if (bytes[0] === ELF_MAGIC && isRiscv(bytes))
    return { name, checker: refusingElf(name, () => bareChecker(parseElf(bytes))) };
  try {
    accessSync(name, constants.X_OK);
  } catch (error) {
    throw new UsageError(`--checker ${name}: ${reasonOf(error)}`);
  }
  return { name, checker: programChecker(name) };
};

/** e_machine of an ELF file. */
const isRiscv = (bytes: Uint8Array): boolean => bytes[18] === 0xf3 && bytes[19] === 0;

/** The persistent memory of a machine's guest. */
const sourceOf = (machine: HostMachine): { source: CrashSource; domain?: PersistDomain } => {
  const domain = domainOf(machine);
  if (domain !== undefined) return { source: nvdimmSource(domain), domain };
  const disk = pmemDiskOf(machine);
  const part = machine.guests[0]!.parts[0];
  if (disk === undefined || part === undefined)
    throw new Error('the guest has no persistent memory');
  return { source: fileSource(disk, part) };
};

const makeSubject = (config: HostConfig, image: ElfImage): CrashSubject => {
  const machine = new HostMachine(config);
  machine.boot(machine.guests[0]!, image);
  const { source, domain } = sourceOf(machine);
  return {
    machine,
    source,
    watch: (listener) => {
      if (domain !== undefined)
        domain.onEvent = (kind, _hart, line) => listener(kind, kind === 'fence' ? -1 : line);
    },
  };
};

export const crashStatesCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('crash-states', words, {
    ...PERSISTENT_OPTIONS,
    checker: { type: 'string' },
    points: { type: 'string', default: '1000' },
    images: { type: 'string', default: '64' },
    param: { type: 'string', multiple: true },
    memory: { type: 'string', default: '16M' },
    seed: { type: 'string', default: '1' },
    policy: { type: 'string', default: 'linux-7' },
    'max-instructions': { type: 'string' },
    json: { type: 'boolean', default: false },
  });
  if (args.positionals.length !== 1)
    throw new UsageError(
      'crash-states: name one guest program, as in: gupbed crash-states GUEST.elf',
    );
  const guest = args.positionals[0]!;
  const parts = partsOf(args);
  if (parts.length !== 1)
    throw new UsageError('crash-states: one of --nvdimm SIZE and --pmem SIZE is wanted');
  const image = putParameters(readElf(guest), parametersOf(args));
  const { name, checker } = checkerOf(args, guest);
  const seed = seedOf(args);
  const limit = limitOf(args);
  const config: HostConfig = {
    seed,
    policy: policyOf(args),
    guests: [
      {
        name: 'guest',
        memoryBytes: parseSize('--memory', String(args.values['memory']), 4 * MIB, 256 * MIB),
        harts: 1,
        activity: null,
        parts,
      },
    ],
  };
  const points = parseCount('--points', String(args.values['points']), 1, 1e7);
  const images = parseCount('--images', String(args.values['images']), 1, 1e6);
  const run = withRoomFor(hostRamBytes(config), () =>
    refusingElf(guest, () => begin(config, image, { checker, points, images, seed, limit })),
  );
  const { outcome, seconds } = await runLoop(
    () => run.step(),
    () => run.status,
    1,
  );
  if (outcome === 'interrupted') {
    process.stderr.write(`gupbed: interrupted: ${run.status}\n`);
    return EXIT_INTERRUPTED;
  }
  const { result } = run;
  const ok = result.badPoints === 0;
  if (wantsJson(args)) {
    const report = { guest, checker: name, seed, ok, ...result, host: { seconds } };
    process.stdout.write(`${JSON.stringify(report, null, 2)}\n`);
  } else process.stdout.write(`${textOf(result, wantsColour(process.stdout)).join('\n')}\n`);
  return ok ? EXIT_OK : EXIT_FAILED;
};

interface Plan {
  checker: Checker;
  points: number;
  images: number;
  seed: number;
  limit: number;
}

/** @throws FailureError when the guest does not end by itself */
const begin = (config: HostConfig, image: ElfImage, plan: Plan): CrashRun => {
  const { checker, points, images, seed } = plan;
  const limit = Math.min(plan.limit, DEFAULT_LIMIT);
  const make = (): CrashSubject => makeSubject(config, image);
  try {
    return new CrashRun({ make, checker, points, images, rng: new Rng(seed), limit });
  } catch (error) {
    if (error instanceof Error && error.message.startsWith('the guest'))
      throw new FailureError(error.message);
    throw error;
  }
};

const textOf = (result: CrashResult, colour: boolean): string[] => {
  const { instructions, points, moments, exhausted, images, badPoints, committed, loss } = result;
  const verdict =
    badPoints === 0
      ? paint(colour, 'green', 'nothing that was promised is ever lost')
      : paint(colour, 'red', `${withCommas(badPoints)} moments at which a promise can be broken`);
  return [
    `power lost at ${withCommas(points)} of ${withCommas(instructions)} instructions, ${committed} promises`,
    `${withCommas(moments)} different moments, ${withCommas(exhausted)} of them with every image that recovery can tell apart`,
    `${withCommas(images)} images judged: ${verdict}`,
    ...(loss === null ? [] : ['', ...historyOf(loss)]),
  ];
};

/** Entries of a history that are printed at its end; what comes before is counted. */
const HISTORY_LINES = 40;

const historyOf = ({ instruction, what, lost, committed, history }: Loss): string[] => {
  const shown = history.slice(-HISTORY_LINES);
  const left = history.length - shown.length;
  return [
    `the shortest history (${committed} promised): ${what}`,
    ...(left > 0 ? [`  ... ${left} events before`] : []),
    ...shown.map((entry) => {
      const at = `  ${withCommas(entry.instruction).padStart(12)}  `;
      return at + (entry.unit < 0 ? entry.what : `${entry.what} ${entry.unit}`);
    }),
    `  ${withCommas(instruction).padStart(12)}  power fails`,
    ...lost.map(
      ({ unit, state, states }) =>
        `  lost: ${unit}, which has ${state} of its last ${states - 1} changes`,
    ),
  ];
};
