/** The RDMA NIC's work requests: what its specification says of each, and of its end (devices/rdma/). */
import { describe, expect, it } from 'vitest';
import { type DmaPort, PersistDomain } from '#emu';
import {
  ACCESS,
  ALL,
  arm,
  createConnected,
  EVENT,
  FLAG,
  OP,
  PAGE,
  pattern,
  piece,
  poll,
  post,
  postRecv,
  prepare,
  ring,
  same,
  STATE,
  WC,
} from './pair.ts';

type Board = ReturnType<typeof createConnected>;

/** What a completion says when all is well. */
const ok = (id: number, op: number, len: number) => ({ id, status: WC.ok, op, len });

const word64 = ({ memory }: Board, at: number): bigint =>
  new DataView(memory.readBytes(at, 8).buffer).getBigUint64(0, true);

const put64 = ({ memory }: Board, at: number, value: bigint): void => {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value, true);
  memory.writeBytes(at, bytes);
};

describe('send and receive', () => {
  it('a message goes into the pieces of the receive request, and both ends hear of it', () => {
    const { a, b, memory, settle } = createConnected();
    memory.writeBytes(a.at, pattern(5000));
    postRecv(b.qp, 77, piece(b, 0, 100), piece(b, 9000, 6000));
    post(a.qp, { id: 5, op: OP.send, pieces: [piece(a, 0, 4000), piece(a, 4000, 1000)] });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(5, 0, 5000)]);
    expect(poll(b.qp)).toMatchObject([{ ...ok(77, 128, 5000), withImm: false }]);
    expect(same(memory.readBytes(b.at, 100), pattern(5000).subarray(0, 100))).toBe(true);
    expect(same(memory.readBytes(b.at + 9000, 4900), pattern(5000).subarray(100))).toBe(true);
  });

  it('inline data needs no region', () => {
    const { a, b, memory, settle } = createConnected();
    postRecv(b.qp, 1, piece(b, 0, 64));
    post(a.qp, { op: OP.send, inline: pattern(17) });
    settle();
    expect(poll(b.qp)).toMatchObject([{ len: 17 }]);
    expect([...memory.readBytes(b.at, 18)]).toEqual([...pattern(17), 0]);
  });

  it('immediate data comes with the completion', () => {
    const { a, b, settle } = createConnected();
    postRecv(b.qp, 1);
    post(a.qp, { op: OP.sendImm, imm: 0x1234_5678 });
    settle();
    expect(poll(b.qp)).toMatchObject([{ ...ok(1, 128, 0), withImm: true, imm: 0x1234_5678 }]);
  });

  it('messages arrive in the order of the queue, each in the next receive request', () => {
    const { a, b, settle } = createConnected();
    for (let i = 0; i < 8; i++) postRecv(b.qp, 100 + i, piece(b, i * PAGE, PAGE));
    for (let i = 0; i < 8; i++) prepare(a.qp, { op: OP.send, pieces: [piece(a, 0, 10 + i)] });
    ring(a.qp);
    settle();
    expect(poll(b.qp).map(({ id, len }) => [id, len])).toEqual(
      [...Array(8).keys()].map((i) => [100 + i, 10 + i]),
    );
  });

  it('only signaled requests have completions', () => {
    const { a, b, settle } = createConnected();
    postRecv(b.qp, 1);
    postRecv(b.qp, 2);
    post(a.qp, { id: 1, op: OP.send, flags: 0 });
    post(a.qp, { id: 2, op: OP.send });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(2, 0, 0)]);
  });

  it('more than the receive request has room for: both ends are told, and both stop', () => {
    const { a, b, settle } = createConnected();
    postRecv(b.qp, 1, piece(b, 0, 100));
    post(a.qp, { op: OP.send, pieces: [piece(a, 0, 101)] });
    settle();
    expect(poll(b.qp)).toMatchObject([{ id: 1, status: WC.length }]);
    expect(poll(a.qp)).toMatchObject([{ status: WC.remoteInvalid }]);
    expect([a.host.state(a.qp), b.host.state(b.qp)]).toEqual([STATE.error, STATE.error]);
    expect(b.host.events()).toContainEqual([EVENT.request, b.qp.qpn]);
  });
});

describe('RDMA write and read', () => {
  it('move bytes without the other end’s knowing', () => {
    const { a, b, memory, settle } = createConnected();
    memory.writeBytes(a.at, pattern(50_000));
    const remote = { remote: b.at + 77, rkey: b.rkey };
    post(a.qp, { id: 1, op: OP.write, pieces: [piece(a, 0, 50_000)], ...remote });
    post(a.qp, { id: 2, op: OP.read, pieces: [piece(a, 100_000, 50_000)], ...remote });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(1, 1, 50_000), ok(2, 2, 50_000)]);
    expect(poll(b.qp)).toEqual([]);
    expect(same(memory.readBytes(b.at + 77, 50_000), pattern(50_000))).toBe(true);
    expect(same(memory.readBytes(a.at + 100_000, 50_000), pattern(50_000))).toBe(true);
  });

  it('a write with immediate data takes a receive request, whose pieces it does not use', () => {
    const { a, b, memory, settle } = createConnected();
    postRecv(b.qp, 9, piece(b, 0, 10));
    post(a.qp, {
      op: OP.writeImm,
      imm: 42,
      pieces: [piece(a, 0, 3000)],
      remote: b.at + PAGE,
      rkey: b.rkey,
    });
    settle();
    expect(poll(b.qp)).toMatchObject([{ ...ok(9, 129, 3000), withImm: true, imm: 42 }]);
    expect([...memory.readBytes(b.at, 10)]).toEqual(new Array(10).fill(0));
  });

  it('regions are known by iova: the address of the bytes may be another one', () => {
    const { a, b, memory, settle } = createConnected();
    const at = b.host.pages(4);
    const { rkey } = b.host.register(at + 8, 2 * PAGE, ALL, 0x7fff_0000_0008);
    memory.writeBytes(a.at, pattern(100));
    post(a.qp, { op: OP.write, pieces: [piece(a, 0, 100)], remote: 0x7fff_0000_0100, rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.ok }]);
    expect(same(memory.readBytes(at + 0x100, 100), pattern(100))).toBe(true);
  });

  it('of nothing: no key is looked at', () => {
    const { a, settle } = createConnected();
    post(a.qp, { id: 1, op: OP.write, remote: 1, rkey: 0xdead_beef });
    post(a.qp, { id: 2, op: OP.read, remote: 1, rkey: 0xdead_beef });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(1, 1, 0), ok(2, 2, 0)]);
  });

  it('a fence: the request waits for the answers to those before it', () => {
    for (const flags of [FLAG.signaled, FLAG.signaled | FLAG.fence]) {
      const board = createConnected();
      const { a, b, settle } = board;
      put64(board, b.at, 1n);
      post(a.qp, { op: OP.read, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey });
      post(a.qp, { op: OP.send, flags, pieces: [piece(a, 0, 8)] });
      postRecv(b.qp, 1, piece(b, PAGE, 8));
      settle();
      // Without it the message was made up before the answer to the read had come.
      expect(word64(board, b.at + PAGE)).toBe((flags & FLAG.fence) !== 0 ? 1n : 0n);
    }
  });
});

describe('atomic operations on 64 bits', () => {
  it('fetch and add: what was there comes back, and carries go into the high word', () => {
    const board = createConnected();
    const { a, b, settle } = board;
    put64(board, b.at, 0xffff_ffffn);
    const remote = { remote: b.at, rkey: b.rkey };
    post(a.qp, { op: OP.add, operand: 1n, pieces: [piece(a, 0, 8)], ...remote });
    post(a.qp, { op: OP.add, operand: 2n ** 64n - 2n, pieces: [piece(a, 8, 8)], ...remote });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(0, 4, 8), ok(1, 4, 8)]);
    expect([word64(board, a.at), word64(board, a.at + 8)]).toEqual([0xffff_ffffn, 2n ** 32n]);
    expect(word64(board, b.at)).toBe(2n ** 32n - 2n);
  });

  it('compare and swap: stored only where both words are as expected', () => {
    const board = createConnected();
    const { a, b, settle } = board;
    put64(board, b.at + 8, 0x1_0000_0005n);
    const remote = { remote: b.at + 8, rkey: b.rkey };
    post(a.qp, { op: OP.swap, operand: 5n, swap: 9n, pieces: [piece(a, 0, 8)], ...remote });
    post(a.qp, {
      op: OP.swap,
      operand: 0x1_0000_0005n,
      swap: 2n ** 63n,
      pieces: [piece(a, 8, 8)],
      ...remote,
    });
    settle();
    expect([word64(board, a.at), word64(board, a.at + 8)]).toEqual([
      0x1_0000_0005n,
      0x1_0000_0005n,
    ]);
    expect(word64(board, b.at + 8)).toBe(2n ** 63n);
  });

  it('an atomic write stores 8 bytes', () => {
    const board = createConnected();
    const { a, b, settle } = board;
    put64(board, a.at, 0x1122_3344_5566_7788n);
    const remote = { remote: b.at + 16, rkey: b.rkey };
    post(a.qp, { op: OP.atomicWrite, pieces: [piece(a, 0, 8)], ...remote });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(0, 9, 8)]);
    expect(word64(board, b.at + 16)).toBe(0x1122_3344_5566_7788n);
  });

  it('both ends add to one counter: no addition is lost', () => {
    const board = createConnected({ reads: 4, answers: 4 });
    const { a, b, settle } = board;
    for (let i = 0; i < 12; i++) {
      const op = { op: OP.add, operand: 1n, remote: b.at, rkey: b.rkey };
      post(a.qp, { ...op, pieces: [piece(a, 8 * i, 8)] });
      post(b.qp, { ...op, remote: a.at + PAGE, rkey: a.rkey, pieces: [piece(b, PAGE + 8 * i, 8)] });
    }
    settle();
    expect([word64(board, b.at), word64(board, a.at + PAGE)]).toEqual([12n, 12n]);
    const seen = [...Array(12).keys()].map((i) => word64(board, a.at + 8 * i));
    expect(seen).toEqual([...Array(12).keys()].map(BigInt));
  });

  for (const { what, remote, status } of [
    { what: 'a place that is not aligned', remote: 4, status: WC.remoteInvalid },
    { what: 'a place outside the region', remote: 64 * PAGE, status: WC.remoteAccess },
  ])
    it(`${what} is refused`, () => {
      const { a, b, settle } = createConnected();
      post(a.qp, { op: OP.add, pieces: [piece(a, 0, 8)], remote: b.at + remote, rkey: b.rkey });
      settle();
      expect(poll(a.qp)).toMatchObject([{ status }]);
    });
});

describe('flush', () => {
  const persistent = () => {
    const flushed: [number, number][] = [];
    const persistence = {
      covers: () => true,
      persist: (offset: number, lenBytes: number) => void flushed.push([offset, lenBytes]),
    };
    const board = createConnected({ access: ALL | ACCESS.flush | ACCESS.persist }, { persistence });
    const rights = ALL | ACCESS.flush | ACCESS.persist;
    return { ...board, flushed, rkey: board.b.host.register(board.b.at, 4 * PAGE, rights).rkey };
  };

  it('for power to fail brings exactly the bytes named to where they survive', () => {
    const { a, b, memory, settle, flushed, rkey } = persistent();
    post(a.qp, { op: OP.flush, flush: 2, flushBytes: 100, remote: b.at + PAGE - 50, rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([ok(0, 8, 100)]);
    const first = memory.offsetOf(b.at);
    expect(flushed).toEqual([
      [first + PAGE - 50, 50],
      [first + PAGE, 50],
    ]);
  });

  it('comes after the writes before it, and its completion after theirs', () => {
    const { a, b, memory, settle, flushed, rkey } = persistent();
    memory.writeBytes(a.at, pattern(3000));
    post(a.qp, { id: 1, op: OP.write, pieces: [piece(a, 0, 3000)], remote: b.at, rkey });
    post(a.qp, { id: 2, op: OP.flush, flush: 0x102, remote: b.at, rkey });
    settle();
    expect(poll(a.qp).map(({ id }) => id)).toEqual([1, 2]);
    expect(flushed.reduce((sum, [, n]) => sum + n, 0)).toBe(4 * PAGE);
  });

  it('over a persistence domain: what was flushed is on the media, what was only written is not', () => {
    const rights = ALL | ACCESS.persist;
    const { a, b, memory, settle } = createConnected({ access: rights });
    const firstOffset = memory.offsetOf(b.at);
    const domain = new PersistDomain({ memory, firstOffset, lenBytes: 4 * PAGE, mode: 'adr' });
    const { rkey } = b.host.register(b.at, 4 * PAGE, rights);
    memory.writeBytes(a.at, pattern(200));
    for (const at of [0, PAGE])
      post(a.qp, { op: OP.write, pieces: [piece(a, 0, 200)], remote: b.at + at, rkey });
    post(a.qp, { op: OP.flush, flush: 2, flushBytes: 200, remote: b.at, rkey });
    settle();
    expect(poll(a.qp).map(({ status }) => status)).toEqual([WC.ok, WC.ok, WC.ok]);
    expect(same(domain.media.subarray(0, 200), pattern(200))).toBe(true);
    expect(same(domain.media.subarray(PAGE, PAGE + 200), new Uint8Array(200))).toBe(true);
    // Half of it would be of memory that forgets.
    expect(() => b.host.register(b.at + 3 * PAGE, 2 * PAGE, rights)).toThrow('errno 22');
    // Memory that cannot be read any more.
    domain.addPoison(2 * PAGE, 256);
    const local = { op: OP.read, pieces: [piece(a, 0, 8)] };
    post(a.qp, { ...local, remote: b.at + 2 * PAGE - 8, rkey });
    post(a.qp, { ...local, remote: b.at + 2 * PAGE, rkey });
    settle();
    expect(poll(a.qp).map(({ status }) => status)).toEqual([WC.ok, WC.remoteOp]);
    domain.detach();
  });

  it('needs the right, of the region and of the queue pair', () => {
    const { a, b, settle } = createConnected();
    post(a.qp, { op: OP.flush, flush: 1, flushBytes: 8, remote: b.at, rkey: b.rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.remoteAccess }]);
  });

  it('memory that forgets without power cannot promise it: the region is EINVAL', () => {
    const { a } = createConnected();
    expect(() => a.host.register(a.at, PAGE, ACCESS.persist)).toThrow('errno 22');
  });
});

describe('what is refused', () => {
  const write = (board: Board, over: Partial<Parameters<typeof post>[1]> = {}) => {
    const { a, b, settle } = board;
    post(a.qp, { op: OP.write, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey, ...over });
    settle();
    return poll(a.qp).map(({ status }) => status);
  };

  for (const { what, over } of [
    { what: 'a key of nothing', over: { rkey: 0x7fff_ff00 } },
    { what: 'bytes before the region', over: { remote: 0x8000_0000 } },
    { what: 'an address beyond 2^53', over: { remote: 2 ** 60 } },
  ])
    it(`${what}: the other end says so, and tells its driver`, () => {
      const board = createConnected();
      expect(write(board, over)).toEqual([WC.remoteAccess]);
      expect(board.b.host.events()).toContainEqual([EVENT.access, board.b.qp.qpn]);
      expect(board.b.host.state(board.b.qp)).toBe(STATE.error);
    });

  it('one byte beyond the region, and not the last one in it', () => {
    const board = createConnected();
    const last = board.b.at + 64 * PAGE - 8;
    expect(write(board, { remote: last })).toEqual([WC.ok]);
    expect(write(board, { remote: last + 1 })).toEqual([WC.remoteAccess]);
  });

  it('a region of another protection domain', () => {
    const board = createConnected();
    const { host, at } = board.b;
    const [other] = host.must(1);
    const [, rkey] = host.must(3, other, ALL, at, 0, at, 0, PAGE, 0);
    expect(write(board, { rkey })).toEqual([WC.remoteAccess]);
  });

  for (const { right, op } of [
    { right: ACCESS.write, op: OP.write },
    { right: ACCESS.read, op: OP.read },
    { right: ACCESS.atomic, op: OP.add },
  ]) {
    it(`a right that the region does not give: opcode ${op}`, () => {
      const board = createConnected();
      const { rkey } = board.b.host.register(board.b.at, PAGE, ALL & ~right);
      expect(write(board, { op, rkey })).toEqual([WC.remoteAccess]);
    });
    it(`a right that the queue pair does not give: opcode ${op}`, () => {
      const board = createConnected({ access: ALL & ~right });
      expect(write(board, { op })).toEqual([WC.remoteAccess]);
    });
  }

  it('a piece whose key is wrong, here: nothing is sent, and what went before still succeeds', () => {
    const board = createConnected();
    const { a, b, settle } = board;
    const good = { op: OP.write, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey };
    post(a.qp, { id: 1, ...good });
    post(a.qp, { id: 2, ...good, pieces: [{ ...piece(a, 0, 8), key: 0x123 }] });
    post(a.qp, { id: 3, ...good });
    settle();
    expect(poll(a.qp).map(({ id, status }) => [id, status])).toEqual([
      [1, WC.ok],
      [2, WC.protection],
      [3, WC.flushed],
    ]);
    expect(b.host.state(b.qp)).toBe(STATE.rts);
  });

  it('reading into a region that this end’s NIC may only read', () => {
    const board = createConnected();
    const { lkey } = board.a.host.register(board.a.at, PAGE, ACCESS.read);
    const pieces = [{ at: board.a.at, len: 8, key: lkey }];
    expect(write(board, { op: OP.read, pieces })).toEqual([WC.protection]);
  });

  for (const { what, over, status } of [
    { what: 'an opcode that there is not', over: { op: 13 }, status: WC.badRequest },
    { what: 'a flag that there is not', over: { flags: 0x11 }, status: WC.badRequest },
    {
      what: 'an atomic operation of 4 bytes',
      over: { op: OP.add, pieces: [] },
      status: WC.badRequest,
    },
    {
      what: 'more than 16 MiB',
      over: { pieces: [{ at: 0, len: 2 ** 24 + 1, key: 0 }] },
      status: WC.length,
    },
  ])
    it(`${what}: the request fails here`, () => {
      const board = createConnected();
      expect(write(board, over)).toEqual([status]);
      expect(board.a.host.state(board.a.qp)).toBe(STATE.error);
    });
});

describe('regions', () => {
  it('a key reaches nothing from DEREG_MR on, and the next region of its number has another', () => {
    const { a, b, settle } = createConnected();
    expect(b.host.deregister(b.rkey)).toBe(0);
    const again = b.host.register(b.at, PAGE);
    expect(again.rkey >>> 8).toBe(b.rkey >>> 8);
    expect(again.rkey).not.toBe(b.rkey);
    post(a.qp, { op: OP.write, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.remoteAccess }]);
  });

  it('one without rights for the other end has no rkey', () => {
    const { a } = createConnected();
    expect(a.host.register(a.at, PAGE, ACCESS.local).rkey).toBe(0);
  });

  it('one that goes while it is being read: the rest is refused', () => {
    const { a, b, clock, settle } = createConnected({ mtuShift: 8 });
    const remote = { remote: b.at, rkey: b.rkey };
    post(a.qp, { op: OP.read, pieces: [piece(a, 0, 60_000)], ...remote });
    for (let i = 0; i < 20; i++) {
      clock.now = clock.nextAt;
      clock.deliverDue();
    }
    b.host.deregister(b.rkey);
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.remoteOp }]);
  });
});

describe('completion queues', () => {
  it('interrupt once when they are armed, and not before they are armed again', () => {
    const { a, b, settle } = createConnected();
    const send = (): void => {
      postRecv(b.qp, 1);
      post(a.qp, { op: OP.send });
      settle();
    };
    send();
    expect(b.host.irq.level).toBe(false);
    arm(b.qp);
    send();
    expect([b.host.irq.level, b.host.read(0x10), b.host.read(0x18)]).toEqual([true, 2, 1]);
    b.host.write(0x18, 1);
    expect(b.host.irq.level).toBe(false);
    send();
    expect(b.host.irq.level).toBe(false);
    expect(poll(b.qp)).toHaveLength(3);
  });

  it('armed for solicited completions they wait for one, or for an error', () => {
    const { a, b, settle } = createConnected();
    for (const flags of [FLAG.signaled, FLAG.signaled | FLAG.solicited]) {
      arm(b.qp, true);
      postRecv(b.qp, 1);
      post(a.qp, { op: OP.send, flags });
      settle();
      expect(b.host.read(0x18)).toBe((flags & FLAG.solicited) !== 0 ? 1 : 0);
    }
  });

  it('that are full are broken: an event, and their queue pairs stop', () => {
    const { a, b, settle } = createConnected({ cqShift: 2 });
    for (let i = 0; i < 5; i++) {
      postRecv(b.qp, i);
      post(a.qp, { op: OP.send, flags: 0 });
    }
    settle();
    expect(b.host.events()).toContainEqual([EVENT.cq, b.qp.cqn]);
    expect(b.host.state(b.qp)).toBe(STATE.error);
    expect(poll(b.qp)).toHaveLength(4);
  });

  it('go round: the phase bit turns with every pass', () => {
    const { a, b, settle } = createConnected({ cqShift: 2 });
    for (let i = 0; i < 11; i++) {
      postRecv(b.qp, i);
      post(a.qp, { op: OP.send, flags: 0 });
      settle();
      expect(poll(b.qp)).toMatchObject([{ id: i }]);
    }
  });
});

describe('memory that is late', () => {
  /** A port of which every access has to wait once. */
  const lazy = (memory: DmaPort): DmaPort & { tell(): void } => {
    let asked = '';
    let listener = (): void => {};
    const late = (what: string): boolean => {
      const first = asked !== what;
      asked = first ? what : '';
      return first;
    };
    return {
      read: (at, into, from, n) => (late(`r${at}`) ? -2 : memory.read(at, into, from, n)),
      write: (at, from, n, len) => (late(`w${at}`) ? -2 : memory.write(at, from, n, len)),
      atomicAdd32: () => undefined,
      translate: () => -1,
      onReady: (tell) => {
        listener = tell;
      },
      tell: () => listener(),
    };
  };

  it('queues: every request is read once, and has one completion', () => {
    const ports: ReturnType<typeof lazy>[] = [];
    const board = createConnected(
      {},
      {
        port: (port) => {
          ports.push(lazy(port));
          return ports[ports.length - 1] ?? port;
        },
      },
    );
    const { a, b, settle } = board;
    for (let i = 0; i < 6; i++) postRecv(b.qp, i, piece(b, PAGE * i, PAGE));
    for (let i = 0; i < 6; i++) prepare(a.qp, { op: OP.send, pieces: [piece(a, 0, 2000 + i)] });
    ring(a.qp);
    for (let i = 0; i < 60; i++) {
      settle(2000);
      for (const port of ports) port.tell();
    }
    expect(poll(a.qp).map(({ id, status }) => [id, status])).toEqual(
      [...Array(6).keys()].map((i) => [i, WC.ok]),
    );
    expect(poll(b.qp).map(({ id, len }) => [id, len])).toEqual(
      [...Array(6).keys()].map((i) => [i, 2000 + i]),
    );
    expect(b.host.read(0x90)).toBeGreaterThan(6);
  });
});
