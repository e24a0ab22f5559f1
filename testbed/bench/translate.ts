/**
 * Suite `translate`: what a translation costs, called from TypeScript and met by guest programs,
 * beside the same accesses without any translation.
 */
import { numberIn } from './guest-bench.ts';
import { ENDLESS, GuestProcess } from './guest-process.ts';
import { plainChaser, plainToucher } from './plain-access.ts';
import { PLAIN_ACCESS, type Samples, translateSamples } from './row.ts';
import { translateRows } from './translate-core.ts';

const MIB = 2 ** 20;
/** Page touches of one pass, at least. */
const TOUCHES = 2 ** 18;
const LOADS = 2 ** 20;
/** Rounds before the first that counts: they fault memory in and warm V8 up. */
const WARM_UP = 2;
/** Below this share of accesses that walk, steps per walk say nothing. */
const WALKS_WORTH_A_ROW = 0.5;

/** Told now and then what is being measured. */
export type Announce = (what: string) => void;

interface GuestCase {
  program: 'bench-touch' | 'bench-chase';
  name: string;
  memoryBytes: number;
  parameters: number[];
  /** What a pass line counts its accesses by. */
  counted: string;
  /** The same accesses without translation: nanoseconds an access. */
  plain(): number;
}

/** Parameter 3 of bench-touch. */
const KINDS = { load: 1, store: 2 } as const;

const touch = (pages: number, kind: keyof typeof KINDS): GuestCase => {
  const times = Math.max(1, TOUCHES / pages);
  return {
    program: 'bench-touch',
    name: `page touch, ${pages} pages, ${kind}`,
    memoryBytes: roundUp(pages * 4096 + 32 * MIB),
    parameters: [pages, ENDLESS, times, KINDS[kind]],
    counted: 'touches',
    plain: plainToucher(pages, times),
  };
};

const chase = (nodes: number, spacing: number, what: string): GuestCase => ({
  program: 'bench-chase',
  name: `pointer chase, ${what}`,
  memoryBytes: roundUp(nodes * spacing + 32 * MIB),
  parameters: [nodes, spacing, LOADS, ENDLESS],
  counted: 'loads',
  plain: plainChaser(nodes, spacing, LOADS / 4),
});

/** All of the suite's samples. @param rounds samples of each figure */
export const translateSuite = async (rounds: number, announce: Announce): Promise<Samples[]> => {
  announce('translate: from TypeScript');
  const samples: Samples[] = [...translateRows(rounds)];
  const cases = [
    ...[512, 4096, 65_536].flatMap((pages) => [
      () => touch(pages, 'load'),
      () => touch(pages, 'store'),
    ]),
    () => chase(1024, 64, '64 KiB'),
    () => chase(1024, 4160, '1024 pages'),
    () => chase(65_536, 4160, '260 MiB'),
  ];
  for (const make of cases) {
    const c = make();
    announce(`translate: ${c.name}`);
    samples.push(...(await guestSamples(c, rounds)));
  }
  return samples;
};

/** One program under one and under two stages, pass by pass in turn with the plain accesses. */
const guestSamples = async (c: GuestCase, rounds: number): Promise<Samples[]> => {
  const { program, memoryBytes, parameters } = c;
  const processes = ([1, 2] as const).map((stages) => ({
    what: stages === 1 ? 'one stage' : 'two stages',
    process: new GuestProcess({ program, stages, memoryBytes, parameters }),
  }));
  try {
    const timed = processes.map(({ what, process }) => ({
      process,
      time: translateSamples(`${c.name}, ${what}`, 'ns'),
      steps: translateSamples(`${c.name}, ${what}: steps a walk`, 'PTE reads'),
    }));
    for (let round = -WARM_UP; round < rounds; round++) {
      const plain = c.plain();
      for (const { process, time, steps } of timed) {
        const pass = await process.nextPass();
        if (round < 0) continue;
        const accesses = numberIn(pass.line, c.counted);
        time.samples.push((pass.ms * 1e6) / accesses);
        time.peers[PLAIN_ACCESS]!.push(plain);
        if (pass.walks >= accesses * WALKS_WORTH_A_ROW) steps.samples.push(pass.steps / pass.walks);
      }
    }
    return timed.flatMap(({ time, steps }) =>
      steps.samples.length === rounds ? [time, { ...steps, peers: {} }] : [time],
    );
  } finally {
    for (const { process } of processes) process.stop();
  }
};

const roundUp = (bytes: number): number => Math.ceil(bytes / MIB) * MIB;
