/** Options that commands have in common. */
import {
  createPolicy,
  isPolicyName,
  POLICY_NAMES,
  type Policy,
  type PolicyName,
  setPolicyApi,
} from '#mm';
import { type OptionSpec, type ParsedArgs, parseCount } from './args.ts';
import { MAX_PARAMETERS } from '../machine/parameters.ts';
import { checkOutput } from './output.ts';
import { UsageError } from './usage-error.ts';

/** Of every command that runs something. */
export const RUN_OPTIONS = {
  'max-instructions': { type: 'string' },
  json: { type: 'boolean', default: false },
} as const satisfies OptionSpec;
/** Of those that run a machine with a host. */
export const SAVE_OPTIONS = {
  save: { type: 'string' },
  'save-at': { type: 'string' },
} as const satisfies OptionSpec;
/** Of those that make such a machine. */
export const SEED_OPTIONS = {
  seed: { type: 'string', default: '1' },
  policy: { type: 'string', default: 'linux-7' },
  provenance: { type: 'boolean', default: false },
} as const satisfies OptionSpec;

/** All of the three. */
export const HOST_OPTIONS = { ...SEED_OPTIONS, ...RUN_OPTIONS, ...SAVE_OPTIONS };

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

/** `--max-instructions`; Infinity without it. */
export const limitOf = (args: ParsedArgs): number => {
  const value = text(args, 'max-instructions');
  if (value === undefined) return Number.POSITIVE_INFINITY;
  return parseCount('--max-instructions', value, 1, Number.MAX_SAFE_INTEGER);
};

/** `--json`. */
export const wantsJson = (args: ParsedArgs): boolean => args.values['json'] === true;

/** `--param N`, in their order. @throws UsageError for one that is no number, or too many */
export const parametersOf = ({ values }: ParsedArgs): number[] => {
  const words = values['param'];
  const numbers = Array.isArray(words) ? words : [];
  if (numbers.length > MAX_PARAMETERS)
    throw new UsageError(`at most ${MAX_PARAMETERS} times --param`);
  return numbers.map((word) => parseCount('--param', word, 0, Number.MAX_SAFE_INTEGER));
};

/** `--seed`. */
export const seedOf = (args: ParsedArgs): number =>
  parseCount('--seed', text(args, 'seed') ?? '1', 0, 0xffff_ffff);

/** `--policy`: the name of a preset. @throws UsageError for another name */
export const policyOf = (args: ParsedArgs): PolicyName => {
  const name = text(args, 'policy') ?? 'linux-7';
  if (!isPolicyName(name))
    throw new UsageError(`--policy ${name}: one of ${POLICY_NAMES.join(', ')}`);
  return name;
};

/** `--policy` and `--set USER=API`, of commands that try single changes. */
export const POLICY_OPTIONS = {
  policy: { type: 'string', default: 'linux-7' },
  set: { type: 'string', multiple: true },
} as const satisfies OptionSpec;

/** The policy that POLICY_OPTIONS ask for. @throws UsageError for a name, user or API that is none */
export const changedPolicyOf = (args: ParsedArgs): Policy => {
  const policy = createPolicy(policyOf(args));
  const changes = args.values['set'];
  for (const change of Array.isArray(changes) ? changes : []) {
    const [user = '', api] = change.split('=');
    if (api === undefined) throw new UsageError(`--set ${change}: USER=API is wanted`);
    const wrong = setPolicyApi(policy, user, api);
    if (wrong !== null) throw new UsageError(`--set ${change}: ${wrong}`);
  }
  return policy;
};

/**
 * `--save` and `--save-at`; null without them.
 * @throws UsageError when only half of it is given, or the file cannot be written
 */
export const savePlanOf = (args: ParsedArgs): SavePlan | null => {
  const path = text(args, 'save');
  const at = text(args, 'save-at');
  if (path === undefined && at === undefined) return null;
  if (path === undefined) throw new UsageError('--save-at goes with --save FILE');
  if (at === undefined) throw new UsageError('--save goes with --save-at N');
  checkOutput('--save', path);
  return { path, at: parseCount('--save-at', at, 1, Number.MAX_SAFE_INTEGER) };
};

/** What HOST_OPTIONS say. */
export interface HostPlan {
  seed: number;
  policy: PolicyName;
  /** Write down who holds what by GUP. */
  provenance: boolean;
  limit: number;
  save: SavePlan | null;
  json: boolean;
}

/** @throws UsageError for each option that makes no sense */
export const hostPlanOf = (args: ParsedArgs): HostPlan => ({
  seed: seedOf(args),
  policy: policyOf(args),
  provenance: args.values['provenance'] === true,
  limit: limitOf(args),
  save: savePlanOf(args),
  json: wantsJson(args),
});
