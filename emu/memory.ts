/**
 * Physical memory: the machine's one WebAssembly.Memory, seen through typed arrays.
 *
 * RAM begins at physical 0x8000_0000 (RAM_BASE). A `page` is the index of a frame counted from
 * there; `pfn = page + RAM_PFN_BASE`. An `offset` is a byte offset into the WebAssembly.Memory.
 * Whoever changes RAM behind the harts' backs (DMA, the host kernel) does it through the writing
 * methods here, because they drop decoded instructions of the bytes they change.
 */
import { noteBytes } from '#cells';
import {
  CODE_FLAGS,
  FRAME_CODE,
  FRAME_POISONED,
  FRAME_WATCHED,
  PAGE_MASK,
  PAGE_SHIFT,
  PAGE_SIZE,
  RAM_BASE,
  RAM_MAX_BYTES,
  RAM_OFFSET,
  WRITTEN_FLAGS,
  wasmPagesFor,
} from './layout.ts';

/** Told that bytes of a frame with decoded instructions have changed. */
export type CodeWriteListener = (page: number, offsetInPage: number, lenBytes: number) => void;

/**
 * TLB entries to frames [page, page + nrPages) have to go: those that stores hit, or with `reads` those
 * of loads and fetches as well.
 */
export type EntryDropper = (page: number, nrPages: number, reads: boolean) => void;

/** Memory whose stores, write-backs and fences matter: persistent memory. Offsets into the machine's memory. */
export interface StoreWatcher {
  /** Bytes of watched frames have been stored by a hart, or by another agent (-1); perhaps not all in its range. */
  store(hart: number, offset: number, lenBytes: number): void;
  /** A hart writes the cache line back that holds the byte: CBO.CLEAN, CBO.FLUSH. */
  clean(hart: number, offset: number): void;
  /** A hart has ordered its stores and write-backs. */
  fence(hart: number): void;
  /** Is any of the bytes poisoned? */
  isPoisoned(offset: number, lenBytes: number): boolean;
}

/** PhysMemory.hart while no hart executes: the host kernel, or a device. */
export const NO_HART = -1;

export class PhysMemory {
  /** The memory itself, for generated code. Never grows, so the views stay attached. */
  readonly wasm: WebAssembly.Memory;
  readonly u8: Uint8Array;
  readonly u16: Uint16Array;
  /** The view that hot code and #cells use. */
  readonly i32: Int32Array;
  readonly f64: Float64Array;
  readonly ramBytes: number;
  /** Frames of RAM. */
  readonly nrPages: number;
  /** The hart that executes, to whom stores are put down; or NO_HART. */
  hart: number;
  /** A frame has had FRAME_POISONED: only then is there anything to ask about it. */
  hasPoison: boolean;
  /** Watchers of stores. */
  readonly storeWatchers: StoreWatcher[];
  private readonly codeWriteListeners: CodeWriteListener[];
  private readonly entryDroppers: EntryDropper[];

  /**
   * @param ramBytes a multiple of 4096, at most RAM_MAX_BYTES
   * @throws RangeError when it is neither
   */
  constructor(ramBytes: number) {
    if (ramBytes <= 0 || (ramBytes & PAGE_MASK) !== 0 || ramBytes > RAM_MAX_BYTES)
      throw new RangeError(
        `RAM of ${ramBytes} bytes: not a multiple of 4096 up to ${RAM_MAX_BYTES}`,
      );
    const pages = wasmPagesFor(ramBytes);
    this.wasm = new WebAssembly.Memory({ initial: pages, maximum: pages });
    const buffer = this.wasm.buffer;
    this.u8 = new Uint8Array(buffer);
    this.u16 = new Uint16Array(buffer);
    this.i32 = new Int32Array(buffer);
    this.f64 = new Float64Array(buffer);
    this.ramBytes = ramBytes;
    this.nrPages = ramBytes / PAGE_SIZE;
    this.hart = NO_HART;
    this.hasPoison = false;
    this.storeWatchers = [];
    this.codeWriteListeners = [];
    this.entryDroppers = [];
  }

  /** True where all of [pa, pa + lenBytes) is RAM. */
  isRam(pa: number, lenBytes: number): boolean {
    return pa >= RAM_BASE && pa + lenBytes <= RAM_BASE + this.ramBytes;
  }

  /** Offset of a physical address that is RAM. The caller has checked it with isRam. */
  offsetOf(pa: number): number {
    return pa - RAM_BASE + RAM_OFFSET;
  }

  /** Offset of the first byte of a frame. */
  pageOffset(page: number): number {
    return RAM_OFFSET + page * PAGE_SIZE;
  }

  /** Copies bytes out of RAM. @throws RangeError outside RAM */
  readBytes(pa: number, lenBytes: number): Uint8Array {
    this.checkRange(pa, lenBytes);
    const offset = this.offsetOf(pa);
    return this.u8.slice(offset, offset + lenBytes);
  }

  /** Stores bytes into RAM. @throws RangeError outside RAM */
  writeBytes(pa: number, bytes: Uint8Array): void {
    this.checkRange(pa, bytes.length);
    this.setBytes(this.offsetOf(pa), bytes);
  }

  /** Stores bytes at an offset. */
  setBytes(offset: number, bytes: Uint8Array): void {
    noteBytes(this.u8, offset, bytes.length);
    this.u8.set(bytes, offset);
    this.wrote(offset, bytes.length);
  }

  /** Copies inside RAM, by offsets; overlapping ranges as memmove. */
  copyWithin(toOffset: number, fromOffset: number, lenBytes: number): void {
    noteBytes(this.u8, toOffset, lenBytes);
    this.u8.copyWithin(toOffset, fromOffset, fromOffset + lenBytes);
    this.wrote(toOffset, lenBytes);
  }

  copyPage(toPage: number, fromPage: number): void {
    this.copyWithin(this.pageOffset(toPage), this.pageOffset(fromPage), PAGE_SIZE);
  }

  /** Stores zeroes at an offset. */
  zeroBytes(offset: number, lenBytes: number): void {
    noteBytes(this.u8, offset, lenBytes);
    this.u8.fill(0, offset, offset + lenBytes);
    this.wrote(offset, lenBytes);
  }

  zeroPage(page: number): void {
    this.zeroBytes(this.pageOffset(page), PAGE_SIZE);
  }

  /** Told which TLB entries a hart must lose. */
  onDropEntries(dropper: EntryDropper): void {
    this.entryDroppers.push(dropper);
  }

  /** Sets flags of a frame, and takes away the TLB entries that are now too many. */
  flagFrames(page: number, nrPages: number, flags: number): void {
    const { u8 } = this;
    let fresh = 0;
    for (let at = CODE_FLAGS + page; at < CODE_FLAGS + page + nrPages; at++) {
      fresh |= flags & ~u8[at]!;
      u8[at] = u8[at]! | flags;
    }
    if ((flags & FRAME_POISONED) !== 0) this.hasPoison = true;
    if (fresh === 0) return;
    for (const drop of this.entryDroppers) drop(page, nrPages, (flags & FRAME_POISONED) !== 0);
  }

  /** Takes flags back. */
  unflagFrames(page: number, nrPages: number, flags: number): void {
    for (let at = CODE_FLAGS + page; at < CODE_FLAGS + page + nrPages; at++)
      this.u8[at] = this.u8[at]! & ~flags;
  }

  /** Would a load of these bytes of one page meet poison? */
  isPoisoned(offset: number, lenBytes: number): boolean {
    return this.hasPoison && this.poisonSlow(offset, lenBytes);
  }

  /** Told of every change to frames whose code flag is set. */
  onCodeWrite(listener: CodeWriteListener): void {
    this.codeWriteListeners.push(listener);
  }

  /** To be called after bytes of RAM were changed by other means than the methods above. */
  wrote(offset: number, lenBytes: number): void {
    const first = (offset - RAM_OFFSET) >>> PAGE_SHIFT;
    const last = (offset + lenBytes - 1 - RAM_OFFSET) >>> PAGE_SHIFT;
    for (let page = first; page <= last; page++) {
      this.u8[WRITTEN_FLAGS + page] = 1;
      if (this.u8[CODE_FLAGS + page] !== 0) this.wroteFlaggedSlow(page, offset, lenBytes);
    }
  }

  /** Frames that are about to be handed to somebody who writes without a word. */
  mayBeWritten(page: number, nrPages: number): void {
    this.u8.fill(1, WRITTEN_FLAGS + page, WRITTEN_FLAGS + page + nrPages);
  }

  /** True where nothing was ever written to a frame: it is all zeroes, and reading it would only cost memory. */
  isUntouched(page: number): boolean {
    return this.u8[WRITTEN_FLAGS + page] === 0;
  }

  private wroteFlaggedSlow(page: number, offset: number, lenBytes: number): void {
    const start = Math.max(offset, this.pageOffset(page));
    const end = Math.min(offset + lenBytes, this.pageOffset(page + 1));
    const flags = this.u8[CODE_FLAGS + page]!;
    if ((flags & FRAME_WATCHED) !== 0)
      for (const watcher of this.storeWatchers) watcher.store(this.hart, start, end - start);
    if ((flags & FRAME_CODE) === 0) return;
    for (const listener of this.codeWriteListeners)
      listener(page, start - this.pageOffset(page), end - start);
  }

  private poisonSlow(offset: number, lenBytes: number): boolean {
    const page = (offset - RAM_OFFSET) >>> PAGE_SHIFT;
    if ((this.u8[CODE_FLAGS + page]! & FRAME_POISONED) === 0) return false;
    return this.storeWatchers.some((watcher) => watcher.isPoisoned(offset, lenBytes));
  }

  private checkRange(pa: number, lenBytes: number): void {
    if (!this.isRam(pa, lenBytes))
      throw new RangeError(`[0x${pa.toString(16)}, +${lenBytes}) is not RAM`);
  }
}
