/** Rings of both formats, entry by entry: what a device takes out of them, and what breaks them. */
import { describe, expect, it } from 'vitest';
import { readChain, type VirtioChain, writeChain } from '#devices';
import { DMA_FAULT, DMA_OK, RAM_BASE } from '#emu';
import {
  BUFFERS,
  boardOf,
  EVENT_IDX,
  HoldingDevice,
  INDIRECT_DESC,
  NEEDS_RESET,
  RING_PACKED,
} from './support/board.ts';
import type { Segment } from './support/driver.ts';

const STATUS = 0x070;
const TABLE = BUFFERS + 0x8_0000;

const FORMATS = [
  { name: 'split', packed: 0n },
  { name: 'packed', packed: RING_PACKED },
];

/** A device that is up, with one queue of `size`. */
const boardWith = (features: bigint, size = 8) => {
  const board = boardOf(() => new HoldingDevice());
  const [queue] = board.start(features, size);
  return { ...board, queue: queue! };
};

const segmentsOf = (chain: VirtioChain): Segment[] =>
  Array.from({ length: chain.nrSegments }, (_, i) => ({
    at: chain.address[i]!,
    len: chain.lenBytes[i]!,
    write: i >= chain.nrReadable,
  }));

const SEGMENTS: Segment[] = [
  { at: BUFFERS, len: 16, write: false },
  { at: BUFFERS + 0x1000, len: 5, write: false },
  { at: BUFFERS + 0x2000, len: 100, write: true },
  { at: BUFFERS + 0x3001, len: 1, write: true },
];

for (const { name, packed } of FORMATS)
  describe(`A ${name} ring — virtio 1.2, ${packed === 0n ? '2.7' : '2.8'}`, () => {
    for (const shape of ['direct', 'indirect'] as const)
      it(`a buffer of four segments, ${shape}, is taken as it was offered`, () => {
        const { device, queue, kick } = boardWith(packed | INDIRECT_DESC);
        const key = queue.offer(SEGMENTS, shape, TABLE);
        kick(0);
        const [chain] = device.held;
        expect(segmentsOf(chain!)).toEqual(SEGMENTS);
        expect([chain!.id, chain!.readableBytes, chain!.writableBytes]).toEqual([key, 21, 101]);
      });

    it('segments of no bytes are not there', () => {
      const { device, queue, kick } = boardWith(packed);
      queue.offer([{ at: BUFFERS, len: 0, write: false }, SEGMENTS[2]!], 'direct', 0);
      kick(0);
      expect(segmentsOf(device.held[0]!)).toEqual([SEGMENTS[2]]);
    });

    it('buffers come back in any order, each with its own length', () => {
      const { device, queue, kick } = boardWith(packed);
      const keys = [0, 1, 2].map(() => queue.offer(SEGMENTS.slice(1, 3), 'direct', 0)!);
      kick(0);
      const [a, b, c] = device.held;
      const vq = device.transport.queue(0);
      vq.put(c!, 30);
      vq.put(a!, 10);
      vq.put(b!, 20);
      expect([queue.collect(), queue.collect(), queue.collect(), queue.collect()]).toEqual([
        { key: keys[2], len: 30 },
        { key: keys[0], len: 10 },
        { key: keys[1], len: 20 },
        undefined,
      ]);
    });

    it('untake() gives a buffer back, to be taken again', () => {
      const { device, queue, kick } = boardWith(packed, 3 + (packed === 0n ? 1 : 0));
      // Far enough that a packed ring turns over inside the chain that is given back.
      for (let i = 0; i < 2; i++) {
        queue.offer([SEGMENTS[0]!], 'direct', 0);
        kick(0);
        device.transport.queue(0).put(device.held.pop()!, 0);
        queue.collect();
      }
      const key = queue.offer(SEGMENTS.slice(0, 2), 'direct', 0);
      kick(0);
      device.transport.queue(0).untake(device.held.pop()!);
      kick(0);
      expect(device.held.map((chain) => chain.id)).toEqual([key]);
      expect(device.transport.queue(0).nrInFlight).toBe(1);
    });

    it('bytes are found by their distance from the start of the readable and the writable part', () => {
      const { device, queue, kick, port, bytes } = boardWith(packed);
      bytes(BUFFERS, 0x4000).forEach((_, i, all) => {
        all[i] = i;
      });
      queue.offer(SEGMENTS, 'direct', 0);
      kick(0);
      const chain = device.held[0]!;
      const into = new Uint8Array(8);
      expect(readChain(port, chain, 13, into, 1, 6)).toBe(DMA_OK);
      expect([...into]).toEqual([0, 13, 14, 15, 0, 1, 2, 0]);
      expect(writeChain(port, chain, 98, Uint8Array.of(9, 7, 8, 9), 1, 3)).toBe(DMA_OK);
      expect([...bytes(BUFFERS + 0x2000 + 97, 4)]).toEqual([97, 7, 8, 100]);
      expect([...bytes(BUFFERS + 0x3000, 3)]).toEqual([0, 9, 2]);
      expect(() => readChain(port, chain, 20, into, 0, 2)).toThrow(RangeError);
      expect(() => writeChain(port, chain, 101, into, 0, 1)).toThrow(RangeError);
    });

    it('a buffer that is not in memory is a fault when it is read, not when it is taken', () => {
      const { device, queue, kick, port, read } = boardWith(packed);
      queue.offer([{ at: 0x1000, len: 4, write: false }], 'direct', 0);
      kick(0);
      expect(readChain(port, device.held[0]!, 0, new Uint8Array(4), 0, 4)).toBe(DMA_FAULT);
      expect(read(STATUS) & NEEDS_RESET).toBe(0);
    });

    const broken: { fact: string; segments: Segment[] }[] = [
      {
        fact: 'a readable segment behind a writable one (2.7.4.2)',
        segments: [SEGMENTS[2]!, SEGMENTS[0]!],
      },
      {
        fact: 'more than 4 GiB in all (2.7.5)',
        segments: [0, 1].map(() => ({ at: BUFFERS, len: 0xffff_ffff, write: false })),
      },
      { fact: 'an address beyond 2^53', segments: [{ at: 2 ** 53, len: 1, write: false }] },
    ];
    for (const { fact, segments } of broken)
      it(`${fact} breaks the queue: DEVICE_NEEDS_RESET`, () => {
        const { device, queue, kick, read } = boardWith(packed);
        queue.offer(segments, 'direct', 0);
        kick(0);
        expect(device.held).toEqual([]);
        expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
      });

    for (const { fact, features, len, flags } of [
      { fact: 'a table without INDIRECT_DESC', features: 0n, len: 16, flags: 4 },
      {
        fact: 'a table of no whole number of descriptors',
        features: INDIRECT_DESC,
        len: 17,
        flags: 4,
      },
      { fact: 'an empty table', features: INDIRECT_DESC, len: 0, flags: 4 },
      {
        fact: 'a table longer than the largest queue',
        features: INDIRECT_DESC,
        len: 16 * 65,
        flags: 4,
      },
      { fact: 'a table with a NEXT', features: INDIRECT_DESC, len: 16, flags: 5 },
    ])
      it(`${fact} breaks the queue`, () => {
        const { device, queue, kick, read, view } = boardWith(packed | features);
        queue.offer([{ at: TABLE, len, write: false }], 'direct', 0);
        const at = queue.descArea - RAM_BASE + (packed === 0n ? 12 : 14);
        view.setUint16(at, view.getUint16(at, true) | flags, true);
        kick(0);
        expect(device.held).toEqual([]);
        expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
      });

    it('a ring that is not in memory breaks the queue', () => {
      const { device, place, queueOf, choose, write, read, kick } = boardOf(
        () => new HoldingDevice(),
      );
      choose((1n << 32n) | packed);
      place(0, {
        ...queueOf(0, 8, packed),
        size: 8,
        descArea: 0x1000,
        driverArea: 0x2000,
        deviceArea: 0x3000,
      });
      write(STATUS, 15);
      kick(0);
      expect(device.held).toEqual([]);
      expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
    });
  });

describe('Only a split ring — virtio 1.2, 2.7', () => {
  it('a chain in the ring may end in one table (2.7.5.3.2)', () => {
    const { device, queue, kick } = boardWith(INDIRECT_DESC);
    queue.offer(SEGMENTS, 'mixed', TABLE);
    kick(0);
    expect(segmentsOf(device.held[0]!)).toEqual(SEGMENTS);
  });

  const spoilt: { fact: string; spoil: (view: DataView, desc: number, avail: number) => void }[] = [
    { fact: 'a head that is no descriptor', spoil: (v, _d, a) => v.setUint16(a + 4, 8, true) },
    {
      fact: 'a NEXT that is no descriptor',
      spoil: (v, d) => v.setUint16(d + 16 * 0 + 14, 200, true),
    },
    { fact: 'a chain that comes back to itself', spoil: (v, d) => v.setUint16(d + 14, 0, true) },
    {
      fact: 'an index further ahead than the ring is long',
      spoil: (v, _d, a) => v.setUint16(a + 2, 9, true),
    },
    {
      fact: 'a table in a table',
      spoil: (v, d) => {
        const table = d + 16 * 7; // a table in the descriptors' own memory
        v.setBigUint64(d, BigInt(RAM_BASE + table), true);
        v.setUint32(d + 8, 16, true);
        v.setUint16(d + 12, 4, true);
        v.setUint16(table + 12, 4, true);
      },
    },
  ];
  for (const { fact, spoil } of spoilt)
    it(`${fact} breaks the queue`, () => {
      const { device, queue, kick, read, view } = boardWith(INDIRECT_DESC);
      // Two descriptors: 0, then 1.
      queue.offer(SEGMENTS.slice(0, 2), 'direct', 0);
      spoil(view, queue.descArea - RAM_BASE, queue.driverArea - RAM_BASE);
      kick(0);
      expect(device.held).toEqual([]);
      expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
    });

  it('a descriptor that is offered again and again before it is used breaks the queue', () => {
    const { device, queue, kick, read, view } = boardWith(0n);
    queue.offer([SEGMENTS[0]!], 'direct', 0);
    const avail = queue.driverArea - RAM_BASE;
    for (let idx = 8; idx <= 16; idx += 8) {
      view.setUint16(avail + 2, idx, true);
      kick(0);
    }
    expect(device.held.length).toBe(8);
    expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  it('WRITE means nothing in a descriptor of a table (2.7.5.3.2)', () => {
    const { device, queue, kick, view } = boardWith(INDIRECT_DESC);
    queue.offer(SEGMENTS, 'indirect', TABLE);
    view.setUint16(queue.descArea - RAM_BASE + 12, 4 | 2, true);
    kick(0);
    expect(segmentsOf(device.held[0]!)).toEqual(SEGMENTS);
  });
});

describe('Only a packed ring — virtio 1.2, 2.8', () => {
  it('other flags in a table are ignored (2.8.7)', () => {
    const { device, queue, kick, view } = boardWith(RING_PACKED | INDIRECT_DESC);
    queue.offer(SEGMENTS, 'indirect', TABLE);
    view.setUint16(TABLE - RAM_BASE + 14, 0xff5d, true);
    kick(0);
    expect(segmentsOf(device.held[0]!)).toEqual(SEGMENTS);
  });

  it('a table in a list breaks the queue (2.8.5: lists are of one kind)', () => {
    const { device, queue, kick, read, view } = boardWith(RING_PACKED | INDIRECT_DESC);
    queue.offer([SEGMENTS[0]!, { at: TABLE, len: 16, write: false }], 'direct', 0);
    const at = queue.descArea - RAM_BASE + 16 + 14;
    view.setUint16(at, view.getUint16(at, true) | 4, true);
    kick(0);
    expect(device.held).toEqual([]);
    expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  it('a list longer than the ring breaks the queue', () => {
    const { device, queue, kick, read, view } = boardWith(RING_PACKED, 2);
    queue.offer(SEGMENTS.slice(0, 2), 'direct', 0);
    const at = queue.descArea - RAM_BASE + 16 + 14;
    view.setUint16(at, view.getUint16(at, true) | 1, true);
    kick(0);
    expect(device.held).toEqual([]);
    expect(read(STATUS) & NEEDS_RESET).toBe(NEEDS_RESET);
  });

  it('a ring of zeroes has nothing available', () => {
    const { device, kick, read } = boardWith(RING_PACKED);
    kick(0);
    expect(device.held).toEqual([]);
    expect(read(STATUS) & NEEDS_RESET).toBe(0);
  });

  it('a used descriptor has WRITE where the device wrote, and not where it did not (2.8.4)', () => {
    const { device, queue, kick, view } = boardWith(RING_PACKED);
    queue.offer([SEGMENTS[2]!], 'direct', 0);
    queue.offer([SEGMENTS[2]!], 'direct', 0);
    kick(0);
    const flags = (i: number) => view.getUint16(queue.descArea - RAM_BASE + 16 * i + 14, true);
    device.transport.queue(0).put(device.held[0]!, 4);
    device.transport.queue(0).put(device.held[1]!, 0);
    expect([flags(0), flags(1)]).toEqual([0x8082, 0x8080]);
  });
});

for (const { name, packed } of FORMATS)
  describe(`Notification suppression in a ${name} ring — virtio 1.2, 2.7.7, 2.7.10, 2.8.10`, () => {
    const rounds = (features: bigint, when: 'never' | 'always' | 'next') => {
      const { device, queue, kick, irq, write } = boardWith(packed | features);
      const seen: boolean[] = [];
      queue.interrupts(when);
      for (let i = 0; i < 4; i++) queue.offer([SEGMENTS[2]!], 'direct', 0);
      kick(0);
      for (const chain of device.held) {
        device.transport.queue(0).put(chain, 1);
        seen.push(irq.level);
        write(0x064, 1);
      }
      return seen;
    };
    for (const { fact, features, when, seen } of [
      {
        fact: 'every used buffer interrupts',
        features: 0n,
        when: 'always',
        seen: [true, true, true, true],
      },
      {
        fact: 'none does where the driver says so',
        features: 0n,
        when: 'never',
        seen: [false, false, false, false],
      },
      {
        fact: 'with an event index only the one it names',
        features: EVENT_IDX,
        when: 'next',
        seen: [true, false, false, false],
      },
      {
        fact: 'with an event index it can name one far away',
        features: EVENT_IDX,
        when: 'never',
        seen: [false, false, false, false],
      },
    ] as const)
      it(fact, () => expect(rounds(features, when)).toEqual(seen));

    it('the device asks for the next buffer when it finds no more: with event indices one kick is enough', () => {
      const { device, queue, kick } = boardWith(packed | EVENT_IDX);
      const kicks: boolean[] = [];
      for (let i = 0; i < 3; i++) {
        queue.offer([SEGMENTS[0]!], 'direct', 0);
        kicks.push(queue.mustKick());
      }
      kick(0);
      expect(device.held.length).toBe(3);
      queue.offer([SEGMENTS[0]!], 'direct', 0);
      kicks.push(queue.mustKick());
      expect(kicks).toEqual([true, false, false, true]);
    });
  });
