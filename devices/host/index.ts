/** The door of devices/host/: what stands behind device models on the host. */
export { MirrorPort } from './mirror-port.ts';
export type { MirrorPortConfig, MirrorPortState } from './mirror-port.ts';
export { PinnedPort } from './pinned-port.ts';
export type { PinnedPortConfig, PinnedPortState } from './pinned-port.ts';
