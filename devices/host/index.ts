/** The door of devices/host/: what stands behind device models on the host. */
export { PinnedPort } from './pinned-port.ts';
export type { PinnedPortConfig, PinnedPortState } from './pinned-port.ts';
