/** The explorer on scenarios small enough to count by hand: what it tries, what it finds, what it takes back. */
import { describe, expect, it } from 'vitest';
import {
  atomicAdd,
  atomicAddRelaxed,
  cmpxchg,
  flushOldestStore,
  journal,
  readOnce,
  resetExploration,
  setActor,
  setBits,
  setField,
  setMemoryModel,
  smpMb,
  writeOnce,
} from '../../emu/cells/explore.ts';
import { YP_WAIT } from '#mm';
import { Explored } from '../../testbed/explore/explored.ts';
import { parseReplay, replayText, scheduleOf } from '../../testbed/explore/replay.ts';
import type { ActorPath, Scenario, Stage, Variant } from '../../testbed/explore/scenario.ts';
import { Search } from '../../testbed/explore/search.ts';
import { shrink } from '../../testbed/explore/shrink.ts';
import { stepLines, tell } from '../../testbed/explore/steps.ts';
import { VariantSearch } from '../../testbed/explore/verdict.ts';
import { rng } from '../support/rng.ts';

const RIGHT: Variant = {
  name: 'right',
  title: 'as it is',
  declared: 'holds',
  sabotage: {},
  withoutBarriers: [],
};

type Paths = Record<string, () => ActorPath>;

/** A scenario of a few words, its actors by name. */
const toy = (
  words: Int32Array,
  paths: Paths,
  check: () => string | null,
  model: Scenario['model'] = 'sc',
  more: { invariant?: () => string | null; roots?: unknown } = {},
): Scenario => ({
  name: 'toy',
  title: 'a toy',
  model,
  bound: 2,
  variants: [RIGHT],
  build: (): Stage => ({
    roots: () => more.roots ?? words,
    memory: null,
    watched: [{ name: 'x', words, index: 0, show: String }],
    start: () => ({
      actors: Object.entries(paths).map(([name, path]) => ({ name, path: path() })),
      check,
      ...(more.invariant === undefined ? {} : { invariant: more.invariant }),
    }),
  }),
});

const searched = (scenario: Scenario, bound: number): Search => {
  const search = new Search(new Explored(scenario, RIGHT), bound);
  while (search.step());
  return search;
};

const UNBOUNDED = 1000;
const nothing = (): null => null;

describe('how many schedules there are', () => {
  function* steps(words: Int32Array, n: number): ActorPath {
    for (let i = 0; i < n; i++) {
      atomicAdd(words, 0, 1);
      if (i < n - 1) yield 'has added';
    }
  }
  const counters = (lengths: number[]): Scenario => {
    const words = new Int32Array(1);
    const paths = Object.fromEntries(lengths.map((n, i) => [`a${i}`, () => steps(words, n)]));
    return toy(words, paths, () => (words[0] === lengths.reduce((a, b) => a + b) ? null : 'lost'));
  };

  /** Counts orders one by one, by another program: who is next, and was the last one cut short? */
  const count = (left: number[], last: number, budget: number): number => {
    if (left.every((n) => n === 0)) return 1;
    let total = 0;
    for (const [actor, n] of left.entries()) {
      if (n === 0) continue;
      const cuts = actor !== last && last >= 0 && left[last]! > 0;
      if (cuts && budget === 0) continue;
      const rest = left.with(actor, n - 1);
      total += count(rest, actor, budget - (cuts ? 1 : 0));
    }
    return total;
  };

  for (const lengths of [
    [1, 1],
    [3, 3],
    [4, 2],
    [2, 2, 2],
    [3, 2, 1],
    [5, 4],
  ])
    for (const bound of [0, 1, 2, 3, UNBOUNDED])
      it(`${lengths.join(' + ')} steps, ${bound} preemptions: as many as counted one by one`, () => {
        const search = searched(counters(lengths), bound);
        expect(search.violation).toBeNull();
        expect(search.schedules).toBe(count(lengths, -1, bound));
        expect(search.longest).toBe(lengths.reduce((a, b) => a + b));
      });

  it('without a bound: the multinomial, 5! / 3! 2! and 6! / 2! 2! 2!', () => {
    expect(searched(counters([3, 2]), UNBOUNDED).schedules).toBe(10);
    expect(searched(counters([2, 2, 2]), UNBOUNDED).schedules).toBe(90);
  });

  it('the bound is said to have cut something off exactly while there is more', () => {
    expect(searched(counters([3, 2]), 2).curbed).toBe(true);
    expect(searched(counters([3, 2]), 3).curbed).toBe(false);
    expect(searched(counters([3, 2]), 3).schedules).toBe(10);
  });
});

describe('a lost update: two actors add one, by reading and then writing', () => {
  function* adder(words: Int32Array): ActorPath {
    const value = readOnce(words, 0);
    yield 'has read';
    writeOnce(words, 0, value + 1);
  }
  function* locked(words: Int32Array): ActorPath {
    while (cmpxchg(words, 1, 0, 1) !== 0) yield YP_WAIT;
    yield* adder(words);
    writeOnce(words, 1, 0);
  }
  const sum =
    (words: Int32Array): (() => string | null) =>
    () =>
      words[0] === 2 ? null : `the sum is ${words[0]}`;
  const racy = (): Scenario => {
    const words = new Int32Array(2);
    return toy(words, { a: () => adder(words), b: () => adder(words) }, sum(words));
  };

  it('is found with one preemption, and not without any', () => {
    expect(searched(racy(), 0).violation).toBeNull();
    const { violation } = searched(racy(), 1);
    expect(violation).toMatchObject({ message: 'the sum is 1', preemptions: 1 });
  });

  it('cannot happen under a lock, in all orders that there are', () => {
    const words = new Int32Array(2);
    const paths = { a: () => locked(words), b: () => locked(words) };
    const search = searched(toy(words, paths, sum(words)), UNBOUNDED);
    expect(search.violation).toBeNull();
    expect(search.curbed).toBe(false);
    // One after the other, or the second tries the lock once while the first holds it: twice each.
    expect(search.schedules).toBe(4);
  });

  it('is told step by step, with the word that changed', () => {
    const explored = new Explored(racy(), RIGHT);
    const schedule = scheduleOf(['a', 'b'], ['a', 'b', 'b', 'a'])!;
    const told = tell(explored, schedule)!;
    expect(told.violation).toBe('the sum is 1');
    expect(stepLines(told.steps)).toEqual([
      '  1  a  has read',
      '  2  b  has read',
      '  3  b  ends   [x: 0 -> 1]',
      '  4  a  ends',
    ]);
  });

  it('a schedule that does not fit is refused: after its end an actor cannot go on', () => {
    const explored = new Explored(racy(), RIGHT);
    expect(tell(explored, scheduleOf(['a', 'b'], ['a', 'a', 'a'])!)).toBeNull();
    expect(tell(explored, scheduleOf(['a', 'b'], ['flush a'])!)).toBeNull();
    expect(scheduleOf(['a', 'b'], ['c'])).toBeNull();
  });

  it('the verdict has the fewest preemptions, and its schedule goes wrong again', () => {
    const search = new VariantSearch(racy(), RIGHT, 2);
    while (search.step());
    const verdict = search.verdict();
    expect(verdict).toMatchObject({ declared: 'holds', ended: 'breaks', asDeclared: false });
    expect(verdict.violation).toMatchObject({ preemptions: 1, schedule: ['a', 'b', 'b', 'a'] });
  });
});

describe('shrinking', () => {
  /** Three actors, of which one has nothing to do with it, and both others more to do than is needed. */
  const scenario = (): Scenario => {
    const words = new Int32Array(3);
    function* busy(word: number, n: number): ActorPath {
      for (let i = 0; i < n; i++) {
        atomicAdd(words, word, 1);
        yield 'is busy';
      }
    }
    function* adder(): ActorPath {
      yield* busy(1, 2);
      const value = readOnce(words, 0);
      yield 'has read';
      writeOnce(words, 0, value + 1);
      yield* busy(1, 2);
    }
    const check = (): string | null => (words[0] === 2 ? null : 'a sum is lost');
    return toy(words, { a: adder, idle: () => busy(2, 4), b: adder }, check);
  };

  it('keeps the violation and takes away preemptions and changes of actor', () => {
    const explored = new Explored(scenario(), RIGHT);
    // Round and round: nearly every step is a preemption.
    const long = explored.begin();
    for (let turn = 0; !long.complete; turn++) {
      const choice = { actor: turn % 3, flush: false };
      if (long.possible(choice)) long.take(choice);
    }
    expect(long.violation).toBe('a sum is lost');
    const { taken: schedule, preemptions } = long;
    const found = { message: 'a sum is lost', schedule, preemptions };
    const small = shrink(explored, found);
    expect(preemptions).toBeGreaterThan(8);
    expect(small.preemptions).toBe(1);
    expect(explored.play(small.schedule)!.violation).toBe('a sum is lost');
  });
});

describe('store buffers: x = 1; r0 = y || y = 1; r1 = x', () => {
  const dekker = (barrier: boolean, model: Scenario['model'], seen: Set<string>): Scenario => {
    const words = new Int32Array(2);
    const r = [0, 0];
    function* side(own: number): ActorPath {
      writeOnce(words, own, 1);
      yield 'has stored';
      if (barrier) smpMb();
      r[own] = readOnce(words, 1 - own);
    }
    const check = (): null => {
      seen.add(r.join(''));
      return null;
    };
    return toy(words, { a: () => side(0), b: () => side(1) }, check, model);
  };

  for (const { barrier, model, outcomes } of [
    { barrier: false, model: 'sc', outcomes: ['01', '10', '11'] },
    { barrier: false, model: 'tso', outcomes: ['00', '01', '10', '11'] },
    { barrier: true, model: 'tso', outcomes: ['01', '10', '11'] },
  ] as const)
    it(`${model}${barrier ? ' with barriers' : ''}: ${outcomes.join(' ')}`, () => {
      const seen = new Set<string>();
      searched(dekker(barrier, model, seen), UNBOUNDED);
      expect([...seen].sort()).toEqual(outcomes);
    });

  it('a barrier that is dropped for one of the two is none', () => {
    const seen = new Set<string>();
    const explored = new Explored(dekker(true, 'tso', seen), { ...RIGHT, withoutBarriers: ['b'] });
    const search = new Search(explored, UNBOUNDED);
    while (search.step());
    expect(seen).toContain('00');
  });

  /** Every order of steps and flushes within a bound, by another program: recursion and the journal. */
  const everyOutcome = (
    programs: (() => void)[][],
    outcome: () => string,
    bound: number,
  ): Set<string> => {
    const found = new Set<string>();
    const at = programs.map(() => 0);
    const go = (last: number, budget: number): void => {
      let moved = false;
      for (const [i, program] of programs.entries()) {
        const mark = journal.mark();
        const step = program[at[i]!];
        const cuts = last >= 0 && last !== i && at[last]! < programs[last]!.length;
        if (step !== undefined) {
          moved = true;
          if (cuts && budget === 0) continue;
          setActor(i + 1);
          step();
          at[i]!++;
          go(i, cuts ? budget - 1 : budget);
          at[i]!--;
          journal.rollback(mark);
        }
      }
      for (const i of programs.keys()) {
        const mark = journal.mark();
        if (!flushOldestStore(i + 1)) continue;
        moved = true;
        go(last, budget);
        journal.rollback(mark);
      }
      if (!moved) found.add(outcome());
    };
    go(-1, bound);
    return found;
  };

  for (const lengths of [
    [3, 3],
    [2, 2, 1],
  ])
    for (const [seed, bound] of [
      [1, UNBOUNDED],
      [2, 1],
      [3, UNBOUNDED],
      [4, 0],
      [5, 2],
      [6, UNBOUNDED],
      [7, 1],
    ] as const)
      it(`random programs of ${lengths.join(' + ')} steps, bound ${bound}, seed ${seed}: the same outcomes as without any reduction`, () => {
        const random = rng(seed);
        const words = new Int32Array(2);
        const loaded: number[][] = lengths.map(() => []);
        const operation = (actor: number, i: number): (() => void) => {
          const word = random.below(2);
          const value = 1 + random.below(3);
          switch (random.below(6)) {
            case 0:
            case 1:
              return () => writeOnce(words, word, value);
            case 2:
              return () => atomicAddRelaxed(words, word, value << 4);
            case 3:
              return () => setBits(words, word, value << 8);
            case 4:
              return () => {
                loaded[actor]![i] = atomicAdd(words, word, value << 12);
              };
            default:
              return () => {
                loaded[actor]![i] = readOnce(words, word);
              };
          }
        };
        const programs = lengths.map((n, actor) =>
          Array.from({ length: n }, (_, i) => operation(actor, i)),
        );
        const outcome = (): string => JSON.stringify([[...words], loaded]);
        resetExploration();
        setMemoryModel('tso');
        const expected = everyOutcome(programs, outcome, bound);

        function* path(program: (() => void)[]): ActorPath {
          for (const [i, step] of program.entries()) {
            step();
            if (i < program.length - 1) yield 'next';
          }
        }
        const seen = new Set<string>();
        const check = (): null => {
          seen.add(outcome());
          return null;
        };
        const paths = Object.fromEntries(programs.map((p, i) => [`a${i}`, () => path(p)]));
        searched(toy(words, paths, check, 'tso'), bound);
        expect([...seen].sort()).toEqual([...expected].sort());
      });
});

describe('waiting', () => {
  it('for ever is a deadlock: two locks, taken in two orders', () => {
    const words = new Int32Array(2);
    function* taker(first: number, second: number): ActorPath {
      while (cmpxchg(words, first, 0, 1) !== 0) yield YP_WAIT;
      yield 'has one lock';
      while (cmpxchg(words, second, 0, 1) !== 0) yield YP_WAIT;
      writeOnce(words, first, 0);
      writeOnce(words, second, 0);
    }
    const search = searched(toy(words, { a: () => taker(0, 1), b: () => taker(1, 0) }, nothing), 1);
    expect(search.violation?.message).toBe('deadlock: a and b wait for ever');
  });

  it('is over only when something has changed: trying again in vain wakes nobody', () => {
    const words = new Int32Array(1);
    let tries = 0;
    function* waiter(): ActorPath {
      // Stores what is there already, as a trylock that fails does.
      while (readOnce(words, 0) === 0) {
        tries++;
        writeOnce(words, 0, 0);
        yield YP_WAIT;
      }
    }
    function* releaser(): ActorPath {
      yield 'is about to';
      writeOnce(words, 0, 1);
    }
    const paths = { a: waiter, b: waiter, c: releaser };
    const search = searched(toy(words, paths, nothing), 0);
    expect(search.violation).toBeNull();
    expect(tries).toBeLessThan(search.schedules * 5);
  });

  it('somebody who never ends is a violation too', () => {
    const words = new Int32Array(1);
    function* forever(): ActorPath {
      for (;;) yield 'goes on';
    }
    const search = searched(toy(words, { a: forever }, nothing), 0);
    expect(search.violation?.message).toMatch(/^no end after \d+ steps$/);
  });
});

describe('what goes wrong', () => {
  it('an actor that throws, with its name', () => {
    function* thrower(): ActorPath {
      yield 'is about to';
      throw new Error('folio 3 freed twice');
    }
    const search = searched(toy(new Int32Array(1), { a: thrower }, nothing), 0);
    expect(search.violation?.message).toBe('a: folio 3 freed twice');
  });

  it('an invariant, at the step that breaks it', () => {
    const words = new Int32Array(1);
    function* path(): ActorPath {
      writeOnce(words, 0, 1);
      yield 'has stored';
      writeOnce(words, 0, 0);
    }
    const invariant = (): string | null => (words[0] === 0 ? null : 'x is not 0');
    const search = searched(toy(words, { a: path }, nothing, 'sc', { invariant }), 0);
    expect(search.violation).toMatchObject({ message: 'x is not 0', schedule: { length: 1 } });
  });

  it('the same of a set', () => {
    const record = { bad: new Set([1]) };
    function* path(): ActorPath {
      yield 'has done nothing';
      record.bad.add(2);
    }
    const scenario = toy(new Int32Array(1), { a: path, b: path }, nothing, 'sc', { roots: record });
    expect(() => searched(scenario, 1)).toThrow(/toy: a run left state\.bad\S* changed/);
  });

  it('a change that did not go through the cells: the next run says where it is', () => {
    const record = { tidy: 0, sloppy: { count: 0 } };
    function* path(): ActorPath {
      setField(record, 'tidy', 1);
      yield 'was tidy';
      record.sloppy.count++;
    }
    const words = new Int32Array(1);
    const scenario = toy(words, { a: path, b: path }, nothing, 'sc', { roots: record });
    expect(() => searched(scenario, 1)).toThrow(
      /toy: a run left state\.sloppy\.count changed behind the journal/,
    );
  });
});

describe('replay files', () => {
  const replay = {
    scenario: 'toy',
    variant: 'right',
    violation: 'lost',
    schedule: ['a', 'flush a'],
  };
  it('say by names who went on and whose store reached memory', () => {
    expect(parseReplay(replayText(replay))).toEqual(replay);
    expect(scheduleOf(['b', 'a'], replay.schedule)).toEqual([
      { actor: 1, flush: false },
      { actor: 1, flush: true },
    ]);
  });
  for (const { what, text, says } of [
    { what: 'not JSON', text: '{', says: 'not JSON' },
    { what: 'null', text: 'null', says: 'not a replay file' },
    { what: 'another object', text: '{"a":1}', says: 'not a replay file of this version' },
    {
      what: 'one with a schedule of numbers',
      text: replayText({ ...replay, schedule: [1] as unknown as string[] }),
      says: 'a replay file with parts missing',
    },
  ])
    it(`refuse ${what}`, () => expect(parseReplay(text)).toBe(says));
});
