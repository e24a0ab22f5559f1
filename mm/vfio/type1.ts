/**
 * VFIO's memory, type 1: a process maps ranges of its memory for a device that it has, a guest's RAM
 * as a rule. Compare drivers/vfio/vfio_iommu_type1.c, vfio_dma_do_map(), vfio_pin_pages_remote() and
 * vfio_dma_do_unmap().
 *
 * Whatever is mapped is pinned for long, run by run of contiguous frames, and counted in locked_vm,
 * which RLIMIT_MEMLOCK bounds. Of an address space there is one container; while it maps or unmaps,
 * others wait. Memory without page structs (VM_PFNMAP) is mapped too, and neither pinned nor counted.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import { EEXIST, EFAULT, EINVAL, ENOMEM } from '../errno.ts';
import { FAULT_FLAG_REMOTE, FAULT_FLAG_WRITE } from '../fault/flags.ts';
import { folioTestFlags } from '../folio/folio.ts';
import { PG_RESERVED } from '../frames/table.ts';
import { fixupUserFault } from '../gup/fault-in.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../gup/flags.ts';
import { followPfnmap } from '../gup/follow.ts';
import {
  appendRun,
  contiguousPages,
  nrRunPages,
  type PageRun,
  pageOfRuns,
  PIN_BATCH,
  unpinRuns,
} from '../gup/page-runs.ts';
import { pinUserPagesRemote } from '../gup/slow.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { ptePage, pteWrite } from '../pgtable/pte.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { VM_PFNMAP } from '../vma/flags.ts';
import { mmapRead, mmapWriteLock, mmapWriteTrylock, mmapWriteUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';

const USER = 'vfio';

/** The IOMMU of the devices of a container: told run by run, and before anything is unpinned. */
export interface VfioIommu {
  /** Shows frames at bus addresses. @returns 0, or -errno */
  map(iova: number, page: number, nrPages: number, writable: boolean): number;
  /** Whatever was shown of the range is gone, and no device reaches it any more, when this returns. */
  unmap(iova: number, lenBytes: number): void;
}

/** A range of bus addresses that shows a range of user memory. Plain data. */
export interface VfioDma {
  id: number;
  hva: number;
  /** First bus address, a multiple of the page size as `lenBytes`. */
  iova: number;
  lenBytes: number;
  writable: boolean;
  /** Frames in their order, as the IOMMU has them. */
  runs: PageRun[];
  /** They have page structs: each is pinned once, and counted in locked_vm. */
  pinned: boolean;
}

/** What a process has mapped for its device. Plain data. */
export interface VfioContainer {
  mm: MmStruct;
  /** iommu->lock: somebody maps or unmaps. */
  locked: boolean;
  dmas: VfioDma[];
}

/** The container of an address space, its lock held. */
function* lockContainer(k: Kernel, mm: MmStruct): Path<VfioContainer> {
  for (;;) {
    let container = k.state.vfioContainers.get(mm.id);
    if (container === undefined) {
      container = { mm, locked: false, dmas: [] };
      mapSet(k.state.vfioContainers, mm.id, container);
    }
    if (!container.locked) {
      setField(container, 'locked', true);
      return container;
    }
    yield YP_WAIT;
  }
}

/** Lets go of it; an empty one goes. */
const unlockContainer = (k: Kernel, container: VfioContainer): void => {
  setField(container, 'locked', false);
  if (container.dmas.length === 0) mapDelete(k.state.vfioContainers, container.mm.id);
};

/** Adds `nr` pages to locked_vm, or takes them off. @returns 0; -ENOMEM over RLIMIT_MEMLOCK. Compare mm_lock_acct() */
function* lockAccount(mm: MmStruct, nr: number): Path<number> {
  if (nr === 0 || mm.exited) return 0;
  if (!mmapWriteTrylock(mm)) yield* mmapWriteLock(mm);
  const over = nr > 0 && (mm.lockedVm + nr) * PAGE_SIZE > mm.rlimitMemlock;
  if (!over) setField(mm, 'lockedVm', mm.lockedVm + nr);
  mmapWriteUnlock(mm);
  return over ? -ENOMEM : 0;
}

/**
 * VFIO_IOMMU_MAP_DMA: shows [hva, hva + lenBytes) to the device at `iova`.
 * @param iommu of the container's devices: always the same one
 * @returns what was mapped; -EINVAL for nothing, or what is not aligned to pages; -EEXIST where some of
 *   the bus addresses are in use; -ENOMEM over RLIMIT_MEMLOCK, or where a page cannot leave memory
 *   that has to be movable; -EFAULT; -EOPNOTSUPP for DAX. After an error nothing is pinned or counted
 */
export function* vfioDmaMap(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  iova: number,
  lenBytes: number,
  writable: boolean,
  iommu: VfioIommu | null = null,
): Path<VfioDma | number> {
  if (lenBytes <= 0 || hva < 0 || iova < 0) return -EINVAL;
  if (hva % PAGE_SIZE !== 0 || iova % PAGE_SIZE !== 0 || lenBytes % PAGE_SIZE !== 0) return -EINVAL;
  const container = yield* lockContainer(k, mm);
  if (container.dmas.some((dma) => overlaps(dma, iova, lenBytes))) {
    unlockContainer(k, container);
    return -EEXIST;
  }
  const dma: VfioDma = { id: newId(k), hva, iova, lenBytes, writable, runs: [], pinned: true };
  listPush(container.dmas, dma);
  const error = yield* pinMap(k, mm, dma, iommu);
  // The device had a part of it already: what it may have written there is not lost.
  if (error < 0) yield* removeDma(k, container, dma, iommu);
  unlockContainer(k, container);
  return error < 0 ? error : dma;
}

const overlaps = (dma: VfioDma, iova: number, lenBytes: number): boolean =>
  dma.iova < iova + lenBytes && iova < dma.iova + dma.lenBytes;

/** Compare vfio_pin_map_dma(). @returns 0, or -errno with what is pinned and counted in dma.runs */
function* pinMap(k: Kernel, mm: MmStruct, dma: VfioDma, iommu: VfioIommu | null): Path<number> {
  const nrPages = dma.lenBytes / PAGE_SIZE;
  const pages = new Int32Array(Math.min(nrPages, PIN_BATCH));
  for (let done = 0; done < nrPages; ) {
    const at = dma.hva + done * PAGE_SIZE;
    const want = Math.min(nrPages - done, PIN_BATCH);
    const n = yield* mmapRead(mm, getPfns(k, mm, at, want, dma.writable, pages));
    if (n === NO_STRUCT) {
      // One range shows one kind of memory.
      if (dma.pinned && done > 0) return -EFAULT;
      setField(dma, 'pinned', false);
      const error = iommu?.map(dma.iova + done * PAGE_SIZE, pages[0]!, 1, dma.writable) ?? 0;
      if (error < 0) return error;
      appendRun(dma.runs, pages[0]!, 1);
      done++;
      continue;
    }
    if (n < 0) return n;
    if (!dma.pinned) {
      yield* unpinRuns(k, USER, runsOf(pages, 0, n), false);
      return -EFAULT;
    }
    for (let i = 0; i < n; ) {
      const nr = contiguousPages(pages, i, n);
      const error = yield* lockAccount(mm, nr);
      if (error < 0) {
        yield* unpinRuns(k, USER, runsOf(pages, i, n), false);
        return error;
      }
      appendRun(dma.runs, pages[i]!, nr);
      const shownAt = dma.iova + (done + i) * PAGE_SIZE;
      i += nr;
      const refused = iommu?.map(shownAt, pages[i - nr]!, nr, dma.writable) ?? 0;
      if (refused < 0) {
        yield* unpinRuns(k, USER, runsOf(pages, i, n), false);
        return refused;
      }
    }
    done += n;
  }
  return 0;
}

/** pages[from .. to) as runs. */
const runsOf = (pages: Int32Array, from: number, to: number): PageRun[] => {
  const runs: PageRun[] = [];
  for (let i = from; i < to; i++) appendRun(runs, pages[i]!, 1);
  return runs;
};

/** From getPfns: pages[0] is a frame without a page struct. */
const NO_STRUCT = 0;

/** mmap_lock is held. @returns pages pinned, NO_STRUCT, or -errno. Compare vaddr_get_pfns() */
function* getPfns(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  writable: boolean,
  pages: Int32Array,
): Path<number> {
  const flags = FOLL_LONGTERM | (writable ? FOLL_WRITE : 0);
  nameGupUser(k, USER);
  const n = yield* pinUserPagesRemote(k, mm, hva, nrPages, flags, pages, null);
  if (n > 0) return n;
  const vma = findVma(mm, hva);
  if (vma === null || (vma.flags & VM_PFNMAP) === 0) return n === 0 ? -EFAULT : n;
  let pte = followPfnmap(k, vma, hva);
  if (pte === 0) {
    const fault = FAULT_FLAG_REMOTE | (writable ? FAULT_FLAG_WRITE : 0);
    const error = yield* fixupUserFault(k, mm, hva, fault, null);
    if (error !== 0) return error;
    pte = followPfnmap(k, vma, hva);
  }
  if (pte === 0 || (writable && !pteWrite(pte))) return -EFAULT;
  const page = ptePage(pte);
  // Whoever maps ordinary memory this way counts nothing, so nothing would keep it.
  if (page >= 0 && page < k.memory.nrPages && !folioTestFlags(k, page, PG_RESERVED)) return -EFAULT;
  pages[0] = page;
  return NO_STRUCT;
}

/** The device loses a range; its pages are unpinned, dirty where it could write. Compare vfio_remove_dma() */
function* removeDma(
  k: Kernel,
  { mm, dmas }: VfioContainer,
  dma: VfioDma,
  iommu: VfioIommu | null,
): Path<void> {
  iommu?.unmap(dma.iova, dma.lenBytes);
  if (dma.pinned) {
    yield* unpinRuns(k, USER, dma.runs, dma.writable);
    yield* lockAccount(mm, -nrRunPages(dma.runs));
  }
  listRemoveAt(dmas, dmas.indexOf(dma));
}

/**
 * VFIO_IOMMU_UNMAP_DMA: the device loses every range within [iova, iova + lenBytes); the pages are
 * unpinned, dirty where it could write them.
 * @param iommu as for vfioDmaMap()
 * @returns bytes unmapped, 0 where nothing was mapped; -EINVAL for what is not aligned, and where a
 *   range would have to be cut
 */
export function* vfioDmaUnmap(
  k: Kernel,
  mm: MmStruct,
  iova: number,
  lenBytes: number,
  iommu: VfioIommu | null = null,
): Path<number> {
  if (lenBytes <= 0 || iova % PAGE_SIZE !== 0 || lenBytes % PAGE_SIZE !== 0) return -EINVAL;
  const container = yield* lockContainer(k, mm);
  const end = iova + lenBytes;
  const found = container.dmas.filter((dma) => overlaps(dma, iova, lenBytes));
  const cut = found.some((dma) => dma.iova < iova || dma.iova + dma.lenBytes > end);
  let unmapped = 0;
  if (!cut)
    for (const dma of found) {
      yield* removeDma(k, container, dma, iommu);
      unmapped += dma.lenBytes;
    }
  unlockContainer(k, container);
  return cut ? -EINVAL : unmapped;
}

/** Frame that the device reaches at a bus address, -1 where nothing is mapped. */
export const vfioIovaToPage = (k: Kernel, mm: MmStruct, iova: number): number => {
  const dma = k.state.vfioContainers.get(mm.id)?.dmas.find((range) => overlaps(range, iova, 1));
  return dma === undefined ? -1 : pageOfRuns(dma.runs, Math.floor((iova - dma.iova) / PAGE_SIZE));
};
