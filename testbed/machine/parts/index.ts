/**
 * Every kind of part that a guest can have, by name. A part's config names its kind; the rest of it is
 * the kind's own, and plain data.
 */
import type { GuestPart, PartKind, PartWiring } from '../part.ts';
import { IOMMU_PART, type IommuPartConfig } from './iommu.ts';
import { NVDIMM_PART, type NvdimmPartConfig } from './nvdimm.ts';
import { RDMA_PART, type RdmaPartConfig } from './rdma.ts';
import { VIRTIO_BALLOON_PART, type VirtioBalloonPartConfig } from './virtio-balloon.ts';
import { VIRTIO_BLK_PART, type VirtioBlkPartConfig } from './virtio-blk.ts';
import { VIRTIO_CONSOLE_PART, type VirtioConsolePartConfig } from './virtio-console.ts';
import { VIRTIO_PMEM_PART, type VirtioPmemPartConfig } from './virtio-pmem.ts';
import { VIRTIO_RNG_PART, type VirtioRngPartConfig } from './virtio-rng.ts';

/** Kind -> how it is made. A new kind of part adds its line here, and its config below. */
const PART_KINDS = {
  iommu: IOMMU_PART,
  nvdimm: NVDIMM_PART,
  rdma: RDMA_PART,
  'virtio-balloon': VIRTIO_BALLOON_PART,
  'virtio-blk': VIRTIO_BLK_PART,
  'virtio-console': VIRTIO_CONSOLE_PART,
  'virtio-pmem': VIRTIO_PMEM_PART,
  'virtio-rng': VIRTIO_RNG_PART,
} satisfies Record<string, PartKind<never>>;

/** What is plugged into a guest. */
export type PartConfig =
  | IommuPartConfig
  | NvdimmPartConfig
  | RdmaPartConfig
  | VirtioBalloonPartConfig
  | VirtioBlkPartConfig
  | VirtioConsolePartConfig
  | VirtioPmemPartConfig
  | VirtioRngPartConfig;

const kindOf = (config: PartConfig): PartKind<PartConfig> => {
  const kind = (PART_KINDS as Record<string, PartKind<PartConfig>>)[config.kind];
  if (kind === undefined) throw new Error(`no part is called ${config.kind}`);
  return kind;
};

/** @param state what the part's save() gave */
export const createPart = (config: PartConfig, wiring: PartWiring, state?: unknown): GuestPart =>
  kindOf(config).create(config, wiring, state);

export const partHostRamBytes = (config: PartConfig): number => kindOf(config).hostRamBytes(config);

export const partTakesVirtioSlot = (config: PartConfig): boolean => kindOf(config).virtio;
