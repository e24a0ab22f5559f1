/**
 * Parts of a guest: the devices that are plugged into it beside those that every guest has.
 *
 * A part is a device model with everything it needs on the host: its registers on the guest's bus, its
 * nodes of the device tree, the actors that do its work, its memory slots. It is made from a plain
 * config, or from that and what was saved. The kinds of parts are in parts/index.ts.
 */
import type { DmaEnginePort } from '#devices';
import {
  type Clock,
  IOMMU_BASE,
  IOMMU_BYTES,
  IOMMU_IRQ_BASE,
  IOMMU_NR_IRQS,
  type IrqLine,
  type MmioDevice,
} from '#emu';
import {
  type FdtNode,
  type FdtProperty,
  fdtCells,
  fdtCells64,
  fdtStrings,
  type Kvm,
  type Vm,
} from '#kvm';
import type { Kernel, MmStruct } from '#mm';
import type { Actor } from '../sched/actor.ts';
import type { GuestDmaDevice } from './guest-dma.ts';

/** Registers of a part on the guest's bus. */
export interface PartRegion {
  gpa: number;
  lenBytes: number;
  device: MmioDevice;
  name: string;
}

/** One device of a guest. */
export interface GuestPart {
  readonly regions: readonly PartRegion[];
  /** Under /soc of the guest's device tree. */
  readonly nodes: readonly FdtNode[];
  /** Who does the part's work on the host. */
  readonly actors: readonly Actor[];
  /** Plain data that structured clone can copy; called while none of the actors is in a path. */
  save(): unknown;
  /** The guest has ended: no request is begun any more, what is held is given back by the actors. */
  ended(): void;
  /** Says by onWritten() what is being written past the guest's page tables at this moment: asked before a look at the dirty log. */
  markUnderWay?(): void;
  /**
   * The host loses power at this moment: what is written back is what it finds afterwards.
   * @param keeps blocks of the disk's volatile cache that reach its media all the same
   * @returns the image
   */
  powerFail?(keeps: (block: number) => boolean): Uint8Array;
  /** Power has failed at the event that its config names: the machine is to be stopped, and powerFail() called. */
  readonly powerHasFailed?: boolean;
  /** The guest's process has exited: files and frames that belong to the part go. */
  release(): void;
  /** The run is over, however it ended: files of the user are written back. @throws Error for a file that cannot be */
  writeBack?(): void;
  /** Of a part that devices are behind (an IOMMU): memory as the device with this id sees it. */
  dmaPort?(deviceId: number): DmaEnginePort;
  /** What it did, for the guest's report. */
  report(): Record<string, number | string>;
}

/** What a part is plugged into. */
export interface PartWiring {
  k: Kernel;
  kvm: Kvm;
  clock: Clock;
  /** The VMM process, and the VM. */
  mm: MmStruct;
  vm: Vm;
  /** Unique on the machine and the same after a restore: for the clock's events and actors' names. */
  name: string;
  /** The virtio-mmio slot of a part that wants one: of those, the nth has the nth. */
  virtioSlot: number;
  /** The part is made for the first time: memory slots are to be set. Otherwise the VM has them. */
  fresh: boolean;
  /** A source of the guest's PLIC. */
  irq(source: number): IrqLine;
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory was written past the guest's page tables: the dirty log. */
  onWritten(gpa: number, lenBytes: number): void;
  /** The guest's slice ends after the instruction under way. */
  endSlice(): void;
  /** Memory as the device with this id sees it behind an IOMMU, which is a part before this one. */
  dmaPort(deviceId: number): DmaEnginePort | undefined;
  /** The guest's device with this id behind the host's IOMMU; undefined where `--iommu` is off. */
  hostDma(deviceId: number): GuestDmaDevice | undefined;
  /** A byte for the guest's console. */
  putConsole(byte: number): void;
}

/** One kind of part. */
export interface PartKind<Config> {
  create(config: Config, wiring: PartWiring, state?: unknown): GuestPart;
  /** RAM of the host that it needs beside the guest's memory, in bytes. */
  hostRamBytes(config: Config): number;
  /** It sits in a virtio-mmio slot. */
  virtio: boolean;
}

/** A node of the device tree. */
export const partNode = (
  name: string,
  gpa: number,
  lenBytes: number,
  compatible: string,
  irqs: readonly number[],
  properties: readonly FdtProperty[] = [],
): FdtNode => ({
  name: `${name}@${gpa.toString(16)}`,
  properties: [
    fdtStrings('compatible', compatible),
    fdtCells64('reg', gpa, lenBytes),
    // The PLIC's phandle is 1 in every guest's tree.
    ...(irqs.length > 0 ? [fdtCells('interrupt-parent', 1), fdtCells('interrupts', ...irqs)] : []),
    ...properties,
  ],
  children: [],
});

/** The IOMMU's node, on whichever board. */
export const iommuNode = (): FdtNode =>
  partNode(
    'iommu',
    IOMMU_BASE,
    IOMMU_BYTES,
    'riscv,iommu',
    Array.from({ length: IOMMU_NR_IRQS }, (_, i) => IOMMU_IRQ_BASE + i),
    [fdtCells('#iommu-cells', 1)],
  );
