/**
 * The DMA engine under attack: registers in any order, rings that are not there, descriptors and lists
 * that are nearly right, point at themselves and at each other, memory that is missing or comes late.
 */
import { DMA_CONTROL, DMA_DESC_BYTES, DMA_SG_BYTES, DmaEngine, type DmaEnginePort } from '#devices';
import { Clock, DMA_FAULT, DMA_OK, DMA_WAIT } from '#emu';
import type { Rng } from '../rng.ts';
import type { FuzzTarget } from './target.ts';

const WINDOW_BYTES = 0x4000;
const WINDOW_BASE = 0x8000_0000;
const RING = 0x0000;
const LISTS = 0x1000;
const DATA = 0x2000;
/** Accesses in one case, at most: a ring of 4096 descriptors is legal, and all of them may have lists. */
const MAX_ACCESSES = 5_000_000;
/** Events of one case, at most. */
const MAX_EVENTS = 5_000;

/** The window as the engine sees it. Only where the descriptor in progress points may it write. */
class WindowPort implements DmaEnginePort {
  readonly bytes: Uint8Array;
  private readonly view: DataView;
  private rng: Rng;
  /** In a hundred accesses. */
  private waits: number;
  private awaited: boolean;
  private listener: () => void;
  private accesses: number;
  copied: number;
  /** [first, end) that the descriptor offers for writing, in pairs. */
  private offered: number[];
  problem: string | null;

  constructor() {
    this.bytes = new Uint8Array(WINDOW_BYTES);
    this.view = new DataView(this.bytes.buffer);
    this.rng = undefined as unknown as Rng;
    this.waits = 0;
    this.awaited = false;
    this.listener = () => {};
    this.accesses = 0;
    this.copied = 0;
    this.offered = [];
    this.problem = null;
  }

  begin(rng: Rng): void {
    this.rng = rng;
    this.waits = rng.chance(30) ? rng.below(30) : 0;
    this.bytes.fill(0);
    this.awaited = false;
    this.accesses = 0;
    this.offered = [];
    this.problem = null;
  }

  onReady(listener: () => void): void {
    this.listener = listener;
  }

  /** What was waited for is there. */
  ready(): void {
    if (!this.awaited) return;
    this.awaited = false;
    this.listener();
  }

  read(address: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const offset = this.reach(address, lenBytes);
    if (offset < 0) return offset;
    into.set(this.bytes.subarray(offset, offset + lenBytes), intoOffset);
    this.offer(address, offset, lenBytes);
    return DMA_OK;
  }

  /** What the engine has read of a descriptor, or of a list that may be the destination's. */
  private offer(address: number, offset: number, lenBytes: number): void {
    if (lenBytes === DMA_DESC_BYTES)
      // Two entries of a list are as long; so what was offered last counts as well.
      this.offered = [
        ...[address + 24, address + 28, this.u64(offset + 8), this.endOf(offset + 8, 8)],
        ...this.offered.slice(0, 4),
      ];
    for (let at = offset; at < offset + lenBytes; at += DMA_SG_BYTES)
      this.offered.push(this.u64(at), this.endOf(at, 8));
  }

  write(address: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const offset = this.reach(address, lenBytes);
    if (offset < 0) return offset;
    this.check(address, lenBytes);
    this.bytes.set(from.subarray(fromOffset, fromOffset + lenBytes), offset);
    return DMA_OK;
  }

  copy(to: number, from: number, lenBytes: number): number {
    this.copied = 0;
    const fromOffset = this.reach(from, lenBytes);
    const toOffset = fromOffset < 0 ? fromOffset : this.reach(to, lenBytes);
    if (toOffset === DMA_WAIT) {
      // A part of it is there already, perhaps.
      const most = Math.min(lenBytes, this.roomAt(from), this.roomAt(to));
      const part = most > 0 ? this.rng.below(most) : 0;
      this.move(to, from, part);
      this.copied = part;
    }
    if (toOffset < 0) return toOffset;
    this.move(to, from, lenBytes);
    return DMA_OK;
  }

  atomicAdd32(): undefined {
    return undefined;
  }

  translate(): number {
    return DMA_FAULT;
  }

  private move(to: number, from: number, lenBytes: number): void {
    if (lenBytes === 0) return;
    this.check(to, lenBytes);
    const at = from - WINDOW_BASE;
    this.bytes.copyWithin(to - WINDOW_BASE, at, at + lenBytes);
  }

  /** Bytes from an address to the end of the window; 0 outside. */
  private roomAt(address: number): number {
    const offset = address - WINDOW_BASE;
    return offset < 0 ? 0 : Math.max(0, WINDOW_BYTES - offset);
  }

  private reach(address: number, lenBytes: number): number {
    if (++this.accesses > MAX_ACCESSES) throw new Error('the engine comes to no end');
    if (this.waits > 0 && this.rng.chance(this.waits)) {
      this.awaited = true;
      return DMA_WAIT;
    }
    const offset = address - WINDOW_BASE;
    return offset < 0 || offset + lenBytes > WINDOW_BYTES ? DMA_FAULT : offset;
  }

  private check(address: number, lenBytes: number): void {
    for (let i = 0; i < this.offered.length; i += 2)
      if (address >= this.offered[i]! && address + lenBytes <= this.offered[i + 1]!) return;
    this.problem ??= `${lenBytes} bytes written at 0x${address.toString(16)}, which nobody offered`;
  }

  private u64(offset: number): number {
    return this.view.getUint32(offset + 4, true) * 2 ** 32 + this.view.getUint32(offset, true);
  }

  private endOf(offset: number, length: number): number {
    return this.u64(offset) + this.view.getUint32(offset + length, true);
  }
}

/** An address that is right as a rule, or at an edge, or nonsense. */
const addressOf = (rng: Rng, base: number): bigint => {
  const near = BigInt(WINDOW_BASE + base + rng.below(0x1000));
  switch (rng.below(12)) {
    case 0:
      return BigInt(WINDOW_BASE + WINDOW_BYTES - rng.below(64));
    case 1:
      return BigInt(WINDOW_BASE - rng.below(64));
    case 2:
      return (BigInt(rng.next()) << 32n) | BigInt(rng.next());
    case 3:
      return 0xffff_ffff_ffff_ffffn - BigInt(rng.below(64));
    case 4:
      return BigInt(WINDOW_BASE + RING + rng.below(0x100));
    default:
      return near;
  }
};

const lengthOf = (rng: Rng): number =>
  rng.below(8) === 0 ? [0, 0xffff_ffff, 1 << 20, (1 << 20) + 1][rng.below(4)]! : 1 + rng.below(600);

/** Fills some descriptors, and lists that run into one another. */
const fillMemory = (rng: Rng, view: DataView): void => {
  for (let n = 1 + rng.below(6); n > 0; n--) {
    const at = RING + rng.below(8) * DMA_DESC_BYTES;
    const flags = rng.below(10) === 0 ? rng.next() : rng.below(8);
    view.setBigUint64(at, addressOf(rng, (flags & 2) !== 0 ? LISTS : DATA), true);
    view.setBigUint64(at + 8, addressOf(rng, (flags & 4) !== 0 ? LISTS : DATA), true);
    view.setUint32(at + 16, lengthOf(rng), true);
    view.setUint32(at + 20, flags, true);
  }
  for (let n = rng.below(24); n > 0; n--) {
    const at = LISTS + rng.below(64) * DMA_SG_BYTES;
    view.setBigUint64(at, addressOf(rng, DATA), true);
    view.setUint32(at + 8, lengthOf(rng), true);
    view.setUint32(at + 12, rng.below(3) === 0 ? 1 : 0, true);
  }
};

/** A write to a register, mostly one that makes the engine work. */
const writeRegister = (rng: Rng, engine: DmaEngine): void => {
  const tail = engine.read(0x1c, 4);
  switch (rng.below(8)) {
    case 0:
      engine.write(0x10, 4, rng.below(4) === 0 ? rng.next() : WINDOW_BASE + RING);
      break;
    case 1:
      engine.write(0x18, 4, rng.below(3) === 0 ? rng.next() : 1 << rng.below(5));
      break;
    case 2:
      engine.write(0x08, 4, rng.below(6) === 0 ? rng.next() : 3);
      break;
    case 3:
      engine.write(rng.below(64) * 4, [1, 2, 4][rng.below(3)]!, rng.next());
      break;
    case 4:
      engine.write(0x24, 4, rng.below(4));
      break;
    default:
      engine.write(0x20, 4, tail + rng.below(9));
  }
};

const createCase = () => {
  const clock = new Clock();
  const port = new WindowPort();
  const view = new DataView(port.bytes.buffer);
  const engine = new DmaEngine({ clock, irq: { set: () => {} }, port });
  return (rng: Rng): string | null => {
    port.begin(rng);
    engine.reset();
    engine.write(0x10, 4, WINDOW_BASE + RING);
    engine.write(0x18, 4, 8);
    engine.write(DMA_CONTROL, 4, 3);
    engine.write(0x28, 4, rng.below(4) === 0 ? rng.next() : rng.below(100));
    let events = 0;
    for (let n = 2 + rng.below(8); n > 0; n--) {
      fillMemory(rng, view);
      writeRegister(rng, engine);
      port.ready();
      for (
        let turns = rng.below(6);
        turns > 0 && clock.nextAt < Number.POSITIVE_INFINITY;
        turns--
      ) {
        if (++events > MAX_EVENTS) return 'the engine comes to no end';
        clock.now = Math.max(clock.now, clock.nextAt);
        clock.deliverDue();
        port.ready();
      }
      engine.read(rng.below(16) * 4, 4);
    }
    if (port.problem !== null) return port.problem;
    engine.reset();
    if (engine.busy || clock.nextAt < Number.POSITIVE_INFINITY) return 'not idle after a reset';
    return null;
  };
};

export const DMA_ENGINE_TARGETS: readonly FuzzTarget[] = [
  {
    name: 'dma-engine',
    describe: 'the DMA engine: registers, rings, descriptors and lists, memory that comes late',
    create: createCase,
  },
];
