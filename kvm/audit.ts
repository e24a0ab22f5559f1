/** What the sanitizer asks kvm: every entry of every G-stage table, as the hva it stands for. */
import { PTE_W } from '#emu';
import type { MmStruct } from '#mm/secondary';
import { GSTAGE_GPA_LIMIT, gstageFlags, gstageNextMapped, gstagePfn } from './gstage.ts';
import { gpaToHva, gpaToMemSlot } from './memslot.ts';
import { type Kvm, mmOfVm } from './vm.ts';

/**
 * Calls `visit` for every mapped page of every VM.
 * @throws Error for an entry outside the memory slots, which no fault can have made
 */
export const visitSecondaryEntries = (
  kvm: Kvm,
  visit: (mm: MmStruct, hva: number, pfn: number, writable: boolean) => void,
): void => {
  for (const vm of kvm.vms.values()) {
    let gpa = gstageNextMapped(kvm.k, vm.gstage, 0, GSTAGE_GPA_LIMIT);
    while (gpa >= 0) {
      const slot = gpaToMemSlot(vm.slots, gpa);
      if (slot === undefined)
        throw new Error(`vm ${vm.id}: gpa 0x${gpa.toString(16)} is mapped and in no memory slot`);
      const writable = (gstageFlags(kvm.k, vm.gstage, gpa) & PTE_W) !== 0;
      visit(mmOfVm(kvm, vm), gpaToHva(slot, gpa), gstagePfn(kvm.k, vm.gstage, gpa), writable);
      gpa = gstageNextMapped(kvm.k, vm.gstage, gpa + 4096, GSTAGE_GPA_LIMIT);
    }
  }
};
