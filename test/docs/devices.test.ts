/** Every example of docs/devices.md, run as it stands there: it prints what the page says. */
import { readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildCli, type Cli, guest } from '../support/cli.ts';
import { ROOT } from '../support/sources.ts';

const page = readFileSync(join(ROOT, 'docs/devices.md'), 'utf8');

/** A command with what it prints; `...` on a line of its own stands for any lines. */
interface Example {
  command: string;
  output: string[];
}

const EXAMPLES: Example[] = [...page.matchAll(/^```\n\$ gupbed (.*)\n([\s\S]*?)^```$/gm)].map(
  ([, command, output]) => ({ command: command!, output: output!.trimEnd().split('\n') }),
);

/** Do the lines say what the page says? */
const matches = (said: readonly string[], printed: readonly string[]): boolean => {
  const [first, ...rest] = said;
  if (first === undefined) return printed.length === 0;
  if (first !== '...') return printed[0] === first && matches(rest, printed.slice(1));
  return printed.some((_, i) => matches(rest, printed.slice(i))) || rest.length === 0;
};

/** Where a built command line finds the guests. */
const GUESTS = dirname(guest('hello'));

let cli: Cli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

describe('docs/devices.md', () => {
  it('has an example of every option that plugs something in', () => {
    const all = EXAMPLES.map(({ command }) => command).join('\n');
    for (const option of [
      '--disk',
      '--pmem',
      '--nvdimm',
      '--rdma',
      '--iommu strict',
      '--iommu deferred',
      '--iommu off',
      '--iommu sva',
      '--backing',
      '--device rng',
      '--device console',
      '--device balloon',
      '--power-fail-at',
    ])
      expect(all).toContain(option);
  });

  it.each(EXAMPLES.map((example) => [example.command, example] as const))(
    'gupbed %s prints what it says there',
    (command, { output }) => {
      const words = command.split(' ').map((word) => word.replace(/^guests\/bin/, GUESTS));
      const { stdout, stderr } = cli.run(...words);
      const printed = `${stdout}${stderr}`.trimEnd().split('\n');
      expect(matches(output, printed) ? output : printed).toEqual(output);
    },
  );
});
