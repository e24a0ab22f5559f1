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
import { EFAULT, YP_WAIT } from '#mm';
import {
  faultInPfn,
  type InvalidateState,
  invalidateRetry,
  invalidateSeq,
  type Path,
  releasePfn,
  type SecondaryPfn,
} from '#mm/secondary';
import {
  GSTAGE_READ_ONLY,
  GSTAGE_READ_WRITE,
  GSTAGE_REPLACED,
  GSTAGE_UNCHANGED,
  gstageMap,
} from './gstage.ts';
import {
  gpaToHva,
  gpaToMemSlot,
  markPageDirtyInSlot,
  slotLogsDirty,
  slotReadOnly,
} from './memslot.ts';
import { countVm } from './stat.ts';
import { flushGStageRange } from './tlb.ts';
import { type Kvm, mmOfVm, type Vm } from './vm.ts';

/** An invalidation that covers `gpa` is open. */
const invalidating = (state: InvalidateState, gpa: number): boolean =>
  state.inProgress > 0 && gpa >= state.rangeStart && gpa < state.rangeEnd;

/**
 * Maps the page at `gpa`, which is in a memory slot, so that the guest can read and execute it, or
 * write it. Returning 0 does not promise that the entry is still there: then the guest faults again.
 * @param scratch the caller's record for what is looked up, so that nothing is allocated
 * @returns 0, or -errno: -EFAULT when nothing usable is mapped at the hva
 */
export function* mapGuestPage(
  kvm: Kvm,
  vm: Vm,
  gpaInPage: number,
  write: boolean,
  scratch: SecondaryPfn,
): Path<number> {
  const { k } = kvm;
  const gpa = gpaInPage - (gpaInPage % PAGE_SIZE);
  for (;;) {
    const slot = gpaToMemSlot(vm.slots, gpa);
    if (slot === undefined || vm.released) return -EFAULT;
    const seq = invalidateSeq(vm.invalidate);
    const error = yield* faultInPfn(k, mmOfVm(kvm, vm), gpaToHva(slot, gpa), write, scratch);
    if (error < 0) return error;

    // faultInPfn has yielded last (YP_SECONDARY_PFN). From here to the end of the round nothing
    // yields: this is the section under mmu_lock.
    const stale =
      (!k.sabotage.faultSkipsRetry && invalidateRetry(vm.invalidate, seq, gpa)) ||
      gpaToMemSlot(vm.slots, gpa) !== slot;
    if (stale) {
      releasePfn(k, scratch, false, false);
      countVm(vm.stat, 'faultRetries');
      while (invalidating(vm.invalidate, gpa)) yield YP_WAIT;
      continue;
    }
    if (write && !scratch.writable) {
      releasePfn(k, scratch, false, false);
      return -EFAULT;
    }
    // A logged page becomes writable by a write only, or the log would miss the first one.
    const writable = scratch.writable && !slotReadOnly(slot) && (write || !slotLogsDirty(slot));
    const flags = writable ? GSTAGE_READ_WRITE : GSTAGE_READ_ONLY;
    const result = gstageMap(k, vm.gstage, gpa, scratch.pfn, flags);
    if (result < 0) {
      releasePfn(k, scratch, false, false);
      return result;
    }
    if (result === GSTAGE_UNCHANGED) countVm(vm.stat, 'gstageSpurious');
    else countVm(vm.stat, 'gstageInstalled');
    if (result === GSTAGE_REPLACED) flushGStageRange(kvm, vm, gpa, gpa + PAGE_SIZE);
    // Dirty at installation, under the lock: later would race with writeback that the notifier has
    // already passed on (compare kvm_release_faultin_page()).
    if (writable) markPageDirtyInSlot(slot, gpa);
    releasePfn(k, scratch, writable, true);
    return 0;
  }
}
