/** Suite `hart`: what the interpreter does in a second, and what a slice and a trap cost. */
import { guestFile } from '../cli/guest-file.ts';
import { readElf } from '../cli/input.ts';
import { numberIn, oneStageBench, twoStageBench } from './guest-bench.ts';
import type { Samples } from './row.ts';
import type { Announce } from './translate.ts';

const MEMORY_BYTES = 64 * 2 ** 20;
const ITERATIONS = 1_000_000;

export const hartSuite = (rounds: number, announce: Announce): Samples[] => {
  announce('hart: integer loop');
  const image = readElf(guestFile('bench-int'));
  const parameters = [ITERATIONS, rounds + 1];
  const rows = [
    { name: 'integer loop, S-mode', bench: oneStageBench(image, MEMORY_BYTES, parameters) },
    { name: 'integer loop, VS-mode', bench: twoStageBench(image, MEMORY_BYTES, parameters) },
  ].map(({ name, bench }) => ({
    bench,
    row: {
      suite: 'hart',
      name,
      unit: 'MIPS',
      better: 'higher',
      samples: [],
      peers: {},
    } as Samples,
  }));
  for (let round = -1; round < rounds; round++)
    for (const { bench, row } of rows) {
      const pass = bench.nextPass();
      if (pass === null) throw new Error('bench-int: ended early');
      // The first pass warms up.
      if (round >= 0) row.samples.push(numberIn(pass.line, 'instructions') / pass.ms / 1000);
    }
  return rows.map(({ row }) => row);
};
