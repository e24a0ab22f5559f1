/** virtio-balloon against its specification (virtio 1.2, 5.5). */
import { describe, expect, it } from 'vitest';
import { type BalloonClient, type BalloonJob, BALLOON_STATS, VirtioBalloon } from '#devices';
import { BUFFERS, boardOf } from './support/board.ts';
import type { DriverQueue, Segment } from './support/driver.ts';

const GUEST_PAGES = 1024;
const F_STATS = 1n << 1n;
const F_PAGE_POISON = 1n << 4n;
const F_PAGE_REPORTING = 1n << 5n;
const INFLATE = 0;
const DEFLATE = 1;
const STATS = 2;
const REPORTING = 4;

/** A balloon whose jobs end when the test says so. */
const balloonOf = (features = F_STATS | F_PAGE_REPORTING) => {
  let client!: BalloonClient;
  const board = boardOf(
    (port) =>
      new VirtioBalloon({
        port,
        guestPages: GUEST_PAGES,
        backend: {
          post: (posted) => {
            client = posted;
          },
        },
      }),
  );
  const queues = board.start(features, 16, 16, 16, 16, 16);
  const queue = (index: number): DriverQueue => queues[index]!;
  const offer = (index: number, ...segments: Segment[]): void => {
    queue(index).offer(segments, 'direct', 0);
    board.kick(index);
  };
  /** A buffer of bytes for the device to read. */
  const send = (index: number, bytes: Uint8Array): void => {
    board.bytes(BUFFERS, bytes.length).set(bytes);
    offer(index, { at: BUFFERS, len: bytes.length, write: false });
  };
  const sendNumbers = (index: number, ...numbers: number[]): void =>
    send(index, new Uint8Array(Uint32Array.from(numbers).buffer));
  const begin = (): BalloonJob => {
    const job = client.nextJob();
    if (job === undefined) throw new Error('no job waits');
    return job;
  };
  return {
    board,
    device: board.device,
    queue,
    offer,
    send,
    sendNumbers,
    begin,
    client: () => client,
  };
};

const stat = (tag: number, value: number): number[] => {
  const bytes = new DataView(new ArrayBuffer(10));
  bytes.setUint16(0, tag, true);
  bytes.setBigUint64(2, BigInt(value), true);
  return [...new Uint8Array(bytes.buffer)];
};

describe('inflating and deflating (5.5.6)', () => {
  it('a change of num_pages is a configuration change', () => {
    const { board, device } = balloonOf();
    const generation = board.read(0x0fc);
    device.setTarget(77);
    expect(board.read(0x100)).toBe(77);
    expect(board.read(0x060) & 2).toBe(2);
    expect(board.read(0x0fc)).not.toBe(generation);
  });

  it('pages are given up in runs, and the buffer is used afterwards', () => {
    const { queue, sendNumbers, begin, client, device } = balloonOf();
    sendNumbers(INFLATE, 0x80000, 0x80001, 0x80005, 0x80004, 0x80003, 0x80010);
    const job = begin();
    expect(job.ranges).toEqual([
      { gpa: 0x8000_0000, lenBytes: 0x2000 },
      { gpa: 0x8000_3000, lenBytes: 0x3000 },
      { gpa: 0x8001_0000, lenBytes: 0x1000 },
    ]);
    expect(queue(INFLATE).collect()).toBeUndefined();
    client().complete(job);
    expect(queue(INFLATE).collect()?.len).toBe(0);
    expect(device.inflated).toBe(6);
  });

  it('one buffer names no more pages than the guest has', () => {
    const { sendNumbers, begin } = balloonOf();
    sendNumbers(INFLATE, ...Array.from({ length: GUEST_PAGES + 100 }, (_, i) => i));
    expect(begin().ranges).toEqual([{ gpa: 0, lenBytes: GUEST_PAGES * 4096 }]);
  });

  it('what is taken back asks nothing of the host', () => {
    const { queue, sendNumbers, device } = balloonOf();
    sendNumbers(DEFLATE, 1, 2, 3);
    expect(queue(DEFLATE).collect()?.len).toBe(0);
    expect(device.deflated).toBe(3);
  });

  it('`actual` is what the driver says, byte by byte if it likes; num_pages is not its to write', () => {
    const { board, device } = balloonOf();
    board.write(0x104, 0x1234);
    expect(device.actual).toBe(0x1234);
    board.mmio.write(0x105, 1, 0xab);
    expect(device.actual).toBe(0xab34);
    board.write(0x100, 99);
    expect(device.target).toBe(0);
  });
});

describe('free page reporting (5.5.6.7)', () => {
  it('whole pages of each buffer are given up', () => {
    const { offer, begin, client, queue, device } = balloonOf();
    offer(
      REPORTING,
      { at: 0x8000_1000, len: 0x3000, write: true },
      { at: 0x8001_0800, len: 0x2000, write: true },
      { at: 0x8002_0000, len: 0xfff, write: true },
    );
    const job = begin();
    expect(job.ranges).toEqual([
      { gpa: 0x8000_1000, lenBytes: 0x3000 },
      { gpa: 0x8001_1000, lenBytes: 0x1000 },
    ]);
    client().complete(job);
    expect(queue(REPORTING).collect()).toBeDefined();
    expect(device.reported).toBe(4);
  });

  it('a driver that leaves the queue of hints out finds reporting in its place', () => {
    const { offer, begin } = balloonOf();
    offer(REPORTING - 1, { at: 0x8000_0000, len: 0x1000, write: true });
    expect(begin().ranges).toHaveLength(1);
  });

  it('pages that hold a poison value keep it: nothing is given up (5.5.6.7.2)', () => {
    const { board, offer, queue, client } = balloonOf(F_PAGE_REPORTING | F_PAGE_POISON);
    board.write(0x10c, 0xaaaa_aaaa);
    offer(REPORTING, { at: 0x8000_0000, len: 0x1000, write: true });
    expect(queue(REPORTING).collect()).toBeDefined();
    expect(client()?.nrWaiting ?? 0).toBe(0);
    board.write(0x10c, 0);
    offer(REPORTING, { at: 0x8000_0000, len: 0x1000, write: true });
    expect(client().nrWaiting).toBe(1);
  });
});

describe('statistics (5.5.6.3)', () => {
  it('the buffer is kept until news are wanted; tags that nobody knows are passed over', () => {
    const { send, queue, device } = balloonOf();
    send(STATS, Uint8Array.from([...stat(5, 2 ** 40 + 3), ...stat(99, 1), ...stat(4, 4096), 1, 2]));
    const told = Object.fromEntries(BALLOON_STATS.map((name, tag) => [name, device.stats[tag]]));
    expect(told).toMatchObject({ total: 2 ** 40 + 3, free: 4096, swapIn: -1 });
    expect(queue(STATS).collect()).toBeUndefined();
    device.askForStats();
    expect(queue(STATS).collect()?.len).toBe(0);
    send(STATS, Uint8Array.from(stat(4, 8192)));
    expect(device.stats[4]).toBe(8192);
  });

  it('news that are wanted before there is a buffer come with the first one', () => {
    const { send, queue, device } = balloonOf();
    device.askForStats();
    send(STATS, Uint8Array.from(stat(0, 1)));
    expect(queue(STATS).collect()).toBeDefined();
  });

  it('of two buffers the older goes back', () => {
    const { send, queue } = balloonOf();
    send(STATS, Uint8Array.from(stat(0, 1)));
    send(STATS, Uint8Array.from(stat(0, 2)));
    expect(queue(STATS).collect()).toBeDefined();
    expect(queue(STATS).collect()).toBeUndefined();
  });
});

it('a saved balloon goes on where it was', () => {
  const { board, sendNumbers, send, device } = balloonOf();
  device.setTarget(5);
  send(STATS, Uint8Array.from(stat(4, 77)));
  sendNumbers(INFLATE, 0x80000);
  const saved = structuredClone({ balloon: device.save(), mmio: board.mmio.save() });
  let posted = 0;
  const again = boardOf(
    (port) =>
      new VirtioBalloon({ port, guestPages: GUEST_PAGES, backend: { post: () => posted++ } }),
  );
  again.mmio.restore(saved.mmio);
  again.device.restore(saved.balloon);
  expect([again.device.target, again.device.stats[4], posted]).toEqual([5, 77, 1]);
  expect(again.device.nextJob()?.ranges).toEqual([{ gpa: 0x8000_0000, lenBytes: 0x1000 }]);
});
