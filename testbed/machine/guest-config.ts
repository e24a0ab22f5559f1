/** Machines as plain objects: what they are made of, and the bounds of it. */
import type { IommuMode } from '#devices/host';
import type { PolicyName } from '#mm';
import { type BackingKind, backingHostRamBytes } from './backing.ts';
import { type PartConfig, partHostRamBytes } from './parts/index.ts';

const MIB = 2 ** 20;

/** Guest memory begins here, as RAM on the board does. */
export const GUEST_RAM_GPA = 0x8000_0000;

/** Room for a program at 0x80200000, its data and the device tree. */
export const GUEST_MEMORY_MIN = 4 * MIB;
/** With the host's own share and the harts' tables, what one WebAssembly.Memory holds: 4 GiB. */
export const GUEST_MEMORY_MAX = 3072 * MIB;
export const GUEST_MEMORY_DEFAULT = 64 * MIB;

/** Host RAM beside what the guests have: page tables, copies of a fork, room to migrate to. */
export const HOST_SPARE_BYTES = 64 * MIB;

/** One guest. Plain data: part of what is saved. */
export interface GuestConfig {
  name: string;
  memoryBytes: number;
  /** vCPUs, each on a hart of its own. */
  harts: number;
  /** null = the host leaves the guest's memory alone. */
  activity: ActivityGaps | null;
  /** What its memory is made of. Default 'mixed'. */
  backing?: BackingKind;
  /** What its DMA engine is behind: nothing, or the host's IOMMU. Default 'off'. */
  iommu?: IommuMode;
  /** How the host learns which pages the guest writes (actors/harvester.ts). Default 'bitmap'. */
  dirtyLog?: DirtyLogMode;
  /** Devices beside those that every guest has. */
  parts?: readonly PartConfig[];
}

/** By bitmap, whose harvest protects the pages again; by bitmap, protected by hand; by a ring for each vCPU. */
export type DirtyLogMode = 'bitmap' | 'manual' | 'ring';

/** How much host activity there is: mean instructions between two actions of a kind, or none. */
export interface ActivityGaps {
  migrate: number;
  protect: number;
  remap: number;
  fork: number;
  harvest: number;
}

/** What `run --activity` does to a guest, and `fight` to memwalk. */
export const FIGHT_GAPS: ActivityGaps = {
  migrate: 20_000,
  protect: 25_000,
  remap: 200_000,
  fork: 2_500_000,
  harvest: 4_000_000,
};

/** The same for a guest whose memory is under DMA: often enough to meet transfers in flight. */
export const DMA_FIGHT_GAPS: ActivityGaps = {
  ...FIGHT_GAPS,
  migrate: 6_000,
  protect: 8_000,
  fork: 500_000,
};

/** A machine. Plain data: part of what is saved. */
export interface HostConfig {
  seed: number;
  policy: PolicyName;
  /** Instructions of a turn, which everybody who can run has in order. Default 0: turns by the seed. */
  quantum?: number;
  guests: GuestConfig[];
  /** RAM of the machine, where it is to be more than the guests need. */
  ramBytes?: number;
  /** Of it, zone MOVABLE at its top. Default 0. */
  movableBytes?: number;
}

/** RAM of the machine that a host with these guests needs. */
export const hostRamBytes = (config: HostConfig): number =>
  Math.max(config.ramBytes ?? 0, ramForGuests(config));

const ramForGuests = (config: HostConfig): number =>
  config.guests.reduce(
    (sum, { memoryBytes, backing = 'mixed', parts = [] }) =>
      parts.reduce(
        (bytes, part) => bytes + partHostRamBytes(part),
        sum + memoryBytes + backingHostRamBytes(backing, memoryBytes),
      ),
    HOST_SPARE_BYTES,
  );
