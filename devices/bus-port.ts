/**
 * A port straight onto the bus: bus addresses are physical, and only RAM answers.
 *
 * What a bus master has on bare metal without an IOMMU. Registers of devices are not reachable by
 * DMA: an access to them, or to nothing, is DMA_FAULT with nothing transferred.
 */
import { atomicAdd } from '#cells';
import { DMA_FAULT, DMA_OK, type PhysMemory } from '#emu';
import type { DmaEnginePort } from './dma-engine.ts';

export class BusPort implements DmaEnginePort {
  private readonly memory: PhysMemory;

  constructor(memory: PhysMemory) {
    this.memory = memory;
  }

  read(pa: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    if (!this.memory.isRam(pa, lenBytes)) return DMA_FAULT;
    const offset = this.memory.offsetOf(pa);
    into.set(this.memory.u8.subarray(offset, offset + lenBytes), intoOffset);
    return DMA_OK;
  }

  write(pa: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    if (!this.memory.isRam(pa, lenBytes)) return DMA_FAULT;
    this.memory.writeBytes(pa, from.subarray(fromOffset, fromOffset + lenBytes));
    return DMA_OK;
  }

  copy(toPa: number, fromPa: number, lenBytes: number): number {
    const { memory } = this;
    if (!memory.isRam(toPa, lenBytes) || !memory.isRam(fromPa, lenBytes)) return DMA_FAULT;
    memory.copyWithin(memory.offsetOf(toPa), memory.offsetOf(fromPa), lenBytes);
    return DMA_OK;
  }

  /** @throws RangeError for a misaligned address: the device model has checked it */
  atomicAdd32(pa: number, delta: number): number | undefined {
    if ((pa & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${pa.toString(16)}`);
    if (!this.memory.isRam(pa, 4)) return undefined;
    const offset = this.memory.offsetOf(pa);
    const sum = atomicAdd(this.memory.i32, offset >>> 2, delta);
    this.memory.wrote(offset, 4);
    return (sum - delta) >>> 0;
  }

  translate(pa: number, _write: boolean): number {
    return this.memory.isRam(pa, 1) ? this.memory.offsetOf(pa) : DMA_FAULT;
  }
}
