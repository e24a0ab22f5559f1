/** The main job's machine in this process, run until a guest says what it found. */
import { readFileSync } from 'node:fs';
import { type ElfImage, parseElf } from '#emu';
import { fightConfig, type HostConfig, HostMachine, type HostOptions } from '#testbed';
import { guest } from './cli.ts';

/** A guest program of the repository, parsed. */
export const elfImage = (name: string): ElfImage =>
  parseElf(new Uint8Array(readFileSync(guest(name))));

/** A machine with its guests booted. */
export const bootFight = (config: HostConfig, options: HostOptions = {}): HostMachine => {
  const machine = new HostMachine(config, options);
  for (const g of machine.guests) machine.boot(g, elfImage(g.config.name));
  return machine;
};

/** The fight with one guest alone. */
export const fightOf = (name: 'memwalk' | 'dmacopy', seed: number): HostConfig => {
  const config = fightConfig(seed, 'linux-7');
  return { ...config, guests: config.guests.filter((g) => g.name === name) };
};

/**
 * Runs until the guests have ended, `limit` instructions have retired, or one has printed a line
 * that matches.
 * @returns the line, or undefined
 */
export const runUntilLine = (
  machine: HostMachine,
  pattern: RegExp,
  limit: number,
): string | undefined => {
  const found = (): string | undefined =>
    machine.guests.flatMap((g) => g.console.lines).find((line) => pattern.test(line));
  for (let turn = 0; !machine.done && machine.retired < limit; turn++) {
    machine.step(limit - machine.retired);
    if (turn % 1024 === 0 && found() !== undefined) break;
  }
  return found();
};
