/**
 * The list of an address space's VMAs: finding, linking, splitting, merging. Compare mm/vma.c.
 *
 * A sorted array (Linux has a maple tree); whoever changes it holds mmap_lock for writing.
 */
import { PAGE_SIZE } from '#emu';
import { listInsert, listPush, listRemoveAt, setField } from '#cells';
import { EINVAL } from '../errno.ts';
import { mappingLink, mappingUnlink } from '../fs/mapping.ts';
import { hugetlbVmaClose, hugetlbVmaOpen } from '../hugetlb/resv.ts';
import { vmaMaySplit } from '../hugetlb/vma.ts';
import type { Path } from '../path.ts';
import { anonVmaClone, unlinkAnonVmas } from '../rmap/anon-vma.ts';
import { splitHugePmdAcross } from '../thp/split-pmd.ts';
import type { AddressSpace, Kernel, MmStruct, Vma } from '../types.ts';
import { VM_SOFTDIRTY, VM_SPECIAL } from './flags.ts';

/** Index of the first VMA that ends above `hva`; the list's length without one. Compare find_vma(). */
export const vmaIndexAbove = (mm: MmStruct, hva: number): number => {
  const { vmas } = mm;
  let low = 0;
  let high = vmas.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const vma = vmas[middle];
    if (vma !== undefined && vma.end > hva) high = middle;
    else low = middle + 1;
  }
  return low;
};

/** The VMA that contains `hva`, or null. Compare vma_lookup(). */
export const findVma = (mm: MmStruct, hva: number): Vma | null => {
  const vma = mm.vmas[vmaIndexAbove(mm, hva)];
  return vma !== undefined && vma.start <= hva ? vma : null;
};

/** A record that is in no list yet. */
export const vmaAlloc = (
  mm: MmStruct,
  start: number,
  end: number,
  flags: number,
  mapping: AddressSpace | null,
  pgoff: number,
): Vma => ({
  mm,
  start,
  end,
  flags,
  pgoff,
  mapping,
  anonVma: null,
  anonChain: [],
  resv: null,
  resvUnmapped: false,
});

/** Puts a VMA into its address space, and its file's list. @throws Error where it overlaps another */
export const vmaLink = (vma: Vma): void => {
  const { mm } = vma;
  const i = vmaIndexAbove(mm, vma.start);
  const above = mm.vmas[i];
  if (vma.start >= vma.end || (above !== undefined && above.start < vma.end))
    throw new Error(`mm ${mm.id}: [${vma.start}, ${vma.end}) is empty or overlaps`);
  listInsert(mm.vmas, i, vma);
  if (vma.mapping !== null) mappingLink(vma.mapping, vma);
};

/** Takes VMA number `i` out of the address space. The rmap still finds it until vmaFree. */
export const vmaDetach = (mm: MmStruct, i: number): void => {
  listRemoveAt(mm.vmas, i);
};

/** The last of a VMA, nothing of which is mapped: out of every anon_vma and its file. */
export function* vmaFree(k: Kernel, vma: Vma): Path<void> {
  unlinkAnonVmas(k, vma);
  hugetlbVmaClose(k, vma);
  if (vma.mapping !== null) yield* mappingUnlink(k, vma.mapping, vma);
}

const pgoffAt = (vma: Vma, hva: number): number => vma.pgoff + (hva - vma.start) / PAGE_SIZE;

/** Splits a VMA at `hva`, strictly inside of it: it keeps the lower part. @returns the upper part */
export const splitVma = (k: Kernel, vma: Vma, hva: number): Vma => {
  splitHugePmdAcross(k, vma, hva);
  const { mm } = vma;
  const upper = vmaAlloc(mm, hva, vma.end, vma.flags, vma.mapping, pgoffAt(vma, hva));
  hugetlbVmaOpen(upper, vma);
  setField(vma, 'end', hva);
  vmaLink(upper);
  anonVmaClone(upper, vma);
  return upper;
};

/**
 * Splits so that no VMA straddles `start` or `end`.
 * @returns index of the first VMA above `start`; -EINVAL with nothing done: that would cut a huge page
 */
export const isolateRange = (k: Kernel, mm: MmStruct, start: number, end: number): number => {
  const first = findVma(mm, start);
  const cutsFirst = first !== null && first.start < start;
  if (cutsFirst && vmaMaySplit(first, start) !== 0) return -EINVAL;
  const last = findVma(mm, end);
  if (last !== null && last.start < end && vmaMaySplit(last, end) !== 0) return -EINVAL;
  if (cutsFirst) splitVma(k, first, start);
  const above = findVma(mm, end);
  if (above !== null && above.start < end) splitVma(k, above, end);
  return vmaIndexAbove(mm, start);
};

/** Flags that neighbours may differ in and still be merged: what has them makes the whole have them. */
const VM_STICKY = VM_SOFTDIRTY;

/**
 * May the two be one? Same flags and file, offsets that continue, and anon_vmas that are the same,
 * or one of them has none and the other a single one. Compare can_vma_merge_after().
 */
const canMerge = (low: Vma, high: Vma): boolean => {
  if (low.end !== high.start || low.mapping !== high.mapping) return false;
  if (((low.flags ^ high.flags) & ~VM_STICKY) !== 0 || (low.flags & VM_SPECIAL) !== 0) return false;
  if (high.pgoff !== pgoffAt(low, high.start)) return false;
  if (low.anonVma === high.anonVma) return true;
  if (low.anonVma === null) return high.anonChain.length === 1;
  return high.anonVma === null && low.anonChain.length === 1;
};

/** Merges VMA number `i` with its neighbours where they allow it. */
export function* mergeAround(k: Kernel, mm: MmStruct, i: number): Path<void> {
  yield* mergeWithNext(k, mm, i);
  yield* mergeWithNext(k, mm, i - 1);
}

function* mergeWithNext(k: Kernel, mm: MmStruct, i: number): Path<void> {
  const low = mm.vmas[i];
  const high = mm.vmas[i + 1];
  if (low === undefined || high === undefined || !canMerge(low, high)) return;
  if (low.anonVma === null && high.anonVma !== null) anonVmaClone(low, high);
  vmaDetach(mm, i + 1);
  setField(low, 'end', high.end);
  setField(low, 'flags', low.flags | (high.flags & VM_STICKY));
  yield* vmaFree(k, high);
}

/**
 * Gives [start, end), which one VMA contains, other flags: it is split, and merged, as that asks for.
 * @returns 0, or -EINVAL with nothing done: that would cut a huge page. Compare vma_modify_flags()
 */
export function* modifyFlags(
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  flags: number,
): Path<number> {
  if (findVma(mm, start)?.flags === flags) return 0;
  const i = isolateRange(k, mm, start, end);
  if (i < 0) return i;
  const vma = mm.vmas[i];
  if (vma === undefined) throw new Error(`mm ${mm.id}: no VMA at hva ${start}`);
  setField(vma, 'flags', flags);
  yield* mergeAround(k, mm, i);
  return 0;
}

/** Adds a VMA that was made by hand to the list of a new address space. For fork. */
export const vmaAppend = (vma: Vma): void => {
  listPush(vma.mm.vmas, vma);
  if (vma.mapping !== null) mappingLink(vma.mapping, vma);
};
