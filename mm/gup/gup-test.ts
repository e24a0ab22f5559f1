/**
 * The kernel's own benchmark of GUP: compare mm/gup_test.c, GUP_FAST_BENCHMARK and PIN_FAST_BENCHMARK.
 *
 * A user of FOLL_GET like any other, with a row of its own; only kernels built for testing have it.
 */
import { folioOf, folioPut } from '../folio/folio.ts';
import type { Path } from '../path.ts';
import { noteRelease } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { getUserPagesFast } from './fast.ts';
import { endOfRun } from './unpin.ts';

/** get_user_pages_fast() of `nrPages` pages, as it stands there. @returns pages referenced or -errno */
export const gupTestGetFast = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
): Path<number> => getUserPagesFast(k, 'gup-test', mm, hva, nrPages, flags, pages);

/** Lets go of what gupTestGetFast has taken: put_page() of each, by runs of one folio. */
export const gupTestPut = (k: Kernel, pages: Int32Array, nrPages: number): void => {
  noteRelease(k, 'get', pages, nrPages);
  for (let i = 0; i < nrPages; ) {
    const folio = folioOf(k, pages[i]!);
    const end = endOfRun(k, pages, i, nrPages, folio);
    folioPut(k, folio, end - i);
    i = end;
  }
};
