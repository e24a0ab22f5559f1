/**
 * Pinned pages as those have them who keep them for long: runs of contiguous frames, as entries of a
 * scatterlist or of an IOMMU. Compare lib/scatterlist.c:sg_alloc_append_table_from_pages().
 */
import { listPush, setField } from '#cells';
import { nameGupUser } from '../provenance/provenance.ts';
import type { Path } from '../path.ts';
import type { Kernel } from '../types.ts';
import { unpinUserPageRangeDirtyLock } from './unpin.ts';
import type { GupUserId } from './users.ts';

/** Contiguous frames, each pinned once. Plain data. */
export interface PageRun {
  page: number;
  nr: number;
}

/** Pages that one call pins at most: a page of pointers. */
export const PIN_BATCH = 512;

/** Length of the contiguous run that begins at pages[from]. */
export const contiguousPages = (pages: Int32Array, from: number, nrPages: number): number => {
  let end = from + 1;
  while (end < nrPages && pages[end] === pages[from]! + end - from) end++;
  return end - from;
};

/** Adds a run; it becomes a part of the last one where it goes on there. */
export const appendRun = (runs: PageRun[], page: number, nr: number): void => {
  const last = runs.at(-1);
  if (last !== undefined && last.page + last.nr === page) setField(last, 'nr', last.nr + nr);
  else listPush(runs, { page, nr });
};

/** How many pages they are. */
export const nrRunPages = (runs: readonly PageRun[]): number =>
  runs.reduce((sum, { nr }) => sum + nr, 0);

/** Frame of the page at an offset, in pages; -1 beyond the end. */
export const pageOfRuns = (runs: readonly PageRun[], offset: number): number => {
  let left = offset;
  for (const { page, nr } of runs) {
    if (left < nr) return page + left;
    left -= nr;
  }
  return -1;
};

/** Unpins all of them, each folio dirty first if `makeDirty`. Waits for folio locks. */
export function* unpinRuns(
  k: Kernel,
  user: GupUserId,
  runs: readonly PageRun[],
  makeDirty: boolean,
): Path<void> {
  for (const { page, nr } of runs) {
    nameGupUser(k, user);
    yield* unpinUserPageRangeDirtyLock(k, page, nr, makeDirty);
  }
}
