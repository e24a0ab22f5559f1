/** virtio-pmem against its specification (virtio 1.2, 5.19). */
import { describe, expect, it } from 'vitest';
import { type PmemClient, type PmemFlush, VirtioPmem } from '#devices';
import { BUFFERS, boardOf, RING_PACKED } from './support/board.ts';
import type { DriverQueue } from './support/driver.ts';

const REGION = { gpa: 0x2_0000_0000, lenBytes: 0x1234_5000 };
const F_SHMEM_REGION = 1n;

/** A device whose flushes end when the test says so. */
const pmemOf = (features = F_SHMEM_REGION) => {
  let client!: PmemClient;
  const board = boardOf(
    (port) =>
      new VirtioPmem({
        port,
        backend: {
          post: (posted) => {
            client = posted;
          },
        },
        region: REGION,
      }),
  );
  const [queue] = board.start(features, 16) as [DriverQueue];
  let next = BUFFERS;
  const offer = (type: number, reads = 4, writes = 4): number => {
    const at = next;
    next += 16;
    board.bytes(at, 16).fill(0xcc);
    board.bytes(at, 4).set([type, 0, 0, 0]);
    const segments = [
      { at, len: reads, write: false },
      { at: at + 8, len: writes, write: true },
    ].filter(({ len }) => len > 0);
    queue.offer(segments, 'direct', 0);
    board.kick(0);
    return at + 8;
  };
  const begin = (): PmemFlush => {
    const flush = client.nextFlush();
    if (flush === undefined) throw new Error('no flush waits');
    return flush;
  };
  const ret = (at: number): number[] => [...board.bytes(at, 4)];
  return { board, queue, offer, begin, ret, client: () => client };
};

const NO_ANSWER = [0xcc, 0xcc, 0xcc, 0xcc];
const FAILED = [0xff, 0xff, 0xff, 0xff];

describe('where the memory is (5.19.4, 5.19.5)', () => {
  it('by region 0, where that was negotiated; the configuration is zero then', () => {
    const { board } = pmemOf();
    board.write(0x0ac, 0);
    const [len, gpa] = [0x0b0, 0x0b8].map((at) => board.read(at) + board.read(at + 4) * 2 ** 32);
    expect([gpa, len]).toEqual([REGION.gpa, REGION.lenBytes]);
    expect([0, 4, 8, 12].map((at) => board.read(0x100 + at))).toEqual([0, 0, 0, 0]);
  });

  it('by the configuration otherwise, and again after a reset', () => {
    const { board } = pmemOf(0n);
    const read = (): number[] =>
      [0, 8].map((at) => board.read(0x100 + at) + board.read(0x104 + at) * 2 ** 32);
    expect(read()).toEqual([REGION.gpa, REGION.lenBytes]);
    const other = pmemOf().board;
    other.write(0x070, 0);
    expect(other.read(0x104)).toBe(2);
  });
});

describe('flushes (5.19.6)', () => {
  it('are answered when the backend has made everything durable, 0 or -1', () => {
    const { queue, offer, begin, ret, client } = pmemOf();
    const [first, second] = [offer(0), offer(0)];
    const flush = begin();
    const other = begin();
    expect(queue.collect()).toBeUndefined();
    client().complete(other, false);
    expect(queue.collect()?.len).toBe(4);
    client().complete(flush, true);
    expect([ret(first), ret(second)]).toEqual([[0, 0, 0, 0], FAILED]);
  });

  it('one that is made available later is another one, for the same ring formats', () => {
    const { board, queue, offer, begin, client } = pmemOf(F_SHMEM_REGION | RING_PACKED);
    offer(0);
    const flush = begin();
    offer(0);
    client().complete(flush, true);
    expect(queue.collect()?.len).toBe(4);
    expect(queue.collect()).toBeUndefined();
    expect(client().nrWaiting).toBe(1);
    expect(board.device.flushes).toBe(1);
  });

  it('another type, or half a request, fails at once', () => {
    const { queue, offer, ret } = pmemOf();
    for (const at of [offer(1), offer(0, 3)]) expect(ret(at)).toEqual(FAILED);
    expect([queue.collect()?.len, queue.collect()?.len]).toEqual([4, 4]);
  });

  it('without room for an answer the buffer goes back as it is', () => {
    const { queue, offer, ret, begin, client } = pmemOf();
    const at = offer(0, 4, 3);
    client().complete(begin(), true);
    expect(queue.collect()?.len).toBe(0);
    expect(ret(at)).toEqual(NO_ANSWER);
  });

  it('after a reset nothing is written any more', () => {
    const { board, offer, begin, ret, client } = pmemOf();
    const at = offer(0);
    const flush = begin();
    board.write(0x070, 0);
    expect(board.read(0x070)).not.toBe(0);
    client().complete(flush, true);
    expect([board.read(0x070), ret(at)]).toEqual([0, NO_ANSWER]);
  });
});
