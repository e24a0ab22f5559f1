/**
 * Memory slots: which ranges of guest-physical memory stand for which ranges of the VMM's address
 * space, and the dirty bitmap of each.
 *
 * Compare include/linux/kvm_host.h (struct kvm_memory_slot) and virt/kvm/kvm_main.c. Plain data.
 * Left out: slots in more than one address space. How they change under a running guest: memory-region.ts.
 */
import { fetchAndNot, fetchOr, listInsert, readOnce, setField } from '#cells';
import { PAGE_MASK, PAGE_SHIFT, PAGE_SIZE } from '#emu';

/** Flags of a slot, as KVM_SET_USER_MEMORY_REGION has them. */
export const KVM_MEM_LOG_DIRTY_PAGES = 1 << 0;
export const KVM_MEM_READONLY = 1 << 1;

/** One slot. Invariant: page-aligned, not overlapping another slot of the VM. */
export interface MemSlot {
  id: number;
  /** First gpa, and bytes. */
  gpa: number;
  lenBytes: number;
  /** hva of the first byte, in the VM's mm. */
  hva: number;
  flags: number;
  /** Is about to be deleted or moved: no entry may be made any more (KVM_MEMSLOT_INVALID). */
  invalid: boolean;
  /** One bit a page, least significant first; null unless KVM_MEM_LOG_DIRTY_PAGES, and with a dirty ring alone. */
  dirty: Int32Array | null;
  /** The guest_memfd that pages of it come from; null: all come from the hva. */
  gmem: SlotGmem | null;
}

/** A slot's part of a guest_memfd (gmem.ts). Plain data. */
export interface SlotGmem {
  /** Id of the file; 0: it is gone. */
  fileId: number;
  /** Page of the file that the slot begins with. */
  pgoff: number;
  /** A bit for each page that comes from the file, least significant first; null: all of them do. */
  private: Int32Array | null;
}

/** What a VMM says of a slot. */
export type MemSlotConfig = Pick<MemSlot, 'id' | 'gpa' | 'lenBytes' | 'hva'> & { flags?: number };

/** A clean bitmap for so many bytes. */
const bitmapOf = (lenBytes: number): Int32Array =>
  new Int32Array(Math.ceil(lenBytes / PAGE_SIZE / 32));

/**
 * Adds a slot, in order of gpa.
 * @param gpaLimit first gpa that the G-stage tables cannot translate
 * @throws RangeError when it is not page-aligned, empty, too high, or meets another slot
 */
export const addMemSlot = (slots: MemSlot[], config: MemSlotConfig, gpaLimit: number): MemSlot => {
  const { id, gpa, lenBytes, hva } = config;
  const flags = config.flags ?? 0;
  const where = `memory slot ${id} at gpa 0x${gpa.toString(16)}`;
  if (lenBytes <= 0 || ((gpa % PAGE_SIZE) | (lenBytes % PAGE_SIZE) | (hva & PAGE_MASK)) !== 0)
    throw new RangeError(
      `${where}: ${lenBytes} bytes at hva 0x${hva.toString(16)}: not page-aligned`,
    );
  if (gpa + lenBytes > gpaLimit)
    throw new RangeError(`${where}: ends above 0x${gpaLimit.toString(16)}`);
  for (const other of slots)
    if (other.id === id || (gpa < other.gpa + other.lenBytes && other.gpa < gpa + lenBytes))
      throw new RangeError(`${where}: meets slot ${other.id}`);
  const dirty = (flags & KVM_MEM_LOG_DIRTY_PAGES) !== 0 ? bitmapOf(lenBytes) : null;
  const slot: MemSlot = { id, gpa, lenBytes, hva, flags, invalid: false, dirty, gmem: null };
  insertMemSlot(slots, slot);
  return slot;
};

/** Puts a slot in its place by gpa. It meets no other. */
export const insertMemSlot = (slots: MemSlot[], slot: MemSlot): void => {
  const at = slots.findIndex((s) => s.gpa > slot.gpa);
  listInsert(slots, at < 0 ? slots.length : at, slot);
};

/** The slot that holds this gpa, also one that is about to go; or undefined. For faults, which wait then. */
export const slotAt = (slots: readonly MemSlot[], gpa: number): MemSlot | undefined => {
  for (const slot of slots) if (gpa >= slot.gpa && gpa < slot.gpa + slot.lenBytes) return slot;
  return undefined;
};

/** The slot that holds this gpa and stays, or undefined. */
export const gpaToMemSlot = (slots: readonly MemSlot[], gpa: number): MemSlot | undefined => {
  const slot = slotAt(slots, gpa);
  return slot?.invalid === true ? undefined : slot;
};

export const gpaToHva = (slot: MemSlot, gpa: number): number => slot.hva + (gpa - slot.gpa);

/** Number of a page in its slot. */
export const slotPageIndex = (slot: MemSlot, gpa: number): number =>
  Math.floor((gpa - slot.gpa) / PAGE_SIZE);

/** Does the page at `gpa` come from the slot's file, and not from its hva? */
export const slotPageOfFile = (slot: MemSlot, gpa: number): boolean => {
  if (slot.gmem === null) return false;
  if (slot.gmem.private === null) return true;
  const index = slotPageIndex(slot, gpa);
  return (readOnce(slot.gmem.private, index >>> 5) & (1 << (index & 31))) !== 0;
};

export const slotReadOnly = (slot: MemSlot): boolean => (slot.flags & KVM_MEM_READONLY) !== 0;

/** Is every write to the slot to be logged? Compare kvm_slot_dirty_track_enabled(). */
export const slotLogsDirty = (slot: MemSlot): boolean =>
  (slot.flags & (KVM_MEM_LOG_DIRTY_PAGES | KVM_MEM_READONLY)) === KVM_MEM_LOG_DIRTY_PAGES;

/**
 * Turns the log on, all clean, or off. The caller write-protects what is mapped.
 * @param initiallySet all dirty instead: the first harvest says so of every page
 */
export const setSlotDirtyLog = (slot: MemSlot, on: boolean, initiallySet = false): void => {
  const others = slot.flags & ~KVM_MEM_LOG_DIRTY_PAGES;
  setField(slot, 'flags', on ? others | KVM_MEM_LOG_DIRTY_PAGES : others);
  const bitmap = on ? bitmapOf(slot.lenBytes) : null;
  if (initiallySet) bitmap?.fill(-1);
  setField(slot, 'dirty', bitmap);
};

/**
 * Sets the dirty bit of a page, where the slot logs. With the VM's lock held.
 * @returns true when the bit was clear before. Compare mark_page_dirty_in_slot()
 */
export const markPageDirtyInSlot = (slot: MemSlot, gpa: number): boolean => {
  if (slot.dirty === null) return false;
  const index = (gpa - slot.gpa) >>> PAGE_SHIFT;
  const bit = 1 << (index & 31);
  return (fetchOr(slot.dirty, index >>> 5, bit) & bit) === 0;
};

/** Takes bits out of one word of the bitmap. @returns those of them that were set */
export const takeDirtyBits = (dirty: Int32Array, word: number, mask: number): number => {
  if ((readOnce(dirty, word) & mask) === 0) return 0;
  return fetchAndNot(dirty, word, mask) & mask;
};
