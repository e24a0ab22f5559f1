/** The door of devices/host/: what stands behind device models on the host. */
export { DmaDevicePort } from './device-port.ts';
export type { DmaDevicePortConfig, DmaTranslator } from './device-port.ts';
export { DmaDevice, directDevice } from './dma-device.ts';
export type { DmaDeviceState, DmaViolation, IommuMode } from './dma-device.ts';
export { dmaMapSg, dmaUnmapSg, nrMappedPages, nrSgPages } from './dma-map.ts';
export { DMA_BIDIRECTIONAL, DMA_FROM_DEVICE, DMA_TO_DEVICE, runsOfPages } from './dma-mapping.ts';
export type { DmaDirection, DmaMapping, DmaRun, DmaSg, DmaSegmentLimits } from './dma-mapping.ts';
export { FLUSH_TIMEOUT, HostIommu } from './host-iommu.ts';
export type { AttachOptions, HostIommuConfig, HostIommuState } from './host-iommu.ts';
export { IoDomain } from './io-domain.ts';
export { checkIommu, windowEntries } from './iommu-check.ts';
export { BalloonHost } from './balloon-backend.ts';
export type { BalloonHostConfig } from './balloon-backend.ts';
export { BLK_BOUNCE_BYTES, FileDisk } from './blk-backend.ts';
export type { BlkWorker, FileDiskConfig } from './blk-backend.ts';
export { MirrorPort } from './mirror-port.ts';
export type { MirrorPortConfig, MirrorPortState } from './mirror-port.ts';
export { PmemFile } from './pmem-backend.ts';
export type { PmemFileConfig } from './pmem-backend.ts';
export { PinnedPort } from './pinned-port.ts';
export type { PinnedPortConfig, PinnedPortState } from './pinned-port.ts';
export {
  odpDeregister,
  odpInit,
  odpMapPages,
  odpReached,
  odpRead,
  odpRegister,
  odpWrite,
} from './rdma-odp.ts';
export type { OdpRegion } from './rdma-odp.ts';
export { RdmaOdpRegions } from './rdma-odp-regions.ts';
export { RdmaPinnedRegions } from './rdma-pinned-regions.ts';
export type { RdmaDma, RdmaPinnedConfig } from './rdma-pinned-regions.ts';
export type { RdmaRegionsConfig, RdmaRegionsState } from './rdma-regions.ts';
export { VfioDevice } from './vfio.ts';
export { SvaPort } from './sva-port.ts';
export type { SvaPortConfig, SvaPortState } from './sva-port.ts';
export { TranslatedPort } from './translated-port.ts';
