/** The command line as a process among others: signals, pipes that close, children that die. */
import { execFileSync } from 'node:child_process';
import {
  copyFileSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { buildCli, ended, guest, withoutHost } from '../support/cli.ts';

const cli = buildCli();
afterAll(() => cli.remove());

const files = (): string[] => readdirSync(cli.folder).sort();

describe('Ctrl-C', () => {
  /** Interrupts a run that never ends; tries a later moment where its handler was not there yet. */
  const interrupted = async (command: string, ...words: string[]) => {
    for (let delayMs = 400; ; delayMs *= 2) {
      const child = cli.start(command, guest('wild-forever'), ...words);
      const end = ended(child);
      await sleep(delayMs);
      child.kill('SIGINT');
      const result = await end;
      if (result.signal === null) return result;
    }
  };

  it('ends a run with exit code 130, one line that says where, and no saved machine', async () => {
    const before = files();
    const result = await interrupted('run', '--save', 'm.gup', '--save-at', '1000000000000');
    expect(result.stderr).toMatch(/^gupbed: interrupted: wild-forever at pc 0x8020[^\n]*\n$/);
    expect(result.stdout).toBe('');
    expect(result.code).toBe(130);
    expect(files()).toEqual(before);
  });

  it('and a bare machine, whose report is still whole with --json', async () => {
    const { code, stdout, stderr } = await interrupted('bare', '--json');
    expect(stderr).toMatch(/^gupbed: interrupted at pc 0x8020[^\n]*\n$/);
    expect(JSON.parse(stdout)).toMatchObject({ end: { kind: 'interrupted' } });
    expect(code).toBe(130);
  });
});

describe('pipes', () => {
  it('a reader of the output that closes early ends a run quietly', async () => {
    const child = cli.start('run', guest('hello'));
    const end = ended(child);
    child.stdout?.destroy();
    expect(await end).toMatchObject({ code: 0, signal: null, stderr: '' });
  });

  it('a reader of the errors that closes early leaves the exit code', async () => {
    const child = cli.start('run', 'nowhere.elf');
    const end = ended(child);
    child.stderr?.destroy();
    expect(await end).toMatchObject({ code: 2, signal: null });
  });

  it('a program may come through one', async () => {
    execFileSync('mkfifo', [join(cli.folder, 'pipe.elf')]);
    const end = ended(cli.start('run', 'pipe.elf'));
    await writeFile(join(cli.folder, 'pipe.elf'), readFileSync(guest('hello')));
    expect((await end).stdout).toMatch(/^hello from VS-mode/);
  });

  it('is no place to save a machine: it stays a pipe', () => {
    const { code, stderr } = cli.run('run', guest('hello'), '--save', 'pipe.elf', '--save-at', '9');
    expect(stderr).toBe('gupbed: --save pipe.elf: not a regular file\n');
    expect(code).toBe(2);
    expect(statSync(join(cli.folder, 'pipe.elf')).isFIFO()).toBe(true);
  });
});

describe('a run that was to be saved', () => {
  it('and ended before, says so', () => {
    const { code, stderr } = cli.run(
      'run',
      guest('hello'),
      '--save',
      'm.gup',
      '--save-at',
      '1000000000',
    );
    expect(stderr).toMatch(
      /^gupbed: --save m\.gup: nothing saved, the run ended after \d+ [^\n]*\n$/,
    );
    expect(code).toBe(1);
    expect(files()).not.toContain('m.gup');
  });
});

describe('gupbed run --harts 3', () => {
  it('hello is printed by every hart, one after the other', () => {
    const { code, stdout, stderr } = cli.run('run', guest('hello'), '--harts', '3');
    expect(stdout.split('\n').slice(0, 3)).toEqual(
      [0, 1, 2].map((hart) => `hello from VS-mode on hart ${hart}`),
    );
    expect(stdout).not.toMatch(/hart 3/);
    expect(stderr).toBe('');
    expect(code).toBe(0);
  });
});

describe('gupbed fight --json', () => {
  it('what depends on the host is under "host" alone', () => {
    const words = ['fight', '--seed', '2', '--json', '--max-instructions', '1500000'];
    const [a, b] = [cli.run(...words), cli.run(...words)];
    expect(withoutHost(a.stdout)).toEqual(withoutHost(b.stdout));
    expect(Object.keys((JSON.parse(a.stdout) as { host: object }).host).sort()).toEqual([
      'mips',
      'rssMiB',
      'seconds',
    ]);
    expect(a.stderr).toMatch(/^gupbed: --max-instructions reached: memwalk .*, dmacopy [^\n]*\n$/);
    expect(a.code).toBe(1);
  });
});

describe('gupbed bench', () => {
  it('--json prints rows with the documented keys', () => {
    const { code, stdout, stderr } = cli.run('bench', 'hart', '--rounds', '3', '--json');
    const rows = JSON.parse(stdout) as Record<string, unknown>[];
    expect(rows.map((row) => row['name'])).toEqual([
      'integer loop, S-mode',
      'integer loop, VS-mode',
    ]);
    for (const row of rows) {
      expect(Object.keys(row)).toEqual(
        expect.arrayContaining([
          'suite',
          'name',
          'unit',
          'better',
          'median',
          'min',
          'max',
          'rounds',
          'ratios',
        ]),
      );
      expect(row).toMatchObject({ suite: 'hart', unit: 'MIPS', better: 'higher', rounds: 3 });
      expect(row['min']).toBeGreaterThan(0);
      expect(row['median']).toBeGreaterThanOrEqual(row['min'] as number);
      expect(row['max']).toBeGreaterThanOrEqual(row['median'] as number);
    }
    expect(stderr).toBe('');
    expect(code).toBe(0);
  });

  it('ends with one line more when the process of a program dies', () => {
    const place = join(cli.folder, 'broken');
    mkdirSync(join(place, 'dist'), { recursive: true });
    mkdirSync(join(place, 'guests', 'bin'), { recursive: true });
    copyFileSync(cli.bundle, join(place, 'dist', 'gupbed.mjs'));
    writeFileSync(join(place, 'guests', 'bin', 'bench-int.elf'), '');
    const { code, stdout, stderr } = cli.runBundle(
      join(place, 'dist', 'gupbed.mjs'),
      'bench',
      'hart',
    );
    expect(stderr).toMatch(/^gupbed: bench: bench-int ended early: exit code 2$/m);
    expect(stderr).not.toMatch(/internal error| at /);
    expect(stdout).toBe('');
    expect(code).toBe(1);
  });
});
