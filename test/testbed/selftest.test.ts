/**
 * `gupbed selftest` against a real kernel's answers: the rows of cow.c and gup_longterm.c in
 * tools/testing/selftests/mm/, as Linux 7.2.13 for riscv64 ran them (selftest-matrix.tsv), and what each
 * rule is needed for.
 */
import { readFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  allocPages,
  createPolicy,
  drive,
  MAP_ANONYMOUS,
  MAP_PRIVATE,
  mmap,
  type PolicyName,
  PROT_READ,
  PROT_WRITE,
  type Sabotage,
  setPolicyApi,
} from '#mm';
import { FOLL_WRITE, pinUserPagesFast } from '#mm/driver-api';
import { type Row, rowsOf, type SuiteName } from '../../testbed/selftest/matrix.ts';
import { runRows } from '../../testbed/selftest/run.ts';
import { tapRow } from '../../testbed/selftest/tap.ts';
import { type Answer, type RowResult, RowSkipped } from '../../testbed/selftest/verdict.ts';
import { buildCli, type Cli } from '../support/cli.ts';
import { sourcesOf, withoutComments } from '../support/sources.ts';

/** Names of the rows of a suite and Linux's answers: ok, skip, xfail. */
const linuxAnswers = (wanted: SuiteName): Map<string, string> =>
  new Map(
    readFileSync(new URL('./selftest-matrix.tsv', import.meta.url), 'utf8')
      .split('\n')
      .map((line) => line.split('\t'))
      .flatMap(([suite, name = '', answer = '']) => (suite === wanted ? [[name, answer]] : [])),
  );
const LINUX = linuxAnswers('cow');
const LINUX_LONGTERM = linuxAnswers('gup_longterm');

const MATRIX = rowsOf('cow', false);
const LONGTERM = rowsOf('gup_longterm', false);

const run = (
  policy: PolicyName,
  sabotage: Partial<Sabotage> = {},
  rows: readonly Row[] = MATRIX,
): RowResult[] => [...runRows(rows, { policy: createPolicy(policy), sabotage })];

/** `not ok` and `skip` rows, with why: what a failing test shows. */
const troubles = (results: RowResult[]): string[] =>
  results.flatMap(({ name, answer, reasons }) =>
    answer === 'ok' ? [] : [`${answer}: ${name}: ${reasons.join('; ')}`],
  );

const namesOf = (results: RowResult[], answer: Answer): string[] =>
  results.filter((result) => result.answer === answer).map(({ name }) => name);

describe('the matrix of the cow self-test', () => {
  it('has 761 rows, by the names that Linux 7.2.13 prints and in its order', () => {
    expect(MATRIX.map(({ name }) => name)).toEqual([...LINUX.keys()]);
    expect(LINUX.size).toBe(761);
  });

  it('decides without looking at the policy: nothing of a row mentions it', () => {
    const files = sourcesOf(['testbed']).filter(({ path }) => path.startsWith('testbed/selftest/'));
    expect(files.length).toBeGreaterThan(15);
    expect(
      files.filter(({ text }) => /polic|apis/i.test(withoutComments(text))).map(({ path }) => path),
    ).toEqual(['testbed/selftest/world.ts']);
  });

  describe('under linux-7', () => {
    const results: RowResult[] = [];
    beforeAll(() => {
      results.push(...run('linux-7'));
    }, 60_000);

    it('a row is ok or not as Linux says', () => {
      // What Linux skipped (it had no huge zero page, and MADV_COLLAPSE refused) is ok here.
      const expected = [...LINUX].map(([name, answer]) => [
        name,
        answer === 'xfail' ? 'not ok' : 'ok',
      ]);
      expect(results.map(({ name, answer }) => [name, answer])).toEqual(expected);
    });

    it('the four that fail are those that Linux expects to: vmsplice() of hugetlb, by its bytes', () => {
      const failed = results.filter(({ answer }) => answer === 'not ok');
      expect(failed.map(({ name }) => name)).toEqual(
        [...LINUX].flatMap(([name, answer]) => (answer === 'xfail' ? [name] : [])),
      );
      expect(failed.flatMap(({ reasons }) => reasons)).toEqual([
        'leak from parent into child: byte 0 of the pipe differs',
        'leak from parent into child: byte 0 of the pipe differs',
        'leak from child into parent: byte 0 of the pipe differs',
        'leak from child into parent: byte 0 of the pipe differs',
      ]);
    });
  });

  it('all are ok under target, where vmsplice() pins', () => {
    expect(troubles(run('target'))).toEqual([]);
  });

  it('vmsplice() that copies is ok with every kind of memory, under linux-7 too', () => {
    const policy = createPolicy('linux-7');
    expect(setPolicyApi(policy, 'vmsplice', 'copy')).toBeNull();
    const rows = MATRIX.filter(({ name }) => name.startsWith('vmsplice'));
    expect(rows).toHaveLength(4 * 53);
    expect(troubles([...runRows(rows, { policy })])).toEqual([]);
  });
});

describe('the rows of the gup_longterm self-test', () => {
  it('are 40, by the names that Linux 7.2.13 prints and in its order', () => {
    expect(LONGTERM.map(({ name }) => name)).toEqual([...LINUX_LONGTERM.keys()]);
    expect(LINUX_LONGTERM.size).toBe(40);
  });

  for (const policy of ['linux-6.5', 'linux-7', 'target'] as const)
    it(`are answered as Linux does: all ok under ${policy}`, () => {
      expect([...LINUX_LONGTERM.values()]).toEqual(new Array(40).fill('ok'));
      const results = run(policy, {}, LONGTERM);
      expect(troubles(results)).toEqual([]);
      expect(results).toHaveLength(40);
    });

  it('without the rule longtermPinsTracked pins for writing of a shared local file are taken, and found', () => {
    const results = run('target', { longtermPinsTracked: true }, LONGTERM);
    expect(namesOf(results, 'not ok')).toEqual([
      'R/W longterm GUP pin in MAP_SHARED file mapping ... with local tmpfile',
      'R/W longterm GUP-fast pin in MAP_SHARED file mapping ... with local tmpfile',
      'io_uring fixed buffer with MAP_SHARED file mapping ... with local tmpfile',
    ]);
    for (const { answer, reasons } of results)
      if (answer !== 'ok')
        expect(reasons).toEqual(['a file of extent was pinned, and must not be']);
  });

  it('with 1 GiB pages there are ten more', () => {
    const names = rowsOf('gup_longterm', true).map(({ name }) => name);
    expect(names.filter((name) => name.includes('1048576 kB'))).toHaveLength(10);
  });
});

/** Rows by a part of their names, and how many there are. */
type Rows = [pattern: RegExp, count: number];

/** What stops working under target when one rule is taken away; everything else still does. */
const NEEDED_FOR: { rule: keyof Sabotage; what: string; rows: Rows[] }[] = [
  {
    rule: 'neverUnshare',
    what: 'a read-only pin takes a shared page as it is',
    rows: [
      [/^R\/O GUP(-fast)? pin on R\/O-mapped shared page/, 2 * 53],
      // The last user of a hugetlb page writes to it in place, whatever it was shared with before.
      [/^R\/O GUP(-fast)? pin on R\/O-mapped previously-shared page (?!.* hugetlb)/, 2 * 52],
      // The first page has been a child's as well, and never became exclusive again.
      [/^R\/O GUP(-fast)? pin on R\/O-mapped exclusive page .* partially shared THP/, 2 * 8],
      [/^R\/O longterm GUP(-fast)? pin /, 2 * 5],
      [/^vmsplice\(\) \+ unmap in .* with hugetlb/, 3],
    ],
  },
  {
    rule: 'forkKeepsExclusive',
    what: 'pages that fork shares still count as the own ones of both',
    // hugetlb counts mappings before it writes in place. Entries of swap are not pages.
    rows: [
      [
        /^Basic COW after fork\(\)( with mprotect.*)? \.\.\. with (?!swapped|.*swapped-out|hugetlb)/,
        2 * 34,
      ],
      [/^vmsplice\(\) \+ unmap in child.* \.\.\. with (?!swapped|.*swapped-out)/, 2 * 35],
      // The parent reads what is swapped out before it forks.
      [/^vmsplice\(\) \+ unmap in parent after fork/, 53],
      [/^R\/O GUP(-fast)? pin on R\/O-mapped shared page .* hugetlb/, 2],
      [/collapsing before fork\(\)$/, 1],
    ],
  },
  {
    rule: 'forkSharesPinned',
    what: 'a child gets pinned pages instead of copies of them',
    rows: [
      [/^fork\(\) with an iouring fixed buffer/, 53],
      // Of other memory the child's write sees the pin and goes to a copy.
      [/^vmsplice\(\) before fork\(\).* with hugetlb/, 1],
    ],
  },
  {
    rule: 'hugetlbAlwaysReuses',
    what: 'a write to a hugetlb page that others map too is done in place',
    rows: [
      [/^Basic COW after fork.* with hugetlb/, 2],
      [/^vmsplice\(\) \+ unmap in .* with hugetlb/, 3],
    ],
  },
];

describe('a rule that is broken turns rows red', () => {
  for (const { rule, what, rows } of NEEDED_FOR)
    it(`${rule}: ${what}`, () => {
      const expected = MATRIX.map(({ name }) => name).filter((name) =>
        rows.some(([pattern]) => pattern.test(name)),
      );
      for (const [pattern, count] of rows)
        expect([pattern, expected.filter((name) => pattern.test(name)).length]).toEqual([
          pattern,
          count,
        ]);
      expect(namesOf(run('target', { [rule]: true }), 'not ok')).toEqual(expected);
    });
});

describe('a row', () => {
  const resultOf = (...rows: Row[]): RowResult[] => [
    ...runRows(rows, { policy: createPolicy('target') }),
  ];
  const name = 'a row';
  const fine: Row = { name, run: () => {} };
  /** A page of nobody's. */
  const leaking: Row = { name, run: ({ world }) => void allocPages(world.k, 0, 0) };

  it('whose memory cannot be made is skipped, and says why', () => {
    const [result] = resultOf({
      name,
      run: () => {
        throw new RowSkipped('no huge pages here');
      },
    });
    expect(result).toEqual({ name, answer: 'skip', reasons: ['no huge pages here'] });
    expect(tapRow(3, result!)).toEqual(['ok 3 a row # SKIP no huge pages here']);
  });

  it('that leaves a frame behind is not ok, and the next has a host of its own', () => {
    const [first, second] = resultOf(leaking, fine);
    expect(first?.answer).toBe('not ok');
    expect(first?.reasons).toContain('leak: 1 frames were never freed');
    expect(second).toEqual({ name, answer: 'ok', reasons: [] });
  });

  it('that leaves a pin behind is not ok, whatever it has found', () => {
    const [result] = resultOf({
      name,
      run: (trial) => {
        const { process } = trial.start();
        const { k, mm } = process;
        const flags = MAP_PRIVATE | MAP_ANONYMOUS;
        const hva = drive(mmap(k, mm, { lenBytes: 4096, prot: PROT_READ | PROT_WRITE, flags }));
        drive(pinUserPagesFast(k, mm, hva, 1, FOLL_WRITE, new Int32Array(1)));
        throw new RowSkipped('not decided');
      },
    });
    expect(result?.answer).toBe('not ok');
    expect(result?.reasons).toContain('leak: 1 pins were never released');
  });

  it('that the kernel stops is not ok, and what it has started ends all the same', () => {
    const [first, second] = resultOf(
      {
        name,
        run: (trial) => {
          trial.start().mapAnon(4096);
          throw new Error('a rule was broken');
        },
      },
      fine,
    );
    expect(first).toEqual({
      name,
      answer: 'not ok',
      reasons: ['the kernel stopped: a rule was broken'],
    });
    expect(second?.answer).toBe('ok');
  });
});

describe('gupbed selftest', () => {
  let cli: Cli;
  beforeAll(() => {
    cli = buildCli();
  });
  afterAll(() => cli.remove());

  const FOUR = 'with hugetlb (2048 kB)';

  it('prints a line a row, why a row is not ok below it, and a summary; exit code 1', () => {
    const { code, stdout, stderr } = cli.run('selftest', `vmsplice*${FOUR}`);
    const lines = stdout.trimEnd().split('\n');
    expect(lines[0]).toBe(`not ok  vmsplice() + unmap in child ... ${FOUR}`);
    expect(lines[1]).toBe('        leak from parent into child: byte 0 of the pipe differs');
    expect(lines.at(-1)).toMatch(/^4 rows under linux-7: 0 ok, 4 not ok, 0 skipped, in [\d.]+ s$/);
    expect(lines).toHaveLength(2 * 4 + 2);
    expect([code, stderr]).toEqual([1, '']);
  });

  for (const words of [
    ['--policy', 'target'],
    ['--set', 'vmsplice=copy'],
  ])
    it(`the same with ${words.join(' ')} is ok, with exit code 0`, () => {
      const { code, stdout } = cli.run('selftest', ...words, `vmsplice*${FOUR}`);
      expect(stdout).toMatch(/^(ok .*\n){4}\n4 rows under .*: 4 ok, 0 not ok, 0 skipped, in/);
      expect(code).toBe(0);
    });

  it('--tap is TAP 13: a plan, the rows by their numbers, diagnostics, and totals', () => {
    const { code, stdout } = cli.run('selftest', '--tap', 'with hugetlb');
    const [version, plan, ...lines] = stdout.trimEnd().split('\n');
    expect([version, plan]).toEqual(['TAP version 13', '1..14']);
    const rows = lines.filter((line) => !line.startsWith('#'));
    expect(rows).toHaveLength(14);
    for (const [i, line] of rows.entries())
      expect(line).toMatch(new RegExp(`^(not )?ok ${i + 1} [^#]+$`));
    expect(rows.map((line) => line.replace(/^(not )?ok \d+ /, ''))).toEqual(
      [...LINUX.keys()].filter((name) => name.includes('with hugetlb')),
    );
    const failed = lines.findIndex((line) => line.startsWith('not ok'));
    expect(lines[failed + 1]).toMatch(/^# leak from parent into child/);
    expect(lines.at(-1)).toBe('# Totals: pass:10 fail:4 xfail:0 xpass:0 skip:0 error:0');
    expect(code).toBe(1);
  });

  it('--json has every row, and what depends on the computer under `host`', () => {
    const { code, stdout } = cli.run('selftest', '--json', 'zeropage');
    const { host, rows, ...rest } = JSON.parse(stdout) as {
      host: { seconds: number };
      rows: RowResult[];
    };
    expect(rest).toEqual({
      policy: 'linux-7',
      summary: { rows: 6, ok: 6, notOk: 0, skipped: 0 },
    });
    expect(rows[0]).toEqual({
      name: 'Basic COW ... with shared zeropage',
      answer: 'ok',
      reasons: [],
    });
    expect(host.seconds).toBeGreaterThan(0);
    expect(code).toBe(0);
  });

  it('--list prints the names alone; a pattern is looked for in any case', () => {
    const { code, stdout } = cli.run('selftest', '--list');
    expect(stdout.trimEnd().split('\n')).toEqual([...LINUX.keys()]);
    expect(code).toBe(0);
    expect(cli.run('selftest', '--list', '--json', 'WITH MEMFD').stdout).toBe(
      `${JSON.stringify(
        [...LINUX.keys()].filter((name) => name.includes('with memfd')),
        null,
        2,
      )}\n`,
    );
  });

  it('--suite gup_longterm has the rows of that test, all of them ok', () => {
    const { code, stdout } = cli.run('selftest', '--suite', 'gup_longterm');
    const lines = stdout.trimEnd().split('\n');
    expect(lines.slice(0, -2)).toEqual([...LINUX_LONGTERM.keys()].map((name) => `ok      ${name}`));
    expect(lines.at(-1)).toMatch(
      /^40 rows under linux-7: 40 ok, 0 not ok, 0 skipped, in [\d.]+ s$/,
    );
    expect(code).toBe(0);
  });

  it('--gigantic has rows of 1 GiB pages as well', () => {
    const names = cli.run('selftest', '--list', '--gigantic').stdout.trimEnd().split('\n');
    expect(names.filter((name) => name.endsWith('hugetlb (1048576 kB)'))).toHaveLength(14 + 3);
    expect(names.filter((name) => !name.includes('1048576'))).toEqual([...LINUX.keys()]);
  });

  for (const { words, says } of [
    { words: ['no such row'], says: /no row has no such row in its name/ },
    { words: ['basic', 'cow'], says: /one pattern at most/ },
    { words: ['--policy', 'linux-8'], says: /--policy linux-8/ },
    { words: ['--set', 'vmsplice=secondary'], says: /vmsplice=secondary/ },
    { words: ['--set', 'nobody=get'], says: /nobody/ },
    { words: ['--tap', '--json'], says: /--tap or --json/ },
    { words: ['--tap', '--list'], says: /--list/ },
    { words: ['--suite', 'hmm'], says: /--suite hmm: it is cow or gup_longterm/ },
    { words: ['--frob'], says: /--frob/ },
  ])
    it(`${words.join(' ')} is refused with one line and exit code 2`, () => {
      const { code, stdout, stderr } = cli.run('selftest', ...words);
      expect([code, stdout]).toEqual([2, '']);
      expect(stderr).toMatch(says);
      expect(stderr.trimEnd().split('\n')).toHaveLength(1);
    });
});
