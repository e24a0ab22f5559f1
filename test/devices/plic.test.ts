/** PLIC 1.0.0: gateways, priorities, thresholds, claims and completions. */
import { describe, expect, it } from 'vitest';
import { Plic } from '#devices';
import { rng } from '../support/rng.ts';
import { probedLine } from './support/wires.ts';

const PENDING = 0x1000;
const ENABLE = 0x2000;
const CONTEXT = 0x20_0000;

const boardOf = (nrContexts = 2, nrSources = 96) => {
  const lines = Array.from({ length: nrContexts }, probedLine);
  const plic = new Plic({ nrSources, contexts: lines });
  const setPriority = (source: number, priority: number) => plic.write(4 * source, 4, priority);
  const enable = (context: number, source: number) => {
    const at = ENABLE + 0x80 * context + 4 * (source >>> 5);
    plic.write(at, 4, plic.read(at, 4) | (1 << (source & 31)));
  };
  const threshold = (context: number, value: number) =>
    plic.write(CONTEXT + 0x1000 * context, 4, value);
  const claim = (context: number) => plic.read(CONTEXT + 0x1000 * context + 4, 4);
  const complete = (context: number, source: number) =>
    plic.write(CONTEXT + 0x1000 * context + 4, 4, source);
  const pending = (source: number) =>
    ((plic.read(PENDING + 4 * (source >>> 5), 4) >>> (source & 31)) & 1) === 1;
  return { plic, lines, setPriority, enable, threshold, claim, complete, pending };
};

/** A board with source 10 enabled for context 0 at priority 1. */
const oneSource = () => {
  const board = boardOf();
  board.setPriority(10, 1);
  board.enable(0, 10);
  return { ...board, source: board.plic.source(10), line: board.lines[0] };
};

describe('1.2 interrupt gateways', () => {
  it('the first assertion of a level is forwarded and notifies', () => {
    const { source, line, pending } = oneSource();
    source.set(true);
    expect(pending(10)).toBe(true);
    expect(line?.level).toBe(true);
  });

  it('a level that falls before the claim does not retract the request', () => {
    const { source, claim } = oneSource();
    source.set(true);
    source.set(false);
    expect(claim(0)).toBe(10);
  });

  it('no second request until the completion, whatever the level does', () => {
    const { source, claim, pending, line } = oneSource();
    source.set(true);
    claim(0);
    source.set(false);
    source.set(true);
    expect(pending(10)).toBe(false);
    expect(line?.level).toBe(false);
  });

  it('a level still asserted at the completion is a new request', () => {
    const { source, claim, complete, line } = oneSource();
    source.set(true);
    claim(0);
    complete(0, 10);
    expect(line?.level).toBe(true);
    expect(claim(0)).toBe(10);
  });

  it('a level deasserted before the completion is not', () => {
    const { source, claim, complete, line } = oneSource();
    source.set(true);
    claim(0);
    source.set(false);
    complete(0, 10);
    expect(line?.level).toBe(false);
    expect(claim(0)).toBe(0);
  });
});

describe('1.4 identifiers, chapter 4 priorities', () => {
  it('the highest priority is claimed first, the lowest number among equals', () => {
    const { plic, setPriority, enable, claim } = boardOf();
    for (const [source, priority] of [
      [3, 2],
      [40, 7],
      [41, 7],
      [96, 2],
      [5, 1],
    ] as const) {
      setPriority(source, priority);
      enable(0, source);
      plic.source(source).set(true);
    }
    expect([1, 2, 3, 4, 5, 6].map(() => claim(0))).toEqual([40, 41, 3, 96, 5, 0]);
  });

  it('priority 0 never interrupts and is never claimed', () => {
    const { source, setPriority, line, claim, pending } = oneSource();
    setPriority(10, 0);
    source.set(true);
    expect(pending(10)).toBe(true);
    expect(line?.level).toBe(false);
    expect(claim(0)).toBe(0);
  });

  it('priorities are WARL: three bits', () => {
    const { plic } = boardOf();
    plic.write(4, 4, 0xffff_ffff);
    expect(plic.read(4, 4)).toBe(7);
  });
});

describe('chapter 5 pending bits', () => {
  it('are not writable', () => {
    const { plic, pending } = boardOf();
    plic.write(PENDING, 4, 0xffff_ffff);
    expect(pending(10)).toBe(false);
  });
});

describe('chapter 6 enables', () => {
  it('belong to one context each', () => {
    const { plic, lines, setPriority, enable, claim } = boardOf(4);
    setPriority(7, 1);
    enable(3, 7);
    plic.source(7).set(true);
    expect(lines.map((line) => line.level)).toEqual([false, false, false, true]);
    expect([0, 1, 2, 3].map(claim)).toEqual([0, 0, 0, 7]);
  });

  it('taking one away takes the notification away', () => {
    const { plic, source, line } = oneSource();
    source.set(true);
    plic.write(ENABLE, 4, 0);
    expect(line?.edges).toEqual(['up', 'down']);
  });

  it('bits of sources that do not exist are zero: 0, and those above the last', () => {
    const { plic } = boardOf(1, 35);
    plic.write(ENABLE, 4, 0xffff_ffff);
    plic.write(ENABLE + 4, 4, 0xffff_ffff);
    expect(plic.read(ENABLE, 4) >>> 0).toBe(0xffff_fffe);
    expect(plic.read(ENABLE + 4, 4)).toBe(0b1111);
  });
});

describe('chapter 7 thresholds', () => {
  it('mask priorities up to and including theirs', () => {
    const { source, threshold, setPriority, line } = oneSource();
    setPriority(10, 3);
    source.set(true);
    const levels = [2, 3, 7, 0].map((value) => {
      threshold(0, value);
      return line?.level;
    });
    expect(levels).toEqual([true, false, false, true]);
  });
});

describe('chapters 8 and 9 claim and completion', () => {
  it('a claim does not look at the threshold', () => {
    const { source, threshold, claim } = oneSource();
    threshold(0, 7);
    source.set(true);
    expect(claim(0)).toBe(10);
  });

  it('the second of two contexts finds nothing', () => {
    const { source, enable, claim, lines } = oneSource();
    enable(1, 10);
    source.set(true);
    expect(lines.map((line) => line.level)).toEqual([true, true]);
    expect([claim(1), claim(0)]).toEqual([10, 0]);
    expect(lines.map((line) => line.level)).toEqual([false, false]);
  });

  it('a completion for a source that the context has not enabled is ignored', () => {
    const { source, claim, complete, pending } = oneSource();
    source.set(true);
    claim(0);
    complete(1, 10);
    expect(pending(10)).toBe(false);
    complete(0, 10);
    expect(pending(10)).toBe(true);
  });

  for (const number of [0, 97, 1023, 0xffff_ffff])
    it(`a completion of source ${number} is ignored`, () => {
      const { plic, source, claim, complete } = oneSource();
      source.set(true);
      claim(0);
      const before = plic.save();
      complete(0, number);
      expect(plic.save()).toEqual(before);
    });
});

describe('places without a register', () => {
  it('read 0, take no write, and never throw', () => {
    const { plic } = boardOf();
    const random = rng(1);
    const before = plic.save();
    for (let i = 0; i < 2000; i++) {
      const offset = random.pick([
        4 * (97 + random.below(900)),
        PENDING + 16 + 4 * random.below(28),
        ENABLE + 0x100 + 4 * random.below(0x6_0000),
        ENABLE + 16 + 4 * random.below(28),
        CONTEXT + 0x2000 + 4 * random.below(0x10_0000 - 0x800),
        CONTEXT + 8 + 4 * random.below(1022),
        1 + 4 * random.below(100),
      ]);
      plic.write(offset, 4, random.u32());
      plic.write(offset & ~3, 2, random.u32());
      expect(plic.read(offset, 4)).toBe(0);
    }
    expect(plic.save()).toEqual(before);
  });

  it('there is no source 0 and none above the last', () => {
    const { plic } = boardOf();
    expect(() => plic.source(0)).toThrow(RangeError);
    expect(() => plic.source(97)).toThrow(RangeError);
  });
});

describe('save and restore', () => {
  it('an interrupt in service stays so', () => {
    const first = oneSource();
    first.source.set(true);
    first.claim(0);
    const second = boardOf();
    second.plic.restore(structuredClone(first.plic.save()));
    expect(second.claim(0)).toBe(0);
    second.complete(0, 10);
    expect(second.lines[0]?.level).toBe(true);
    expect(second.claim(0)).toBe(10);
  });
});
