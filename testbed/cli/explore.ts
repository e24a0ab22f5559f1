/** `gupbed explore`: every interleaving of a scenario, up to a bound on preemptions. */
import { EXPLORING } from '#cells';
import { endWithParent, runExploring } from '../explore/child.ts';
import { Explored } from '../explore/explored.ts';
import { parseReplay, type Replay, replayText, scheduleOf } from '../explore/replay.ts';
import type { Scenario, Variant } from '../explore/scenario.ts';
import { SCENARIOS, scenarioOf } from '../explore/scenarios.ts';
import { tell } from '../explore/steps.ts';
import { headLine, listLines, replayLines, verdictLines } from '../explore/text.ts';
import { type Verdict, VariantSearch } from '../explore/verdict.ts';
import { wantsColour } from '../report/table.ts';
import { type ParsedArgs, parseCommandLine, parseCount } from './args.ts';
import { readInput } from './input.ts';
import { checkOutput, writeOutput } from './output.ts';
import { runLoop } from './run-loop.ts';
import { EXIT_FAILED, EXIT_INTERRUPTED, EXIT_OK, FailureError, UsageError } from './usage-error.ts';

/** More than any scenario has steps. */
const MAX_BOUND = 1000;

/** What the user asks for. */
interface Plan {
  scenario: Scenario;
  variants: readonly Variant[];
  bound: number;
  json: boolean;
  /** Where the schedule goes that goes wrong. */
  out: string | null;
  replay: { file: string; replay: Replay } | null;
}

export const exploreCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('explore', words, {
    bound: { type: 'string' },
    variant: { type: 'string' },
    out: { type: 'string' },
    replay: { type: 'string' },
    json: { type: 'boolean', default: false },
  });
  const [name, ...others] = args.positionals;
  if (name === undefined || others.length > 0)
    throw new UsageError('explore: name one scenario, as in: gupbed explore NAME, or list');
  if (name === 'list') return list(args);
  const plan = planOf(name, args);
  if (!EXPLORING) return runExploring(['explore', ...words]);
  endWithParent();
  return plan.replay === null ? search(plan) : replayFile(plan, plan.replay);
};

/* ---- what the user asks for ---- */

const planOf = (name: string, { values }: ParsedArgs): Plan => {
  const scenario = scenarioOf(name);
  if (scenario === undefined)
    throw new UsageError(
      `explore: no scenario ${name}, there are ${SCENARIOS.map((s) => s.name).join(', ')}`,
    );
  const text = (option: string): string | null => {
    const value = values[option];
    return typeof value === 'string' ? value : null;
  };
  const [variant, out, bound, file] = [text('variant'), text('out'), text('bound'), text('replay')];
  const replay = file === null ? null : readReplay(scenario, file);
  if (out !== null) {
    if (variant === null) throw new UsageError(`--out ${out}: name one variant, with --variant`);
    if (replay !== null) throw new UsageError('--out does not go with --replay');
    checkOutput('--out', out);
  }
  if (replay !== null && (variant !== null || bound !== null))
    throw new UsageError('--replay goes with neither --variant nor --bound: the file says it all');
  return {
    scenario,
    variants: variant === null ? scenario.variants : [variantOf(scenario, '--variant', variant)],
    bound: bound === null ? scenario.bound : parseCount('--bound', bound, 0, MAX_BOUND),
    json: values['json'] === true,
    out,
    replay,
  };
};

/** @param where what to begin the error with */
const variantOf = (scenario: Scenario, where: string, name: string): Variant => {
  const found = scenario.variants.find((variant) => variant.name === name);
  if (found !== undefined) return found;
  const names = scenario.variants.map((variant) => variant.name).join(', ');
  throw new UsageError(`${where}: ${scenario.name} has no variant ${name}, it has ${names}`);
};

const readReplay = (scenario: Scenario, file: string): NonNullable<Plan['replay']> => {
  const replay = parseReplay(new TextDecoder().decode(readInput(file)));
  if (typeof replay === 'string') throw new UsageError(`${file}: ${replay}`);
  if (replay.scenario !== scenario.name)
    throw new UsageError(`${file}: a schedule of the scenario ${replay.scenario}`);
  variantOf(scenario, file, replay.variant);
  return { file, replay };
};

/* ---- what the command does ---- */

const print = (lines: readonly string[]): void => {
  process.stdout.write(lines.map((line) => `${line}\n`).join(''));
};

const printJson = (value: unknown): void => print([JSON.stringify(value, null, 2)]);

const list = ({ values }: ParsedArgs): number => {
  for (const option of ['bound', 'variant', 'out', 'replay'])
    if (values[option] !== undefined) throw new UsageError(`explore list: takes no --${option}`);
  if (values['json'] === true)
    printJson(
      SCENARIOS.map(({ name, title, model, bound, variants }) => ({
        name,
        title,
        model,
        bound,
        variants: variants.map((v) => ({ name: v.name, title: v.title, declared: v.declared })),
      })),
    );
  else print(listLines(SCENARIOS, wantsColour(process.stdout)));
  return EXIT_OK;
};

const search = async (plan: Plan): Promise<number> => {
  const { scenario, variants, bound, json, out } = plan;
  const colour = wantsColour(process.stdout);
  const verdicts: Verdict[] = [];
  let seconds = 0;
  let stopped: string | null = null;
  if (!json) print([headLine(scenario, colour)]);
  for (const variant of variants) {
    const searching = new VariantSearch(scenario, variant, bound);
    const run = await runLoop(
      () => searching.step(),
      () => searching.status(),
    );
    seconds += run.seconds;
    if (run.outcome === 'interrupted') stopped = searching.status();
    const verdict = searching.verdict();
    verdicts.push(verdict);
    if (!json) print(verdictLines(verdict, colour));
    if (stopped !== null) break;
  }
  const asDeclared = verdicts.every((verdict) => verdict.asDeclared);
  if (json) {
    const { name, title, model } = scenario;
    const head = { scenario: name, title, model };
    printJson({ ...head, variants: verdicts, asDeclared, host: { seconds } });
  }
  if (out !== null) saveSchedule(scenario, verdicts, out);
  if (stopped !== null) {
    process.stderr.write(`gupbed: interrupted: ${scenario.name}, ${stopped}\n`);
    return EXIT_INTERRUPTED;
  }
  return asDeclared ? EXIT_OK : EXIT_FAILED;
};

const saveSchedule = (scenario: Scenario, verdicts: readonly Verdict[], out: string): void => {
  for (const { name, violation } of verdicts) {
    if (violation === null) continue;
    const { message, schedule } = violation;
    const replay = { scenario: scenario.name, variant: name, violation: message, schedule };
    writeOutput('--out', out, replayText(replay));
    return;
  }
  process.stderr.write(`gupbed: --out ${out}: nothing written, no schedule goes wrong\n`);
};

const replayFile = (plan: Plan, { file, replay }: NonNullable<Plan['replay']>): number => {
  const { scenario, json } = plan;
  const explored = new Explored(scenario, variantOf(scenario, file, replay.variant));
  const schedule = scheduleOf(explored.actorNames, replay.schedule);
  const told = schedule === null ? null : tell(explored, schedule);
  if (told === null)
    throw new FailureError(`${file}: the schedule does not fit: another version made it`);
  const reproduced = told.violation === replay.violation;
  const { scenario: name, variant } = replay;
  if (json) printJson({ scenario: name, variant, ...told, reproduced });
  else print(replayLines(scenario, told, wantsColour(process.stdout)));
  if (!reproduced)
    process.stderr.write(
      `gupbed: ${file}: not as the file says: ${replay.violation ?? 'nothing is wrong'}\n`,
    );
  return reproduced ? EXIT_OK : EXIT_FAILED;
};
