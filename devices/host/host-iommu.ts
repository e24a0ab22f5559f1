/**
 * The driver of the host's RISC-V IOMMU: it switches it on, keeps the directory of devices, gives each
 * its domain, invalidates what changes, and reads what the IOMMU reports. Everything goes through the
 * registers and the rings in RAM. Compare drivers/iommu/riscv/iommu.c.
 *
 *   attachDevice()   a context for the device, and a domain         (dma-map.ts maps in it)
 *   invalidate...()  IOTINVAL by page or by domain, then a fence    (io-domain.ts asks for it)
 *   svaBind()        a process's own tables, by process_id          (iommu-sva.ts)
 *   work()           faults are named, page requests served         (the scheduler calls it)
 *   detachDevice()   the device is cut off, whatever it still does
 *
 * A device that was never attached has no context: whatever it sends is a fault.
 */
import { ATP_MODE_SV39, type Clock, INSTRUCTIONS_PER_TICK, type IrqLine, TIMEBASE_HZ } from '#emu';
import { BusPort, Iommu, type IommuState } from '#devices';
import { EBUSY, ENODEV, freePages, type Kernel, pageToPfn, type Path } from '#mm';
import { DmaDevice, type DmaDeviceState, type IommuMode } from './dma-device.ts';
import type { DmaMapping } from './dma-mapping.ts';
import { type DomainInvalidator, IoDomain, type IoDomainState } from './io-domain.ts';
import { createFlushQueueCounts, type FlushQueueCounts } from './flush-queue.ts';
import { ioRootPfn } from './io-tables.ts';
import { atsInval, iodirInvalDdt, iotinvalGvma, iotinvalVma } from './iommu-commands.ts';
import {
  allocIommuPage,
  clearDeviceContext,
  createDirectory,
  DC_TC_DPE,
  DC_TC_EN_ATS,
  DC_TC_EN_PRI,
  DC_TC_PDTV,
  DC_TC_SADE,
  type DeviceContext,
  type DeviceDirectory,
  freeDirectory,
  PDTP_MODE_PD8,
  setDeviceContext,
} from './iommu-directory.ts';
import { faultDevice, noteFault } from './iommu-faults.ts';
import {
  CommandRing,
  type CommandRingState,
  RecordRing,
  type RecordRingState,
} from './iommu-queues.ts';
import { IommuSva, type IommuSvaState } from './iommu-sva.ts';

/* Registers. RISC-V IOMMU 1.0, "Memory-mapped register interface". */
const CAPABILITIES = 0x00;
const FCTL = 0x08;
const DDTP = 0x10;
const IPSR = 0x54;
const COMMAND_RING = { base: 0x18, head: 0x20, tail: 0x24, control: 0x48 };
const FAULT_RING = { base: 0x28, head: 0x30, tail: 0x34, control: 0x4c };
const PAGE_RING = { base: 0x38, head: 0x40, tail: 0x44, control: 0x50 };
const FAULT_RECORD_BYTES = 32;
const PAGE_RECORD_BYTES = 16;

const CAP_MSI_FLAT = 1 << 22;
const CAP_AMO_HWAD = 1 << 24;
const CAP_ATS = 1 << 25;
const CAP_HI_PD8 = 1 << 6;
const FCTL_WSI = 1 << 1;
const DDTP_MODE_MASK = 15;
/** Modes of one, two and three levels. */
const DDTP_MODE_1LVL = 2;

/** Pages above which a whole domain is invalidated rather than page by page: 2 MiB. */
const INVALIDATE_LIMIT = 512;
/** How long mappings wait in a flush queue at most: 10 ms. */
export const FLUSH_TIMEOUT = (TIMEBASE_HZ / 100) * INSTRUCTIONS_PER_TICK;
/** Event: a domain's flush queue; its argument is the domain. */
const EVENT_FLUSH = 0;

export interface HostIommuConfig {
  kernel: Kernel;
  clock: Clock;
  /** Unique on the machine: for clock events. */
  name: string;
}

export interface AttachOptions {
  mode: IommuMode;
  name: string;
  /** The device caches translations (ATS). Of an sva device this is so. */
  ats?: boolean;
}

/** What a saved machine keeps of the IOMMU and its driver. */
export interface HostIommuState {
  model: IommuState;
  directory: DeviceDirectory;
  commands: CommandRingState;
  faults: RecordRingState;
  pages: RecordRingState | null;
  domains: IoDomainState[];
  devices: DmaDeviceState[];
  sva: IommuSvaState;
  pending: boolean;
  pastQueues: FlushQueueCounts;
}

/** Adds up what two queues counted. */
const addQueueCounts = (into: FlushQueueCounts, counts: FlushQueueCounts): void => {
  into.queued += counts.queued;
  into.queuedPages += counts.queuedPages;
  into.mostPages = Math.max(into.mostPages, counts.mostPages);
  into.byRoom += counts.byRoom;
  into.byTime += counts.byTime;
};

export class HostIommu implements DomainInvalidator {
  readonly kernel: Kernel;
  readonly model: Iommu;
  readonly sva: IommuSva;
  private readonly clock: Clock;
  private readonly name: string;
  private readonly directory: DeviceDirectory;
  private readonly commands: CommandRing;
  private readonly faults: RecordRing;
  /** Of page requests; null where the IOMMU takes none. */
  private readonly pages: RecordRing | null;
  private readonly domains: Map<number, IoDomain>;
  private readonly devices: Map<number, DmaDevice>;
  private readonly hardwareAd: boolean;
  private readonly hasPasid: boolean;
  /** An interrupt that nobody has looked at yet. */
  private pending: boolean;
  /** What the queues of domains counted that are gone. */
  private readonly pastQueues: FlushQueueCounts;
  private working: boolean;

  /** Switches the IOMMU on; or, with `state`, takes it over as it was. @throws Error without memory for its tables */
  constructor(config: HostIommuConfig, state?: HostIommuState) {
    const { kernel } = config;
    this.kernel = kernel;
    this.clock = config.clock;
    this.name = config.name;
    this.domains = new Map();
    this.devices = new Map();
    this.pending = state?.pending ?? false;
    this.pastQueues = { ...createFlushQueueCounts(), ...state?.pastQueues };
    this.working = false;
    const line: IrqLine = {
      set: (level) => {
        if (level) this.pending = true;
      },
    };
    const { memory } = kernel;
    this.model = new Iommu({
      memory,
      port: new BusPort(memory),
      irq: [line, line, line, line],
      name: `${this.name} model`,
      clock: this.clock,
    });
    if (state !== undefined) this.model.restore(state.model);
    const lo = this.model.read(CAPABILITIES, 4);
    const hi = this.model.read(CAPABILITIES + 4, 4);
    this.hardwareAd = (lo & CAP_AMO_HWAD) !== 0;
    this.hasPasid = (hi & CAP_HI_PD8) !== 0;
    const hasAts = (lo & CAP_ATS) !== 0;
    config.clock.receive(this.name, (_kind, id) => this.domains.get(id)?.queue.timeout());
    if (state === undefined) {
      const { model } = this;
      model.write(FCTL, 4, FCTL_WSI);
      this.commands = CommandRing.create(kernel, model, COMMAND_RING);
      this.faults = RecordRing.create(kernel, model, FAULT_RING, FAULT_RECORD_BYTES);
      this.pages = hasAts ? RecordRing.create(kernel, model, PAGE_RING, PAGE_RECORD_BYTES) : null;
      this.directory = this.enable((lo & CAP_MSI_FLAT) !== 0);
      this.sva = new IommuSva(this, this.name);
      return;
    }
    const { commands, faults, pages } = state;
    this.commands = CommandRing.restore(kernel, this.model, COMMAND_RING, commands);
    this.faults = RecordRing.restore(kernel, this.model, FAULT_RING, FAULT_RECORD_BYTES, faults);
    this.pages =
      pages && RecordRing.restore(kernel, this.model, PAGE_RING, PAGE_RECORD_BYTES, pages);
    this.directory = { ...state.directory };
    for (const domain of state.domains)
      this.domains.set(domain.id, IoDomain.restore(kernel, this, domain));
    for (const saved of state.devices) {
      const device = new DmaDevice(kernel, saved.id, saved.name, saved.mode);
      device.restore(saved);
      device.domain = this.domains.get(saved.domain) ?? null;
      this.devices.set(saved.id, device);
    }
    this.sva = new IommuSva(this, this.name, state.sva);
  }

  /** Makes the directory of devices, as deep as the IOMMU allows. */
  private enable(extended: boolean): DeviceDirectory {
    for (let levels = 3; levels > 0; levels--) {
      const directory = createDirectory(this.kernel, levels, extended);
      if (typeof directory === 'number') throw new Error(`${this.name}: no memory`);
      const mode = DDTP_MODE_1LVL + levels - 1;
      const ddtp = pageToPfn(directory.root) * 1024 + mode;
      this.model.write(DDTP + 4, 4, Math.floor(ddtp / 2 ** 32));
      this.model.write(DDTP, 4, ddtp >>> 0);
      if ((this.model.read(DDTP, 4) & DDTP_MODE_MASK) === mode) return directory;
      freeDirectory(this.kernel, directory);
    }
    throw new Error(`${this.name}: no mode with a directory`);
  }

  /* ---- devices ---- */

  /**
   * Gives a device its context and, in strict and deferred mode, a domain of its own. After a restore
   * it is the device that was attached then.
   * @returns the device; -EBUSY: attached already in another mode; -ENOMEM; -ENODEV: sva, and the IOMMU
   *   has no page requests or no process directories
   */
  attachDevice(deviceId: number, options: AttachOptions): DmaDevice | number {
    const known = this.devices.get(deviceId);
    if (known !== undefined) return known.mode === options.mode ? known : -EBUSY;
    const { kernel } = this;
    const device = new DmaDevice(kernel, deviceId, options.name, options.mode);
    device.ats = this.pages !== null && (options.ats === true || options.mode === 'sva');
    const cleared = clearDeviceContext(kernel, this.directory, deviceId);
    if (cleared < 0) return cleared;
    if (options.mode === 'sva') {
      if (!device.ats || !this.hasPasid) return -ENODEV;
      device.pdt = allocIommuPage(kernel);
      if (device.pdt < 0) return device.pdt;
    } else if (options.mode !== 'off') {
      const domain = this.createDomain(1, options.mode === 'deferred');
      if (typeof domain === 'number') return domain;
      device.domain = domain;
    }
    this.devices.set(deviceId, device);
    this.writeContext(device);
    return device;
  }

  /**
   * A domain that devices can be moved to.
   * @param stage 1: bus addresses to physical; 2: guest physical ones to physical
   * @returns -ENOMEM
   */
  createDomain(stage: 1 | 2, deferred: boolean): IoDomain | number {
    let id = 1;
    while (this.domains.has(id)) id++;
    const domain = IoDomain.create({
      kernel: this.kernel,
      id,
      stage,
      deferred,
      invalidator: this,
    });
    if (typeof domain !== 'number') this.domains.set(id, domain);
    return domain;
  }

  /** The device's accesses go by `domain` from now on. Compare iommu_attach_device(). */
  moveDevice(device: DmaDevice, domain: IoDomain): void {
    this.cutOff(device);
    device.domain = domain;
    this.writeContext(device);
  }

  /** The domain goes; no device is attached to it. */
  destroyDomain(domain: IoDomain): void {
    for (const device of this.devices.values())
      if (device.domain === domain && !device.removed)
        throw new Error(`domain ${domain.id}: ${device.name} is attached`);
    domain.finish();
    domain.queue.flush();
    addQueueCounts(this.pastQueues, domain.queue.counts);
    this.invalidateDomain(domain);
    domain.destroy();
    this.domains.delete(domain.id);
    this.clock.cancel(this.name, EVENT_FLUSH, domain.id);
  }

  /**
   * The device is gone, or is not trusted any more: whatever it sends from now on is a fault. What is
   * mapped for it stays so until its driver lets go of it.
   */
  detachDevice(device: DmaDevice): void {
    if (device.removed) return;
    device.removed = true;
    this.cutOff(device);
    this.sva.removeDevice(device);
  }

  /** The last of a device: nothing is mapped for it any more. */
  releaseDevice(device: DmaDevice): void {
    this.detachDevice(device);
    if (device.domain !== null && this.domains.has(device.domain.id))
      this.destroyDomain(device.domain);
    device.domain = null;
    if (device.pdt >= 0) freePages(this.kernel, device.pdt, 0);
    device.pdt = -1;
    this.devices.delete(device.id);
  }

  deviceOf(deviceId: number): DmaDevice | undefined {
    return this.devices.get(deviceId);
  }

  domainOf(id: number): IoDomain | undefined {
    return this.domains.get(id);
  }

  /**
   * What the IOMMU and its driver did, in words: of deferred invalidation how many mappings waited for it,
   * and how many pages could be reached meanwhile that were unmapped already.
   */
  get report(): Record<string, number> {
    const queues = [...this.domains.values()].map(({ queue }) => queue.counts);
    const total = { ...this.pastQueues };
    for (const counts of queues) addQueueCounts(total, counts);
    const { pages, groups, refused, invalidations } = this.sva.counts;
    return {
      ...this.model.counts,
      'mappings invalidated later': total.queued,
      'most pages unmapped and not yet invalidated': total.mostPages,
      'invalidations of a full queue': total.byRoom,
      'invalidations of a queue after a while': total.byTime,
      'pages requested by devices': pages,
      'groups of page requests': groups,
      'page requests refused': refused,
      'invalidations of shared addresses': invalidations,
    };
  }

  get allDevices(): readonly DmaDevice[] {
    return [...this.devices.values()];
  }

  private cutOff(device: DmaDevice): void {
    clearDeviceContext(this.kernel, this.directory, device.id);
    this.commands.send((words) => iodirInvalDdt(words, device.id));
    this.sync();
  }

  private writeContext(device: DmaDevice): void {
    const { domain } = device;
    const context: DeviceContext = {
      control: device.ats ? DC_TC_EN_ATS : 0,
      firstMode: 0,
      firstRootPfn: 0,
      pscid: 0,
      secondMode: 0,
      secondRootPfn: 0,
      gscid: 0,
    };
    if (device.mode === 'sva') {
      // Without a process_id it is process 0, which has no context.
      context.control |= DC_TC_PDTV | DC_TC_DPE | DC_TC_EN_PRI;
      if (this.hardwareAd) context.control |= DC_TC_SADE;
      context.firstMode = PDTP_MODE_PD8;
      context.firstRootPfn = pageToPfn(device.pdt);
    } else if (domain?.stage === 1) {
      context.firstMode = ATP_MODE_SV39;
      context.firstRootPfn = ioRootPfn(domain.tables);
      context.pscid = domain.id;
    } else if (domain?.stage === 2) {
      context.secondMode = ATP_MODE_SV39;
      context.secondRootPfn = ioRootPfn(domain.tables);
      context.gscid = domain.id;
    }
    setDeviceContext(this.kernel, this.directory, device.id, context);
    this.commands.send((words) => iodirInvalDdt(words, device.id));
    this.sync();
  }

  /* ---- invalidation ---- */

  invalidateMappings(domain: IoDomain, mappings: readonly DmaMapping[]): void {
    const nrPages = mappings.reduce((sum, mapping) => sum + mapping.nrPages, 0);
    if (nrPages >= INVALIDATE_LIMIT) {
      this.invalidateDomain(domain);
      return;
    }
    for (const { pfn, nrPages: n } of mappings)
      for (let i = 0; i < n; i++)
        this.commands.send((words) =>
          domain.stage === 1
            ? iotinvalVma(words, domain.id, pfn + i)
            : iotinvalGvma(words, domain.id, pfn + i),
        );
    this.sync();
    for (const { pfn, nrPages: n } of mappings) this.invalidateDevices(domain, pfn, n);
  }

  invalidateDomain(domain: IoDomain): void {
    this.commands.send((words) =>
      domain.stage === 1 ? iotinvalVma(words, domain.id, -1) : iotinvalGvma(words, domain.id, -1),
    );
    this.sync();
    this.invalidateDevices(domain, 0, -1);
  }

  /** What devices with a cache of their own have of a domain; after the IOMMU has forgotten it. @param n -1: all */
  private invalidateDevices(domain: IoDomain, pfn: number, n: number): void {
    for (const device of this.devices.values())
      if (device.ats && device.domain === domain && !device.removed)
        this.sendAtsInval(device, -1, pfn, n);
  }

  /**
   * Tells a device to forget pages of a process (-1: of its own domain), and waits.
   * @param nrPages -1: all of them. A device that does not answer in time is cut off
   */
  sendAtsInval(device: DmaDevice, processId: number, pfn: number, nrPages: number): void {
    const { id } = device;
    if (nrPages < 0) this.commands.send((words) => atsInval(words, id, processId, 0, -1));
    for (let done = 0, order = 0; done < nrPages; done += 2 ** order) {
      order = 0;
      while ((pfn + done) % 2 ** (order + 1) === 0 && done + 2 ** (order + 1) <= nrPages) order++;
      this.commands.send((words) => atsInval(words, id, processId, pfn + done, order));
    }
    if (this.sync()) return;
    device.violate('unmapped', 'does not answer an invalidation of its cache, and is cut off');
    this.detachDevice(device);
  }

  startTimer(domain: IoDomain): void {
    this.clock.cancel(this.name, EVENT_FLUSH, domain.id);
    this.clock.at(this.clock.now + FLUSH_TIMEOUT, this.name, EVENT_FLUSH, domain.id);
  }

  /** Puts a command into the ring. @param encode writes its words */
  send(encode: (words: Int32Array) => void): void {
    this.commands.send(encode);
  }

  /** Everything that was sent is done. @returns false where a device has not answered */
  sync(): boolean {
    return this.commands.sync();
  }

  /* ---- for the scheduler ---- */

  pendingWork(): number {
    return this.pending && !this.working ? 1 : 0;
  }

  /** Names faults, serves page requests, until there is nothing. */
  *work(): Path<void> {
    this.working = true;
    while (this.pending) {
      this.pending = false;
      for (let record = this.faults.take(); record !== undefined; record = this.faults.take())
        noteFault(this.devices.get(faultDevice(record)), record);
      if (this.pages !== null) yield* this.sva.servePages(this.pages);
      // Written ones of what is done; a new one raises the line again.
      this.model.write(IPSR, 4, 15);
    }
    this.working = false;
  }

  /** Commands that the driver has sent since the beginning. */
  get nrCommands(): number {
    return this.commands.commands;
  }

  /** @throws Error while work() is suspended */
  save(): HostIommuState {
    if (this.working) throw new Error(`${this.name}: saved in the middle of work()`);
    return {
      model: this.model.save(),
      directory: { ...this.directory },
      commands: this.commands.save(),
      faults: this.faults.save(),
      pages: this.pages?.save() ?? null,
      domains: [...this.domains.values()].map((domain) => domain.save()),
      devices: [...this.devices.values()].map((device) => device.save()),
      sva: this.sva.save(),
      pending: this.pending,
      pastQueues: { ...this.pastQueues },
    };
  }

  /** Switches the IOMMU off and gives back all memory; every device has been released. */
  shutdown(): void {
    for (const device of [...this.devices.values()]) this.releaseDevice(device);
    this.model.write(DDTP, 4, 0);
    this.commands.destroy();
    this.faults.destroy();
    this.pages?.destroy();
    freeDirectory(this.kernel, this.directory);
  }
}
