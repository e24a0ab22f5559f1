/**
 * What kvm does when its address space changes: no new entries in the range, the old ones out of the
 * G-stage tables and out of every TLB, before the primary tables are touched.
 *
 * Compare virt/kvm/kvm_main.c, kvm_mmu_notifier_invalidate_range_start() and _end(). As on riscv in
 * Linux, a change of protection zaps like everything else. It never has
 * to block. Left out: aging.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { pfnToPage } from '#mm';
import {
  invalidateBegin,
  invalidateEnd,
  type MmStruct,
  type NotifierOps,
  type NotifierRange,
} from '#mm/secondary';
import { GSTAGE_GPA_LIMIT, gstageNextMapped, gstageUnmap, gstageUnmapRange } from './gstage.ts';
import type { MemSlot } from './memslot.ts';
import { countIn, countVm } from './stat.ts';
import { flushGStage, flushGStageRange, guestTlbHolds, stampGuestTlbs } from './tlb.ts';
import type { Kvm, Vm } from './vm.ts';

/** The operations of every VM of this hypervisor; `owner` is Vm.id. */
export const notifierOpsOf = (kvm: Kvm): NotifierOps => ({
  invalidateRangeStart: (owner: number, range: NotifierRange): number => {
    const vm = kvm.vms.get(owner);
    if (vm !== undefined) rangeStart(kvm, vm, range);
    return 0;
  },
  invalidateRangeEnd: (owner: number, range: NotifierRange): void => {
    const vm = kvm.vms.get(owner);
    if (vm !== undefined) rangeEnd(vm, range);
  },
  release: (owner: number, _mm: MmStruct): void => {
    const vm = kvm.vms.get(owner);
    if (vm === undefined) return;
    setField(vm, 'released', true);
    gstageUnmapRange(kvm.k, vm.gstage, 0, GSTAGE_GPA_LIMIT);
    flushGStage(kvm, vm);
  },
});

/** The part of a slot that an hva range covers, as gpa; -1 where they do not meet. */
const startInSlot = (slot: MemSlot, range: NotifierRange): number => {
  const start = Math.max(range.start, slot.hva);
  return start < Math.min(range.end, slot.hva + slot.lenBytes) ? start - slot.hva + slot.gpa : -1;
};
const endInSlot = (slot: MemSlot, range: NotifierRange): number =>
  Math.min(range.end, slot.hva + slot.lenBytes) - slot.hva + slot.gpa;

const rangeStart = (kvm: Kvm, vm: Vm, range: NotifierRange): void => {
  setField(vm, 'openInvalidations', vm.openInvalidations + 1);
  let met = false;
  for (const slot of vm.slots) {
    const gpa = startInSlot(slot, range);
    if (gpa < 0) continue;
    met = true;
    const endGpa = endInSlot(slot, range);
    // Before the zap: from here on no fault may install what it has looked up.
    invalidateBegin(vm.invalidate, gpa, endGpa);
    zapRange(kvm, vm, gpa, endGpa, range.event);
  }
  if (!met) return;
  countVm(vm.stat, 'invalidations');
  countIn(vm.stat.invalidationsByEvent, range.event);
};

const rangeEnd = (vm: Vm, range: NotifierRange): void => {
  // The slots are those of the start: they do not change while an invalidation is open.
  for (const slot of vm.slots) if (startInSlot(slot, range) >= 0) invalidateEnd(vm.invalidate);
  setField(vm, 'openInvalidations', vm.openInvalidations - 1);
};

/** Removes what is mapped in [gpa, endGpa), and every translation made from it. */
const zapRange = (kvm: Kvm, vm: Vm, gpa: number, endGpa: number, event: number): void => {
  const { k } = kvm;
  const { stat } = vm;
  const first = gstageNextMapped(k, vm.gstage, gpa, endGpa);
  if (first < 0) return;
  let last = first;
  const several = gstageNextMapped(k, vm.gstage, first + PAGE_SIZE, endGpa) >= 0;
  const stamp = several ? stampGuestTlbs(kvm, vm) : 0;
  for (let at = first; at >= 0; at = gstageNextMapped(k, vm.gstage, at + PAGE_SIZE, endGpa)) {
    const page = pfnToPage(gstageUnmap(k, vm.gstage, at));
    countVm(stat, 'zaps');
    if (stamp === 0 ? guestTlbHolds(kvm, vm, page) : kvm.heldStamps[page] === stamp) {
      countVm(stat, 'zapsInTlb');
      countIn(stat.zapsInTlbByEvent, event);
    }
    last = at;
  }
  if (!k.sabotage.notifierKeepsTlb) flushGStageRange(kvm, vm, first, last + PAGE_SIZE);
};
