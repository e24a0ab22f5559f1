/**
 * The IOMMU's registers by offset: which unit each belongs to, and what is writable in it. RISC-V IOMMU
 * 1.0, "Memory-mapped register interface". Accesses that are not of an aligned word read 0 and write
 * nothing (the bus splits 8 bytes); so do reserved offsets.
 */
import type { CommandQueue } from './command-queue.ts';
import type { DebugRequests } from './debug.ts';
import type { Hpm } from './hpm.ts';
import type { IommuInterrupts } from './interrupts.ts';
import { type QueueRegisters, type RecordQueue, writeQueueBase } from './queues.ts';
import * as reg from './registers.ts';

/** Physical addresses have 56 bits. */
const PAS = 56;

/** The units behind the registers. */
export interface RegisterUnits {
  commands: CommandQueue;
  faults: RecordQueue;
  pages: RecordQueue;
  interrupts: IommuInterrupts;
  hpm: Hpm;
  debug: DebugRequests;
  /** ddtp was written. */
  onDdtp(mode: number, rootPpn: number): void;
  runCommands(): void;
}

export class RegisterFile {
  private readonly units: RegisterUnits;
  private readonly capabilitiesLo: number;
  private ddtpLo: number;
  private ddtpHi: number;

  constructor(units: RegisterUnits, extended: boolean) {
    this.units = units;
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
  }

  read(offset: number, sizeBytes: number): number {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return 0;
    this.units.debug.run();
    return this.readWord(offset) >>> 0;
  }

  private readWord(offset: number): number {
    switch (offset) {
      case reg.IOMMU_REG_CAPABILITIES:
        return this.capabilitiesLo;
      case reg.IOMMU_REG_CAPABILITIES + 4:
        return PAS | reg.CAP_HI_PD8 | reg.CAP_HI_PD17 | reg.CAP_HI_PD20;
      case reg.IOMMU_REG_FCTL:
        return this.units.interrupts.wsi ? reg.FCTL_WSI : 0;
      case reg.IOMMU_REG_DDTP:
        return this.ddtpLo;
      case reg.IOMMU_REG_DDTP + 4:
        return this.ddtpHi;
      case reg.IOMMU_REG_CQCSR:
        return this.units.commands.r.csr;
      case reg.IOMMU_REG_FQCSR:
        return this.units.faults.r.csr;
      case reg.IOMMU_REG_PQCSR:
        return this.units.pages.r.csr;
      case reg.IOMMU_REG_IPSR:
        return this.units.interrupts.ipsr;
      case reg.IOMMU_REG_IOCOUNTOVF:
        return this.units.hpm.iocountovf;
      case reg.IOMMU_REG_IOCOUNTINH:
        return this.units.hpm.iocountinh;
      case reg.IOMMU_REG_IOHPMCYCLES:
      case reg.IOMMU_REG_IOHPMCYCLES + 4:
        return this.units.hpm.readCycles((offset & 4) !== 0);
      case reg.IOMMU_REG_ICVEC:
        return this.units.interrupts.icvec;
      default:
        return this.readArray(offset);
    }
  }

  /** Registers of which there are several alike. */
  private readArray(offset: number): number {
    if (offset >= reg.IOMMU_REG_CQB && offset <= reg.IOMMU_REG_PQT) {
      const { r, field } = this.queueRegister(offset);
      return r[field];
    }
    if (offset >= reg.IOMMU_REG_IOHPMCTR && offset < reg.IOMMU_REG_IOHPMEVT)
      return this.units.hpm.readCounter((offset - reg.IOMMU_REG_IOHPMCTR) >>> 2);
    if (offset >= reg.IOMMU_REG_IOHPMEVT && offset < reg.IOMMU_REG_TR_REQ_IOVA)
      return this.units.hpm.readEvent((offset - reg.IOMMU_REG_IOHPMEVT) >>> 2);
    if (offset >= reg.IOMMU_REG_MSI_CFG_TBL && offset < reg.IOMMU_REG_END)
      return this.units.interrupts.readTable((offset - reg.IOMMU_REG_MSI_CFG_TBL) >>> 2);
    return this.units.debug.read(offset) ?? 0;
  }

  /** Which register of which ring: base, head and tail of the three follow each other. */
  private queueRegister(offset: number): { r: QueueRegisters; field: keyof QueueRegisters } {
    const rings = [this.units.commands.r, this.units.faults.r, this.units.pages.r] as const;
    const fields = ['baseLo', 'baseHi', 'head', 'tail'] as const;
    const word = (offset - reg.IOMMU_REG_CQB) >>> 2;
    return { r: rings[word >>> 2] ?? rings[0], field: fields[word & 3] ?? 'tail' };
  }

  write(offset: number, sizeBytes: number, value: number): void {
    if (sizeBytes !== 4 || (offset & 3) !== 0) return;
    // The high half of the debug request comes after the low one where the bus splits a store.
    if (offset !== reg.IOMMU_REG_TR_REQ_CTL + 4) this.units.debug.run();
    switch (offset) {
      case reg.IOMMU_REG_FCTL:
        this.units.interrupts.wsi = (value & reg.FCTL_WSI) !== 0;
        break;
      case reg.IOMMU_REG_DDTP:
      case reg.IOMMU_REG_DDTP + 4:
        this.writeDdtp((offset & 4) !== 0, value);
        break;
      case reg.IOMMU_REG_CQT:
        this.units.commands.writeTail(value);
        this.units.runCommands();
        break;
      case reg.IOMMU_REG_FQH:
        this.units.faults.writeHead(value);
        break;
      case reg.IOMMU_REG_PQH:
        this.units.pages.writeHead(value);
        break;
      case reg.IOMMU_REG_CQCSR:
        this.units.commands.writeCsr(value);
        this.units.runCommands();
        break;
      case reg.IOMMU_REG_FQCSR:
        this.units.faults.writeCsr(value);
        break;
      case reg.IOMMU_REG_PQCSR:
        this.units.pages.writeCsr(value);
        break;
      case reg.IOMMU_REG_IPSR:
        this.units.interrupts.acknowledge(value);
        this.units.commands.checkInterrupt();
        this.units.faults.checkInterrupt();
        this.units.pages.checkInterrupt();
        break;
      case reg.IOMMU_REG_IOCOUNTINH:
        this.units.hpm.iocountinh = value;
        break;
      case reg.IOMMU_REG_IOHPMCYCLES:
      case reg.IOMMU_REG_IOHPMCYCLES + 4:
        this.units.hpm.writeCycles((offset & 4) !== 0, value);
        break;
      case reg.IOMMU_REG_ICVEC:
        this.units.interrupts.icvec = value;
        break;
      default:
        this.writeArray(offset, value);
    }
  }

  private writeArray(offset: number, value: number): void {
    if (offset >= reg.IOMMU_REG_CQB && offset <= reg.IOMMU_REG_PQT) {
      const { r, field } = this.queueRegister(offset);
      if (field === 'baseLo' || field === 'baseHi') writeQueueBase(r, field === 'baseHi', value);
    } else if (offset >= reg.IOMMU_REG_IOHPMCTR && offset < reg.IOMMU_REG_IOHPMEVT)
      this.units.hpm.writeCounter((offset - reg.IOMMU_REG_IOHPMCTR) >>> 2, value);
    else if (offset >= reg.IOMMU_REG_IOHPMEVT && offset < reg.IOMMU_REG_TR_REQ_IOVA)
      this.units.hpm.writeEvent((offset - reg.IOMMU_REG_IOHPMEVT) >>> 2, value);
    else if (offset >= reg.IOMMU_REG_MSI_CFG_TBL && offset < reg.IOMMU_REG_END)
      this.units.interrupts.writeTable((offset - reg.IOMMU_REG_MSI_CFG_TBL) >>> 2, value);
    else this.units.debug.write(offset, value);
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
    this.units.onDdtp(
      this.ddtpLo & reg.DDTP_MODE_MASK,
      this.ddtpHi * 2 ** 22 + (this.ddtpLo >>> 10),
    );
  }

  save(): { ddtpLo: number; ddtpHi: number } {
    return { ddtpLo: this.ddtpLo, ddtpHi: this.ddtpHi };
  }

  restore({ ddtpLo, ddtpHi }: { ddtpLo: number; ddtpHi: number }): void {
    this.ddtpLo = ddtpLo;
    this.ddtpHi = ddtpHi;
    this.applyDdtp();
  }
}
