/**
 * RDMA by on-demand paging: a region whose pages nobody holds. Compare
 * drivers/infiniband/core/umem_odp.c, drivers/infiniband/hw/mlx5/odp.c.
 *
 * The adapter has a table of its own. Where that says nothing it stops, and the driver finds the page
 * by hmm_range_fault() and enters it; an interval notifier takes entries away before the process's own
 * change, and the adapter stops there again. So the region may be larger than memory, of files that no
 * pin without time limit may have (DAX), and of memory that is mapped only later: registering looks at
 * nothing. What the adapter writes between two invalidations is dirty because the process's own entry
 * was made writable for it, and the folio is marked once more when the entry goes.
 */
import { mapDelete, mapSet, readOnce, setField, writeOnce } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  EBUSY,
  EFAULT,
  EINVAL,
  HMM_PFN_ERROR,
  HMM_PFN_REQ_FAULT,
  HMM_PFN_REQ_WRITE,
  HMM_PFN_VALID,
  HMM_PFN_WRITE,
  hmmPfnToPage,
  hmmRangeFault,
  type IntervalNotifier,
  type Kernel,
  markPfnDirty,
  type MmStruct,
  mmapReadLock,
  mmapReadTrylock,
  mmapReadUnlock,
  mmuIntervalNotifierInsert,
  mmuIntervalNotifierRemove,
  mmuIntervalReadBegin,
  mmuIntervalReadRetry,
  mmuIntervalSetSeq,
  type Path,
  pageToPfn,
  registerSecondaryIntervalOps,
  type SecondaryIntervalOps,
  type SecondaryVisitor,
  secondaryState,
  YP_DMA_SUBMITTED,
  YP_SECONDARY_PFN,
} from '#mm/secondary';

/** By which name its notifier's operations are found. */
const OPS = 'rdma-odp';

/** What is kept of all regions, with the kernel's own state. */
interface OdpState {
  nextId: number;
  regions: Map<number, OdpRegion>;
}

const stateOf = (k: Kernel): OdpState =>
  secondaryState<OdpState>(k, OPS, () => ({ nextId: 1, regions: new Map() }));

/** One registered region. Plain data. Compare struct ib_umem_odp. */
export interface OdpRegion {
  id: number;
  mm: MmStruct;
  /** Of pages. [hva, hva + lenBytes), aligned. */
  hva: number;
  lenBytes: number;
  writable: boolean;
  /** The adapter's table: for each page the frame number and HMM_PFN_VALID, HMM_PFN_WRITE; 0 = it stops there. */
  entries: Int32Array;
  notifier: IntervalNotifier;
  /** Pages it has entries for. */
  nrEntries: number;
  /** Times that the adapter stopped for a page, and pages that were taken away from it. */
  faults: number;
  invalidations: number;
}

/** The driver's lock over the table is what runs between two yields. */
const opsOf = (k: Kernel): SecondaryIntervalOps => ({
  visitEntries: (visit) => visitOdpEntries(k, visit),
  invalidate: (notifier, range, seq) => {
    if (!range.blockable) return false;
    mmuIntervalSetSeq(notifier, seq);
    const region = stateOf(k).regions.get(notifier.owner);
    if (region !== undefined) unmapPages(k, region, range.start, range.end);
    return true;
  },
});

/** Makes the notifier's operations known: by the first region, and on a restored machine before it goes on. */
export const odpInit = (k: Kernel): void => {
  if (k.intervalOps.has(OPS)) return;
  registerSecondaryIntervalOps(k, OPS, opsOf(k));
};

/** Entries of [start, end) go; what the adapter may have written is dirty. Compare ib_umem_odp_unmap_dma_pages() */
const unmapPages = (k: Kernel, region: OdpRegion, start: number, end: number): void => {
  if (region.nrEntries === 0) return;
  const first = Math.max(0, Math.floor((start - region.hva) / PAGE_SIZE));
  const last = Math.min(region.entries.length, Math.ceil((end - region.hva) / PAGE_SIZE));
  for (let i = first; i < last; i++) {
    const entry = readOnce(region.entries, i);
    if (entry === 0) continue;
    writeOnce(region.entries, i, 0);
    setField(region, 'nrEntries', region.nrEntries - 1);
    setField(region, 'invalidations', region.invalidations + 1);
    if ((entry & HMM_PFN_WRITE) !== 0) markPfnDirty(k, pageToPfn(hmmPfnToPage(entry)));
  }
};

/**
 * Registers [hva, hva + lenBytes), made whole pages: looked at is nothing of it, and nothing held.
 * @returns the region; -EINVAL: no range, or the process has ended. Compare ib_umem_odp_get()
 */
export function* odpRegister(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  writable: boolean,
): Path<OdpRegion | number> {
  const start = hva - (hva % PAGE_SIZE);
  const end = Math.ceil((hva + lenBytes) / PAGE_SIZE) * PAGE_SIZE;
  if (hva < 0 || lenBytes <= 0 || end >= 2 ** 53) return -EINVAL;
  odpInit(k);
  const state = stateOf(k);
  const id = state.nextId;
  setField(state, 'nextId', id + 1);
  const notifier = yield* mmuIntervalNotifierInsert(k, mm, start, end - start, OPS, id);
  if (typeof notifier === 'number') return -EINVAL;
  const region: OdpRegion = {
    id,
    mm,
    hva: start,
    lenBytes: end - start,
    writable,
    entries: new Int32Array((end - start) / PAGE_SIZE),
    notifier,
    nrEntries: 0,
    faults: 0,
    invalidations: 0,
  };
  mapSet(state.regions, id, region);
  return region;
}

/** The region with an id, of a restored kernel too. @throws Error where there is none */
export const odpRegionOf = (k: Kernel, id: number): OdpRegion => {
  const region = stateOf(k).regions.get(id);
  if (region === undefined) throw new Error(`no memory region ${id} by on-demand paging`);
  return region;
};

/** The region goes; the process may have gone before. Compare ib_umem_odp_release() */
export function* odpDeregister(k: Kernel, region: OdpRegion): Path<void> {
  if (!mapDelete(stateOf(k).regions, region.id))
    throw new Error(`memory region ${region.id} is released twice`);
  unmapPages(k, region, region.hva, region.hva + region.lenBytes);
  yield* mmuIntervalNotifierRemove(region.notifier);
}

/**
 * Enters the pages of [hva, hva + lenBytes) into the adapter's table. They are there when it comes
 * back, and may be gone after the caller's next yield.
 * @param access HMM_PFN_REQ_FAULT, and HMM_PFN_REQ_WRITE where the adapter is going to write; 0: only
 *   what is there already, as prefetching may ask
 * @returns pages entered; -EFAULT beyond the region, where there is no such memory, or it must not be
 *   written to. Compare ib_umem_odp_map_dma_and_lock()
 */
export function* odpMapPages(
  k: Kernel,
  region: OdpRegion,
  hva: number,
  lenBytes: number,
  access: number,
): Path<number> {
  const { mm, notifier } = region;
  const start = hva - (hva % PAGE_SIZE);
  const end = Math.ceil((hva + lenBytes) / PAGE_SIZE) * PAGE_SIZE;
  if (start < region.hva || end > region.hva + region.lenBytes || mm.exited) return -EFAULT;
  if ((access & HMM_PFN_REQ_WRITE) !== 0 && !region.writable) return -EFAULT;
  const pfns = new Int32Array((end - start) / PAGE_SIZE);
  for (;;) {
    const notifierSeq = yield* mmuIntervalReadBegin(notifier);
    pfns.fill(0);
    const range = {
      notifier,
      notifierSeq,
      start,
      end,
      pfns,
      defaultFlags: access,
      pfnFlagsMask: 0,
    };
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    // The last user of the address space may have gone while the lock was waited for.
    const error = mm.exited ? -EFAULT : yield* hmmRangeFault(k, range);
    mmapReadUnlock(mm);
    if (error === -EBUSY) continue;
    if (error !== 0) return -EFAULT;
    if (k.watched) yield YP_SECONDARY_PFN;
    if (mmuIntervalReadRetry(notifier, notifierSeq)) continue;
    return enterPages(region, (start - region.hva) / PAGE_SIZE, pfns);
  }
}

/** Under the driver's lock, with an answer that is still true. @returns pages entered, -EFAULT */
const enterPages = (region: OdpRegion, first: number, pfns: Int32Array): number => {
  let n = 0;
  for (let i = 0; i < pfns.length; i++) {
    const pfn = pfns[i]!;
    if ((pfn & HMM_PFN_ERROR) !== 0) return -EFAULT;
    if ((pfn & HMM_PFN_VALID) === 0) continue;
    if (readOnce(region.entries, first + i) === 0)
      setField(region, 'nrEntries', region.nrEntries + 1);
    // A region for reading gives the adapter no more than that.
    writeOnce(region.entries, first + i, region.writable ? pfn : pfn & ~HMM_PFN_WRITE);
    n++;
  }
  return n;
};

/** The page that the adapter reaches, or -1: it has to stop, and odpMapPages() finds it. */
export const odpReached = (region: OdpRegion, hva: number, write: boolean): number => {
  const entry = readOnce(region.entries, Math.floor((hva - region.hva) / PAGE_SIZE));
  const wanted = write ? HMM_PFN_VALID | HMM_PFN_WRITE : HMM_PFN_VALID;
  return (entry & wanted) === wanted ? hmmPfnToPage(entry) : -1;
};

/**
 * The adapter moves bytes, page by page; where it has no entry it stops, and the driver finds the page.
 * @returns bytes moved, fewer where the rest is not to be had; -EFAULT for none: the work request ends
 *   in error. Compare pagefault_single_data_segment()
 */
function* access(
  k: Kernel,
  region: OdpRegion,
  hva: number,
  bytes: Uint8Array,
  write: boolean,
): Path<number> {
  const inside = hva >= region.hva && hva + bytes.length <= region.hva + region.lenBytes;
  if (!inside || (write && !region.writable)) return -EFAULT;
  let done = 0;
  while (done < bytes.length) {
    const at = hva + done;
    const lenBytes = Math.min(bytes.length - done, PAGE_SIZE - (at % PAGE_SIZE));
    if (k.watched) yield YP_DMA_SUBMITTED;
    let page = odpReached(region, at, write);
    if (page < 0) {
      setField(region, 'faults', region.faults + 1);
      const asked = HMM_PFN_REQ_FAULT | (write ? HMM_PFN_REQ_WRITE : 0);
      const error = yield* odpMapPages(k, region, at, lenBytes, asked);
      if (error < 0) return done > 0 ? done : error;
      page = odpReached(region, at, write);
    }
    const offset = k.memory.pageOffset(page) + (at % PAGE_SIZE);
    if (write) k.memory.setBytes(offset, bytes.subarray(done, done + lenBytes));
    else bytes.set(k.memory.u8.subarray(offset, offset + lenBytes), done);
    done += lenBytes;
  }
  return done;
}

/** The adapter reads into `bytes`. @returns as access */
export const odpRead = (
  k: Kernel,
  region: OdpRegion,
  hva: number,
  bytes: Uint8Array,
): Path<number> => access(k, region, hva, bytes, false);

/** The adapter writes `bytes`. @returns as access; -EFAULT also for a region that is only to be read */
export const odpWrite = (
  k: Kernel,
  region: OdpRegion,
  hva: number,
  bytes: Uint8Array,
): Path<number> => access(k, region, hva, bytes, true);

/** Every entry of every adapter. */
const visitOdpEntries = (k: Kernel, visit: SecondaryVisitor): void => {
  for (const { mm, hva, entries } of stateOf(k).regions.values())
    for (let i = 0; i < entries.length; i++) {
      const entry = entries[i]!;
      if (entry === 0) continue;
      const pfn = pageToPfn(hmmPfnToPage(entry));
      visit(mm, hva + i * PAGE_SIZE, pfn, (entry & HMM_PFN_WRITE) !== 0);
    }
};
