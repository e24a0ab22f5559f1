/** What the sanitizer asks kvm: every entry of every G-stage table, as the hva it stands for. */
import { PTE_W } from '#emu';
import type { NotifierRange, SecondaryVisitor } from '#mm/secondary';
import { GSTAGE_GPA_LIMIT, gstageFlags, gstageNextMapped, gstagePfn } from './gstage.ts';
import { gpaToHva, type MemSlot, slotAt, slotPageOfFile } from './memslot.ts';
import { type Kvm, mmOfVm, type Vm } from './vm.ts';

/** Part of an address space. */
type Within = Pick<NotifierRange, 'mm' | 'start' | 'end'>;

/**
 * Calls `visit` for every mapped page and cached frame of every VM, or of those that stand for a part of one's address space.
 * @throws Error for an entry outside the memory slots, which no fault can have made
 */
export const visitSecondaryEntries = (kvm: Kvm, visit: SecondaryVisitor, within?: Within): void => {
  for (const vm of kvm.vms.values()) {
    visitPfnCaches(kvm, vm, visit, within);
    if (within === undefined) visitPages(kvm, vm, 0, GSTAGE_GPA_LIMIT, visit);
    else if (vm.mmId === within.mm.id)
      for (const { gpa, hva, lenBytes } of vm.slots) {
        const start = Math.max(within.start, hva);
        const end = Math.min(within.end, hva + lenBytes);
        if (start < end) visitPages(kvm, vm, gpa + (start - hva), gpa + (end - hva), visit);
      }
  }
};

/** The hypervisor's own caches follow the primary tables as its entries do. */
const visitPfnCaches = (kvm: Kvm, vm: Vm, visit: SecondaryVisitor, within?: Within): void => {
  for (const { valid, hva, pfn } of vm.pfnCaches) {
    if (!valid) continue;
    if (
      within === undefined ||
      (vm.mmId === within.mm.id && hva >= within.start && hva < within.end)
    )
      visit(mmOfVm(kvm, vm), hva, pfn, true);
  }
};

/** Those in [gpa, endGpa) of one VM. */
const visitPages = (
  kvm: Kvm,
  vm: Vm,
  startGpa: number,
  endGpa: number,
  visit: SecondaryVisitor,
): void => {
  let gpa = gstageNextMapped(kvm.k, vm.gstage, startGpa, endGpa);
  while (gpa >= 0) {
    const slot = slotAt(vm.slots, gpa);
    if (slot === undefined)
      throw new Error(`vm ${vm.id}: gpa 0x${gpa.toString(16)} is mapped and in no memory slot`);
    // What comes from a file stands for no address (gmem.ts).
    if (!slotPageOfFile(slot, gpa)) visitPage(kvm, vm, slot, gpa, visit);
    gpa = gstageNextMapped(kvm.k, vm.gstage, gpa + 4096, endGpa);
  }
};

const visitPage = (kvm: Kvm, vm: Vm, slot: MemSlot, gpa: number, visit: SecondaryVisitor): void => {
  const writable = (gstageFlags(kvm.k, vm.gstage, gpa) & PTE_W) !== 0;
  visit(mmOfVm(kvm, vm), gpaToHva(slot, gpa), gstagePfn(kvm.k, vm.gstage, gpa), writable);
};
