/**
 * The RISC-V IOMMU 1.0, as a device on a bus: its registers, and what devices behind it ask of it.
 *
 *   driver                             IOMMU                                       device
 *   registers, command queue  ->  interrupts.ts, command-queue.ts, hpm.ts
 *                                 iotlb.ts <- translate.ts -> directory.ts    <-   spa(), translate()
 *                                             two-stage.ts, msi.ts            <-   ats-unit.ts
 *   fault queue, page requests <- queues.ts
 *
 * After reset the mode is Bare. Everything in memory is reached through one port, by physical addresses
 * (in a guest: by guest physical ones), little-endian; what the port has to wait for is waited for, and
 * those whom DMA_WAIT was answered are told. Commands are carried out when the driver touches a
 * register, so no `busy` bit is ever seen.
 *
 * Not implemented, and not in `capabilities`: Sv32, big-endian structures, Svpbmt, QoS ids.
 */
import {
  type Clock,
  DMA_FAULT,
  DMA_OK,
  DMA_WAIT,
  type DmaPort,
  type IrqLine,
  type MmioDevice,
  type Need,
  type PhysMemory,
  PTE_R,
  PTE_W,
  RAM_BASE,
  RAM_OFFSET,
} from '#emu';
import { BusPort } from '../bus-port.ts';
import type { AtsCompletion, AtsDevice, AtsRequest, PageRequest } from './ats.ts';
import { AtsUnit, type AtsUnitState } from './ats-unit.ts';
import { type AtsInvalidation, CommandQueue, type CommandTarget } from './command-queue.ts';
import { DebugRequests, type DebugState } from './debug.ts';
import type { DirectoryState } from './directory.ts';
import { FAULT_RECORD_BYTES, faultRecord, PAGE_RECORD_BYTES, reportedWithDtf } from './fault.ts';
import { Hpm, type HpmState } from './hpm.ts';
import { IommuInterrupts, type IommuInterruptState } from './interrupts.ts';
import { IOTLB_R, IOTLB_W, type IotlbState, type IotlbVisitor } from './iotlb.ts';
import { MSI_MRIF, storeMrif } from './msi.ts';
import { type QueueRegisters, RecordQueue, type RecordQueueState } from './queues.ts';
import { RegisterFile } from './register-file.ts';
import * as reg from './registers.ts';
import * as s from './structures.ts';
import { IoTranslator } from './translate.ts';

/** spa(): the access is an MSI into a memory-resident interrupt file; writeMsi() carries it out. */
export const IOMMU_MRIF = -3;

export interface IommuConfig {
  memory: PhysMemory;
  /** Where directories, tables and queues are: physical, or guest physical. */
  port: DmaPort;
  /** Commands, faults, performance monitor, page requests: the wires that icvec chooses from. */
  irq: readonly IrqLine[];
  /** Unique on the machine: for clock events. */
  name: string;
  /** Counts cycles, and limits how long a device may take to answer. */
  clock?: Clock;
  /** Device contexts of 64 bytes, with MSI page tables. Default true. */
  extendedFormat?: boolean;
}

/** What a saved machine keeps of the IOMMU. */
export interface IommuState {
  ddtp: { ddtpLo: number; ddtpHi: number };
  debug: DebugState;
  commands: QueueRegisters;
  faults: RecordQueueState;
  pages: RecordQueueState;
  interrupts: IommuInterruptState;
  hpm: HpmState;
  ats: AtsUnitState;
  directory: DirectoryState;
  iotlb: IotlbState;
  counts: Counts;
}

/** Since the beginning, for reports. */
interface Counts {
  misses: number;
  deviceWalks: number;
  processWalks: number;
  firstWalks: number;
  secondWalks: number;
  commands: number;
  faults: number;
}

export class Iommu implements MmioDevice, CommandTarget {
  readonly name: string;
  private readonly port: DmaPort;
  /** The port is the bus itself, and where its RAM ends. */
  private readonly onBus: boolean;
  private readonly ramEnd: number;
  private readonly translator: IoTranslator;
  private readonly commands: CommandQueue;
  private readonly faults: RecordQueue;
  private readonly pages: RecordQueue;
  private readonly interrupts: IommuInterrupts;
  private readonly hpm: Hpm;
  private readonly ats: AtsUnit;
  private readonly listeners: (() => void)[];
  private readonly debug: DebugRequests;
  private readonly registers: RegisterFile;
  private running: boolean;
  /** Faults since the beginning, reported or not. */
  private nrFaults: number;

  constructor(config: IommuConfig) {
    const { memory, port, clock, name } = config;
    const extended = config.extendedFormat ?? true;
    this.name = name;
    this.port = port;
    this.onBus = port instanceof BusPort;
    this.ramEnd = RAM_BASE + memory.ramBytes;
    this.translator = new IoTranslator(memory, port, extended);
    this.interrupts = new IommuInterrupts(config.irq, port, (msiAddress) =>
      this.report(s.CAUSE_MSI_WRITE_ACCESS, s.TTYP_NONE, 0, -1, false, msiAddress),
    );
    this.commands = new CommandQueue(memory, port, this);
    this.faults = new RecordQueue(FAULT_RECORD_BYTES, port, () =>
      this.interrupts.raise(reg.IPSR_FIP),
    );
    this.pages = new RecordQueue(PAGE_RECORD_BYTES, port, () =>
      this.interrupts.raise(reg.IPSR_PIP),
    );
    this.hpm = new Hpm(clock, () => this.interrupts.raise(reg.IPSR_PMIP));
    this.ats = new AtsUnit({
      translator: this.translator,
      pages: this.pages,
      clock,
      name,
      report: (cause, ttyp, deviceId, processId, supervisor, iotval) =>
        this.report(cause, ttyp, deviceId, processId, supervisor, iotval),
      onSettled: () => this.runCommands(),
    });
    this.listeners = [];
    this.debug = new DebugRequests(
      (deviceId, processId, supervisor, iova, need, ttyp) => {
        const spa = this.request(deviceId, processId, supervisor, iova, need, ttyp);
        return spa === IOMMU_MRIF ? this.translator.msi.spa : spa;
      },
      () => this.translator.level,
    );
    this.registers = new RegisterFile(
      {
        commands: this.commands,
        faults: this.faults,
        pages: this.pages,
        interrupts: this.interrupts,
        hpm: this.hpm,
        debug: this.debug,
        onDdtp: (mode, rootPpn) => this.translator.setDirectory(mode, rootPpn),
        runCommands: () => this.runCommands(),
      },
      extended,
    );
    this.running = false;
    this.nrFaults = 0;
    port.onReady?.(() => this.ready());
  }

  /* ---- devices behind the IOMMU ---- */

  /** Whom to tell, after a DMA_WAIT, that a request may be tried again. */
  onReady(listener: () => void): void {
    this.listeners.push(listener);
  }

  /**
   * Where an untranslated access of a user goes. A fault is reported in the fault queue.
   * @param processId -1: the transaction has none
   * @returns physical address, DMA_FAULT, DMA_WAIT or IOMMU_MRIF
   */
  spa(deviceId: number, processId: number, iova: number, write: boolean): number {
    if (!this.hpm.active) {
      const spa = this.translator.fast(deviceId, processId, iova, write ? IOTLB_W : IOTLB_R);
      if (spa >= 0) return spa;
    }
    this.translator.iotlb.hitBytes = 4096;
    const ttyp = write ? s.TTYP_UNTRANSLATED_WRITE : s.TTYP_UNTRANSLATED_READ;
    return this.request(deviceId, processId, false, iova, write ? PTE_W : PTE_R, ttyp);
  }

  /** Bytes from `iova` on for which the last spa() or translate(), which was of it, holds: of one entry. */
  reachOf(iova: number): number {
    const { hitBytes } = this.translator.iotlb;
    return hitBytes - (iova & (hitBytes - 1));
  }

  /** As spa(), but an offset into memory; it holds for the rest of the 4 KiB page. */
  translate(deviceId: number, processId: number, iova: number, write: boolean): number {
    const spa = this.spa(deviceId, processId, iova, write);
    if (spa < 0) return spa === DMA_WAIT ? DMA_WAIT : DMA_FAULT;
    // Straight on the bus: physical memory is where it is.
    if (!this.onBus) return this.port.translate(spa, write);
    return spa >= RAM_BASE && spa < this.ramEnd ? spa - RAM_BASE + RAM_OFFSET : DMA_FAULT;
  }

  /** Where an access goes whose address the device has translated. As spa(). */
  translated(deviceId: number, processId: number, address: number, write: boolean): number {
    if (!this.hpm.active && this.translator.passes(deviceId)) return address;
    const ttyp = write ? s.TTYP_TRANSLATED_WRITE : s.TTYP_TRANSLATED_READ;
    return this.request(deviceId, processId, false, address, write ? PTE_W : PTE_R, ttyp);
  }

  /**
   * Any request of a device.
   * @param supervisor the transaction requests privilege: with a process_id only
   * @param ttyp TTYP_UNTRANSLATED_* or TTYP_TRANSLATED_*
   * @returns as spa()
   */
  request(
    deviceId: number,
    processId: number,
    supervisor: boolean,
    iova: number,
    need: Need,
    ttyp: number,
  ): number {
    const { translator } = this;
    const { stages, directory, misses } = translator;
    const { deviceWalks, processWalks } = directory;
    const { firstWalks, secondWalks } = stages;
    const outcome = translator.translate(deviceId, processId, supervisor, iova, need, ttyp);
    if (outcome === DMA_WAIT) return DMA_WAIT;
    if (this.hpm.active) {
      const { stream } = translator;
      const ids = {
        deviceId,
        processId,
        gscid: stream?.gscid ?? -1,
        pscid: stream?.pscid ?? -1,
      };
      this.hpm.count(eventOf(ttyp), ids, 1);
      this.hpm.count(reg.HPM_EVENT_TLB_MISS, ids, translator.misses - misses);
      this.hpm.count(reg.HPM_EVENT_DDT_WALK, ids, directory.deviceWalks - deviceWalks);
      this.hpm.count(reg.HPM_EVENT_PDT_WALK, ids, directory.processWalks - processWalks);
      this.hpm.count(reg.HPM_EVENT_FIRST_STAGE_WALK, ids, stages.firstWalks - firstWalks);
      this.hpm.count(reg.HPM_EVENT_SECOND_STAGE_WALK, ids, stages.secondWalks - secondWalks);
    }
    if (outcome !== 0) {
      this.report(outcome, ttyp, deviceId, processId, supervisor, iova);
      return DMA_FAULT;
    }
    return translator.msi.kind === MSI_MRIF ? IOMMU_MRIF : translator.spa;
  }

  /**
   * Carries out the write that spa() has answered IOMMU_MRIF for, just now.
   * @param data 32 bits; `lenBytes` of the write
   * @returns DMA_OK, DMA_WAIT with nothing done, or DMA_FAULT, reported
   */
  writeMsi(deviceId: number, iova: number, data: number, lenBytes: number): number {
    if (lenBytes !== 4 || (iova & 3) !== 0) return DMA_OK;
    const { stages, msi } = this.translator;
    const outcome = storeMrif(stages, this.port, msi, iova & 0xfff, data);
    if (outcome === 0 || outcome === DMA_WAIT) return outcome === 0 ? DMA_OK : DMA_WAIT;
    this.report(outcome, s.TTYP_UNTRANSLATED_WRITE, deviceId, -1, false, iova);
    return DMA_FAULT;
  }

  /** Who answers for a device with a cache of translations; undefined: nobody. */
  setAtsDevice(deviceId: number, device: AtsDevice | undefined): void {
    this.ats.setDevice(deviceId, device);
  }

  /** A translation request. @returns DMA_OK with the completion in `into`, or DMA_WAIT */
  atsRequest(request: Readonly<AtsRequest>, into: AtsCompletion): number {
    const outcome = this.ats.request(request, into);
    if (outcome === DMA_OK && this.hpm.active) {
      const { deviceId, processId } = request;
      this.hpm.count(reg.HPM_EVENT_ATS, { deviceId, processId, gscid: -1, pscid: -1 }, 1);
    }
    return outcome;
  }

  /** A page request message, or a stop marker. @returns DMA_OK, or DMA_WAIT: to be sent again */
  pageRequest(request: Readonly<PageRequest>): number {
    return this.ats.pageRequest(request);
  }

  /** An invalidation completion message. */
  invalidationDone(deviceId: number, tag: number): void {
    this.ats.invalidationDone(deviceId, tag);
  }

  /** Visits every entry of the IOTLB. */
  visitIotlb(visitor: IotlbVisitor): void {
    this.translator.iotlb.visit(visitor);
  }

  private report(
    cause: number,
    ttyp: number,
    deviceId: number,
    processId: number,
    supervisor: boolean,
    iotval: number,
  ): void {
    this.nrFaults++;
    const { dc, stages } = this.translator;
    const quiet = ttyp !== s.TTYP_NONE && dc !== undefined && (dc.tc & s.TC_DTF) !== 0;
    if (quiet && !reportedWithDtf(cause)) return;
    const named = ttyp !== s.TTYP_NONE;
    this.faults.push(
      faultRecord(
        cause,
        ttyp,
        deviceId,
        processId,
        supervisor,
        iotval,
        named ? stages.iotval2Lo : 0,
        named ? stages.iotval2Hi : 0,
      ),
    );
  }

  /** Memory has become reachable: everything that was waiting for it goes on. */
  private ready(): void {
    this.faults.flush();
    this.pages.flush();
    this.interrupts.send();
    this.runCommands();
    this.debug.run();
    for (const listener of this.listeners) listener();
  }

  /* ---- commands ---- */

  private runCommands(): void {
    // A device that is told something may answer at once.
    if (this.running) return;
    this.running = true;
    this.commands.run();
    this.running = false;
  }

  get wsi(): boolean {
    return this.interrupts.wsi;
  }

  interrupt(): void {
    this.interrupts.raise(reg.IPSR_CIP);
  }

  invalidateVma(gscid: number, pscid: number, iova: number): void {
    this.translator.iotlb.invalidateVma(gscid, pscid, iova);
  }

  invalidateGvma(gscid: number, gpa: number): void {
    this.translator.iotlb.invalidateGvma(gscid, gpa);
  }

  invalidateDevice(deviceId: number): void {
    this.translator.directory.invalidateDevice(deviceId);
    this.translator.forgetStreams();
  }

  invalidateProcess(deviceId: number, processId: number): void {
    this.translator.directory.invalidateProcess(deviceId, processId);
    this.translator.forgetStreams();
  }

  atsInvalidate(deviceId: number, invalidation: AtsInvalidation): void {
    this.ats.invalidate(deviceId, invalidation);
  }

  pageGroupResponse(deviceId: number, processId: number, group: number, code: number): void {
    this.ats.pageGroupResponse(deviceId, processId, group, code);
  }

  owed(): 'none' | 'some' | 'late' {
    return this.ats.owed();
  }

  giveUpLate(): void {
    this.ats.giveUpLate();
  }

  /* ---- registers ---- */

  read(offset: number, sizeBytes: number): number {
    return this.registers.read(offset, sizeBytes);
  }

  write(offset: number, sizeBytes: number, value: number): void {
    this.registers.write(offset, sizeBytes, value);
  }

  /** What it did, in words. */
  get counts(): Record<string, number> {
    const { misses, directory, stages } = this.translator;
    return {
      'IOTLB misses': misses,
      'device contexts read': directory.deviceWalks,
      'process contexts read': directory.processWalks,
      'first-stage walks': stages.firstWalks,
      'second-stage walks': stages.secondWalks,
      commands: this.commands.carriedOut,
      faults: this.nrFaults,
    };
  }

  /* ---- saved machines ---- */

  save(): IommuState {
    return {
      ddtp: this.registers.save(),
      debug: this.debug.save(),
      commands: { ...this.commands.r },
      faults: this.faults.save(),
      pages: this.pages.save(),
      interrupts: this.interrupts.save(),
      hpm: this.hpm.save(),
      ats: this.ats.save(),
      directory: this.translator.directory.save(),
      iotlb: this.translator.iotlb.save(),
      counts: {
        misses: this.translator.misses,
        deviceWalks: this.translator.directory.deviceWalks,
        processWalks: this.translator.directory.processWalks,
        firstWalks: this.translator.stages.firstWalks,
        secondWalks: this.translator.stages.secondWalks,
        commands: this.commands.carriedOut,
        faults: this.nrFaults,
      },
    };
  }

  /** Everything as save() has described it; lines are where their other ends have them. */
  restore(state: IommuState): void {
    this.debug.restore(state.debug);
    Object.assign(this.commands.r, state.commands);
    this.faults.restore(state.faults);
    this.pages.restore(state.pages);
    this.interrupts.restore(state.interrupts);
    this.hpm.restore(state.hpm);
    this.ats.restore(state.ats);
    this.translator.directory.restore(state.directory);
    this.translator.iotlb.restore(state.iotlb);
    this.registers.restore(state.ddtp);
    this.translator.misses = state.counts.misses;
    this.translator.directory.deviceWalks = state.counts.deviceWalks;
    this.translator.directory.processWalks = state.counts.processWalks;
    this.translator.stages.firstWalks = state.counts.firstWalks;
    this.translator.stages.secondWalks = state.counts.secondWalks;
    this.commands.carriedOut = state.counts.commands;
    this.nrFaults = state.counts.faults;
  }
}

const eventOf = (ttyp: number): number =>
  ttyp >= s.TTYP_TRANSLATED_EXEC && ttyp <= s.TTYP_TRANSLATED_WRITE
    ? reg.HPM_EVENT_TRANSLATED
    : reg.HPM_EVENT_UNTRANSLATED;
