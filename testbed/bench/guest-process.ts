/**
 * Runs each guest benchmark in a process of its own, as a user's run is: what V8 has learned from one
 * machine does not slow another. The parent asks for one pass at a time, so that passes of
 * several programs are interleaved.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { guestFile } from '../cli/guest-file.ts';
import { readElf } from '../cli/input.ts';
import { type GuestBench, oneStageBench, type Pass, twoStageBench } from './guest-bench.ts';

/** The command-line word that makes a process such a child. Not a command for users. */
export const GUEST_BENCH_COMMAND = 'bench-guest';

/** How long a program runs, each time it is asked for a pass, before the pass that counts. */
const WARM_UP_MS = 500;
/** As `passes` of a program: more than will ever be asked for. */
export const ENDLESS = 1e9;

/** What a child is told to run. */
export interface GuestBenchJob {
  program: string;
  /** 1: on the bare board, in S-mode. 2: under the hypervisor, in VS-mode. */
  stages: 1 | 2;
  memoryBytes: number;
  parameters: readonly number[];
}

/** A pass, and the page walks that it took. */
export interface GuestPass extends Pass {
  walks: number;
  steps: number;
}

/** A program in its process. */
export class GuestProcess {
  private readonly child: ChildProcess;

  constructor(job: GuestBenchJob) {
    this.child = fork(process.argv[1]!, [GUEST_BENCH_COMMAND, JSON.stringify(job)], {
      execArgv: process.execArgv,
    });
  }

  /** Lets it warm up and then run one pass. @throws Error when the program ends instead */
  async nextPass(): Promise<GuestPass> {
    return new Promise((resolve, reject) => {
      const ended = (): void => reject(new Error('a benchmark program ended early'));
      this.child.once('exit', ended);
      this.child.once('message', (pass) => {
        this.child.off('exit', ended);
        if (pass === null) ended();
        else resolve(pass as GuestPass);
      });
      this.child.send('next');
    });
  }

  stop(): void {
    if (this.child.connected) this.child.disconnect();
  }
}

/** The child's side: a pass for every message, until the parent is gone. */
export const guestBenchCommand = async (words: string[]): Promise<number> => {
  const job = JSON.parse(words[0] ?? '') as GuestBenchJob;
  const image = readElf(guestFile(job.program));
  const make = job.stages === 1 ? oneStageBench : twoStageBench;
  const bench: GuestBench = make(image, job.memoryBytes, job.parameters);
  process.on('message', () => {
    const start = performance.now();
    let before = bench.walks();
    let pass = bench.nextPass();
    // A processor that was idle takes a while to come back to speed: only the last pass counts.
    while (pass !== null && performance.now() - start < WARM_UP_MS) {
      before = bench.walks();
      pass = bench.nextPass();
    }
    const after = bench.walks();
    process.send?.(
      pass === null
        ? null
        : { ...pass, walks: after.walks - before.walks, steps: after.steps - before.steps },
    );
  });
  return new Promise((resolve) => process.on('disconnect', () => resolve(0)));
};
