/** virtio-blk against its specification (virtio 1.2, 5.2), over a backend that ends requests when it is told. */
import { describe, expect, it } from 'vitest';
import { type BlkBackend, type BlkClient, type BlkRequest, VirtioBlk } from '#devices';
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { rng } from '../../support/rng.ts';
import { BUFFERS, boardOf, RING_PACKED } from './support/board.ts';
import type { DriverQueue, Segment } from './support/driver.ts';

const SECTORS = 128;
const F_RO = 1n << 5n;
const F_FLUSH = 1n << 9n;
const F_CONFIG_WCE = 1n << 11n;
const F_DISCARD = 1n << 13n;
const F_WRITE_ZEROES = 1n << 14n;
const ALL = F_FLUSH | F_CONFIG_WCE | F_DISCARD | F_WRITE_ZEROES;

const IN = 0;
const OUT = 1;
const FLUSH = 4;
const GET_ID = 8;
const DISCARD = 11;
const WRITE_ZEROES = 13;

const OK = 0;
const IOERR = 1;
const UNSUPP = 2;

/** A disk of bytes. */
class ByteDisk implements BlkBackend {
  readonly nrSectors = SECTORS;
  readonly readOnly: boolean;
  readonly serial = 'a disk of bytes';
  readonly bytes = new Uint8Array(SECTORS * 512);
  readonly log: string[] = [];
  readonly held: BlkRequest[] = [];
  /** Requests end at once, or when finish() says so. */
  atOnce = true;
  client!: BlkClient;
  private readonly port: DmaPort;

  constructor(port: DmaPort, readOnly = false) {
    this.port = port;
    this.readOnly = readOnly;
  }

  post(client: BlkClient): void {
    this.client = client;
    for (let r = client.nextRequest(); r !== undefined; r = client.nextRequest()) {
      this.log.push(r.durable ? `${r.op} durable` : r.op);
      this.held.push(r);
      if (this.atOnce) this.finish();
    }
  }

  /** Ends the nth of the requests that are under way. */
  finish(nth = 0): void {
    const [request] = this.held.splice(nth, 1);
    if (request === undefined) throw new Error('nothing is under way');
    this.client.complete(request, request.void || this.move(request) ? OK : IOERR);
  }

  private move({ op, sector, pieces, ranges }: BlkRequest): boolean {
    for (const range of ranges)
      this.bytes.fill(0, range.sector * 512, (range.sector + range.nrSectors) * 512);
    let at = sector * 512;
    for (const { address, lenBytes } of pieces) {
      const result =
        op === 'read'
          ? this.port.write(address, this.bytes, at, lenBytes)
          : this.port.read(address, this.bytes, at, lenBytes);
      if (result !== DMA_OK) return false;
      at += lenBytes;
    }
    return true;
  }
}

interface Options {
  features?: bigint;
  readOnly?: boolean;
  nrQueues?: number;
  through?: (port: DmaPort) => DmaPort;
}

/** A disk whose driver is up. */
const diskOf = (options: Options = {}) => {
  const { features = ALL, readOnly = false, nrQueues = 1, through } = options;
  let backend!: ByteDisk;
  const board = boardOf(
    (port) => {
      backend = new ByteDisk(port, readOnly);
      return new VirtioBlk({ port, backend, nrQueues });
    },
    through === undefined ? {} : { through },
  );
  const [queue] = board.start(features, 16) as [DriverQueue];
  let room = BUFFERS;
  const place = (bytes: Uint8Array): number => {
    const at = room;
    room += bytes.length;
    board.bytes(at, bytes.length).set(bytes);
    return at;
  };
  const header = (type: number, sector: number): Uint8Array => {
    const bytes = new Uint8Array(16);
    const view = new DataView(bytes.buffer);
    view.setUint32(0, type, true);
    view.setBigUint64(8, BigInt(sector), true);
    return bytes;
  };
  /** Makes a request available: its data in pieces. Where its parts are. */
  const offer = (
    type: number,
    sector: number,
    data: readonly Uint8Array[] = [],
    deviceWrites = false,
  ) => {
    room = BUFFERS + ((room - BUFFERS) % 0x10_0000);
    const pieces = data.map((bytes): Segment => {
      return { at: place(bytes), len: bytes.length, write: deviceWrites };
    });
    const status = place(Uint8Array.of(0xee));
    const key = queue.offer(
      [
        { at: place(header(type, sector)), len: 16, write: false },
        ...pieces,
        { at: status, len: 1, write: true },
      ],
      'direct',
      0,
    );
    if (key === undefined) throw new Error('the ring is full');
    board.kick(0);
    return { key, status, pieces };
  };
  /** A request from begin to end. Its status, and what the data holds then. */
  const request = (
    type: number,
    sector: number,
    data: readonly Uint8Array[] = [],
    deviceWrites = false,
  ) => {
    const { status, pieces } = offer(type, sector, data, deviceWrites);
    const used = queue.collect();
    const bytes = pieces.map(({ at, len }) => board.bytes(at, len).slice());
    return { status: board.bytes(status, 1)[0], len: used?.len, bytes };
  };
  return { board, backend, queue, offer, request };
};

const rangesOf = (...ranges: [sector: number, nr: number, flags: number][]): Uint8Array => {
  const bytes = new Uint8Array(16 * ranges.length);
  const view = new DataView(bytes.buffer);
  ranges.forEach(([sector, nr, flags], i) => {
    view.setBigUint64(16 * i, BigInt(sector), true);
    view.setUint32(16 * i + 8, nr, true);
    view.setUint32(16 * i + 12, flags, true);
  });
  return bytes;
};

const pattern = (seed: number, len: number): Uint8Array =>
  Uint8Array.from({ length: len }, (_, i) => seed + i * 7 + (i >> 8));

describe('what a driver finds (5.2.3, 5.2.4)', () => {
  it('capacity in sectors, block sizes, limits of discard and write zeroes', () => {
    const { board } = diskOf();
    const config = (offset: number): number => board.read(0x100 + offset);
    expect([config(0), config(4)]).toEqual([SECTORS, 0]);
    expect(config(20)).toBe(512);
    expect(board.mmio.read(0x100 + 24, 1)).toBe(3);
    expect(config(36)).toBeGreaterThan(0);
    expect(config(40)).toBe(32);
    expect(board.mmio.read(0x100 + 56, 1)).toBe(1);
  });

  it('a read-only disk says so, and offers nothing that writes', () => {
    const offered = boardOf(
      (port) => new VirtioBlk({ port, backend: new ByteDisk(port, true) }),
    ).offered();
    expect(offered & (F_RO | F_FLUSH)).toBe(F_RO | F_FLUSH);
    expect(offered & (F_DISCARD | F_WRITE_ZEROES)).toBe(0n);
  });

  it('several queues are told in num_queues, and each is served', () => {
    const board = boardOf(
      (port) => new VirtioBlk({ port, backend: new ByteDisk(port), nrQueues: 3 }),
    );
    expect(board.offered() & (1n << 12n)).not.toBe(0n);
    expect(board.mmio.read(0x100 + 34, 2)).toBe(3);
    const queues = board.start(1n << 12n, 8, 8, 8);
    queues.forEach((queue, i) => {
      const header = BUFFERS + 0x100 * i;
      board.bytes(header, 1)[0] = GET_ID;
      queue.offer(
        [
          { at: header, len: 16, write: false },
          { at: header + 32, len: 21, write: true },
        ],
        'direct',
        0,
      );
      board.kick(i);
      expect(queue.collect()?.len).toBe(21);
    });
  });
});

describe('reads and writes (5.2.6)', () => {
  for (const [name, ring] of [
    ['split', 0n],
    ['packed', RING_PACKED],
  ] as const)
    it(`data in any cut arrives, ${name} ring`, () => {
      const random = rng(5);
      const { backend, request } = diskOf({ features: ALL | ring });
      const model = new Uint8Array(SECTORS * 512);
      for (let n = 0; n < 150; n++) {
        const nr = 1 + random.below(8);
        const sector = random.below(SECTORS - nr + 1);
        const bytes = pattern(n, nr * 512);
        const cuts = [random.below(nr * 512), random.below(nr * 512)].toSorted((a, b) => a - b);
        const parts = [
          bytes.subarray(0, cuts[0]),
          bytes.subarray(cuts[0], cuts[1]),
          bytes.subarray(cuts[1]),
        ].filter((part) => part.length > 0);
        if (random.chance(0.5)) {
          expect(request(OUT, sector, parts)).toMatchObject({ status: OK, len: 1 });
          model.set(bytes, sector * 512);
        } else {
          const empty = parts.map((part) => new Uint8Array(part.length).fill(0xaa));
          const got = request(IN, sector, empty, true);
          expect(got).toMatchObject({ status: OK, len: nr * 512 + 1 });
          expect(
            Buffer.concat(got.bytes).equals(model.subarray(sector * 512, (sector + nr) * 512)),
          ).toBe(true);
        }
      }
      expect(backend.bytes).toEqual(model);
    });

  it('what is no whole sector, or behind the end, fails with IOERR and reaches no backend', () => {
    const { backend, request } = diskOf();
    const sector = new Uint8Array(512);
    for (const got of [
      request(OUT, 0, [new Uint8Array(511)]),
      request(IN, 0, [new Uint8Array(513)], true),
      request(OUT, SECTORS, [sector]),
      request(IN, SECTORS - 1, [sector, sector], true),
      request(OUT, Number(2n ** 53n), [sector]),
    ])
      expect(got.status).toBe(IOERR);
    expect(backend.log).toEqual([]);
    expect(request(OUT, SECTORS - 1, [sector]).status).toBe(OK);
  });

  it('a failed read promises nothing of its data: the length is 0', () => {
    const { request } = diskOf();
    expect(request(IN, SECTORS, [new Uint8Array(512)], true)).toMatchObject({
      status: IOERR,
      len: 0,
    });
  });

  it('a disk that may only be read fails every write with IOERR', () => {
    const { request } = diskOf({ readOnly: true, features: F_RO | F_FLUSH });
    expect(request(OUT, 0, [new Uint8Array(512)]).status).toBe(IOERR);
    expect(request(IN, 0, [new Uint8Array(512)], true).status).toBe(OK);
  });

  it('a type that nobody knows is UNSUPP, GET_ID gives 20 bytes', () => {
    const { request } = diskOf();
    expect(request(77, 0).status).toBe(UNSUPP);
    const id = request(GET_ID, 0, [new Uint8Array(20).fill(0xff)], true);
    expect(id).toMatchObject({ status: OK, len: 21 });
    expect(Buffer.from(id.bytes[0]!).toString()).toBe('a disk of bytes\0\0\0\0\0');
    const short = request(GET_ID, 0, [new Uint8Array(6)], true);
    expect(Buffer.from(short.bytes[0]!).toString()).toBe('a disk');
  });

  it('requests end in any order', () => {
    const { board, backend, queue, offer } = diskOf();
    backend.atOnce = false;
    const first = offer(OUT, 0, [pattern(1, 512)]);
    const second = offer(OUT, 1, [pattern(2, 512)]);
    backend.finish(1);
    expect(queue.collect()?.key).toBe(second.key);
    expect(queue.collect()).toBeUndefined();
    expect(board.bytes(first.status, 1)[0]).toBe(0xee);
    backend.finish();
    expect(queue.collect()?.key).toBe(first.key);
  });

  it('a buffer without room for header or status goes back as it is', () => {
    const { board, queue } = diskOf();
    for (const segments of [
      [
        { at: BUFFERS, len: 15, write: false },
        { at: BUFFERS + 32, len: 1, write: true },
      ],
      [{ at: BUFFERS, len: 16, write: false }],
    ]) {
      queue.offer(segments, 'direct', 0);
      board.kick(0);
      expect(queue.collect()?.len).toBe(0);
    }
    expect(board.read(0x070) & 64).toBe(0);
  });
});

describe('discard and write zeroes (5.2.6.2)', () => {
  it('go to the backend with their ranges', () => {
    const { backend, request } = diskOf();
    backend.bytes.fill(1);
    const ranges = rangesOf([0, 2, 1], [10, 1, 0]);
    expect(request(WRITE_ZEROES, 0, [ranges]).status).toBe(OK);
    expect(request(DISCARD, 0, [rangesOf([20, 1, 0])]).status).toBe(OK);
    const zero = [...Array(SECTORS).keys()].filter((s) => backend.bytes[s * 512] === 0);
    expect(zero).toEqual([0, 1, 10, 20]);
  });

  it('flags that nobody knows are UNSUPP, and so is `unmap` of a discard', () => {
    const { request } = diskOf();
    expect(request(WRITE_ZEROES, 0, [rangesOf([0, 1, 2])]).status).toBe(UNSUPP);
    expect(request(DISCARD, 0, [rangesOf([0, 1, 1])]).status).toBe(UNSUPP);
  });

  it('ranges behind the end, none at all, too many, or half of one are IOERR', () => {
    const { backend, request } = diskOf();
    for (const bytes of [
      rangesOf([SECTORS, 1, 0]),
      rangesOf([0, 1, 0], [SECTORS - 1, 2, 0]),
      new Uint8Array(16 * 33),
      new Uint8Array(17),
    ])
      expect(request(DISCARD, 0, [bytes]).status).toBe(IOERR);
    expect(request(DISCARD, 0).status).toBe(IOERR);
    expect(backend.log).toEqual([]);
  });

  it('are UNSUPP where they were not negotiated', () => {
    const { request } = diskOf({ features: F_FLUSH });
    expect(request(DISCARD, 0, [rangesOf([0, 1, 0])]).status).toBe(UNSUPP);
    expect(request(WRITE_ZEROES, 0, [rangesOf([0, 1, 0])]).status).toBe(UNSUPP);
  });
});

describe('the cache (5.2.5, 5.2.6.2)', () => {
  const writeback = (board: ReturnType<typeof diskOf>['board']): number =>
    board.mmio.read(0x100 + 32, 1);

  it('a driver that knows FLUSH has a write-back cache, and asks for what is to be durable', () => {
    const { board, backend, request } = diskOf();
    expect(writeback(board)).toBe(1);
    request(OUT, 0, [new Uint8Array(512)]);
    request(FLUSH, 0);
    expect(backend.log).toEqual(['write', 'flush']);
  });

  it('for one that does not, every write is durable when it completes', () => {
    for (const features of [0n, F_CONFIG_WCE]) {
      const { board, backend, request } = diskOf({ features });
      expect(writeback(board)).toBe(0);
      request(OUT, 0, [new Uint8Array(512)]);
      expect(backend.log).toEqual(['write durable']);
    }
  });

  it('CONFIG_WCE changes it, and without it the field stays', () => {
    const { board, backend, request } = diskOf();
    board.mmio.write(0x100 + 32, 1, 0);
    expect(writeback(board)).toBe(0);
    request(OUT, 0, [new Uint8Array(512)]);
    expect(backend.log).toEqual(['write durable']);
    const fixed = diskOf({ features: F_FLUSH });
    fixed.board.mmio.write(0x100 + 32, 1, 0);
    expect(writeback(fixed.board)).toBe(1);
  });
});

describe('resets and waiting', () => {
  it('a reset waits for the request under way, which then writes nothing (2.4)', () => {
    const { board, backend, offer } = diskOf();
    backend.atOnce = false;
    const { status } = offer(IN, 0, [new Uint8Array(512).fill(9)], true);
    board.write(0x070, 0);
    expect(board.read(0x070)).not.toBe(0);
    backend.finish();
    expect(board.read(0x070)).toBe(0);
    expect(board.bytes(status, 1)[0]).toBe(0xee);
  });

  it('one that nobody had begun is dropped at once', () => {
    const { board, backend, offer } = diskOf();
    backend.post = () => {};
    offer(OUT, 0, [new Uint8Array(512)]);
    board.write(0x070, 0);
    expect(board.read(0x070)).toBe(0);
    expect(board.device.nrWaiting).toBe(0);
  });

  it('memory that has to be waited for delays a request and changes nothing about it', () => {
    const random = rng(11);
    let listener = (): void => {};
    let percent = 0;
    const through = (inner: DmaPort): DmaPort => ({
      read: (a, into, at, n) =>
        random.below(100) < percent ? DMA_WAIT : inner.read(a, into, at, n),
      write: (a, from, at, n) =>
        random.below(100) < percent ? DMA_WAIT : inner.write(a, from, at, n),
      atomicAdd32: (a, d) => inner.atomicAdd32(a, d),
      translate: (a, w) => inner.translate(a, w),
      onReady: (l) => {
        listener = l;
      },
    });
    const { board, backend, queue, offer } = diskOf({ through });
    backend.atOnce = false;
    percent = 40;
    for (let n = 0; n < 60; n++) {
      const type = random.pick([OUT, DISCARD, GET_ID, 77]);
      const data =
        type === OUT
          ? [pattern(n, 512)]
          : type === DISCARD
            ? [rangesOf([0, 1, 0])]
            : [new Uint8Array(20)];
      const { status } = offer(type, 3, data, type === GET_ID);
      for (let turns = 0; queue.collect() === undefined; turns++) {
        if (turns > 500) throw new Error(`request ${n} of type ${type} never ends`);
        const request = backend.held.shift();
        if (request !== undefined) backend.client.complete(request, OK);
        listener();
      }
      expect(board.bytes(status, 1)[0]).toBe(type === 77 ? UNSUPP : OK);
    }
    expect(board.device.requests).toBe(60);
  });

  it('a saved disk goes on with the requests that waited', () => {
    const { board, backend, offer } = diskOf();
    backend.post = () => {};
    const { status } = offer(OUT, 7, [pattern(3, 512)]);
    const saved = structuredClone({ blk: board.device.save(), mmio: board.mmio.save() });
    const again = boardOf((port) => new VirtioBlk({ port, backend: new ByteDisk(port) }));
    again.bytes(0x8000_0000, 4 << 20).set(board.bytes(0x8000_0000, 4 << 20));
    again.mmio.restore(saved.mmio);
    again.device.restore(saved.blk);
    expect(again.bytes(status, 1)[0]).toBe(OK);
    expect(again.device.requests).toBe(1);
  });
});
