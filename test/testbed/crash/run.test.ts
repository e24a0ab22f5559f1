/**
 * Power lost under a transaction log (guests/txlog.c) on persistent memory, at instructions chosen by seed:
 * what was promised is there, and with one flush left out it is found out that it may not be.
 */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { CrashResult } from '../../../testbed/crash/run.ts';
import { buildCli, type Cli, guest, withoutHost } from '../../support/cli.ts';

let cli: Cli;
beforeAll(() => {
  cli = buildCli();
});
afterAll(() => cli.remove());

/** The memory, and the number by which the guest knows it. */
const MEMORIES = [
  ['NVDIMM', '--nvdimm', 1],
  ['virtio-pmem', '--pmem', 2],
] as const;

const crash = (option: string, kind: number, leftOut: number, ...more: string[]) => {
  const words = [option, '64K', '--param', `${kind}`, '--param', '3', '--param', `${leftOut}`];
  const { code, stdout, stderr } = cli.run(
    ...[
      'crash-states',
      guest('txlog'),
      '--json',
      '--points',
      '150',
      '--images',
      '32',
      ...words,
      ...more,
    ],
  );
  expect(stderr).toBe('');
  return { code, ...(JSON.parse(stdout) as CrashResult & { ok: boolean }) };
};

describe.each(MEMORIES)('a transaction log on %s', (_name, option, kind) => {
  it('loses nothing that it has promised, whatever a loss of power leaves', () => {
    const result = crash(option, kind, 0);
    expect(result).toMatchObject({ code: 0, ok: true, badPoints: 0, loss: null, committed: 3 });
    expect(result.points).toBe(150);
    expect(result.moments).toBeGreaterThan(10);
    expect(result.images).toBeGreaterThan(result.moments);
  });

  it('without the flush of its commit word loses a transaction, as the shortest history shows', () => {
    const { code, ok, badPoints, loss } = crash(option, kind, 2);
    expect({ code, ok }).toEqual({ code: 1, ok: false });
    expect(badPoints).toBeGreaterThan(0);
    expect(loss?.what).toContain('transaction 1 was committed, the log ends with 0');
    expect(loss?.committed).toBe(1);
    expect(loss?.history.at(-1)?.what).toContain('committed 1');
  });

  it('without the flush of the balances has applied what is not there', () => {
    const { code, loss } = crash(option, kind, 3);
    expect(code).toBe(1);
    expect(loss?.what).toContain('a balance is not that of the last transaction');
  });
});

describe('the record of a transaction', () => {
  it('may be torn on an NVDIMM where it is not flushed before its commit word', () => {
    const { code, loss } = crash('--nvdimm', 1, 1);
    expect(code).toBe(1);
    expect(loss?.what).toContain('torn');
    expect(loss?.lost.length).toBeGreaterThan(0);
  });

  it('is in one block with its commit word behind virtio-pmem, and no loss can part them', () => {
    expect(crash('--pmem', 2, 1)).toMatchObject({ code: 0, badPoints: 0 });
  });
});

describe('gupbed crash-states', () => {
  it('finds the same for the same seed', () => {
    const [first, again] = [1, 2].map(() => {
      const { stdout } = cli.run(
        ...['crash-states', guest('txlog'), '--json', '--points', '60', '--seed', '9'],
        ...['--pmem', '64K', '--param', '2', '--param', '3', '--param', '2'],
      );
      return withoutHost(stdout);
    });
    expect(first).toEqual(again);
  });

  it('wants one persistent memory, and a checker', () => {
    expect(cli.run('crash-states', guest('txlog')).code).toBe(2);
    const { code, stderr } = cli.run('crash-states', guest('hello'), '--pmem', '64K');
    expect(code).toBe(2);
    expect(stderr).toContain('--checker');
  });
});
