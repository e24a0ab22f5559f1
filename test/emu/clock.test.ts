/** The clock: exact times, and one order for what is due together. */
import { describe, expect, it } from 'vitest';
import { Clock, INSTRUCTIONS_PER_TICK, TIMEBASE_HZ } from '#emu';
import { rng } from '../support/rng.ts';

/** A clock whose receiver 'a' keeps a list of what it was told, and when. */
const listening = () => {
  const clock = new Clock();
  const log: string[] = [];
  clock.receive('a', (kind, arg) => log.push(`${clock.now}: ${kind} ${arg}`));
  const advance = (now: number) => {
    clock.now = now;
    clock.deliverDue();
  };
  return { clock, log, advance };
};

describe('events', () => {
  it('are delivered at their time, not before', () => {
    const { clock, log, advance } = listening();
    clock.at(10, 'a', 1, 7);
    advance(9);
    expect(log).toEqual([]);
    advance(10);
    expect(log).toEqual(['10: 1 7']);
    expect(clock.nextAt).toBe(Number.POSITIVE_INFINITY);
  });

  it('of one time come in the order they were scheduled', () => {
    const { clock, log, advance } = listening();
    clock.at(5, 'a', 2);
    clock.at(3, 'a', 1);
    clock.at(5, 'a', 3);
    clock.at(5, 'a', 4);
    advance(5);
    expect(log).toEqual(['5: 1 0', '5: 2 0', '5: 3 0', '5: 4 0']);
  });

  it('scheduled in the past are due now', () => {
    const { clock } = listening();
    clock.now = 100;
    clock.at(3, 'a', 0);
    expect(clock.nextAt).toBe(100);
  });

  it('scheduled by a receiver for now are delivered in the same turn', () => {
    const clock = new Clock();
    const log: number[] = [];
    clock.receive('chain', (kind) => {
      log.push(kind);
      if (kind < 3) clock.at(clock.now, 'chain', kind + 1);
    });
    clock.at(0, 'chain', 0);
    clock.deliverDue();
    expect(log).toEqual([0, 1, 2, 3]);
  });

  it('without a receiver are an error of the machine', () => {
    const { clock } = listening();
    clock.at(0, 'nobody', 0);
    expect(() => clock.deliverDue()).toThrow('no receiver named nobody');
  });

  it('can be cancelled by kind, or by kind and argument', () => {
    const { clock, log, advance } = listening();
    for (const [kind, arg] of [
      [1, 1],
      [1, 2],
      [2, 1],
      [2, 2],
    ] as const)
      clock.at(1, 'a', kind, arg);
    clock.cancel('a', 1);
    clock.cancel('a', 2, 1);
    clock.cancel('b', 2);
    advance(1);
    expect(log).toEqual(['1: 2 2']);
  });

  it('any order of scheduling gives the order of time, then of scheduling', () => {
    const random = rng(11);
    const { clock, log, advance } = listening();
    const wanted = Array.from({ length: 500 }, (_, i) => ({ when: random.below(100), i }));
    for (const { when, i } of wanted) clock.at(when, 'a', when, i);
    wanted.sort((x, y) => x.when - y.when || x.i - y.i);
    while (clock.nextAt < Number.POSITIVE_INFINITY) advance(clock.nextAt);
    expect(log).toEqual(wanted.map(({ when, i }) => `${when}: ${when} ${i}`));
  });
});

describe('onEarlier', () => {
  it('is called exactly when the earliest event becomes earlier', () => {
    const { clock } = listening();
    const calls: number[] = [];
    clock.onEarlier = (when) => calls.push(when);
    for (const when of [50, 60, 50, 40, 45]) clock.at(when, 'a', 0);
    expect(calls).toEqual([50, 40]);
  });
});

describe('time', () => {
  it('ticks are whole: ten instructions each, ten million a second', () => {
    const { clock } = listening();
    expect([INSTRUCTIONS_PER_TICK, TIMEBASE_HZ]).toEqual([10, 10_000_000]);
    const ticks = [0, 9, 10, 25].map((now) => {
      clock.now = now;
      return clock.ticks;
    });
    expect(ticks).toEqual([0, 0, 1, 2]);
  });
});

describe('save and restore', () => {
  it('keeps time, events and their order; the saved value is plain and its own', () => {
    const first = listening();
    first.clock.now = 5;
    first.clock.at(7, 'a', 1);
    const state = first.clock.save();
    const copy = structuredClone(state);
    const second = listening();
    second.clock.restore(state);
    second.clock.at(7, 'a', 2);
    expect(state).toEqual(copy);
    second.advance(7);
    expect(second.log).toEqual(['7: 1 0', '7: 2 0']);
  });
});
