/**
 * A device's port behind the IOMMU: its addresses are IOVAs, translated page by page, and what they
 * lead to is reached through the port behind it, by physical (in a guest: guest physical) addresses.
 *
 * A device with an ATC asks for translations and uses them with translated requests. One that may also
 * make page requests waits for a page that it was not granted; refused, its access is a fault.
 */
import { DMA_FAULT, DMA_OK, DMA_WAIT, type DmaPort, PAGE_MASK, PAGE_SIZE } from '#emu';
import type { DmaEnginePort } from '../dma-engine.ts';
import type { Atc } from './atc.ts';
import { ATS_SUCCESS, type AtsCompletion, createAtsCompletion } from './ats.ts';
import { IOMMU_MRIF, type Iommu } from './iommu.ts';

export interface IommuPortConfig {
  iommu: Iommu;
  deviceId: number;
  /** What is behind the IOMMU: the port that moves bytes, and may copy them by itself. */
  memory: DmaPort & Partial<Pick<DmaEnginePort, 'copy'>>;
  /** The device caches translations. The port answers the IOMMU for it. */
  atc?: Atc;
  /** With an ATC: a page that is not there is asked for. */
  pageRequests?: boolean;
}

export class IommuPort implements DmaEnginePort {
  /** process_id of the accesses, -1: none. */
  processId: number;
  /** How far the last copy came that DMA_WAIT has ended. */
  copied: number;
  private readonly config: IommuPortConfig;
  private readonly granted: AtsCompletion;
  private readonly scratch: Uint8Array;

  constructor(config: IommuPortConfig) {
    this.processId = -1;
    this.copied = 0;
    this.config = config;
    this.granted = createAtsCompletion();
    this.scratch = new Uint8Array(PAGE_SIZE);
    if (config.atc !== undefined) config.iommu.setAtsDevice(config.deviceId, config.atc);
  }

  onReady(listener: () => void): void {
    const { iommu, memory, atc } = this.config;
    iommu.onReady(listener);
    memory.onReady?.(listener);
    if (atc !== undefined) atc.onAnswer = listener;
  }

  read(iova: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(iova + done));
      const spa = this.locate(iova + done, false);
      if (spa === IOMMU_MRIF) into.fill(0, intoOffset + done, intoOffset + done + run);
      else if (spa < 0) return spa;
      else {
        const outcome = this.config.memory.read(spa, into, intoOffset + done, run);
        if (outcome !== DMA_OK) return outcome;
      }
    }
    return DMA_OK;
  }

  write(iova: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(iova + done));
      const spa = this.locate(iova + done, true);
      let outcome = spa;
      if (spa === IOMMU_MRIF) outcome = this.writeMsi(iova + done, from, fromOffset + done, run);
      else if (spa >= 0) outcome = this.config.memory.write(spa, from, fromOffset + done, run);
      if (outcome !== DMA_OK) return outcome;
    }
    return DMA_OK;
  }

  /** Ascending, in pieces that are contiguous on both sides. */
  copy(toIova: number, fromIova: number, lenBytes: number): number {
    this.copied = 0;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(toIova + done), pageRest(fromIova + done));
      const outcome = this.copyPiece(toIova + done, fromIova + done, run);
      this.copied = done;
      if (outcome !== DMA_OK) return outcome;
    }
    return DMA_OK;
  }

  private copyPiece(toIova: number, fromIova: number, lenBytes: number): number {
    const { memory } = this.config;
    if (memory.copy !== undefined) {
      const from = this.locate(fromIova, false);
      if (from === DMA_FAULT || from === DMA_WAIT) return from;
      const to = this.locate(toIova, true);
      if (to === DMA_FAULT || to === DMA_WAIT) return to;
      // Of an interrupt file in memory there is nothing to copy by.
      if (from >= 0 && to >= 0) return memory.copy(to, from, lenBytes);
    }
    const outcome = this.read(fromIova, this.scratch, 0, lenBytes);
    return outcome === DMA_OK ? this.write(toIova, this.scratch, 0, lenBytes) : outcome;
  }

  /** @throws RangeError for a misaligned address: the device model has checked it */
  atomicAdd32(iova: number, delta: number): number | undefined {
    if ((iova & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${iova.toString(16)}`);
    const spa = this.locate(iova, true);
    return spa < 0 ? undefined : this.config.memory.atomicAdd32(spa, delta);
  }

  translate(iova: number, write: boolean): number {
    const spa = this.locate(iova, write);
    // An interrupt file in memory is no memory that could be handed out.
    if (spa < 0) return spa === DMA_WAIT ? DMA_WAIT : DMA_FAULT;
    return this.config.memory.translate(spa, write);
  }

  /** Physical address, DMA_FAULT, DMA_WAIT or IOMMU_MRIF. */
  private locate(iova: number, write: boolean): number {
    const { iommu, deviceId, atc } = this.config;
    if (atc === undefined) return iommu.spa(deviceId, this.processId, iova, write);
    const cached = atc.lookup(this.processId, iova, write);
    if (cached >= 0) return iommu.translated(deviceId, -1, cached, write);
    return this.askIommu(atc, iova, write);
  }

  private askIommu(atc: Atc, iova: number, write: boolean): number {
    const { iommu, deviceId } = this.config;
    const { granted, processId } = this;
    const request = {
      deviceId,
      processId,
      iova,
      supervisor: false,
      exec: false,
      noWrite: !write,
    };
    if (iommu.atsRequest(request, granted) === DMA_WAIT) return DMA_WAIT;
    if (granted.status !== ATS_SUCCESS) return DMA_FAULT;
    if (granted.untranslatedOnly) return iommu.spa(deviceId, processId, iova, write);
    if (write ? granted.write : granted.read) {
      atc.fill(processId, iova, granted);
      return iommu.translated(deviceId, -1, atc.lookup(processId, iova, write), write);
    }
    return this.config.pageRequests === true ? this.askForPage(atc, iova, write) : DMA_FAULT;
  }

  private askForPage(atc: Atc, iova: number, write: boolean): number {
    const { iommu, deviceId } = this.config;
    const { processId } = this;
    if (atc.takeRefused(processId, iova, write)) return DMA_FAULT;
    const group = atc.ask(processId, iova, write);
    if (group < 0) return DMA_WAIT;
    const sent = iommu.pageRequest({
      deviceId,
      processId,
      supervisor: false,
      exec: false,
      read: true,
      write,
      last: true,
      group,
      iova: iova - (iova % PAGE_SIZE),
    });
    if (sent === DMA_WAIT) atc.unask(group);
    // The IOMMU may have answered itself by now: no.
    return atc.takeRefused(processId, iova, write) ? DMA_FAULT : DMA_WAIT;
  }

  private writeMsi(iova: number, from: Uint8Array, offset: number, lenBytes: number): number {
    let data = 0;
    for (let i = 0; i < Math.min(lenBytes, 4); i++) data |= from[offset + i]! << (8 * i);
    return this.config.iommu.writeMsi(this.config.deviceId, iova, data, lenBytes);
  }
}

/** Bytes from an address to the end of its page. */
const pageRest = (iova: number): number => PAGE_SIZE - (iova & PAGE_MASK);
