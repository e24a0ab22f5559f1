/**
 * The dirty log: which pages the guest has written since it was last asked, as a bitmap of each slot.
 *
 * Each word is taken and its pages are write-protected under the lock, then the TLBs are flushed, so a
 * write is in this harvest or the next. With manual protection the two are apart: a harvest only looks,
 * and the VMM says which pages it is about to send. Compare virt/kvm/kvm_main.c:
 * kvm_get_dirty_log_protect(), kvm_clear_dirty_log_protect().
 */
import { readOnce, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EINVAL, ENOENT } from '#mm';
import { markPageDirty } from './dirty-ring.ts';
import { gstageUnmapRange, gstageWriteProtect, gstageWriteProtectRange } from './gstage.ts';
import { gpaToMemSlot, type MemSlot, setSlotDirtyLog, takeDirtyBits } from './memslot.ts';
import { countVm } from './stat.ts';
import { flushGStage, flushGStageRange } from './tlb.ts';
import type { Kvm, Vm } from './vm.ts';

/** Flags of KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2. */
export const KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE = 1 << 0;
export const KVM_DIRTY_LOG_INITIALLY_SET = 1 << 1;
const MANUAL_FLAGS = KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET;

/** clearDirtyLog() takes pages by so many. */
const CLEAR_ALIGN = 64;

/** KVM_ENABLE_CAP of manual protection. @returns 0; -EINVAL: unknown flags, or INITIALLY_SET alone */
export const enableManualDirtyLog = (vm: Vm, flags: number): number => {
  if ((flags & ~MANUAL_FLAGS) !== 0) return -EINVAL;
  if (flags === KVM_DIRTY_LOG_INITIALLY_SET) return -EINVAL;
  setField(vm, 'manualDirtyLog', flags);
  return 0;
};

/**
 * Starts or stops the dirty log of a slot. Started, every page counts as clean and the next write to it
 * faults; with INITIALLY_SET every page counts as dirty, and nothing is protected yet. Stopped, what is
 * mapped page by page goes, so that it comes back as large as the host has it.
 * Compare kvm_arch_commit_memory_region().
 */
export const setDirtyLog = (kvm: Kvm, vm: Vm, slot: MemSlot, on: boolean): void => {
  const { k } = kvm;
  const initiallySet = on && (vm.manualDirtyLog & KVM_DIRTY_LOG_INITIALLY_SET) !== 0;
  setSlotDirtyLog(slot, on, initiallySet);
  if (initiallySet) return;
  const endGpa = slot.gpa + slot.lenBytes;
  const changed = on
    ? gstageWriteProtectRange(k, vm.gstage, slot.gpa, endGpa)
    : gstageUnmapRange(k, vm.gstage, slot.gpa, endGpa);
  if (changed > 0) flushGStageRange(kvm, vm, slot.gpa, endGpa);
};

/** Write-protects the pages of a word's bits. @returns how many could be written to */
const protectBits = (kvm: Kvm, vm: Vm, slot: MemSlot, word: number, bits: number): number => {
  let protectedPages = 0;
  for (let rest = bits; rest !== 0; rest &= rest - 1) {
    const index = word * 32 + (31 - Math.clz32(rest & -rest));
    if (gstageWriteProtect(kvm.k, vm.gstage, slot.gpa + index * PAGE_SIZE)) protectedPages++;
    countVm(vm.stat, 'dirtyPages');
  }
  return protectedPages;
};

/**
 * KVM_GET_DIRTY_LOG: takes the bitmap of a slot and leaves it clean; with manual protection it stays as
 * it is.
 * @returns a bit a page, least significant first; null when the slot does not log
 */
export const harvestDirtyLog = (kvm: Kvm, vm: Vm, slot: MemSlot): Int32Array | null => {
  if (slot.dirty === null) return null;
  const taken = new Int32Array(slot.dirty.length);
  countVm(vm.stat, 'dirtyHarvests');
  if (vm.manualDirtyLog !== 0) {
    for (let word = 0; word < taken.length; word++) taken[word] = readOnce(slot.dirty, word);
    return taken;
  }
  let protectedPages = 0;
  for (let word = 0; word < taken.length; word++) {
    const bits = takeDirtyBits(slot.dirty, word, -1);
    taken[word] = bits;
    if (bits !== 0) protectedPages += protectBits(kvm, vm, slot, word, bits);
  }
  if (protectedPages > 0) flushGStage(kvm, vm);
  return taken;
};

/**
 * KVM_CLEAR_DIRTY_LOG: the pages of these bits are clean again, and their next write is logged.
 * @param firstPage in the slot, a multiple of 64
 * @param nrPages a multiple of 64, unless it reaches the end of the slot
 * @param bitmap bit 0 is firstPage; those that are not dirty are skipped
 * @returns 0; -ENOENT: the slot does not log; -EINVAL
 */
export const clearDirtyLog = (
  kvm: Kvm,
  vm: Vm,
  slot: MemSlot,
  firstPage: number,
  nrPages: number,
  bitmap: Int32Array,
): number => {
  const { dirty } = slot;
  if (dirty === null) return -ENOENT;
  const left = slot.lenBytes / PAGE_SIZE - firstPage;
  if (firstPage % CLEAR_ALIGN !== 0 || left < 0 || nrPages > left) return -EINVAL;
  if (nrPages < left && nrPages % CLEAR_ALIGN !== 0) return -EINVAL;
  let protectedPages = 0;
  for (let i = 0; i * 32 < nrPages; i++) {
    const word = firstPage / 32 + i;
    const within = nrPages - i * 32 >= 32 ? -1 : (1 << (nrPages - i * 32)) - 1;
    const bits = takeDirtyBits(dirty, word, (bitmap[i] ?? 0) & within);
    if (bits !== 0) protectedPages += protectBits(kvm, vm, slot, word, bits);
  }
  if (protectedPages > 0) flushGStage(kvm, vm);
  return 0;
};

/**
 * Puts pages into the dirty log that were written for the guest, past its page tables: by a device
 * that the VMM emulates. Bytes outside the slots are ignored.
 */
export const markGuestDirty = (vm: Vm, gpa: number, lenBytes: number): void => {
  for (let at = gpa - (gpa % PAGE_SIZE); at < gpa + lenBytes; at += PAGE_SIZE) {
    const slot = gpaToMemSlot(vm.slots, at);
    if (slot !== undefined) markPageDirty(slot, at, null);
  }
};

/** Numbers of the pages whose bits are set, ascending. */
export const dirtyPageNumbers = (bitmap: Int32Array): number[] => {
  const pages: number[] = [];
  for (const [word, bits] of bitmap.entries())
    for (let bit = 0; bit < 32; bit++) if ((bits & (1 << bit)) !== 0) pages.push(word * 32 + bit);
  return pages;
};
