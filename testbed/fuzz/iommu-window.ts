/** A few pages of memory as an IOMMU under attack sees them: some accesses wait, what is outside is not there. */
import { DMA_FAULT, DMA_OK, DMA_WAIT, type DmaPort, PhysMemory, RAM_BASE } from '#emu';
import type { Rng } from '../rng.ts';

export const WINDOW_PAGES = 24;
const PAGE = 4096;
/** Pages of RAM before the window and behind it, which nobody may reach. */
const GUARD_PAGES = 2;
export const WINDOW_BASE = RAM_BASE + GUARD_PAGES * PAGE;
const GUARD_BYTE = 0xa5;

export const pageAt = (n: number): number => WINDOW_BASE + n * PAGE;

export class IommuWindow implements DmaPort {
  readonly memory: PhysMemory;
  private readonly first: number;
  private readonly lenBytes: number;
  private rng: Rng | undefined;
  /** In a hundred accesses. */
  private waits: number;
  private awaited: boolean;
  private readonly listeners: (() => void)[];
  /** Told of each access that gets through. */
  onAccess: (pa: number, write: boolean) => void;

  constructor() {
    this.memory = new PhysMemory((WINDOW_PAGES + 2 * GUARD_PAGES) * PAGE);
    this.first = this.memory.offsetOf(WINDOW_BASE);
    this.lenBytes = WINDOW_PAGES * PAGE;
    this.rng = undefined;
    this.waits = 0;
    this.awaited = false;
    this.listeners = [];
    this.onAccess = () => {};
    const { u8 } = this.memory;
    u8.fill(GUARD_BYTE, this.first - GUARD_PAGES * PAGE, this.first);
    u8.fill(
      GUARD_BYTE,
      this.first + this.lenBytes,
      this.first + this.lenBytes + GUARD_PAGES * PAGE,
    );
  }

  begin(rng: Rng): void {
    this.rng = rng;
    this.waits = rng.chance(25) ? rng.below(40) : 0;
    this.awaited = false;
    this.memory.u8.fill(0, this.first, this.first + this.lenBytes);
  }

  /** What was waited for is there, for now. */
  ready(): void {
    if (!this.awaited) return;
    this.awaited = false;
    for (const listener of this.listeners) listener();
  }

  /** From now on everything is there. */
  settle(): void {
    this.waits = 0;
    this.awaited = true;
    this.ready();
  }

  put(pa: number, lo: number, hi: number): void {
    const word = this.memory.offsetOf(pa) >>> 2;
    const { i32 } = this.memory;
    i32[word] = lo;
    i32[word + 1] = hi;
  }

  /** The guards are as they were. */
  get intact(): boolean {
    const { u8 } = this.memory;
    const behind = this.first + this.lenBytes;
    for (let i = 1; i <= GUARD_PAGES * PAGE; i += 61)
      if (u8[this.first - i] !== GUARD_BYTE || u8[behind + i - 1] !== GUARD_BYTE) return false;
    return u8[this.first - 1] === GUARD_BYTE && u8[behind] === GUARD_BYTE;
  }

  onReady(listener: () => void): void {
    this.listeners.push(listener);
  }

  read(pa: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const offset = this.reach(pa, lenBytes, false);
    if (offset < 0) return offset;
    into.set(this.memory.u8.subarray(offset, offset + lenBytes), intoOffset);
    return DMA_OK;
  }

  write(pa: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const offset = this.reach(pa, lenBytes, true);
    if (offset < 0) return offset;
    this.memory.setBytes(offset, from.subarray(fromOffset, fromOffset + lenBytes));
    return DMA_OK;
  }

  atomicAdd32(pa: number, delta: number): number | undefined {
    const offset = this.reach(pa, 4, true);
    if (offset < 0) return undefined;
    const { i32 } = this.memory;
    const was = i32[offset >>> 2]!;
    i32[offset >>> 2] = was + delta;
    return was >>> 0;
  }

  translate(pa: number, write: boolean): number {
    return this.reach(pa, 1, write);
  }

  private reach(pa: number, lenBytes: number, write: boolean): number {
    if (!(pa >= WINDOW_BASE && pa + lenBytes <= WINDOW_BASE + this.lenBytes)) return DMA_FAULT;
    if (this.waits > 0 && this.rng?.chance(this.waits) === true) {
      this.awaited = true;
      return DMA_WAIT;
    }
    this.onAccess(pa, write);
    return this.first + (pa - WINDOW_BASE);
  }
}
