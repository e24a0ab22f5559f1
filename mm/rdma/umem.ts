/**
 * Memory regions of RDMA: user memory that an adapter reads and writes for as long as the region is
 * registered. Compare drivers/infiniband/core/umem.c, __ib_umem_get_va() and __ib_umem_release().
 *
 * The pages are pinned for long, for writing where the adapter may write, and counted in pinned_vm,
 * which RLIMIT_MEMLOCK bounds. When the region goes they are dirty if it was writable: what the
 * adapter has written nobody knows.
 */
import { PAGE_SIZE } from '#emu';
import { mapDelete, mapSet, setField } from '#cells';
import { EFAULT, EINVAL, ENOMEM, EPERM } from '../errno.ts';
import { pinUserPagesFast } from '../gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../gup/flags.ts';
import {
  appendRun,
  contiguousPages,
  type PageRun,
  pageOfRuns,
  PIN_BATCH,
  unpinRuns,
} from '../gup/page-runs.ts';
import type { Path } from '../path.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { canDoMlock } from '../vma/mlock.ts';

const USER = 'rdma';

/** One registered region. Plain data. */
export interface Umem {
  id: number;
  mm: MmStruct;
  /** What was registered. */
  hva: number;
  lenBytes: number;
  writable: boolean;
  /** Its pages in their order, each pinned once. */
  runs: PageRun[];
  /** Pages, counted in mm.pinnedVm. */
  nrPages: number;
}

/**
 * ib_umem_get(): registers [hva, hva + lenBytes), which need not be aligned, and pins every page of it.
 * @returns the region; -EINVAL for nothing, or beyond the end of numbers; -EPERM where nothing may be
 *   locked; -ENOMEM over RLIMIT_MEMLOCK, or where a page cannot leave memory that has to be movable;
 *   -EFAULT where there is no such memory, -EOPNOTSUPP for DAX: as pinUserPagesFast. After an error
 *   nothing is pinned and nothing counted
 */
export function* ibUmemGet(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  writable: boolean,
): Path<Umem | number> {
  if (hva < 0 || lenBytes < 0 || hva + lenBytes >= 2 ** 53) return -EINVAL;
  if (!canDoMlock(mm)) return -EPERM;
  const nrPages = lenBytes === 0 ? 0 : Math.ceil(((hva % PAGE_SIZE) + lenBytes) / PAGE_SIZE);
  if (nrPages === 0) return -EINVAL;
  if (mm.pinnedVm + nrPages > Math.floor(mm.rlimitMemlock / PAGE_SIZE)) return -ENOMEM;
  setField(mm, 'pinnedVm', mm.pinnedVm + nrPages);
  const runs: PageRun[] = [];
  const error = yield* pinAll(k, mm, hva - (hva % PAGE_SIZE), nrPages, writable, runs);
  if (error < 0) {
    yield* unpinRuns(k, USER, runs, false);
    setField(mm, 'pinnedVm', mm.pinnedVm - nrPages);
    return error;
  }
  const umem: Umem = { id: newId(k), mm, hva, lenBytes, writable, runs, nrPages };
  mapSet(k.state.umems, umem.id, umem);
  return umem;
}

/** Pins batch after batch. @returns 0, or -errno with what is pinned already in `runs` */
function* pinAll(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  writable: boolean,
  runs: PageRun[],
): Path<number> {
  const flags = FOLL_LONGTERM | (writable ? FOLL_WRITE : 0);
  const pages = new Int32Array(Math.min(nrPages, PIN_BATCH));
  for (let done = 0; done < nrPages; ) {
    const want = Math.min(nrPages - done, PIN_BATCH);
    nameGupUser(k, USER);
    const n = yield* pinUserPagesFast(k, mm, hva + done * PAGE_SIZE, want, flags, pages);
    if (n <= 0) return n === 0 ? -EFAULT : n;
    for (let i = 0; i < n; ) {
      const nr = contiguousPages(pages, i, n);
      appendRun(runs, pages[i]!, nr);
      i += nr;
    }
    done += n;
  }
  return 0;
}

/** ib_umem_release(): unpins the region's pages, dirty if it was writable. The process may have gone before. */
export function* ibUmemRelease(k: Kernel, umem: Umem): Path<void> {
  if (!mapDelete(k.state.umems, umem.id))
    throw new Error(`memory region ${umem.id} is released twice`);
  yield* unpinRuns(k, USER, umem.runs, umem.writable);
  setField(umem.mm, 'pinnedVm', umem.mm.pinnedVm - umem.nrPages);
}

/** Frame that an adapter reaches at an offset of the region, in bytes; -1 beyond its end. */
export const umemPageAt = (umem: Umem, offset: number): number =>
  offset < 0 || offset >= umem.lenBytes
    ? -1
    : pageOfRuns(umem.runs, Math.floor(((umem.hva % PAGE_SIZE) + offset) / PAGE_SIZE));
