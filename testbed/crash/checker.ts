/**
 * Programs that judge an image of persistent memory: a bare-metal guest that does what recovery does, or
 * a program of the user's.
 *
 * The bare-metal one runs on a board of its own, whose persistent memory is a device: so every read is
 * seen, and only what is read has to be decided. It finds the promises that the crashed run made in
 * its parameters (guests/README.md) and says its verdict through the test finisher.
 */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type ElfImage, type MmioDevice, NVDIMM_GPA } from '#emu';
import { BareMachine } from '../machine/bare.ts';
import { putParameters } from '../machine/parameters.ts';
import type { ImageReader } from './enumerate.ts';

/** What the run had promised when power failed. */
export interface Promises {
  /** Lines that its guest had printed. */
  lines: readonly string[];
  /** The last number that a line with the word `committed` ends in; 0 without one. */
  committed: number;
}

/** @returns null: consistent, and no promise broken; or what is wrong */
export type Checker = (image: ImageReader, promises: Promises) => string | null;

/** What the lines of a run promise. */
export const promisesOf = (lines: readonly string[]): Promises => {
  let committed = 0;
  for (const line of lines) {
    const match = /\bcommitted (\d+)$/.exec(line);
    if (match !== null) committed = Number(match[1]);
  }
  return { lines, committed };
};

const CHECKER_RAM = 2 ** 20;
/** A recovery that takes longer does not end. */
const CHECKER_INSTRUCTIONS = 50_000_000;

/** Persistent memory as registers: reads are the image's, what recovery writes is its own. */
class ImageMemory implements MmioDevice {
  private readonly image: ImageReader;
  private readonly written: Map<number, number>;

  constructor(image: ImageReader) {
    this.image = image;
    this.written = new Map();
  }

  read(offset: number, sizeBytes: number): number {
    const bytes = this.image.read(offset, sizeBytes);
    let value = 0;
    for (let i = sizeBytes - 1; i >= 0; i--)
      value = (value << 8) | (this.written.get(offset + i) ?? bytes[i]!);
    return value >>> 0;
  }

  write(offset: number, sizeBytes: number, value: number): void {
    for (let i = 0; i < sizeBytes; i++) this.written.set(offset + i, (value >>> (8 * i)) & 0xff);
  }
}

/** A recovery program for bare metal: parameter 0 = the promised commits, 1 = bytes of the memory. */
export const bareChecker =
  (elf: ElfImage): Checker =>
  (image, { committed }) => {
    const machine = new BareMachine({
      ramBytes: CHECKER_RAM,
      harts: 1,
      devices: [
        {
          basePa: NVDIMM_GPA,
          sizeBytes: image.sizeBytes,
          device: new ImageMemory(image),
          name: 'image',
        },
      ],
    });
    machine.load(putParameters(elf, [committed, image.sizeBytes]));
    while (machine.end === null && machine.retired < CHECKER_INSTRUCTIONS)
      machine.step(CHECKER_INSTRUCTIONS - machine.retired);
    machine.console.finish();
    const { end } = machine;
    if (end?.kind === 'finished' && end.request.kind !== 'fail') return null;
    const said = machine.console.lines.at(-1);
    if (end?.kind === 'finished') return said ?? `recovery failed with code ${end.request.code}`;
    return end === null ? 'recovery does not end' : `recovery stopped: ${end.kind}`;
  };

/** A program of the user's: gets the names of the image's file and of what the guest had printed; 0 = consistent. */
export const programChecker =
  (command: string): Checker =>
  (image, { lines }) => {
    const folder = mkdtempSync(join(tmpdir(), 'gupbed-image-'));
    try {
      const imageFile = join(folder, 'image');
      const linesFile = join(folder, 'output');
      writeFileSync(imageFile, image.read(0, image.sizeBytes));
      writeFileSync(linesFile, lines.map((line) => `${line}\n`).join(''));
      const run = spawnSync(command, [imageFile, linesFile], { encoding: 'utf8' });
      if (run.error !== undefined) throw run.error;
      if (run.status === 0) return null;
      const said = `${run.stdout}${run.stderr}`.trim().split('\n').at(-1);
      return said === undefined || said === '' ? `the checker ended with ${run.status}` : said;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  };
