/** mmap() and munmap(). Compare mm/mmap.c:do_mmap(), mm/vma.c:do_vmi_align_munmap(). */
import { PAGE_SIZE } from '#emu';
import { EEXIST, EINVAL, ENOMEM } from '../errno.ts';
import { mappingPut } from '../fs/mapping.ts';
import { shmemCreate } from '../fs/shmem.ts';
import type { Path } from '../path.ts';
import { freePgtables, taskSize } from '../pgtable/walk.ts';
import {
  type AddressSpace,
  type Kernel,
  MMU_NOTIFY_UNMAP,
  type MmStruct,
  type Vma,
} from '../types.ts';
import {
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_FIXED_NOREPLACE,
  MAP_PRIVATE,
  MAP_SHARED,
  VM_ACCESS_FLAGS,
  VM_MAYEXEC,
  VM_MAYREAD,
  VM_MAYSHARE,
  VM_MAYWRITE,
  VM_SHARED,
  VM_SOFTDIRTY,
} from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import {
  isolateRange,
  mergeAround,
  vmaAlloc,
  vmaDetach,
  vmaFree,
  vmaIndexAbove,
  vmaLink,
} from './vma.ts';
import { zapRange } from './zap.ts';

/** Lowest address that may be mapped (vm.mmap_min_addr). */
const MMAP_MIN_HVA = 0x1_0000;
/** Left free below the end of user space, where Linux has the stack. */
const STACK_GAP = 0x800_0000;
/** No VMA is larger: the frame table keeps offsets in pages modulo 1 << 32 (rmap.ts). */
const VMA_MAX_BYTES = 2 ** 42;

export interface MmapRequest {
  /** Where; a hint unless MAP_FIXED. 0 or left out: anywhere. */
  hva?: number;
  lenBytes: number;
  /** PROT_*. */
  prot: number;
  /** MAP_*: one of SHARED and PRIVATE; ANONYMOUS exactly when there is no mapping. */
  flags: number;
  /** File to map, and the offset in it, in pages. */
  mapping?: AddressSpace;
  pgoff?: number;
}

const roundUp = (lenBytes: number): number => Math.ceil(lenBytes / PAGE_SIZE) * PAGE_SIZE;

const checkRequest = (k: Kernel, request: MmapRequest): number => {
  const { hva = 0, lenBytes, flags, mapping, pgoff = 0 } = request;
  const share = flags & (MAP_SHARED | MAP_PRIVATE);
  if (lenBytes <= 0 || (share !== MAP_SHARED && share !== MAP_PRIVATE)) return -EINVAL;
  if ((mapping === undefined) !== ((flags & MAP_ANONYMOUS) !== 0)) return -EINVAL;
  if (pgoff < 0 || !Number.isInteger(pgoff)) return -EINVAL;
  if (lenBytes > Math.min(VMA_MAX_BYTES, taskSize(k))) return -ENOMEM;
  if ((flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) === 0) return 0;
  if (hva % PAGE_SIZE !== 0) return -EINVAL;
  if (hva < MMAP_MIN_HVA || hva + roundUp(lenBytes) > taskSize(k)) return -ENOMEM;
  return 0;
};

/** True where nothing is mapped in [start, end). */
const isFree = (mm: MmStruct, start: number, end: number): boolean => {
  const vma = mm.vmas[vmaIndexAbove(mm, start)];
  return vma === undefined || vma.start >= end;
};

/** The highest gap that is large enough. Compare vm_unmapped_area() top-down. @returns hva or -ENOMEM */
const findGap = (k: Kernel, mm: MmStruct, lenBytes: number): number => {
  let top = taskSize(k) - STACK_GAP;
  for (let i = mm.vmas.length - 1; i >= -1; i--) {
    const vma = mm.vmas[i];
    const below = vma === undefined ? MMAP_MIN_HVA : vma.end;
    if (top - below >= lenBytes) return top - lenBytes;
    if (vma !== undefined) top = Math.min(top, vma.start);
  }
  return -ENOMEM;
};

const pickHva = (k: Kernel, mm: MmStruct, request: MmapRequest, lenBytes: number): number => {
  const { hva = 0, flags } = request;
  if ((flags & MAP_FIXED_NOREPLACE) !== 0) return isFree(mm, hva, hva + lenBytes) ? hva : -EEXIST;
  if ((flags & MAP_FIXED) !== 0) return hva;
  const hint = roundUp(hva);
  const fits = hint >= MMAP_MIN_HVA && hint + lenBytes <= taskSize(k);
  if (fits && isFree(mm, hint, hint + lenBytes)) return hint;
  return findGap(k, mm, lenBytes);
};

/**
 * Maps memory or a file. Nothing is faulted in.
 * @returns hva of the mapping; -EINVAL, -ENOMEM, -EEXIST (MAP_FIXED_NOREPLACE)
 */
export function* mmap(k: Kernel, mm: MmStruct, request: MmapRequest): Path<number> {
  const error = checkRequest(k, request);
  if (error !== 0) return error;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const hva = yield* mmapLocked(k, mm, request);
  mmapWriteUnlock(mm);
  return hva;
}

function* mmapLocked(k: Kernel, mm: MmStruct, request: MmapRequest): Path<number> {
  const { prot, flags } = request;
  const lenBytes = roundUp(request.lenBytes);
  const hva = pickHva(k, mm, request, lenBytes);
  if (hva < 0) return hva;
  yield* munmapLocked(k, mm, hva, hva + lenBytes);
  const shared = (flags & MAP_SHARED) !== 0;
  const vmFlags =
    (prot & VM_ACCESS_FLAGS) |
    (VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_SOFTDIRTY) |
    (shared ? VM_SHARED | VM_MAYSHARE : 0);
  let mapping = request.mapping ?? null;
  let pgoff = request.pgoff ?? 0;
  if (mapping === null) {
    // Shared anonymous memory is an unnamed file; private has offsets that let neighbours merge.
    if (shared) mapping = shmemCreate(k, lenBytes / PAGE_SIZE);
    else pgoff = hva / PAGE_SIZE;
  }
  vmaLink(vmaAlloc(mm, hva, hva + lenBytes, vmFlags, mapping, pgoff));
  if (mapping !== null && request.mapping === undefined) yield* mappingPut(k, mapping);
  yield* mergeAround(k, mm, vmaIndexAbove(mm, hva));
  return hva;
}

/**
 * Unmaps whatever is mapped in [hva, hva + lenBytes); holes are no error.
 * @returns 0 or -EINVAL
 */
export function* munmap(k: Kernel, mm: MmStruct, hva: number, lenBytes: number): Path<number> {
  if (hva % PAGE_SIZE !== 0 || lenBytes <= 0) return -EINVAL;
  if (hva < 0 || hva + roundUp(lenBytes) > taskSize(k)) return -EINVAL;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  yield* munmapLocked(k, mm, hva, hva + roundUp(lenBytes));
  mmapWriteUnlock(mm);
  return 0;
}

/** The same under the lock: VMAs first, then what they mapped, then the tables. */
function* munmapLocked(k: Kernel, mm: MmStruct, start: number, end: number): Path<void> {
  if (isFree(mm, start, end)) return;
  const first = isolateRange(k, mm, start, end);
  const detached: Vma[] = [];
  for (let vma = mm.vmas[first]; vma !== undefined && vma.start < end; vma = mm.vmas[first]) {
    vmaDetach(mm, first);
    detached.push(vma);
  }
  for (const vma of detached) yield* zapRange(k, vma, vma.start, vma.end, MMU_NOTIFY_UNMAP);
  const floor = mm.vmas[first - 1]?.end ?? 0;
  const ceiling = mm.vmas[first]?.start ?? taskSize(k);
  freePgtables(k, mm, start, end, floor, ceiling);
  for (const vma of detached) yield* vmaFree(k, vma);
}
