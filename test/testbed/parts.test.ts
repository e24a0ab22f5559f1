/**
 * Devices plugged into guests by the command line: what they do is the same in a machine that was saved
 * in the middle and restored, and nothing of them is left behind at the end.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildCli, type Cli, guest, withoutHost } from '../support/cli.ts';

let cli: Cli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

/** Guests and the options that plug in what they drive. */
const RUNS: readonly (readonly [string, readonly string[]])[] = [
  ['virtio-blk', ['--disk', '2M']],
  ['txlog', ['--pmem', '64K', '--param', '2']],
  ['virtio-rng', ['--device', 'rng']],
];

describe.each(RUNS)('%s with %s', (name, options) => {
  it('ends well, leaves no frame and no pin behind, and is the same after a restore', () => {
    const args = ['run', guest(name), '--json', '--seed', '3', ...options];
    const straight = cli.run(...args);
    const report = JSON.parse(straight.stdout) as {
      ok: boolean;
      instructions: number;
      sanitizer: { violations: string[] };
      guests: { parts: { kind: string; counts: Record<string, number> }[] }[];
    };
    expect(report.sanitizer.violations).toEqual([]);
    expect({ code: straight.code, ok: report.ok }).toEqual({ code: 0, ok: true });
    expect(report.guests[0]!.parts.length).toBe(1);
    expect(Object.values(report.guests[0]!.parts[0]!.counts).some((n) => n > 0)).toBe(true);
    for (const at of [0.2, 0.6]) {
      const saved = cli.run(
        ...args,
        ...['--save', 'part.gup', '--save-at', `${Math.ceil(report.instructions * at)}`],
      );
      expect(saved.code).toBe(0);
      const resumed = cli.run('resume', 'part.gup', '--json');
      expect(withoutHost(resumed.stdout)).toEqual(withoutHost(straight.stdout));
    }
  });

  it('does the same under host activity that moves, protects and forks its memory', () => {
    const run = cli.run('run', guest(name), '--json', '--activity', ...options);
    const report = JSON.parse(run.stdout) as { ok: boolean; sanitizer: { violations: string[] } };
    expect(report.sanitizer.violations).toEqual([]);
    expect(report.ok).toBe(true);
  });
});

describe('gupbed run with devices', () => {
  it('refuses images and names that make no sense, with one line each', () => {
    for (const [words, what] of [
      [['--disk', 'nowhere.img'], 'no such file'],
      [['--disk', '1000'], 'must be'],
      [['--device', 'flux'], 'one of'],
      [['--backing', 'paper'], 'one of'],
    ] as const) {
      const { code, stderr } = cli.run('run', guest('hello'), ...words);
      expect(stderr).toContain(what);
      expect(stderr.trim().split('\n').length).toBe(1);
      expect(code).toBe(2);
    }
  });

  it('runs several guests on one host, each with its own memory', () => {
    const { code, stdout } = cli.run(
      ...['run', guest('pagecount'), guest('hello'), guest('pagecount'), '--backing', 'thp'],
    );
    expect(code).toBe(0);
    expect(stdout.match(/300 passes, 0 pages empty, 0 mismatches/g)?.length).toBe(2);
  });
});
