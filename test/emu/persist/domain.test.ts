/** Persistence domains: what each platform keeps when power is lost (section 4 of the facts: ADR, eADR, none). */
import { describe, expect, it } from 'vitest';
import { PAGE_SIZE } from '../../../emu/layout.ts';
import { NO_HART, PhysMemory } from '../../../emu/memory.ts';
import { PersistDomain, type PersistEvent, type PersistMode } from '../../../emu/persist/domain.ts';

const FRAME = 4;
const LINE = 64;

interface World {
  memory: PhysMemory;
  domain: PersistDomain;
  /** An 8-byte store of a small number by a hart. */
  store(hart: number, at: number, value: number): void;
  clean(hart: number, at: number): void;
  /** What the 8 bytes are in an image. */
  word(image: Uint8Array, at: number): number;
}

const world = (mode: PersistMode = 'adr', pages = 2): World => {
  const memory = new PhysMemory(64 * PAGE_SIZE);
  const firstOffset = memory.pageOffset(FRAME);
  const domain = new PersistDomain({ memory, firstOffset, lenBytes: pages * PAGE_SIZE, mode });
  return {
    memory,
    domain,
    store: (hart, at, value) => {
      memory.hart = hart;
      memory.i32[(firstOffset + at) >>> 2] = value;
      memory.wrote(firstOffset + at, 8);
      memory.hart = NO_HART;
    },
    clean: (hart, at) => domain.clean(hart, firstOffset + at),
    word: (image, at) => new DataView(image.buffer).getInt32(at, true),
  };
};

const none = (): number => 0;
const all = (_line: number, choices: number): number => choices - 1;

describe('ADR: the write-pending queue survives', () => {
  it('a store alone may be lost, and may be there', () => {
    const w = world();
    w.store(0, 128, 7);
    expect([...w.domain.pendingLines()]).toEqual([2]);
    expect(w.domain.choicesOf(2)).toBe(2);
    expect(w.word(w.domain.crashImage(none), 128)).toBe(0);
    expect(w.word(w.domain.crashImage(all), 128)).toBe(7);
  });

  it('a write-back without a fence promises nothing, and neither does a fence without a write-back', () => {
    const flushed = world();
    flushed.store(0, 0, 7);
    flushed.clean(0, 0);
    expect(flushed.domain.choicesOf(0)).toBe(2);
    const fenced = world();
    fenced.store(0, 0, 7);
    fenced.domain.fence(0);
    expect(fenced.domain.choicesOf(0)).toBe(2);
  });

  it('write-back and fence by one hart make a store durable, whichever hart has stored', () => {
    const w = world();
    w.store(1, 0, 7);
    w.clean(0, 0);
    w.domain.fence(1);
    expect(w.domain.choicesOf(0)).toBe(2); // the fence of another hart
    w.domain.fence(0);
    expect(w.domain.choicesOf(0)).toBe(1);
    expect(w.word(w.domain.media, 0)).toBe(7);
  });

  it('what is stored between write-back and fence is not covered', () => {
    const w = world();
    w.store(0, 0, 1);
    w.clean(0, 0);
    w.store(0, 8, 2);
    w.domain.fence(0);
    expect([w.word(w.domain.media, 0), w.word(w.domain.media, 8)]).toEqual([1, 0]);
    expect(w.domain.choicesOf(0)).toBe(2);
  });

  it('in a line stores arrive in order: any prefix of them; lines arrive in any order', () => {
    const w = world();
    w.store(0, 0, 1);
    w.store(0, 64, 9);
    w.store(0, 16, 2);
    w.store(0, 0, 3);
    expect(w.domain.choicesOf(0)).toBe(4);
    const states = [0, 1, 2, 3].map((prefix) => {
      const image = w.domain.crashImage((line) => (line === 0 ? prefix : 0));
      return [w.word(image, 0), w.word(image, 16), w.word(image, 64)];
    });
    expect(states).toEqual([
      [0, 0, 0],
      [1, 0, 0],
      [1, 2, 0],
      [3, 2, 0],
    ]);
    expect(
      w.word(
        w.domain.crashImage((line) => (line === 1 ? 1 : 0)),
        64,
      ),
    ).toBe(9);
  });

  it('8 aligned bytes are never torn; more are, in pieces of 8', () => {
    const w = world();
    w.memory.setBytes(w.memory.pageOffset(FRAME) + 4, new Uint8Array(16).fill(0xff));
    // 4 bytes, 8 bytes, 4 bytes.
    expect(w.domain.choicesOf(0)).toBe(4);
    const counts = [0, 1, 2, 3].map(
      (n) => w.domain.lineAfter(0, n).filter((byte) => byte === 0xff).length,
    );
    expect(counts).toEqual([0, 4, 12, 16]);
  });

  it('bytes that a device or the host kernel stores are in caches too', () => {
    const w = world();
    w.memory.zeroBytes(w.memory.pageOffset(FRAME), 64);
    w.memory.setBytes(w.memory.pageOffset(FRAME), Uint8Array.of(5));
    expect(w.domain.choicesOf(0)).toBe(2);
    w.clean(2, 0);
    w.domain.fence(2);
    expect(w.word(w.domain.media, 0)).toBe(5);
  });

  it('what the host kernel makes durable is durable', () => {
    const w = world();
    w.store(0, 0, 1);
    w.store(0, 64, 2);
    w.store(0, 128, 3);
    w.domain.persist(64, 8);
    expect([...w.domain.pendingLines()]).toEqual([0, 2]);
  });
});

describe('eADR: caches survive', () => {
  it('a fence alone makes the stores of its hart durable', () => {
    const w = world('eadr');
    w.store(0, 0, 1);
    w.store(1, 64, 2);
    w.domain.fence(0);
    expect([w.word(w.domain.media, 0), w.word(w.domain.media, 64)]).toEqual([1, 0]);
    expect([...w.domain.pendingLines()]).toEqual([1]);
  });

  it('a store buffer has an end: what leaves it is durable without a fence', () => {
    const w = world('eadr', 4);
    for (let line = 0; line < 200; line++) w.store(0, line * LINE, line + 1);
    expect(w.domain.pendingLines().length).toBeLessThanOrEqual(64);
    expect(w.word(w.domain.media, 0)).toBe(1);
  });

  it('a device has no store buffer', () => {
    const w = world('eadr');
    w.memory.setBytes(w.memory.pageOffset(FRAME) + 8, Uint8Array.of(9));
    expect(w.domain.pendingLines().length).toBe(0);
    expect(w.word(w.domain.media, 8)).toBe(9);
  });
});

describe('none: not even the queue survives', () => {
  it('takes a flush hint after the fence', () => {
    const w = world('none');
    w.store(0, 0, 7);
    w.clean(0, 0);
    w.domain.flushHint(); // the line is on its way: not in the queue for certain
    expect(w.domain.choicesOf(0)).toBe(2);
    w.domain.fence(0);
    expect(w.domain.choicesOf(0)).toBe(2);
    w.domain.flushHint();
    expect(w.domain.choicesOf(0)).toBe(1);
    expect(w.word(w.domain.media, 0)).toBe(7);
  });
});

describe('a loss of power', () => {
  it('leaves in the frames what it leaves on the media, and nothing open', () => {
    const w = world();
    w.store(0, 0, 1);
    w.store(0, 64, 2);
    w.domain.powerFail((line, choices) => (line === 1 ? choices - 1 : 0));
    expect(w.memory.i32[w.memory.pageOffset(FRAME) >>> 2]).toBe(0);
    expect(w.memory.i32[(w.memory.pageOffset(FRAME) + 64) >>> 2]).toBe(2);
    expect(w.domain.pendingLines().length).toBe(0);
    w.store(0, 0, 5);
    expect(w.domain.choicesOf(0)).toBe(2);
  });

  it('at an event: everything until then counts, nothing after', () => {
    const w = world();
    w.domain.failAt = 4;
    w.store(0, 0, 1);
    w.clean(0, 0);
    w.domain.fence(0);
    w.store(0, 0, 2);
    expect(w.domain.failed).toBe(true);
    w.clean(0, 0);
    w.domain.fence(0);
    w.store(0, 64, 3);
    expect(w.domain.events).toBe(4);
    expect([...w.domain.pendingLines()]).toEqual([0]);
    expect(w.word(w.domain.crashImage(none), 0)).toBe(1);
    expect(w.word(w.domain.crashImage(all), 0)).toBe(2);
  });

  it('a pick that is none of the choices is refused', () => {
    const w = world();
    w.store(0, 0, 1);
    for (const pick of [-1, 2, 0.5])
      expect(() => w.domain.crashImage(() => pick)).toThrow(/has no state/);
  });
});

describe('events', () => {
  it('are told in order, with who and where; a fence with nothing to fence is none', () => {
    const w = world();
    const told: [PersistEvent, number, number][] = [];
    w.domain.onEvent = (...event) => told.push(event);
    w.domain.fence(0);
    w.store(1, 70, 1);
    w.clean(1, 64);
    w.domain.fence(1);
    w.domain.fence(1);
    w.domain.flushHint();
    w.domain.persist(128, 8);
    expect(told).toEqual([
      ['store', 1, 1],
      ['clean', 1, 1],
      ['fence', 1, -1],
      ['hint', NO_HART, -1],
      ['persist', NO_HART, 2],
    ]);
    expect(w.domain.events).toBe(5);
    expect(w.domain.counts).toEqual({ store: 1, clean: 1, fence: 1, hint: 1, persist: 1 });
  });

  it('a store of what is there already opens nothing', () => {
    const w = world();
    w.store(0, 0, 0);
    expect([w.domain.events, w.domain.pendingLines().length]).toEqual([1, 0]);
    w.store(0, 0, 1);
    w.store(0, 0, 1);
    expect(w.domain.choicesOf(0)).toBe(2);
  });
});

describe('the frames', () => {
  it('are ordinary memory again after detach()', () => {
    const w = world();
    w.domain.detach();
    w.store(0, 0, 1);
    expect(w.domain.events).toBe(0);
    expect(PersistDomain.at(w.memory, w.memory.pageOffset(FRAME))).toBeUndefined();
  });

  it('a domain is found by any of its bytes', () => {
    const w = world();
    const first = w.memory.pageOffset(FRAME);
    expect(PersistDomain.at(w.memory, first)).toBe(w.domain);
    expect(PersistDomain.at(w.memory, first + 2 * PAGE_SIZE - 1)).toBe(w.domain);
    expect(PersistDomain.at(w.memory, first + 2 * PAGE_SIZE)).toBeUndefined();
    expect(PersistDomain.at(w.memory, first - 1)).toBeUndefined();
  });

  it('must be whole frames', () => {
    const memory = new PhysMemory(64 * PAGE_SIZE);
    const firstOffset = memory.pageOffset(FRAME) + 64;
    expect(
      () => new PersistDomain({ memory, firstOffset, lenBytes: PAGE_SIZE, mode: 'adr' }),
    ).toThrow(/no frames/);
  });
});

describe('what caches hold has an end', () => {
  it('a line that is stored to for ever is written back by itself at some time', () => {
    const w = world();
    for (let i = 1; i <= 5000; i++) w.store(0, 0, i);
    expect(w.domain.choicesOf(0)).toBeLessThanOrEqual(1025);
    const image = w.domain.crashImage(none);
    expect(w.word(image, 0)).toBeGreaterThan(3000);
    expect(w.word(w.domain.crashImage(all), 0)).toBe(5000);
  });
});
