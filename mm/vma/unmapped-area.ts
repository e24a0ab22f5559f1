/** Where a mapping goes. Compare mm/mmap.c:get_unmapped_area(), vm_unmapped_area(). */
import { PAGE_SIZE } from '#emu';
import { EINVAL, ENOMEM } from '../errno.ts';
import { taskSize } from '../pgtable/walk.ts';
import { HPAGE_PMD_SIZE } from '../thp/state.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { vmaIndexAbove } from './vma.ts';

/** Lowest address that may be mapped (vm.mmap_min_addr). */
const MMAP_MIN_HVA = 0x1_0000;
/** Left free below the end of user space, where Linux has the stack. */
const STACK_GAP = 0x800_0000;

/** What is asked for. */
export interface Placement {
  /** Exactly there where it is `fixed`, else a hint; 0: anywhere. */
  hva: number;
  /** Whole pages. */
  lenBytes: number;
  fixed: boolean;
  /** The address is a multiple of that. */
  alignBytes: number;
}

/** `bytes` rounded up to whole units. */
export const roundUp = (bytes: number, unit = PAGE_SIZE): number => Math.ceil(bytes / unit) * unit;

/** True where nothing is mapped in [start, end). */
export const isFree = (mm: MmStruct, start: number, end: number): boolean => {
  const vma = mm.vmas[vmaIndexAbove(mm, start)];
  return vma === undefined || vma.start >= end;
};

/** The highest gap that is large enough, top-down. @returns hva or -ENOMEM */
const findGap = (k: Kernel, mm: MmStruct, lenBytes: number, alignBytes: number): number => {
  let top = taskSize(k) - STACK_GAP;
  for (let i = mm.vmas.length - 1; i >= -1; i--) {
    const vma = mm.vmas[i];
    const below = vma === undefined ? MMAP_MIN_HVA : vma.end;
    const hva = top - lenBytes;
    const aligned = hva - (hva % alignBytes);
    if (aligned >= below) return aligned;
    if (vma !== undefined) top = Math.min(top, vma.start);
  }
  return -ENOMEM;
};

/** Where there may be huge pages, what is a multiple of their size begins at one. Compare thp_get_unmapped_area(). */
const thpAlign = (k: Kernel, lenBytes: number): number => {
  const { always, madvise } = k.state.thp;
  return (always | madvise) !== 0 && lenBytes % HPAGE_PMD_SIZE === 0 ? HPAGE_PMD_SIZE : PAGE_SIZE;
};

/**
 * The address for a mapping: the one that is asked for, or a free one.
 * @returns hva; -ENOMEM: no room, or not an address to be mapped; -EINVAL: not aligned
 */
export const pickHva = (k: Kernel, mm: MmStruct, where: Placement): number => {
  const { hva, lenBytes, alignBytes } = where;
  if (where.fixed) {
    if (hva % alignBytes !== 0) return -EINVAL;
    return hva < MMAP_MIN_HVA || hva + lenBytes > taskSize(k) ? -ENOMEM : hva;
  }
  const hint = roundUp(hva, alignBytes);
  const fits = hint >= MMAP_MIN_HVA && hint + lenBytes <= taskSize(k);
  if (fits && isFree(mm, hint, hint + lenBytes)) return hint;
  return findGap(k, mm, lenBytes, Math.max(alignBytes, thpAlign(k, lenBytes)));
};
