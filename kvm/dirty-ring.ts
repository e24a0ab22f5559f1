/**
 * The dirty ring: which pages a vCPU has written, in the order of the first writes, as an array that
 * the VMM reads beside the running guest. Compare virt/kvm/dirty_ring.c,
 * Documentation/virt/kvm/api.rst, KVM_CAP_DIRTY_LOG_RING_ACQ_REL.
 *
 *   entry    free -> dirty (kvm, when a page becomes writable) -> harvested (the VMM has read it)
 *                 -> free (kvm, when it is reset: the page is write-protected again)
 *
 * A vCPU whose ring is nearly full comes out with a `dirty-ring` exit and does not run before entries
 * were reset. Who writes for the guest without a vCPU goes to the bitmap of the slot, which is kept
 * beside (KVM_CAP_DIRTY_LOG_RING_WITH_BITMAP).
 */
import { readOnce, setField, smpRmb, smpWmb, writeOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { gstageWriteProtect } from './gstage.ts';
import { type MemSlot, markPageDirtyInSlot, slotLogsDirty } from './memslot.ts';
import { countVm } from './stat.ts';
import { flushGStage } from './tlb.ts';
import type { Kvm, VcpuState, Vm } from './vm.ts';

/** States of an entry, as KVM_DIRTY_GFN_F_* has them. */
const FREE = 0;
const DIRTY = 1;
const HARVESTED = 2;

/** Words of an entry: state, slot, page in the slot. */
const ENTRY_WORDS = 3;
/** Entries kept free for what a vCPU does until it comes out. Compare KVM_DIRTY_RING_RSVD_ENTRIES */
export const DIRTY_RING_RESERVED = 64;
const ENTRIES_MAX = 65536;

/** One vCPU's ring. Plain data. Indexes count up for ever; an entry's place is the index modulo the size. */
export interface DirtyRing {
  nrEntries: number;
  words: Int32Array;
  /** Next entry that kvm fills, that the VMM reads, that kvm frees. Invariant: reset <= fetch <= dirty. */
  dirtyIndex: number;
  fetchIndex: number;
  resetIndex: number;
}

/** @throws RangeError for a size that is no power of two, or too small or large */
export const createDirtyRing = (nrEntries: number): DirtyRing => {
  const powerOfTwo = Number.isInteger(Math.log2(nrEntries));
  if (!powerOfTwo || nrEntries <= DIRTY_RING_RESERVED || nrEntries > ENTRIES_MAX)
    throw new RangeError(`a dirty ring of ${nrEntries} entries`);
  const words = new Int32Array(nrEntries * ENTRY_WORDS);
  return { nrEntries, words, dirtyIndex: 0, fetchIndex: 0, resetIndex: 0 };
};

const entryAt = (ring: DirtyRing, index: number): number => (index % ring.nrEntries) * ENTRY_WORDS;

/** May the vCPU not run before entries were reset? Compare kvm_dirty_ring_soft_full() */
export const dirtyRingFull = (ring: DirtyRing): boolean =>
  ring.dirtyIndex - ring.resetIndex >= ring.nrEntries - DIRTY_RING_RESERVED;

/** @throws Error where a vCPU ran on with a full ring */
const push = (ring: DirtyRing, slot: number, pageInSlot: number): void => {
  const { words } = ring;
  const at = entryAt(ring, ring.dirtyIndex);
  if (readOnce(words, at) !== FREE)
    throw new Error(`dirty ring: entry ${ring.dirtyIndex} is not free`);
  writeOnce(words, at + 1, slot);
  writeOnce(words, at + 2, pageInSlot);
  // Whoever sees the state sees which page it is.
  smpWmb();
  writeOnce(words, at, DIRTY);
  setField(ring, 'dirtyIndex', ring.dirtyIndex + 1);
};

/**
 * A page that is logged is about to become writable, or was written. With the VM's lock held.
 * @param vcpu for whom; null: a device of the VMM, or the hypervisor itself. Compare mark_page_dirty_in_slot()
 */
export const markPageDirty = (slot: MemSlot, gpa: number, vcpu: VcpuState | null): void => {
  if (!slotLogsDirty(slot)) return;
  const ring = vcpu?.dirtyRing ?? null;
  if (ring === null) markPageDirtyInSlot(slot, gpa);
  else push(ring, slot.id, Math.floor((gpa - slot.gpa) / PAGE_SIZE));
};

/**
 * What the VMM does beside the running guest: reads the entries that are dirty.
 * @param visit slot and page in it
 * @returns how many
 */
export const harvestDirtyRing = (
  ring: DirtyRing,
  visit: (slot: number, pageInSlot: number) => void,
): number => {
  const { words } = ring;
  let harvested = 0;
  for (;;) {
    const at = entryAt(ring, ring.fetchIndex);
    if (readOnce(words, at) !== DIRTY) return harvested;
    smpRmb();
    visit(readOnce(words, at + 1), readOnce(words, at + 2));
    smpWmb();
    writeOnce(words, at, HARVESTED);
    setField(ring, 'fetchIndex', ring.fetchIndex + 1);
    harvested++;
  }
};

/**
 * KVM_RESET_DIRTY_RINGS: the pages of harvested entries are write-protected, so that the next write is
 * seen, and the entries are free. To be called before the VMM looks at the pages: a write after that is
 * in a later entry. @returns how many entries
 */
export const resetDirtyRings = (kvm: Kvm, vm: Vm): number => {
  let reset = 0;
  for (const { dirtyRing } of vm.vcpus)
    if (dirtyRing !== null) reset += resetRing(kvm, vm, dirtyRing);
  if (reset > 0) {
    flushGStage(kvm, vm);
    countVm(vm.stat, 'dirtyHarvests');
    countVm(vm.stat, 'dirtyPages', reset);
  }
  return reset;
};

const resetRing = (kvm: Kvm, vm: Vm, ring: DirtyRing): number => {
  const { words } = ring;
  let reset = 0;
  for (;;) {
    const at = entryAt(ring, ring.resetIndex);
    if (readOnce(words, at) !== HARVESTED) return reset;
    const id = readOnce(words, at + 1);
    const slot = vm.slots.find((s) => s.id === id && !s.invalid);
    const offset = readOnce(words, at + 2) * PAGE_SIZE;
    // The slot may have gone, and another of its number come, since the page was written.
    if (slot !== undefined && offset < slot.lenBytes)
      gstageWriteProtect(kvm.k, vm.gstage, slot.gpa + offset);
    writeOnce(words, at, FREE);
    setField(ring, 'resetIndex', ring.resetIndex + 1);
    reset++;
  }
};
