/** memfd_create() and file sealing. Compare mm/memfd.c. */
import { PAGE_SHIFT } from '#emu';
import { setField } from '#cells';
import { EBUSY, EINVAL, EPERM } from '../errno.ts';
import { folioMapcount, folioNrPages, folioOf, folioRefCount } from '../folio/folio.ts';
import { hugetlbFileSetup } from '../hugetlb/file.ts';
import { HUGETLB_ORDER_2M } from '../hugetlb/state.ts';
import { type Path, YP_SEAL_WAIT } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { MAP_HUGE_MASK, MAP_HUGE_SHIFT, VM_MAYWRITE, VM_SHARED } from '../vma/flags.ts';
import {
  F_ALL_SEALS,
  F_SEAL_EXEC,
  F_SEAL_FUTURE_WRITE,
  F_SEAL_GROW,
  F_SEAL_SEAL,
  F_SEAL_SHRINK,
  F_SEAL_WRITE,
} from './seals.ts';
import { shmemCreate } from './shmem.ts';

/** Flags of memfd_create(), with Linux's values (include/uapi/linux/memfd.h). */
export const MFD_CLOEXEC = 0x1;
export const MFD_ALLOW_SEALING = 0x2;
export const MFD_HUGETLB = 0x4;
export const MFD_NOEXEC_SEAL = 0x8;
export const MFD_EXEC = 0x10;
/** Log2 of the bytes of its pages, with MFD_HUGETLB: shifted as MAP_HUGE_SHIFT. */
const MFD_HUGE_BITS = MAP_HUGE_MASK << MAP_HUGE_SHIFT;
const MFD_ALL_FLAGS = MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_NOEXEC_SEAL | MFD_EXEC;

/**
 * An unnamed file in memory, of `nrPages` pages at once: Linux has ftruncate() for that.
 * @param flags MFD_*
 * @returns the file, whose first user the caller is; -EINVAL
 */
export const memfdCreate = (k: Kernel, nrPages: number, flags: number): AddressSpace | number => {
  const huge = (flags & MFD_HUGETLB) !== 0;
  if ((flags & ~(huge ? MFD_ALL_FLAGS | MFD_HUGE_BITS : MFD_ALL_FLAGS)) !== 0) return -EINVAL;
  if ((flags & MFD_EXEC) !== 0 && (flags & MFD_NOEXEC_SEAL) !== 0) return -EINVAL;
  const log = (flags >>> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
  const order = log === 0 ? HUGETLB_ORDER_2M : log - PAGE_SHIFT;
  const mapping = huge ? hugetlbFileSetup(k, order, nrPages) : shmemCreate(k, nrPages);
  if (typeof mapping === 'number') return mapping;
  if ((flags & MFD_NOEXEC_SEAL) !== 0) setField(mapping, 'seals', F_SEAL_EXEC);
  else if ((flags & MFD_ALLOW_SEALING) !== 0) setField(mapping, 'seals', 0);
  return mapping;
};

/** F_GET_SEALS. @returns F_SEAL_*, or -EINVAL for a file that has none */
export const memfdGetSeals = (mapping: AddressSpace): number =>
  mapping.kind === 'shmem' || mapping.kind === 'hugetlbfs' ? mapping.seals : -EINVAL;

/** Shared mappings that can write, or could by an mprotect(). Compare mapping_deny_writable(). */
const hasWritableMapping = (mapping: AddressSpace): boolean =>
  mapping.vmas.some((vma) => (vma.flags & VM_SHARED) !== 0 && (vma.flags & VM_MAYWRITE) !== 0);

/** References to a folio of a file that neither the page cache nor an entry has: pins, DMA under way. */
const hasExtraRefs = (k: Kernel, mapping: AddressSpace, folio: number): boolean => {
  const cache = mapping.kind === 'hugetlbfs' ? 1 : folioNrPages(k, folio);
  return folioRefCount(k, folio) !== cache + folioMapcount(k, folio);
};

/** Looks at the pages after the first, each later one after a longer wait: 150 ms in all. */
const LAST_SCAN = 4;

/**
 * Waits a while for whoever holds references to pages of the file: a device may be about to write.
 * @returns 0, or -EBUSY: somebody still does. Compare memfd_wait_for_pins()
 */
function* waitForPins(k: Kernel, mapping: AddressSpace): Path<number> {
  let held = [...mapping.pages.values()].map((page) => folioOf(k, page));
  for (let scan = 0; ; scan++) {
    held = held.filter((folio) => hasExtraRefs(k, mapping, folio));
    if (held.length === 0) return 0;
    if (scan > LAST_SCAN) return -EBUSY;
    if (k.watched) yield YP_SEAL_WAIT;
  }
}

/**
 * F_ADD_SEALS: takes away for good what may be done to the file. F_SEAL_EXEC of a file that may be
 * executed takes writing and resizing away with it.
 * @param seals F_SEAL_*
 * @returns 0; -EPERM sealed against that; -EINVAL; -EBUSY F_SEAL_WRITE while a shared mapping may
 *   write, or somebody holds references to pages
 */
export function* memfdAddSeals(k: Kernel, mapping: AddressSpace, seals: number): Path<number> {
  if ((seals & ~F_ALL_SEALS) !== 0) return -EINVAL;
  const old = memfdGetSeals(mapping);
  if (old < 0) return old;
  if ((old & F_SEAL_SEAL) !== 0) return -EPERM;
  let added = seals;
  if ((seals & F_SEAL_EXEC) !== 0 && (old & F_SEAL_EXEC) === 0)
    added |= F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE | F_SEAL_FUTURE_WRITE;
  if ((added & F_SEAL_WRITE) !== 0 && (old & F_SEAL_WRITE) === 0) {
    if (hasWritableMapping(mapping)) return -EBUSY;
    // From here on no new mapping may write, so that nobody joins those who are waited for.
    setField(mapping, 'seals', old | F_SEAL_FUTURE_WRITE);
    const error = yield* waitForPins(k, mapping);
    if (error !== 0) {
      setField(mapping, 'seals', mapping.seals & ~(F_SEAL_FUTURE_WRITE & ~old));
      return error;
    }
    if ((old & F_SEAL_FUTURE_WRITE) === 0)
      setField(mapping, 'seals', mapping.seals & ~F_SEAL_FUTURE_WRITE);
  }
  setField(mapping, 'seals', mapping.seals | added);
  return 0;
}
