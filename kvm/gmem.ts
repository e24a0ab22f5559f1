/**
 * Guest memory from a guest_memfd: slots that are bound to a file, faults that ask the file and not the
 * host's page tables, and attributes that say which pages are private. Compare virt/kvm/guest_memfd.c
 * and virt/kvm/kvm_main.c:kvm_vm_set_mem_attributes().
 *
 *   a file that cannot be mapped   private pages come from the file, shared ones from the slot's hva;
 *                                  the slot says which are which, and a conversion zaps the entries
 *   a file that can be mapped      all pages come from the file (KVM_MEMSLOT_GMEM_ONLY); the file says
 *                                  which are private, and refuses to convert what somebody holds
 *
 * Entries that come from the file are told by the file (GuestMemfdOps), not by MMU notifiers: private
 * memory stays in the guest whatever happens to the addresses beside it.
 */
import { fetchAndNot, fetchOr, setField } from '#cells';
import { PAGE_SIZE, PTE_W } from '#emu';
import {
  type AddressSpace,
  EFAULT,
  EINVAL,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdBind,
  type GuestMemfdBinding,
  guestMemfdConvert,
  guestMemfdGetPfn,
  type GuestMemfdOps,
  guestMemfdUnbind,
  guestMemfdUnbindAll,
  invalidateBegin,
  invalidateEnd,
  MMU_NOTIFY_CLEAR,
  type Path,
  type SecondaryPfn,
  YP_WAIT,
} from '#mm/secondary';
import { gstageFlags, gstageNextMapped, gstagePfn } from './gstage.ts';
import {
  KVM_MEM_LOG_DIRTY_PAGES,
  KVM_MEM_READONLY,
  type MemSlot,
  type SlotGmem,
  slotPageIndex,
  slotPageOfFile,
} from './memslot.ts';
import { zapRange } from './notifier.ts';
import { countVm } from './stat.ts';
import type { Kvm, Vm } from './vm.ts';

/** Name of kvm's operations on files. */
const KVM_GMEM = 'kvm';

/** Attribute of a page, as KVM_SET_MEMORY_ATTRIBUTES has it. */
export const KVM_MEMORY_ATTRIBUTE_PRIVATE = 1 << 3;

/** The file behind a slot; undefined once it is gone. */
const fileOf = (kvm: Kvm, { fileId }: SlotGmem): AddressSpace | undefined => {
  const object = kvm.k.state.mappings.get(fileId);
  return object?.kind === 'gmem' ? object : undefined;
};

/** First gpa behind a page of the file, as a slot shows it. */
const gpaOf = (slot: MemSlot, gmem: SlotGmem, pgoff: number): number =>
  slot.gpa + (pgoff - gmem.pgoff) * PAGE_SIZE;

/** VM and slot of a binding, while they are there. */
const boundSlot = (kvm: Kvm, binding: GuestMemfdBinding) => {
  const vm = kvm.vms.get(binding.owner);
  const slot = vm?.slots.find(({ id }) => id === binding.slot);
  const gmem = slot?.gmem ?? null;
  return vm === undefined || slot === undefined || gmem === null ? null : { vm, slot, gmem };
};

/** What kvm does when pages of a file change. */
export const guestMemfdOpsOf = (kvm: Kvm): GuestMemfdOps => ({
  invalidateStart: (binding, first, end) => {
    const bound = boundSlot(kvm, binding);
    if (bound === null) return;
    const { vm, slot, gmem } = bound;
    const startGpa = gpaOf(slot, gmem, first);
    const endGpa = gpaOf(slot, gmem, end);
    invalidateBegin(vm.invalidate, startGpa, endGpa);
    zapRange(kvm, vm, startGpa, endGpa, MMU_NOTIFY_CLEAR);
    countVm(vm.stat, 'gmemInvalidations');
  },
  invalidateEnd: (binding) => {
    const bound = boundSlot(kvm, binding);
    if (bound !== null) invalidateEnd(bound.vm.invalidate);
  },
  released: (binding) => {
    const bound = boundSlot(kvm, binding);
    if (bound !== null) setField(bound.gmem, 'fileId', 0);
  },
  visitFileEntries: (visit, within) => {
    for (const vm of kvm.vms.values())
      for (const slot of vm.slots) {
        const file = slot.gmem === null ? undefined : fileOf(kvm, slot.gmem);
        if (slot.gmem === null || file === undefined) continue;
        if (within !== undefined && file !== within.mapping) continue;
        visitSlot(kvm, vm, slot, slot.gmem, (pgoff, pfn, writable) =>
          visit(file, pgoff, pfn, writable),
        );
      }
  },
});

/** Entries of a slot that stand for pages of its file. */
const visitSlot = (
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  gmem: SlotGmem,
  visit: (pgoff: number, pfn: number, writable: boolean) => void,
): void => {
  const { k } = kvm;
  const end = slot.gpa + slot.lenBytes;
  let gpa = gstageNextMapped(k, vm.gstage, slot.gpa, end);
  for (; gpa >= 0; gpa = gstageNextMapped(k, vm.gstage, gpa + PAGE_SIZE, end)) {
    if (!slotPageOfFile(slot, gpa)) continue;
    const writable = (gstageFlags(k, vm.gstage, gpa) & PTE_W) !== 0;
    visit(gmem.pgoff + slotPageIndex(slot, gpa), gstagePfn(k, vm.gstage, gpa), writable);
  }
};

/**
 * Binds a slot to a part of a file: KVM_MEM_GUEST_MEMFD, to be done before the guest uses it. All of it
 * is private, or what the file says where that can be mapped.
 * @returns 0; -EINVAL: no guest_memfd, another VM's, not of whole pages or beyond its end, bound already;
 *   or a slot that is read-only, logs, or has a file. Compare kvm_gmem_bind()
 */
export function* bindGuestMemfd(
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  file: AddressSpace,
  offset: number,
): Path<number> {
  const { flags, lenBytes } = slot;
  if (file.gmem === null || slot.gmem !== null || offset % PAGE_SIZE !== 0) return -EINVAL;
  if ((flags & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)) !== 0) return -EINVAL;
  const pgoff = offset / PAGE_SIZE;
  const nrPages = lenBytes / PAGE_SIZE;
  const binding = { ops: KVM_GMEM, owner: vm.id, slot: slot.id, pgoff, nrPages };
  const error = yield* guestMemfdBind(kvm.k, file, binding);
  if (error !== 0) return error;
  // Nothing yields from the binding on: the file finds the slot, or does not know of it.
  const only = (file.gmem.flags & GUEST_MEMFD_FLAG_MMAP) !== 0;
  const bits = only ? null : new Int32Array(Math.ceil(nrPages / 32)).fill(-1);
  invalidateBegin(vm.invalidate, slot.gpa, slot.gpa + lenBytes);
  setField(slot, 'gmem', { fileId: file.id, pgoff, private: bits });
  zapRange(kvm, vm, slot.gpa, slot.gpa + lenBytes, MMU_NOTIFY_CLEAR);
  invalidateEnd(vm.invalidate);
  return 0;
}

/** The slot is about to go. Compare kvm_gmem_unbind() */
export function* unbindGuestMemfd(kvm: Kvm, vm: Vm, slot: MemSlot): Path<void> {
  const file = slot.gmem === null ? undefined : fileOf(kvm, slot.gmem);
  if (file !== undefined) yield* guestMemfdUnbind(file, KVM_GMEM, vm.id, slot.id);
}

/** The VM is about to go, with all of its slots. */
export const unbindAllGuestMemfds = (kvm: Kvm, vm: Vm): void =>
  guestMemfdUnbindAll(kvm.k, KVM_GMEM, vm.id);

/**
 * faultInPfn() for a page that comes from the slot's file.
 * @returns 0; -EFAULT: the file is gone; -ENOMEM; -EHWPOISON. Compare kvm_gmem_get_pfn()
 */
export function* gmemFaultIn(
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  gpa: number,
  out: SecondaryPfn,
): Path<number> {
  const file = slot.gmem === null ? undefined : fileOf(kvm, slot.gmem);
  if (slot.gmem === null || file === undefined) return -EFAULT;
  countVm(vm.stat, 'gmemFaults');
  return yield* guestMemfdGetPfn(kvm.k, file, slot.gmem.pgoff + slotPageIndex(slot, gpa), out);
}

/**
 * KVM_SET_MEMORY_ATTRIBUTES: pages of [gpa, gpa + lenBytes) become private, or shared. Slots are gone over
 * one after the other: an error leaves those before as they have become.
 * @param attributes KVM_MEMORY_ATTRIBUTE_PRIVATE or 0
 * @returns 0; -EINVAL: other attributes, not of whole pages, or not all of it in slots that have a file;
 *   -EAGAIN: somebody holds a page that was to become private
 */
export function* setMemoryAttributes(
  kvm: Kvm,
  vm: Vm,
  gpa: number,
  lenBytes: number,
  attributes: number,
): Path<number> {
  if ((attributes & ~KVM_MEMORY_ATTRIBUTE_PRIVATE) !== 0) return -EINVAL;
  if (lenBytes <= 0 || gpa % PAGE_SIZE !== 0 || lenBytes % PAGE_SIZE !== 0) return -EINVAL;
  const toPrivate = attributes !== 0;
  while (vm.slotsLocked) yield YP_WAIT;
  setField(vm, 'slotsLocked', true);
  let error = 0;
  for (let at = gpa; at < gpa + lenBytes && error === 0; ) {
    const start = at;
    const slot = vm.slots.find((s) => start >= s.gpa && start < s.gpa + s.lenBytes);
    if (slot === undefined || slot.gmem === null) {
      error = -EINVAL;
      break;
    }
    const end = Math.min(gpa + lenBytes, slot.gpa + slot.lenBytes);
    error = yield* convert(kvm, vm, slot, slot.gmem, start, end, toPrivate);
    at = end;
  }
  setField(vm, 'slotsLocked', false);
  return error;
}

/** The part [gpa, endGpa) of one slot. */
function* convert(
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  gmem: SlotGmem,
  gpa: number,
  endGpa: number,
  toPrivate: boolean,
): Path<number> {
  const first = slotPageIndex(slot, gpa);
  const end = slotPageIndex(slot, endGpa);
  if (gmem.private === null) {
    const file = fileOf(kvm, gmem);
    if (file === undefined) return -EINVAL;
    return yield* guestMemfdConvert(kvm.k, file, gmem.pgoff + first, end - first, toPrivate);
  }
  invalidateBegin(vm.invalidate, gpa, endGpa);
  zapRange(kvm, vm, gpa, endGpa, MMU_NOTIFY_CLEAR);
  for (let index = first; index < end; index++) {
    const bit = 1 << (index & 31);
    if (toPrivate) fetchOr(gmem.private, index >>> 5, bit);
    else fetchAndNot(gmem.private, index >>> 5, bit);
  }
  invalidateEnd(vm.invalidate);
  return 0;
}
