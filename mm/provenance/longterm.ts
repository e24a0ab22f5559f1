/** Which memory regions of RDMA and mappings of VFIO have a folio: they are known by name without provenance. */
import { folioNrPages } from '../folio/folio.ts';
import type { PageRun } from '../gup/page-runs.ts';
import type { Kernel } from '../types.ts';

/** One of them. Plain data. */
export interface LongtermHold {
  user: 'rdma' | 'vfio';
  mm: number;
  /** Id of the region; first bus address of the mapping. */
  at: number;
  /** Pages of the folio that it has, each pinned once. */
  pins: number;
}

/** Pages of a folio that runs have. */
const pagesIn = (k: Kernel, folio: number, runs: readonly PageRun[]): number => {
  const end = folio + folioNrPages(k, folio);
  let nr = 0;
  for (const run of runs)
    nr += Math.max(0, Math.min(end, run.page + run.nr) - Math.max(folio, run.page));
  return nr;
};

/** Those that a folio is in. */
export const longtermOf = (k: Kernel, folio: number): LongtermHold[] => {
  const found: LongtermHold[] = [];
  for (const { id, mm, runs } of k.state.umems.values())
    found.push({ user: 'rdma', mm: mm.id, at: id, pins: pagesIn(k, folio, runs) });
  for (const { mm, dmas } of k.state.vfioContainers.values())
    for (const { iova, pinned, runs } of dmas)
      if (pinned) found.push({ user: 'vfio', mm: mm.id, at: iova, pins: pagesIn(k, folio, runs) });
  return found.filter(({ pins }) => pins > 0);
};
