/** Drives a machine from the command line: in pieces, so that Ctrl-C and the terminal get their turn. */
import { Progress } from './progress.ts';

/** How long a piece is before the event loop runs, in milliseconds of host time. */
const PIECE_MS = 40;

export type LoopOutcome = 'ended' | 'interrupted';

/** Host time that a run took, in seconds; its machine time does not depend on it. */
export interface LoopResult {
  outcome: LoopOutcome;
  seconds: number;
}

/**
 * Calls `step` until it returns false, or until Ctrl-C.
 * @param status the progress line, shown on a terminal after two seconds
 */
export const runLoop = async (step: () => boolean, status: () => string): Promise<LoopResult> => {
  let interrupted = false;
  const onInterrupt = (): void => {
    interrupted = true;
  };
  process.on('SIGINT', onInterrupt);
  const progress = new Progress();
  const start = performance.now();
  try {
    for (let going = true; going && !interrupted; ) {
      const pieceEnd = performance.now() + PIECE_MS;
      while (going && performance.now() < pieceEnd)
        for (let i = 0; going && i < 16; i++) going = step();
      progress.update(status);
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    progress.clear();
    process.off('SIGINT', onInterrupt);
  }
  return {
    outcome: interrupted ? 'interrupted' : 'ended',
    seconds: (performance.now() - start) / 1000,
  };
};

/** "12.3 M instructions, 45 MIPS". */
export const speedLine = (instructions: number, seconds: number): string =>
  `${(instructions / 1e6).toFixed(1)} M instructions, ${mips(instructions, seconds).toFixed(0)} MIPS`;

export const mips = (instructions: number, seconds: number): number =>
  seconds > 0 ? instructions / seconds / 1e6 : 0;
