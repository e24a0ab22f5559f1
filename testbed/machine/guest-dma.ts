/**
 * What stands between a guest's DMA engine and the guest's memory, by GuestConfig.iommu: pins alone; pins
 * that are mapped at the host's IOMMU, strictly or deferred; or the VMM's own page tables.
 */
import type { DmaEnginePort } from '#devices';
import {
  type DmaDevice,
  DmaDevicePort,
  type HostIommu,
  type IommuMode,
  PinnedPort,
  type PinnedPortState,
  SvaPort,
  type SvaPortState,
} from '#devices/host';
import { IOMMU_DEVICE_DMA } from '#emu';
import type { Kernel, MmStruct } from '#mm';
import type { Pumped } from '../actors/pump.ts';
import type { DmaInFlight } from '../actors/targets.ts';

/** Device ids of one guest's devices at the host's IOMMU. */
const IDS_PER_GUEST = 16;

export interface GuestDmaWiring {
  k: Kernel;
  mm: MmStruct;
  /** Number of the guest. */
  index: number;
  mode: IommuMode;
  /** Null where no guest of the machine has one. */
  host: HostIommu | null;
  hvaOf(gpa: number): number;
  onWritten(gpa: number, lenBytes: number): void;
}

export type GuestDmaState = { pinned: PinnedPortState } | { sva: SvaPortState };

export interface GuestDma {
  readonly port: DmaEnginePort;
  /** Its work on the host, where it has any of its own. */
  readonly pumped: Pumped | null;
  readonly inFlight: DmaInFlight;
  readonly counts: Readonly<{ transfers: number; bytesWritten: number }>;
  save(): GuestDmaState;
  /** The guest's process has exited, and nothing is held any more. */
  release(): void;
}

/** A device of a guest behind the host's IOMMU. */
export interface GuestDmaDevice {
  device: DmaDevice;
  port: DmaDevicePort;
}

/**
 * Puts a device of a guest behind the host's IOMMU; after a restore it is there already.
 * @param id its device id in the guest
 */
export const attachToHost = (
  host: HostIommu,
  index: number,
  id: number,
  mode: IommuMode,
  name: string,
): GuestDmaDevice => {
  const device = host.attachDevice(index * IDS_PER_GUEST + id, { mode, name });
  if (typeof device === 'number') throw new Error(`${name}: not attached: errno ${-device}`);
  return { device, port: new DmaDevicePort({ device, iommu: host.model }) };
};

/** @param state what save() gave */
export const createGuestDma = (wiring: GuestDmaWiring, state?: GuestDmaState): GuestDma => {
  const { host, mode, index } = wiring;
  const name = `guest${index} dma-engine`;
  if (host === null || mode === 'off') return pinnedDma(wiring, null, state);
  const attached = attachToHost(host, index, IOMMU_DEVICE_DMA, mode, name);
  if (mode !== 'sva') return pinnedDma(wiring, { host, ...attached }, state);
  return sharedDma(wiring, host, attached.device, state);
};

const pinnedDma = (
  { k, mm, hvaOf, onWritten }: GuestDmaWiring,
  dma: (GuestDmaDevice & { host: HostIommu }) | null,
  state: GuestDmaState | undefined,
): GuestDma => {
  const config = { kernel: k, mm, hvaOf, onWritten };
  const port = new PinnedPort(dma === null ? config : { ...config, dma });
  if (state !== undefined && 'pinned' in state) port.restore(state.pinned);
  return {
    port,
    pumped: port,
    inFlight: port,
    counts: port,
    save: () => ({ pinned: port.save() }),
    release: () => dma?.host.releaseDevice(dma.device),
  };
};

const sharedDma = (
  { mm, hvaOf, onWritten }: GuestDmaWiring,
  host: HostIommu,
  device: DmaDevice,
  state: GuestDmaState | undefined,
): GuestDma => {
  const saved = state !== undefined && 'sva' in state ? state.sva : undefined;
  const port = new SvaPort({ host, device, mm, hvaOf, onWritten }, saved);
  return {
    port,
    pumped: null,
    inFlight: NOTHING_HELD,
    counts: port,
    save: () => ({ sva: port.save() }),
    release: () => {
      port.close();
      host.releaseDevice(device);
    },
  };
};

const NOTHING_HELD: DmaInFlight = {
  pagesInFlight: () => 0,
  pageInFlight: () => -1,
  isInFlight: () => false,
};
