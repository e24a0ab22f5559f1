/** `gupbed harm`: what pinned and referenced pages keep a host from doing, measured. */
import { HARM_RAM_MAX, HARM_RAM_MIN, harmSizes } from '../harm/host.ts';
import { HOLDERS, type Holder } from '../harm/holders.ts';
import { HarmRun } from '../harm/run.ts';
import { harmLines } from '../harm/text.ts';
import { wantsColour } from '../report/table.ts';
import { parseCommandLine, parseSize } from './args.ts';
import { changedPolicyOf, POLICY_OPTIONS, seedOf, wantsJson } from './host-options.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_INTERRUPTED, EXIT_OK, UsageError } from './usage-error.ts';

export const harmCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('harm', words, {
    ...POLICY_OPTIONS,
    ram: { type: 'string', default: '2G' },
    seed: { type: 'string', default: '1' },
    json: { type: 'boolean', default: false },
  });
  const holders = holdersOf(args.positionals);
  const policy = changedPolicyOf(args);
  const seed = seedOf(args);
  const ramBytes = parseSize('--ram', String(args.values['ram']), HARM_RAM_MIN, HARM_RAM_MAX);
  const run = new HarmRun({ policy, seed, sizes: harmSizes(ramBytes), holders });
  const { outcome, seconds } = await runLoop(
    () => run.step(),
    () => run.status(),
    1,
  );
  if (outcome === 'interrupted') {
    process.stderr.write(`gupbed: interrupted: harm, ${run.status()}\n`);
    return EXIT_INTERRUPTED;
  }
  const { rows, times } = run;
  const { movableBytes, cmaBytes } = run.options.sizes;
  if (wantsJson(args)) {
    const host = { seconds, times };
    const head = { policy: policy.name, seed, ramBytes, movableBytes, cmaBytes };
    process.stdout.write(`${JSON.stringify({ ...head, rows, host }, null, 2)}\n`);
  } else {
    const lines = harmLines(run, wantsColour(process.stdout));
    process.stdout.write(`${lines.join('\n')}\n`);
  }
  return EXIT_OK;
};

/** Those that are named, in the table's order; all of them where none is. @throws UsageError for a name that is none */
const holdersOf = (names: readonly string[]): readonly Holder[] => {
  const known = HOLDERS.map(({ name }) => name);
  for (const name of names)
    if (!known.includes(name))
      throw new UsageError(`harm: no holder ${name}, there are ${known.join(', ')}`);
  return names.length === 0 ? HOLDERS : HOLDERS.filter(({ name }) => names.includes(name));
};
