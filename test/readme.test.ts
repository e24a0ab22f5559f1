/** The README: its example prints what it says, its links lead somewhere, its commands exist. */
import { spawnSync } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { describe, expect, it } from 'vitest';
import { helpText } from '../testbed/cli/help.ts';
import { ROOT } from './support/sources.ts';

const readme = readFileSync(join(ROOT, 'README.md'), 'utf8');

/** Every document that people read. */
const DOCUMENTS = [
  'README.md',
  'CONTRIBUTING.md',
  'CHANGELOG.md',
  'guests/README.md',
  'kvm/README.md',
  'mm/README.md',
  ...readdirSync(join(ROOT, 'docs')).map((name) => `docs/${name}`),
];

/** Is there a function or a method of that name? An import is none. */
const definedIn = (file: string, name: string): boolean =>
  new RegExp(`(?:function\\*? |const )${name}\\b|^ +(?:private )?\\*?${name}[(<]`, 'm').test(
    readFileSync(join(ROOT, file), 'utf8'),
  );

describe('README.md', () => {
  it('has an example that prints what its comment says', () => {
    const example = /```ts\n([\s\S]*?)```/.exec(readme)![1]!;
    const expected = /console\.log\(.*\); \/\/ (.*)/.exec(example)![1]!;
    const folder = mkdtempSync(join(tmpdir(), 'gupbed-readme-'));
    try {
      const file = join(folder, 'example.mts');
      const door = pathToFileURL(join(ROOT, 'emu/index.ts')).href;
      writeFileSync(file, example.replace("'gupbed/emu'", `'${door}'`));
      const { stdout, stderr } = spawnSync(process.execPath, ['--import', 'tsx', file], {
        cwd: ROOT,
        encoding: 'utf8',
      });
      expect(stderr).toBe('');
      expect(stdout.trim()).toBe(expected);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });

  it('names npm scripts that exist', () => {
    const { scripts } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      scripts: Record<string, string>;
    };
    for (const [, name] of readme.matchAll(/npm run (\w+)/g)) expect(scripts).toHaveProperty(name!);
  });
});

describe('documents', () => {
  for (const document of DOCUMENTS)
    it(`${document} links to files that exist`, () => {
      const text = readFileSync(join(ROOT, document), 'utf8');
      const missing = [...text.matchAll(/\]\(([^)#:]+)(?:#[^)]*)?\)/g)]
        .map((match) => match[1]!)
        .filter((target) => !existsSync(join(ROOT, dirname(document), target)));
      expect(missing).toEqual([]);
    });

  for (const document of DOCUMENTS)
    it(`${document} names source files that exist`, () => {
      const text = readFileSync(join(ROOT, document), 'utf8');
      const named = text.matchAll(/`((?:emu|mm|kvm|devices|testbed|test|guests)\/[\w./-]*)`/g);
      const missing = [...named]
        .map((match) => match[1]!)
        // Linux's files have names like ours; a name with dots stands for many.
        .filter((name) => !/\.[ch]$|\.\.\./.test(name) && !existsSync(join(ROOT, name)));
      expect(missing).toEqual([]);
    });

  for (const document of ['docs/architecture.md', 'mm/README.md'])
    it(`${document} names functions that are where it says`, () => {
      const text = readFileSync(join(ROOT, document), 'utf8');
      // Several of one file: `a()`, `b()` and `c()` in `file`.
      const steps = [...text.matchAll(/((?:`\w+\(\)`(?:, | and )?)+) in `([\w./-]+\.ts)`/g)];
      expect(steps.length).toBeGreaterThan(20);
      for (const [, names, file] of steps)
        for (const [, name] of names!.matchAll(/`(\w+)\(\)`/g))
          expect(definedIn(file!, name!), `${name} in ${file}`).toBe(true);
    });

  it('docs/cli.md has every command and every option that --help prints', () => {
    const text = readFileSync(join(ROOT, 'docs/cli.md'), 'utf8');
    const overview = helpText();
    const commands = [...overview.matchAll(/^ {2}([a-z]+) /gm)].map((match) => match[1]!);
    expect(commands.length).toBeGreaterThan(3);
    for (const command of commands) {
      const section = new RegExp(`### \`gupbed ${command}\\b[\\s\\S]*?(?=\\n##|$)`).exec(text)?.[0];
      expect(section, command).toBeDefined();
      // An option's line: the options, two spaces, and what they do.
      const lines = [...helpText(command).matchAll(/^ {2}(--.*?) {2}/gm)].map((match) => match[1]!);
      for (const option of lines.flatMap((line) => line.match(/--[a-z-]+/g) ?? []))
        if (option !== '--json') expect(section, `${command} ${option}`).toContain(option);
    }
  });
});
