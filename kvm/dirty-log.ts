/**
 * The dirty log: which pages the guest has written since it was last asked.
 *
 * Compare virt/kvm/kvm_main.c:kvm_get_dirty_log_protect(): each word is taken and its pages are
 * write-protected under the lock, then the TLBs are flushed, so a write is in this harvest or the next.
 */
import { PAGE_SIZE } from '#emu';
import { gstageWriteProtect } from './gstage.ts';
import { gpaToMemSlot, markPageDirtyInSlot, type MemSlot, takeDirtyWord } from './memslot.ts';
import { countVm } from './stat.ts';
import { flushGStage } from './tlb.ts';
import type { Kvm, Vm } from './vm.ts';

/**
 * Takes the bitmap of a slot and leaves it clean.
 * @returns a bit a page, least significant first; null when the slot does not log
 */
export const harvestDirtyLog = (kvm: Kvm, vm: Vm, slot: MemSlot): Int32Array | null => {
  if (slot.dirty === null) return null;
  const taken = new Int32Array(slot.dirty.length);
  let protectedPages = 0;
  for (let word = 0; word < taken.length; word++) {
    const bits = takeDirtyWord(slot.dirty, word);
    taken[word] = bits;
    for (let rest = bits; rest !== 0; rest &= rest - 1) {
      const index = word * 32 + (31 - Math.clz32(rest & -rest));
      if (gstageWriteProtect(kvm.k, vm.gstage, slot.gpa + index * PAGE_SIZE)) protectedPages++;
      countVm(vm.stat, 'dirtyPages');
    }
  }
  if (protectedPages > 0) flushGStage(kvm, vm);
  countVm(vm.stat, 'dirtyHarvests');
  return taken;
};

/**
 * Puts pages into the dirty log that were written for the guest, past its page tables: by a device
 * that the VMM emulates. Bytes outside the slots are ignored.
 */
export const markGuestDirty = (vm: Vm, gpa: number, lenBytes: number): void => {
  for (let at = gpa - (gpa % PAGE_SIZE); at < gpa + lenBytes; at += PAGE_SIZE) {
    const slot = gpaToMemSlot(vm.slots, at);
    if (slot !== undefined) markPageDirtyInSlot(slot, at);
  }
};

/** Numbers of the pages whose bits are set, ascending. */
export const dirtyPageNumbers = (bitmap: Int32Array): number[] => {
  const pages: number[] = [];
  for (const [word, bits] of bitmap.entries())
    for (let bit = 0; bit < 32; bit++) if ((bits & (1 << bit)) !== 0) pages.push(word * 32 + bit);
  return pages;
};
