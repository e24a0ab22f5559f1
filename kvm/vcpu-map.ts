/**
 * A page of the guest that the hypervisor has mapped for itself, for as long as it likes: by a pin, the
 * only one that kvm takes. Compare virt/kvm/kvm_main.c:kvm_vcpu_map(), kvm_vcpu_unmap().
 *
 * Linux's use for it are pages that the hypervisor shares with a guest's own hypervisor. Mapping memory
 * into the guest never pins (fault.ts); what is used for the length of a few instructions, and can be
 * looked up again, is a pfn cache (pfncache.ts).
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL, folioMarkDirty, folioOf } from '#mm';
import { FOLL_WRITE, nameGupUser, pinUserPagesFast, unpinUserPage } from '#mm/driver-api';
import type { Path } from '#mm/secondary';
import { markPageDirty } from './dirty-ring.ts';
import { gpaToHva, gpaToMemSlot, slotReadOnly } from './memslot.ts';
import { type Kvm, mmOfVm, type Vm } from './vm.ts';

/** A page that is mapped. Plain data. */
export interface VcpuMap {
  gpa: number;
  /** Its frame, pinned. */
  page: number;
  writable: boolean;
}

const USER = 'kvm-map';

/**
 * Maps the page of `gpa`. @param write it is going to be written to
 * @returns the mapping; -EINVAL: no memory of the guest's, read-only, or memory without page structs,
 *   which a pin cannot hold; -EFAULT: nothing usable behind it
 */
export function* mapVcpuPage(
  kvm: Kvm,
  vm: Vm,
  gpa: number,
  write: boolean,
): Path<VcpuMap | number> {
  const slot = gpaToMemSlot(vm.slots, gpa);
  if (slot === undefined || (write && slotReadOnly(slot))) return -EINVAL;
  const pages = new Int32Array(1);
  const start = gpa - (gpa % PAGE_SIZE);
  nameGupUser(kvm.k, USER);
  const hva = gpaToHva(slot, start);
  const flags = write ? FOLL_WRITE : 0;
  const got = yield* pinUserPagesFast(kvm.k, mmOfVm(kvm, vm), hva, 1, flags, pages);
  if (got === 1) return { gpa: start, page: pages[0]!, writable: write };
  return got === -EFAULT ? -EINVAL : got;
}

/** Byte of the machine's memory that the mapped page begins at: good until it is unmapped. */
export const vcpuMapOffset = (kvm: Kvm, map: VcpuMap): number => kvm.memory.pageOffset(map.page);

/**
 * Gives the page back. One that was mapped for writing counts as written by the guest; its folio is
 * marked before the pin goes, without its lock, so of a file's page behind the file system's back.
 */
export const unmapVcpuPage = (kvm: Kvm, vm: Vm, map: VcpuMap): void => {
  const { k } = kvm;
  if (map.writable) {
    const slot = gpaToMemSlot(vm.slots, map.gpa);
    if (slot !== undefined) markPageDirty(slot, map.gpa, null);
    folioMarkDirty(k, folioOf(k, map.page));
  }
  nameGupUser(k, USER);
  unpinUserPage(k, map.page);
};
