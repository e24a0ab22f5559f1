/** docs/gup.md: every picture is what the model does, the table of users is the code's, and its commands exist. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { GUP_USERS, POLICY_NAMES } from '#mm';
import { isCommand } from '../../testbed/cli/help.ts';
import { SCENARIOS } from '../../testbed/explore/scenarios.ts';
import { rowsOf } from '../../testbed/selftest/matrix.ts';
import { ROOT } from '../support/sources.ts';
import { HUGE_PAGE } from './huge-page.ts';
import { ONE_PAGE } from './one-page.ts';
import { STORIES } from './stories.ts';
import { TIMELINES } from './timeline.ts';

const text = readFileSync(join(ROOT, 'docs/gup.md'), 'utf8');

/** Blocks that open with ```text NAME, by that name. */
const pictures = new Map(
  [...text.matchAll(/^```text (\S+)\n([\s\S]*?)^```$/gm)].map(([, name, lines]) => [
    name!,
    lines!.trimEnd().split('\n'),
  ]),
);
const plays = { ...ONE_PAGE, ...HUGE_PAGE, ...STORIES, ...TIMELINES };

describe('docs/gup.md', () => {
  for (const [name, play] of Object.entries(plays))
    it(`draws ${name} as the model does it`, () => {
      expect(pictures.get(name)).toEqual(play());
    });

  it('has no picture that nobody performs, and none twice', () => {
    const opened = [...text.matchAll(/^```text (\S+)$/gm)].map((match) => match[1]!);
    expect(opened.toSorted()).toEqual(Object.keys(plays).toSorted());
  });

  it('has the table of users, as `gupbed audit` knows them', () => {
    const rows = [...text.matchAll(/^\| `([\w-]+)` \|.*\| (\S+) \| (\S+) \| (\S+) \|$/gm)];
    expect(rows.map(([, id, ...apis]) => [id, ...apis])).toEqual(
      GUP_USERS.map(({ id, api }) => [id, ...POLICY_NAMES.map((policy) => api[policy])]),
    );
  });

  it('counts the rows of the self-test', () => {
    expect(text).toContain(`${rowsOf('cow', false).length} rows`);
  });

  it('names commands, scenarios, variants and rows that exist', () => {
    const lines = [...text.matchAll(/^ {4}gupbed (.*?)(?: {2,}.*)?$/gm)].map((match) => match[1]!);
    expect(lines.length).toBeGreaterThan(5);
    for (const line of lines) {
      const [command = '', ...words] = line.match(/'[^']*'|\S+/g) ?? [];
      expect(isCommand(command), line).toBe(true);
      if (command === 'explore') checkExplore(words);
      if (command === 'selftest') checkSelftest(words);
    }
  });
});

const checkExplore = ([name, option, value]: string[]): void => {
  const scenario = SCENARIOS.find((known) => known.name === name);
  expect(scenario, name).toBeDefined();
  if (option === '--variant')
    expect(scenario?.variants.map((variant) => variant.name)).toContain(value);
};

const checkSelftest = ([pattern = '']: string[]): void => {
  const parts = pattern.replaceAll("'", '').split('*');
  const found = rowsOf('cow', false).filter(({ name }) => {
    let from = 0;
    return parts.every((part) => {
      const at = name.toLowerCase().indexOf(part.toLowerCase(), from);
      from = at + part.length;
      return at >= 0;
    });
  });
  expect(found.length, pattern).toBeGreaterThan(0);
};
