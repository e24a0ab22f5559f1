/**
 * What a VM counts: exits by kind, traps by cause, faults, retries, invalidations, zaps.
 *
 * Plain data, saved with the VM. Compare the kvm_stat files of debugfs.
 */

export type VcpuExitKind =
  | 'budget'
  | 'wfi'
  | 'mmio'
  | 'fault'
  | 'sbi'
  | 'stop'
  | 'shutdown'
  | 'error'
  | 'dirtyRing';

import { atomicAdd, setField } from '#cells';

/** Number of MMU_NOTIFY_* events. */
const NR_EVENTS = 8;
/** Exception codes that are counted each for itself. */
const NR_CAUSES = 32;

export interface VmStat {
  /** Returns of Vcpu.run() by kind. */
  exits: Record<VcpuExitKind, number>;
  /** Traps to HS-mode, by exception code (Priv 15.6.1). */
  traps: Int32Array;
  /** SBI calls by extension name. */
  sbiCalls: Record<string, number>;
  /** Exceptions given back to the guest. */
  redirected: number;
  /** G-stage faults in a memory slot that were handled, by what was needed. */
  gstageFaultsRead: number;
  gstageFaultsWrite: number;
  gstageFaultsExec: number;
  /** Entries installed, of 4 KiB and larger, and those found installed by somebody else. */
  gstageInstalled: number;
  gstageInstalledHuge: number;
  gstageSpurious: number;
  /** Faults that an invalidation between lookup and installation sent back. */
  faultRetries: number;
  /** invalidateRangeStart that met a memory slot; all of them, and by MMU_NOTIFY_* event. */
  invalidations: number;
  invalidationsByEvent: Int32Array;
  /** G-stage entries removed by notifiers. */
  zaps: number;
  /** Of these, the ones whose frame was in some hart's TLB at that moment; all, and by event. */
  zapsInTlb: number;
  zapsInTlbByEvent: Int32Array;
  /** Of guest_memfd: faults that asked the file, and changes of the file that met a slot. */
  gmemFaults: number;
  gmemInvalidations: number;
  /** Ranges that aging found used, and made old. */
  aged: number;
  /** Caches of frames: looked up, sent back by an invalidation meanwhile, made invalid by one. */
  pfnCacheRefreshes: number;
  pfnCacheRetries: number;
  pfnCacheInvalidations: number;
  /** hfence.gvma executed, summed over harts. */
  hfences: number;
  /** Harvests of a dirty bitmap, and the pages they gave. */
  dirtyHarvests: number;
  dirtyPages: number;
}

export const createVmStat = (): VmStat => ({
  exits: {
    budget: 0,
    wfi: 0,
    mmio: 0,
    fault: 0,
    sbi: 0,
    stop: 0,
    shutdown: 0,
    error: 0,
    dirtyRing: 0,
  },
  traps: new Int32Array(NR_CAUSES),
  sbiCalls: {},
  redirected: 0,
  gstageFaultsRead: 0,
  gstageFaultsWrite: 0,
  gstageFaultsExec: 0,
  gstageInstalled: 0,
  gstageInstalledHuge: 0,
  gstageSpurious: 0,
  faultRetries: 0,
  invalidations: 0,
  invalidationsByEvent: new Int32Array(NR_EVENTS),
  zaps: 0,
  zapsInTlb: 0,
  zapsInTlbByEvent: new Int32Array(NR_EVENTS),
  gmemFaults: 0,
  gmemInvalidations: 0,
  aged: 0,
  pfnCacheRefreshes: 0,
  pfnCacheRetries: 0,
  pfnCacheInvalidations: 0,
  hfences: 0,
  dirtyHarvests: 0,
  dirtyPages: 0,
});

/** The counters that are one number each. */
export type VmCounter = {
  [K in keyof VmStat]: VmStat[K] extends number ? K : never;
}[keyof VmStat];

export const countVm = (stat: VmStat, name: VmCounter, delta = 1): void =>
  setField(stat, name, stat[name] + delta);

/** Adds one to an element of a counting list; an index outside it is not counted. */
export const countIn = (list: Int32Array, index: number): void => {
  if (index >= 0 && index < list.length) atomicAdd(list, index, 1);
};

export const countExit = (stat: VmStat, kind: VcpuExitKind): void =>
  setField(stat.exits, kind, stat.exits[kind] + 1);
