/**
 * The wire between two RDMA NICs: packets arrive at the other end in order, after a time.
 *
 * A direction carries one packet after the other, 128 bytes in an instruction (10 Gbit/s at 10 ns), and
 * each is LATENCY instructions on its way. It holds 64 packets: an end that finds it full waits to be
 * told. A receiver that cannot take a packet yet stops the direction, as a pause frame does, and says
 * when it can. A wire may lose packets, by a seed, and may be pulled and plugged in again.
 */
import type { Clock } from '#emu';
import { createPacket, type RdmaPacket, restorePacket, savePacket } from './packet.ts';

/** Packets of one direction. */
const SLOTS = 64;
const BYTES_PER_INSTRUCTION = 128;
/** Bytes of a packet beside its payload. */
const HEADER_BYTES = 64;
const RDMA_DEFAULT_LATENCY = 500;

/** Event: the oldest packet from side `arg` arrives. */
const EVENT_ARRIVE = 0;

/** A NIC, as the wire sees it. */
export interface RdmaEndpoint {
  /** Takes a packet. False: not yet; the same one comes again after RdmaLink.resume(). */
  receive(packet: Readonly<RdmaPacket>): boolean;
  /** There is room on the wire again. */
  sendable(): void;
  linkChanged(up: boolean): void;
}

/** The wire, as a NIC sees it. */
export interface RdmaLink {
  readonly up: boolean;
  attach(endpoint: RdmaEndpoint): void;
  /** A record to fill, the same until push(); undefined while the wire is full. */
  claim(): RdmaPacket | undefined;
  /** Sends what was claimed. */
  push(): void;
  /** The packet that receive() did not take may be delivered again. */
  resume(): void;
}

export interface RdmaWireConfig {
  clock: Clock;
  /** Name for the clock's events. */
  name: string;
  /** Instructions that a packet is on its way, 1 at least; 500 where not given. */
  latency?: number;
  /** Of 1000 packets, so many are lost: which ones depends on the seed and their number alone. */
  lossPermille?: number;
  seed?: number;
}

/** Packets from one side to the other. */
interface Direction {
  packets: RdmaPacket[];
  /** When each arrives. */
  when: Float64Array;
  /** Counts of packets taken out and put in; a packet's place is its count modulo SLOTS. */
  head: number;
  tail: number;
  /** When the last one has left its sender. */
  busyUntil: number;
  /** The receiver has refused the oldest one. */
  stopped: boolean;
  /** An event for the oldest one is on the clock. */
  scheduled: boolean;
  /** Packets sent, lost ones too. */
  sent: number;
  lost: number;
}

interface DirectionState extends Omit<Direction, 'packets' | 'when'> {
  packets: RdmaPacket[];
  when: number[];
}

/** What a saved machine keeps of a wire; its events are the clock's. */
export interface RdmaWireState {
  up: boolean;
  directions: DirectionState[];
}

const createDirection = (): Direction => ({
  packets: Array.from({ length: SLOTS }, createPacket),
  when: new Float64Array(SLOTS),
  head: 0,
  tail: 0,
  busyUntil: 0,
  stopped: false,
  scheduled: false,
  sent: 0,
  lost: 0,
});

export class RdmaWire {
  private readonly config: RdmaWireConfig;
  private readonly latency: number;
  private readonly directions: readonly [Direction, Direction];
  private readonly endpoints: (RdmaEndpoint | undefined)[];
  /** Direction that is being delivered, or -1. */
  private delivering: number;
  private isUp: boolean;

  constructor(config: RdmaWireConfig) {
    this.config = config;
    this.latency = Math.max(1, config.latency ?? RDMA_DEFAULT_LATENCY);
    this.directions = [createDirection(), createDirection()];
    this.endpoints = [undefined, undefined];
    this.delivering = -1;
    this.isUp = true;
    config.clock.receive(config.name, (_kind, side) => this.arrive(side === 0 ? 0 : 1));
  }

  get up(): boolean {
    return this.isUp;
  }

  /** Packets that were lost on the way, in both directions. */
  get lost(): number {
    return this.directions[0].lost + this.directions[1].lost;
  }

  /** The end at side 0 or 1. */
  end(side: 0 | 1): RdmaLink {
    const wire = this;
    return {
      get up(): boolean {
        return wire.isUp;
      },
      attach: (endpoint) => {
        this.endpoints[side] = endpoint;
      },
      claim: () => this.claim(side),
      push: () => this.push(side),
      resume: () => this.resume(side),
    };
  }

  /** Pulls the wire, with all that is on it, or plugs it in again. */
  setUp(up: boolean): void {
    if (up === this.isUp) return;
    this.isUp = up;
    for (const side of [0, 1] as const) {
      const direction = this.directions[side];
      if (direction.scheduled) this.config.clock.cancel(this.config.name, EVENT_ARRIVE, side);
      direction.scheduled = false;
      direction.stopped = false;
      direction.head = direction.tail;
    }
    for (const endpoint of this.endpoints) endpoint?.linkChanged(up);
  }

  save(): RdmaWireState {
    return { up: this.isUp, directions: this.directions.map(saveDirection) };
  }

  /** Schedules nothing and tells nobody: clock and NICs are restored too. */
  restore(state: RdmaWireState): void {
    this.isUp = state.up;
    for (const [i, direction] of this.directions.entries()) {
      const saved = state.directions[i];
      if (saved === undefined) throw new Error('rdma wire: restored from one direction');
      const { packets, when, ...rest } = saved;
      Object.assign(direction, rest);
      for (const [n, packet] of packets.entries()) {
        const slot = (direction.head + n) % SLOTS;
        direction.when[slot] = when[n] ?? 0;
        const into = direction.packets[slot];
        if (into !== undefined) restorePacket(into, packet);
      }
    }
  }

  private claim(side: 0 | 1): RdmaPacket | undefined {
    const direction = this.directions[side];
    if (direction.tail - direction.head === SLOTS) return undefined;
    return direction.packets[direction.tail % SLOTS];
  }

  private push(side: 0 | 1): void {
    const direction = this.directions[side];
    const packet = this.claim(side);
    if (packet === undefined) throw new Error('rdma wire: a packet that was not claimed');
    const { clock } = this.config;
    const nth = direction.sent++;
    const onWire = Math.ceil((HEADER_BYTES + packet.payloadBytes) / BYTES_PER_INSTRUCTION);
    direction.busyUntil = Math.max(direction.busyUntil, clock.now) + onWire;
    if (!this.isUp || this.loses(side, nth)) {
      direction.lost++;
      return;
    }
    direction.when[direction.tail % SLOTS] = direction.busyUntil + this.latency;
    direction.tail++;
    if (this.delivering !== side) this.schedule(side);
  }

  private loses(side: number, nth: number): boolean {
    const { lossPermille = 0, seed = 0 } = this.config;
    if (lossPermille === 0) return false;
    let x = Math.imul(nth * 2 + side + 1, 0x9e37_79b1) ^ seed;
    x = Math.imul(x ^ (x >>> 16), 0x21f0_aaad);
    x = Math.imul(x ^ (x >>> 15), 0x735a_2d97);
    return ((x ^ (x >>> 15)) >>> 0) % 1000 < lossPermille;
  }

  private schedule(side: 0 | 1): void {
    const direction = this.directions[side];
    if (direction.scheduled || direction.stopped || direction.head === direction.tail) return;
    direction.scheduled = true;
    const when = direction.when[direction.head % SLOTS]!;
    this.config.clock.at(when, this.config.name, EVENT_ARRIVE, side);
  }

  private resume(side: 0 | 1): void {
    const from = side === 0 ? 1 : 0;
    const direction = this.directions[from];
    if (!direction.stopped || this.delivering === from) return;
    direction.stopped = false;
    this.deliver(from);
  }

  private arrive(side: 0 | 1): void {
    this.directions[side].scheduled = false;
    this.deliver(side);
  }

  /** Hands over what has arrived, up to a packet that is refused. */
  private deliver(side: 0 | 1): void {
    const direction = this.directions[side];
    const receiver = this.endpoints[1 - side];
    const before = this.delivering;
    this.delivering = side;
    while (direction.head !== direction.tail) {
      const slot = direction.head % SLOTS;
      const packet = direction.packets[slot];
      if (packet === undefined || direction.when[slot]! > this.config.clock.now) break;
      if (receiver !== undefined && !receiver.receive(packet)) {
        direction.stopped = true;
        break;
      }
      direction.head++;
      this.endpoints[side]?.sendable();
    }
    this.delivering = before;
    this.schedule(side);
  }
}

const saveDirection = (direction: Direction): DirectionState => {
  const { packets, when, ...rest } = direction;
  const waiting = Array.from(
    { length: direction.tail - direction.head },
    (_, n) => (direction.head + n) % SLOTS,
  );
  return {
    ...rest,
    packets: waiting.flatMap((slot) => packets.slice(slot, slot + 1).map(savePacket)),
    when: waiting.map((slot) => when[slot]!),
  };
};
