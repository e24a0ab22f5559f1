/** Options that `run`, `fight` and `resume` have in common. */
import { dirname } from 'node:path';
import { statSync } from 'node:fs';
import { isPolicyName, POLICY_NAMES, type PolicyName } from '#mm';
import { type OptionSpec, type ParsedArgs, parseCount } from './args.ts';
import { UsageError } from './usage-error.ts';

export const LIMIT_OPTION = {
  'max-instructions': { type: 'string' },
} as const satisfies OptionSpec;
export const JSON_OPTION = {
  json: { type: 'boolean', default: false },
} as const satisfies OptionSpec;
export const SEED_OPTION = { seed: { type: 'string', default: '1' } } as const satisfies OptionSpec;
export const POLICY_OPTION = {
  policy: { type: 'string', default: 'linux-7' },
} as const satisfies OptionSpec;
export const SAVE_OPTIONS = {
  save: { type: 'string' },
  'save-at': { type: 'string' },
} as const satisfies OptionSpec;

/** Where and when to save the machine and stop. */
export interface SavePlan {
  path: string;
  /** Retired instructions, in total. */
  at: number;
}

const text = (args: ParsedArgs, name: string): string | undefined => {
  const value = args.values[name];
  return typeof value === 'string' ? value : undefined;
};

/** Infinity without the option. */
export const limitOf = (args: ParsedArgs): number => {
  const value = text(args, 'max-instructions');
  if (value === undefined) return Number.POSITIVE_INFINITY;
  return parseCount('--max-instructions', value, 1, Number.MAX_SAFE_INTEGER);
};

export const seedOf = (args: ParsedArgs): number =>
  parseCount('--seed', text(args, 'seed') ?? '1', 0, 0xffff_ffff);

export const policyOf = (args: ParsedArgs): PolicyName => {
  const name = text(args, 'policy') ?? 'linux-7';
  if (!isPolicyName(name))
    throw new UsageError(`--policy ${name}: one of ${POLICY_NAMES.join(', ')}`);
  return name;
};

/** @throws UsageError when only half of it is given, or the file cannot be written */
export const savePlanOf = (args: ParsedArgs): SavePlan | null => {
  const path = text(args, 'save');
  const at = text(args, 'save-at');
  if (path === undefined && at === undefined) return null;
  if (path === undefined) throw new UsageError('--save-at goes with --save FILE');
  if (at === undefined) throw new UsageError('--save goes with --save-at N');
  const folder = dirname(path);
  if (!statSync(folder, { throwIfNoEntry: false })?.isDirectory())
    throw new UsageError(`--save ${path}: no folder ${folder}`);
  if (statSync(path, { throwIfNoEntry: false })?.isDirectory())
    throw new UsageError(`--save ${path}: is a directory`);
  return { path, at: parseCount('--save-at', at, 1, Number.MAX_SAFE_INTEGER) };
};
