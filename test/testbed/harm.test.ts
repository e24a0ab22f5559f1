/** `gupbed harm`: what held pages keep a host from (2.8, 2.9), on a small host, by its numbers. */
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, expect, it } from 'vitest';
import { createPolicy, type Policy, setPolicyApi } from '#mm';
import { harmCommand } from '../../testbed/cli/harm.ts';
import { HOLDERS } from '../../testbed/harm/holders.ts';
import { harmSizes } from '../../testbed/harm/host.ts';
import { type HarmRow, HarmRun } from '../../testbed/harm/run.ts';
import { harmLines } from '../../testbed/harm/text.ts';
import { buildCli, ended } from '../support/cli.ts';

const MIB = 2 ** 20;
const cli = buildCli();
afterAll(() => cli.remove());

const runOf = (policy: Policy, ...names: string[]): HarmRun => {
  const holders = HOLDERS.filter(({ name }) => names.includes(name));
  const run = new HarmRun({ policy, seed: 1, sizes: harmSizes(512 * MIB), holders });
  while (run.step());
  return run;
};

const rowOf = (run: HarmRun, name: string): HarmRow => {
  const row = run.rows.find(({ holder }) => holder === name);
  if (row === undefined) throw new Error(`no row ${name}`);
  return row;
};

const copy = createPolicy('linux-7');
setPolicyApi(copy, 'vmsplice', 'copy');
const copying = runOf(copy, 'vmsplice');

const UNHARMED = {
  cma: { pieces: 8, allocated: 8, pages: 0 },
  offline: { offline: true, rounds: 1, pages: 0 },
  longterm: { regions: 64, registered: 64 },
  cmaAfterwards: { allocated: 8 },
};

describe('pages held under linux-7', () => {
  const run = runOf(createPolicy('linux-7'), 'nobody', 'vmsplice', 'rdma');

  it('nobody: everything works, and compaction makes three times as many blocks of 2 MiB', () => {
    const row = rowOf(run, 'nobody');
    expect(row).toMatchObject({ api: '-', pages: 0, ...UNHARMED });
    expect(row.compaction.after).toBeGreaterThan(3 * row.compaction.before);
    expect([row.compaction.pages, row.compaction.holders]).toEqual([0, {}]);
  });

  it('vmsplice, 1,024 pages by FOLL_GET: most of CMA is lost, the block never goes offline (S2, 2.9)', () => {
    const row = rowOf(run, 'vmsplice');
    expect(row).toMatchObject({ api: 'get', pages: 1024, offline: { offline: false, rounds: 8 } });
    expect(row.cma.allocated).toBeLessThan(row.cma.pieces / 2);
    for (const { pages, holders } of [row.cma, row.offline, row.compaction]) {
      expect(pages).toBeGreaterThan(0);
      expect(holders).toEqual({ vmsplice: pages });
    }
  });

  it('and the memory around cannot be registered: -ENOMEM with plenty of it free (2.8)', () => {
    const { regions, registered } = rowOf(run, 'vmsplice').longterm;
    expect(registered).toBeLessThan(regions / 2);
  });

  it('closing the pipes mends it', () => {
    expect(rowOf(run, 'vmsplice').cmaAfterwards).toMatchObject({ allocated: 8, pages: 0 });
  });

  it('RDMA, as many pages by FOLL_LONGTERM: they left CMA and MOVABLE before they were pinned (I5)', () => {
    const row = rowOf(run, 'rdma');
    expect(row).toMatchObject({ api: 'pin-longterm', pages: 1024, ...UNHARMED });
    expect(row.compaction.holders).toEqual({ rdma: row.compaction.pages });
  });

  it('is printed as a table, and who was in the way below it', () => {
    const lines = harmLines(run, false);
    expect(lines[0]).toBe(
      'policy linux-7, seed 1: 512M of memory, 192M MOVABLE, 128M CMA, 4M held',
    );
    const table = lines.filter((line) => /^(nobody|vmsplice|rdma) .* of /.test(line));
    expect(table.map((line) => line.split(/ {2,}/)[0])).toEqual(['nobody', 'vmsplice', 'rdma']);
    expect(lines.join('\n')).toMatch(/^ {2}vmsplice: CMA: vmsplice \d+; offline: vmsplice \d+; /m);
  });
});

describe('pages held under other policies', () => {
  it('target: vmsplice pins for long, and harms no more than RDMA', () => {
    const row = rowOf(runOf(createPolicy('target'), 'vmsplice'), 'vmsplice');
    expect(row).toMatchObject({ api: 'pin-longterm', ...UNHARMED });
  });

  it('vmsplice=copy: nothing is held at all', () => {
    const row = rowOf(copying, 'vmsplice');
    expect(row).toMatchObject({ api: 'copy', ...UNHARMED });
    expect(row.compaction.pages).toBe(0);
  });

  it('guests, on-demand paging and direct I/O: notifiers harm nothing, I/O as long as the device has not answered', () => {
    const run = runOf(createPolicy('target'), 'kvm', 'rdma-odp', 'nfs-dio');
    for (const name of ['kvm', 'rdma-odp'])
      expect(rowOf(run, name)).toMatchObject({ api: 'secondary', pages: 1024, ...UNHARMED });
    expect(rowOf(run, 'nfs-dio')).toMatchObject({
      api: 'pin',
      offline: { offline: false },
      cmaAfterwards: UNHARMED.cmaAfterwards,
    });
  });
});

describe('the host', () => {
  it('has a whole memory block in MOVABLE, whatever its size', () => {
    const block = 128 * MIB;
    for (let ram = 512 * MIB; ram <= 3072 * MIB; ram += MIB) {
      const { movableBytes, cmaBytes } = harmSizes(ram);
      expect(Math.floor(ram / block) * block - (ram - movableBytes)).toBeGreaterThanOrEqual(block);
      expect(movableBytes + cmaBytes).toBeLessThan(ram);
    }
  });
});

describe('gupbed harm', () => {
  it('--json: the same input gives the same report, but for the key host', () => {
    const words = ['vmsplice', '--set', 'vmsplice=copy', '--ram', '512M', '--seed', '1', '--json'];
    const { code, stdout, stderr } = cli.run('harm', ...words);
    expect([code, stderr]).toEqual([0, '']);
    const { host, ...report } = JSON.parse(stdout) as Record<string, unknown>;
    expect(report).toEqual({
      policy: 'linux-7 with vmsplice=copy',
      seed: 1,
      ramBytes: 512 * MIB,
      movableBytes: 192 * MIB,
      cmaBytes: 128 * MIB,
      rows: copying.rows,
    });
    expect(host).toMatchObject({ times: [{ holder: 'vmsplice' }] });
  });

  it('Ctrl-C ends it with exit code 130 and one line that says where', async () => {
    for (let delayMs = 500; ; delayMs *= 2) {
      const child = cli.start('harm');
      const end = ended(child);
      await sleep(delayMs);
      child.kill('SIGINT');
      const { code, signal, stderr } = await end;
      if (signal !== null) continue;
      expect(stderr).toMatch(/^gupbed: interrupted: harm, \d of 9: nobody, loading\n$/);
      expect(code).toBe(130);
      return;
    }
  });

  for (const { words, says } of [
    { words: ['nobody', 'x'], says: /^harm: no holder x, there are nobody, kvm, / },
    { words: ['--ram', '64M'], says: /^--ram 64M: must be 512M to 3G/ },
    { words: ['--ram', 'much'], says: /^--ram much: not a size/ },
    { words: ['--seed', 'x'], says: /^--seed x: / },
    { words: ['--policy', 'linux-8'], says: /^--policy linux-8: / },
    { words: ['--set', 'vmsplice=secondary'], says: /^--set vmsplice=secondary: / },
    { words: ['--frob'], says: /^harm: .*--frob/ },
  ])
    it(`refuses ${words.join(' ')}, before anything runs`, () =>
      expect(harmCommand(words)).rejects.toThrow(
        expect.objectContaining({ name: 'UsageError', message: expect.stringMatching(says) }),
      ));

  it('is refused with one line and exit code 2', () => {
    const { code, stdout, stderr } = cli.run('harm', '--ram', '1');
    expect([code, stdout]).toEqual([2, '']);
    expect(stderr).toMatch(/^gupbed: --ram 1: [^\n]*\n$/);
  });
});
