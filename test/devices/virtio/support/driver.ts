/**
 * The driver's side of a virtqueue, of both formats, straight from virtio 1.2 (2.7 and 2.8): a plain
 * memory view, no care for speed, nothing shared with the device's code.
 */

/** A piece of a buffer: where it is, and whether the device writes it. */
export interface Segment {
  at: number;
  len: number;
  write: boolean;
}

/** How a buffer is described: a chain in the ring, a table, or (split only) a chain that ends in a table. */
export type Shape = 'direct' | 'indirect' | 'mixed';

export interface UsedBuffer {
  /** What offer() returned. */
  key: number;
  len: number;
}

/** One queue as its driver has it. */
export interface DriverQueue {
  readonly descArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  readonly size: number;
  /** Makes a buffer available; undefined when the ring has no room. */
  offer(segments: readonly Segment[], shape: Shape, table: number): number | undefined;
  /** The next buffer that came back. */
  collect(): UsedBuffer | undefined;
  /** Must the device be told of what was offered since the last call? */
  mustKick(): boolean;
  /** What a notification says beside the queue's index (VIRTIO_F_NOTIFICATION_DATA). */
  readonly kickData: number;
  /** No interrupts; all of them; or the next used buffer alone, where there are event indices. */
  interrupts(when: 'never' | 'always' | 'next'): void;
  /**
   * Must the device interrupt for the buffer that it gives back next, this one, judged by what the
   * driver's area says now?
   */
  mustInterrupt(key: number): boolean;
}

const NEXT = 1;
const WRITE = 2;
const INDIRECT = 4;
const AVAIL = 0x80;
const USED = 0x8000;

const putDescriptor = (
  view: DataView,
  at: number,
  address: number,
  len: number,
  third: number,
  fourth: number,
): void => {
  view.setBigUint64(at, BigInt(address), true);
  view.setUint32(at + 8, len, true);
  view.setUint16(at + 12, third, true);
  view.setUint16(at + 14, fourth, true);
};

export interface QueuePlace {
  view: DataView;
  /** Bus address of the view's first byte. */
  base: number;
  /** Bus address of room for the queue: 4 KiB that nobody else uses. */
  room: number;
  size: number;
  eventIdx: boolean;
}

export class SplitDriver implements DriverQueue {
  readonly descArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  readonly size: number;
  private readonly p: QueuePlace;
  private free: number[];
  private readonly chains = new Map<number, number[]>();
  private availIdx = 0;
  private kickedIdx = 0;
  private usedIdx = 0;

  constructor(p: QueuePlace) {
    this.p = p;
    this.size = p.size;
    this.descArea = p.room;
    this.driverArea = p.room + 16 * p.size;
    this.deviceArea = this.driverArea + ((6 + 2 * p.size + 3) & ~3);
    this.free = Array.from({ length: p.size }, (_, i) => p.size - 1 - i);
  }

  private u16(at: number): number {
    return this.p.view.getUint16(at - this.p.base, true);
  }

  private put16(at: number, value: number): void {
    this.p.view.setUint16(at - this.p.base, value, true);
  }

  offer(segments: readonly Segment[], shape: Shape, table: number): number | undefined {
    const { view, base } = this.p;
    const inRing = shape === 'direct' ? segments.length : shape === 'mixed' ? 2 : 1;
    if (this.free.length < inRing) return undefined;
    const ids = Array.from({ length: inRing }, () => this.free.pop()!);
    const direct = shape === 'direct' ? segments : shape === 'mixed' ? segments.slice(0, 1) : [];
    const inTable = segments.slice(direct.length);
    ids.forEach((id, i) => {
      const at = this.descArea - base + 16 * id;
      const more = i + 1 < ids.length ? NEXT : 0;
      const segment = direct[i];
      if (segment === undefined)
        putDescriptor(view, at, table, 16 * inTable.length, INDIRECT, 0xdead);
      else
        putDescriptor(
          view,
          at,
          segment.at,
          segment.len,
          (segment.write ? WRITE : 0) | more,
          ids[i + 1] ?? 0xdead,
        );
    });
    inTable.forEach(({ at, len, write }, i) => {
      const more = i + 1 < inTable.length ? NEXT : 0;
      putDescriptor(view, table - base + 16 * i, at, len, (write ? WRITE : 0) | more, i + 1);
    });
    this.chains.set(ids[0]!, ids);
    this.put16(this.driverArea + 4 + 2 * (this.availIdx % this.size), ids[0]!);
    this.availIdx = (this.availIdx + 1) % 65536;
    this.put16(this.driverArea + 2, this.availIdx);
    return ids[0];
  }

  collect(): UsedBuffer | undefined {
    if (this.u16(this.deviceArea + 2) === this.usedIdx) return undefined;
    const at = this.deviceArea + 4 + 8 * (this.usedIdx % this.size) - this.p.base;
    const key = this.p.view.getUint32(at, true);
    const ids = this.chains.get(key);
    if (ids === undefined) throw new Error(`used ring names ${key}, which is not out`);
    this.chains.delete(key);
    this.free.push(...ids);
    this.usedIdx = (this.usedIdx + 1) % 65536;
    return { key, len: this.p.view.getUint32(at + 4, true) };
  }

  mustKick(): boolean {
    const from = this.kickedIdx;
    this.kickedIdx = this.availIdx;
    if (!this.p.eventIdx) return from !== this.availIdx && (this.u16(this.deviceArea) & 1) === 0;
    const event = this.u16(this.deviceArea + 4 + 8 * this.size);
    for (let i = from; i !== this.availIdx; i = (i + 1) % 65536) if (i === event) return true;
    return false;
  }

  get kickData(): number {
    return this.availIdx;
  }

  interrupts(when: 'never' | 'always' | 'next'): void {
    if (this.p.eventIdx) {
      // The index that it will not reach, or the next one. Every one cannot be asked for.
      const event = when === 'never' ? (this.usedIdx + 32767) % 65536 : this.usedIdx;
      this.put16(this.driverArea + 4 + 2 * this.size, event);
    } else this.put16(this.driverArea, when === 'never' ? 1 : 0);
  }

  mustInterrupt(_key: number): boolean {
    if (!this.p.eventIdx) return this.u16(this.driverArea) === 0;
    return this.u16(this.driverArea + 4 + 2 * this.size) === this.u16(this.deviceArea + 2);
  }
}

export class PackedDriver implements DriverQueue {
  readonly descArea: number;
  readonly driverArea: number;
  readonly deviceArea: number;
  readonly size: number;
  private readonly p: QueuePlace;
  private room: number;
  private readonly out = new Map<number, number>();
  /** Entries made available, and found used, in all: place and wrap counter follow from them. */
  private offered = 0;
  private kicked = 0;
  private collected = 0;
  /** Entries that the device has used in all, collected or not. */
  private used = 0;
  private nextId = 0;

  constructor(p: QueuePlace) {
    this.p = p;
    this.size = p.size;
    this.room = p.size;
    this.descArea = p.room;
    this.driverArea = p.room + 16 * p.size;
    this.deviceArea = this.driverArea + 4;
  }

  private wrapAt(count: number): number {
    return Math.floor(count / this.size) % 2 === 0 ? 1 : 0;
  }

  offer(segments: readonly Segment[], shape: Shape, table: number): number | undefined {
    const { view, base, size } = this.p;
    const indirect = shape !== 'direct';
    const inRing = indirect ? 1 : segments.length;
    if (this.room < inRing) return undefined;
    // Ids are the driver's to choose: any that is not out.
    while (this.out.has(this.nextId)) this.nextId = (this.nextId + 1) % 65536;
    const key = this.nextId;
    this.nextId = (this.nextId + 7919) % 65536;
    if (indirect)
      segments.forEach(({ at, len, write }, i) => {
        putDescriptor(view, table - base + 16 * i, at, len, 0xbeef, write ? WRITE : 0);
      });
    const ring = indirect ? [{ at: table, len: 16 * segments.length, write: false }] : segments;
    // The first one last.
    for (let i = ring.length - 1; i >= 0; i--) {
      const { at, len, write } = ring[i]!;
      const lap = this.wrapAt(this.offered + i) === 1 ? AVAIL : USED;
      const more = i + 1 < ring.length ? NEXT : 0;
      const flags = lap | more | (write ? WRITE : 0) | (indirect ? INDIRECT : 0);
      const id = more === 0 ? key : 0xffff;
      putDescriptor(
        view,
        this.descArea - base + 16 * ((this.offered + i) % size),
        at,
        len,
        id,
        flags,
      );
    }
    this.offered += ring.length;
    this.room -= ring.length;
    this.out.set(key, ring.length);
    return key;
  }

  collect(): UsedBuffer | undefined {
    const { view, base } = this.p;
    const at = this.descArea - base + 16 * (this.collected % this.size);
    const flags = view.getUint16(at + 14, true);
    const lap = this.wrapAt(this.collected) === 1 ? AVAIL | USED : 0;
    if ((flags & (AVAIL | USED)) !== lap) return undefined;
    const key = view.getUint16(at + 12, true);
    const count = this.out.get(key);
    if (count === undefined) throw new Error(`used descriptor names ${key}, which is not out`);
    this.out.delete(key);
    this.collected += count;
    this.room += count;
    return { key, len: (flags & WRITE) === 0 ? 0 : view.getUint32(at + 8, true) };
  }

  mustKick(): boolean {
    const { view, base, eventIdx } = this.p;
    const from = this.kicked;
    this.kicked = this.offered;
    const flags = view.getUint16(this.deviceArea - base + 2, true);
    if (flags === 0) return from !== this.offered;
    if (flags === 1) return false;
    if (flags !== 2 || !eventIdx) throw new Error(`device event flags ${flags}`);
    const event = view.getUint16(this.deviceArea - base, true);
    for (let i = from; i < this.offered; i++)
      if (i % this.size === (event & 0x7fff) && this.wrapAt(i) === event >> 15) return true;
    return false;
  }

  get kickData(): number {
    return (this.offered % this.size) | (this.wrapAt(this.offered) << 15);
  }

  interrupts(when: 'never' | 'always' | 'next'): void {
    const { view, base, eventIdx } = this.p;
    const flags = when === 'never' ? 1 : when === 'always' || !eventIdx ? 0 : 2;
    const event = (this.collected % this.size) | (this.wrapAt(this.collected) << 15);
    view.setUint16(this.driverArea - base, event, true);
    view.setUint16(this.driverArea - base + 2, flags, true);
  }

  mustInterrupt(key: number): boolean {
    const { view, base } = this.p;
    const first = this.used;
    this.used += this.out.get(key) ?? 0;
    const flags = view.getUint16(this.driverArea - base + 2, true);
    if (flags !== 2) return flags === 0;
    const event = view.getUint16(this.driverArea - base, true);
    for (let i = first; i < this.used; i++)
      if (i % this.size === (event & 0x7fff) && this.wrapAt(i) === event >> 15) return true;
    return false;
  }
}
