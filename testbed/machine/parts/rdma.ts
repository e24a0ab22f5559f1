/**
 * Two RDMA NICs in a guest, back to back on one wire. Their queues are reached by following the VMM's
 * page tables; memory regions are pinned for as long as they are registered, or paged on demand.
 */
import { type RdmaLink, RdmaNic, type RdmaNicState, RdmaWire, type RdmaWireState } from '#devices';
import {
  MirrorPort,
  type MirrorPortState,
  RdmaOdpRegions,
  RdmaPinnedRegions,
  type RdmaRegionsConfig,
} from '#devices/host';
import { IOMMU_DEVICE_RDMA, RDMA_BASE, RDMA_BYTES, RDMA_IRQ_BASE, RDMA_NICS } from '#emu';
import { Pump } from '../../actors/pump.ts';
import { type GuestPart, type PartKind, type PartWiring, partNode } from '../part.ts';

export interface RdmaPartConfig {
  kind: 'rdma';
  /** How memory regions hold their pages: pinned, or on demand. */
  mr: 'pin' | 'odp';
  /** Instructions that a packet is on its way. Default 500. */
  latency?: number;
  /** Of 1000 packets, so many are lost. Default 0. */
  lossPermille?: number;
  /** Which packets are lost. */
  seed?: number;
}

type Regions = RdmaPinnedRegions | RdmaOdpRegions;

interface NicState {
  nic: RdmaNicState;
  port: MirrorPortState;
  regions: ReturnType<Regions['save']>;
}

interface State {
  wire: RdmaWireState;
  nics: NicState[];
}

/** Regions that pin; behind the host's IOMMU, where there is one. */
const pinnedRegions = (
  memory: RdmaRegionsConfig,
  wiring: PartWiring,
  index: number,
): RdmaPinnedRegions => {
  const dma = wiring.hostDma(IOMMU_DEVICE_RDMA + index);
  return new RdmaPinnedRegions(dma === undefined ? memory : { ...memory, dma });
};

/** One NIC with what stands behind it. */
const plugNic = (
  config: RdmaPartConfig,
  wiring: PartWiring,
  index: number,
  link: RdmaLink,
  state: NicState | undefined,
) => {
  const { k, mm, clock, hvaOf, onWritten } = wiring;
  const name = `${wiring.name} nic${index}`;
  const port = new MirrorPort({ kernel: k, mm, name, hvaOf, onWritten });
  const memory = { kernel: k, mm, hvaOf, onWritten };
  const regions: Regions =
    config.mr === 'pin' ? pinnedRegions(memory, wiring, index) : new RdmaOdpRegions(memory);
  const irq = wiring.irq(RDMA_IRQ_BASE + index);
  const nic = new RdmaNic({ clock, irq, port, regions, link, name });
  if (state !== undefined) {
    port.restore(state.port);
    regions.restore(state.regions as never);
    nic.restore(state.nic);
  }
  return {
    nic,
    port,
    regions,
    actors: [new Pump(`${name} queues`, port), new Pump(`${name} regions`, regions)],
    save: (): NicState => ({ nic: nic.save(), port: port.save(), regions: regions.save() }),
  };
};

export const RDMA_PART: PartKind<RdmaPartConfig> = {
  create(config, wiring, saved?: unknown): GuestPart {
    const state = saved as State | undefined;
    const { latency, lossPermille, seed } = config;
    const wire = new RdmaWire({
      clock: wiring.clock,
      name: `${wiring.name} wire`,
      ...(latency === undefined ? {} : { latency }),
      ...(lossPermille === undefined ? {} : { lossPermille }),
      ...(seed === undefined ? {} : { seed }),
    });
    const nics = ([0, 1] as const).map((side) =>
      plugNic(config, wiring, side, wire.end(side), state?.nics[side]),
    );
    if (state !== undefined) wire.restore(state.wire);
    const gpaOf = (index: number): number => RDMA_BASE + index * RDMA_BYTES;
    const total = (of: (counters: RdmaNicState['counters']) => number): number =>
      nics.reduce((sum, { nic }) => sum + of(nic.s.counters), 0);
    return {
      regions: nics.map(({ nic }, index) => ({
        gpa: gpaOf(index),
        lenBytes: RDMA_BYTES,
        device: nic,
        name: `rdma${index}`,
      })),
      nodes: nics.map((_, index) =>
        partNode('rdma', gpaOf(index), RDMA_BYTES, 'gupbed,rdma', [RDMA_IRQ_BASE + index]),
      ),
      actors: nics.flatMap(({ actors }) => actors),
      save: (): State => ({ wire: wire.save(), nics: nics.map((nic) => nic.save()) }),
      ended: () => {
        for (const { nic, port } of nics) {
          nic.reset();
          port.close();
        }
      },
      release: () => {},
      report: () => ({
        'packets sent': total(({ sent }) => sent),
        'packets lost': wire.lost,
        retries: total(({ retries }) => retries),
        'receiver not ready': total(({ notReady }) => notReady),
        'waits for memory': total(({ waits }) => waits),
      }),
    };
  },
  hostRamBytes: () => RDMA_NICS * 2 ** 20,
  virtio: false,
};
