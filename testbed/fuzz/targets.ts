/** Every target of the fuzzer. */
import { BALLOON_TARGETS } from './balloon.ts';
import { BLK_TARGETS } from './blk.ts';
import { DMA_ENGINE_TARGETS } from './dma-engine.ts';
import { DMA_HOST_TARGETS } from './dma-host.ts';
import { IOMMU_TARGETS } from './iommu.ts';
import { NVDIMM_TARGETS } from './nvdimm.ts';
import { PMEM_TARGETS } from './pmem.ts';
import { RDMA_TARGETS } from './rdma.ts';
import type { FuzzTarget } from './target.ts';
import { VIRTIO_TARGETS } from './virtio.ts';

export const FUZZ_TARGETS: readonly FuzzTarget[] = [
  ...DMA_ENGINE_TARGETS,
  ...DMA_HOST_TARGETS,
  ...VIRTIO_TARGETS,
  ...BALLOON_TARGETS,
  ...BLK_TARGETS,
  ...PMEM_TARGETS,
  ...NVDIMM_TARGETS,
  ...IOMMU_TARGETS,
  ...RDMA_TARGETS,
];
