/**
 * A bare-metal machine: harts, RAM and devices in the memory map of QEMU's virt board, and nothing
 * in TypeScript above them. Harts take turns by a fixed quantum of instructions.
 */
import {
  Aclint,
  BusPort,
  DmaEngine,
  type DmaEnginePort,
  Finisher,
  type FinishRequest,
  Iommu,
  IommuPort,
  Ns16550,
  Plic,
} from '#devices';
import {
  ACLINT_BASE,
  ACLINT_BYTES,
  Bus,
  Clock,
  DMA_ENGINE_BASE,
  DMA_ENGINE_BYTES,
  DMA_ENGINE_IRQ,
  type ElfImage,
  EXIT_TRAP_LOOP,
  EXIT_WFI,
  FINISHER_BASE,
  FINISHER_BYTES,
  Hart,
  IOMMU_BASE,
  IOMMU_BYTES,
  IOMMU_DEVICE_DMA,
  IOMMU_IRQ_BASE,
  IOMMU_NR_IRQS,
  type IrqLine,
  loadElf,
  MIP_MEIP,
  MIP_MSIP,
  MIP_MTIP,
  MIP_SEIP,
  type MmioDevice,
  PhysMemory,
  PLIC_BASE,
  PLIC_BYTES,
  PLIC_NR_SOURCES,
  RAM_BASE,
  UART_BASE,
  UART_BYTES,
  UART_IRQ,
} from '#emu';
import { guestDeviceTree } from '#kvm';
import { LineConsole, type LineListener } from './console.ts';
import { iommuNode } from './part.ts';
import { ramSink } from './ram-sink.ts';
import { treeRoomFor } from './tree-room.ts';
import { attachVirtioSlots } from './virtio-slots.ts';

export interface BareConfig {
  /** A multiple of 4096. */
  ramBytes: number;
  harts: number;
  /** Told of every line that the program prints. */
  onLine?: LineListener;
  /** An IOMMU, Bare after reset, in front of the DMA engine. Default false: as on QEMU's board. */
  iommu?: boolean;
  /** More devices on its bus. */
  devices?: readonly BareDevice[];
}

/** A device on the bus of a bare machine. */
export interface BareDevice {
  basePa: number;
  sizeBytes: number;
  device: MmioDevice;
  name: string;
}

/** Why a bare machine does not go on. */
export type BareEnd =
  | { kind: 'finished'; request: FinishRequest }
  | { kind: 'trap-loop'; hart: number }
  | { kind: 'asleep' };

/** Instructions a hart runs before the next has its turn. */
const QUANTUM = 10_000;

export class BareMachine {
  readonly memory: PhysMemory;
  readonly clock: Clock;
  readonly bus: Bus;
  readonly harts: Hart[];
  readonly console: LineConsole;
  end: BareEnd | null;
  /** Instructions retired by all harts. */
  retired: number;
  private running: Hart | null;
  /** Harts that executed WFI and have seen no interrupt since. */
  private readonly waiting: boolean[];
  private turn: number;
  private turnLeft: number;
  private readonly hasIommu: boolean;

  constructor(config: BareConfig) {
    this.memory = new PhysMemory(config.ramBytes);
    this.clock = new Clock();
    this.bus = new Bus(this.memory);
    this.console = new LineConsole(config.onLine);
    this.end = null;
    this.retired = 0;
    this.running = null;
    this.turn = 0;
    this.turnLeft = QUANTUM;
    this.hasIommu = config.iommu ?? false;
    this.harts = [];
    this.waiting = [];
    for (let index = 0; index < config.harts; index++) {
      const { memory, bus, clock } = this;
      this.harts.push(new Hart({ memory, bus, clock, index }));
      this.waiting.push(false);
    }
    this.attachDevices();
    for (const { basePa, sizeBytes, device, name } of config.devices ?? [])
      this.bus.attach(basePa, sizeBytes, device, name);
    this.clock.onEarlier = (when) => this.running?.endSliceAt(when);
  }

  private attachDevices(): void {
    const { bus, clock } = this;
    const line = (hart: Hart, mipBit: number): IrqLine => ({
      set: (level) => hart.setPending(mipBit, level),
    });
    const aclint = new Aclint({
      clock,
      harts: this.harts.map((h) => ({ msip: line(h, MIP_MSIP), mtip: line(h, MIP_MTIP) })),
    });
    const plic = new Plic({
      nrSources: PLIC_NR_SOURCES,
      contexts: this.harts.flatMap((h) => [line(h, MIP_MEIP), line(h, MIP_SEIP)]),
    });
    const uart = new Ns16550({
      irq: plic.source(UART_IRQ),
      onByte: (byte) => this.console.put(byte),
    });
    const finisher = new Finisher({ onFinish: (request) => this.finish(request) });
    const dma = new DmaEngine({
      clock,
      irq: plic.source(DMA_ENGINE_IRQ),
      port: this.dmaPort(plic),
    });
    bus.attach(ACLINT_BASE, ACLINT_BYTES, aclint, 'aclint');
    bus.attach(PLIC_BASE, PLIC_BYTES, plic, 'plic');
    bus.attach(UART_BASE, UART_BYTES, uart, 'uart');
    bus.attach(FINISHER_BASE, FINISHER_BYTES, finisher, 'finisher');
    bus.attach(DMA_ENGINE_BASE, DMA_ENGINE_BYTES, dma, 'dma');
    attachVirtioSlots(bus);
  }

  /** Memory as the DMA engine sees it: straight on the bus, or behind an IOMMU that is attached here. */
  private dmaPort(plic: Plic): DmaEnginePort {
    const port = new BusPort(this.memory);
    if (!this.hasIommu) return port;
    const irq = Array.from({ length: IOMMU_NR_IRQS }, (_, i) => plic.source(IOMMU_IRQ_BASE + i));
    const { memory, clock } = this;
    const iommu = new Iommu({ memory, port, irq, clock, name: 'iommu' });
    this.bus.attach(IOMMU_BASE, IOMMU_BYTES, iommu, 'iommu');
    return new IommuPort({ iommu, deviceId: IOMMU_DEVICE_DMA, memory: port });
  }

  /**
   * Loads a program and the device tree, and points every hart at the entry: a0 = hart id, a1 = device
   * tree, as QEMU's reset code does.
   * @throws ElfError when a segment is outside RAM, or where the device tree is
   */
  load(image: ElfImage): void {
    const { memory } = this;
    const treePa = treeRoomFor(image, RAM_BASE + memory.ramBytes);
    loadElf(image, ramSink(memory));
    memory.writeBytes(
      treePa,
      guestDeviceTree({
        nrHarts: this.harts.length,
        memory: [{ gpa: RAM_BASE, lenBytes: memory.ramBytes }],
        devices: ['plic', 'clint', 'uart', 'dma-engine', 'finisher'],
        nodes: this.hasIommu ? [iommuNode()] : [],
        machineMode: true,
      }),
    );
    for (const hart of this.harts) {
      hart.reset(BigInt(image.entry));
      hart.setX(10, BigInt(hart.index));
      hart.setX(11, BigInt(treePa));
    }
  }

  private finish(request: FinishRequest): void {
    this.end = { kind: 'finished', request };
    this.running?.endSliceAt(this.clock.now);
  }

  /**
   * Runs one slice of one hart, or jumps to the next event when all wait.
   * @param budget instructions that may retire, at most
   * @returns instructions retired
   */
  step(budget: number): number {
    const hart = this.nextHart();
    if (hart === null) {
      if (this.clock.nextAt === Number.POSITIVE_INFINITY) this.end = { kind: 'asleep' };
      else this.clock.now = Math.max(this.clock.now, this.clock.nextAt);
      this.clock.deliverDue();
      return 0;
    }
    const start = this.clock.now;
    this.running = hart;
    const exit = hart.run(Math.min(this.turnLeft, budget, this.clock.nextAt - start));
    this.running = null;
    this.clock.now = start + hart.sliceRetired;
    this.turnLeft -= hart.sliceRetired;
    this.retired += hart.sliceRetired;
    if (exit === EXIT_WFI) this.waiting[hart.index] = true;
    else if (exit === EXIT_TRAP_LOOP && this.end === null)
      this.end = { kind: 'trap-loop', hart: hart.index };
    this.clock.deliverDue();
    return hart.sliceRetired;
  }

  /** The hart whose turn it is: the same until its quantum is used up or it waits. */
  private nextHart(): Hart | null {
    const n = this.harts.length;
    for (let tried = 0; tried <= n; tried++) {
      const hart = this.harts[this.turn]!;
      if (this.waiting[this.turn] && hart.interruptPending) this.waiting[this.turn] = false;
      if (!this.waiting[this.turn] && this.turnLeft > 0) return hart;
      this.turn = (this.turn + 1) % n;
      this.turnLeft = QUANTUM;
    }
    return null;
  }
}
