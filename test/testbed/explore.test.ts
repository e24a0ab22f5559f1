/** `gupbed explore` as a user calls it: each variant ends as it is declared, and a schedule can be run again. */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import * as mm from '#mm';
import { exploreCommand } from '../../testbed/cli/explore.ts';
import { pointName, pointWords } from '../../testbed/explore/points.ts';
import { replayText } from '../../testbed/explore/replay.ts';
import type { Verdict } from '../../testbed/explore/verdict.ts';
import { buildCli, ended } from '../support/cli.ts';
import { ROOT } from '../support/sources.ts';

const cli = buildCli(true);
afterAll(() => cli.remove());

interface Report {
  scenario: string;
  variants: Verdict[];
  asDeclared: boolean;
  host: { seconds: number };
}

/** A search of all variants, done once. */
const reports = new Map<string, Report>();
const reportOf = (name: string): Report => {
  let report = reports.get(name);
  if (report === undefined) {
    const { code, stdout, stderr } = cli.run('explore', name, '--json');
    expect([code, stderr]).toEqual([0, '']);
    report = JSON.parse(stdout) as Report;
    reports.set(name, report);
  }
  return report;
};
const verdictOf = (scenario: string, variant: string): Verdict => {
  const found = reportOf(scenario).variants.find(({ name }) => name === variant);
  if (found === undefined) throw new Error(`no variant ${variant}`);
  return found;
};

describe('GUP-fast against fork — 1.4 steps 1 and 9, 1.5', () => {
  it('as it is: no schedule with two preemptions breaks I2, I4 or I13', () => {
    const verdict = verdictOf('gup-fast-fork', 'right');
    expect(verdict).toMatchObject({ declared: 'holds', ended: 'holds', bound: 2, violation: null });
    expect(verdict.schedules).toBeGreaterThan(1000);
  });

  for (const { variant, left } of [
    { variant: 'no-seq', left: 'write_protect_seq' },
    { variant: 'late-has-pinned', left: 'MMF_HAS_PINNED before the pin' },
  ])
    it(`without ${left} a pinned page is shared, and its bytes part`, () => {
      const verdict = verdictOf('gup-fast-fork', variant);
      expect(verdict).toMatchObject({ declared: 'breaks', ended: 'breaks', asDeclared: true });
      expect(verdict.violation?.preemptions).toBe(1);
      expect(verdict.violation?.message).toMatch(/^I2: .*I4: the device does not see/);
    });
});

describe('pin against try-share — 1.4 steps 4 and 5, 1.5, 2.13', () => {
  it('as it is: one of the two sees the other, in every schedule that there is', () => {
    const verdict = verdictOf('pin-share', 'right');
    expect(verdict).toMatchObject({ ended: 'holds', complete: true, violation: null });
    expect(verdict.schedules).toBeGreaterThan(100);
  });

  for (const { variant, preemptions, left } of [
    { variant: 'no-pin-barrier', preemptions: 0, left: 'the barrier after counting the pin' },
    { variant: 'no-share-barrier', preemptions: 0, left: 'the barrier after clearing the entry' },
    { variant: 'no-recheck', preemptions: 1, left: 'reading the entry again' },
  ])
    it(`without ${left} they miss each other`, () => {
      const verdict = verdictOf('pin-share', variant);
      expect(verdict).toMatchObject({ declared: 'breaks', ended: 'breaks', asDeclared: true });
      expect(verdict.violation).toMatchObject({ preemptions });
      expect(verdict.violation?.message).toMatch(/^I2: page \d+ is pinned and not exclusive/);
    });

  it('a barrier that is missed is a store that reaches memory late', () => {
    const { steps } = verdictOf('pin-share', 'no-pin-barrier').violation!;
    const late = steps.findIndex(({ flush }) => flush);
    expect(steps[late]!.changes).toEqual(['refcount: 2 -> 1025']);
    expect(steps[late - 1]).toMatchObject({ actor: 'sharer', text: 'ends' });
  });
});

describe("a debugger's write against writeback: S9 — 1.12, 2.7", () => {
  const NAME = 'ptrace-writeback';
  /** Who goes on after whom, and where each stops. */
  const stepsOf = (variant: string): string[] =>
    verdictOf(NAME, variant).violation!.steps.map(({ actor, point }) => `${actor} ${point}`.trim());

  for (const { variant, keeps } of [
    { variant: 'right', keeps: 'through the page tables: I6, I7, I8 and checksums' },
    { variant: 'pin-bounce', keeps: 'a pin that writeback respects: I6, I7, I8 and checksums' },
    { variant: 'lock-recheck', keeps: 'the entry looked at under the folio lock: the same' },
    { variant: 'recheck', keeps: 'the entry looked at after the copy: I6, I7 and I8' },
  ])
    it(`${keeps}, in every order with two preemptions`, () => {
      const verdict = verdictOf(NAME, variant);
      expect(verdict).toMatchObject({ ended: 'holds', asDeclared: true, bound: 2 });
      expect(verdict.schedules).toBeGreaterThan(10);
    });

  for (const { variant, says, preemptions } of [
    { variant: 'linux', says: /^I7: the page is dirty, and the file system was not asked$/ },
    { variant: 'pin', says: /^I7: / },
    { variant: 'lock', says: /^I7: / },
    { variant: 'linux-bytes', says: /^I8: the page is clean, and the device does not have/ },
    { variant: 'never-dirty', says: /^I8: the page is clean, and the device does not have/ },
    { variant: 'no-stable-pages', says: /^checksum: / },
    { variant: 'recheck-checksums', says: /^checksum: /, preemptions: 2 },
  ])
    it(`${variant} breaks`, () => {
      const verdict = verdictOf(NAME, variant);
      expect(verdict).toMatchObject({ declared: 'breaks', ended: 'breaks', asDeclared: true });
      expect(verdict.violation?.message).toMatch(says);
      expect(verdict.violation?.preemptions).toBe(preemptions ?? 1);
    });

  it('S9 is found after a handful of schedules, and has at most eight steps', () => {
    const { allSchedules } = verdictOf(NAME, 'linux');
    expect(allSchedules).toBeLessThan(10);
    expect(stepsOf('linux').length).toBeLessThanOrEqual(8);
  });

  it('the bytes are lost exactly as 1.12 says: looked up, cleaned and written, copied, marked dirty', () => {
    expect(stepsOf('linux-bytes')).toEqual([
      'tracer GUP_LOOKED_UP',
      'writeback WRITEBACK_CLEANED',
      'writeback WRITEBACK_STARTED',
      'writeback BIO_SUBMITTED',
      'writeback BIO_TRANSFERRED',
      'writeback',
      'tracer REMOTE_COPIED',
      'tracer',
    ]);
    const { steps } = verdictOf(NAME, 'linux-bytes').violation!;
    expect(steps.map(({ changes }) => changes)).toEqual([
      [],
      ['entry: rw dirty -> ro clean', 'page: dirty -> clean'],
      ['promise: made -> none'],
      [],
      [],
      [],
      ['in memory: 0x0 -> 0xbe'],
      ['page: clean -> dirty'],
    ]);
  });
});

describe('a secondary MMU against the kernel: P1, P2, P3 — 1.13, 1.14, 2.12', () => {
  for (const { variant, meanwhile } of [
    { variant: 'right', meanwhile: 'the page is migrated' },
    { variant: 'right-drop', meanwhile: 'the page is given up' },
    { variant: 'right-share', meanwhile: 'the process forks' },
    { variant: 'right-exit', meanwhile: 'the process ends' },
    {
      variant: 'get',
      meanwhile: 'the page is migrated, and a reference kept until the entry is there',
    },
  ])
    it(`as it is, while ${meanwhile}: all three hold in every order with two preemptions`, () => {
      const verdict = verdictOf('secondary-mmu', variant);
      expect(verdict).toMatchObject({
        ended: 'holds',
        asDeclared: true,
        violation: null,
        bound: 2,
      });
      expect(verdict.schedules).toBeGreaterThan(5);
    });

  for (const { variant, says, preemptions, left } of [
    { variant: 'no-drop', says: /^P1 /, preemptions: 0, left: 'dropping entries at the start' },
    { variant: 'no-range', says: /^P1 /, preemptions: 2, left: 'the look at open ranges' },
    {
      variant: 'always-writable',
      says: /^I9 .*\(P2\)/,
      preemptions: 0,
      left: 'asking whether the primary entry may write',
    },
    { variant: 'no-retry', says: /^I10 .*\(P3\)/, preemptions: 1, left: 'the sequence' },
    {
      variant: 'get-no-retry',
      says: /^I10 .*\(P3\)/,
      preemptions: 1,
      left: 'the sequence, in spite of a reference',
    },
    { variant: 'no-release', says: /^I10 /, preemptions: 0, left: 'dropping entries at the end' },
  ])
    it(`without ${left} it breaks`, () => {
      const verdict = verdictOf('secondary-mmu', variant);
      expect(verdict).toMatchObject({ declared: 'breaks', ended: 'breaks', asDeclared: true });
      expect(verdict.violation?.message).toMatch(says);
      expect(verdict.violation?.preemptions).toBe(preemptions);
    });
});

describe('gupbed explore', () => {
  it('list names every scenario with its variants, and what is declared', () => {
    const { code, stdout } = cli.run('explore', 'list');
    expect(code).toBe(0);
    for (const line of [
      /^gup-fast-fork: /m,
      /^ptrace-writeback: /m,
      /^ {2}no-pin-barrier +breaks {2}/m,
    ])
      expect(stdout).toMatch(line);
    const listed = JSON.parse(cli.run('explore', 'list', '--json').stdout) as { name: string }[];
    expect(listed.map(({ name }) => name)).toEqual([
      'gup-fast-fork',
      'pin-share',
      'ptrace-writeback',
      'secondary-mmu',
    ]);
  });

  it('prints the steps of what goes wrong, numbered, with what they changed', () => {
    const { code, stdout, stderr } = cli.run('explore', 'pin-share', '--variant', 'no-recheck');
    expect([code, stderr]).toEqual([0, '']);
    expect(stdout).toMatch(/^no-recheck \(.*\): breaks, as declared$/m);
    expect(stdout).toMatch(/^ {2}2 {2}pinner {2}GUP-fast has read the entry \(GUP_FAST_READ\)$/m);
    expect(stdout).toMatch(/\[refcount: 1 -> 1025\]$/m);
  });

  it('the same input gives the same report, but for the key host', () => {
    const { stdout } = cli.run('explore', 'pin-share', '--json');
    const { host: _host, ...again } = JSON.parse(stdout) as Report;
    const { host, ...first } = reportOf('pin-share');
    expect(again).toEqual(first);
    expect(Object.keys(first)).toEqual(['scenario', 'title', 'model', 'variants', 'asDeclared']);
    expect(Object.keys(host)).toEqual(['seconds']);
  });

  it('a bound too low to find anything is not as declared: exit code 1, and no file', () => {
    const words = ['--variant', 'no-recheck', '--bound', '0', '--out', 'none.json'];
    const { code, stdout, stderr } = cli.run('explore', 'pin-share', ...words);
    expect(code).toBe(1);
    expect(stderr).toBe('gupbed: --out none.json: nothing written, no schedule goes wrong\n');
    expect(existsSync(join(cli.folder, 'none.json'))).toBe(false);
    expect(stdout).toMatch(/: holds, declared breaks$/m);
    expect(stdout).toMatch(/: all with at most 0 preemptions$/m);
  });

  it('a schedule is written to a file, and runs again by it', () => {
    const search = ['explore', 'pin-share', '--variant', 'no-share-barrier'];
    expect(cli.run(...search, '--out', 'missed.json')).toMatchObject({ code: 0, stderr: '' });
    const told = verdictOf('pin-share', 'no-share-barrier').violation!;
    const { code, stdout } = cli.run('explore', 'pin-share', '--replay', 'missed.json', '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toEqual({
      scenario: 'pin-share',
      variant: 'no-share-barrier',
      steps: told.steps,
      violation: told.message,
      reproduced: true,
    });
  });

  it('a schedule that ends otherwise than its file says: exit code 1', () => {
    const file = join(cli.folder, 'missed.json');
    const replay = JSON.parse(readFileSync(file, 'utf8')) as object;
    writeFileSync(join(cli.folder, 'healed.json'), JSON.stringify({ ...replay, variant: 'right' }));
    const { code, stdout, stderr } = cli.run('explore', 'pin-share', '--replay', 'healed.json');
    expect(code).toBe(1);
    expect(stderr).toMatch(/^gupbed: healed\.json: [^\n]*\n$/);
    expect(stdout === '' || /nothing is wrong/.test(stdout)).toBe(true);
  });

  it('works from source', () => {
    const main = join(ROOT, 'testbed/main.ts');
    const words = ['--import', 'tsx', main, 'explore', 'pin-share', '--variant', 'no-recheck'];
    const { status, stderr } = spawnSync(process.execPath, words, { cwd: ROOT, encoding: 'utf8' });
    expect([status, stderr]).toEqual([0, '']);
  });

  it('Ctrl-C ends it with exit code 130 and one line that says where', async () => {
    for (let delayMs = 600; ; delayMs *= 2) {
      const child = cli.start('explore', 'gup-fast-fork', '--variant', 'right', '--bound', '9');
      const end = ended(child);
      await sleep(delayMs);
      child.kill('SIGINT');
      const { code, signal, stderr } = await end;
      if (signal !== null || (code === 130 && stderr === '')) continue;
      expect(stderr).toMatch(/^gupbed: interrupted: gup-fast-fork, right, \d preemption/);
      expect(code).toBe(130);
      return;
    }
  });
});

describe('gupbed explore refuses, before anything runs', () => {
  const file = (name: string, text: string): string => {
    const path = join(cli.folder, name);
    writeFileSync(path, text);
    return path;
  };
  const text = file('text.json', 'hello');
  const other = file(
    'other.json',
    replayText({ scenario: 'gup-fast-fork', variant: 'right', violation: null, schedule: [] }),
  );
  for (const { what, words, says } of [
    { what: 'no name', words: [], says: /gupbed explore NAME/ },
    { what: 'two names', words: ['a', 'b'], says: /gupbed explore NAME/ },
    {
      what: 'a variant that is none',
      words: ['pin-share', '--variant', 'x'],
      says: /--variant: .*no variant x, it has right, /,
    },
    {
      what: '--bound 1001',
      words: ['pin-share', '--bound', '1001'],
      says: /--bound 1001: must be 0 to 1000/,
    },
    {
      what: '--out for all variants',
      words: ['pin-share', '--out', 'a.json'],
      says: /--out a\.json: name one variant/,
    },
    {
      what: '--out into a folder that is not there',
      words: ['pin-share', '--variant', 'right', '--out', 'no/a'],
      says: /--out no\/a: no folder no/,
    },
    {
      what: '--replay of a file that is not there',
      words: ['pin-share', '--replay', 'none'],
      says: /none: no such file/,
    },
    {
      what: '--replay of something else',
      words: ['pin-share', '--replay', text],
      says: /text\.json: not JSON/,
    },
    {
      what: '--replay of another scenario',
      words: ['pin-share', '--replay', other],
      says: /other\.json: a schedule of the scenario gup-fast-fork/,
    },
    {
      what: '--replay and --bound',
      words: ['gup-fast-fork', '--replay', other, '--bound', '1'],
      says: /--replay goes with neither/,
    },
    {
      what: 'list with an option of a search',
      words: ['list', '--bound', '1'],
      says: /explore list: takes no --bound/,
    },
  ])
    it(what, () =>
      expect(exploreCommand(words)).rejects.toThrow(
        expect.objectContaining({ name: 'UsageError', message: expect.stringMatching(says) }),
      ),
    );

  it('a scenario that is none, with one line and exit code 2', () =>
    expect(cli.run('explore', 'pin-shar')).toEqual({
      code: 2,
      stdout: '',
      stderr:
        'gupbed: explore: no scenario pin-shar, there are gup-fast-fork, pin-share, ptrace-writeback, secondary-mmu\n',
    }));
});

describe('yield points', () => {
  it('have the names of mm/path.ts, and words', () => {
    const points = Object.entries(mm).filter(([name]) => name.startsWith('YP_'));
    expect(points.length).toBeGreaterThan(10);
    for (const [name, point] of points) expect(`YP_${pointName(point as number)}`).toBe(name);
    expect(pointWords(mm.YP_GUP_FAST_READ)).toBe('GUP-fast has read the entry');
    expect(pointWords(mm.YP_DMA_SUBMITTED)).toBe('stops at DMA_SUBMITTED');
  });
  it('one of a scenario is its own words', () => {
    expect([pointName('has forked'), pointWords('has forked')]).toEqual(['', 'has forked']);
  });
});
