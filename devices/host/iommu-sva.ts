/**
 * Shared virtual addressing: a device walks the page tables of a process, by process_id, and nothing of
 * the process's memory is held. Compare drivers/iommu/iommu-sva.c and drivers/iommu/io-pgfault.c.
 *
 *   svaBind()      a process context that points to the process's own tables
 *   the device     asks for a translation; where there is none, for the page (PRI)
 *   servePages()   faults it in as a fault of the process's own would, and answers the group
 *   the kernel     has changed entries and flushes TLBs: what IOMMU and device cached goes with it
 *
 * Soft-dirty is the bit of an entry that says "global" to the hardware (mm/pgtable/pte.ts; a hart makes
 * nothing of it). So invalidations are by address and not by PSCID, which would spare such entries.
 *
 * An answer promises nothing: the page may be gone when the device asks again, and then it asks for the
 * page once more. When the process exits its context goes first.
 */
import { type Atc, PRG_INVALID, PRG_SUCCESS } from '#devices';
import { PAGE_SIZE } from '#emu';
import {
  createSecondaryPfn,
  EINVAL,
  ENODEV,
  ENOSPC,
  faultInPfn,
  type MmStruct,
  pageToPfn,
  type Path,
  registerSecondary,
  registerSecondaryOps,
  releasePfn,
  unregisterSecondary,
} from '#mm/secondary';
import type { DmaDevice } from './dma-device.ts';
import type { HostIommu } from './host-iommu.ts';
import { atsPrgr, iodirInvalPdt, iotinvalVma } from './iommu-commands.ts';
import { clearProcessContext, NR_PROCESS_IDS, setProcessContext } from './iommu-directory.ts';
import type { RecordRing } from './iommu-queues.ts';

/** PSCIDs of processes are above those of domains. */
const PSCID_BASE = 1 << 19;
const EVERY_PSCID = -1;
/** Pages above which all of an address space is invalidated. */
const INVALIDATE_LIMIT = 512;

/** One process that devices share. */
interface Bond {
  mm: MmStruct;
  devices: number[];
  /** The process has exited: its context is gone, its number not given out again yet. */
  dead: boolean;
}

/** One page request. */
interface PageRequest {
  deviceId: number;
  processId: number;
  group: number;
  hva: number;
  read: boolean;
  write: boolean;
  last: boolean;
}

/** What a saved machine keeps of it: subscriptions are saved with the address spaces. */
export interface IommuSvaState {
  bonds: { processId: number; mmId: number; devices: number[]; dead: boolean }[];
  waiting: PageRequest[];
  counts: SvaCounts;
}

export interface SvaCounts {
  /** Pages that were faulted in, groups answered, of those refused; invalidations by the kernel. */
  pages: number;
  groups: number;
  refused: number;
  invalidations: number;
}

/** Told of one translation that the IOMMU or a device has cached. */
type CachedVisitor = (
  processId: number,
  hva: number,
  pa: number,
  lenBytes: number,
  write: boolean,
) => void;

export class IommuSva {
  private readonly iommu: HostIommu;
  private readonly ops: string;
  private readonly bonds: Map<number, Bond>;
  /** Requests of groups whose last one has not come yet. */
  private waiting: PageRequest[];
  readonly counts: SvaCounts;
  /** The devices' caches, for the sanitizer. */
  private readonly caches: Map<number, Atc>;

  constructor(iommu: HostIommu, name: string, state?: IommuSvaState) {
    this.iommu = iommu;
    this.ops = `iommu-sva ${name}`;
    this.bonds = new Map();
    this.waiting = state?.waiting.map((request) => ({ ...request })) ?? [];
    this.counts = { pages: 0, groups: 0, refused: 0, invalidations: 0, ...state?.counts };
    this.caches = new Map();
    for (const { processId, mmId, devices, dead } of state?.bonds ?? []) {
      const mm = iommu.kernel.state.mms.get(mmId);
      if (mm === undefined) throw new Error(`${this.ops}: no mm ${mmId}`);
      this.bonds.set(processId, { mm, devices: [...devices], dead });
    }
    registerSecondaryOps(iommu.kernel, this.ops, {
      archInvalidateSecondaryTlbs: (processId, _mm, start, end) =>
        this.invalidate(processId, start, end),
      release: (processId) => this.processExits(processId),
      visitEntries: (visit) =>
        this.visitCached((processId, hva, pa, lenBytes, write) => {
          const bond = this.bonds.get(processId);
          const order = Math.log2(lenBytes / PAGE_SIZE);
          if (bond !== undefined) visit(bond.mm, hva, pa / PAGE_SIZE, write, order);
        }),
    });
  }

  /**
   * Lets a device use a process's addresses. To be called while nobody is in the middle of changing the
   * process's tables. Compare iommu_sva_bind_device().
   * @returns process_id, the same for all devices of a process; -ENODEV: the device cannot; -EINVAL: the
   *   process has exited; -ENOSPC: no number is free
   */
  bind(device: DmaDevice, mm: MmStruct): number {
    if (device.pdt < 0 || device.removed) return -ENODEV;
    if (mm.exited) return -EINVAL;
    const { kernel } = this.iommu;
    let processId = this.processIdOf(mm);
    if (processId < 0) {
      processId = 1;
      while (this.bonds.has(processId)) processId++;
      if (processId >= NR_PROCESS_IDS) return -ENOSPC;
      this.bonds.set(processId, { mm, devices: [], dead: false });
      registerSecondary(kernel, mm, this.ops, processId);
    }
    const bond = this.bondOf(processId);
    if (bond.devices.includes(device.id)) return processId;
    bond.devices.push(device.id);
    const root = pageToPfn(mm.pgd);
    setProcessContext(kernel, device.pdt, processId, kernel.satpMode, root, PSCID_BASE + processId);
    this.iommu.send((words) => iodirInvalPdt(words, device.id, processId));
    this.iommu.sync();
    return processId;
  }

  /** The device may not use them any more. The process may have exited before. Compare iommu_sva_unbind_device(). */
  unbind(device: DmaDevice, processId: number): void {
    const bond = this.bondOf(processId);
    const i = bond.devices.indexOf(device.id);
    if (i < 0) throw new Error(`${device.name}: not bound to process ${processId}`);
    if (!bond.dead) this.cutOff(device, processId);
    bond.devices.splice(i, 1);
    this.waiting = this.waiting.filter(
      (r) => r.deviceId !== device.id || r.processId !== processId,
    );
    if (bond.devices.length > 0) return;
    if (!bond.dead) unregisterSecondary(bond.mm, this.ops, processId);
    this.bonds.delete(processId);
  }

  /** A device has gone. */
  removeDevice(device: DmaDevice): void {
    for (const [processId, { devices }] of [...this.bonds])
      if (devices.includes(device.id)) this.unbind(device, processId);
    this.caches.delete(device.id);
  }

  /** A device's own cache: it may have translations of processes. */
  addCache(device: DmaDevice, atc: Atc): void {
    this.caches.set(device.id, atc);
  }

  /** Devices with a cache of their own. */
  allCaches(): [DmaDevice, Atc][] {
    return [...this.caches].flatMap(([id, atc]) => {
      const device = this.iommu.deviceOf(id);
      return device === undefined ? [] : [[device, atc] as [DmaDevice, Atc]];
    });
  }

  /** Everything that the IOMMU and the devices have cached of processes. */
  private visitCached(visit: CachedVisitor): void {
    this.iommu.model.visitIotlb((space, iova, spa, lenBytes, write) => {
      if (space.pscid >= PSCID_BASE) visit(space.pscid - PSCID_BASE, iova, spa, lenBytes, write);
    });
    for (const atc of this.caches.values())
      atc.visit((processId, iova, target, write) =>
        visit(processId, iova, target, PAGE_SIZE, write),
      );
  }

  private processIdOf(mm: MmStruct): number {
    for (const [processId, bond] of this.bonds) if (bond.mm === mm) return processId;
    return -1;
  }

  private bondOf(processId: number): Bond {
    const bond = this.bonds.get(processId);
    if (bond === undefined) throw new Error(`${this.ops}: no process ${processId}`);
    return bond;
  }

  /** The device's context of the process goes, and what was cached by it. */
  private cutOff(device: DmaDevice, processId: number): void {
    const { iommu } = this;
    clearProcessContext(iommu.kernel, device.pdt, processId);
    iommu.send((words) => iodirInvalPdt(words, device.id, processId));
    iommu.send((words) => iotinvalVma(words, EVERY_PSCID, -1));
    iommu.sync();
    if (!device.removed) iommu.sendAtsInval(device, processId, 0, -1);
  }

  /** Entries of [start, end) have changed: the IOMMU forgets first, the devices then. */
  private invalidate(processId: number, start: number, end: number): void {
    const { iommu } = this;
    const bond = this.bondOf(processId);
    if (bond.dead) return;
    this.counts.invalidations++;
    const first = Math.floor(start / PAGE_SIZE);
    const n = Math.ceil(end / PAGE_SIZE) - first;
    const all = n > INVALIDATE_LIMIT;
    if (all) iommu.send((words) => iotinvalVma(words, EVERY_PSCID, -1));
    else
      for (let pfn = first; pfn < first + n; pfn++)
        iommu.send((words) => iotinvalVma(words, EVERY_PSCID, pfn));
    iommu.sync();
    for (const id of [...bond.devices]) {
      const device = iommu.deviceOf(id);
      if (device !== undefined) iommu.sendAtsInval(device, processId, first, all ? -1 : n);
    }
  }

  /** The process is about to lose every page. */
  private processExits(processId: number): void {
    const bond = this.bondOf(processId);
    for (const id of bond.devices) {
      const device = this.iommu.deviceOf(id);
      if (device !== undefined) this.cutOff(device, processId);
    }
    bond.dead = true;
  }

  /* ---- page requests ---- */

  /** Takes what is in the ring, serves whole groups, and answers them. */
  *servePages(ring: RecordRing): Path<void> {
    for (let record = ring.take(); record !== undefined; record = ring.take()) {
      const request = decodePageRequest(record);
      // Without rights and last: the device stops using the process, and waits for no answer.
      if (!request.read && !request.write && request.last) continue;
      this.waiting.push(request);
      if (request.last) yield* this.serveGroup(request);
    }
  }

  private *serveGroup({ deviceId, processId, group }: PageRequest): Path<void> {
    const own = (r: PageRequest): boolean =>
      r.deviceId === deviceId && r.processId === processId && r.group === group;
    const requests = this.waiting.filter(own);
    this.waiting = this.waiting.filter((r) => !own(r));
    let response = PRG_SUCCESS;
    for (const request of requests) if (!(yield* this.faultIn(request))) response = PRG_INVALID;
    this.counts.groups++;
    if (response !== PRG_SUCCESS) this.counts.refused++;
    const device = this.iommu.deviceOf(deviceId);
    if (device === undefined || device.removed) return;
    this.iommu.send((words) => atsPrgr(words, deviceId, processId, group, response));
    this.iommu.sync();
  }

  /** @returns false: there is no such memory, or it may not be used so */
  private *faultIn({ deviceId, processId, hva, write }: PageRequest): Path<boolean> {
    const bond = this.bonds.get(processId);
    if (bond === undefined || bond.dead || !bond.devices.includes(deviceId)) return false;
    const { kernel } = this.iommu;
    const found = createSecondaryPfn('iommu-sva');
    const error = yield* faultInPfn(kernel, bond.mm, hva, write, found);
    if (error !== 0) return false;
    // The IOMMU sets A and D in the process's own entry; nothing is marked here.
    releasePfn(kernel, found, false, false);
    this.counts.pages++;
    return true;
  }

  save(): IommuSvaState {
    return {
      bonds: [...this.bonds].map(([processId, { mm, devices, dead }]) => ({
        processId,
        mmId: mm.id,
        devices: [...devices],
        dead,
      })),
      waiting: this.waiting.map((request) => ({ ...request })),
      counts: { ...this.counts },
    };
  }
}

/** Reads a record of 16 bytes. RISC-V IOMMU 1.0, "Page-Request-Queue". */
const decodePageRequest = (words: Readonly<Int32Array>): PageRequest => ({
  processId: words[0]! >>> 12,
  deviceId: words[1]! >>> 8,
  read: (words[2]! & 1) !== 0,
  write: (words[2]! & 2) !== 0,
  last: (words[2]! & 4) !== 0,
  group: (words[2]! >>> 3) & 0x1ff,
  hva: (words[3]! >>> 0) * 2 ** 32 + ((words[2]! & ~0xfff) >>> 0),
});
