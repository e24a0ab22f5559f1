/** Drives a machine from the command line: in pieces, so that Ctrl-C and the terminal get their turn. */
import { Progress } from './progress.ts';

/** How long a piece is before the event loop runs, in milliseconds of host time. */
const PIECE_MS = 40;

export type LoopOutcome = 'ended' | 'interrupted';

export interface LoopResult {
  outcome: LoopOutcome;
  /** Host time that the run took; its machine time does not depend on it. */
  seconds: number;
}

/**
 * Calls `step` until it returns false, or until Ctrl-C.
 * @param status the progress line after so many seconds, shown on a terminal after two seconds
 * @param batch steps between two looks at the clock: 1 where a step takes longer than that
 */
export const runLoop = async (
  step: () => boolean,
  status: (seconds: number) => string,
  batch = 16,
): Promise<LoopResult> => {
  let interrupted = false;
  const onInterrupt = (): void => {
    interrupted = true;
  };
  process.on('SIGINT', onInterrupt);
  const progress = new Progress();
  const start = performance.now();
  const seconds = (): number => (performance.now() - start) / 1000;
  try {
    for (let going = true; going && !interrupted; ) {
      const pieceEnd = performance.now() + PIECE_MS;
      while (going && performance.now() < pieceEnd)
        for (let i = 0; going && i < batch; i++) going = step();
      progress.update(() => status(seconds()));
      await new Promise((resolve) => setImmediate(resolve));
    }
  } finally {
    progress.clear();
    process.off('SIGINT', onInterrupt);
  }
  return { outcome: interrupted ? 'interrupted' : 'ended', seconds: seconds() };
};
