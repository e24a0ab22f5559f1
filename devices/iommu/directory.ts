/**
 * The IOMMU's directories: finds the context of a device, and of one of its processes, in memory; and
 * keeps what it has found until it is invalidated. RISC-V IOMMU 1.0, "Process to locate the
 * Device-context", "Process to locate the Process-context".
 *
 * Only contexts are kept, no entries above them; of both kinds as many as there is room for, the
 * oldest making way. What is kept is used whatever becomes of the directory in memory.
 */
import { DMA_WAIT, type Need, PAGE_SIZE, PTE_R } from '#emu';
import {
  CAUSE_DDT_CORRUPT,
  CAUSE_DDT_LOAD_ACCESS,
  CAUSE_DDT_MISCONFIGURED,
  CAUSE_DDT_NOT_VALID,
  CAUSE_PDT_CORRUPT,
  CAUSE_PDT_LOAD_ACCESS,
  CAUSE_PDT_MISCONFIGURED,
  CAUSE_PDT_NOT_VALID,
  DC_BYTES_BASE,
  DC_BYTES_EXTENDED,
  decodeDeviceContext,
  decodeProcessContext,
  type DeviceContext,
  deviceIndex,
  DIRECTORY_V,
  directoryPpn,
  NON_LEAF_BYTES,
  PC_BYTES,
  PC_TA_V,
  type ProcessContext,
  processIndex,
  TC_V,
} from './structures.ts';
import { causeOf, type TwoStageWalk } from './two-stage.ts';

const DEVICES_MAX = 64;
const PROCESSES_MAX = 256;

/** What a saved machine keeps of the caches. */
export interface DirectoryState {
  devices: DeviceContext[];
  processes: ProcessContext[];
}

/** Key of a process context: process_id has 20 bits. */
const processKey = (deviceId: number, processId: number): number => deviceId * 2 ** 20 + processId;

export class IoDirectory {
  readonly extended: boolean;
  /** Walks of each directory. */
  deviceWalks: number;
  processWalks: number;
  private readonly stages: TwoStageWalk;
  private readonly i32: Int32Array;
  private readonly devices: Map<number, DeviceContext>;
  private readonly processes: Map<number, ProcessContext>;

  constructor(stages: TwoStageWalk, extended: boolean) {
    this.extended = extended;
    this.deviceWalks = 0;
    this.processWalks = 0;
    this.stages = stages;
    this.i32 = stages.i32;
    this.devices = new Map();
    this.processes = new Map();
  }

  /**
   * The context of a device.
   * @param levels and `rootPpn` of ddtp; the device_id is not too wide for them
   * @returns it, the cause of a fault, or DMA_WAIT
   */
  device(deviceId: number, levels: number, rootPpn: number): DeviceContext | number {
    const cached = this.devices.get(deviceId);
    if (cached !== undefined) return cached;
    this.deviceWalks++;
    const { stages, i32, extended } = this;
    let table = rootPpn;
    for (let level = levels - 1; level > 0; level--) {
      const spa = table * PAGE_SIZE + deviceIndex(deviceId, level, extended) * NON_LEAF_BYTES;
      const p = stages.wordAt(spa, false, NON_LEAF_BYTES, CAUSE_DDT_LOAD_ACCESS, CAUSE_DDT_CORRUPT);
      if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
      if ((i32[p]! & DIRECTORY_V) === 0) return CAUSE_DDT_NOT_VALID;
      table = directoryPpn(i32[p]!, i32[p + 1]!);
      if (table < 0) return CAUSE_DDT_MISCONFIGURED;
    }
    const bytes = extended ? DC_BYTES_EXTENDED : DC_BYTES_BASE;
    const spa = table * PAGE_SIZE + deviceIndex(deviceId, 0, extended) * bytes;
    const p = stages.wordAt(spa, false, bytes, CAUSE_DDT_LOAD_ACCESS, CAUSE_DDT_CORRUPT);
    if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
    if ((i32[p]! & TC_V) === 0) return CAUSE_DDT_NOT_VALID;
    const found = decodeDeviceContext(i32, p, extended, deviceId);
    if (found === undefined) return CAUSE_DDT_MISCONFIGURED;
    keep(this.devices, deviceId, found, DEVICES_MAX);
    return found;
  }

  /**
   * The context of a process of a device whose directory is not Bare; process_id is not too wide.
   * @param original what the transaction needs: guest-page faults are of its kind
   * @returns it, the cause of a fault, or DMA_WAIT
   */
  process(dc: DeviceContext, processId: number, original: Need): ProcessContext | number {
    const key = processKey(dc.deviceId, processId);
    const cached = this.processes.get(key);
    if (cached !== undefined) return cached;
    this.processWalks++;
    const { i32 } = this;
    let table = dc.directory.ppn;
    for (let level = dc.directory.levels - 1; level > 0; level--) {
      const gpa = table * PAGE_SIZE + processIndex(processId, level) * NON_LEAF_BYTES;
      const p = this.processWord(dc, gpa, NON_LEAF_BYTES, original);
      if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
      if ((i32[p]! & DIRECTORY_V) === 0) return CAUSE_PDT_NOT_VALID;
      table = directoryPpn(i32[p]!, i32[p + 1]!);
      if (table < 0) return CAUSE_PDT_MISCONFIGURED;
    }
    const gpa = table * PAGE_SIZE + processIndex(processId, 0) * PC_BYTES;
    const p = this.processWord(dc, gpa, PC_BYTES, original);
    if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
    if ((i32[p]! & PC_TA_V) === 0) return CAUSE_PDT_NOT_VALID;
    const found = decodeProcessContext(i32, p, dc.deviceId, processId);
    if (found === undefined) return CAUSE_PDT_MISCONFIGURED;
    keep(this.processes, key, found, PROCESSES_MAX);
    return found;
  }

  private processWord(dc: DeviceContext, gpa: number, lenBytes: number, original: Need): number {
    const spa = this.stages.implicit(dc, gpa, PTE_R, original);
    if (spa < 0) return spa;
    return this.stages.wordAt(spa, false, lenBytes, CAUSE_PDT_LOAD_ACCESS, CAUSE_PDT_CORRUPT);
  }

  /** IODIR.INVAL_DDT. @param deviceId -1: of all devices (DV = 0) */
  invalidateDevice(deviceId: number): void {
    if (deviceId < 0) {
      this.devices.clear();
      this.processes.clear();
      return;
    }
    this.devices.delete(deviceId);
    for (const [key, pc] of this.processes)
      if (pc.deviceId === deviceId) this.processes.delete(key);
  }

  /** IODIR.INVAL_PDT. */
  invalidateProcess(deviceId: number, processId: number): void {
    this.processes.delete(processKey(deviceId, processId));
  }

  save(): DirectoryState {
    return structuredClone({
      devices: [...this.devices.values()],
      processes: [...this.processes.values()],
    });
  }

  restore(state: DirectoryState): void {
    this.devices.clear();
    this.processes.clear();
    const { devices, processes } = structuredClone(state);
    for (const dc of devices) this.devices.set(dc.deviceId, dc);
    for (const pc of processes) this.processes.set(processKey(pc.deviceId, pc.processId), pc);
  }
}

/** Enters a value; the oldest one makes way. */
const keep = <V>(map: Map<number, V>, key: number, value: V, max: number): void => {
  if (map.size >= max) {
    for (const oldest of map.keys()) {
      map.delete(oldest);
      break;
    }
  }
  map.set(key, value);
};
