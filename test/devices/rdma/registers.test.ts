/** The RDMA NIC's registers and commands (devices/rdma/registers.ts). */
import { describe, expect, it } from 'vitest';
import { RAM_BASE } from '#emu';
import { ackTimeout, rnrTimeout } from '../../../devices/rdma/registers.ts';
import {
  ALL,
  createConnected,
  createPair,
  EVENT,
  OP,
  PAGE,
  poll,
  post,
  STATE,
  WC,
} from './pair.ts';

const EINVAL = 22;
const EBUSY = 16;
const ENOMEM = 12;

describe('registers', () => {
  it('ID, VERSION, and a link that is up', () => {
    const { a } = createPair();
    expect([a.read(0), a.read(4), a.read(0x0c)]).toEqual([0x6d64_7247, 1, 1]);
  });

  it('read-only registers take no write, accesses of other sizes and places read 0', () => {
    const { a } = createPair();
    const before = a.nic.save();
    for (const offset of [0, 4, 0x0c, 0x74, 0x78, 0x7c, 0x80, 0x100, 0xffc]) a.write(offset, ~0);
    a.nic.write(0x08, 2, 0);
    a.nic.write(0x0a, 4, 0);
    expect(a.nic.save()).toEqual(before);
    expect([a.nic.read(0, 1), a.nic.read(0, 2), a.nic.read(2, 4), a.read(0x100)]).toEqual([
      0, 0, 0, 0,
    ]);
  });

  it('a NIC that is not enabled hears no doorbell and loses what arrives', () => {
    const { a, b, settle } = createConnected({ timeout: 5, retries: 1 });
    b.host.write(0x08, 2);
    post(a.qp, { op: OP.write, remote: b.at, rkey: b.rkey });
    settle();
    expect(poll(a.qp)).toMatchObject([{ status: WC.retries }]);
    expect(b.host.read(0x84)).toBeGreaterThan(0);
  });

  it('events: the queue holds 64, and says when some were lost', () => {
    const { a, wire } = createPair();
    for (let i = 0; i < 35; i++) {
      wire.setUp(false);
      wire.setUp(true);
    }
    expect(a.read(0x0c) & 4).toBe(4);
    expect(a.irq.level).toBe(true);
    expect(a.events()).toHaveLength(64);
    expect([a.read(0x0c) & 4, a.irq.level]).toEqual([0, false]);
  });

  it('reset forgets everything, releases regions, and gives no key again', () => {
    const { a, b, settle } = createConnected();
    b.host.write(0x08, 0x8000_0000);
    expect(b.host.command(10, b.qp.qpn)).toBe(EINVAL);
    b.host.write(0x08, 3);
    expect(b.host.must(1)).toEqual([0, 0]);
    expect(b.host.register(b.at, PAGE).rkey).not.toBe(b.rkey);
    post(a.qp, { op: OP.write, remote: b.at, rkey: b.rkey });
    settle(1_000_000);
    expect(poll(a.qp)).toEqual([]);
  });

  it('timers are InfiniBand’s, at 10 ns an instruction', () => {
    // 9.7.6.1.3: 4.096 us << code. 9.7.5.2.8: code 0 is the longest, 31 is 491.52 ms.
    expect([ackTimeout(1), ackTimeout(14)]).toEqual([820, 6_710_887]);
    expect([0, 1, 12, 31].map(rnrTimeout)).toEqual([65_536_000, 1000, 64_000, 49_152_000]);
  });
});

describe('commands', () => {
  it('an unknown command is EINVAL, and raises the interrupt as any other', () => {
    const { a } = createPair();
    a.write(0x70, 11);
    expect([a.read(0x74), a.read(0x10), a.irq.level]).toEqual([EINVAL, 1, true]);
    a.write(0x10, 1);
    expect(a.irq.level).toBe(false);
  });

  it('tables are bounded: 64 PDs, 64 CQs, 64 QPs, 256 MRs', () => {
    const { a } = createPair();
    const count = (command: number, ...args: number[]): number => {
      let n = 0;
      for (; n < 1000; n++) {
        const result = a.command(command, ...args);
        if (result === ENOMEM) return n;
        if (typeof result === 'number') throw new Error(`errno ${result}`);
      }
      return n;
    };
    expect(count(3, 0, 1, 0, 0, RAM_BASE, 0, PAGE, 0)).toBe(256);
    expect(count(5, RAM_BASE, 0, 4)).toBe(64);
    expect(count(7, 0, 0, 0, RAM_BASE, 0, 4, RAM_BASE, 0, 4)).toBe(64);
    expect(count(1)).toBe(63);
  });

  it('what is used is EBUSY, and afterwards goes', () => {
    const { a } = createPair();
    const qp = a.createQp();
    const { lkey } = a.register(a.pages(1), PAGE);
    expect([a.command(2, a.pd), a.command(6, qp.cqn)]).toEqual([EBUSY, EBUSY]);
    expect(a.command(9, qp.qpn)).toEqual([0, 0]);
    expect([a.command(6, qp.cqn), a.command(2, a.pd)]).toEqual([[0, 0], EBUSY]);
    expect(a.deregister(lkey)).toBe(0);
    expect(a.command(2, a.pd)).toEqual([0, 0]);
    expect(a.command(2, a.pd)).toBe(EINVAL);
  });

  for (const { what, args, errno } of [
    { what: 'of a PD that there is not', args: [9, 1, 0, 0, RAM_BASE, 0, PAGE, 0], errno: EINVAL },
    { what: 'of nothing', args: [0, 1, 0, 0, RAM_BASE, 0, 0, 0], errno: EINVAL },
    { what: 'with an unknown right', args: [0, 0x11, 0, 0, RAM_BASE, 0, PAGE, 0], errno: EINVAL },
    {
      what: 'that only the other end may write',
      args: [0, 2, 0, 0, RAM_BASE, 0, PAGE, 0],
      errno: EINVAL,
    },
    {
      what: 'whose iova has another place in its page',
      args: [0, 1, 8, 0, RAM_BASE, 0, PAGE, 0],
      errno: EINVAL,
    },
    { what: 'beyond 2^53', args: [0, 1, 0, ~0, RAM_BASE, 0, PAGE, 0], errno: EINVAL },
    { what: 'where no memory is', args: [0, 1, 0, 0, 0, 0, PAGE, 0], errno: 14 },
    {
      what: 'that runs out of memory',
      args: [0, 1, 0, 0, RAM_BASE, 0, (8 << 20) + 1, 0],
      errno: 14,
    },
  ])
    it(`REG_MR ${what}: errno ${errno}, and no number is taken`, () => {
      const { a } = createPair();
      expect(a.command(3, ...args)).toBe(errno);
      expect(a.register(RAM_BASE, PAGE, ALL).lkey >>> 8).toBe(0);
    });

  it('MODIFY_QP goes RESET, INIT, RTR, RTS, and from anywhere back to RESET or to ERR', () => {
    const { a } = createPair();
    const qp = a.createQp();
    const { reset, init, rtr, rts, error } = STATE;
    const toRtr = [rtr, 0, 0, 10, 1, 1];
    expect(a.modify(qp, rtr, 0, 0, 10, 1, 1)).toBe(EINVAL);
    expect(a.modify(qp, error)).toBe(EINVAL);
    for (const [state = 0, ...args] of [
      [init, 0],
      toRtr,
      [rts, 0, 14, 7, 7, 1],
      [error],
      [reset],
    ]) {
      expect(a.modify(qp, state, ...args)).toBe(0);
      expect(a.state(qp)).toBe(state);
    }
    expect(a.modify(qp, rts, 0, 14, 7, 7, 1)).toBe(EINVAL);
  });

  for (const { what, args } of [
    { what: 'an MTU of 128 bytes', args: [0, 0, 7, 1, 1] },
    { what: 'an MTU of 8192 bytes', args: [0, 0, 13, 1, 1] },
    { what: '17 answers at a time', args: [0, 0, 10, 17, 1] },
    { what: 'a QP number of 64', args: [64, 0, 10, 1, 1] },
    { what: 'a timer code of 32', args: [0, 0, 10, 1, 32] },
  ])
    it(`MODIFY_QP to RTR with ${what}: EINVAL`, () => {
      const { a } = createPair();
      const qp = a.createQp();
      a.modify(qp, STATE.init, 0);
      expect(a.modify(qp, STATE.rtr, ...args)).toBe(EINVAL);
      expect(a.state(qp)).toBe(STATE.init);
    });
});

describe('doorbells', () => {
  it('of more than the queue holds: the queue pair stops', () => {
    for (const [offset, count] of [
      [0x20, 17],
      [0x24, 17],
      [0x20, 0xffff],
    ] as const) {
      const { a, b } = createConnected();
      a.host.events();
      a.host.write(offset, ((a.qp.qpn << 16) | count) >>> 0);
      expect(a.host.events()).toEqual([[EVENT.fatal, a.qp.qpn]]);
      expect([a.host.state(a.qp), b.host.state(b.qp)]).toEqual([STATE.error, STATE.rts]);
    }
  });

  it('of queue pairs that there are not, or that are in RESET, do nothing', () => {
    const { a } = createPair();
    const qp = a.createQp();
    const before = a.nic.save();
    a.write(0x20, ((qp.qpn << 16) | 1) >>> 0);
    a.write(0x20, 0x3f_0001);
    a.write(0x24, 0xffff_0001);
    a.write(0x28, 0xffff_0001);
    a.write(0x2c, 0xffff);
    expect(a.nic.save()).toEqual(before);
  });

  it('a queue that is not in memory: the queue pair stops, and nothing is reported twice', () => {
    const { a } = createPair();
    const qp = a.createQp();
    const [qpn] = a.must(7, a.pd, qp.cqn, qp.cqn, 0x1000, 0, 4, 0x2000, 0, 4);
    const lost = { ...qp, qpn };
    a.connect(lost, lost);
    a.write(0x20, ((qpn << 16) | 3) >>> 0);
    expect(a.events()).toEqual([[EVENT.fatal, qpn]]);
    expect([a.state(lost), poll(qp)]).toEqual([STATE.error, []]);
  });
});
