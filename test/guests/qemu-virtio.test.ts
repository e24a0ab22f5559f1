/**
 * The guests' virtio drivers on devices that are not ours: QEMU's virtio-mmio (force-legacy=false), with
 * both rings; and ours beside them, which must say the same. Where CI is set the tests fail without QEMU,
 * elsewhere they are reported as skipped.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { HostMachine } from '#testbed';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { PartConfig } from '../../testbed/machine/parts/index.ts';
import { guest } from '../support/cli.ts';
import { elfImage } from '../support/fight.ts';

const QEMU = 'qemu-system-riscv64';
const missing = spawnSync(QEMU, ['--version']).status !== 0;
const skip = missing && process.env.CI === undefined;
const why = missing ? ` (needs ${QEMU})` : '';

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'gupbed-qemu-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** What a program says through SBI on QEMU, with these devices. */
const onQemu = (name: string, ...devices: string[]): string[] => {
  const words = [
    ...['-M', 'virt', '-m', '64M', '-nographic', '-global', 'virtio-mmio.force-legacy=false'],
    ...devices,
    ...['-kernel', guest(name)],
  ];
  const { stdout, error } = spawnSync(QEMU, words, { encoding: 'utf8', timeout: 60_000 });
  if (error !== undefined) throw error;
  return ofProgram(name, stdout.replaceAll('\r', '').split('\n'));
};

const ofProgram = (name: string, lines: readonly string[]): string[] =>
  lines.filter((line) => line.startsWith(`${name}:`));

/** All that it says here. @param leftAlone its first parameter: features that it does not use */
const here = (name: string, part: PartConfig, leftAlone: number): readonly string[] => {
  const guests = [{ name, memoryBytes: 16 << 20, harts: 1, activity: null, parts: [part] }];
  const machine = new HostMachine({ seed: 1, policy: 'linux-7', guests });
  machine.boot(machine.guests[0]!, putParameters(elfImage(name), [leftAlone]));
  while (!machine.done && machine.retired < 1e7) machine.step(1e7);
  return machine.guests[0]!.console.lines;
};

const PACKED = 1;

describe.skipIf(skip)(`a guest's virtio driver on QEMU's devices${why}`, () => {
  for (const packed of ['on', 'off'])
    for (const rest of ['indirect_desc=on,event_idx=on', 'indirect_desc=off,event_idx=off'])
      it(`virtio-rng, packed=${packed},${rest}`, { timeout: 90_000 }, () => {
        const said = onQemu('virtio-rng', '-device', `virtio-rng-device,packed=${packed},${rest}`);
        expect(said[0]).toContain(`${packed === 'on' ? 'packed' : 'split'} ring`);
        expect(said.slice(1)).toEqual(['virtio-rng: 400 requests', 'virtio-rng: ok']);
      });

  for (const { packed, ports } of [
    { packed: 'on', ports: 1 },
    { packed: 'off', ports: 1 },
    { packed: 'on', ports: 4 },
  ])
    it(`virtio-console, packed=${packed}, ${ports} ports: the same lines as here`, {
      timeout: 90_000,
    }, () => {
      const out = join(folder, 'out');
      const said = onQemu(
        'virtio-console',
        ...['-chardev', `file,id=c,path=${out}`],
        ...['-device', `virtio-serial-device,packed=${packed},max_ports=${ports}`],
        ...['-device', 'virtconsole,chardev=c'],
      );
      const part: PartConfig = {
        kind: 'virtio-console',
        ...(ports > 1 ? { echoPorts: ['echo'] } : {}),
      };
      const ours = here('virtio-console', part, packed === 'on' ? 0 : PACKED);
      expect(said).toEqual(ofProgram('virtio-console', ours));
      expect(said.at(-1)).toBe('virtio-console: ok');
      const lines = readFileSync(out, 'utf8').split('\n').slice(0, -1);
      expect(lines.length).toBe(201);
      expect(lines).toEqual(ours.filter((line) => !line.startsWith('virtio-console:')));
    });
});
