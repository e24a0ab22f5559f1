/**
 * Two RDMA NICs on one wire under attack by both of their drivers: commands, queues and doorbells that
 * are right for the most part and wrong somewhere, over memory that is late now and then.
 */
import {
  BusPort,
  BusRegions,
  RDMA_ACCESS_LOCAL_WRITE,
  RdmaNic,
  type RdmaRegionClient,
  type RdmaRegionRequest,
  RdmaWire,
  type RdmaWireState,
} from '#devices';
import { Clock, type ClockState, DMA_WAIT, PAGE_SIZE, PhysMemory, RAM_BASE } from '#emu';
import { Rng } from '../rng.ts';
import type { FuzzCase, FuzzTarget } from './target.ts';

/** Of every byte that nobody has stored to. */
const UNTOUCHED = 0x11;
const UNTOUCHED_PAGE = Buffer.alloc(PAGE_SIZE, UNTOUCHED);
const NR_PAGES = 24;
const RAM_BYTES = NR_PAGES * PAGE_SIZE;
/** Events of the clock in one case: a receiver that is never ready may go on for ever. */
const MAX_EVENTS = 300;
/** Accesses to memory that one register write or event may take. */
const MAX_ACCESSES = 20_000;

/* Registers and commands of devices/rdma/registers.ts, and queue entries of work.ts. */
const CONTROL = 0x08;
const EVENT = 0x14;
const SQ_DOORBELL = 0x20;
const RQ_DOORBELL = 0x24;
const CQ_DOORBELL = 0x28;
const CQ_ARM = 0x2c;
const ARG = 0x40;
const COMMAND = 0x70;
const RESULT = 0x78;
const ENABLE = 3;
const ALLOC_PD = 1;
const REG_MR = 3;
const DEREG_MR = 4;
const CREATE_CQ = 5;
const CREATE_QP = 7;
const MODIFY_QP = 8;
const LAST_COMMAND = 10;
const SQ_ENTRY = 128;
const RQ_ENTRY = 64;
const OPCODES = [0, 1, 2, 3, 4, 5, 6, 14, 15];

/** Where each end has its queues, and what it registers: pages of RAM. */
const PAGES_OF_END = 12;
const SQ_PAGE = 0;
const RQ_PAGE = 1;
const CQ_PAGE = 2;
const BUFFER_PAGE = 3;
const BUFFER_PAGES = 8;

/** How late memory is, and how much was asked of it. */
interface Mood {
  rng: Rng;
  /** Of 100 accesses, so many have to wait. */
  latePercent: number;
  waiting: boolean;
  accesses: number;
}

const isLate = (mood: Mood): boolean => {
  if (++mood.accesses > MAX_ACCESSES) throw new Error('no end: one event asks for memory for ever');
  if (!mood.rng.chance(mood.latePercent)) return false;
  mood.waiting = true;
  return true;
};

class LatePort extends BusPort {
  private readonly mood: Mood;
  listener: () => void;

  constructor(memory: PhysMemory, mood: Mood) {
    super(memory);
    this.mood = mood;
    this.listener = () => {};
  }

  onReady(listener: () => void): void {
    this.listener = listener;
  }

  override read(pa: number, into: Uint8Array, at: number, lenBytes: number): number {
    return isLate(this.mood) ? DMA_WAIT : super.read(pa, into, at, lenBytes);
  }

  override write(pa: number, from: Uint8Array, at: number, lenBytes: number): number {
    return isLate(this.mood) ? DMA_WAIT : super.write(pa, from, at, lenBytes);
  }
}

/** Regions that are registered, released and reached late. Notes what may be written. */
class LateRegions extends BusRegions {
  private readonly mood: Mood;
  private readonly offer: (pa: number, lenBytes: number) => void;
  private nic: RdmaRegionClient | undefined;
  private later: (() => void)[];

  constructor(memory: PhysMemory, mood: Mood, offer: (pa: number, lenBytes: number) => void) {
    super(memory);
    this.mood = mood;
    this.offer = offer;
    this.nic = undefined;
    this.later = [];
  }

  override attach(client: RdmaRegionClient): void {
    super.attach(client);
    this.nic = client;
  }

  override register(request: RdmaRegionRequest): void {
    if ((request.access & RDMA_ACCESS_LOCAL_WRITE) !== 0)
      this.offer(request.address, request.lenBytes);
    this.soonOrLater(() => super.register(request));
  }

  override release(handle: number): void {
    this.soonOrLater(() => super.release(handle));
  }

  private soonOrLater(act: () => void): void {
    if (isLate(this.mood)) this.later.push(act);
    else act();
  }

  forget(): void {
    this.later = [];
  }

  /** Answers what is late. */
  settle(): void {
    for (const act of this.later.splice(0)) act();
    this.nic?.ready();
  }

  protected override reach(handle: number, pa: number): number {
    return isLate(this.mood) ? DMA_WAIT : super.reach(handle, pa);
  }
}

/** One end, with what its driver knows. */
interface End {
  nic: RdmaNic;
  port: LatePort;
  regions: LateRegions;
  /** First byte of its pages. */
  base: number;
  keys: number[];
  posted: number;
  received: number;
}

class Attack {
  private readonly memory: PhysMemory;
  private readonly offered: Uint8Array;
  private readonly clock: Clock;
  private readonly wire: RdmaWire;
  private readonly mood: Mood;
  private readonly ends: End[];
  private readonly fresh: { clock: ClockState; wire: RdmaWireState };
  private rng: Rng;

  constructor() {
    this.memory = new PhysMemory(RAM_BYTES);
    this.offered = new Uint8Array(RAM_BYTES);
    this.clock = new Clock();
    this.rng = new Rng(0);
    this.mood = { rng: this.rng, latePercent: 0, waiting: false, accesses: 0 };
    const { clock, memory, mood } = this;
    this.wire = new RdmaWire({ clock, name: 'wire', lossPermille: 15, seed: 7 });
    const offer = (pa: number, lenBytes: number): void => this.offer(pa, lenBytes);
    this.ends = ([0, 1] as const).map((side) => {
      const port = new LatePort(memory, mood);
      const regions = new LateRegions(memory, mood, offer);
      const irq = { set: () => {} };
      const link = this.wire.end(side);
      const nic = new RdmaNic({ clock, irq, port, regions, link, name: `nic${side}` });
      const base = RAM_BASE + side * PAGES_OF_END * PAGE_SIZE;
      return { nic, port, regions, base, keys: [], posted: 0, received: 0 };
    });
    this.fresh = { clock: clock.save(), wire: this.wire.save() };
  }

  run(rng: Rng): string | null {
    this.rng = rng;
    this.mood.rng = rng;
    this.mood.latePercent = rng.chance(50) ? 0 : rng.below(40);
    this.begin();
    for (const end of this.ends) this.setUp(end);
    for (let n = 3 + rng.below(12); n > 0; n--) {
      this.act(this.ends[rng.below(2)] ?? this.end(0));
      if (rng.chance(50)) this.advance(rng.below(20));
    }
    this.advance(MAX_EVENTS);
    return this.verdict();
  }

  private end(side: number): End {
    const end = this.ends[side];
    if (end === undefined) throw new Error(`no end ${side}`);
    return end;
  }

  /** As after power-on: no case knows of the one before. */
  private begin(): void {
    const first = this.memory.offsetOf(RAM_BASE);
    this.memory.u8.fill(UNTOUCHED, first, first + RAM_BYTES);
    this.offered.fill(0);
    this.mood.waiting = false;
    this.mood.accesses = 0;
    this.wire.setUp(false);
    for (const end of this.ends) {
      end.nic.reset();
      end.regions.forget();
      Object.assign(end.nic.s, { nextHandle: 0, keyVariant: 0 });
      end.nic.write(CONTROL, 4, ENABLE);
      Object.assign(end, { keys: [], posted: 0, received: 0 });
    }
    this.clock.restore(this.fresh.clock);
    this.wire.restore(this.fresh.wire);
  }

  /** As far as it is in RAM. */
  private offer(pa: number, lenBytes: number): void {
    const end = pa - RAM_BASE + lenBytes;
    if (end > 0) this.offered.fill(1, Math.max(0, pa - RAM_BASE), end);
  }

  /* ---- what the drivers do ---- */

  /** The value, or now and then anything else. */
  private odd(value: number): number {
    const { rng } = this;
    if (!rng.chance(3)) return value;
    const kinds = [0, 1, value + 1, value ^ (1 << rng.below(32)), rng.next(), 0xffff_ffff];
    return (kinds[rng.below(kinds.length)] ?? 0) >>> 0;
  }

  private write(end: End, offset: number, value: number): void {
    this.mood.accesses = 0;
    end.nic.write(offset, 4, value >>> 0);
    if (offset !== COMMAND) return;
    for (const cq of end.nic.s.cqs) if (cq) this.offer(cq.address, 32 << cq.shift);
  }

  private command(end: End, command: number, ...args: number[]): number {
    for (const [i, value] of args.entries()) this.write(end, ARG + 4 * i, this.odd(value));
    this.write(end, COMMAND, this.odd(command));
    for (let tries = 0; tries < 3; tries++) this.settle();
    return end.nic.read(RESULT, 4);
  }

  /** Tables, a queue pair, and a connection to the other end. */
  private setUp(end: End): void {
    const { rng } = this;
    const page = (n: number): number => end.base + n * PAGE_SIZE;
    this.command(end, ALLOC_PD);
    this.command(end, CREATE_CQ, page(CQ_PAGE), 0, 2 + rng.below(5));
    const [sq, rq] = [page(SQ_PAGE), page(RQ_PAGE)];
    this.command(end, CREATE_QP, 0, 0, 0, sq, 0, 3, rq, 0, 3);
    for (let n = 1 + rng.below(2); n > 0; n--) this.register(end);
    const psn = rng.next() & 0xff_ffff;
    this.command(end, MODIFY_QP, 0, 1, 0x30f);
    this.command(end, MODIFY_QP, 0, 2, 0, psn, 8 + rng.below(5), rng.below(5), 1);
    this.command(end, MODIFY_QP, 0, 3, psn, 5, rng.below(8), rng.below(8), 1 + rng.below(4));
    // Both ends send from the same number on: each takes its own for the other's.
    const qp = end.nic.s.qps[0];
    if (qp && rng.chance(95))
      qp.expectedPsn = this.end(1 - this.ends.indexOf(end)).nic.s.qps[0]?.nextPsn ?? psn;
  }

  private register(end: End): void {
    const { rng } = this;
    const at = end.base + (BUFFER_PAGE + rng.below(BUFFER_PAGES)) * PAGE_SIZE + rng.below(64) * 8;
    const lenBytes = 1 + rng.below(3 * PAGE_SIZE);
    const access = rng.chance(80) ? 0x10f : rng.below(0x400);
    end.keys.push(this.command(end, REG_MR, 0, access, at, 0, at, 0, lenBytes, 0));
  }

  private act(end: End): void {
    const { rng } = this;
    switch (rng.below(12)) {
      case 0:
      case 1:
      case 2:
      case 3:
        this.postSends(end);
        break;
      case 4:
      case 5:
        this.postRecv(end);
        break;
      case 6:
        this.write(end, CQ_DOORBELL, this.odd((end.nic.s.cqs[0]?.producer ?? 0) & 0xffff));
        this.write(end, CQ_ARM, this.odd(rng.below(2) << 16));
        break;
      case 7:
        this.write(end, rng.below(0x40) * 4, rng.chance(50) ? rng.next() : rng.below(0x1_0010));
        break;
      case 8:
        this.command(end, rng.below(LAST_COMMAND + 2), rng.below(3), rng.below(8), rng.below(64));
        break;
      case 9:
        if (rng.chance(50)) this.register(end);
        else this.command(end, DEREG_MR, this.key(end));
        break;
      case 10:
        this.wire.setUp(rng.chance(70));
        break;
      default:
        this.scribble(end);
    }
    end.nic.read(rng.below(0x40) * 4, 4);
    if (rng.chance(30)) this.write(end, EVENT, 0);
  }

  private key(end: End): number {
    return this.odd(end.keys[this.rng.below(end.keys.length + 1)] ?? 0);
  }

  /** An address in a region of the end, for the most part. */
  private place(end: End): number {
    const mr = end.nic.s.mrs[this.rng.below(2)];
    if (!mr) return this.odd(end.base + this.rng.below(RAM_BYTES));
    return this.odd(mr.iova + (this.rng.below(mr.lenBytes) & ~7));
  }

  private put(pa: number, words: readonly number[]): void {
    words.forEach((word, i) => {
      this.memory.writeBytes(pa + 4 * i, Uint8Array.of(word, word >>> 8, word >>> 16, word >>> 24));
    });
    // What the drivers write themselves is no harm.
    this.offer(pa, 4 * words.length);
  }

  private pieces(end: End, n: number, mostBytes: number): number[] {
    const words: number[] = [];
    for (let i = 0; i < n; i++)
      words.push(this.place(end), 0, this.odd(this.rng.below(mostBytes)), this.key(end));
    return words;
  }

  private postSends(end: End): void {
    const { rng } = this;
    const other = this.end(1 - this.ends.indexOf(end));
    for (let n = 1 + rng.below(3); n > 0; n--) {
      const opcode = OPCODES[rng.below(OPCODES.length)] ?? 0;
      const eight = opcode === 5 || opcode === 6 || opcode === 15;
      const nr = opcode === 14 ? 0 : eight ? 1 : rng.below(4);
      const flags = rng.chance(90) ? 1 | (rng.below(4) << 1) : rng.next();
      const head = [rng.next(), 0, this.odd(opcode), flags, 7, this.odd(nr), this.place(other), 0];
      const rest = [this.key(other), this.odd(1), rng.below(5000), 0, 5, 6, 7, 8];
      const pieces = this.pieces(end, Math.max(1, nr), rng.chance(20) ? 9000 : 700);
      if (eight) pieces[2] = 8;
      const slot = end.posted & 7;
      this.put(end.base + SQ_PAGE * PAGE_SIZE + slot * SQ_ENTRY, [...head, ...rest, ...pieces]);
      end.posted = (end.posted + 1) & 0xffff;
    }
    this.write(end, SQ_DOORBELL, this.odd(end.posted));
  }

  private postRecv(end: End): void {
    const nr = this.rng.below(4);
    const slot = end.received & 7;
    const words = [this.rng.next(), 0, this.odd(nr), 0, ...this.pieces(end, nr, 3000)];
    this.put(end.base + RQ_PAGE * PAGE_SIZE + slot * RQ_ENTRY, words);
    end.received = (end.received + 1) & 0xffff;
    this.write(end, RQ_DOORBELL, this.odd(end.received));
  }

  /** Changes a word of a queue that the NIC may be about to read. */
  private scribble(end: End): void {
    this.put(end.base + this.rng.below((2 * PAGE_SIZE) / 4) * 4, [this.rng.next()]);
  }

  /* ---- time passes ---- */

  private settle(): void {
    this.mood.accesses = 0;
    this.mood.waiting = false;
    for (const { port, regions } of this.ends) {
      regions.settle();
      port.listener();
    }
  }

  private advance(events: number): void {
    const { clock, mood } = this;
    for (let n = 0; n < events; n++) {
      if (mood.waiting) this.settle();
      if (clock.nextAt === Number.POSITIVE_INFINITY) {
        if (!mood.waiting) return;
        continue;
      }
      mood.accesses = 0;
      clock.now = Math.max(clock.now, clock.nextAt);
      clock.deliverDue();
    }
  }

  /** Nothing but what was offered has changed. */
  private verdict(): string | null {
    const first = this.memory.offsetOf(RAM_BASE);
    for (let page = first; page < first + RAM_BYTES; page += PAGE_SIZE) {
      if (UNTOUCHED_PAGE.equals(this.memory.u8.subarray(page, page + PAGE_SIZE))) continue;
      for (let at = page; at < page + PAGE_SIZE; at++)
        if (this.memory.u8[at] !== UNTOUCHED && this.offered[at - first] === 0)
          return `byte ${at - first} of RAM has changed, and was offered to nobody`;
    }
    return null;
  }
}

export const RDMA_TARGETS: readonly FuzzTarget[] = [
  {
    name: 'rdma',
    describe: 'two RDMA NICs: commands, queues, doorbells, a wire that loses packets',
    create: (): FuzzCase => {
      const attack = new Attack();
      return (rng) => attack.run(rng);
    },
  },
];
