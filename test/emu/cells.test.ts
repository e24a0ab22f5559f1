/** The exploring build of the cells: same names as the plain one, undo, access sets, store buffers. */
import { beforeEach, describe, expect, it } from 'vitest';
import * as cells from '../../emu/cells/explore.ts';
import * as plain from '../../emu/cells/plain.ts';
import { rng } from '../support/rng.ts';

/* Two modules with one set of signatures: this does not compile when they differ. */
type Cells<M> = Omit<M, 'EXPLORING'>;
type SameKeys = Exclude<keyof typeof plain, keyof typeof cells>;
const explored: Cells<typeof plain> = cells;
const missing: SameKeys[] = [];

beforeEach(() => cells.resetExploration());

describe('the two builds', () => {
  it('have the same cells', () => {
    for (const name of Object.keys(plain)) expect(cells).toHaveProperty(name);
    expect(missing).toEqual([]);
    expect([plain.EXPLORING, cells.EXPLORING]).toEqual([false, true]);
  });

  for (const model of ['sc', 'tso'] as const)
    it(`give one actor the same values and the same state, under ${model}`, () => {
      const results = [plain, explored].map((build) => {
        cells.setMemoryModel(model);
        const world = createWorld();
        const random = rng(7);
        const returned = Array.from({ length: 4000 }, () => act(build, world, random));
        cells.flushStoreBuffer(0);
        return { returned, state: snapshot(world) };
      });
      expect(results[1]).toEqual(results[0]);
    });
});

/** One of everything that is shared. */
const createWorld = () => ({
  words: new Int32Array(8),
  record: { a: 1, b: 2 } as { a: number; b: number; c?: number },
  counted: { events: 0 },
  bytes: new Uint8Array(16),
  map: new Map<number, number>([
    [1, 10],
    [2, 20],
  ]),
  list: [1, 2, 3],
});
type World = ReturnType<typeof createWorld>;

/** All of it, as text: order of maps, keys and lists included. */
const snapshot = (world: World): string =>
  JSON.stringify([
    [...world.words],
    world.record,
    world.counted,
    [...world.bytes],
    [...world.map],
    world.list,
  ]);

/** One random operation through a build of the cells; returns what it returned. */
const act = (build: Cells<typeof plain>, world: World, random: ReturnType<typeof rng>): unknown => {
  const { words, record, counted, bytes, map, list } = world;
  const index = random.below(8);
  const value = random.u32();
  switch (random.below(17)) {
    case 0:
      return build.writeOnce(words, index, value);
    case 1:
      return build.atomicAdd(words, index, value | 0);
    case 2:
      return build.cmpxchg(words, index, build.readOnce(words, index), value | 0);
    case 3:
      return build.fetchOr(words, index, value);
    case 4:
      return build.fetchAndNot(words, index, value);
    case 5:
      return build.setField(record, random.pick(['a', 'b', 'c'] as const), value);
    case 6:
      return build.mapSet(map, random.below(6), value);
    case 7:
      return build.mapDelete(map, random.below(6));
    case 8:
      return build.listInsert(list, random.below(list.length + 3) - 1, value);
    case 9:
      return build.listPush(list, value);
    case 10:
      return build.listRemoveAt(list, random.below(list.length + 3) - 1);
    case 11:
      return build.atomicAddRelaxed(words, index, value | 0);
    case 12:
      return build.setBits(words, index, value);
    case 13:
      return build.clearBits(words, index, value);
    case 14:
      return build.addField(counted, 'events', random.below(3));
    case 15: {
      const at = random.below(12);
      build.noteBytes(bytes, at, 4);
      return bytes.fill(value, at, at + 4).length;
    }
    default:
      return build.readOnce(words, index);
  }
};

describe('undo', () => {
  for (const model of ['sc', 'tso'] as const)
    for (const seed of [1, 2, 3])
      it(`restores every marked state exactly, under ${model}, seed ${seed}`, () => {
        const random = rng(seed);
        const world = createWorld();
        cells.setMemoryModel(model);
        const marks: { at: number; state: string; buffered: number[] }[] = [];
        const bufferLengths = () => [0, 1, 2].map(cells.storeBufferLength);
        for (let step = 0; step < 3000; step++) {
          cells.setActor(random.below(3));
          if (random.chance(0.1))
            marks.push({
              at: cells.journal.mark(),
              state: snapshot(world),
              buffered: bufferLengths(),
            });
          if (random.chance(0.05)) cells.flushOldestStore(random.below(3));
          if (random.chance(0.02)) cells.smpMb();
          act(explored, world, random);
          if (marks.length === 0 || !random.chance(0.04)) continue;
          const back = random.below(marks.length);
          const mark = marks[back];
          if (mark === undefined) throw new Error('no mark');
          cells.journal.rollback(mark.at);
          marks.length = back;
          expect(snapshot(world)).toBe(mark.state);
          expect(bufferLengths()).toEqual(mark.buffered);
        }
        cells.journal.rollback(0);
        expect(snapshot(world)).toBe(snapshot(createWorld()));
      });

  it('of a deleted map key restores its place', () => {
    const map = new Map([
      ['x', 1],
      ['y', 2],
      ['z', 3],
    ]);
    const mark = cells.journal.mark();
    cells.mapDelete(map, 'x');
    cells.mapSet(map, 'x', 9);
    cells.journal.rollback(mark);
    expect([...map]).toEqual([
      ['x', 1],
      ['y', 2],
      ['z', 3],
    ]);
  });

  it('of a field that was not there removes it', () => {
    const record: { a?: number } = {};
    cells.setField(record, 'a', 1);
    cells.journal.rollback(0);
    expect(Object.keys(record)).toEqual([]);
  });

  it('to a mark that does not exist is refused', () =>
    expect(() => cells.journal.rollback(1)).toThrow(RangeError));
});

describe('access sets', () => {
  it('are kept per actor: words read and written, since they were last taken', () => {
    const words = new Int32Array(4);
    cells.setActor(1);
    cells.readOnce(words, 0);
    cells.writeOnce(words, 2, 5);
    cells.setActor(2);
    cells.atomicAdd(words, 3, 1);
    const taken = cells.takeAccesses();
    expect([...(taken.get(1)?.words.get(words.buffer) ?? [])]).toEqual([
      [0, cells.ACCESS_READ],
      [2, cells.ACCESS_WRITE],
    ]);
    expect([...(taken.get(2)?.words.get(words.buffer) ?? [])]).toEqual([
      [3, cells.ACCESS_READ | cells.ACCESS_WRITE],
    ]);
    expect(cells.takeAccesses().size).toBe(0);
  });

  it('name records and maps by key, lists as a whole', () => {
    const record = { a: 1 };
    const map = new Map([[5, 6]]);
    const list = [1];
    cells.setField(record, 'a', 2);
    cells.mapDelete(map, 5);
    cells.listPush(list, 2);
    expect([...(cells.takeAccesses().get(0)?.objects ?? [])]).toEqual([
      [record, new Set(['a'])],
      [map, new Set([5])],
      [list, new Set(['list'])],
    ]);
  });

  it('count a buffered store when it reaches memory, and a forwarded load not at all', () => {
    const words = new Int32Array(1);
    cells.setMemoryModel('tso');
    cells.writeOnce(words, 0, 1);
    cells.readOnce(words, 0);
    expect(cells.takeAccesses().size).toBe(0);
    cells.setActor(9);
    cells.flushStoreBuffer(0);
    expect([...cells.takeAccesses().keys()]).toEqual([0]);
  });

  for (const { fact, first, second, expected } of [
    { fact: 'two loads of one word commute', first: ['r', 0], second: ['r', 0], expected: false },
    { fact: 'a load and a store of it do not', first: ['r', 0], second: ['w', 0], expected: true },
    { fact: 'nor the other way round', first: ['w', 0], second: ['r', 0], expected: true },
    { fact: 'two stores do not', first: ['w', 0], second: ['w', 0], expected: true },
    { fact: 'stores of two words commute', first: ['w', 0], second: ['w', 1], expected: false },
    {
      fact: 'a word seen through another view is the same',
      first: ['w', 1],
      second: ['v', 0],
      expected: true,
    },
    {
      fact: 'a record written may have been read by anybody',
      first: ['f', 0],
      second: ['r', 0],
      expected: true,
    },
  ] as const)
    it(`${fact}`, () => {
      const words = new Int32Array(2);
      const step = ([kind, index]: readonly [string, number], id: number) => {
        cells.setActor(id);
        if (kind === 'r') cells.readOnce(words, index);
        else if (kind === 'w') cells.writeOnce(words, index, 1);
        else if (kind === 'v') cells.writeOnce(words.subarray(1), index, 1);
        else cells.setField({ a: 1 }, 'a', 2);
      };
      step(first, 1);
      step(second, 2);
      const taken = cells.takeAccesses();
      const [a, b] = [taken.get(1), taken.get(2)];
      if (a === undefined || b === undefined) throw new Error('an actor without accesses');
      expect(cells.conflicting(a, b)).toBe(expected);
      expect(cells.conflicting(b, a)).toBe(expected);
    });
});

/**
 * Every outcome of programs that run side by side: steps of each in order, buffered stores reaching
 * memory at any moment. `outcome` reads the registers at the end.
 */
const outcomes = (
  programs: readonly (readonly (() => void)[])[],
  outcome: () => string,
): string[] => {
  const found = new Set<string>();
  const at = programs.map(() => 0);
  const explore = (): void => {
    let moved = false;
    programs.forEach((program, id) => {
      const mark = cells.journal.mark();
      const step = program[at[id] ?? 0];
      if (step !== undefined) {
        moved = true;
        cells.setActor(id);
        step();
        at[id] = (at[id] ?? 0) + 1;
        explore();
        at[id] = (at[id] ?? 0) - 1;
        cells.journal.rollback(mark);
      }
      if (cells.flushOldestStore(id)) {
        moved = true;
        explore();
        cells.journal.rollback(mark);
      }
    });
    if (!moved) found.add(outcome());
  };
  explore();
  return [...found].sort();
};

const X = 0;
const Y = 1;
/** A litmus test's memory, and the registers of its loads: plain variables, for each step sets its own anew. */
const litmus = () => {
  const words = new Int32Array(2);
  const registers = [0, 0];
  const store = (word: number) => () => cells.writeOnce(words, word, 1);
  const load = (word: number, register: number) => () => {
    registers[register] = cells.readOnce(words, word);
  };
  return { store, load, outcome: () => registers.join('') };
};

describe('store buffering: x = 1; r0 = y || y = 1; r1 = x', () => {
  const run = (barrier: boolean): string[] => {
    const { store, load, outcome } = litmus();
    const fence = barrier ? [() => cells.smpMb()] : [];
    return outcomes(
      [
        [store(X), ...fence, load(Y, 0)],
        [store(Y), ...fence, load(X, 1)],
      ],
      outcome,
    );
  };

  it('sc: never both 0', () => expect(run(false)).toEqual(['01', '10', '11']));

  it('tso: both 0 too', () => {
    cells.setMemoryModel('tso');
    expect(run(false)).toEqual(['00', '01', '10', '11']);
  });

  it('tso with barriers: never both 0', () => {
    cells.setMemoryModel('tso');
    expect(run(true)).toEqual(['01', '10', '11']);
  });

  for (const of of ['all', [0], [1]] as const)
    it(`tso with the barriers of ${of} dropped: both 0 again`, () => {
      cells.setMemoryModel('tso');
      cells.dropBarriers(of);
      expect(run(true)).toEqual(['00', '01', '10', '11']);
    });
});

describe('message passing: x = 1; y = 1 || r0 = y; r1 = x', () => {
  for (const model of ['sc', 'tso'] as const)
    it(`${model}: who sees y sees x, without a barrier`, () => {
      cells.setMemoryModel(model);
      const { store, load, outcome } = litmus();
      const found = outcomes(
        [
          [store(X), store(Y)],
          [load(Y, 0), load(X, 1)],
        ],
        outcome,
      );
      expect(found).toEqual(['00', '01', '11']);
    });
});

describe('store buffers', () => {
  it('forward the latest own store, through any view of the word, and hide it from others', () => {
    const words = new Int32Array(4);
    cells.setMemoryModel('tso');
    cells.writeOnce(words, 2, 1);
    cells.writeOnce(words.subarray(1), 1, 2 ** 32 + 7);
    expect(cells.readOnce(words.subarray(2), 0)).toBe(7);
    cells.setActor(1);
    expect(cells.readOnce(words, 2)).toBe(0);
  });

  for (const { name, operation } of [
    { name: 'smpMb', operation: () => cells.smpMb() },
    { name: 'atomicAdd', operation: () => cells.atomicAdd(new Int32Array(1), 0, 1) },
    { name: 'a cmpxchg that fails', operation: () => cells.cmpxchg(new Int32Array(1), 0, 1, 2) },
    { name: 'fetchOr', operation: () => cells.fetchOr(new Int32Array(1), 0, 1) },
    { name: 'setField', operation: () => cells.setField({ a: 1 }, 'a', 2) },
    { name: 'switching to sc', operation: () => cells.setMemoryModel('sc') },
  ])
    it(`are flushed by ${name}`, () => {
      const words = new Int32Array(1);
      cells.setMemoryModel('tso');
      cells.writeOnce(words, 0, 1);
      expect(words[0]).toBe(0);
      operation();
      expect([words[0], cells.storeBufferLength(0)]).toEqual([1, 0]);
    });

  it('are not flushed by smpRmb and smpWmb', () => {
    cells.setMemoryModel('tso');
    cells.writeOnce(new Int32Array(1), 0, 1);
    cells.smpRmb();
    cells.smpWmb();
    expect(cells.storeBufferLength(0)).toBe(1);
  });
});
