/**
 * Sanitizer: references and pins that are known by name, beside those of entries and caches: what
 * pipes, registered buffers, RDMA and VFIO have; with provenance on, whatever GUP has handed out.
 */
import { PG_TAIL } from '../frames/table.ts';
import type { PageRun } from '../gup/page-runs.ts';
import { pipeHoldIsGup } from '../pipe/pipe.ts';
import type { Kernel } from '../types.ts';
import type { Census } from './census.ts';

/** What memory regions of RDMA and mappings of VFIO have pinned. */
const longtermRuns = ({ state }: Kernel): PageRun[] => [
  ...[...state.umems.values()].flatMap(({ runs }) => runs),
  ...[...state.vfioContainers.values()].flatMap(({ dmas }) =>
    dmas.flatMap(({ pinned, runs }) => (pinned ? runs : [])),
  ),
];

/** Adds what is known by name to the census. Each page is counted once: GUP's records include what pipes and buffers took. */
export const countHolders = (k: Kernel, census: Census): void => {
  const { flags, head } = k.state.frames;
  const { held, pinned } = census;
  const { provenance, pipes, fixedBuffers } = k.state;
  const { zeroPage, hugeZeroFolio } = k.state;
  const add = (column: Int32Array, page: number, n: number): void => {
    const folio = (flags[page]! & PG_TAIL) !== 0 ? head[page]! : page;
    // A pin of the zero page counts nothing.
    if (column === pinned && (folio === zeroPage || folio === hugeZeroFolio)) return;
    column[folio] = column[folio]! + n;
  };
  for (const { buffers } of pipes.values())
    for (const { page, hold } of buffers)
      if (!pipeHoldIsGup(hold)) add(held, page, 1);
      else if (provenance === null) add(hold === 'get' ? held : pinned, page, 1);
  if (provenance === null) {
    for (const { pages } of fixedBuffers.values()) for (const page of pages) add(pinned, page, 1);
    for (const run of longtermRuns(k))
      for (let i = 0; i < run.nr; i++) add(pinned, run.page + i, 1);
    return;
  }
  for (const [page, holds] of provenance.holds)
    for (const { kind, n } of holds) add(kind === 'get' ? held : pinned, page, n);
};
