/**
 * What ports have in common that find each page of memory by a translation: bytes move page by page,
 * contiguous pages at once, and stop where a page cannot be had (yet).
 */
import { atomicAdd } from '#cells';
import { DMA_OK, DMA_WAIT, PAGE_MASK, PAGE_SIZE, type PhysMemory } from '#emu';
import type { DmaEnginePort } from '#devices';

export abstract class TranslatedPort implements DmaEnginePort {
  private readonly memory: PhysMemory;
  /** How far the last copy came that DMA_WAIT has ended. */
  copied: number;

  constructor(memory: PhysMemory) {
    this.memory = memory;
    this.copied = 0;
  }

  /** Offset into memory, DMA_FAULT or DMA_WAIT; it holds for the rest of the page, and until somebody yields. */
  abstract translate(address: number, write: boolean): number;

  /** Bytes from `address` on for which the last translate(), which was of it, holds. */
  protected reach(address: number): number {
    return pageRest(address);
  }

  /** Bytes for which one translation holds have changed. */
  protected wrote(_address: number, _lenBytes: number): void {}

  read(address: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(address + done));
      const offset = this.translate(address + done, false);
      if (offset < 0) return offset;
      into.set(this.memory.u8.subarray(offset, offset + run), intoOffset + done);
    }
    return DMA_OK;
  }

  write(address: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(address + done));
      const offset = this.translate(address + done, true);
      if (offset < 0) return offset;
      this.memory.setBytes(offset, from.subarray(fromOffset + done, fromOffset + done + run));
      this.wrote(address + done, run);
    }
    return DMA_OK;
  }

  copy(toAddress: number, fromAddress: number, lenBytes: number): number {
    // One translation of each side for all of it, as of a piece of a scatter list.
    const fromOffset = this.translate(fromAddress, false);
    if (fromOffset >= 0 && this.reach(fromAddress) >= lenBytes) {
      const toOffset = this.translate(toAddress, true);
      if (toOffset >= 0 && this.reach(toAddress) >= lenBytes) {
        this.wrote(toAddress, lenBytes);
        this.memory.copyWithin(toOffset, fromOffset, lenBytes);
        return DMA_OK;
      }
      if (toOffset < 0) return this.stopped(toOffset);
    }
    return fromOffset < 0
      ? this.stopped(fromOffset)
      : this.copyPieces(toAddress, fromAddress, lenBytes);
  }

  /** A copy ends before its first byte. */
  private stopped(outcome: number): number {
    this.copied = 0;
    return outcome;
  }

  private copyPieces(toAddress: number, fromAddress: number, lenBytes: number): number {
    const { memory } = this;
    let from = 0;
    let to = 0;
    let have = 0; // bytes from `from` to `to` that are not copied yet
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      const fromOffset = this.translate(fromAddress + done, false);
      run = Math.min(lenBytes - done, this.reach(fromAddress + done));
      const toOffset = fromOffset < 0 ? fromOffset : this.translate(toAddress + done, true);
      run = Math.min(run, this.reach(toAddress + done));
      if (toOffset < 0) {
        if (have > 0) memory.copyWithin(to, from, have);
        this.copied = toOffset === DMA_WAIT ? done : 0;
        return toOffset;
      }
      this.wrote(toAddress + done, run);
      if (have > 0 && fromOffset === from + have && toOffset === to + have) {
        have += run;
        continue;
      }
      if (have > 0) memory.copyWithin(to, from, have);
      from = fromOffset;
      to = toOffset;
      have = run;
    }
    if (have > 0) memory.copyWithin(to, from, have);
    return DMA_OK;
  }

  /** @throws RangeError for a misaligned address: the device model has checked it */
  atomicAdd32(address: number, delta: number): number | undefined {
    if ((address & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${address.toString(16)}`);
    const offset = this.translate(address, true);
    if (offset < 0) return undefined;
    const sum = atomicAdd(this.memory.i32, offset >>> 2, delta);
    this.memory.wrote(offset, 4);
    this.wrote(address, 4);
    return (sum - delta) >>> 0;
  }
}

/** Bytes from an address to the end of its page. */
const pageRest = (address: number): number => PAGE_SIZE - (address & PAGE_MASK);
