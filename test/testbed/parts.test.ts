/** Devices plugged into guests by the command line: what it refuses, and several guests on one host. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildCli, type Cli, guest } from '../support/cli.ts';

let cli: Cli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

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
