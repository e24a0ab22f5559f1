/** The exploring cells, what plain stores and full barriers leave out: atomics without a value, bytes, what has changed. */
import { beforeEach, describe, expect, it } from 'vitest';
import * as cells from '../../emu/cells/explore.ts';

beforeEach(() => cells.resetExploration());

const relaxed = [
  {
    name: 'atomicAddRelaxed (atomic_add)',
    run: (words: Int32Array) => cells.atomicAddRelaxed(words, 0, 5),
    from: 2,
    to: 7,
  },
  { name: 'setBits (set_bit)', run: (w: Int32Array) => cells.setBits(w, 0, 4), from: 3, to: 7 },
  {
    name: 'clearBits (clear_bit)',
    run: (w: Int32Array) => cells.clearBits(w, 0, 4),
    from: 7,
    to: 3,
  },
];

describe('an atomic without a value', () => {
  for (const { name, run, from, to } of relaxed) {
    it(`${name}: sc: is in memory at once`, () => {
      const words = Int32Array.of(from);
      run(words);
      expect(words[0]).toBe(to);
    });

    it(`${name}: tso: waits in the buffer, seen by its actor alone`, () => {
      const words = Int32Array.of(from);
      cells.setMemoryModel('tso');
      run(words);
      expect([words[0], cells.readOnce(words, 0)]).toEqual([from, to]);
      cells.setActor(1);
      expect(cells.readOnce(words, 0)).toBe(from);
      cells.flushStoreBuffer(0);
      expect(words[0]).toBe(to);
    });

    it(`${name}: flushes nothing that was stored before`, () => {
      const words = new Int32Array(2);
      cells.setMemoryModel('tso');
      cells.writeOnce(words, 1, 1);
      run(words);
      expect(words[1]).toBe(0);
      expect(cells.storeBufferLength(0)).toBe(2);
    });
  }

  it('is applied to what it finds when it reaches memory: no update is lost', () => {
    const words = new Int32Array(1);
    cells.setMemoryModel('tso');
    for (const actor of [0, 1, 2]) {
      cells.setActor(actor);
      cells.atomicAddRelaxed(words, 0, 10 ** actor);
      expect(cells.readOnce(words, 0)).toBe(10 ** actor);
    }
    for (const actor of [2, 0, 1]) cells.flushStoreBuffer(actor);
    expect(words[0]).toBe(111);
  });

  it('on top of an own store that waits: memory is not looked at', () => {
    const words = Int32Array.of(100);
    cells.setMemoryModel('tso');
    cells.writeOnce(words, 0, 1);
    cells.atomicAddRelaxed(words, 0, 1);
    cells.setBits(words.subarray(0), 0, 8);
    expect(cells.readOnce(words, 0)).toBe(10);
    expect(cells.takeAccesses().size).toBe(0);
  });

  for (const { name, operation } of [
    { name: 'smpMb', operation: () => cells.smpMb() },
    { name: 'atomicAdd', operation: () => cells.atomicAdd(new Int32Array(1), 0, 1) },
    { name: 'noteBytes', operation: () => cells.noteBytes(new Uint8Array(4), 0, 4) },
  ])
    it(`is flushed by ${name}`, () => {
      const words = new Int32Array(1);
      cells.setMemoryModel('tso');
      cells.atomicAddRelaxed(words, 0, 1);
      operation();
      expect(words[0]).toBe(1);
    });

  it('reads and writes its word when it reaches memory, and not before', () => {
    const words = new Int32Array(1);
    cells.setMemoryModel('tso');
    cells.atomicAddRelaxed(words, 0, 1);
    expect(cells.takeAccesses().size).toBe(0);
    cells.flushStoreBuffer(0);
    expect([...(cells.takeAccesses().get(0)?.words.get(words.buffer) ?? [])]).toEqual([
      [0, cells.ACCESS_READ | cells.ACCESS_WRITE],
    ]);
  });
});

describe('addField', () => {
  it('neither flushes nor is in an access set: counters order nothing', () => {
    const words = new Int32Array(1);
    cells.setMemoryModel('tso');
    cells.writeOnce(words, 0, 1);
    cells.addField({ events: 1 }, 'events', 1);
    expect(words[0]).toBe(0);
    expect(cells.takeAccesses().size).toBe(0);
  });
});

describe('bytes', () => {
  it('that are announced come back, overlapping runs too', () => {
    const bytes = Uint8Array.from({ length: 16 }, (_, i) => i);
    const set = (offset: number, values: number[]): void => {
      cells.noteBytes(bytes, offset, values.length);
      bytes.set(values, offset);
    };
    set(2, [90, 91, 92, 93]);
    const mark = cells.journal.mark();
    const state = [...bytes];
    set(4, [80, 81, 82, 83]);
    set(3, [70, 71]);
    expect([...bytes.subarray(2, 8)]).toEqual([90, 70, 71, 81, 82, 83]);
    cells.journal.rollback(mark);
    expect([...bytes]).toEqual(state);
  });
});

describe('what has changed since a mark', () => {
  const words = new Int32Array(2);
  const record = { a: 1 };
  for (const { fact, act, changes } of [
    { fact: 'a word', act: () => cells.writeOnce(words, 0, 1), changes: 1 },
    {
      fact: 'a word twice is one change',
      act: () => {
        cells.writeOnce(words, 0, 1);
        cells.atomicAdd(words.subarray(0), 0, 1);
      },
      changes: 1,
    },
    {
      fact: 'a word that came back is none',
      act: () => {
        cells.writeOnce(words, 0, 1);
        cells.writeOnce(words, 0, 0);
      },
      changes: 0,
    },
    {
      fact: 'a trylock that fails stores what was there: none',
      act: () => cells.fetchOr(words, 1, 0),
      changes: 0,
    },
    { fact: 'a field', act: () => cells.setField(record, 'a', 2), changes: 1 },
    {
      fact: 'a field set to what it was: none',
      act: () => cells.setField(record, 'a', 1),
      changes: 0,
    },
    { fact: 'a counter: none', act: () => cells.addField(record, 'a', 1), changes: 0 },
    { fact: 'a list', act: () => cells.listPush([1], 2), changes: 1 },
    { fact: 'a map', act: () => cells.mapSet(new Map(), 1, 2), changes: 1 },
    { fact: 'bytes', act: () => cells.noteBytes(new Uint8Array(1), 0, 1), changes: 1 },
  ])
    it(fact, () => {
      const mark = cells.journal.mark();
      act();
      expect(cells.journal.changes(mark)).toHaveLength(changes);
      cells.journal.rollback(mark);
      expect([[...words], record]).toEqual([[0, 0], { a: 1 }]);
    });

  it('old and new value, of what is in memory', () => {
    cells.setMemoryModel('tso');
    cells.writeOnce(words, 0, 7);
    expect(cells.journal.changes(0)).toEqual([]);
    cells.smpMb();
    expect(cells.journal.changes(0)).toMatchObject([{ kind: 'word', index: 0, old: 0, now: 7 }]);
    cells.journal.rollback(0);
  });
});
