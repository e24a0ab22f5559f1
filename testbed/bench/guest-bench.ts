/**
 * Benchmarks that are guest programs: run with one stage of translation on the bare board and with
 * two stages under the hypervisor, timed by the host from line to line of what they print.
 */
import type { ElfImage } from '#emu';
import { FailureError } from '../cli/usage-error.ts';
import { BareMachine } from '../machine/bare.ts';
import { HostMachine } from '../machine/host.ts';
import { putParameters } from '../machine/parameters.ts';
import { FIRMWARE_PA, firmware } from './firmware.ts';

/** One pass of a program: what it printed about it, and how long the host took. */
export interface Pass {
  line: string;
  ms: number;
}

/** The register that the device tree's address is handed over in. */
const REG_A1 = 11;

/** Notes when each line came. */
class Stopwatch {
  private readonly passes: Pass[] = [];
  private last = performance.now();

  /** The oldest line that has not been taken yet. */
  take(): Pass | null {
    return this.passes.shift() ?? null;
  }

  /** A line has been printed just now. */
  line(line: string): void {
    const now = performance.now();
    this.passes.push({ line, ms: now - this.last });
    this.last = performance.now();
  }
}

/** Page walks of all harts since the start, and the page-table entries they read. */
export interface Walks {
  walks: number;
  steps: number;
}

/** A program and its machine, run pass by pass so that several can be interleaved. */
export interface GuestBench {
  /** Runs until the next line is printed. @returns null at the end */
  nextPass(): Pass | null;
  walks(): Walks;
}

const takeNext = (watch: Stopwatch, step: () => boolean): Pass | null => {
  for (;;) {
    const pass = watch.take();
    if (pass !== null) return pass;
    // The last line and the end of the program may come in one step.
    if (!step()) return watch.take();
  }
};

/** Under the hypervisor, in VS-mode: two stages. */
export const twoStageBench = (
  image: ElfImage,
  memoryBytes: number,
  parameters: readonly number[],
): GuestBench => {
  const watch = new Stopwatch();
  const machine = new HostMachine(
    {
      seed: 1,
      policy: 'linux-7',
      guests: [{ name: 'bench', memoryBytes, harts: 1, activity: null }],
    },
    { onLine: (_guest, line) => watch.line(line) },
  );
  machine.boot(machine.guests[0]!, putParameters(image, parameters));
  return {
    nextPass: () => takeNext(watch, () => !machine.done && machine.step(1e6)),
    walks: () => walksOf(machine.harts),
  };
};

/** On the bare board, in S-mode over a small firmware: one stage. */
export const oneStageBench = (
  image: ElfImage,
  memoryBytes: number,
  parameters: readonly number[],
): GuestBench => {
  const watch = new Stopwatch();
  const machine = new BareMachine({
    ramBytes: memoryBytes,
    harts: 1,
    onLine: (line) => watch.line(line),
  });
  machine.load(putParameters(image, parameters));
  const hart = machine.harts[0]!;
  // What the reset code gives the program, the firmware gives it after its own start.
  machine.memory.writeBytes(FIRMWARE_PA, firmware(image.entry, Number(hart.x(REG_A1))));
  hart.setPc(BigInt(FIRMWARE_PA));
  return {
    nextPass: () =>
      takeNext(watch, () => {
        machine.step(1e6);
        return machine.end === null;
      }),
    walks: () => walksOf(machine.harts),
  };
};

const walksOf = (
  harts: readonly { mmu: { counts(): { walks: number; walkSteps: number } } }[],
): Walks => {
  let walks = 0;
  let steps = 0;
  for (const { mmu } of harts) {
    const counts = mmu.counts();
    walks += counts.walks;
    steps += counts.walkSteps;
  }
  return { walks, steps };
};

/**
 * The number after `word` in a line of key-value pairs.
 * @throws FailureError where the program has printed something else
 */
export const numberIn = (line: string, word: string): number => {
  const digits = new RegExp(`\\b${word} (\\d+)`).exec(line)?.[1];
  if (digits === undefined) throw new FailureError(`bench: a program printed: ${line}`);
  return Number(digits);
};
