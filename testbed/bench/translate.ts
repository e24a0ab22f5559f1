/**
 * Suite `translate`: what a translation costs, called from TypeScript and met by guest programs,
 * beside the same accesses without any translation.
 */
import { readElf } from '../cli/input.ts';
import { guestFile } from '../cli/guest-file.ts';
import { type GuestBench, numberIn, oneStageBench, twoStageBench } from './guest-bench.ts';
import { plainChaser, plainToucher } from './plain-access.ts';
import type { Samples } from './row.ts';
import { translateRows } from './translate-core.ts';

const MIB = 2 ** 20;

/** Page touches of one pass, at least. */
const TOUCHES = 2 ** 18;

/** Told now and then what is being measured. */
export type Announce = (what: string) => void;

interface GuestCase {
  program: 'bench-touch' | 'bench-chase';
  name: string;
  memoryBytes: number;
  parameters: number[];
  /** The same accesses without translation: nanoseconds an access. */
  plain(): number;
}

const touch = (pages: number, passes: number): GuestCase => ({
  program: 'bench-touch',
  name: `page touch, ${pages} pages`,
  memoryBytes: pages * 4096 + 32 * MIB,
  parameters: [pages, passes, Math.max(1, TOUCHES / pages)],
  plain: plainToucher(pages, Math.max(1, TOUCHES / pages)),
});

const chase = (nodes: number, spacing: number, what: string, passes: number): GuestCase => ({
  program: 'bench-chase',
  name: `pointer chase, ${what}`,
  memoryBytes: nodes * spacing + 32 * MIB,
  parameters: [nodes, spacing, 1 << 20, passes],
  plain: plainChaser(nodes, spacing, 1 << 18),
});

/** All of the suite's samples. @param rounds samples of each figure */
export const translateSuite = (rounds: number, announce: Announce): Samples[] => {
  announce('translate: from TypeScript');
  const samples: Samples[] = [...translateRows(rounds)];
  const cases = [
    touch(512, rounds),
    touch(4096, rounds),
    touch(65_536, rounds),
    chase(1024, 64, '64 KiB', rounds),
    chase(1024, 4160, '1024 pages', rounds),
    chase(65_536, 4160, '260 MiB', rounds),
  ];
  for (const c of cases) {
    announce(`translate: ${c.name}`);
    samples.push(...guestSamples(c, rounds));
  }
  return samples;
};

/** One program under one and under two stages, pass by pass in turn with the plain accesses. */
const guestSamples = (c: GuestCase, rounds: number): Samples[] => {
  const image = readElf(guestFile(c.program));
  const benches: [string, GuestBench][] = [
    ['one stage', oneStageBench(image, roundUp(c.memoryBytes), c.parameters)],
    ['two stages', twoStageBench(image, roundUp(c.memoryBytes), c.parameters)],
  ];
  const kinds = c.program === 'bench-touch' ? ['load', 'store'] : ['load'];
  const rows: Samples[] = [];
  for (const kind of kinds) {
    const timed = benches.map(([stages, bench]) => ({
      bench,
      time: newSamples(`${c.name}, ${kind}, ${stages}`, 'ns'),
      steps: newSamples(`${c.name}, ${kind}, ${stages}: steps per walk`, 'PTE reads'),
    }));
    for (let round = 0; round < rounds; round++) {
      const plain = c.plain();
      for (const { bench, time, steps } of timed) {
        const before = bench.walks();
        const pass = bench.nextPass();
        if (pass === null || !Number.isFinite(accesses(pass.line)))
          throw new Error(`${c.program}: ended early, said: ${pass?.line ?? 'nothing'}`);
        const after = bench.walks();
        time.samples.push((pass.ms * 1e6) / accesses(pass.line));
        time.peers['plain access']!.push(plain);
        const walks = after.walks - before.walks;
        if (walks * 10 >= accesses(pass.line))
          steps.samples.push((after.steps - before.steps) / walks);
      }
    }
    for (const { time, steps } of timed) {
      rows.push(time);
      if (steps.samples.length === rounds) rows.push({ ...steps, peers: {} });
    }
  }
  return rows;
};

const accesses = (line: string): number =>
  line.includes('loads') ? numberIn(line, 'loads') : numberIn(line, 'touches');

const newSamples = (name: string, unit: string): Samples => ({
  suite: 'translate',
  name,
  unit,
  better: 'lower',
  samples: [],
  peers: { 'plain access': [] },
});

const roundUp = (bytes: number): number => Math.ceil(bytes / MIB) * MIB;
