/** House rules that can be read off the sources: each with an example that it must find. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import {
  CODE_FOLDERS,
  ROOT,
  type SourceFile,
  sourcesOf,
  withoutComments,
} from './support/sources.ts';

/** Folders that never print, exit, read a clock or touch the host. */
const CORE = ['emu', 'mm', 'kvm', 'devices'];

const MAX_LINES = 600;

/** An assignment operator of any kind, and no comparison or arrow. */
const ASSIGNS = String.raw`!?\s*(?:=(?![=>])|(?:[-+*/%|&^]|<<|>>>?|\?\?|\|\||&&)=|\+\+|--)`;
/** [ ... ] with at most one level of brackets inside. */
const INDEX = String.raw`\[(?:[^[\]\n]|\[[^[\]\n]*\])*\]`;
/** Columns of the frame table and words of RAM, by the names that code has for them. */
const SHARED = String.raw`(?:\bframes\.\w+|(?<![.\w])(?:refcount|mapcount|pincount|flags)|\bi32)`;

interface Rule {
  rule: string;
  folders: string[];
  /** Searched in the text without comments. */
  pattern: RegExp;
  /** Text that the rule must find, and text that it must not. */
  finds: string;
  leaves: string;
  /** Files that the rule does not concern, and why. */
  except?: Record<string, string>;
}

const RULES: Rule[] = [
  {
    rule: 'no enum: it is no erasable syntax',
    folders: CODE_FOLDERS,
    pattern: /(?:^|\s)(?:const\s+)?enum\s+\w+\s*\{/,
    finds: 'export enum Mode { M }',
    leaves: 'const enumerate = () => {};',
  },
  {
    rule: 'no export *: a door names what it lets through',
    folders: CODE_FOLDERS,
    pattern: /export\s+(?:type\s+)?\*/,
    finds: `export * from './a.ts';`,
    leaves: `export { a } from './a.ts';`,
  },
  {
    rule: 'core folders never print',
    folders: CORE,
    pattern: /(?<![.\w])console\s*\./,
    finds: 'console.log(1);',
    leaves: 'caller.console.put(1);',
  },
  {
    rule: 'core folders import nothing of Node',
    folders: CORE,
    pattern:
      /['"]node:|\brequire\s*\(|(?<![.\w/])process\s*\.\s*(?:env|argv|exit|std\w+|hrtime|memoryUsage|nextTick|cwd)\b/,
    finds: `import fs from 'node:fs';`,
    leaves: `import { a } from '#emu';`,
  },
  {
    rule: 'core folders read no clock and draw no random numbers of the host',
    folders: CORE,
    pattern: /Math\s*\.\s*random|Date\s*\.\s*now|new\s+Date\b|(?<![.\w])performance\s*\./,
    finds: 'const now = Date.now();',
    leaves: 'const now = clock.now;',
  },
  {
    rule: 'no outcome of the testbed depends on random numbers of the host',
    folders: ['testbed'],
    pattern: /Math\s*\.\s*random|randomBytes|randomUUID/,
    finds: 'Math.random()',
    leaves: 'rng.next()',
  },
  {
    rule: 'an address says its space: gva, gpa, hva, pa or iova, never addr',
    folders: CODE_FOLDERS,
    pattern: /(?<![\w.'"])addr\b(?!['"])/,
    finds: 'const read = (addr: number) => addr;',
    leaves: 'const read = (gpa: number) => gpa;',
  },
  {
    rule: 'shared arrays are stored to through #cells',
    folders: ['mm', 'kvm'],
    pattern: new RegExp(`${SHARED}(?:${INDEX}${ASSIGNS}|\\.(?:fill|set|copyWithin)\\()`),
    finds: 'k.state.frames.refcount[pages[i]!] = 1;',
    leaves: 'if (frames.refcount[page] === 1) own[i] = frames.flags[page]!;',
    except: {
      'mm/process.ts': "plays a hart's own stores of one, two and four bytes of user data",
    },
  },
  {
    rule: 'shared arrays are stored to through #cells, increments too',
    folders: ['mm', 'kvm'],
    pattern: new RegExp(`(?:\\+\\+|--)\\s*\\w*\\.?(?:${SHARED})${INDEX}`),
    finds: '++frames.mapcount[page];',
    leaves: 'return n-- > frames.mapcount[page]!;',
  },
];

/** `path:line` of every line of the files that the pattern matches. */
const findingsOf = (files: SourceFile[], pattern: RegExp): string[] =>
  files.flatMap(({ path, text }) =>
    withoutComments(text)
      .split('\n')
      .flatMap((line, i) => (pattern.test(line) ? [`${path}:${i + 1}: ${line.trim()}`] : [])),
  );

describe('house rules', () => {
  for (const { rule, folders, pattern, finds, leaves, except = {} } of RULES) {
    it(rule, () => {
      // This file holds the examples.
      const files = sourcesOf(folders).filter(
        ({ path }) => path !== 'test/house.test.ts' && !Object.hasOwn(except, path),
      );
      expect(findingsOf(files, pattern)).toEqual([]);
    });
    it(`${rule}: found where it is broken`, () => {
      expect(pattern.test(finds)).toBe(true);
      expect(pattern.test(leaves)).toBe(false);
    });
  }

  it(`a file has at most ${MAX_LINES} lines`, () => {
    expect(
      sourcesOf(CODE_FOLDERS)
        .map(({ path, text }) => `${path}: ${text.trimEnd().split('\n').length} lines`)
        .filter((entry) => Number(/(\d+) lines$/.exec(entry)![1]) > MAX_LINES),
    ).toEqual([]);
  });

  it('a file opens by saying what it is', () => {
    expect(
      sourcesOf(CODE_FOLDERS)
        .filter(({ text }) => !text.replace(/^#![^\n]*\n/, '').startsWith('/**'))
        .map(({ path }) => path),
    ).toEqual([]);
  });
});

describe('package.json', () => {
  const manifest = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
    dependencies?: Record<string, string>;
    devDependencies: Record<string, string>;
    type: string;
    exports: Record<string, { types: string } | string>;
  };

  it('has no package but vitest, tsx and esbuild', () => {
    expect(manifest.dependencies).toBeUndefined();
    expect(Object.keys(manifest.devDependencies).toSorted()).toEqual(['esbuild', 'tsx', 'vitest']);
  });

  it('is an ES module: without it every imported constant is a getter call', () => {
    expect(manifest.type).toBe('module');
  });

  it('exports every door that it imports by name', () => {
    const { imports } = JSON.parse(readFileSync(join(ROOT, 'package.json'), 'utf8')) as {
      imports: Record<string, unknown>;
    };
    const doors = Object.keys(imports).filter((name) => !name.startsWith('#cells'));
    expect(doors.map((name) => name.replace('#', './'))).toEqual(
      Object.keys(manifest.exports).filter((name) => name !== './package.json'),
    );
  });
});
