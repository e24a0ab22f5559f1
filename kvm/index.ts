/** The door of kvm/: the hypervisor. */
export {
  clearDirtyLog,
  dirtyPageNumbers,
  enableManualDirtyLog,
  harvestDirtyLog,
  KVM_DIRTY_LOG_INITIALLY_SET,
  KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE,
  markGuestDirty,
  setDirtyLog,
} from './dirty-log.ts';
export { dirtyRingFull, harvestDirtyRing, resetDirtyRings } from './dirty-ring.ts';
export type { DirtyRing } from './dirty-ring.ts';
export type {
  BudgetExit,
  DirtyRingExit,
  ErrorExit,
  FaultExit,
  MmioExit,
  SbiExit,
  ShutdownExit,
  StopExit,
  VcpuExit,
  WfiExit,
} from './exit.ts';
export { mapGuestPage } from './fault.ts';
export { fdtBlob, fdtCells, fdtCells64, fdtEmpty, fdtStrings } from './fdt.ts';
export type { FdtNode, FdtProperty } from './fdt.ts';
export { bindGuestMemfd, KVM_MEMORY_ATTRIBUTE_PRIVATE, setMemoryAttributes } from './gmem.ts';
export {
  GSTAGE_GPA_LIMIT,
  gstageFlags,
  gstageLevel,
  gstageNextMapped,
  gstageNrTablePages,
  gstagePfn,
} from './gstage.ts';
export type { GStage } from './gstage.ts';
export { vmHasMemory, vmReadGuest, vmWriteGuest } from './guest-memory.ts';
export { GUEST_ISA, guestDeviceTree } from './guest-tree.ts';
export type { GuestDevice, GuestTreeConfig } from './guest-tree.ts';
export {
  gpaToHva,
  gpaToMemSlot,
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  markPageDirtyInSlot,
} from './memslot.ts';
export type { MemSlot, MemSlotConfig } from './memslot.ts';
export { setUserMemoryRegion } from './memory-region.ts';
export type { MemoryRegion } from './memory-region.ts';
export {
  createPfnCache,
  pfnCacheActivate,
  pfnCacheCheck,
  pfnCacheDeactivate,
  pfnCacheOffset,
  pfnCacheRefresh,
  pfnCacheWrite,
} from './pfncache.ts';
export type { PfnCache } from './pfncache.ts';
export type { GuestConsole } from './sbi/sbi.ts';
export {
  SBI_RESET_COLD_REBOOT,
  SBI_RESET_REASON_FAILURE,
  SBI_RESET_REASON_NONE,
  SBI_RESET_SHUTDOWN,
  SBI_RESET_WARM_REBOOT,
} from './sbi/srst.ts';
export type { VcpuExitKind, VmStat } from './stat.ts';
export { exceptionName } from './trap.ts';
export { mapVcpuPage, unmapVcpuPage, vcpuMapOffset } from './vcpu-map.ts';
export type { VcpuMap } from './vcpu-map.ts';
export { Vcpu } from './vcpu.ts';
export {
  addMmioRegion,
  createKvm,
  createVm,
  destroyVm,
  HSM_START_PENDING,
  HSM_STARTED,
  HSM_STOPPED,
  saveKvm,
  setMemSlot,
  waitForInvalidations,
} from './vm.ts';
export type { Kvm, KvmState, MmioRegion, VcpuState, Vm, VmConfig } from './vm.ts';
