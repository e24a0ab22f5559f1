/** Rows of a benchmark's result: medians of interleaved samples, with ratios to peers of the same run. */

/** The stable form that `bench --json` prints. */
export interface BenchRow {
  suite: string;
  name: string;
  unit: string;
  better: 'lower' | 'higher';
  median: number;
  min: number;
  max: number;
  rounds: number;
  /** Median of the sample-by-sample ratios to each peer. */
  ratios: Record<string, number>;
  /** Medians of the peers themselves, in the same unit. */
  peers: Record<string, number>;
}

/** What a benchmark hands over: one sample a round, and its peers' samples of the same rounds. */
export interface Samples {
  suite: string;
  name: string;
  unit: string;
  better: 'lower' | 'higher';
  samples: number[];
  peers: Record<string, number[]>;
}

/** The limit that translation is held against. */
export const PLAIN_ACCESS = 'plain access';

/** A figure of suite `translate` that has no sample yet, beside plain accesses. */
export const translateSamples = (name: string, unit: string): Samples => ({
  suite: 'translate',
  name,
  unit,
  better: 'lower',
  samples: [],
  peers: { [PLAIN_ACCESS]: [] },
});

/** NaN of none. */
export const median = (samples: readonly number[]): number => {
  const sorted = [...samples].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  if (sorted.length === 0) return Number.NaN;
  return sorted.length % 2 === 1 ? sorted[middle]! : (sorted[middle - 1]! + sorted[middle]!) / 2;
};

/** The row of a figure. @param s with as many samples of each peer as of its own */
export const rowOf = (s: Samples): BenchRow => {
  const ratios: Record<string, number> = {};
  const peers: Record<string, number> = {};
  for (const [peer, samples] of Object.entries(s.peers)) {
    ratios[peer] = median(s.samples.map((sample, round) => sample / samples[round]!));
    peers[peer] = median(samples);
  }
  return {
    suite: s.suite,
    name: s.name,
    unit: s.unit,
    better: s.better,
    median: median(s.samples),
    min: Math.min(...s.samples),
    max: Math.max(...s.samples),
    rounds: s.samples.length,
    ratios,
    peers,
  };
};
