/**
 * A virtual machine: memory slots over an address space, G-stage tables, the invalidate sequence
 * and the state of its vCPUs, as one plain record; and the hypervisor that has such machines.
 *
 * Compare struct kvm and virt/kvm/kvm_main.c. The VM's lock (mmu_lock) is what runs between two
 * yields: functions here and in gstage.ts never yield. Left out: more than one address space.
 */
import { listPush, mapDelete, mapSet, setField } from '#cells';
import type { Hart, PhysMemory } from '#emu';
import { type Kernel, type MmStruct, YP_WAIT } from '#mm';
import {
  createInvalidateState,
  type InvalidateState,
  type Path,
  registerGuestMemfdOps,
  registerSecondary,
  registerSecondaryOps,
  unregisterSecondary,
} from '#mm/secondary';
import { visitSecondaryEntries } from './audit.ts';
import { createDirtyRing, type DirtyRing } from './dirty-ring.ts';
import { guestMemfdOpsOf, unbindAllGuestMemfds } from './gmem.ts';
import {
  GSTAGE_GPA_LIMIT,
  type GStage,
  gstageCreate,
  gstageFree,
  gstageUnmapRange,
} from './gstage.ts';
import { addMemSlot, type MemSlot, type MemSlotConfig } from './memslot.ts';
import { notifierOpsOf } from './notifier.ts';
import type { PfnCache } from './pfncache.ts';
import { createVmStat, type VmStat } from './stat.ts';
import { flushGStage } from './tlb.ts';
import { createTrapLoopState, type TrapLoopState } from './trap-loop.ts';

/** Name of kvm's notifier operations on the kernel. */
export const KVM_NOTIFIER = 'kvm';

/** SBI HSM states (SBI 2.0, table 1 of chapter 9). */
export const HSM_STARTED = 0;
export const HSM_STOPPED = 1;
export const HSM_START_PENDING = 2;

/** What is kept of a vCPU beside its hart's registers. Plain data. */
export interface VcpuState {
  /** hartid the guest knows it by; its place in Vm.vcpus. */
  id: number;
  /** The hart it runs on, always. */
  hartIndex: number;
  /** HSM_*. */
  hsm: number;
  /** While HSM_START_PENDING: where to start, and a1. */
  startPc: bigint;
  startOpaque: bigint;
  /** Waits for an interrupt (WFI). */
  waiting: boolean;
  /** Has shut the VM down, or failed: it does not run again. */
  ended: boolean;
  traps: TrapLoopState;
  /** Instructions it has retired. */
  retired: number;
  /** Pages it has made dirty; null: slots have bitmaps alone. */
  dirtyRing: DirtyRing | null;
}

/** A range of gpa that the VMM serves itself: device registers. */
export interface MmioRegion {
  gpa: number;
  lenBytes: number;
  name: string;
}

/** One VM. Plain data: cloned as it is, and it refers to its address space by number. */
export interface Vm {
  /** Owner number of its notifier subscription. */
  id: number;
  /** hgatp.VMID. */
  vmid: number;
  mmId: number;
  slots: MemSlot[];
  /** Counts changes of slots. */
  slotsGeneration: number;
  /** Somebody changes them (slots_lock). */
  slotsLocked: boolean;
  mmioRegions: MmioRegion[];
  /** In gpa. */
  invalidate: InvalidateState;
  /** Invalidations of the address space between start and end, of any range. */
  openInvalidations: number;
  gstage: GStage;
  /** KVM_DIRTY_LOG_* of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
  manualDirtyLog: number;
  /** The hypervisor's own caches of frames. */
  pfnCaches: PfnCache[];
  vcpus: VcpuState[];
  /** What the guest's `time` is ahead of the machine's (htimedelta). */
  timeDelta: bigint;
  stat: VmStat;
  /** The address space is gone: no entry may be made any more. */
  released: boolean;
}

/** The hypervisor: its VMs and what it is wired to. */
export interface Kvm {
  k: Kernel;
  memory: PhysMemory;
  /** Every hart that may hold translations of a guest, by hart number. */
  harts: readonly Hart[];
  vms: Map<number, Vm>;
  nextId: number;
  /** Count which zaps met a TLB: statistics that look through all of them. Default true. Not saved. */
  countsTlbHits: boolean;
  /** Scratch of stampGuestTlbs(): by page, the last stamp it was found under. Not saved. */
  heldStamps: Int32Array;
  heldStamp: number;
}

/** What a saved machine keeps of the hypervisor. */
export interface KvmState {
  vms: Map<number, Vm>;
  nextId: number;
}

export interface VmConfig {
  vmid: number;
  nrVcpus: number;
  /** Hart number of vCPU 0; the others follow. */
  firstHart?: number;
  /** Entries of each vCPU's dirty ring, a power of two; 0, the default: none. */
  dirtyRingEntries?: number;
}

/**
 * The hypervisor of a machine. @param state from saveKvm(), to go on with its VMs
 */
export const createKvm = (k: Kernel, harts: readonly Hart[], state?: KvmState): Kvm => {
  const kvm: Kvm = {
    k,
    memory: k.memory,
    harts,
    vms: state?.vms ?? new Map<number, Vm>(),
    nextId: state?.nextId ?? 1,
    countsTlbHits: true,
    heldStamps: new Int32Array(k.memory.nrPages),
    heldStamp: 0,
  };
  registerSecondaryOps(k, KVM_NOTIFIER, {
    ...notifierOpsOf(kvm),
    visitEntries: (visit, within) => visitSecondaryEntries(kvm, visit, within),
  });
  registerGuestMemfdOps(k, KVM_NOTIFIER, guestMemfdOpsOf(kvm));
  return kvm;
};

export const saveKvm = (kvm: Kvm): KvmState => ({ vms: kvm.vms, nextId: kvm.nextId });

const createVcpuState = (id: number, hartIndex: number, ringEntries: number): VcpuState => ({
  id,
  hartIndex,
  hsm: HSM_STOPPED,
  startPc: 0n,
  startOpaque: 0n,
  waiting: false,
  ended: false,
  traps: createTrapLoopState(),
  retired: 0,
  dirtyRing: ringEntries === 0 ? null : createDirtyRing(ringEntries),
});

/**
 * Makes a VM over an address space, with no memory yet and all vCPUs stopped.
 * @returns the VM, or -ENOMEM when there is no memory for the root table
 * @throws RangeError when there is no hart for a vCPU, or no such size of a dirty ring
 */
export const createVm = (kvm: Kvm, mm: MmStruct, config: VmConfig): Vm | number => {
  const first = config.firstHart ?? 0;
  if (config.nrVcpus < 1 || first + config.nrVcpus > kvm.harts.length)
    throw new RangeError(
      `${config.nrVcpus} vCPUs from hart ${first}, of ${kvm.harts.length} harts`,
    );
  const gstage = gstageCreate(kvm.k);
  if (typeof gstage === 'number') return gstage;
  const vm: Vm = {
    id: kvm.nextId++,
    vmid: config.vmid,
    mmId: mm.id,
    slots: [],
    slotsGeneration: 0,
    slotsLocked: false,
    mmioRegions: [],
    invalidate: createInvalidateState(),
    openInvalidations: 0,
    gstage,
    manualDirtyLog: 0,
    pfnCaches: [],
    vcpus: Array.from({ length: config.nrVcpus }, (_, i) =>
      createVcpuState(i, first + i, config.dirtyRingEntries ?? 0),
    ),
    timeDelta: 0n,
    stat: createVmStat(),
    released: false,
  };
  registerSecondary(kvm.k, mm, KVM_NOTIFIER, vm.id);
  mapSet(kvm.vms, vm.id, vm);
  return vm;
};

/** Ends a VM: no hart may run it any more. */
export const destroyVm = (kvm: Kvm, vm: Vm): void => {
  const mm = kvm.k.state.mms.get(vm.mmId);
  if (mm !== undefined && !mm.exited) unregisterSecondary(mm, KVM_NOTIFIER, vm.id);
  unbindAllGuestMemfds(kvm, vm);
  setField(vm, 'released', true);
  gstageUnmapRange(kvm.k, vm.gstage, 0, GSTAGE_GPA_LIMIT);
  flushGStage(kvm, vm);
  gstageFree(kvm.k, vm.gstage);
  mapDelete(kvm.vms, vm.id);
};

/** The address space behind a VM. @throws Error when it is gone: a bug of the caller's */
export const mmOfVm = (kvm: Kvm, vm: Vm): MmStruct => {
  const mm = kvm.k.state.mms.get(vm.mmId);
  if (mm === undefined) throw new Error(`vm ${vm.id}: address space ${vm.mmId} does not exist`);
  return mm;
};

/** Waits until no invalidation is open: then, until the next yield, memory slots may change. */
export function* waitForInvalidations(vm: Vm): Path<void> {
  while (vm.openInvalidations > 0) yield YP_WAIT;
}

/** Start and end of an invalidation must find the same slots. Compare kvm_swap_active_memslots(). */
const mustBeQuiet = (vm: Vm): void => {
  if (vm.openInvalidations > 0)
    throw new Error(`vm ${vm.id}: memory slots change inside an invalidation`);
};

/**
 * Gives the VM memory, at once: before it runs. A slot of a VM that runs: setUserMemoryRegion().
 * @throws RangeError as addMemSlot() says; Error while an invalidation is open
 */
export const setMemSlot = (vm: Vm, config: MemSlotConfig): MemSlot => {
  mustBeQuiet(vm);
  return addMemSlot(vm.slots, config, GSTAGE_GPA_LIMIT);
};

/** Tells the VM that the VMM has device registers at this gpa. */
export const addMmioRegion = (vm: Vm, region: MmioRegion): void => {
  listPush(vm.mmioRegions, region);
};

/** The region that a byte belongs to, or undefined. */
export const mmioRegionOf = (vm: Vm, gpa: number): MmioRegion | undefined => {
  for (const region of vm.mmioRegions)
    if (gpa >= region.gpa && gpa < region.gpa + region.lenBytes) return region;
  return undefined;
};
