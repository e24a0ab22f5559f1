/** mmap() and munmap(). Compare mm/mmap.c:do_mmap(), mm/vma.c:do_vmi_align_munmap(). */
import { PAGE_SHIFT, PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { EAGAIN, EEXIST, EINVAL, ENOMEM, EPERM } from '../errno.ts';
import { mappingAlignBytes } from '../fs/dax/device-dax.ts';
import { deviceMmap } from '../fs/device.ts';
import { guestMemfdMmap } from '../fs/guestmemfd.ts';
import { mappingPut } from '../fs/mapping.ts';
import { F_SEAL_FUTURE_WRITE, F_SEAL_WRITE } from '../fs/seals.ts';
import { shmemCreate } from '../fs/shmem.ts';
import { tracksDirty } from '../gup/vma-check.ts';
import { hugetlbFileSetup } from '../hugetlb/file.ts';
import { hugetlbReservePages } from '../hugetlb/resv.ts';
import { HUGETLB_ORDER_2M } from '../hugetlb/state.ts';
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
  MAP_HUGE_MASK,
  MAP_HUGE_SHIFT,
  MAP_HUGETLB,
  MAP_LOCKED,
  MAP_NORESERVE,
  MAP_POPULATE,
  MAP_PRIVATE,
  MAP_SHARED,
  VM_ACCESS_FLAGS,
  VM_DONTEXPAND,
  VM_HUGETLB,
  VM_LOCKED,
  VM_MAYEXEC,
  VM_MAYREAD,
  VM_MAYSHARE,
  VM_MAYWRITE,
  VM_NORESERVE,
  VM_SHARED,
  VM_SOFTDIRTY,
  VM_WRITE,
  VM_WRITENOTIFY,
} from './flags.ts';
import { mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from './lock.ts';
import { accountLocked, canDoMlock, mlockFutureOk, vmaSupportsMlock } from './mlock.ts';
import { mmPopulate } from './populate.ts';
import { isFree, pickHva, roundUp } from './unmapped-area.ts';
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

/** A request that has been looked through. */
interface Plan {
  hva: number;
  /** Whole pages, of hugetlb whole huge pages. */
  lenBytes: number;
  vmFlags: number;
  mapping: AddressSpace | null;
  pgoff: number;
  /** log2 of the pages of one entry: 9 and 18 of hugetlb, else 0. */
  order: number;
}

const checkRequest = (k: Kernel, request: MmapRequest): number => {
  const { hva = 0, lenBytes, flags, mapping, pgoff = 0 } = request;
  const share = flags & (MAP_SHARED | MAP_PRIVATE);
  if (lenBytes <= 0 || (share !== MAP_SHARED && share !== MAP_PRIVATE)) return -EINVAL;
  if ((mapping === undefined) !== ((flags & MAP_ANONYMOUS) !== 0)) return -EINVAL;
  if (pgoff < 0 || !Number.isInteger(pgoff)) return -EINVAL;
  if (lenBytes > Math.min(VMA_MAX_BYTES, taskSize(k))) return -ENOMEM;
  const fixed = (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0;
  return fixed && hva % PAGE_SIZE !== 0 ? -EINVAL : 0;
};

/** Order of the pool's pages that the request wants; 0: ordinary memory; -EINVAL. */
const hugetlbOrder = ({ flags, mapping }: MmapRequest): number => {
  if (mapping !== undefined) {
    if (mapping.kind === 'hugetlbfs') return mapping.hugeOrder;
    return (flags & MAP_HUGETLB) !== 0 ? -EINVAL : 0;
  }
  if ((flags & MAP_HUGETLB) === 0) return 0;
  const log2 = (flags >>> MAP_HUGE_SHIFT) & MAP_HUGE_MASK;
  if (log2 === 0) return HUGETLB_ORDER_2M;
  return 2 ** log2 > PAGE_SIZE ? log2 - PAGE_SHIFT : -EINVAL;
};

/** VM_* of a new mapping. It is new: all of it counts as written. */
const vmFlagsOf = (prot: number, flags: number): number => {
  let vmFlags = (prot & VM_ACCESS_FLAGS) | VM_MAYREAD | VM_MAYWRITE | VM_MAYEXEC | VM_SOFTDIRTY;
  if ((flags & MAP_SHARED) !== 0) vmFlags |= VM_SHARED | VM_MAYSHARE;
  if ((flags & MAP_LOCKED) !== 0) vmFlags |= VM_LOCKED;
  if ((flags & MAP_NORESERVE) !== 0) vmFlags |= VM_NORESERVE;
  return vmFlags;
};

/** What a file allows, and makes of the flags. @returns 0, -EPERM: sealed, -EINVAL, -ENODEV: no mappings at all */
const planFile = (plan: Plan, mapping: AddressSpace): number => {
  const shared = (plan.vmFlags & VM_SHARED) !== 0;
  if (mapping.kind === 'secretmem') {
    // Its pages are in no other mapping, so there is nothing to make private copies of.
    if (!shared) return -EINVAL;
    plan.vmFlags |= VM_LOCKED;
  }
  if (mapping.kind === 'gmem') {
    const error = guestMemfdMmap(mapping, plan.vmFlags);
    if (error !== 0) return error;
  }
  if (shared && tracksDirty(mapping)) plan.vmFlags |= VM_WRITENOTIFY;
  if (mapping.kind === 'hugetlbfs' && plan.pgoff % (1 << plan.order) !== 0) return -EINVAL;
  if (shared && (mapping.seals & (F_SEAL_WRITE | F_SEAL_FUTURE_WRITE)) !== 0) {
    if ((plan.vmFlags & VM_WRITE) !== 0) return -EPERM;
    plan.vmFlags &= ~VM_MAYWRITE;
  }
  return 0;
};

const makePlan = (request: MmapRequest): Plan | number => {
  const order = hugetlbOrder(request);
  if (order < 0) return order;
  const plan: Plan = {
    hva: request.hva ?? 0,
    lenBytes: roundUp(request.lenBytes, PAGE_SIZE * 2 ** order),
    vmFlags: vmFlagsOf(request.prot, request.flags),
    mapping: request.mapping ?? null,
    pgoff: request.pgoff ?? 0,
    order,
  };
  if (order > 0) plan.vmFlags = (plan.vmFlags & ~VM_LOCKED) | VM_HUGETLB | VM_DONTEXPAND;
  if (plan.mapping === null) return plan;
  const error = planFile(plan, plan.mapping);
  return error !== 0 ? error : plan;
};

/**
 * Maps memory or a file. Nothing is faulted in, but with MAP_POPULATE and MAP_LOCKED all that can be.
 * @returns hva of the mapping; -EINVAL; -ENOMEM: no room, or not so many huge pages; -EEXIST
 *   (MAP_FIXED_NOREPLACE); -EPERM: the file is sealed, or nothing may be locked; -EAGAIN: not so much
 */
export function* mmap(k: Kernel, mm: MmStruct, request: MmapRequest): Path<number> {
  const error = checkRequest(k, request);
  if (error !== 0) return error;
  const plan = makePlan(request);
  if (typeof plan === 'number') return plan;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const hva = yield* mmapLocked(k, mm, plan, request.flags);
  mmapWriteUnlock(mm);
  if (hva >= 0 && ((plan.vmFlags & VM_LOCKED) !== 0 || (request.flags & MAP_POPULATE) !== 0))
    yield* mmPopulate(k, mm, hva, hva + plan.lenBytes, true);
  return hva;
}

function* mmapLocked(k: Kernel, mm: MmStruct, plan: Plan, flags: number): Path<number> {
  const { lenBytes, vmFlags, order } = plan;
  if ((flags & MAP_LOCKED) !== 0 && !canDoMlock(mm)) return -EPERM;
  if ((vmFlags & VM_LOCKED) !== 0 && !mlockFutureOk(mm, lenBytes)) return -EAGAIN;
  const hva = pickHva(k, mm, {
    hva: plan.hva,
    lenBytes,
    fixed: (flags & (MAP_FIXED | MAP_FIXED_NOREPLACE)) !== 0,
    alignBytes: order > 0 ? PAGE_SIZE * 2 ** order : mappingAlignBytes(plan.mapping),
  });
  if (hva < 0) return hva;
  if ((flags & MAP_FIXED_NOREPLACE) !== 0 && !isFree(mm, hva, hva + lenBytes)) return -EEXIST;
  const error = yield* munmapLocked(k, mm, hva, hva + lenBytes);
  if (error !== 0) return error;
  // Shared anonymous memory is an unnamed file, and so is hugetlb; the rest has offsets that let neighbours merge.
  const named = plan.mapping !== null;
  if (!named) {
    const made = unnamedFile(k, plan);
    if (typeof made === 'number') return made;
    plan.mapping = made;
    if (made === null) plan.pgoff = hva / PAGE_SIZE;
  }
  const { mapping, pgoff } = plan;
  const vma = vmaAlloc(mm, hva, hva + lenBytes, vmFlags, mapping, pgoff);
  const reserved = order > 0 ? hugetlbReservePages(k, vma) : 0;
  if (reserved === 0) linkNew(vma);
  if (mapping !== null && !named) yield* mappingPut(k, mapping);
  if (reserved !== 0) return reserved;
  const filled = mapping?.kind === 'device' ? deviceMmap(k, vma) : 0;
  if (filled !== 0) {
    yield* munmapLocked(k, mm, hva, hva + lenBytes);
    return filled;
  }
  yield* mergeAround(k, mm, vmaIndexAbove(mm, hva));
  return hva;
}

/** The file behind memory that has none of its own; null for private memory, which needs none. */
const unnamedFile = (k: Kernel, plan: Plan): AddressSpace | null | number => {
  const nrPages = plan.lenBytes / PAGE_SIZE;
  if (plan.order > 0) return hugetlbFileSetup(k, plan.order, nrPages);
  return (plan.vmFlags & VM_SHARED) !== 0 ? shmemCreate(k, nrPages) : null;
};

/** The VMA becomes part of its address space. A writable mapping of hugetlbfs makes the file as long as itself. */
const linkNew = (vma: Vma): void => {
  if (!vmaSupportsMlock(vma)) setField(vma, 'flags', vma.flags & ~VM_LOCKED);
  vmaLink(vma);
  accountLocked(vma, 1);
  const { mapping } = vma;
  const nrPages = vma.pgoff + (vma.end - vma.start) / PAGE_SIZE;
  const grows = (vma.flags & (VM_HUGETLB | VM_WRITE)) === (VM_HUGETLB | VM_WRITE);
  if (grows && mapping !== null && mapping.nrPages < nrPages) setField(mapping, 'nrPages', nrPages);
};

/**
 * Unmaps whatever is mapped in [hva, hva + lenBytes); holes are no error.
 * @returns 0 or -EINVAL
 */
export function* munmap(k: Kernel, mm: MmStruct, hva: number, lenBytes: number): Path<number> {
  if (hva % PAGE_SIZE !== 0 || lenBytes <= 0) return -EINVAL;
  if (hva < 0 || hva + roundUp(lenBytes) > taskSize(k)) return -EINVAL;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const error = yield* munmapLocked(k, mm, hva, hva + roundUp(lenBytes));
  mmapWriteUnlock(mm);
  return error;
}

/**
 * The same under the lock: VMAs first, then what they mapped, then the tables.
 * @returns 0, or -EINVAL with nothing done: a huge page cannot be cut
 */
export function* munmapLocked(k: Kernel, mm: MmStruct, start: number, end: number): Path<number> {
  if (isFree(mm, start, end)) return 0;
  const first = isolateRange(k, mm, start, end);
  if (first < 0) return first;
  const detached: Vma[] = [];
  for (let vma = mm.vmas[first]; vma !== undefined && vma.start < end; vma = mm.vmas[first]) {
    vmaDetach(mm, first);
    accountLocked(vma, -1);
    detached.push(vma);
  }
  for (const vma of detached) yield* zapRange(k, vma, vma.start, vma.end, MMU_NOTIFY_UNMAP);
  const floor = mm.vmas[first - 1]?.end ?? 0;
  const ceiling = mm.vmas[first]?.start ?? taskSize(k);
  freePgtables(k, mm, start, end, floor, ceiling);
  for (const vma of detached) yield* vmaFree(k, vma);
  return 0;
}
