/**
 * Two RDMA NICs back to back on a bare board, and a driver for them: it knows registers and structures
 * in memory by their numbers, as a driver of a guest does, and nothing of the model's code.
 */
import { BusRegions, RdmaNic, type RdmaPersistence, RdmaWire, type RdmaWireConfig } from '#devices';
import { BusPort } from '#devices';
import { type DmaPort, PhysMemory, RAM_BASE } from '#emu';
import { Clock, probedLine, runTo } from '../support/wires.ts';

export const PAGE = 4096;

/* ---- the numbers of the specification, written down again ---- */
export const ACCESS = { local: 1, write: 2, read: 4, atomic: 8, flush: 0x100, persist: 0x200 };
export const ALL = ACCESS.local | ACCESS.write | ACCESS.read | ACCESS.atomic;
export const OP = {
  write: 0,
  writeImm: 1,
  send: 2,
  sendImm: 3,
  read: 4,
  swap: 5,
  add: 6,
  flush: 14,
  atomicWrite: 15,
};
export const FLAG = { signaled: 1, solicited: 2, fence: 4, inline: 8 };
export const WC = {
  ok: 0,
  length: 1,
  badRequest: 2,
  protection: 4,
  flushed: 5,
  badAnswer: 7,
  remoteInvalid: 9,
  remoteAccess: 10,
  remoteOp: 11,
  retries: 12,
  notReady: 13,
};
export const STATE = { reset: 0, init: 1, rtr: 2, rts: 3, error: 6 };
export const EVENT = {
  cq: 0,
  fatal: 1,
  request: 2,
  access: 3,
  established: 4,
  linkUp: 9,
  linkDown: 10,
};
const CMD = {
  allocPd: 1,
  freePd: 2,
  regMr: 3,
  deregMr: 4,
  createCq: 5,
  destroyCq: 6,
  createQp: 7,
  modifyQp: 8,
  destroyQp: 9,
  queryQp: 10,
};

export interface Piece {
  at: number;
  len: number;
  key: number;
}

export interface Work {
  id?: number;
  op: number;
  flags?: number;
  imm?: number;
  pieces?: Piece[];
  inline?: Uint8Array;
  remote?: number;
  rkey?: number;
  flush?: number;
  flushBytes?: number;
  operand?: bigint;
  swap?: bigint;
}

export interface Done {
  id: number;
  status: number;
  op: number;
  len: number;
  imm: number;
  qpn: number;
  withImm: boolean;
}

export interface QpOptions {
  sqShift?: number;
  rqShift?: number;
  cqShift?: number;
  access?: number;
  mtuShift?: number;
  answers?: number;
  reads?: number;
  timeout?: number;
  retries?: number;
  rnrRetries?: number;
  rnrTimer?: number;
  psn?: number;
}

/** A queue pair as its driver sees it. */
export interface Qp {
  host: Host;
  qpn: number;
  cqn: number;
  sq: number;
  rq: number;
  cq: number;
  options: Required<QpOptions>;
  posted: number;
  received: number;
  taken: number;
}

/** One NIC with its driver. */
export class Host {
  readonly nic: RdmaNic;
  readonly irq = probedLine();
  readonly memory: PhysMemory;
  readonly pd: number;
  private nextPage: number;
  /** Does what the memory behind the NIC has to do before a command is over. */
  private readonly pump: () => void;

  constructor(
    nic: (irq: ReturnType<typeof probedLine>) => RdmaNic,
    memory: PhysMemory,
    firstPage: number,
    pump: () => void = () => {},
  ) {
    this.nic = nic(this.irq);
    this.memory = memory;
    this.nextPage = firstPage;
    this.pump = pump;
    this.write(0x08, 3);
    this.pd = this.must(CMD.allocPd)[0];
  }

  read(offset: number): number {
    return this.nic.read(offset, 4) >>> 0;
  }

  write(offset: number, value: number): void {
    this.nic.write(offset, 4, value);
  }

  /** A command. @returns the errno, or the results */
  command(command: number, ...args: number[]): number | [number, number] {
    for (const [i, arg] of args.entries()) this.write(0x40 + 4 * i, arg);
    this.write(0x70, command);
    this.pump();
    if ((this.read(0x0c) & 2) !== 0) throw new Error(`command ${command} does not end`);
    const status = this.read(0x74);
    this.write(0x10, 1);
    return status !== 0 ? status : [this.read(0x78), this.read(0x7c)];
  }

  must(command: number, ...args: number[]): [number, number] {
    const result = this.command(command, ...args);
    if (typeof result === 'number') throw new Error(`command ${command}: errno ${result}`);
    return result;
  }

  /** Fresh memory of this host. */
  pages(nr: number): number {
    const page = this.nextPage;
    this.nextPage += nr;
    return RAM_BASE + page * PAGE;
  }

  register(at: number, len: number, access = ALL, iova = at): { lkey: number; rkey: number } {
    const [lkey, rkey] = this.must(
      CMD.regMr,
      this.pd,
      access,
      ...wide(iova),
      ...wide(at),
      ...wide(len),
    );
    return { lkey, rkey };
  }

  deregister(lkey: number): number {
    const result = this.command(CMD.deregMr, lkey);
    return typeof result === 'number' ? result : 0;
  }

  createQp(options: QpOptions = {}): Qp {
    const all: Required<QpOptions> = {
      sqShift: 4,
      rqShift: 4,
      cqShift: 6,
      access: ALL,
      mtuShift: 10,
      answers: 4,
      reads: 4,
      timeout: 14,
      retries: 7,
      rnrRetries: 7,
      rnrTimer: 1,
      psn: 0,
      ...options,
    };
    const [sq, rq, cq] = [this.pages(32), this.pages(16), this.pages(16)];
    const [cqn] = this.must(CMD.createCq, ...wide(cq), all.cqShift);
    const [qpn] = this.must(
      CMD.createQp,
      this.pd,
      cqn,
      cqn,
      ...wide(sq),
      all.sqShift,
      ...wide(rq),
      all.rqShift,
    );
    return { host: this, qpn, cqn, sq, rq, cq, options: all, posted: 0, received: 0, taken: 0 };
  }

  modify(qp: Qp, state: number, ...args: number[]): number {
    const result = this.command(CMD.modifyQp, qp.qpn, state, ...args);
    return typeof result === 'number' ? result : 0;
  }

  state(qp: Qp): number {
    return this.must(CMD.queryQp, qp.qpn)[0];
  }

  /** To RTS, towards the other end. */
  connect(qp: Qp, to: Qp): void {
    const o = qp.options;
    const errors = [
      this.modify(qp, STATE.init, o.access),
      this.modify(qp, STATE.rtr, to.qpn, to.options.psn, o.mtuShift, o.answers, o.rnrTimer),
      this.modify(qp, STATE.rts, o.psn, o.timeout, o.retries, o.rnrRetries, o.reads),
    ];
    if (errors.some((error) => error !== 0)) throw new Error(`connect: ${errors}`);
  }

  view(at: number, len: number): DataView {
    return new DataView(this.memory.u8.buffer, this.memory.offsetOf(at), len);
  }

  /** Asynchronous events so far: [type, number]. */
  events(): [number, number][] {
    const events: [number, number][] = [];
    for (let event = this.read(0x14); event !== 0; event = this.read(0x14)) {
      events.push([(event >>> 16) & 0xff, event & 0xffff]);
      this.write(0x14, 0);
    }
    return events;
  }
}

export const wide = (value: number): [number, number] => [
  value % 2 ** 32,
  Math.floor(value / 2 ** 32),
];

const putPieces = (view: DataView, at: number, pieces: readonly Piece[]): void => {
  pieces.forEach((piece, i) => {
    view.setBigUint64(at + 16 * i, BigInt(piece.at), true);
    view.setUint32(at + 16 * i + 8, piece.len, true);
    view.setUint32(at + 16 * i + 12, piece.key, true);
  });
};

/** Writes a send request into the ring; the doorbell is ring(). */
export const prepare = (qp: Qp, work: Work): void => {
  const index = qp.posted % (1 << qp.options.sqShift);
  const view = qp.host.view(qp.sq + 128 * index, 128);
  for (let i = 0; i < 128; i += 4) view.setUint32(i, 0, true);
  view.setBigUint64(0, BigInt(work.id ?? qp.posted), true);
  view.setUint32(8, work.op, true);
  const flags = (work.flags ?? FLAG.signaled) | (work.inline ? FLAG.inline : 0);
  view.setUint32(12, flags, true);
  view.setUint32(16, work.imm ?? 0, true);
  view.setUint32(20, work.inline ? work.inline.length : (work.pieces ?? []).length, true);
  view.setBigUint64(24, BigInt(work.remote ?? 0), true);
  view.setUint32(32, work.rkey ?? 0, true);
  view.setUint32(36, work.flush ?? 0, true);
  view.setUint32(40, work.flushBytes ?? 0, true);
  view.setBigUint64(48, work.operand ?? 0n, true);
  view.setBigUint64(56, work.swap ?? 0n, true);
  if (work.inline) new Uint8Array(view.buffer, view.byteOffset + 64, 64).set(work.inline);
  else putPieces(view, 64, (work.pieces ?? []).slice(0, 4));
  qp.posted = (qp.posted + 1) & 0xffff;
};

export const ring = (qp: Qp): void => qp.host.write(0x20, ((qp.qpn << 16) | qp.posted) >>> 0);

export const post = (qp: Qp, work: Work): void => {
  prepare(qp, work);
  ring(qp);
};

export const postRecv = (qp: Qp, id: number, ...pieces: Piece[]): void => {
  const index = qp.received % (1 << qp.options.rqShift);
  const view = qp.host.view(qp.rq + 64 * index, 64);
  view.setBigUint64(0, BigInt(id), true);
  view.setUint32(8, pieces.length, true);
  putPieces(view, 16, pieces.slice(0, 3));
  qp.received = (qp.received + 1) & 0xffff;
  qp.host.write(0x24, ((qp.qpn << 16) | qp.received) >>> 0);
};

/** Takes the completions that have come. */
export const poll = (qp: Qp, tell = true): Done[] => {
  const found: Done[] = [];
  for (;;) {
    const index = qp.taken % (1 << qp.options.cqShift);
    const view = qp.host.view(qp.cq + 32 * index, 32);
    const flags = view.getUint32(28, true);
    const phase = (Math.floor(qp.taken / (1 << qp.options.cqShift)) & 1) === 0 ? 1 : 0;
    if (flags >>> 31 !== phase) break;
    found.push({
      id: Number(view.getBigUint64(0, true)),
      status: view.getUint32(8, true),
      op: view.getUint32(12, true),
      len: view.getUint32(16, true),
      imm: view.getUint32(20, true),
      qpn: view.getUint32(24, true),
      withImm: (flags & 1) !== 0,
    });
    qp.taken = (qp.taken + 1) & 0xffff;
  }
  if (tell) qp.host.write(0x28, ((qp.cqn << 16) | qp.taken) >>> 0);
  return found;
};

export const arm = (qp: Qp, solicited = false): void =>
  qp.host.write(0x2c, (qp.cqn | (solicited ? 1 << 16 : 0)) >>> 0);

export interface PairOptions {
  wire?: Partial<RdmaWireConfig>;
  port?: (bus: DmaPort) => DmaPort;
  persistence?: RdmaPersistence;
}

/** Two hosts with half of the memory each, on one wire. */
export const createPair = (options: PairOptions = {}) => {
  const memory = new PhysMemory(8 << 20);
  const clock = new Clock();
  const wire = new RdmaWire({ clock, name: 'wire', ...options.wire });
  const host = (side: 0 | 1): Host =>
    new Host(
      (irq) =>
        new RdmaNic({
          clock,
          irq,
          port: options.port?.(new BusPort(memory)) ?? new BusPort(memory),
          regions: new BusRegions(memory, options.persistence),
          link: wire.end(side),
          name: `nic${side}`,
        }),
      memory,
      1024 * side,
    );
  const a = host(0);
  const b = host(1);
  /** Until nothing is due any more, or for so many instructions. */
  const settle = (instructions = 100_000_000): void => {
    const end = clock.now + instructions;
    while (clock.nextAt <= end) runTo(clock, clock.nextAt);
  };
  return { memory, clock, wire, a, b, settle };
};

/** The same with a connection, and a registered buffer at each end. */
export const createConnected = (
  options: QpOptions = {},
  pair: PairOptions = {},
  bufferPages = 64,
) => {
  const board = createPair(pair);
  const end = (host: Host) => {
    const qp = host.createQp(options);
    const at = host.pages(bufferPages);
    const keys = host.register(at, bufferPages * PAGE, ALL);
    return { host, qp, at, ...keys };
  };
  const [a, b] = [end(board.a), end(board.b)];
  a.host.connect(a.qp, b.qp);
  b.host.connect(b.qp, a.qp);
  return { ...board, a, b };
};

export const pattern = (len: number, seed = 1): Uint8Array => {
  const bytes = new Uint8Array(len);
  for (let i = 0; i < len; i++) bytes[i] = (i * 13 + (i >>> 7) * 5 + seed) & 0xff;
  return bytes;
};

/** Bytes of an end's own memory, as a work request names them. */
export const piece = (
  end: ReturnType<typeof createConnected>['a'],
  offset: number,
  len: number,
) => ({
  at: end.at + offset,
  len,
  key: end.lkey,
});

export const same = (a: Uint8Array, b: Uint8Array): boolean => Buffer.compare(a, b) === 0;
