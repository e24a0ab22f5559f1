/**
 * Flushing guests' translations on every hart. Privileged ISA 1.13, 15.3.2 (HFENCE.GVMA).
 * Compare arch/riscv/kvm/tlb.c, which sends the same to other harts by requests and IPIs.
 */
import { PAGE_SIZE } from '#emu';
import { countVm } from './stat.ts';
import type { Kvm, Vm } from './vm.ts';

/** Above this many pages one fence of the whole VMID is cheaper than one a page. */
export const FENCE_PAGES_MAX = 4;

/** Drops what any hart holds of a VM's guest-physical memory. */
export const flushGStage = (kvm: Kvm, vm: Vm): void => {
  for (const hart of kvm.harts) hart.mmu.hfenceGvma(undefined, vm.vmid);
  countVm(vm.stat, 'hfences', kvm.harts.length);
};

/** The same for [gpa, endGpa), by page where it is short. */
export const flushGStageRange = (kvm: Kvm, vm: Vm, gpa: number, endGpa: number): void => {
  if (endGpa - gpa > FENCE_PAGES_MAX * PAGE_SIZE) {
    flushGStage(kvm, vm);
    return;
  }
  for (let at = gpa; at < endGpa; at += PAGE_SIZE)
    for (const hart of kvm.harts) hart.mmu.hfenceGvma(at, vm.vmid);
  countVm(vm.stat, 'hfences', (kvm.harts.length * (endGpa - gpa)) / PAGE_SIZE);
};

/** Does a TLB of the VM's harts lead to this frame? For statistics: how many shootdowns met something. */
export const guestTlbHolds = (kvm: Kvm, vm: Vm, page: number): boolean => {
  for (const vcpu of vm.vcpus) if (kvm.harts[vcpu.hartIndex]!.mmu.holdsPage(page)) return true;
  return false;
};

/**
 * The same for many frames: looks through the TLBs once.
 * @returns what kvm.heldStamps has at each page that they lead to
 */
export const stampGuestTlbs = (kvm: Kvm, vm: Vm): number => {
  kvm.heldStamp++;
  for (const vcpu of vm.vcpus)
    kvm.harts[vcpu.hartIndex]!.mmu.stampHeldPages(kvm.heldStamps, kvm.heldStamp);
  return kvm.heldStamp;
};
