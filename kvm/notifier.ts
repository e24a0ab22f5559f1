/**
 * What kvm does when its address space changes: no new entries in the range, the old ones out of the
 * G-stage tables and out of every TLB, before the primary tables are touched.
 *
 * Compare virt/kvm/kvm_main.c, kvm_mmu_notifier_invalidate_range_start() and _end(). As on riscv in
 * Linux, a change of protection zaps like everything else. It never has to block. Aging takes the A
 * bits of the leaves, by which the host's reclaim learns what the guest uses.
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  invalidateBegin,
  invalidateEnd,
  type Kernel,
  type MmStruct,
  type NotifierOps,
  type NotifierRange,
  pfnToPage,
} from '#mm/secondary';
import {
  type GStage,
  GSTAGE_GPA_LIMIT,
  gstageAge,
  gstageBytes,
  gstageLevel,
  gstageNextMapped,
  gstagePfn,
  gstageUnmap,
  gstageUnmapRange,
} from './gstage.ts';
import { type MemSlot, slotPageOfFile } from './memslot.ts';
import { dropPfnCaches, invalidatePfnCaches } from './pfncache.ts';
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
  testYoung: (owner, _mm, hva) => {
    const vm = kvm.vms.get(owner);
    return vm !== undefined && age(kvm, vm, hva, hva + PAGE_SIZE, 'test');
  },
  clearYoung: (owner, _mm, start, end) => {
    const vm = kvm.vms.get(owner);
    return vm !== undefined && age(kvm, vm, start, end, 'clear');
  },
  clearFlushYoung: (owner, _mm, start, end) => {
    const vm = kvm.vms.get(owner);
    return vm !== undefined && age(kvm, vm, start, end, 'clear and flush');
  },
  release: (owner: number, _mm: MmStruct): void => {
    const vm = kvm.vms.get(owner);
    if (vm === undefined) return;
    setField(vm, 'released', true);
    dropPfnCaches(vm);
    gstageUnmapRange(kvm.k, vm.gstage, 0, GSTAGE_GPA_LIMIT);
    flushGStage(kvm, vm);
  },
});

/** The part of a slot that [startHva, endHva) covers, as gpa; -1 where they do not meet. */
const startInSlot = (slot: MemSlot, startHva: number, endHva: number): number => {
  const start = Math.max(startHva, slot.hva);
  return start < Math.min(endHva, slot.hva + slot.lenBytes) ? start - slot.hva + slot.gpa : -1;
};
const endInSlot = (slot: MemSlot, endHva: number): number =>
  Math.min(endHva, slot.hva + slot.lenBytes) - slot.hva + slot.gpa;

const rangeStart = (kvm: Kvm, vm: Vm, range: NotifierRange): void => {
  // In this order: whoever sees the count at 0 has not missed an invalidation of a cached pfn.
  setField(vm, 'openInvalidations', vm.openInvalidations + 1);
  invalidatePfnCaches(vm, range.start, range.end);
  let first = Number.POSITIVE_INFINITY;
  let last = -1;
  for (const slot of vm.slots) {
    const gpa = startInSlot(slot, range.start, range.end);
    if (gpa < 0) continue;
    first = Math.min(first, gpa);
    last = Math.max(last, endInSlot(slot, range.end));
  }
  if (last < 0) return;
  // Before the zap: from here on no fault may install what it has looked up.
  invalidateBegin(vm.invalidate, first, last);
  for (const slot of vm.slots) {
    const gpa = startInSlot(slot, range.start, range.end);
    if (gpa >= 0) zapShared(kvm, vm, slot, gpa, endInSlot(slot, range.end), range.event);
  }
  countVm(vm.stat, 'invalidations');
  countIn(vm.stat.invalidationsByEvent, range.event);
};

const rangeEnd = (vm: Vm, range: NotifierRange): void => {
  // The slots are those of the start: they do not change while an invalidation is open.
  if (vm.slots.some((slot) => startInSlot(slot, range.start, range.end) >= 0))
    invalidateEnd(vm.invalidate);
  setField(vm, 'openInvalidations', vm.openInvalidations - 1);
};

/** What aging does beside looking. */
type Aging = 'test' | 'clear' | 'clear and flush';

/** Has the guest used any of [startHva, endHva)? Compare kvm_age_hva_range(). */
const age = (kvm: Kvm, vm: Vm, startHva: number, endHva: number, how: Aging): boolean => {
  let young = false;
  for (const slot of vm.slots) {
    const gpa = startInSlot(slot, startHva, endHva);
    if (gpa < 0) continue;
    const endGpa = endInSlot(slot, endHva);
    if (!gstageAge(kvm.k, vm.gstage, gpa, endGpa, how !== 'test')) continue;
    young = true;
    if (how === 'clear and flush') flushGStageRange(kvm, vm, gpa, endGpa);
  }
  if (young && how !== 'test') countVm(vm.stat, 'aged');
  return young;
};

/** What of [gpa, endGpa) comes from the slot's hva: pages of a guest_memfd have nothing to do with it. */
const zapShared = (
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  gpa: number,
  endGpa: number,
  event: number,
): void => {
  if (slot.gmem === null) {
    zapRange(kvm, vm, gpa, endGpa, event);
    return;
  }
  if (slot.gmem.private === null) return;
  for (let at = gpa; at < endGpa; at += PAGE_SIZE)
    if (!slotPageOfFile(slot, at)) zapRange(kvm, vm, at, at + PAGE_SIZE, event);
};

/** Removes what is mapped in [gpa, endGpa), and every translation made from it. @param event MMU_NOTIFY_*, to be counted */
export const zapRange = (kvm: Kvm, vm: Vm, gpa: number, endGpa: number, event: number): void => {
  const { k } = kvm;
  const { stat } = vm;
  const first = gstageNextMapped(k, vm.gstage, gpa, endGpa);
  if (first < 0) return;
  const firstBytes = leafBytes(k, vm.gstage, first);
  let start = first - (first % firstBytes);
  const several = gstageNextMapped(k, vm.gstage, start + firstBytes, endGpa) >= 0;
  const counts = kvm.countsTlbHits;
  const stamp = counts && (several || firstBytes > PAGE_SIZE) ? stampGuestTlbs(kvm, vm) : 0;
  const flushStart = start;
  let flushEnd = start;
  for (let at = first; at >= 0; at = gstageNextMapped(k, vm.gstage, flushEnd, endGpa)) {
    const bytes = leafBytes(k, vm.gstage, at);
    start = at - (at % bytes);
    flushEnd = start + bytes;
    const page = pfnToPage(gstagePfn(k, vm.gstage, start));
    gstageUnmap(k, vm.gstage, start);
    countVm(stat, 'zaps');
    if (!counts) continue;
    if (stamp === 0 ? guestTlbHolds(kvm, vm, page) : isStamped(kvm, stamp, page, bytes)) {
      countVm(stat, 'zapsInTlb');
      countIn(stat.zapsInTlbByEvent, event);
    }
  }
  if (!k.sabotage.notifierKeepsTlb) flushGStageRange(kvm, vm, flushStart, flushEnd);
};

/** Bytes of the leaf that maps `gpa`. */
const leafBytes = (k: Kernel, g: GStage, gpa: number): number =>
  gstageBytes(gstageLevel(k, g, gpa));

/** Was any frame of a leaf in a TLB when the stamp was given out? */
const isStamped = (kvm: Kvm, stamp: number, page: number, bytes: number): boolean => {
  for (let i = 0; i < bytes / PAGE_SIZE; i++) if (kvm.heldStamps[page + i] === stamp) return true;
  return false;
};
