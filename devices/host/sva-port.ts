/**
 * The DMA engine's port into a VMM process that shares its address space with the engine: guest physical
 * addresses become host virtual ones by the memory slots, and those are what the engine sends to the
 * IOMMU, with the process's process_id. Nothing is pinned and nothing held.
 *
 * The engine caches translations (ATS) and asks for pages that are not there (PRI); it waits, and goes on
 * where it stopped when the IOMMU's driver has answered.
 */
import { Atc, type AtcState, BusPort, IommuPort } from '#devices';
import { DMA_FAULT } from '#emu';
import type { MmStruct } from '#mm';
import type { DmaDevice } from './dma-device.ts';
import type { HostIommu } from './host-iommu.ts';
import { TranslatedPort } from './translated-port.ts';

export interface SvaPortConfig {
  host: HostIommu;
  /** Attached in mode sva. */
  device: DmaDevice;
  /** The VMM process. */
  mm: MmStruct;
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory has changed: the dirty log. Called for runs inside one page. */
  onWritten(gpa: number, lenBytes: number): void;
}

/** What a saved machine keeps of the port. */
export interface SvaPortState {
  processId: number;
  atc: AtcState;
  transfers: number;
  bytesWritten: number;
  releasedAt: number;
}

export class SvaPort extends TranslatedPort {
  private readonly config: SvaPortConfig;
  private readonly atc: Atc;
  private readonly inner: IommuPort;
  /** Descriptors that were completed, and bytes that reached guest memory. */
  transfers: number;
  bytesWritten: number;
  /** Of these, so many by descriptors that are over. */
  private releasedAt: number;

  /** @throws Error where the device cannot be bound to the process */
  constructor(config: SvaPortConfig, state?: SvaPortState) {
    const { host, device, mm } = config;
    super(host.kernel.memory);
    this.config = config;
    this.atc = new Atc();
    this.inner = new IommuPort({
      iommu: host.model,
      deviceId: device.id,
      memory: new BusPort(host.kernel.memory),
      atc: this.atc,
      pageRequests: true,
    });
    this.transfers = state?.transfers ?? 0;
    this.bytesWritten = state?.bytesWritten ?? 0;
    this.releasedAt = state?.releasedAt ?? 0;
    if (state !== undefined) this.atc.restore(state.atc);
    const processId = state?.processId ?? host.sva.bind(device, mm);
    if (processId < 0) throw new Error(`${device.name}: cannot share mm ${mm.id}: ${processId}`);
    this.inner.processId = processId;
    host.sva.addCache(device, this.atc);
  }

  /** The process's number at the IOMMU. */
  get processId(): number {
    return this.inner.processId;
  }

  onReady(listener: () => void): void {
    this.inner.onReady(listener);
  }

  translate(gpa: number, write: boolean): number {
    const hva = this.config.hvaOf(gpa);
    return hva < 0 ? DMA_FAULT : this.inner.translate(hva, write);
  }

  /** A descriptor is over, or was given up: what it asked for is not waited for any more. */
  release(): void {
    // What was given up has not written a status.
    if (this.bytesWritten > this.releasedAt) this.transfers++;
    this.releasedAt = this.bytesWritten;
  }

  /** The device goes: it may not use the process any more, and forgets what it has of it. */
  close(): void {
    this.config.host.sva.unbind(this.config.device, this.processId);
    this.atc.clear();
  }

  save(): SvaPortState {
    const { processId, transfers, bytesWritten, releasedAt } = this;
    return { processId, atc: this.atc.save(), transfers, bytesWritten, releasedAt };
  }

  protected override wrote(gpa: number, lenBytes: number): void {
    this.bytesWritten += lenBytes;
    this.config.onWritten(gpa, lenBytes);
  }
}
