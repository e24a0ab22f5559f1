/**
 * What every virtio part is made of: a device model under a virtio-mmio transport in the part's slot,
 * with its rings (and, where the model likes, its buffers) reached through a MirrorPort, or through the
 * guest's own IOMMU.
 */
import { type VirtioDevice, VirtioMmio, type VirtioMmioState } from '#devices';
import { MirrorPort, type MirrorPortState } from '#devices/host';
import {
  type DmaPort,
  IOMMU_DEVICE_VIRTIO,
  VIRTIO_BASE,
  VIRTIO_IRQ_BASE,
  VIRTIO_STRIDE,
} from '#emu';
import type { FdtNode } from '#kvm';
import { Pump } from '../../actors/pump.ts';
import type { Actor } from '../../sched/actor.ts';
import { type PartRegion, type PartWiring, partNode } from '../part.ts';

/** The registers' size in the device tree, as on QEMU's board: control registers and configuration. */
const REGISTERS_BYTES = 0x200;

/** What is saved of a plugged device beside the model itself. */
export interface VirtioPlugState {
  transport: VirtioMmioState;
  /** null: behind an IOMMU, whose part has the port. */
  port: MirrorPortState | null;
}

/** A device model in its slot. */
export interface VirtioPlug<Device extends VirtioDevice> {
  readonly device: Device;
  readonly transport: VirtioMmio;
  readonly regions: readonly PartRegion[];
  readonly nodes: readonly FdtNode[];
  /** The port's, where it has one. */
  readonly actors: readonly Actor[];
  save(): VirtioPlugState;
  /** The guest has ended: the device is reset, and its port lets go of the guest's memory. */
  ended(): void;
}

/**
 * Plugs a device model into the slot that the wiring names.
 * @param create makes the model, over the port to the guest's memory
 * @param state what save() gave; the model's own state is its part's to restore
 * @param behindIommu its addresses are those of the guest's IOMMU; the driver must know so
 * @throws Error where the guest has no IOMMU
 */
export const plugVirtio = <Device extends VirtioDevice>(
  wiring: PartWiring,
  create: (port: DmaPort) => Device,
  state?: VirtioPlugState,
  behindIommu = false,
): VirtioPlug<Device> => {
  const { name, virtioSlot } = wiring;
  const mirror = behindIommu ? null : createMirror(wiring);
  const port = mirror ?? wiring.dmaPort(IOMMU_DEVICE_VIRTIO + virtioSlot);
  if (port === undefined) throw new Error(`${name}: there is no IOMMU before it in the guest`);
  const device = create(port);
  const irq = VIRTIO_IRQ_BASE + virtioSlot;
  const transport = new VirtioMmio({
    device,
    port,
    irq: wiring.irq(irq),
    accessPlatform: behindIommu,
  });
  if (state !== undefined) {
    if (state.port !== null) mirror?.restore(state.port);
    transport.restore(state.transport);
  }
  const gpa = VIRTIO_BASE + virtioSlot * VIRTIO_STRIDE;
  return {
    device,
    transport,
    regions: [{ gpa, lenBytes: VIRTIO_STRIDE, device: transport, name: `virtio${virtioSlot}` }],
    nodes: [partNode('virtio_mmio', gpa, REGISTERS_BYTES, 'virtio,mmio', [irq])],
    actors: mirror === null ? [] : [new Pump(`${name} port`, mirror)],
    save: () => ({ transport: transport.save(), port: mirror?.save() ?? null }),
    ended: () => {
      transport.reset();
      mirror?.close();
    },
  };
};

const createMirror = ({ k, mm, name, hvaOf, onWritten }: PartWiring): MirrorPort =>
  new MirrorPort({ kernel: k, mm, name, hvaOf, onWritten });
