/** The door of devices/host/: what stands behind device models on the host. */
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
