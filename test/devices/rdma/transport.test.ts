/**
 * The reliable connection between two RDMA NICs: what is lost comes again, nothing is done twice, and what
 * cannot be done ends. InfiniBand Architecture 1.7, 9.7.
 */
import { describe, expect, it } from 'vitest';
import { rng } from '../../support/rng.ts';
import {
  createConnected,
  EVENT,
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

type End = ReturnType<typeof createConnected>['a'];

const RETRIES = 0x88;
const NOT_READY = 0x8c;

describe('a receiver that is not ready', () => {
  it('is waited for, as long as it asks, and then gets the message once', () => {
    const { a, b, clock, settle } = createConnected({ rnrTimer: 5 });
    post(a.qp, { id: 1, op: OP.send, pieces: [piece(a, 0, 3000)] });
    settle(6_900);
    expect([poll(a.qp), a.host.read(NOT_READY)]).toEqual([[], 1]);
    postRecv(b.qp, 7, piece(b, 0, PAGE));
    // Code 5 is 0.06 ms: 6000 instructions after it was told.
    const before = clock.now;
    settle();
    expect(poll(a.qp)).toMatchObject([{ id: 1, status: WC.ok }]);
    expect(clock.now - before).toBeLessThan(9_000);
    expect(poll(b.qp)).toMatchObject([{ id: 7, len: 3000 }]);
  });

  for (const rnrRetries of [0, 1, 3])
    it(`with ${rnrRetries} retries, ${rnrRetries + 1} refusals are the end`, () => {
      const { a, settle } = createConnected({ rnrRetries });
      post(a.qp, { op: OP.send });
      settle();
      expect(poll(a.qp)).toMatchObject([{ status: WC.notReady }]);
      expect(a.host.read(NOT_READY)).toBe(rnrRetries + 1);
    });

  it('with 7 it is waited for without end', () => {
    const { a, b, settle } = createConnected({ rnrRetries: 7 });
    post(a.qp, { op: OP.send });
    settle(1_000_000);
    expect(a.host.read(NOT_READY)).toBeGreaterThan(100);
    postRecv(b.qp, 1);
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.ok }]);
  });
});

describe('a wire that is cut', () => {
  it('retries, and then gives up: what was posted comes back, and what is posted later too', () => {
    const { a, b, wire, settle } = createConnected({ timeout: 5, retries: 3 });
    a.host.events();
    wire.setUp(false);
    const write = { op: OP.write, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey };
    for (let id = 1; id <= 3; id++) post(a.qp, { id, ...write });
    settle();
    expect(poll(a.qp).map(({ id, status }) => [id, status])).toEqual([
      [1, WC.retries],
      [2, WC.flushed],
      [3, WC.flushed],
    ]);
    expect(a.host.read(RETRIES)).toBe(4);
    expect(a.host.events()).toEqual([[EVENT.linkDown, 1]]);
    post(a.qp, { id: 4, ...write });
    postRecv(a.qp, 5);
    expect(poll(a.qp).map(({ id, status }) => [id, status])).toEqual([
      [4, WC.flushed],
      [5, WC.flushed],
    ]);
  });

  it('that is there again in time has cost nothing but time', () => {
    const { a, b, wire, settle, memory } = createConnected({ timeout: 5, retries: 7 });
    memory.writeBytes(a.at, pattern(20_000));
    wire.setUp(false);
    post(a.qp, {
      op: OP.write,
      pieces: [piece(a, 0, 20_000)],
      remote: b.at,
      rkey: b.rkey,
    });
    settle(50_000);
    wire.setUp(true);
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.ok }]);
    expect(same(memory.readBytes(b.at, 20_000), pattern(20_000))).toBe(true);
    expect(a.host.events()).toContainEqual([EVENT.linkUp, 1]);
  });

  it('without a timeout nothing is ever given up', () => {
    const { a, wire, clock } = createConnected({ timeout: 0 });
    wire.setUp(false);
    post(a.qp, { op: OP.send });
    expect([poll(a.qp), clock.nextAt]).toEqual([[], Number.POSITIVE_INFINITY]);
  });
});

describe('a queue pair', () => {
  it('that is reset gives up what was on its way, and can be connected again', () => {
    const { a, b, settle } = createConnected();
    post(a.qp, { op: OP.send });
    settle(100_000);
    for (const { host, qp } of [a, b]) {
      expect(host.modify(qp, STATE.reset)).toBe(0);
      Object.assign(qp, { posted: 0, received: 0 });
    }
    a.host.connect(a.qp, b.qp);
    b.host.connect(b.qp, a.qp);
    postRecv(b.qp, 3);
    post(a.qp, { id: 9, op: OP.send });
    settle();
    expect(poll(a.qp)).toMatchObject([{ id: 9, status: WC.ok }]);
    expect(poll(b.qp)).toMatchObject([{ id: 3 }]);
  });

  it('numbers go round at 2^24', () => {
    const { a, b, settle, memory } = createConnected({ psn: 0xff_fff0, mtuShift: 8 });
    memory.writeBytes(a.at, pattern(30_000));
    const remote = { remote: b.at, rkey: b.rkey };
    post(a.qp, { op: OP.write, pieces: [piece(a, 0, 30_000)], ...remote });
    post(a.qp, { op: OP.read, pieces: [piece(a, 40_000, 30_000)], ...remote });
    settle();
    expect(poll(a.qp).map(({ status }) => status)).toEqual([WC.ok, WC.ok]);
    expect(same(memory.readBytes(a.at + 40_000, 30_000), pattern(30_000))).toBe(true);
  });

  it('two pairs of NICs’ queue pairs do not meet', () => {
    const board = createConnected();
    const { a, b, settle } = board;
    const [second, third] = [a.host.createQp(), b.host.createQp()];
    a.host.connect(second, third);
    b.host.connect(third, second);
    postRecv(b.qp, 1);
    postRecv(third, 2);
    post(second, { op: OP.send });
    settle();
    expect([poll(b.qp), poll(third).map(({ id }) => id)]).toEqual([[], [2]]);
  });

  it('answers before it may send: the first packet is an event', () => {
    const { a, b, settle } = createConnected();
    b.host.modify(b.qp, STATE.reset);
    b.host.modify(b.qp, STATE.init, b.qp.options.access);
    b.host.modify(b.qp, STATE.rtr, a.qp.qpn, 0, 10, 4, 1);
    post(a.qp, { op: OP.write, pieces: [piece(a, 0, 8)], remote: b.at, rkey: b.rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.ok }]);
    expect(b.host.events()).toEqual([[EVENT.established, b.qp.qpn]]);
  });
});

describe('a wire that loses packets, by a seed', () => {
  /** Everything that can be asked for, from both ends, against a model of what must come of it. */
  const race = (seed: number, lossPermille: number): number => {
    const random = rng(seed);
    const board = createConnected(
      {
        timeout: 7,
        mtuShift: 8 + random.below(5),
        sqShift: 6,
        rqShift: 6,
        cqShift: 8,
        rnrTimer: 3,
      },
      { wire: { lossPermille, seed } },
      32,
    );
    const { a, b, memory, settle } = board;
    const ends = [a, b];
    const counters = [0, 0];
    const adds: [End, number, number][] = [];
    for (let step = 0; step < 40; step++) {
      const side = random.below(2);
      const [from, to] = [ends[side] ?? a, ends[1 - side] ?? b];
      const len = 1 + random.below(9000);
      const seedOf = step * 7 + seed;
      memory.writeBytes(from.at, pattern(len, seedOf));
      const local = [piece(from, 0, len)];
      const remote = { remote: to.at + 16 * PAGE + 8, rkey: to.rkey };
      switch (random.below(4)) {
        case 0:
          prepare(from.qp, { op: OP.write, pieces: local, ...remote });
          prepare(from.qp, { op: OP.read, pieces: [piece(from, 4 * PAGE, len)], ...remote });
          ring(from.qp);
          settle();
          expect(same(memory.readBytes(from.at + 4 * PAGE, len), pattern(len, seedOf))).toBe(true);
          break;
        case 1:
          post(from.qp, { op: OP.send, pieces: local });
          settle(random.below(20_000));
          postRecv(to.qp, step, piece(to, 8 * PAGE, len));
          settle();
          expect(same(memory.readBytes(to.at + 8 * PAGE, len), pattern(len, seedOf))).toBe(true);
          break;
        default:
          for (let i = 0; i < 3; i++) {
            const slot = adds.length;
            const add = { op: OP.add, operand: 1n, remote: to.at + 31 * PAGE, rkey: to.rkey };
            post(from.qp, { ...add, pieces: [piece(from, 28 * PAGE + 8 * slot, 8)] });
            adds.push([from, slot, counters[1 - side]!++]);
          }
          settle();
      }
      for (const { qp } of ends)
        for (const done of poll(qp)) expect([step, done.status]).toEqual([step, WC.ok]);
    }
    // Every addition was done once, whatever was lost of it and its answer.
    for (const [end, slot, was] of adds)
      expect(memory.readBytes(end.at + 28 * PAGE + 8 * slot, 1)[0]).toBe(was & 0xff);
    return board.wire.lost;
  };

  it('nothing is lost, nothing is done twice, 12 times', () => {
    let lost = 0;
    for (let seed = 1; seed <= 12; seed++) lost += race(seed, 20 + 5 * seed);
    expect(lost).toBeGreaterThan(100);
  });
});

describe('a saved board', () => {
  it('goes on with packets on the wire as if nothing had been', () => {
    const outcome = (save: boolean): string => {
      const board = createConnected({ timeout: 7 }, { wire: { lossPermille: 50, seed: 3 } });
      const { a, b, memory, clock, wire, settle } = board;
      memory.writeBytes(a.at, pattern(40_000));
      const remote = { remote: b.at, rkey: b.rkey };
      post(a.qp, { op: OP.write, pieces: [piece(a, 0, 40_000)], ...remote });
      post(a.qp, { op: OP.read, pieces: [piece(a, 50_000, 40_000)], ...remote });
      post(a.qp, { op: OP.add, operand: 1n, pieces: [piece(a, 0, 8)], ...remote });
      settle(1500);
      if (save) {
        const saved = structuredClone({
          clock: clock.save(),
          wire: wire.save(),
          nics: [a.host.nic.save(), b.host.nic.save()],
        });
        // Whatever happens in between is undone.
        const bytes = memory.u8.slice();
        settle();
        memory.u8.set(bytes);
        clock.restore(saved.clock);
        wire.restore(saved.wire);
        a.host.nic.restore(saved.nics[0]!);
        b.host.nic.restore(saved.nics[1]!);
      }
      settle();
      const completions = poll(a.qp).map(({ id, status }) => [id, status]);
      const arrived = same(
        memory.readBytes(a.at + 50_000 + 8, 39_992),
        pattern(40_000).subarray(8),
      );
      return JSON.stringify([completions, arrived, clock.now, wire.lost, a.host.nic.s.counters]);
    };
    expect(outcome(true)).toBe(outcome(false));
    expect(outcome(true)).toContain('[[0,0],[1,0],[2,0]],true');
  });
});
