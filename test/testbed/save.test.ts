/** A machine that is saved, restored in another process and run on ends as one that was not. */
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { type HostState, readSnapshot } from '#testbed';
import { buildCli, guest, withoutHost } from '../support/cli.ts';

const cli = buildCli();
afterAll(() => cli.remove());

describe('save and restore', () => {
  it('of a guest under host activity: every byte and counter as without', () => {
    const args = ['run', guest('memwalk'), '--activity', '--seed', '5', '--json'];
    const straight = cli.run(...args, '--max-instructions', '9000000');
    const saved = cli.run(...args, '--save', 'walk.gup', '--save-at', '4000000');
    expect(saved.stderr).toMatch(/^gupbed: saved after \d+ instructions to walk\.gup\n$/);
    expect(saved.code).toBe(0);
    const resumed = cli.run('resume', 'walk.gup', '--json', '--max-instructions', '9000000');
    expect(withoutHost(resumed.stdout)).toEqual(withoutHost(straight.stdout));
    expect(resumed.code).toBe(straight.code);
  });

  it('of DMA in flight over pinned pages, twice in a row', () => {
    const args = ['run', guest('dmacopy'), '--activity', '--json'];
    const straight = cli.run(...args, '--max-instructions', '6000000');
    cli.run(...args, '--save', 'one.gup', '--save-at', '2000000');
    cli.run('resume', 'one.gup', '--save', 'two.gup', '--save-at', '4000000');
    const resumed = cli.run('resume', 'two.gup', '--json', '--max-instructions', '6000000');
    expect(withoutHost(resumed.stdout)).toEqual(withoutHost(straight.stdout));
  });

  it('the memory is the same to the byte, and every record', () => {
    const args = ['run', guest('memwalk'), '--activity', '--seed', '6'];
    cli.run(...args, '--save', 'early.gup', '--save-at', '1000000');
    cli.run('resume', 'early.gup', '--save', 'late1.gup', '--save-at', '3000000');
    cli.run(...args, '--save', 'late2.gup', '--save-at', '3000000');
    const [a, b] = ['late1.gup', 'late2.gup'].map(
      (name) => readSnapshot(readFileSync(join(cli.folder, name))) as HostState,
    );
    expect(Buffer.from(a!.memory.bytes).equals(b!.memory.bytes)).toBe(true);
    expect(isDeepStrictEqual(a, b)).toBe(true);
  });

  it('a file that is cut short is refused with one line', () => {
    cli.run('run', guest('hello'), '--save', 'whole.gup', '--save-at', '100');
    const whole = readFileSync(join(cli.folder, 'whole.gup'));
    writeFileSync(join(cli.folder, 'cut.gup'), whole.subarray(0, whole.length >> 1));
    const { code, stderr } = cli.run('resume', 'cut.gup');
    expect(stderr).toBe('gupbed: cut.gup: a saved machine, but damaged or cut short\n');
    expect(code).toBe(2);
  });
});
