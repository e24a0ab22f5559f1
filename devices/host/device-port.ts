/**
 * A device's own port to memory, by the bus addresses that its driver has mapped: through the host's
 * IOMMU, or physical where there is none. What keeps the device in its bounds is the IOMMU alone;
 * accesses that should not have been, and were not stopped, are written down with the device.
 */
import { atomicAdd } from '#cells';
import { DMA_FAULT, DMA_OK, DMA_WAIT, PAGE_MASK, PAGE_SIZE, RAM_BASE } from '#emu';
import type { DmaEnginePort } from '#devices';
import type { DmaDevice } from './dma-device.ts';
import type { DmaMapping } from './dma-mapping.ts';
import { frameOwner, pageOfOffset } from './frame-owner.ts';
import { describePast } from './iommu-faults.ts';

/** What translates: the IOMMU. */
export interface DmaTranslator {
  /** Offset into memory of a byte, DMA_FAULT or DMA_WAIT. @param processId -1: without */
  translate(deviceId: number, processId: number, iova: number, write: boolean): number;
}

export interface DmaDevicePortConfig {
  device: DmaDevice;
  /** Null: the device's addresses are physical. */
  iommu: DmaTranslator | null;
}

export class DmaDevicePort implements DmaEnginePort {
  private readonly device: DmaDevice;
  private readonly iommu: DmaTranslator | null;
  /** Of a device without an IOMMU: the mapping that its last access was in, and when that was true. */
  private recent: DmaMapping | undefined;
  private recentAsOf: number;

  constructor(config: DmaDevicePortConfig) {
    this.device = config.device;
    this.iommu = config.iommu;
    this.recent = undefined;
    this.recentAsOf = 0;
  }

  read(iova: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const { u8 } = this.device.kernel.memory;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(iova + done));
      const offset = this.translate(iova + done, false);
      if (offset < 0) return offset;
      into.set(u8.subarray(offset, offset + run), intoOffset + done);
    }
    return DMA_OK;
  }

  write(iova: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const { memory } = this.device.kernel;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(iova + done));
      const offset = this.translate(iova + done, true);
      if (offset < 0) return offset;
      memory.setBytes(offset, from.subarray(fromOffset + done, fromOffset + done + run));
    }
    return DMA_OK;
  }

  /** Pieces that are contiguous in memory on both sides are copied at once. */
  copy(toIova: number, fromIova: number, lenBytes: number): number {
    const { memory } = this.device.kernel;
    let from = 0;
    let to = 0;
    let have = 0; // bytes from `from` to `to` that are not copied yet
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(toIova + done), pageRest(fromIova + done));
      const fromOffset = this.translate(fromIova + done, false);
      const toOffset = fromOffset < 0 ? fromOffset : this.translate(toIova + done, true);
      if (toOffset < 0) {
        if (have > 0) memory.copyWithin(to, from, have);
        return toOffset;
      }
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
  atomicAdd32(iova: number, delta: number): number | undefined {
    if ((iova & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${iova.toString(16)}`);
    const offset = this.translate(iova, true);
    if (offset < 0) return undefined;
    const { memory } = this.device.kernel;
    const sum = atomicAdd(memory.i32, offset >>> 2, delta);
    memory.wrote(offset, 4);
    return (sum - delta) >>> 0;
  }

  translate(iova: number, write: boolean): number {
    const { device, iommu } = this;
    if (iommu === null) return this.physical(iova, write);
    const offset = iommu.translate(device.id, -1, iova, write);
    // Without page requests there is nothing to wait for.
    if (offset === DMA_WAIT) return DMA_FAULT;
    if (offset >= 0 && device.domain?.hasStale === true) this.checkStale(iova, offset, write);
    return offset;
  }

  /** The tables do not have the page any more, and the IOMMU let the access through. */
  private checkStale(iova: number, offset: number, write: boolean): void {
    const { device } = this;
    const past = device.domain?.staleAt(Math.floor(iova / PAGE_SIZE));
    if (past === undefined) return;
    const page = pageOfOffset(offset);
    device.violate(
      'stale',
      `${write ? 'write' : 'read'} at iova 0x${iova.toString(16)} through a stale entry reaches pfn ` +
        `${RAM_BASE / PAGE_SIZE + page}: ${describePast(past)}; ${frameOwner(device.kernel, page)}`,
    );
  }

  /** No IOMMU: whatever is memory is reached. */
  private physical(pa: number, write: boolean): number {
    const { memory } = this.device.kernel;
    if (!memory.isRam(pa, 1)) return DMA_FAULT;
    const pfn = Math.floor(pa / PAGE_SIZE);
    const known = this.recentAsOf === this.device.nrUnmapped && covers(this.recent, pfn, write);
    if (!known) this.checkMapped(pa, pfn, write);
    return memory.offsetOf(pa);
  }

  private checkMapped(pa: number, pfn: number, write: boolean): void {
    const { device } = this;
    this.recent = device.direct.find((mapping) => covers(mapping, pfn, write));
    this.recentAsOf = device.nrUnmapped;
    if (this.recent !== undefined) return;
    const page = pfn - RAM_BASE / PAGE_SIZE;
    const past = device.directPast.findLast((mapping) => covers(mapping, pfn, false));
    device.violate(
      'unmapped',
      `${write ? 'write' : 'read'} at pa 0x${pa.toString(16)}, which is not mapped for it, reaches ` +
        `pfn ${pfn}: ${describePast(past)}; ${frameOwner(device.kernel, page)}`,
    );
  }
}

const covers = (mapping: DmaMapping | undefined, pfn: number, write: boolean): boolean =>
  mapping !== undefined &&
  pfn >= mapping.pfn &&
  pfn < mapping.pfn + mapping.nrPages &&
  (!write || mapping.writable);

/** Bytes from an address to the end of its page. */
const pageRest = (iova: number): number => PAGE_SIZE - (iova & PAGE_MASK);
