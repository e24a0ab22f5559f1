/** The fuzzer: cases by seed and number, failures that can be run again alone, and a sample of every target. */
import { describe, expect, it } from 'vitest';
import { FuzzRun } from '../../testbed/fuzz/run.ts';
import type { FuzzTarget } from '../../testbed/fuzz/target.ts';
import { FUZZ_TARGETS } from '../../testbed/fuzz/targets.ts';
import { buildCli } from '../support/cli.ts';

const SAMPLE = 1500;

describe('the fuzzer', () => {
  /** Fails where its third random number is small, or throws where the first one is. */
  const target: FuzzTarget = {
    name: 'made-up',
    describe: 'numbers',
    create: () => (rng) => {
      if (rng.below(100) === 0) throw new RangeError('the first');
      rng.below(100);
      return rng.below(100) === 0 ? 'the third' : null;
    },
  };

  it('finds what throws and what is wrong, and finds the same again by the number of the case', () => {
    const run = new FuzzRun(target, 4);
    for (let i = 0; i < 400; i++) run.step(i);
    const { failures, cases } = run.count;
    expect(cases).toBe(400);
    expect(new Set(failures.map(({ what }) => what))).toEqual(
      new Set(['RangeError: the first', 'the third']),
    );
    for (const failure of failures) {
      const again = new FuzzRun(target, failure.seed);
      again.step(failure.case);
      expect(again.count.failures).toEqual([failure]);
    }
  });

  it('gives up a target that fails again and again', () => {
    const run = new FuzzRun({ ...target, create: () => () => 'always' }, 1);
    for (let i = 0; i < 10; i++) run.step(i);
    expect(run.hopeless).toBe(true);
  });

  it.each(FUZZ_TARGETS.map((t) => [t.name, t] as const))(
    'finds nothing in a sample of cases against %s',
    (_name, fuzzTarget) => {
      const run = new FuzzRun(fuzzTarget, 1);
      for (let i = 0; i < SAMPLE && !run.hopeless; i++) run.step(i);
      expect(run.count.failures).toEqual([]);
      expect(run.count.cases).toBe(SAMPLE);
    },
  );

  it('is a command, which refuses a target that there is not, and --case without a target', () => {
    const cli = buildCli();
    try {
      expect(cli.run('fuzz', 'nonsense')).toMatchObject({ code: 2, stdout: '' });
      expect(cli.run('fuzz', 'nonsense').stderr).toContain('no target is called nonsense');
      expect(cli.run('fuzz', '--case', '3').code).toBe(2);
    } finally {
      cli.remove();
    }
  });
});
