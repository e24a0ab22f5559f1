/** Suite `hart`: what the interpreter does in a second, on a loop of integer instructions. */
import { numberIn } from './guest-bench.ts';
import { ENDLESS, GuestProcess } from './guest-process.ts';
import type { Samples } from './row.ts';
import type { Announce } from './translate.ts';

const MEMORY_BYTES = 64 * 2 ** 20;
const ITERATIONS = 1_000_000;
/** Rounds before the first that counts. */
const WARM_UP = 1;

/** Samples of the suite, in MIPS. @param rounds samples of each figure */
export const hartSuite = async (rounds: number, announce: Announce): Promise<Samples[]> => {
  announce('hart: integer loop');
  const job = {
    program: 'bench-int',
    memoryBytes: MEMORY_BYTES,
    parameters: [ITERATIONS, ENDLESS],
  };
  const rows = ([1, 2] as const).map((stages) => ({
    process: new GuestProcess({ ...job, stages }),
    row: newRow(stages === 1 ? 'integer loop, S-mode' : 'integer loop, VS-mode'),
  }));
  try {
    for (let round = -WARM_UP; round < rounds; round++)
      for (const { process, row } of rows) {
        const pass = await process.nextPass();
        if (round >= 0) row.samples.push(numberIn(pass.line, 'instructions') / pass.ms / 1000);
      }
  } finally {
    for (const { process } of rows) process.stop();
  }
  return rows.map(({ row }) => row);
};

const newRow = (name: string): Samples => ({
  suite: 'hart',
  name,
  unit: 'MIPS',
  better: 'higher',
  samples: [],
  peers: {},
});
