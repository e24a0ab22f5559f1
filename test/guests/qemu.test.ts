/**
 * The guest programs on QEMU's virt board (Debian: qemu-system-misc, with its OpenSBI): the same
 * programs say the same there. Where CI is set the tests fail without QEMU, elsewhere they are
 * reported as skipped.
 */
import { spawnSync } from 'node:child_process';
import { describe, expect, it } from 'vitest';
import { BareMachine, type HostMachine } from '#testbed';
import { guest } from '../support/cli.ts';
import { bootFight, elfImage } from '../support/fight.ts';

const QEMU = 'qemu-system-riscv64';
const missing = spawnSync(QEMU, ['--version']).status !== 0;
const skip = missing && process.env.CI === undefined;
const why = missing ? ` (needs ${QEMU})` : '';

/** What a program prints on QEMU, without the firmware's own lines. */
const onQemu = (name: string, ...options: string[]): string[] => {
  const words = ['-M', 'virt', '-m', '64M', '-nographic', ...options, '-kernel', guest(name)];
  const { stdout, error } = spawnSync(QEMU, words, { encoding: 'utf8', timeout: 90_000 });
  if (error !== undefined) throw error;
  return linesOf(name, stdout.replaceAll('\r', '').split('\n'));
};

/** Checksums and verdicts; counts of instructions differ from machine to machine. */
const linesOf = (name: string, lines: readonly string[]): string[] =>
  lines.filter((line) => line.startsWith(`${name}:`) && !line.includes('instructions'));

describe.skipIf(skip)(`a guest program says the same on QEMU's virt board${why}`, () => {
  it('bare-hello, in M-mode without firmware', () => {
    const machine = new BareMachine({ ramBytes: 64 * 2 ** 20, harts: 1 });
    machine.load(elfImage('bare-hello'));
    while (machine.end === null && machine.retired < 1e6) machine.step(1e6);
    const here = linesOf('bare-hello', machine.console.lines);
    expect(here.length).toBeGreaterThan(0);
    // misa differs: QEMU's hart has F and D.
    const bare = (lines: string[]): string[] => lines.map((l) => l.replace(/misa 0x\w+/, 'misa'));
    expect(bare(here)).toEqual(bare(onQemu('bare-hello', '-bios', 'none')));
  });

  it('memwalk, in S-mode there and in VS-mode here', { timeout: 120_000 }, () => {
    const guests = [{ name: 'memwalk', memoryBytes: 64 * 2 ** 20, harts: 1, activity: null }];
    const machine: HostMachine = bootFight({ seed: 1, policy: 'linux-7', guests });
    while (!machine.done) machine.step(1e7);
    const here = linesOf('memwalk', machine.guests[0]!.console.lines);
    expect(here.at(-1)).toBe('memwalk: ok');
    expect(here).toEqual(onQemu('memwalk'));
  });
});
