/**
 * Disk, persistent memory and balloon of a guest whose memory the host moves, protects, remaps and
 * forks throughout; saved and restored in the middle; and what is in the user's files afterwards.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { HostMachine, type HostState } from '#testbed';
import type { BackingKind } from '../../testbed/machine/backing.ts';
import type { HostConfig } from '../../testbed/machine/guest-config.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { PartConfig } from '../../testbed/machine/parts/index.ts';
import { elfImage } from '../support/fight.ts';

const ACTIVITY = { migrate: 4000, protect: 6000, remap: 40_000, fork: 400_000, harvest: 300_000 };
const LIMIT = 3e7;
const MIB = 2 ** 20;

const folder = mkdtempSync(join(tmpdir(), 'gupbed-'));
afterAll(() => rmSync(folder, { recursive: true }));

const image = (
  sizeBytes: number,
  file: string | null = null,
): { file: string | null; sizeBytes: number } => ({
  file,
  sizeBytes,
});

const configOf = (
  name: string,
  parts: PartConfig[],
  backing: BackingKind,
  active = true,
): HostConfig => ({
  seed: 3,
  policy: 'linux-7',
  guests: [
    { name, memoryBytes: 8 * MIB, harts: 1, activity: active ? ACTIVITY : null, backing, parts },
  ],
});

const boot = (config: HostConfig, parameters: number[]): HostMachine => {
  const machine = new HostMachine(config, { checked: true });
  const [guest] = machine.guests;
  machine.boot(guest!, putParameters(elfImage(guest!.config.name), parameters));
  return machine;
};

/** To its end, with nothing left behind. What the guest printed. */
const finish = (machine: HostMachine): readonly string[] => {
  while (!machine.done && machine.retired < LIMIT) machine.step(LIMIT);
  machine.tearDown();
  machine.writeBack();
  expect(machine.violations).toEqual([]);
  const [guest] = machine.guests;
  expect(guest!.end).toMatchObject({ kind: 'shutdown', resetReason: 0 });
  return guest!.console.lines;
};

const DISK: PartConfig = { kind: 'virtio-blk', image: image(MIB) };
const PMEM: PartConfig = { kind: 'virtio-pmem', image: image(MIB) };
const BALLOON: PartConfig = {
  kind: 'virtio-balloon',
  targets: [
    { at: 200_000, pages: 500 },
    { at: 400_000, pages: 0 },
  ],
};

describe('under host activity', () => {
  for (const backing of ['mixed', 'file', 'hugetlb'] as const)
    it(`no sector is lost, guest memory of kind ${backing}`, () => {
      const machine = boot(configOf('virtio-blk', [DISK], backing), [0, 8]);
      expect(finish(machine).at(-1)).toBe('virtio-blk: ok');
      const [harvester] = machine.activities.slice(-1);
      expect(harvester!.save()).not.toHaveProperty('counts.missedByLog');
    });

  it('nothing that was flushed is lost of persistent memory', () => {
    const lines = finish(boot(configOf('virtio-pmem', [PMEM], 'mixed'), [6]));
    expect(lines.at(-1)).toBe('virtio-pmem: ok');
  });

  it('what a balloon has not got stays as it was', () => {
    const machine = boot(configOf('virtio-balloon', [BALLOON], 'mixed'), []);
    expect(finish(machine).at(-1)).toBe('virtio-balloon: ok');
    const report = machine.guests[0]!.parts[0]!.report();
    // Once more the pages that the guest took back unasked.
    expect(report['pages inflated']).toBe(564);
    expect(report['bytes kept']).toBe(0);
  });
});

describe('saved and restored', () => {
  for (const [name, part, parameters] of [
    ['virtio-blk', DISK, [0, 8]],
    ['virtio-pmem', PMEM, [4]],
    ['virtio-balloon', BALLOON, []],
  ] as const)
    it(`${name} ends as one that was not`, () => {
      const config = configOf(name, [part], 'mixed');
      const whole = finish(boot(config, [...parameters]));
      const machine = boot(config, [...parameters]);
      let restored = machine;
      for (const at of [150_000, 300_000, 900_000]) {
        while (!restored.done && (restored.retired < at || !restored.quiet)) restored.step(LIMIT);
        if (restored.done) break;
        const state = structuredClone(restored.save()) as HostState;
        restored = new HostMachine(state.config, { checked: true }, state);
      }
      expect(restored).not.toBe(machine);
      expect(finish(restored)).toEqual(whole);
    });
});

describe('files of the user', () => {
  it('a disk begins as its file, and is in it at the end', () => {
    const file = join(folder, 'disk.img');
    writeFileSync(file, new Uint8Array(MIB).fill(0));
    const disk = (readOnly: boolean): PartConfig => ({
      kind: 'virtio-blk',
      readOnly,
      image: image(MIB, file),
    });
    finish(boot(configOf('virtio-blk', [disk(false)], 'anon', false), [0, 8]));
    const after = readFileSync(file);
    expect(after.some((byte) => byte !== 0)).toBe(true);
    // Parameter 2: every sector must be what the last run has left there.
    const lines = finish(boot(configOf('virtio-blk', [disk(true)], 'anon', false), [0, 0, 1]));
    expect(lines[0]).toMatch(/read-only/);
    expect(readFileSync(file).equals(after)).toBe(true);
  });

  it('so does persistent memory, and a second one lies behind the first', () => {
    const file = join(folder, 'pmem.img');
    writeFileSync(file, new Uint8Array(MIB / 2));
    const pmem: PartConfig = { kind: 'virtio-pmem', image: image(MIB / 2, file) };
    finish(boot(configOf('virtio-pmem', [pmem], 'anon', false), [3]));
    const machine = boot(configOf('virtio-pmem', [pmem, PMEM], 'anon', false), [1]);
    const lines = finish(machine);
    expect(lines[1]).toMatch(/virtio-pmem: [1-9]\d+ of 128 pages written before, version 3/);
  });

  it('one that has another size than the config says is an error that names it', () => {
    const file = join(folder, 'odd.img');
    writeFileSync(file, new Uint8Array(100));
    const config = configOf(
      'virtio-blk',
      [{ kind: 'virtio-blk', image: image(MIB, file) }],
      'anon',
    );
    expect(() => new HostMachine(config)).toThrow(`${file}: not ${MIB} bytes any more`);
  });

  for (const keep of [0, 50, 100])
    it(`after a loss of power they have what was flushed, and ${keep} of 100 blocks of the rest`, () => {
      const file = join(folder, `power${keep}.img`);
      writeFileSync(file, new Uint8Array(MIB / 2));
      const pmem: PartConfig = { kind: 'virtio-pmem', image: image(MIB / 2, file) };
      const config = configOf('virtio-pmem', [pmem], 'anon', false);
      const machine = boot(config, [100]);
      const [part] = machine.guests[0]!.parts;
      while (Number(part!.report()['flushes']) < 9) machine.step(LIMIT);
      let block = 0;
      part!.powerFail?.(() => (block++ * 61) % 100 < keep);
      machine.writeBack();
      // The eighth flush made the word of the seventh durable, if not the ninth that of the eighth.
      const [, found, , last] = finish(boot(config, [1]));
      const version = Number(/version (\d+)/.exec(found!)?.[1]);
      expect(version).toBeGreaterThanOrEqual(8);
      expect(last).toBe('virtio-pmem: ok');
    });
});
