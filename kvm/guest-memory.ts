/**
 * Guest memory as the VMM reaches it: by the hva behind a gpa, through the host's page tables.
 * A page that is not there is faulted in, so these are paths. Compare kvm_read_guest(), and a VMM's
 * own memcpy. What the VMM writes is not in the dirty log: that is the guest's.
 */
import { accessRemoteVm, EFAULT, EINVAL } from '#mm';
import type { Path } from '#mm/secondary';
import { gpaToHva, gpaToMemSlot, slotReadOnly } from './memslot.ts';
import { type Kvm, mmOfVm, type Vm } from './vm.ts';

/** Moves bytes between guest memory and a buffer, slot by slot. */
function* access(kvm: Kvm, vm: Vm, gpa: number, bytes: Uint8Array, write: boolean): Path<number> {
  const mm = mmOfVm(kvm, vm);
  let done = 0;
  while (done < bytes.length) {
    const slot = gpaToMemSlot(vm.slots, gpa + done);
    if (slot === undefined) return -EINVAL;
    const part = Math.min(bytes.length - done, slot.gpa + slot.lenBytes - (gpa + done));
    const hva = gpaToHva(slot, gpa + done);
    const moved = yield* accessRemoteVm(kvm.k, mm, hva, bytes.subarray(done, done + part), write);
    if (moved < part) return -EFAULT;
    done += part;
  }
  return 0;
}

/** Fills `into` from guest memory. @returns 0, -EINVAL outside the slots, -EFAULT behind them */
export const vmReadGuest = (kvm: Kvm, vm: Vm, gpa: number, into: Uint8Array): Path<number> =>
  access(kvm, vm, gpa, into, false);

/**
 * Writes bytes into guest memory: images, device trees, what a device model answers.
 * @returns 0, -EINVAL outside the slots, -EFAULT where the VMM has mapped nothing writable
 */
export const vmWriteGuest = (kvm: Kvm, vm: Vm, gpa: number, from: Uint8Array): Path<number> =>
  access(kvm, vm, gpa, from, true);

/** Is all of [gpa, gpa + lenBytes) in slots that the guest may write? For a loader's checks. */
export const vmHasMemory = (vm: Vm, gpa: number, lenBytes: number): boolean => {
  let at = gpa;
  while (at < gpa + lenBytes) {
    const slot = gpaToMemSlot(vm.slots, at);
    if (slot === undefined || slotReadOnly(slot)) return false;
    at = slot.gpa + slot.lenBytes;
  }
  return true;
};
