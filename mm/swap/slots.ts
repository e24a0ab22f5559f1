/**
 * Slots of the swap device: which are free, how often each is named, and their bytes.
 * Compare mm/swapfile.c.
 *
 * There is one device, without clusters, priorities or bad blocks, and it is never switched off.
 * A count has 31 bits, where Linux continues a full one in pages of its own. Transfers take no time.
 */
import { atomicAdd, mapDelete, mapSet, readOnce, setField, writeOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import { EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';

/** Slot numbers fill the upper 22 bits of an entry (mm/pgtable/swapops.ts). */
const MAX_SLOTS = (1 << 22) - 1;

/**
 * Gives the kernel a swap device of `nrSlots` pages.
 * @returns 0; -EBUSY: there is one already; -EINVAL
 */
export const swapon = (k: Kernel, nrSlots: number): number => {
  const { swap } = k.state;
  if (swap.nrSlots > 0) return -EBUSY;
  if (!Number.isInteger(nrSlots) || nrSlots < 1 || nrSlots > MAX_SLOTS) return -EINVAL;
  setField(swap, 'count', new Int32Array(nrSlots + 1));
  setField(swap, 'nrSlots', nrSlots);
  setField(swap, 'nrFree', nrSlots);
  return 0;
};

/** More than half of the slots are in use: worth giving some back early. Compare vm_swap_full(). */
export const swapFull = (k: Kernel): boolean => k.state.swap.nrFree * 2 < k.state.swap.nrSlots;

/** How often a slot is named, the swap cache included. */
export const swapCount = (k: Kernel, slot: number): number => readOnce(k.state.swap.count, slot);

/**
 * Takes `nr` slots in a row, each named once: by the swap cache, for which they are.
 * @returns the first, or -ENOMEM where no run is that long. Compare folio_alloc_swap()
 */
export const swapAllocSlots = (k: Kernel, nr: number): number => {
  const { swap } = k.state;
  if (swap.nrFree < nr) return -ENOMEM;
  let run = 0;
  for (let looked = 0, slot = swap.next; looked < swap.nrSlots + nr; looked++, slot++) {
    if (slot > swap.nrSlots) {
      slot = 1;
      run = 0;
    }
    run = readOnce(swap.count, slot) === 0 ? run + 1 : 0;
    if (run < nr) continue;
    const first = slot - nr + 1;
    for (let i = first; i <= slot; i++) writeOnce(swap.count, i, 1);
    setField(swap, 'nrFree', swap.nrFree - nr);
    setField(swap, 'next', slot < swap.nrSlots ? slot + 1 : 1);
    return first;
  }
  return -ENOMEM;
};

/**
 * One more names the slot: an entry in fork or in unmapping, a file, or the swap cache when a page is
 * read in. Compare swap_duplicate().
 * @throws Error when nobody names it yet: it may be somebody else's by now
 */
export const swapDuplicate = (k: Kernel, slot: number): void => {
  if (atomicAdd(k.state.swap.count, slot, 1) <= 1)
    throw new Error(`swap slot ${slot}: named again after it was freed`);
};

/** One less names the slot; after the last it is free, and its bytes are gone. Compare swap_free(). */
export const swapFree = (k: Kernel, slot: number): void => {
  const { swap } = k.state;
  const now = atomicAdd(swap.count, slot, -1);
  if (now > 0) return;
  if (now < 0) throw new Error(`swap slot ${slot} freed more often than named`);
  mapDelete(swap.data, slot);
  setField(swap, 'nrFree', swap.nrFree + 1);
};

/** Page -> slot. Compare swap_writeout(). */
export const swapWritePage = (k: Kernel, slot: number, page: number): void => {
  const offset = k.memory.pageOffset(page);
  mapSet(k.state.swap.data, slot, k.memory.u8.slice(offset, offset + PAGE_SIZE));
  countStat(k, 'pswpout');
};

/** What the device has in a slot. @throws Error when nothing was ever written there */
export const swapBytes = (k: Kernel, slot: number): Uint8Array => {
  const bytes = k.state.swap.data.get(slot);
  if (bytes === undefined) throw new Error(`swap slot ${slot} read, and was never written`);
  return bytes;
};

/** Slot -> page. Compare swap_read_folio(). @throws Error when nothing was ever written there */
export const swapReadPage = (k: Kernel, slot: number, page: number): void => {
  k.memory.setBytes(k.memory.pageOffset(page), swapBytes(k, slot));
  countStat(k, 'pswpin');
};
