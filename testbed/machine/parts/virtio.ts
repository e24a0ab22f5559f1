/**
 * What every virtio part is made of: a device model under a virtio-mmio transport in the part's slot,
 * with its rings (and, where the model likes, its buffers) reached through a MirrorPort.
 */
import { type VirtioDevice, VirtioMmio, type VirtioMmioState } from '#devices';
import { MirrorPort, type MirrorPortState } from '#devices/host';
import { VIRTIO_BASE, VIRTIO_IRQ_BASE, VIRTIO_STRIDE } from '#emu';
import type { FdtNode } from '#kvm';
import { Pump } from '../../actors/pump.ts';
import type { Actor } from '../../sched/actor.ts';
import { type PartRegion, type PartWiring, partNode } from '../part.ts';

/** The registers' size in the device tree, as on QEMU's board: control registers and configuration. */
const REGISTERS_BYTES = 0x200;

/** What is saved of a plugged device beside the model itself. */
export interface VirtioPlugState {
  transport: VirtioMmioState;
  port: MirrorPortState;
}

/** A device model in its slot. */
export interface VirtioPlug<Device extends VirtioDevice> {
  readonly device: Device;
  readonly transport: VirtioMmio;
  readonly port: MirrorPort;
  readonly regions: readonly PartRegion[];
  readonly nodes: readonly FdtNode[];
  /** The port's. */
  readonly actors: readonly Actor[];
  save(): VirtioPlugState;
  /** The guest has ended: the device is reset, and its port lets go of the guest's memory. */
  ended(): void;
}

/**
 * Plugs a device model into the slot that the wiring names.
 * @param create makes the model, over the port to the guest's memory
 * @param state what save() gave; the model's own state is its part's to restore
 */
export const plugVirtio = <Device extends VirtioDevice>(
  wiring: PartWiring,
  create: (port: MirrorPort) => Device,
  state?: VirtioPlugState,
): VirtioPlug<Device> => {
  const { k, mm, name, virtioSlot } = wiring;
  const port = new MirrorPort({
    kernel: k,
    mm,
    name,
    hvaOf: wiring.hvaOf,
    onWritten: wiring.onWritten,
  });
  const device = create(port);
  const irq = VIRTIO_IRQ_BASE + virtioSlot;
  const transport = new VirtioMmio({ device, port, irq: wiring.irq(irq) });
  if (state !== undefined) {
    port.restore(state.port);
    transport.restore(state.transport);
  }
  const gpa = VIRTIO_BASE + virtioSlot * VIRTIO_STRIDE;
  return {
    device,
    transport,
    port,
    regions: [{ gpa, lenBytes: VIRTIO_STRIDE, device: transport, name: `virtio${virtioSlot}` }],
    nodes: [partNode('virtio_mmio', gpa, REGISTERS_BYTES, 'virtio,mmio', [irq])],
    actors: [new Pump(`${name} port`, port)],
    save: () => ({ transport: transport.save(), port: port.save() }),
    ended: () => {
      transport.reset();
      port.close();
    },
  };
};
