/**
 * A guest's fault in guest-physical memory: the frame behind the hva is looked up, which may sleep,
 * and installed in the G-stage tables only if nothing was invalidated since the lookup began.
 *
 *   sample seq -> faultInPfn (sleeps) -> lock -> invalidated since? -> install -> mark dirty -> unlock
 *                      ^                              | yes
 *                      +------- release --------------+
 *
 * Compare arch/riscv/kvm/mmu.c:kvm_riscv_mmu_map() and virt/kvm/kvm_main.c:mmu_invalidate_retry_gfn().
 */
import { PAGE_SIZE } from '#emu';
import {
  EFAULT,
  faultInPfn,
  invalidateRetry,
  invalidateSeq,
  type InvalidateState,
  type Path,
  releasePfn,
  type SecondaryPfn,
  YP_WAIT,
} from '#mm/secondary';
import { markPageDirty } from './dirty-ring.ts';
import { gmemFaultIn } from './gmem.ts';
import {
  GSTAGE_MAX_LEVEL,
  GSTAGE_READ_ONLY,
  GSTAGE_READ_WRITE,
  GSTAGE_REPLACED,
  GSTAGE_UNCHANGED,
  gstageBytes,
  gstageFreeDetached,
  gstageMakeWritable,
  gstageMap,
} from './gstage.ts';
import {
  gpaToHva,
  type MemSlot,
  slotAt,
  slotLogsDirty,
  slotPageOfFile,
  slotReadOnly,
} from './memslot.ts';
import { countVm } from './stat.ts';
import { flushGStageRange } from './tlb.ts';
import { type Kvm, mmOfVm, type VcpuState, type Vm } from './vm.ts';

/** An invalidation that meets [gpa, endGpa) is open. */
const invalidating = (state: InvalidateState, gpa: number, endGpa: number): boolean =>
  state.inProgress > 0 && gpa < state.rangeEnd && endGpa > state.rangeStart;

/** log2 of the pages that one level more multiplies by. */
const LEVEL_ORDER = 9;

/**
 * The largest leaf that may map a page: no larger than the primary entry, inside the slot, where gpa and
 * hva are aligned alike, and nothing of it is being invalidated. A logged slot counts single pages.
 * Compare arch/x86/kvm/mmu/mmu.c:kvm_mmu_hugepage_adjust(), arch/riscv/kvm/mmu.c.
 */
const levelFor = (vm: Vm, slot: MemSlot, gpa: number, order: number): number => {
  if (slotLogsDirty(slot)) return 0;
  for (let level = Math.min(order / LEVEL_ORDER, GSTAGE_MAX_LEVEL); level > 0; level--) {
    const bytes = gstageBytes(level);
    const start = gpa - (gpa % bytes);
    if (start < slot.gpa || start + bytes > slot.gpa + slot.lenBytes) continue;
    if (gpaToHva(slot, start) % bytes !== 0) continue;
    if (!invalidating(vm.invalidate, start, start + bytes)) return level;
  }
  return 0;
};

/**
 * Maps the page at `gpa`, which is in a memory slot, so that the guest can read and execute it, or
 * write it; with it as much as the host maps by one entry. Returning 0 does not promise that the entry is still there: then the guest faults again.
 * @param scratch the caller's record for what is looked up, so that nothing is allocated
 * @param vcpu whose dirty ring is told; null: the bitmap
 * @returns 0, or -errno: -EFAULT when nothing usable is mapped at the hva
 */
export function* mapGuestPage(
  kvm: Kvm,
  vm: Vm,
  gpaInPage: number,
  write: boolean,
  scratch: SecondaryPfn,
  vcpu: VcpuState | null = null,
): Path<number> {
  const { k } = kvm;
  const gpa = gpaInPage - (gpaInPage % PAGE_SIZE);
  for (;;) {
    const slot = slotAt(vm.slots, gpa);
    if (vm.released) return -EFAULT;
    // Gone meanwhile, or read-only: the access tries again, and finds what there is now.
    if (slot === undefined || (write && slotReadOnly(slot))) return 0;
    if (slot.invalid) {
      yield YP_WAIT;
      continue;
    }
    if (k.sabotage.logWritesUnasked && write && slotLogsDirty(slot))
      if (gstageMakeWritable(k, vm.gstage, gpa)) {
        markPageDirty(slot, gpa, vcpu);
        return 0;
      }
    const seq = invalidateSeq(vm.invalidate);
    const error = slotPageOfFile(slot, gpa)
      ? yield* gmemFaultIn(kvm, vm, slot, gpa, scratch)
      : yield* faultInPfn(k, mmOfVm(kvm, vm), gpaToHva(slot, gpa), write, scratch);
    if (error < 0) return error;

    // faultInPfn has yielded last (YP_SECONDARY_PFN). From here to the end of the round nothing
    // yields: this is the section under mmu_lock.
    const stale =
      (!k.sabotage.faultSkipsRetry && invalidateRetry(vm.invalidate, seq, gpa)) ||
      slot.invalid ||
      slotAt(vm.slots, gpa) !== slot;
    if (stale) {
      releasePfn(k, scratch, false, false);
      countVm(vm.stat, 'faultRetries');
      while (invalidating(vm.invalidate, gpa, gpa + PAGE_SIZE)) yield YP_WAIT;
      continue;
    }
    if (write && !scratch.writable) {
      releasePfn(k, scratch, false, false);
      return -EFAULT;
    }
    // A logged page becomes writable by a write only, or the log would miss the first one.
    const writable = scratch.writable && !slotReadOnly(slot) && (write || !slotLogsDirty(slot));
    const flags = writable ? GSTAGE_READ_WRITE : GSTAGE_READ_ONLY;
    const level = levelFor(vm, slot, gpa, scratch.order);
    const within = gpa % gstageBytes(level);
    const firstPfn = scratch.pfn - within / PAGE_SIZE;
    const result = gstageMap(k, vm.gstage, gpa - within, firstPfn, flags, level);
    if (result < 0) {
      releasePfn(k, scratch, false, false);
      return result;
    }
    if (result === GSTAGE_UNCHANGED) countVm(vm.stat, 'gstageSpurious');
    else countVm(vm.stat, level > 0 ? 'gstageInstalledHuge' : 'gstageInstalled');
    if (result === GSTAGE_REPLACED) {
      flushGStageRange(kvm, vm, gpa - within, gpa - within + gstageBytes(level));
      gstageFreeDetached(k, vm.gstage);
    }
    // Dirty at installation, under the lock: later would race with writeback that the notifier has
    // already passed on (compare kvm_release_faultin_page()).
    // An entry that was there was logged when it was made.
    if (writable && result !== GSTAGE_UNCHANGED) markPageDirty(slot, gpa, vcpu);
    releasePfn(k, scratch, writable, true);
    return 0;
  }
}
