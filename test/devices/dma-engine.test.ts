/** The DMA engine over a port straight to RAM, register by register and descriptor by descriptor. */
import { describe, expect, it } from 'vitest';
import { BusPort, DmaEngine } from '#devices';
import { PhysMemory, RAM_BASE } from '#emu';
import { rng } from '../support/rng.ts';
import { Clock, probedLine, runTo } from './support/wires.ts';

const CONTROL = 0x08;
const STATUS = 0x0c;
const RING_LO = 0x10;
const RING_HI = 0x14;
const RING_SIZE = 0x18;
const HEAD = 0x1c;
const TAIL = 0x20;
const IRQ_STATUS = 0x24;
const LATENCY = 0x28;
const ENABLE = 1;
const IRQ_ENABLE = 2;
const RESET = 0x8000_0000;
const BUSY = 1;
const ERROR = 2;

const RING = RAM_BASE + 0x1000;
const SRC = RAM_BASE + 0x10_0000;
const DST = RAM_BASE + 0x30_0000;
const LIST = RAM_BASE + 0x2000;

const PATTERN = new Uint8Array(2 << 20);
for (let i = 0; i < PATTERN.length; i++) PATTERN[i] = i * 7 + (i >>> 8);

interface Descriptor {
  src?: number;
  dst?: number;
  len?: number;
  flags?: number;
}

/** An engine that is enabled over a ring of 8, its source filled with a pattern. */
const boardOf = (ringSize = 8) => {
  const memory = new PhysMemory(8 << 20);
  const clock = new Clock();
  const irq = probedLine();
  const engine = new DmaEngine({ clock, irq, port: new BusPort(memory) });
  const view = new DataView(memory.wasm.buffer);
  const at = (pa: number) => memory.offsetOf(pa);
  const put64 = (pa: number, value: number) => view.setBigUint64(at(pa), BigInt(value), true);
  const put32 = (pa: number, value: number) => view.setUint32(at(pa), value, true);
  const describeAt = (index: number, d: Descriptor = {}) => {
    const pa = RING + (index % ringSize) * 32;
    put64(pa, d.src ?? SRC);
    put64(pa + 8, d.dst ?? DST);
    put32(pa + 16, d.len ?? 64);
    put32(pa + 20, d.flags ?? 0);
    put32(pa + 24, 0xdead_beef);
  };
  const listAt = (pa: number, entries: readonly (readonly [number, number])[], last = true) => {
    entries.forEach(([address, len], i) => {
      put64(pa + 16 * i, address);
      put32(pa + 16 * i + 8, len);
      put32(pa + 16 * i + 12, last && i === entries.length - 1 ? 1 : 0);
    });
  };
  const status = (index: number) => view.getUint32(at(RING + (index % ringSize) * 32 + 24), true);
  const read = (offset: number) => engine.read(offset, 4) >>> 0;
  const write = (offset: number, value: number) => engine.write(offset, 4, value);
  const bytes = (pa: number, len: number) => memory.readBytes(pa, len);
  memory.writeBytes(SRC, PATTERN);
  write(RING_LO, RING);
  write(RING_SIZE, ringSize);
  write(CONTROL, ENABLE | IRQ_ENABLE);
  return {
    memory,
    clock,
    irq,
    engine,
    describeAt,
    listAt,
    status,
    read,
    write,
    bytes,
    put64,
    put32,
  };
};

/** Submits one descriptor, lets it complete, and returns its status. */
const statusOf = (board: ReturnType<typeof boardOf>, d: Descriptor): number => {
  board.describeAt(0, d);
  board.write(TAIL, 1);
  runTo(board.clock, board.clock.now + 2000);
  return board.status(0);
};

describe('registers', () => {
  it('ID and VERSION', () => {
    const { read } = boardOf();
    expect([read(0x00), read(0x04)]).toEqual([0x616d_6447, 1]);
  });

  it('LATENCY is 2000 after reset, and writable', () => {
    const { read, write } = boardOf();
    expect(read(LATENCY)).toBe(2000);
    write(LATENCY, 0xffff_ffff);
    expect(read(LATENCY)).toBe(0xffff_ffff);
  });

  it('the ring base is 32-byte aligned: bits 4..0 are zero', () => {
    const { read, write } = boardOf();
    write(RING_LO, 0xffff_ffff);
    expect(read(RING_LO)).toBe(0xffff_ffe0);
  });

  it('read-only registers and holes take no write, narrow accesses read 0', () => {
    const { engine, read, write } = boardOf();
    const before = engine.save();
    for (const offset of [0x00, 0x04, STATUS, HEAD, 0x2c, 0x100, 0xffc]) write(offset, 0xffff_ffff);
    engine.write(TAIL, 2, 1);
    expect(engine.save()).toEqual(before);
    expect([engine.read(0, 1), engine.read(0, 2), read(0x2c)]).toEqual([0, 0, 0]);
  });
});

describe('a descriptor', () => {
  it('moves its bytes and reports 1; HEAD counts it', () => {
    const board = boardOf();
    expect(statusOf(board, { len: 1000 })).toBe(1);
    expect(board.bytes(DST, 1000)).toEqual(board.bytes(SRC, 1000));
    expect(board.bytes(DST + 1000, 1)).toEqual(Uint8Array.of(0));
    expect(board.read(HEAD)).toBe(1);
    expect(board.read(STATUS)).toBe(0);
  });

  for (const latency of [0, 1, 777])
    it(`completes exactly ${latency} instructions after the doorbell`, () => {
      const { clock, describeAt, write, read, status, bytes } = boardOf();
      write(LATENCY, latency);
      describeAt(0);
      clock.now = 12_345;
      write(TAIL, 1);
      if (latency > 0) {
        runTo(clock, 12_345 + latency - 1);
        expect([status(0), read(HEAD), read(STATUS)]).toEqual([0xdead_beef, 0, BUSY]);
        expect(bytes(DST, 64).every((byte) => byte === 0)).toBe(true);
      }
      runTo(clock, 12_345 + latency);
      expect([status(0), read(HEAD), read(STATUS)]).toEqual([1, 1, 0]);
    });

  it('is taken after the one before it: completions are LATENCY apart', () => {
    const { clock, describeAt, write, read } = boardOf();
    for (let i = 0; i < 3; i++) describeAt(i);
    write(LATENCY, 100);
    write(TAIL, 3);
    const heads = [99, 100, 199, 200, 299, 300].map((when) => {
      runTo(clock, when);
      return read(HEAD);
    });
    expect(heads).toEqual([0, 1, 1, 2, 2, 3]);
  });

  it('is read when its turn comes, its bytes when it completes', () => {
    const { clock, describeAt, write, bytes, memory } = boardOf();
    describeAt(0, { dst: DST });
    write(TAIL, 1);
    describeAt(0, { dst: DST + 0x1000 });
    memory.writeBytes(SRC, Uint8Array.of(0xee));
    runTo(clock, 2000);
    expect(bytes(DST, 1)).toEqual(Uint8Array.of(0xee));
    expect(bytes(DST + 0x1000, 64).every((byte) => byte === 0)).toBe(true);
  });

  it('waits while the engine is not enabled', () => {
    const { clock, describeAt, write, read } = boardOf();
    write(CONTROL, 0);
    describeAt(0);
    write(TAIL, 1);
    runTo(clock, 5000);
    expect(read(STATUS)).toBe(0);
    write(CONTROL, ENABLE);
    runTo(clock, 7000);
    expect(read(HEAD)).toBe(1);
  });
});

describe('scatter-gather lists', () => {
  it('gather: the source pieces are joined', () => {
    const board = boardOf();
    board.listAt(LIST, [
      [SRC + 100, 3],
      [SRC + 5000, 4],
      [SRC + 7, 1],
    ]);
    expect(statusOf(board, { src: LIST, len: 8, flags: 2 })).toBe(1);
    expect([...board.bytes(DST, 8)]).toEqual([
      ...board.bytes(SRC + 100, 3),
      ...board.bytes(SRC + 5000, 4),
      ...board.bytes(SRC + 7, 1),
    ]);
  });

  it('scatter: the bytes are spread over the destination pieces', () => {
    const board = boardOf();
    board.listAt(LIST, [
      [DST + 0x2000, 5],
      [DST, 3],
    ]);
    expect(statusOf(board, { dst: LIST, len: 8, flags: 4 })).toBe(1);
    expect(board.bytes(DST + 0x2000, 5)).toEqual(board.bytes(SRC, 5));
    expect(board.bytes(DST, 3)).toEqual(board.bytes(SRC + 5, 3));
  });

  it('both, cut differently', () => {
    const board = boardOf();
    const total = 1 << 20;
    const pieces = 1024;
    const size = total / pieces;
    const from = Array.from(
      { length: pieces },
      (_, i) => [SRC + ((i * 5) % pieces) * size, size] as const,
    );
    const to = [
      [DST + 1, 4097],
      [DST + 0x1_0000, total - 4097],
    ] as const;
    board.listAt(LIST, from);
    board.listAt(LIST + 0x8000, to);
    expect(statusOf(board, { src: LIST, dst: LIST + 0x8000, len: total, flags: 6 })).toBe(1);
    const wanted = new Uint8Array(total);
    from.forEach(([pa], i) => {
      wanted.set(board.bytes(pa, size), i * size);
    });
    expect(Buffer.compare(board.bytes(DST + 1, 4097), wanted.subarray(0, 4097))).toBe(0);
    expect(Buffer.compare(board.bytes(DST + 0x1_0000, total - 4097), wanted.subarray(4097))).toBe(
      0,
    );
  });

  it('what the last entry has beyond the length is not used, nor later entries', () => {
    const board = boardOf();
    board.listAt(
      LIST,
      [
        [SRC, 1 << 30],
        [1, 0],
      ],
      false,
    );
    expect(statusOf(board, { src: LIST, len: 16, flags: 2 })).toBe(1);
    expect(board.bytes(DST, 16)).toEqual(board.bytes(SRC, 16));
  });
});

describe('errors in a descriptor', () => {
  for (const { fact, d, expected } of [
    { fact: 'length 0', d: { len: 0 }, expected: 3 },
    { fact: 'length above 1 MiB', d: { len: (1 << 20) + 1 }, expected: 3 },
    { fact: 'an unknown flag', d: { flags: 8 }, expected: 3 },
    { fact: 'source outside memory', d: { src: 0x1000 }, expected: 2 },
    { fact: 'destination outside memory', d: { dst: RAM_BASE + (8 << 20) - 10 }, expected: 2 },
    { fact: 'an address of 2^63', d: { src: 2 ** 63 }, expected: 2 },
    { fact: 'a device register as destination', d: { dst: 0x1001_0020 }, expected: 2 },
    { fact: 'a list outside memory', d: { src: 0x40, flags: 2 }, expected: 2 },
    {
      fact: 'a list that runs out of memory',
      d: { dst: RAM_BASE + (8 << 20) - 8, flags: 4 },
      expected: 2,
    },
  ])
    it(`${fact}: status ${expected}, error interrupt, and the next one is served`, () => {
      const board = boardOf();
      expect(statusOf(board, d)).toBe(expected);
      expect(board.read(STATUS)).toBe(ERROR);
      expect(board.read(IRQ_STATUS)).toBe(2);
      expect(board.irq.level).toBe(true);
      board.describeAt(1);
      board.write(TAIL, 2);
      runTo(board.clock, board.clock.now + 2000);
      expect([board.status(1), board.read(HEAD)]).toEqual([1, 2]);
    });

  for (const { fact, entries, last } of [
    { fact: 'an entry of no bytes', entries: [[SRC, 0]] as const, last: false },
    {
      fact: 'a last entry before the length is covered',
      entries: [[SRC, 63]] as const,
      last: true,
    },
    {
      fact: 'more than 1024 entries',
      entries: Array.from({ length: 1025 }, () => [SRC, 1] as const),
      last: false,
    },
  ])
    it(`a list with ${fact}: status 3`, () => {
      const board = boardOf();
      board.listAt(LIST, entries, last);
      const len = entries.length > 1 ? 2000 : 64;
      expect(statusOf(board, { src: LIST, len, flags: 2 })).toBe(3);
    });

  it('takes its LATENCY like a good one', () => {
    const { clock, describeAt, write, read } = boardOf();
    describeAt(0, { len: 0 });
    write(TAIL, 1);
    runTo(clock, 1999);
    expect(read(HEAD)).toBe(0);
    runTo(clock, 2000);
    expect(read(HEAD)).toBe(1);
  });

  it('clearing the error interrupt clears the error in STATUS', () => {
    const board = boardOf();
    statusOf(board, { len: 0 });
    board.write(IRQ_STATUS, 2);
    expect([board.read(STATUS), board.read(IRQ_STATUS), board.irq.level]).toEqual([0, 0, false]);
  });
});

describe('interrupts', () => {
  it('a completion is reported only where the descriptor asks for it', () => {
    const board = boardOf();
    statusOf(board, { flags: 0 });
    expect(board.irq.edges).toEqual([]);
    board.describeAt(1, { flags: 1 });
    board.write(TAIL, 2);
    runTo(board.clock, board.clock.now + 2000);
    expect([board.irq.level, board.read(IRQ_STATUS)]).toEqual([true, 1]);
    board.write(IRQ_STATUS, 1);
    expect(board.irq.level).toBe(false);
  });

  it('are masked by CONTROL bit 1, and not lost', () => {
    const board = boardOf();
    board.write(CONTROL, ENABLE);
    statusOf(board, { flags: 1 });
    expect(board.irq.level).toBe(false);
    board.write(CONTROL, ENABLE | IRQ_ENABLE);
    expect(board.irq.level).toBe(true);
  });

  it('writing 0 to a bit of IRQ_STATUS leaves it', () => {
    const board = boardOf();
    statusOf(board, { flags: 1 });
    board.write(IRQ_STATUS, ~1 >>> 0);
    expect(board.read(IRQ_STATUS)).toBe(1);
  });
});

describe('the ring', () => {
  it('wraps: many times round a ring of 4, HEAD and TAIL run freely', () => {
    const board = boardOf(4);
    board.write(LATENCY, 10);
    for (let n = 0; n < 19; n++) {
      board.describeAt(n, { src: SRC + n, dst: DST + n, len: 1 });
      board.write(TAIL, n + 1);
      if (n % 3 === 2) runTo(board.clock, board.clock.now + 30);
    }
    runTo(board.clock, board.clock.now + 100);
    expect(board.read(HEAD)).toBe(19);
    expect(board.bytes(DST, 19)).toEqual(board.bytes(SRC, 19));
  });

  it('may be full', () => {
    const board = boardOf(4);
    for (let n = 0; n < 4; n++) board.describeAt(n);
    board.write(TAIL, 4);
    runTo(board.clock, 8000);
    expect([board.read(HEAD), board.read(STATUS)]).toEqual([4, 0]);
  });

  for (const { fact, set } of [
    { fact: 'TAIL is further ahead than the ring is long', set: [[TAIL, 9]] },
    {
      fact: 'its size is 0',
      set: [
        [RING_SIZE, 0],
        [TAIL, 1],
      ],
    },
    {
      fact: 'its size is no power of two',
      set: [
        [RING_SIZE, 6],
        [TAIL, 1],
      ],
    },
    {
      fact: 'its size is above 4096',
      set: [
        [RING_SIZE, 8192],
        [TAIL, 1],
      ],
    },
    {
      fact: 'it is outside memory',
      set: [
        [RING_LO, 0x1000],
        [TAIL, 1],
      ],
    },
    {
      fact: 'it is above 2^63',
      set: [
        [RING_HI, 0x8000_0000],
        [TAIL, 1],
      ],
    },
  ] as const)
    it(`stands still, with the error bits set, when ${fact}`, () => {
      const board = boardOf();
      for (const [offset, value] of set) board.write(offset, value);
      runTo(board.clock, 3000);
      expect([board.read(STATUS), board.read(IRQ_STATUS), board.read(HEAD)]).toEqual([ERROR, 2, 0]);
      board.write(IRQ_STATUS, 2);
      board.write(RING_SIZE, 8);
      board.write(RING_LO, RING);
      board.write(RING_HI, 0);
      board.write(TAIL, 1);
      runTo(board.clock, 9000);
      expect([board.read(STATUS), board.read(HEAD)]).toEqual([ERROR, 0]);
    });

  it('works again after a reset', () => {
    const board = boardOf();
    board.write(TAIL, 9);
    board.write(CONTROL, RESET);
    expect([board.read(STATUS), board.read(TAIL), board.read(RING_SIZE)]).toEqual([0, 0, 0]);
    expect(board.irq.level).toBe(false);
    board.write(RING_LO, RING);
    board.write(RING_SIZE, 8);
    board.write(CONTROL, ENABLE);
    expect(statusOf(board, {})).toBe(1);
  });
});

describe('reset with a descriptor in flight', () => {
  it('gives it up: no bytes, no status, no interrupt, no event', () => {
    const board = boardOf();
    board.describeAt(0, { flags: 1 });
    board.write(TAIL, 1);
    runTo(board.clock, 1999);
    board.write(CONTROL, RESET);
    expect(board.clock.nextAt).toBe(Number.POSITIVE_INFINITY);
    runTo(board.clock, 5000);
    expect(board.status(0)).toBe(0xdead_beef);
    expect(board.bytes(DST, 64).every((byte) => byte === 0)).toBe(true);
    expect([board.read(STATUS), board.read(HEAD), board.irq.level]).toEqual([0, 0, false]);
  });
});

describe('save and restore', () => {
  it('with a descriptor in flight: it completes at the same instruction', () => {
    const first = boardOf();
    first.listAt(LIST, [
      [SRC, 10],
      [SRC + 100, 54],
    ]);
    first.describeAt(0, { src: LIST, flags: 3 });
    first.write(TAIL, 1);
    runTo(first.clock, 500);
    const second = boardOf();
    second.memory.writeBytes(RAM_BASE, first.bytes(RAM_BASE, 8 << 20));
    second.clock.restore(structuredClone(first.clock.save()));
    second.engine.restore(structuredClone(first.engine.save()));
    runTo(second.clock, 1999);
    expect(second.status(0)).toBe(0xdead_beef);
    runTo(second.clock, 2000);
    runTo(first.clock, 2000);
    expect(second.status(0)).toBe(1);
    expect(second.irq.level).toBe(true);
    expect(second.engine.save()).toEqual(first.engine.save());
    const [one, two] = [first, second].map((board) => board.bytes(RAM_BASE, 8 << 20));
    expect(one !== undefined && two !== undefined && Buffer.compare(one, two) === 0).toBe(true);
  });
});

describe('hostile drivers', () => {
  for (const seed of [1, 2, 3, 4])
    it(`random registers and memory, seed ${seed}: no exception, no endless work, nothing outside RAM`, () => {
      const board = boardOf();
      const random = rng(seed);
      const somewhere = () =>
        random.pick([
          RING,
          SRC,
          DST,
          LIST,
          0,
          RAM_BASE + (8 << 20) - 64,
          0x1001_0000,
          2 ** 53,
          2 ** 63,
        ]) + random.below(256);
      for (let step = 0; step < 3000; step++) {
        const ringBytes = RING + 4 * random.below(64);
        switch (random.below(6)) {
          case 0:
            board.write(4 * random.below(12), random.pick([0, 1, 3, 8, 4096, RING, random.u32()]));
            break;
          case 1:
            board.describeAt(random.below(8), {
              src: random.pick([SRC, LIST, somewhere()]),
              dst: random.pick([DST, LIST, RING, somewhere()]),
              len: random.pick([1, 64, 5000, 1 << 20, random.u32()]),
              flags: random.pick([0, 1, 2, 4, 6, 7, random.u32()]),
            });
            break;
          case 2:
            board.listAt(LIST, [[somewhere(), random.below(9000)]], random.chance(0.3));
            break;
          case 3:
            board.put32(ringBytes, random.u32());
            break;
          case 4:
            if (random.chance(0.2)) board.write(CONTROL, RESET);
            board.write(RING_LO, RING);
            board.write(RING_HI, 0);
            board.write(RING_SIZE, 8);
            board.write(LATENCY, random.below(50));
            board.write(CONTROL, ENABLE | IRQ_ENABLE);
            board.write(TAIL, board.read(HEAD) + random.below(10));
            break;
          default:
            runTo(board.clock, board.clock.now + random.below(200));
        }
        const low = board.memory.u8.subarray(0, 64);
        expect(low.every((byte) => byte === 0)).toBe(true);
      }
      board.write(CONTROL, RESET);
      board.write(RING_LO, RING);
      board.write(RING_SIZE, 8);
      board.write(CONTROL, ENABLE);
      expect(statusOf(board, {})).toBe(1);
    });
});
