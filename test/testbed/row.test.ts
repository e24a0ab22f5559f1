/** The arithmetic of a benchmark's rows. */
import { describe, expect, it } from 'vitest';
import { numberIn } from '../../testbed/bench/guest-bench.ts';
import { median, rowOf, translateSamples } from '../../testbed/bench/row.ts';

describe('rows of a benchmark', () => {
  it('the median is the middle sample, or half-way between the middle two; order is nothing', () => {
    expect(median([9, 1, 5])).toBe(5);
    expect(median([4, 1, 3, 100])).toBe(3.5);
    expect(median([7])).toBe(7);
    expect(median([])).toBeNaN();
    const samples = [3, 1, 2];
    median(samples);
    expect(samples).toEqual([3, 1, 2]);
  });

  it('numbers are sorted as numbers', () => expect(median([10, 9, 100])).toBe(10));

  it('a ratio is the median of ratios round by round, not the ratio of medians', () => {
    const samples = [10, 40, 90];
    const row = rowOf({
      ...translateSamples('x', 'ns'),
      samples,
      peers: { plain: [10, 10, 30], twice: samples.map((s) => s / 2) },
    });
    expect(row).toEqual({
      suite: 'translate',
      name: 'x',
      unit: 'ns',
      better: 'lower',
      median: 40,
      min: 10,
      max: 90,
      rounds: 3,
      ratios: { plain: 3, twice: 2 },
      peers: { plain: 10, twice: 20 },
    });
  });

  it('a figure is the number behind its word; a line without one ends the benchmark', () => {
    const line = 'pass 3 touches 65536 sum 12';
    expect(numberIn(line, 'touches')).toBe(65536);
    expect(() => numberIn('bench-touch: no memory', 'touches')).toThrow(
      /^bench: a program printed: bench-touch: no memory$/,
    );
  });
});
