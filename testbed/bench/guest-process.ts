/**
 * Runs each guest benchmark in a process of its own, as a user's run is: what V8 has learned from one
 * machine does not slow another. The parent asks for one pass at a time, so that passes of
 * several programs are interleaved.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { guestFile } from '../cli/guest-file.ts';
import { readElf } from '../cli/input.ts';
import { EXIT_OK, FailureError } from '../cli/usage-error.ts';
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
  private readonly program: string;
  /** Rejects the pass that is waited for: the process has gone. */
  private onGone: (how: string) => void;

  constructor(job: GuestBenchJob) {
    this.program = job.program;
    this.onGone = () => {};
    this.child = fork(process.argv[1]!, [GUEST_BENCH_COMMAND, JSON.stringify(job)], {
      execArgv: process.execArgv,
    });
    this.child.on('error', (error) => this.onGone(error.message));
    this.child.on('exit', (code, signal) => this.onGone(signal ?? `exit code ${code}`));
  }

  /** Lets it warm up and then run one pass. @throws FailureError when the program ends instead */
  async nextPass(): Promise<GuestPass> {
    const { child, program } = this;
    try {
      return await new Promise((resolve, reject) => {
        this.onGone = (how) => reject(new FailureError(`bench: ${program} ended early: ${how}`));
        child.once('message', (pass) => {
          if (pass === null) this.onGone('no passes left');
          else resolve(pass as GuestPass);
        });
        if (child.exitCode === null && child.signalCode === null) child.send('next');
        else this.onGone(child.signalCode ?? `exit code ${child.exitCode}`);
      });
    } finally {
      this.onGone = () => {};
      child.removeAllListeners('message');
    }
  }

  /** Lets the process end. */
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
    const walks = after.walks - before.walks;
    const steps = after.steps - before.steps;
    // A parent that has gone meanwhile is no error of ours: 'disconnect' follows.
    process.send?.(pass === null ? null : { ...pass, walks, steps }, undefined, {}, () => {});
  });
  return new Promise((resolve) => process.on('disconnect', () => resolve(EXIT_OK)));
};
