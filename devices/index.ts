/** The door of devices/: device models over wires. */
export { Aclint } from './aclint.ts';
export type { AclintConfig, AclintState } from './aclint.ts';
export { BusPort } from './bus-port.ts';
export { DmaEngine } from './dma-engine.ts';
export type {
  DmaClient,
  DmaEngineConfig,
  DmaEnginePort,
  DmaEngineState,
  DmaMapRequest,
} from './dma-engine.ts';
export { DMA_CONTROL } from './dma-registers.ts';
export { DMA_DESC_BYTES, DMA_SG_BYTES } from './dma-ring.ts';
export { Finisher } from './finisher.ts';
export type { FinisherConfig, FinishRequest } from './finisher.ts';
export {
  ATS_ABORT,
  ATS_SUCCESS,
  ATS_UNSUPPORTED,
  createAtsCompletion,
  PRG_FAILURE,
  PRG_INVALID,
  PRG_SUCCESS,
} from './iommu/ats.ts';
export type { AtsCompletion, AtsDevice, AtsRequest, PageRequest } from './iommu/ats.ts';
export { Atc } from './iommu/atc.ts';
export type { AtcState, AtcVisitor } from './iommu/atc.ts';
export { ATS_TIMEOUT } from './iommu/ats-unit.ts';
export type { AtsInvalidation } from './iommu/command-queue.ts';
export { Iommu, IOMMU_MRIF } from './iommu/iommu.ts';
export type { IommuConfig, IommuState } from './iommu/iommu.ts';
export type { IoSpace, IotlbVisitor } from './iommu/iotlb.ts';
export { IommuPort } from './iommu/port.ts';
export type { IommuPortConfig } from './iommu/port.ts';
export { Ns16550 } from './ns16550.ts';
export type { Ns16550Config, Ns16550State } from './ns16550.ts';
export {
  fletcher64,
  LABEL_BYTES,
  LABEL_FLAG_LOCAL,
  LABEL_FLAG_RO,
  LABEL_FLAG_UPDATING,
  LabelArea,
  labelStoreOf,
  nextLabelSeq,
} from './nvdimm/labels.ts';
export type { LabelStore, Namespace } from './nvdimm/labels.ts';
export { Nvdimm } from './nvdimm/nvdimm.ts';
export type { NvdimmConfig, NvdimmMemory, NvdimmState } from './nvdimm/nvdimm.ts';
export { Plic } from './plic.ts';
export type { PlicConfig, PlicState } from './plic.ts';
export { RdmaNic } from './rdma/nic.ts';
export type { RdmaNicConfig } from './rdma/nic.ts';
export { BusRegions, RegionMemory } from './rdma/regions.ts';
export type {
  RdmaPersistence,
  RdmaRegionClient,
  RdmaRegionRequest,
  RdmaRegions,
} from './rdma/regions.ts';
export {
  RDMA_ACCESS_FLUSH_PERSISTENT,
  RDMA_ACCESS_LOCAL_WRITE,
} from './rdma/registers.ts';
export type { RdmaNicState } from './rdma/state.ts';
export { RdmaWire } from './rdma/wire.ts';
export type { RdmaLink, RdmaWireConfig, RdmaWireState } from './rdma/wire.ts';
export { readChain, VIRTIO_CHAIN_MAX_BYTES, writeChain } from './virtio/chain.ts';
export {
  BALLOON_PAGE_BYTES,
  BALLOON_STATS,
  VirtioBalloon,
} from './virtio/balloon.ts';
export type {
  BalloonBackend,
  BalloonClient,
  BalloonJob,
  BalloonRange,
  VirtioBalloonConfig,
  VirtioBalloonState,
} from './virtio/balloon.ts';
export { VirtioBlk } from './virtio/blk.ts';
export type {
  BlkBackend,
  BlkClient,
  VirtioBlkConfig,
  VirtioBlkState,
} from './virtio/blk.ts';
export { BLK_SECTOR_BYTES, VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK } from './virtio/blk-request.ts';
export type { BlkPiece, BlkRange, BlkRequest } from './virtio/blk-request.ts';
export type { VirtioChain } from './virtio/chain.ts';
export { VirtioConsole } from './virtio/console-device.ts';
export type { VirtioConsoleConfig, VirtioConsoleState } from './virtio/console-device.ts';
export {
  VIRTIO_F_ACCESS_PLATFORM,
  VIRTIO_F_EVENT_IDX,
  VIRTIO_F_INDIRECT_DESC,
  VIRTIO_F_NOTIFICATION_DATA,
  VIRTIO_F_RING_PACKED,
  VIRTIO_F_RING_RESET,
  VIRTIO_F_VERSION_1,
  VIRTIO_ID_BALLOON,
  VIRTIO_ID_BLOCK,
  VIRTIO_ID_CONSOLE,
  VIRTIO_ID_ENTROPY,
  VIRTIO_ID_PMEM,
  virtioFeature,
} from './virtio/device.ts';
export type { VirtioDevice, VirtioSharedMemory, VirtioTransport } from './virtio/device.ts';
export { EmptyVirtioSlot } from './virtio/empty-slot.ts';
export { VirtioMmio } from './virtio/mmio.ts';
export type { VirtioMmioConfig, VirtioMmioState } from './virtio/mmio.ts';
export { VirtioPmem } from './virtio/pmem.ts';
export type {
  PmemBackend,
  PmemClient,
  PmemFlush,
  VirtioPmemConfig,
  VirtioPmemState,
} from './virtio/pmem.ts';
export { Virtqueue } from './virtio/queue.ts';
export type { VirtqueueState, VirtqueueWires } from './virtio/queue.ts';
export { VirtioRng } from './virtio/rng.ts';
export type { VirtioRngConfig } from './virtio/rng.ts';
