/**
 * An NVDIMM in a guest: transactions that are durable in every mode, power lost at any event and the next
 * boot from what was left, the user's file, and saved machines.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { HostMachine } from '#testbed';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  decodeNvdimm,
  encodeNvdimm,
  NVDIMM_EXTRA_BYTES,
  nvdimmMemoryBytes,
} from '../../testbed/machine/nvdimm-image.ts';
import { putParameters } from '../../testbed/machine/parameters.ts';
import type { NvdimmPartConfig } from '../../testbed/machine/parts/nvdimm.ts';
import { elfImage } from '../support/fight.ts';
import { rng } from '../support/rng.ts';

const MEMORY = 128 * 1024;
const SIZE = MEMORY + NVDIMM_EXTRA_BYTES;
const LIMIT = 3e6;

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'nvdimm-'));
});
afterAll(() => rmSync(folder, { recursive: true }));

type Part = Omit<NvdimmPartConfig, 'kind' | 'image'> & { file?: string; sizeBytes?: number };

const boot = (name: string, parameters: number[], part: Part = {}): HostMachine => {
  const { file = null, sizeBytes = SIZE, ...rest } = part;
  const machine = new HostMachine(
    {
      seed: 5,
      policy: 'linux-7',
      guests: [
        {
          name,
          memoryBytes: 8 << 20,
          harts: 1,
          activity: null,
          parts: [{ kind: 'nvdimm', image: { file, sizeBytes }, ...rest }],
        },
      ],
    },
    { checked: true },
  );
  machine.boot(machine.guests[0]!, putParameters(elfImage(name), parameters));
  return machine;
};

const linesOf = (machine: HostMachine): readonly string[] => machine.guests[0]!.console.lines;
const partOf = (machine: HostMachine) => machine.guests[0]!.parts[0]!;

/** The last transaction that was promised. */
const promised = (machine: HostMachine): number =>
  linesOf(machine).reduce((last, line) => {
    const match = /committed (\d+)$/.exec(line);
    return match === null ? last : Number(match[1]);
  }, 0);

/** To the end of the guest, or until power fails. */
const run = (machine: HostMachine): HostMachine => {
  while (!machine.done && !machine.powerHasFailed && machine.retired < LIMIT) machine.step(LIMIT);
  return machine;
};

const finish = (machine: HostMachine): void => {
  machine.tearDown();
  expect(machine.violations).toEqual([]);
};

describe('txlog', () => {
  for (const mode of ['adr', 'eadr', 'none'] as const)
    for (const backing of ['devdax', 'fsdax'] as const)
      it(`on ${backing}, ${mode}: ends well, and no frame is lost`, () => {
        const machine = run(boot('txlog', [1, 6], { mode, backing }));
        expect(linesOf(machine).at(-1)).toMatch(/ok, 6 transactions/);
        const report = partOf(machine).report();
        expect(report['write-backs'] === 0).toBe(mode === 'eadr');
        expect(report['flush hints'] === 0).toBe(mode !== 'none');
        expect(report['lines not durable']).toBe(0);
        finish(machine);
      });

  it('power lost at 12 events, and the boot after each: no promise is broken', () => {
    const events = rng(3);
    const file = join(folder, 'power.img');
    const whole = run(boot('txlog', [1, 6]));
    const report = partOf(whole).report();
    const most = Number(report.stores) + Number(report['write-backs']) + Number(report.fences);
    finish(whole);
    for (let i = 0; i < 12; i++) {
      writeFileSync(file, new Uint8Array(SIZE));
      const failAtEvent = 1 + events.below(most);
      const machine = run(boot('txlog', [1, 6], { file, failAtEvent }));
      expect(machine.powerHasFailed).toBe(true);
      const before = promised(machine);
      partOf(machine).powerFail?.(() => events.chance(0.5));
      finish(machine);
      machine.writeBack();

      const next = run(boot('txlog', [1, 2], { file }));
      expect(linesOf(next).at(-1), `event ${failAtEvent}`).toMatch(/ok, 2 transactions/);
      expect(promised(next) - 2).toBeGreaterThanOrEqual(before);
      // Nothing that was not begun either.
      expect(promised(next) - 2).toBeLessThanOrEqual(before + 1);
      finish(next);
    }
  });

  it('without the flush of the commit word a promise is broken by some loss of power', () => {
    const file = join(folder, 'broken.img');
    let broken = 0;
    // Transactions of 26 events follow some 210 of setting up the log.
    for (let failAtEvent = 220; failAtEvent < 300 && broken === 0; failAtEvent += 5) {
      writeFileSync(file, new Uint8Array(SIZE));
      const machine = run(boot('txlog', [1, 6, 2], { file, failAtEvent }));
      const before = promised(machine);
      partOf(machine).powerFail?.(() => false);
      finish(machine);
      machine.writeBack();
      const next = run(boot('txlog', [1, 1], { file }));
      if (promised(next) - 1 < before) broken++;
      finish(next);
    }
    expect(broken).toBeGreaterThan(0);
  });
});

describe('the user’s file', () => {
  it('goes from one run to the next, with the count of losses', () => {
    const file = join(folder, 'runs.img');
    writeFileSync(file, new Uint8Array(SIZE));
    for (const last of [3, 6, 9]) {
      const machine = run(boot('txlog', [1, 3], { file }));
      expect(promised(machine)).toBe(last);
      finish(machine);
      machine.writeBack();
    }
    expect(decodeNvdimm(readFileSync(file))).toMatchObject({ unsafe: false, unsafeShutdowns: 0 });
    const lost = run(boot('txlog', [1, 3], { file, failAtEvent: 50 }));
    partOf(lost).powerFail?.(() => false);
    finish(lost);
    lost.writeBack();
    expect(decodeNvdimm(readFileSync(file))).toMatchObject({ unsafe: true, unsafeShutdowns: 0 });
    const next = run(boot('nvdimm', [], { file }));
    expect(linesOf(next)[0]).toMatch(/1 of them so far, one just now$/);
    expect(linesOf(next).at(-1)).toBe('nvdimm: ok');
    finish(next);
  });

  it('of a run that was given up holds what had been durable then', () => {
    const file = join(folder, 'given-up.img');
    writeFileSync(file, new Uint8Array(SIZE));
    const machine = boot('txlog', [1, 30], { file });
    while (promised(machine) < 10) machine.step(500);
    machine.writeBack();
    const next = run(boot('txlog', [1, 1], { file }));
    expect(promised(next)).toBeGreaterThanOrEqual(11);
    expect(linesOf(next).at(-1)).toMatch(/ok/);
    finish(next);
    finish(machine);
  });

  it('keeps what cannot be read', () => {
    const memory = new Uint8Array(MEMORY);
    memory[5] = 9;
    const image = {
      ...decodeNvdimm(new Uint8Array(SIZE)),
      memory,
      poison: [[512, 512] as [number, number]],
      unsafeShutdowns: 4,
    };
    const again = decodeNvdimm(encodeNvdimm(image));
    expect(again.poison).toEqual([
      [512, 256],
      [768, 256],
    ]);
    expect([again.memory[5], again.unsafeShutdowns]).toEqual([9, 4]);
    expect(Buffer.compare(again.labels, image.labels)).toBe(0);
  });

  it('has a size that leaves whole pages for memory', () => {
    expect(nvdimmMemoryBytes(SIZE)).toBe(MEMORY);
    for (const size of [0, 4096, NVDIMM_EXTRA_BYTES, SIZE + 1, SIZE - 512])
      expect(() => nvdimmMemoryBytes(size)).toThrow(/NVDIMM/);
  });
});

describe('a saved machine', () => {
  it('goes on with every line that was open, wherever it was saved', () => {
    const straight = run(boot('txlog', [1, 6]));
    const lines = [...linesOf(straight)];
    const report = partOf(straight).report();
    finish(straight);
    for (const at of [14_100, 16_400]) {
      let machine = boot('txlog', [1, 6]);
      while (machine.retired < at || !machine.quiet) machine.step(at - machine.retired);
      const state = structuredClone(machine.save());
      machine = run(new HostMachine(state.config, { checked: true }, state));
      expect([...linesOf(machine)], `saved at ${at}`).toEqual(lines);
      expect(partOf(machine).report()).toEqual(report);
      finish(machine);
    }
  });

  it('finds, makes bad and makes good: the guest nvdimm passes when it was saved half-way', () => {
    let machine = boot('nvdimm', []);
    const instructions = run(boot('nvdimm', [])).retired;
    while (machine.retired < instructions / 2 || !machine.quiet)
      machine.step(Math.max(1, instructions / 2 - machine.retired));
    const state = structuredClone(machine.save());
    machine = run(new HostMachine(state.config, { checked: true }, state));
    expect(linesOf(machine).at(-1)).toBe('nvdimm: ok');
    expect(machine.retired).toBe(instructions);
    finish(machine);
  });
});
