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
  PTE_X,
} from '#emu';
import type { AtsCompletion, AtsDevice, AtsRequest, PageRequest } from './ats.ts';
import { AtsUnit, type AtsUnitState } from './ats-unit.ts';
import { type AtsInvalidation, CommandQueue, type CommandTarget } from './command-queue.ts';
import type { DirectoryState } from './directory.ts';
import { FAULT_RECORD_BYTES, faultRecord, PAGE_RECORD_BYTES, reportedWithDtf } from './fault.ts';
import { Hpm, type HpmState } from './hpm.ts';
import { IommuInterrupts, type IommuInterruptState } from './interrupts.ts';
import { IOTLB_R, IOTLB_W, type IotlbState, type IotlbVisitor, LEVEL_BARE } from './iotlb.ts';
import { MSI_MRIF, storeMrif } from './msi.ts';
import {
  type QueueRegisters,
  RecordQueue,
  type RecordQueueState,
  writeQueueBase,
} from './queues.ts';
import * as reg from './registers.ts';
import * as s from './structures.ts';
import { IoTranslator } from './translate.ts';

/** spa(): the access is an MSI into a memory-resident interrupt file; writeMsi() carries it out. */
export const IOMMU_MRIF = -3;

/** Physical addresses have 56 bits. */
const PAS = 56;
const TR_REQ_LO_MASK = ~0xff0;
const TR_REQ_HI_MASK = 0xffff_ff01;
const PTE_PPN_SHIFT_LO = 10;

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
  ddtpLo: number;
  ddtpHi: number;
  trReqIova: [number, number];
  trReqCtl: [number, number];
  trResponse: [number, number];
  commands: QueueRegisters;
  faults: RecordQueueState;
  pages: RecordQueueState;
  interrupts: IommuInterruptState;
  hpm: HpmState;
  ats: AtsUnitState;
  directory: DirectoryState;
  iotlb: IotlbState;
}

export class Iommu implements MmioDevice, CommandTarget {
  readonly name: string;
  private readonly config: IommuConfig;
  private readonly translator: IoTranslator;
  private readonly commands: CommandQueue;
  private readonly faults: RecordQueue;
  private readonly pages: RecordQueue;
  private readonly interrupts: IommuInterrupts;
  private readonly hpm: Hpm;
  private readonly ats: AtsUnit;
  private readonly listeners: (() => void)[];
  private readonly capabilitiesLo: number;
  private ddtpLo: number;
  private ddtpHi: number;
  private trReqIova: [number, number];
  private trReqCtl: [number, number];
  private trResponse: [number, number];
  private running: boolean;

  constructor(config: IommuConfig) {
    const { memory, port, clock, name } = config;
    const extended = config.extendedFormat ?? true;
    this.name = name;
    this.config = config;
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
    this.capabilitiesLo =
      reg.CAP_VERSION_1_0 |
      reg.CAP_SV39 |
      reg.CAP_SV48 |
      reg.CAP_SV57 |
      reg.CAP_SV39X4 |
      reg.CAP_SV48X4 |
      reg.CAP_SV57X4 |
      (extended ? reg.CAP_MSI_FLAT | reg.CAP_MSI_MRIF | reg.CAP_AMO_MRIF : 0) |
      reg.CAP_AMO_HWAD |
      reg.CAP_ATS |
      reg.CAP_T2GPA |
      reg.CAP_IGS_BOTH |
      reg.CAP_HPM |
      reg.CAP_DBG;
    this.ddtpLo = reg.DDTP_MODE_BARE;
    this.ddtpHi = 0;
    this.trReqIova = [0, 0];
    this.trReqCtl = [0, 0];
    this.trResponse = [0, 0];
    this.running = false;
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
    const ttyp = write ? s.TTYP_UNTRANSLATED_WRITE : s.TTYP_UNTRANSLATED_READ;
    return this.request(deviceId, processId, false, iova, write ? PTE_W : PTE_R, ttyp);
  }

  /** As spa(), but an offset into memory; it holds for the rest of the 4 KiB page. */
  translate(deviceId: number, processId: number, iova: number, write: boolean): number {
    const spa = this.spa(deviceId, processId, iova, write);
    if (spa < 0) return spa === DMA_WAIT ? DMA_WAIT : DMA_FAULT;
    return this.config.port.translate(spa, write);
  }

  /** Where an access goes whose address the device has translated. As spa(). */
  translated(deviceId: number, processId: number, address: number, write: boolean): number {
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
    const outcome = storeMrif(stages, this.config.port, msi, iova & 0xfff, data);
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
    const { dc, stages } = this.translator;
    const quiet = ttyp !== s.TTYP_NONE && dc !== undefined && (dc.tc & s.TC_DTF) !== 0;
    if (quiet && !reportedWithDtf(cause)) return;
    const iotval2 = ttyp === s.TTYP_NONE ? 0 : stages.iotval2;
    this.faults.push(faultRecord(cause, ttyp, deviceId, processId, supervisor, iotval, iotval2));
  }

  /** Memory has become reachable: everything that was waiting for it goes on. */
  private ready(): void {
    this.faults.flush();
    this.pages.flush();
    this.interrupts.send();
    this.runCommands();
    this.runDebugRequest();
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
    if (sizeBytes !== 4 || (offset & 3) !== 0) return 0;
    this.runDebugRequest();
    return this.readWord(offset) >>> 0;
  }

  private readWord(offset: number): number {
    switch (offset) {
      case reg.IOMMU_REG_CAPABILITIES:
        return this.capabilitiesLo;
      case reg.IOMMU_REG_CAPABILITIES + 4:
        return PAS | reg.CAP_HI_PD8 | reg.CAP_HI_PD17 | reg.CAP_HI_PD20;
      case reg.IOMMU_REG_FCTL:
        return this.interrupts.wsi ? reg.FCTL_WSI : 0;
      case reg.IOMMU_REG_DDTP:
        return this.ddtpLo;
      case reg.IOMMU_REG_DDTP + 4:
        return this.ddtpHi;
      case reg.IOMMU_REG_CQCSR:
        return this.commands.r.csr;
      case reg.IOMMU_REG_FQCSR:
        return this.faults.r.csr;
      case reg.IOMMU_REG_PQCSR:
        return this.pages.r.csr;
      case reg.IOMMU_REG_IPSR:
        return this.interrupts.ipsr;
      case reg.IOMMU_REG_IOCOUNTOVF:
        return this.hpm.iocountovf;
      case reg.IOMMU_REG_IOCOUNTINH:
        return this.hpm.iocountinh;
      case reg.IOMMU_REG_IOHPMCYCLES:
      case reg.IOMMU_REG_IOHPMCYCLES + 4:
        return this.hpm.readCycles((offset & 4) !== 0);
      case reg.IOMMU_REG_ICVEC:
        return this.interrupts.icvec;
      default:
        return this.readArray(offset);
    }
  }

  /** Registers of which there are several alike. */
  private readArray(offset: number): number {
    const half = (offset & 4) >>> 2;
    if (offset >= reg.IOMMU_REG_CQB && offset <= reg.IOMMU_REG_PQT) {
      const { r, field } = this.queueRegister(offset);
      return r[field];
    }
    if (offset >= reg.IOMMU_REG_IOHPMCTR && offset < reg.IOMMU_REG_IOHPMEVT)
      return this.hpm.readCounter((offset - reg.IOMMU_REG_IOHPMCTR) >>> 2);
    if (offset >= reg.IOMMU_REG_IOHPMEVT && offset < reg.IOMMU_REG_TR_REQ_IOVA)
      return this.hpm.readEvent((offset - reg.IOMMU_REG_IOHPMEVT) >>> 2);
    if (offset >= reg.IOMMU_REG_MSI_CFG_TBL && offset < reg.IOMMU_REG_END)
      return this.interrupts.readTable((offset - reg.IOMMU_REG_MSI_CFG_TBL) >>> 2);
    switch (offset - 4 * half) {
      case reg.IOMMU_REG_TR_REQ_IOVA:
        return this.trReqIova[half]!;
      case reg.IOMMU_REG_TR_REQ_CTL:
        return this.trReqCtl[half]!;
      case reg.IOMMU_REG_TR_RESPONSE:
        return this.trResponse[half]!;
      default:
        return 0;
    }
  }

  /** Which register of which ring: base, head and tail of the three follow each other. */
  private queueRegister(offset: number): { r: QueueRegisters; field: keyof QueueRegisters } {
    const rings = [this.commands.r, this.faults.r, this.pages.r] as const;
    const fields = ['baseLo', 'baseHi', 'head', 'tail'] as const;
    const word = (offset - reg.IOMMU_REG_CQB) >>> 2;
    return { r: rings[word >>> 2] ?? rings[0], field: fields[word & 3] ?? 'tail' };
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return;
    // The high half of the debug request comes after the low one where the bus splits a store.
    if (offset !== reg.IOMMU_REG_TR_REQ_CTL + 4) this.runDebugRequest();
    switch (offset) {
      case reg.IOMMU_REG_FCTL:
        this.interrupts.wsi = (value & reg.FCTL_WSI) !== 0;
        break;
      case reg.IOMMU_REG_DDTP:
      case reg.IOMMU_REG_DDTP + 4:
        this.writeDdtp((offset & 4) !== 0, value);
        break;
      case reg.IOMMU_REG_CQT:
        this.commands.writeTail(value);
        this.runCommands();
        break;
      case reg.IOMMU_REG_FQH:
        this.faults.writeHead(value);
        break;
      case reg.IOMMU_REG_PQH:
        this.pages.writeHead(value);
        break;
      case reg.IOMMU_REG_CQCSR:
        this.commands.writeCsr(value);
        this.runCommands();
        break;
      case reg.IOMMU_REG_FQCSR:
        this.faults.writeCsr(value);
        break;
      case reg.IOMMU_REG_PQCSR:
        this.pages.writeCsr(value);
        break;
      case reg.IOMMU_REG_IPSR:
        this.interrupts.acknowledge(value);
        this.commands.checkInterrupt();
        this.faults.checkInterrupt();
        this.pages.checkInterrupt();
        break;
      case reg.IOMMU_REG_IOCOUNTINH:
        this.hpm.iocountinh = value;
        break;
      case reg.IOMMU_REG_IOHPMCYCLES:
      case reg.IOMMU_REG_IOHPMCYCLES + 4:
        this.hpm.writeCycles((offset & 4) !== 0, value);
        break;
      case reg.IOMMU_REG_ICVEC:
        this.interrupts.icvec = value;
        break;
      default:
        this.writeArray(offset, value);
    }
  }

  private writeArray(offset: number, value: number): void {
    const half = (offset & 4) >>> 2;
    if (offset >= reg.IOMMU_REG_CQB && offset <= reg.IOMMU_REG_PQT) {
      const { r, field } = this.queueRegister(offset);
      if (field === 'baseLo' || field === 'baseHi') writeQueueBase(r, half === 1, value);
    } else if (offset >= reg.IOMMU_REG_IOHPMCTR && offset < reg.IOMMU_REG_IOHPMEVT)
      this.hpm.writeCounter((offset - reg.IOMMU_REG_IOHPMCTR) >>> 2, value);
    else if (offset >= reg.IOMMU_REG_IOHPMEVT && offset < reg.IOMMU_REG_TR_REQ_IOVA)
      this.hpm.writeEvent((offset - reg.IOMMU_REG_IOHPMEVT) >>> 2, value);
    else if (offset >= reg.IOMMU_REG_MSI_CFG_TBL && offset < reg.IOMMU_REG_END)
      this.interrupts.writeTable((offset - reg.IOMMU_REG_MSI_CFG_TBL) >>> 2, value);
    else if (offset - 4 * half === reg.IOMMU_REG_TR_REQ_IOVA) this.trReqIova[half] = value;
    else if (offset === reg.IOMMU_REG_TR_REQ_CTL) this.trReqCtl[0] = value & TR_REQ_LO_MASK;
    else if (offset === reg.IOMMU_REG_TR_REQ_CTL + 4) this.trReqCtl[1] = value & TR_REQ_HI_MASK;
  }

  private writeDdtp(high: boolean, value: number): void {
    if (high) this.ddtpHi = value & reg.PPN_HI_MASK;
    else {
      const mode = value & reg.DDTP_MODE_MASK;
      const legal = mode <= reg.DDTP_MODE_3LVL ? mode : this.ddtpLo & reg.DDTP_MODE_MASK;
      this.ddtpLo = (value & reg.PPN_LO_MASK) | legal;
    }
    this.applyDdtp();
  }

  private applyDdtp(): void {
    const { translator } = this;
    translator.mode = this.ddtpLo & reg.DDTP_MODE_MASK;
    translator.rootPpn = this.ddtpHi * 2 ** 22 + (this.ddtpLo >>> 10);
    translator.forgetStreams();
  }

  /**
   * Carries out the request of tr_req_ctl, if there is one: at the next access to a register, when both
   * halves have been written. One that has to wait stays, with Go set.
   */
  private runDebugRequest(): void {
    const lo = this.trReqCtl[0];
    if ((lo & reg.TR_REQ_GO) === 0) return;
    const hi = this.trReqCtl[1];
    const deviceId = hi >>> reg.TR_REQ_HI_DID_SHIFT;
    const processId = (hi & reg.TR_REQ_HI_PV) !== 0 ? lo >>> reg.TR_REQ_PID_SHIFT : -1;
    const exec = (lo & reg.TR_REQ_EXE) !== 0;
    const readOnly = (lo & reg.TR_REQ_NW) !== 0;
    const need: Need = exec ? PTE_X : readOnly ? PTE_R : PTE_W;
    const ttyp = exec
      ? s.TTYP_UNTRANSLATED_EXEC
      : readOnly
        ? s.TTYP_UNTRANSLATED_READ
        : s.TTYP_UNTRANSLATED_WRITE;
    const iova = (this.trReqIova[1] >>> 0) * 2 ** 32 + (this.trReqIova[0] >>> 0);
    const spa = this.request(deviceId, processId, (lo & reg.TR_REQ_PRIV) !== 0, iova, need, ttyp);
    if (spa === DMA_WAIT) return;
    this.trReqCtl[0] = lo & ~reg.TR_REQ_GO;
    if (spa === DMA_FAULT) {
      this.trResponse = [reg.TR_RESPONSE_FAULT, 0];
      return;
    }
    const { level, msi } = this.translator;
    let ppn = Math.floor((spa === IOMMU_MRIF ? msi.spa : spa) / 4096);
    const large = spa !== IOMMU_MRIF && level > 0 && level < LEVEL_BARE;
    if (large) {
      // The size in unary, in the bits of the page number that it leaves free.
      const pages = 2 ** (9 * level);
      ppn += pages / 2 - 1 - (ppn % pages);
    }
    const ppnLo = (ppn % 2 ** 22) * 2 ** PTE_PPN_SHIFT_LO;
    this.trResponse = [
      ppnLo | (large ? reg.TR_RESPONSE_S : 0),
      Math.floor(ppn / 2 ** 22) & reg.PPN_HI_MASK,
    ];
  }

  /* ---- saved machines ---- */

  save(): IommuState {
    return {
      ddtpLo: this.ddtpLo,
      ddtpHi: this.ddtpHi,
      trReqIova: [...this.trReqIova],
      trReqCtl: [...this.trReqCtl],
      trResponse: [...this.trResponse],
      commands: { ...this.commands.r },
      faults: this.faults.save(),
      pages: this.pages.save(),
      interrupts: this.interrupts.save(),
      hpm: this.hpm.save(),
      ats: this.ats.save(),
      directory: this.translator.directory.save(),
      iotlb: this.translator.iotlb.save(),
    };
  }

  /** Everything as save() has described it; lines are where their other ends have them. */
  restore(state: IommuState): void {
    this.ddtpLo = state.ddtpLo;
    this.ddtpHi = state.ddtpHi;
    this.trReqIova = [...state.trReqIova];
    this.trReqCtl = [...state.trReqCtl];
    this.trResponse = [...state.trResponse];
    Object.assign(this.commands.r, state.commands);
    this.faults.restore(state.faults);
    this.pages.restore(state.pages);
    this.interrupts.restore(state.interrupts);
    this.hpm.restore(state.hpm);
    this.ats.restore(state.ats);
    this.translator.directory.restore(state.directory);
    this.translator.iotlb.restore(state.iotlb);
    this.applyDdtp();
  }
}

const eventOf = (ttyp: number): number =>
  ttyp >= s.TTYP_TRANSLATED_EXEC && ttyp <= s.TTYP_TRANSLATED_WRITE
    ? reg.HPM_EVENT_TRANSLATED
    : reg.HPM_EVENT_UNTRANSLATED;
