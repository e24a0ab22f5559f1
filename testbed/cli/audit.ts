/** `gupbed audit`: every user of GUP in the model, and what its API under a policy means. */
import { GUP_USERS, type GupUse, type GupUser, type Policy } from '#mm';
import { alignRows, paint, wantsColour } from '../report/table.ts';
import { parseCommandLine } from './args.ts';
import { changedPolicyOf, POLICY_OPTIONS, wantsJson } from './host-options.ts';
import { EXIT_OK, UsageError } from './usage-error.ts';

/** What a policy says besides of no user in particular, by the names that `--set` knows. */
const rulesOf = ({ pinnedWriteback, longtermDrain }: Policy) => ({
  'pinned-writeback': pinnedWriteback,
  'longterm-drain': longtermDrain,
});

/** What each of those means. */
const RULE_WORDS: Record<string, string> = {
  ignore: 'writeback does not look for pins: who holds a page may dirty it behind the file system',
  bounce:
    'writeback writes a copy of what may be pinned, which stays dirty until the pins are gone',
  none: 'a long-term pin drains no batches, and fails on pages that wait in one',
  'not-lru': 'a long-term pin drains the batches where a page that has to move is on no LRU list',
  referenced:
    'a long-term pin drains them where such a page has references that nobody accounts for',
  wait: 'a long-term pin drains them, and waits a while until such references are gone',
};

/** One user under the policy. */
export interface AuditRow extends GupUse {
  user: string;
  what: string;
  api: string;
  since: string;
}

export const auditCommand = async (words: string[]): Promise<number> => {
  const args = parseCommandLine('audit', words, {
    ...POLICY_OPTIONS,
    json: { type: 'boolean', default: false },
  });
  if (args.positionals.length > 0)
    throw new UsageError(`audit: ${args.positionals[0]} is not an option`);
  const policy = changedPolicyOf(args);
  const rows = GUP_USERS.map((user) => rowOf(user, policy));
  if (wantsJson(args))
    process.stdout.write(
      `${JSON.stringify({ policy: policy.name, rules: rulesOf(policy), users: rows }, null, 2)}\n`,
    );
  else
    process.stdout.write(
      `${auditText(policy, rows, wantsColour(process.stdout), process.stdout.columns ?? 100)}\n`,
    );
  return EXIT_OK;
};

const rowOf = (user: GupUser, policy: Policy): AuditRow => {
  const api = policy.apis[user.id];
  const use = user.uses[api];
  if (use === undefined) throw new Error(`${user.id} has no row for ${api}`);
  return { user: user.id, what: user.what, api, since: user.since, ...use };
};

/** Text broken at blanks to a width, each line after the first indented. */
const wrap = (text: string, width: number, indent: string): string => {
  const lines: string[] = [];
  let line = '';
  for (const word of text.split(' ')) {
    if (line !== '' && line.length + 1 + word.length > width) {
      lines.push(line);
      line = word;
    } else line = line === '' ? word : `${line} ${word}`;
  }
  return [...lines, line].join(`\n${indent}`);
};

const STYLE = { none: 'green', bounded: 'yellow', unbounded: 'red' } as const;
const INDENT = ' '.repeat(12);

/** The table, and below it what each row means. @param width columns of the output */
export const auditText = (
  policy: Policy,
  rows: AuditRow[],
  colour: boolean,
  width: number,
): string => {
  const text = (label: string, value: string): string =>
    `  ${label.padEnd(10)}${wrap(value, Math.max(40, Math.min(width, 120) - INDENT.length), INDENT)}`;
  const [head, ...lines] = alignRows([
    ['user', 'API', 'hold'],
    ...rows.map(({ user, api, hold }) => [user, api, hold]),
  ]);
  const blocks = rows.map((row) =>
    [
      `${paint(colour, 'bold', row.user)}: ${row.api}, ${paint(colour, STYLE[row.hold], `hold ${row.hold}`)}`,
      text('who', row.what),
      text('until', row.until),
      text('dirty', row.dirty),
      text('notifier', row.notifier),
      text('unsafe', row.unsafe),
      text('since', row.since),
    ].join('\n'),
  );
  return [
    `policy ${policy.name}`,
    '',
    paint(colour, 'bold', head ?? ''),
    ...lines,
    '',
    ...Object.entries(rulesOf(policy)).map(
      ([name, how]) => `${paint(colour, 'bold', name)}: ${how}. ${RULE_WORDS[how]}`,
    ),
    '',
    blocks.join('\n\n'),
  ].join('\n');
};
