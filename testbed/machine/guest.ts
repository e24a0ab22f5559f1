/**
 * One guest on the host: its process (the VMM), its memory slots, its VM and vCPUs, and the devices
 * that the process emulates for it.
 * What its memory is made of says backing.ts.
 */
import {
  DmaEngine,
  type DmaEnginePort,
  type DmaEngineState,
  Finisher,
  Ns16550,
  type Ns16550State,
  Plic,
  type PlicState,
} from '#devices';
import type { HostIommu } from '#devices/host';
import {
  BUS_ERROR,
  Bus,
  type Clock,
  DMA_ENGINE_BASE,
  DMA_ENGINE_BYTES,
  DMA_ENGINE_IRQ,
  IOMMU_DEVICE_DMA,
  type ElfImage,
  FINISHER_BASE,
  FINISHER_BYTES,
  loadElf,
  PAGE_SIZE,
  PLIC_BASE,
  PLIC_BYTES,
  PLIC_NR_SOURCES,
  UART_BASE,
  UART_BYTES,
  UART_IRQ,
} from '#emu';
import {
  addMmioRegion,
  bindGuestMemfd,
  createVm,
  enableManualDirtyLog,
  gpaToHva,
  gpaToMemSlot,
  guestDeviceTree,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  type Kvm,
  type MmioExit,
  markGuestDirty,
  setMemSlot,
  Vcpu,
  type Vm,
  vmHasMemory,
  vmWriteGuest,
} from '#kvm';
import { drive, type Kernel, type MmStruct, mmCreate } from '#mm';
import { fileById, type GuestRange } from '../actors/targets.ts';
import { type Backing, GUEST_RAM_HVA, makeBacking, releaseBacking } from './backing.ts';
import { LineConsole, type LineListener } from './console.ts';
import {
  attachToHost,
  createGuestDma,
  type GuestDma,
  type GuestDmaDevice,
  type GuestDmaState,
} from './guest-dma.ts';
import { GUEST_RAM_GPA, type GuestConfig } from './guest-config.ts';
import { must } from './must.ts';
import type { GuestPart, PartWiring } from './part.ts';
import { createPart, partTakesVirtioSlot } from './parts/index.ts';
import { treeRoomFor } from './tree-room.ts';
import { attachVirtioSlots } from './virtio-slots.ts';

/** Of each vCPU's ring: few, so that a busy guest fills it between two harvests. */
const DIRTY_RING_ENTRIES = 1024;

/** How a guest ended. */
export type GuestEnd =
  | { kind: 'shutdown'; resetType: number; resetReason: number }
  | { kind: 'finisher'; request: 'pass' | 'fail' | 'reset'; code: number }
  | { kind: 'error'; vcpu: number; pc: bigint; cause: number; gpa: number; message: string };

/** Everything of a guest that is saved; its VM and its address space are saved with their owners. */
export interface GuestState {
  vmId: number;
  backing: Backing;
  end: GuestEnd | null;
  console: { bytes: number[]; lines: string[] };
  plic: PlicState;
  uart: Ns16550State;
  dma: DmaEngineState;
  port: GuestDmaState;
  /** What each part saved, in the order of the config. */
  parts: unknown[];
}

/** What a guest is put on. */
export interface GuestWiring {
  k: Kernel;
  kvm: Kvm;
  clock: Clock;
  /** Its number on the host: names its clock events and its VMID. */
  index: number;
  firstHart: number;
  /** The host's IOMMU; null: no guest of the machine uses one. */
  iommu: HostIommu | null;
  onLine?: LineListener;
  /** The slice that runs at the moment ends after the instruction under way. */
  endSlice(): void;
}

export class Guest {
  readonly config: GuestConfig;
  readonly mm: MmStruct;
  readonly vm: Vm;
  readonly vcpus: Vcpu[];
  readonly backing: Backing;
  readonly console: LineConsole;
  readonly dmaSide: GuestDma;
  readonly parts: GuestPart[];
  end: GuestEnd | null;
  /** The hva behind a fault that is being handled, or -1; of several vCPUs, the last one's. */
  faultingHva: number;
  private readonly wiring: GuestWiring;
  private readonly bus: Bus;
  private readonly plic: Plic;
  private readonly uart: Ns16550;
  private readonly dma: DmaEngine;

  /** A fresh guest with empty memory; or, with `state`, a restored one. */
  constructor(config: GuestConfig, wiring: GuestWiring, state?: GuestState) {
    const { k, kvm, clock, index } = wiring;
    this.config = config;
    this.wiring = wiring;
    this.end = state?.end ?? null;
    this.faultingHva = -1;
    this.console = new LineConsole(wiring.onLine);
    const made = state === undefined ? makeMemory(config, wiring) : findMemory(state, wiring);
    this.mm = made.mm;
    this.vm = made.vm;
    this.backing = made.backing;
    this.vcpus = Array.from(
      { length: config.harts },
      (_, id) => new Vcpu(kvm, this.vm, id, this.console),
    );
    this.plic = new Plic({
      nrSources: PLIC_NR_SOURCES,
      contexts: this.vcpus.flatMap((vcpu) => [{ set: () => {} }, vcpu.externalIrq]),
    });
    this.uart = new Ns16550({
      irq: this.plic.source(UART_IRQ),
      onByte: (byte) => this.console.put(byte),
    });
    this.dmaSide = createGuestDma(
      {
        k,
        mm: this.mm,
        index,
        mode: config.iommu ?? 'off',
        host: wiring.iommu,
        hvaOf: (gpa) => this.hvaOf(gpa),
        onWritten: (gpa, lenBytes) => markGuestDirty(this.vm, gpa, lenBytes),
      },
      state?.port,
    );
    this.parts = this.makeParts(state);
    this.dma = new DmaEngine({
      clock,
      irq: this.plic.source(DMA_ENGINE_IRQ),
      port: portBehind(this.parts, IOMMU_DEVICE_DMA) ?? this.dmaSide.port,
      name: `dma-engine${index}`,
    });
    this.bus = new Bus(); // guest physical: no RAM of the host on it
    this.attachDevices(state === undefined);
    if (state !== undefined) {
      this.console.restore(state.console);
      this.plic.restore(state.plic);
      this.uart.restore(state.uart);
      this.dma.restore(state.dma);
    }
  }

  private attachDevices(fresh: boolean): void {
    const finisher = new Finisher({
      onFinish: ({ kind, code }) => this.ended({ kind: 'finisher', request: kind, code }),
    });
    const devices = [
      { gpa: PLIC_BASE, lenBytes: PLIC_BYTES, device: this.plic, name: 'plic' },
      { gpa: UART_BASE, lenBytes: UART_BYTES, device: this.uart, name: 'uart' },
      { gpa: DMA_ENGINE_BASE, lenBytes: DMA_ENGINE_BYTES, device: this.dma, name: 'dma-engine' },
      { gpa: FINISHER_BASE, lenBytes: FINISHER_BYTES, device: finisher, name: 'finisher' },
    ];
    for (const { gpa, lenBytes, device, name } of devices) {
      this.bus.attach(gpa, lenBytes, device, name);
      if (fresh) addMmioRegion(this.vm, { gpa, lenBytes, name });
    }
    for (const { regions } of this.parts)
      for (const { gpa, lenBytes, device, name } of regions) {
        this.bus.attach(gpa, lenBytes, device, name);
        if (fresh) addMmioRegion(this.vm, { gpa, lenBytes, name });
      }
    for (const region of attachVirtioSlots(this.bus)) if (fresh) addMmioRegion(this.vm, region);
  }

  private makeParts(state: GuestState | undefined): GuestPart[] {
    const { k, kvm, clock, index } = this.wiring;
    const { mm, vm } = this;
    let virtioSlot = 0;
    const parts: GuestPart[] = [];
    for (const [i, config] of (this.config.parts ?? []).entries()) {
      const wiring: PartWiring = {
        k,
        kvm,
        clock,
        mm,
        vm,
        name: `guest${index} ${config.kind}${i}`,
        virtioSlot,
        fresh: state === undefined,
        irq: (source) => this.plic.source(source),
        hvaOf: (gpa) => this.hvaOf(gpa),
        onWritten: (gpa, lenBytes) => markGuestDirty(vm, gpa, lenBytes),
        endSlice: () => this.wiring.endSlice(),
        dmaPort: (deviceId) => portBehind(parts, deviceId),
        hostDma: (id) => this.hostDma(id, config.kind),
        putConsole: (byte) => this.console.put(byte),
      };
      if (partTakesVirtioSlot(config)) virtioSlot++;
      parts.push(createPart(config, wiring, state?.parts[i]));
    }
    return parts;
  }

  /** The mappings behind its memory. */
  get ranges(): readonly GuestRange[] {
    return this.backing.ranges;
  }

  /** A device whose pages are pinned, behind the host's IOMMU. */
  private hostDma(id: number, kind: string): GuestDmaDevice | undefined {
    const { iommu, index } = this.wiring;
    const mode = this.config.iommu ?? 'off';
    if (iommu === null || mode === 'off') return undefined;
    // What pins needs no page requests.
    const own = mode === 'sva' ? 'strict' : mode;
    return attachToHost(iommu, index, id, own, `guest${index} ${kind} ${id}`);
  }

  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  private hvaOf(gpa: number): number {
    const slot = gpaToMemSlot(this.vm.slots, gpa);
    return slot === undefined ? -1 : gpaToHva(slot, gpa);
  }

  /**
   * Loads a program, writes the device tree behind it and starts vCPU 0.
   * @throws ElfError when a segment is outside the guest's memory, or where the device tree goes
   */
  boot(image: ElfImage): void {
    const write = (gpa: number, bytes: Uint8Array): void => {
      const error = drive(vmWriteGuest(this.wiring.kvm, this.vm, gpa, bytes));
      if (error < 0) throw new Error(`guest memory at 0x${gpa.toString(16)}: errno ${-error}`);
    };
    const treeGpa = treeRoomFor(image, GUEST_RAM_GPA + this.config.memoryBytes);
    loadElf(image, {
      contains: (gpa, lenBytes) => vmHasMemory(this.vm, gpa, lenBytes),
      write,
      zero: () => {}, // fresh memory is zero, and stays untouched until the guest wants it
    });
    const tree = guestDeviceTree({
      nrHarts: this.config.harts,
      memory: [{ gpa: GUEST_RAM_GPA, lenBytes: this.config.memoryBytes }],
      devices: ['plic', 'uart', 'dma-engine', 'finisher'],
      nodes: this.parts.flatMap((part) => part.nodes),
    });
    write(treeGpa, tree);
    this.vcpus[0]!.boot(image.entry, treeGpa);
  }

  /** A fault at `gpa` is about to be handled; -1: it has been. */
  noteFault(gpa: number): void {
    const slot = gpa < 0 ? undefined : gpaToMemSlot(this.vm.slots, gpa);
    this.faultingHva = slot === undefined ? -1 : gpaToHva(slot, gpa - (gpa % PAGE_SIZE));
  }

  /** Serves an access to a device's registers, and lets the vCPU go on. */
  serveMmio(vcpu: Vcpu, exit: MmioExit): void {
    const halves = exit.sizeBytes === 8 ? 2 : 1;
    const size = exit.sizeBytes === 8 ? 4 : exit.sizeBytes;
    const got = [0, 0];
    for (let half = 0; half < halves; half++) {
      const gpa = exit.gpa + half * 4;
      const value = half === 0 ? exit.valueLo : exit.valueHi;
      const mask = size === 4 ? 0xffff_ffff : 2 ** (8 * size) - 1;
      const answer = exit.write
        ? this.bus.write(gpa, size, (value & mask) >>> 0)
        : this.bus.read(gpa, size);
      if (answer === BUS_ERROR) {
        vcpu.failMmio();
        return;
      }
      got[half] = answer | 0;
    }
    vcpu.completeMmio(got[0]!, got[1]!);
  }

  /** The guest has ended: its devices stop, what they hold is given back by the pump. */
  ended(end: GuestEnd): void {
    this.end ??= end;
    this.dma.reset();
    for (const part of this.parts) part.ended();
  }

  /** Closes the files behind the guest's memory and its parts: after the end of its process. */
  releaseMemory(): void {
    for (const part of this.parts) part.release();
    this.dmaSide.release();
    releaseBacking(this.wiring.k, this.backing);
  }

  save(): GuestState {
    return {
      vmId: this.vm.id,
      backing: this.backing,
      end: this.end,
      console: this.console.save(),
      plic: this.plic.save(),
      uart: this.uart.save(),
      dma: this.dma.save(),
      port: this.dmaSide.save(),
      parts: this.parts.map((part) => part.save()),
    };
  }
}

/** Port of a device that is behind one of the parts: an IOMMU of the guest's own. */
const portBehind = (parts: readonly GuestPart[], deviceId: number): DmaEnginePort | undefined =>
  parts.find((part) => part.dmaPort !== undefined)?.dmaPort?.(deviceId);

interface GuestMemory {
  mm: MmStruct;
  vm: Vm;
  backing: Backing;
}

/** A host process with guest memory of the configured kind, and a VM over it. */
const makeMemory = (config: GuestConfig, wiring: GuestWiring): GuestMemory => {
  const { k, kvm, index, firstHart } = wiring;
  const mm = must('mmCreate', mmCreate(k));
  const { harts: nrVcpus, dirtyLog } = config;
  const dirtyRingEntries = dirtyLog === 'ring' ? DIRTY_RING_ENTRIES : 0;
  const vmConfig = { vmid: index + 1, nrVcpus, firstHart, dirtyRingEntries };
  const vm = must('createVm', createVm(kvm, mm, vmConfig));
  if (dirtyLog === 'manual') enableManualDirtyLog(vm, KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
  const kind = config.backing ?? 'mixed';
  const backing = makeBacking(k, mm, kind, config.memoryBytes, `guest${index} memory`);
  for (const [id, { hva, lenBytes, mappingId }] of backing.ranges.entries()) {
    const gpa = GUEST_RAM_GPA + (hva - GUEST_RAM_HVA);
    const slot = setMemSlot(vm, { id, gpa, lenBytes, hva, flags: 0 });
    if (kind === 'gmem' && mappingId !== null)
      must('guest_memfd', drive(bindGuestMemfd(kvm, vm, slot, fileById(k, mappingId), 0)));
  }
  return { mm, vm, backing };
};

/** The same of a restored machine. */
const findMemory = (state: GuestState, wiring: GuestWiring): GuestMemory => {
  const vm = wiring.kvm.vms.get(state.vmId);
  const mm = vm && wiring.k.state.mms.get(vm.mmId);
  if (vm === undefined || mm === undefined) throw new Error(`no VM ${state.vmId} in this machine`);
  return { mm, vm, backing: state.backing };
};
