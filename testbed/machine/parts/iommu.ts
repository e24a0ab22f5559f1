/**
 * A RISC-V IOMMU in a guest, in front of its DMA engine. Directories, tables and queues are in guest
 * memory, and so is what the engine moves: both are reached by following the VMM's page tables, so a page
 * may have to be waited for. Bare after reset: a guest that does not know of it finds the engine as ever.
 */
import { Iommu, IommuPort, type IommuState } from '#devices';
import { MirrorPort, type MirrorPortState } from '#devices/host';
import { IOMMU_BASE, IOMMU_BYTES, IOMMU_IRQ_BASE, IOMMU_NR_IRQS } from '#emu';
import { Pump } from '../../actors/pump.ts';
import { type GuestPart, iommuNode, type PartKind } from '../part.ts';

export interface IommuPartConfig {
  kind: 'iommu';
  /** Device contexts of 64 bytes, with MSI page tables. Default true. */
  extended?: boolean;
}

interface State {
  iommu: IommuState;
  port: MirrorPortState;
}

export const IOMMU_PART: PartKind<IommuPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const { k, mm, clock, name, hvaOf, onWritten } = wiring;
    const port = new MirrorPort({ kernel: k, mm, name, hvaOf, onWritten });
    const irqs = Array.from({ length: IOMMU_NR_IRQS }, (_, i) => IOMMU_IRQ_BASE + i);
    const iommu = new Iommu({
      memory: k.memory,
      port,
      irq: irqs.map((source) => wiring.irq(source)),
      name,
      clock,
      extendedFormat: config.extended ?? true,
    });
    if (state !== undefined) {
      port.restore(state.port);
      iommu.restore(state.iommu);
    }
    return {
      regions: [{ gpa: IOMMU_BASE, lenBytes: IOMMU_BYTES, device: iommu, name: 'iommu' }],
      nodes: [iommuNode()],
      actors: [new Pump(`${name} port`, port)],
      dmaPort: (deviceId) => new IommuPort({ iommu, deviceId, memory: port }),
      save: (): State => ({ iommu: iommu.save(), port: port.save() }),
      ended: () => port.close(),
      release: () => {},
      report: () => ({ ...iommu.counts }),
    };
  },
  hostRamBytes: () => 0,
  virtio: false,
};
