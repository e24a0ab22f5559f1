/**
 * The guests' drivers for disk and balloon on QEMU's devices (force-legacy=false), and on ours: the same
 * programs say the same, and what one of them writes to an image the other reads. Where CI is set the
 * tests fail without QEMU, elsewhere they are reported as skipped.
 */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createConnection } from 'node:net';
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
const BOARD = [
  '-M',
  'virt',
  '-m',
  '64M',
  '-display',
  'none',
  '-serial',
  'stdio',
  '-monitor',
  'none',
];
const MODERN = ['-global', 'virtio-mmio.force-legacy=false'];
const DISK_BYTES = 2 ** 20;

let folder = '';
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'gupbed-qemu-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const ofProgram = (name: string, text: string): string[] =>
  text
    .replaceAll('\r', '')
    .split('\n')
    .filter((line) => line.startsWith(`${name}:`));

const here = (name: string, part: PartConfig, parameters: number[]): readonly string[] => {
  const guests = [{ name, memoryBytes: 16 << 20, harts: 1, activity: null, parts: [part] }];
  const machine = new HostMachine({ seed: 1, policy: 'linux-7', guests });
  machine.boot(machine.guests[0]!, putParameters(elfImage(name), parameters));
  while (!machine.done && machine.retired < 1e8) machine.step(1e7);
  return machine.guests[0]!.console.lines;
};

describe.skipIf(skip)(`virtio-blk on QEMU's disk${why}`, () => {
  for (const packed of ['on', 'off'])
    it(`packed=${packed}: the same requests leave the same sectors as here, and these are read here`, {
      timeout: 90_000,
    }, () => {
      const file = join(folder, `disk-${packed}.img`);
      writeFileSync(file, new Uint8Array(DISK_BYTES));
      const drive = `file=${file},if=none,format=raw,id=d,discard=unmap,detect-zeroes=unmap`;
      const device = `virtio-blk-device,drive=d,serial=gupbed,packed=${packed}`;
      const words = [
        ...BOARD,
        ...MODERN,
        '-drive',
        drive,
        '-device',
        device,
        '-kernel',
        guest('virtio-blk'),
      ];
      const { stdout } = spawnSync(QEMU, words, { encoding: 'utf8', timeout: 60_000 });
      const said = ofProgram('virtio-blk', stdout);
      const image = { file: null, sizeBytes: DISK_BYTES };
      expect(said.at(-1)).toBe('virtio-blk: ok');
      expect(said).toEqual(
        here('virtio-blk', { kind: 'virtio-blk', image }, [packed === 'on' ? 0 : 1]),
      );
      // Parameter 2: every sector must be zeroes, or what one run of the program has left there.
      const left = {
        kind: 'virtio-blk' as const,
        image: { file, sizeBytes: DISK_BYTES },
        readOnly: true,
      };
      expect(here('virtio-blk', left, [0, 0, 1]).at(-1)).toBe('virtio-blk: ok');
    });
});

/** Calls commands of a QEMU's control socket one after the other. What the last one returns. */
const qmp = (path: string, ...commands: object[]): Promise<Record<string, number>> =>
  new Promise((resolve, reject) => {
    const queue = [...commands];
    let text = '';
    const socket = createConnection(path, () => {
      socket.write(`${JSON.stringify({ execute: 'qmp_capabilities' })}\n`);
    });
    socket.on('error', reject);
    socket.on('data', (bytes) => {
      text += bytes.toString();
      for (let end = text.indexOf('\n'); end >= 0; end = text.indexOf('\n')) {
        const answer = JSON.parse(text.slice(0, end)) as { return?: Record<string, number> };
        text = text.slice(end + 1);
        if (answer.return === undefined) continue;
        const next = queue.shift();
        if (next === undefined) {
          socket.end();
          resolve(answer.return);
        } else socket.write(`${JSON.stringify(next)}\n`);
      }
    });
  });

const balloonTo = (mib: number): object => ({
  execute: 'balloon',
  arguments: { value: mib * 2 ** 20 },
});

/** The host wants 16 MiB, and when it has got them nothing any more. */
const askForMemory = async (socket: string): Promise<void> => {
  await qmp(socket, balloonTo(48));
  for (let turns = 0; turns < 200; turns++) {
    const { actual } = await qmp(socket, { execute: 'query-balloon' });
    if (actual === 48 * 2 ** 20) break;
    await new Promise((later) => setTimeout(later, 100));
  }
  await qmp(socket, balloonTo(64));
};

describe.skipIf(skip)(`virtio-balloon on QEMU's balloon${why}`, () => {
  it('gives what is wanted, takes it back, and reports free pages', {
    timeout: 90_000,
  }, async () => {
    const socket = join(folder, 'qmp');
    const device = 'virtio-balloon-device,free-page-reporting=on,deflate-on-oom=on';
    const words = [
      ...BOARD,
      ...MODERN,
      '-qmp',
      `unix:${socket},server=on,wait=off`,
      '-device',
      device,
    ];
    const qemu = spawn(QEMU, [...words, '-kernel', guest('virtio-balloon')], { timeout: 60_000 });
    let text = '';
    const ended = new Promise<void>((resolve) => qemu.on('close', () => resolve()));
    let asked: Promise<void> | null = null;
    qemu.stdout.on('data', (bytes: Buffer) => {
      text += bytes.toString();
      if (/virtio-balloon: \d+ pages/.test(text)) asked ??= askForMemory(socket);
    });
    await ended;
    await asked;
    const said = ofProgram('virtio-balloon', text);
    expect(said.at(-1)).toBe('virtio-balloon: ok');
    expect(said[1]).toMatch(/: 4160 pages given, 4160 returned, 8 reports/);
  });
});
