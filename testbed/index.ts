/** The door of testbed/: machines put together, and their reports. */
export { BareMachine } from './machine/bare.ts';
export type { BareConfig, BareEnd } from './machine/bare.ts';
export { FIGHT_GUESTS, fightConfig } from './machine/fight.ts';
export { Guest } from './machine/guest.ts';
export type { GuestEnd } from './machine/guest.ts';
export { FIGHT_GAPS, hostRamBytes } from './machine/guest-config.ts';
export type { ActivityGaps, GuestConfig, HostConfig } from './machine/guest-config.ts';
export { HostMachine } from './machine/host.ts';
export type { HostOptions, HostState } from './machine/host.ts';
export { readSnapshot, SnapshotError, writeSnapshot } from './machine/snapshot.ts';
export { hostReport } from './report/host-report.ts';
export type { HostReport } from './report/host-report.ts';
export { Rng } from './rng.ts';
