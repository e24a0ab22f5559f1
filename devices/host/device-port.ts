/**
 * A device's own port to memory, by the bus addresses that its driver has mapped: through the host's
 * IOMMU, or physical where there is none. What keeps the device in its bounds is the IOMMU alone;
 * accesses that should not have been, and were not stopped, are written down with the device.
 */
import { DMA_FAULT, PAGE_SIZE, RAM_BASE } from '#emu';
import type { DmaDevice } from './dma-device.ts';
import type { DmaMapping } from './dma-mapping.ts';
import { frameOwner, pageOfOffset } from './frame-owner.ts';
import { describePast } from './iommu-faults.ts';
import { TranslatedPort } from './translated-port.ts';

/** What translates: the IOMMU. */
export interface DmaTranslator {
  /** Offset into memory of a byte, DMA_FAULT or DMA_WAIT. @param processId -1: without */
  translate(deviceId: number, processId: number, iova: number, write: boolean): number;
  /** Bytes from `iova` on for which the last translate(), which was of it, holds. */
  reachOf(iova: number): number;
}

export interface DmaDevicePortConfig {
  device: DmaDevice;
  /** Null: the device's addresses are physical. */
  iommu: DmaTranslator | null;
}

export class DmaDevicePort extends TranslatedPort {
  private readonly device: DmaDevice;
  private readonly iommu: DmaTranslator | null;
  /** Of a device without a domain: the mapping that its last access was in, and when that was true. */
  private recent: DmaMapping | undefined;
  private recentAsOf: number;

  constructor(config: DmaDevicePortConfig) {
    super(config.device.kernel.memory);
    this.device = config.device;
    this.iommu = config.iommu;
    this.recent = undefined;
    this.recentAsOf = 0;
  }

  translate(iova: number, write: boolean): number {
    const { device, iommu } = this;
    const { memory } = device.kernel;
    let offset = DMA_FAULT;
    if (iommu !== null) offset = iommu.translate(device.id, -1, iova, write);
    else if (memory.isRam(iova, 1)) offset = memory.offsetOf(iova);
    // Without page requests there is nothing to wait for.
    if (offset < 0) return DMA_FAULT;
    const { domain } = device;
    if (domain === null) this.checkDirect(iova, write);
    else if (domain.hasStale) this.checkStale(iova, offset, write);
    return offset;
  }

  protected override reach(iova: number): number {
    const { domain } = this.device;
    // What is checked page by page is also moved so.
    if (domain?.hasStale === true) return super.reach(iova);
    if (domain !== null && this.iommu !== null) return this.iommu.reachOf(iova);
    const { recent } = this;
    return recent === undefined
      ? super.reach(iova)
      : (recent.pfn + recent.nrPages) * PAGE_SIZE - iova;
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

  /** Addresses are physical, and whatever is memory is reached: was it mapped for the device? */
  private checkDirect(pa: number, write: boolean): void {
    const pfn = Math.floor(pa / PAGE_SIZE);
    const known = this.recentAsOf === this.device.nrUnmapped && covers(this.recent, pfn, write);
    if (!known) this.checkMapped(pa, pfn, write);
  }

  private checkMapped(pa: number, pfn: number, write: boolean): void {
    const { device } = this;
    this.recent = device.directAt(pfn, write);
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
