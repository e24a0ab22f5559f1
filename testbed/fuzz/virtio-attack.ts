/**
 * A hostile driver for any virtio device: registers in any order, rings, descriptors and tables that are
 * nearly right, memory that has to be waited for. virtio 1.2, chapters 2 and 4.2.
 *
 * All memory is a window of WINDOW_BYTES; what is outside it is a bus error. Every
 * descriptor of every ring is looked at when it has been written: only bytes that one has offered for
 * writing, and the areas in which the device answers, may change; and only what one offers for reading,
 * rings and tables are read.
 */
import { type VirtioDevice, VirtioMmio } from '#devices';
import { Clock, DMA_FAULT, DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import type { Rng } from '../rng.ts';
import type { FuzzTarget } from './target.ts';

const WINDOW_BYTES = 0x4000;
const WINDOW_BASE = 0x8000_0000;
/** Accesses to memory in one case, at most: beyond it the device has no end. */
const MAX_ACCESSES = 100_000;
/** Instructions that pass between two attacks, at most. */
const MAX_GAP = 30_000;
/** Tables are looked at as far as any queue allows. */
const MAX_TABLE = 1024;

/** Bytes of a buffer that a device's target fills. */
const FILL_BYTES = 64;
/** Lengths that headers, answers and sectors have. */
const USUAL_LENGTHS = [1, 4, 16, 32, 512, 513, 528, 1024];

const FEATURES_OF_RINGS = (1n << 28n) | (1n << 29n) | (1n << 38n) | (1n << 40n);
const VERSION_1 = 1n << 32n;
const RING_PACKED = 1n << 34n;

/** How long the pieces of a buffer are: those that the device reads, those that it writes. */
export interface BufferShape {
  reads: number[];
  writes: number[];
}

/** A device under attack. */
export interface AttackedDevice {
  device: VirtioDevice;
  /** Lengths of the pieces that a buffer of such a device has, first those that are read. */
  shape?(rng: Rng): BufferShape;
  /** Puts at `at` what a buffer of such a device begins with, nearly right. FILL_BYTES are there. */
  fill?(memory: DataView, at: number, rng: Rng): void;
  /** Something of the device's own happens: its backend completes, or has something to say. */
  settle?(rng: Rng): void;
}

/** One queue as the driver has set it up. */
interface Ring {
  size: number;
  packed: boolean;
  desc: number;
  driver: number;
  device: number;
  /** Entries that sound buffers have taken so far. */
  offered: number;
}

/** The window, and who may read and write what. */
class WindowPort implements DmaPort {
  readonly bytes: Uint8Array;
  readonly view: DataView;
  rings: Ring[];
  /** 1 by byte of the window: some descriptor offers it for writing, or the device answers there. */
  private readonly mayChange: Uint8Array;
  /** For reading, or it is the driver's part of a ring. */
  private readonly mayRead: Uint8Array;
  /** It is a descriptor's. */
  private readonly isDescriptor: Uint8Array;
  accesses: number;
  /** In a hundred accesses. */
  waits: number;
  problem: string | null;
  private readonly rng: Rng;
  private listener: () => void;
  private awaited: boolean;

  /** @param room for the window and what is marked of it: 4 x WINDOW_BYTES of zeroes */
  constructor(room: Uint8Array, rng: Rng) {
    const bytes = room.subarray(0, WINDOW_BYTES);
    this.bytes = bytes;
    this.view = new DataView(bytes.buffer);
    this.rng = rng;
    this.rings = [];
    this.mayChange = room.subarray(WINDOW_BYTES, 2 * WINDOW_BYTES);
    this.isDescriptor = room.subarray(2 * WINDOW_BYTES, 3 * WINDOW_BYTES);
    this.mayRead = room.subarray(3 * WINDOW_BYTES);
    this.accesses = 0;
    this.waits = 0;
    this.problem = null;
    this.listener = () => {};
    this.awaited = false;
  }

  /** Offset in the window, DMA_FAULT or DMA_WAIT. @throws Error where the device has no end */
  private reach(address: number, lenBytes: number): number {
    if (++this.accesses > MAX_ACCESSES) throw new Error('the device comes to no end');
    if (this.waits > 0 && this.rng.chance(this.waits)) {
      this.awaited = true;
      return DMA_WAIT;
    }
    const offset = address - WINDOW_BASE;
    return offset < 0 || offset + lenBytes > WINDOW_BYTES ? DMA_FAULT : offset;
  }

  read(address: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const offset = this.reach(address, lenBytes);
    if (offset < 0) return offset;
    if (this.mayRead.subarray(offset, offset + lenBytes).includes(0))
      this.problem ??= `${lenBytes} bytes read at 0x${address.toString(16)}, which nobody offered`;
    into.set(this.bytes.subarray(offset, offset + lenBytes), intoOffset);
    return DMA_OK;
  }

  write(address: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const offset = this.reach(address, lenBytes);
    if (offset < 0) return offset;
    if (this.mayChange.subarray(offset, offset + lenBytes).includes(0))
      this.problem ??= `${lenBytes} bytes written at 0x${address.toString(16)}, which nobody offered`;
    this.bytes.set(from.subarray(fromOffset, fromOffset + lenBytes), offset);
    // A device that is made to write descriptors offers itself what they say.
    if (this.isDescriptor.subarray(offset, offset + lenBytes).includes(1)) this.look();
    return DMA_OK;
  }

  atomicAdd32(): undefined {
    return undefined;
  }

  translate(): number {
    return DMA_FAULT;
  }

  onReady(listener: () => void): void {
    this.listener = listener;
  }

  /** What was waited for has come. */
  ready(): void {
    if (!this.awaited) return;
    this.awaited = false;
    this.listener();
  }

  /**
   * Marks what every descriptor offers as it stands now. To be called when the driver has written
   * descriptors; what it takes back later was offered all the same.
   */
  look(): void {
    for (const { size, packed, desc, driver, device } of this.rings) {
      mark(this.mayRead, driver, packed ? 4 : 6 + 2 * size);
      mark(this.mayChange, device, packed ? 4 : 6 + 8 * size);
      if (packed) mark(this.mayChange, desc, 16 * size);
      this.lookAtTable(desc, size, packed ? 14 : 12, true);
    }
  }

  private lookAtTable(table: number, count: number, flagsAt: number, outer: boolean): void {
    mark(this.isDescriptor, table, 16 * count);
    mark(this.mayRead, table, 16 * count);
    for (let i = 0; i < count; i++) {
      const at = table + 16 * i;
      if (at < 0 || at + 16 > WINDOW_BYTES) return;
      const flags = this.view.getUint16(at + flagsAt, true);
      const hi = this.view.getUint32(at + 4, true);
      const start = hi * 2 ** 32 + this.view.getUint32(at, true) - WINDOW_BASE;
      const lenBytes = this.view.getUint32(at + 8, true);
      mark((flags & 2) !== 0 ? this.mayChange : this.mayRead, start, lenBytes);
      if (outer && (flags & 4) !== 0)
        this.lookAtTable(start, Math.min(lenBytes >>> 4, MAX_TABLE), flagsAt, false);
    }
  }
}

const mark = (marks: Uint8Array, start: number, lenBytes: number): void => {
  if (start < WINDOW_BYTES) marks.fill(1, Math.max(start, 0), Math.max(start + lenBytes, 0));
};

/** One case. */
class Attack {
  private readonly rng: Rng;
  private readonly port: WindowPort;
  private readonly clock: Clock;
  private readonly mmio: VirtioMmio;
  private readonly attacked: AttackedDevice;
  private line: boolean;

  constructor(
    rng: Rng,
    room: Uint8Array,
    create: (port: DmaPort, clock: Clock, rng: Rng) => AttackedDevice,
  ) {
    this.rng = rng;
    this.port = new WindowPort(room, rng);
    this.clock = new Clock();
    this.line = false;
    this.attacked = create(this.port, this.clock, rng);
    this.mmio = new VirtioMmio({
      device: this.attacked.device,
      port: this.port,
      irq: {
        set: (level) => {
          this.line = level;
        },
      },
    });
  }

  run(): string | null {
    const { rng, port } = this;
    if (rng.chance(90)) this.setUp();
    if (rng.chance(30)) port.waits = 1 + rng.below(30);
    for (let rounds = 1 + rng.below(4); rounds > 0; rounds--) {
      if (rng.chance(85)) this.spoilRings();
      this.fillBuffers();
      if (rng.chance(25)) this.pokeRegisters();
      if (rng.chance(10)) this.saveAndRestore();
      this.write(0x050, rng.below(this.nrQueues + 1));
      this.attacked.settle?.(rng);
      this.pass(rng.below(MAX_GAP));
      port.ready();
      const wrong = port.problem ?? this.check();
      if (wrong !== null) return wrong;
    }
    return this.checkReset();
  }

  private get nrQueues(): number {
    return this.attacked.device.queueSizes.length;
  }

  private read(offset: number): number {
    return this.mmio.read(offset, 4);
  }

  private write(offset: number, value: number): void {
    this.mmio.write(offset, 4, value >>> 0);
  }

  /** Machine time passes. */
  private pass(instructions: number): void {
    const until = this.clock.now + instructions;
    for (let events = 0; this.clock.nextAt <= until; events++) {
      if (events > 100) throw new Error('the clock comes to no end');
      this.clock.now = Math.max(this.clock.now, this.clock.nextAt);
      this.clock.deliverDue();
    }
    this.clock.now = until;
  }

  /** As a driver does it, nearly. */
  private setUp(): void {
    const { rng } = this;
    const { device } = this.attacked;
    const wanted =
      VERSION_1 |
      (rng.chance(50) ? RING_PACKED : 0n) |
      ((FEATURES_OF_RINGS | device.features) & (BigInt(rng.next()) | (BigInt(rng.next()) << 32n)));
    this.write(0x070, 3);
    for (const half of [0, 1]) {
      this.write(0x024, half);
      this.write(0x020, Number((wanted >> BigInt(32 * half)) & 0xffff_ffffn));
    }
    if (rng.chance(97)) this.write(0x070, 11);
    for (let i = 0; i < this.nrQueues; i++) if (rng.chance(90)) this.setUpQueue(i, wanted);
    if (rng.chance(97)) this.write(0x070, 15);
  }

  private setUpQueue(index: number, features: bigint): void {
    const { rng } = this;
    const packed = (features & RING_PACKED) !== 0n;
    const size = rng.chance(95)
      ? packed
        ? 1 + rng.below(16)
        : 1 << rng.below(5)
      : rng.next() & 0xff;
    // Places may overlap, and now and then lie outside or across the window's end.
    const place = (align: number): number =>
      rng.chance(96)
        ? rng.below(WINDOW_BYTES / align) * align
        : rng.below((2 * WINDOW_BYTES) / align) * align;
    const areas = { desc: place(16), driver: place(4), device: place(4) };
    const ring = { size, packed, ...areas, offered: 0 };
    this.write(0x030, index);
    this.write(0x038, size);
    for (const [offset, at] of [
      [0x080, ring.desc],
      [0x090, ring.driver],
      [0x0a0, ring.device],
    ] as const) {
      this.write(offset, WINDOW_BASE + at);
      this.write(offset + 4, rng.chance(99) ? 0 : rng.next());
    }
    this.port.rings.push(ring);
    this.port.look();
    this.write(0x044, 1);
  }

  private spoilRings(): void {
    for (const ring of this.port.rings) {
      if (this.rng.chance(60)) {
        for (let n = 1 + this.rng.below(3); n > 0; n--) this.offer(ring);
        continue;
      }
      for (let n = 1 + this.rng.below(ring.size); n > 0; n--)
        this.putDescriptor(ring.desc + 16 * this.rng.below(ring.size), ring);
      this.makeAvailable(ring);
    }
    this.port.look();
  }

  /** A buffer that breaks no rule, and its entry in the driver's area. */
  private offer(ring: Ring): void {
    const { rng } = this;
    const { view } = this.port;
    const usual = (most: number): number[] =>
      Array.from(
        { length: rng.below(most + 1) },
        () => USUAL_LENGTHS[rng.below(USUAL_LENGTHS.length)] ?? 0,
      );
    const shape = this.attacked.shape?.(rng) ?? { reads: usual(2), writes: usual(3) };
    const lengths = [...shape.reads, ...shape.writes];
    if (lengths.length === 0 || lengths.length > ring.size) return;
    const first = ring.packed ? ring.offered : rng.below(ring.size);
    lengths.forEach((lenBytes, i) => {
      const at = ring.desc + 16 * ((first + i) % ring.size);
      if (at + 16 > WINDOW_BYTES) return;
      const next = i + 1 < lengths.length ? 1 : 0;
      const flags = next | (i < shape.reads.length ? 0 : 2);
      const lap = Math.floor((first + i) / ring.size) % 2 === 0 ? 0x80 : 0x8000;
      view.setUint32(at, WINDOW_BASE + rng.below(Math.max(1, WINDOW_BYTES - lenBytes)), true);
      view.setUint32(at + 4, 0, true);
      view.setUint32(at + 8, lenBytes, true);
      view.setUint16(at + 12, ring.packed ? i : flags, true);
      view.setUint16(at + 14, ring.packed ? flags | lap : (first + i + 1) % ring.size, true);
    });
    ring.offered += lengths.length;
    const { driver, size } = ring;
    if (ring.packed || driver + 4 + 2 * size > WINDOW_BYTES) return;
    const idx = view.getUint16(driver + 2, true);
    view.setUint16(driver + 4 + 2 * (idx % size), first, true);
    view.setUint16(driver + 2, idx + 1, true);
  }

  /** Contents for some of what descriptors offer for reading. */
  private fillBuffers(): void {
    const { rng, port, attacked } = this;
    if (attacked.fill === undefined) return;
    for (const { size, packed, desc } of port.rings)
      for (let at = desc; at < desc + 16 * size && at + 16 <= WINDOW_BYTES; at += 16) {
        const flags = port.view.getUint16(at + (packed ? 14 : 12), true);
        const start = port.view.getUint32(at, true) - WINDOW_BASE;
        const readable = (flags & 2) === 0 && start >= 0 && start + FILL_BYTES <= WINDOW_BYTES;
        if (readable && rng.chance(80)) attacked.fill(port.view, start, rng);
      }
    port.look();
  }

  /** A descriptor that is nearly right; one that refers to a table brings it along. */
  private putDescriptor(at: number, ring: Ring, inTable = false): void {
    const { rng } = this;
    const { view } = this.port;
    if (at + 16 > WINDOW_BYTES) return;
    let flags = rng.below(8);
    if (rng.chance(70)) flags &= 3;
    const nested = (flags & 4) !== 0;
    const target = rng.below(WINDOW_BYTES);
    const tableBytes = 16 * (1 + rng.below(8)) + (rng.chance(5) ? rng.below(16) : 0);
    const bufferBytes = rng.chance(50)
      ? (USUAL_LENGTHS[rng.below(USUAL_LENGTHS.length)] ?? 0)
      : rng.below(600);
    const lenBytes = rng.chance(95) ? (nested ? tableBytes : bufferBytes) : rng.next();
    if (nested && !inTable)
      for (let i = 0; i < 4; i++) this.putDescriptor(target + 16 * rng.below(8), ring, true);
    view.setUint32(at, rng.chance(97) ? WINDOW_BASE + target : rng.next(), true);
    view.setUint32(at + 4, rng.chance(99) ? 0 : rng.next(), true);
    view.setUint32(at + 8, lenBytes, true);
    const near = rng.chance(95) ? rng.below(ring.size) : rng.next() & 0xffff;
    const lap = rng.chance(60) ? 0x80 : (rng.next() & 1) === 0 ? 0x8000 : 0;
    view.setUint16(at + 12, ring.packed ? near : flags, true);
    view.setUint16(at + 14, ring.packed ? flags | lap : near, true);
  }

  /** The driver's area: indices a little further, or anything; in a packed ring event suppression. */
  private makeAvailable(ring: Ring): void {
    const { rng } = this;
    const { view } = this.port;
    const put16 = (at: number, value: number): void => {
      if (at + 2 <= WINDOW_BYTES) view.setUint16(at, value & 0xffff, true);
    };
    if (ring.packed) {
      put16(ring.driver, rng.next());
      put16(ring.driver + 2, rng.chance(95) ? rng.below(4) : rng.next());
      return;
    }
    for (let i = 0; i < ring.size; i++)
      put16(ring.driver + 4 + 2 * i, rng.chance(97) ? rng.below(ring.size) : rng.next());
    if (ring.driver + 4 > WINDOW_BYTES) return;
    const before = view.getUint16(ring.driver + 2, true);
    put16(ring.driver + 2, rng.chance(95) ? before + rng.below(ring.size + 1) : rng.next());
    put16(ring.driver, rng.below(2));
  }

  private pokeRegisters(): void {
    const { rng, mmio } = this;
    for (let n = 1 + rng.below(6); n > 0; n--) {
      const sizeBytes = 1 << rng.below(3);
      const offset = rng.chance(80) ? rng.below(0x50) * 4 : rng.below(0x1000);
      // Moved rings would be the driver's doing: their places are not written to here.
      if (offset >= 0x080 && offset < 0x0a8) continue;
      if (rng.chance(50)) {
        const value = mmio.read(offset, sizeBytes);
        if (!Number.isInteger(value) || value < 0 || value >= 2 ** (8 * sizeBytes))
          this.port.problem ??= `register 0x${offset.toString(16)} reads ${value} in ${sizeBytes} bytes`;
      } else mmio.write(offset, sizeBytes, rng.chance(60) ? rng.below(16) : rng.next());
    }
  }

  private saveAndRestore(): void {
    this.mmio.restore(structuredClone(this.mmio.save()));
  }

  /** What holds whatever the driver does. */
  private check(): string | null {
    const status = this.read(0x060);
    if ((status & ~3) !== 0) return `InterruptStatus ${status}`;
    if (this.line !== (status !== 0)) return `line ${this.line}, InterruptStatus ${status}`;
    if ((this.read(0x070) & ~0xcf) !== 0) return `Status ${this.read(0x070)}`;
    return null;
  }

  private checkReset(): string | null {
    this.write(0x070, 0);
    this.port.waits = 0;
    for (let turns = 0; this.read(0x070) !== 0; turns++) {
      if (turns > 1000) return 'a reset that does not complete';
      this.attacked.settle?.(this.rng);
      this.pass(MAX_GAP);
    }
    for (let i = 0; i < this.nrQueues; i++) {
      this.write(0x030, i);
      if (this.read(0x044) !== 0) return `queue ${i} is ready after a reset`;
    }
    return this.port.problem ?? (this.line ? 'the line is high after a reset' : null);
  }
}

/** A target that attacks one kind of device. @param create makes it, over the window and a clock */
export const virtioTarget = (
  name: string,
  describe: string,
  create: (port: DmaPort, clock: Clock, rng: Rng) => AttackedDevice,
): FuzzTarget => ({
  name,
  describe,
  create: () => {
    const room = new Uint8Array(4 * WINDOW_BYTES);
    return (rng) => {
      room.fill(0);
      return new Attack(rng, room, create).run();
    };
  },
});
