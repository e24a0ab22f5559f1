/**
 * CMA: memory in one piece for devices, lent to movable pages meanwhile. Compare mm/cma.c.
 *
 * A bitmap says what has been handed out. An allocation takes the first run of clear bits that is
 * aligned as asked, and empties it; if somebody holds a page there it goes on to the next.
 */
import { setField, writeOnce, readOnce } from '#cells';
import { allocContigRange, freeContigRange } from '../compact/contig.ts';
import { createMoveReport, type MoveReport } from '../compact/report.ts';
import { EBUSY, EINVAL, ENOMEM } from '../errno.ts';
import { type Path, YP_WAIT } from '../path.ts';
import { countStat } from '../stat.ts';
import type { Kernel } from '../types.ts';
import type { CmaArea } from './state.ts';

const WORD_BITS = 32;

const isTaken = ({ bitmap }: CmaArea, bit: number): boolean =>
  (readOnce(bitmap, bit >>> 5) & (1 << (bit & 31))) !== 0;

/** Sets or clears the bits of [first, first + nr). */
const markTaken = (area: CmaArea, first: number, nr: number, taken: boolean): void => {
  for (let bit = first; bit < first + nr; ) {
    const word = bit >>> 5;
    const from = bit & 31;
    const n = Math.min(WORD_BITS - from, first + nr - bit);
    const mask = (n === WORD_BITS ? -1 : (1 << n) - 1) << from;
    const old = readOnce(area.bitmap, word);
    writeOnce(area.bitmap, word, taken ? old | mask : old & ~mask);
    bit += n;
  }
  setField(area, 'available', area.available + (taken ? -nr : nr));
};

/** First bit from `from` on, aligned as a page, from which `nr` are clear; -1 for none. Compare bitmap_find_next_zero_area_off(). */
const findClear = (area: CmaArea, from: number, nr: number, align: number): number => {
  const { basePage, nrPages } = area;
  const alignUp = (bit: number): number => Math.ceil((basePage + bit) / align) * align - basePage;
  for (let first = alignUp(from); first + nr <= nrPages; ) {
    let bit = first;
    while (bit < first + nr && !isTaken(area, bit)) bit++;
    if (bit === first + nr) return first;
    first = alignUp(bit + 1);
  }
  return -1;
};

/** The area that a machine has from createKernel(), null for none. */
export const cmaDefaultArea = (k: Kernel): CmaArea | null => k.state.cmaAreas[0] ?? null;

/**
 * Takes `nrPages` in one piece; every page has one reference.
 * @param alignPages the first page is a multiple of it
 * @param report what was moved and what could not be, of all attempts; filled in
 * @returns the first page; -EBUSY: wherever there was room somebody held a page; -ENOMEM: no room, or
 *   no memory to move pages to; -EINTR a fatal signal; -EINVAL. Compare cma_alloc()
 */
export function* cmaAlloc(
  k: Kernel,
  nrPages: number,
  alignPages = 1,
  report: MoveReport = createMoveReport(),
  area: CmaArea | null = cmaDefaultArea(k),
): Path<number> {
  if (area === null || nrPages <= 0 || alignPages <= 0) return -EINVAL;
  while (area.allocating) yield YP_WAIT;
  setField(area, 'allocating', true);
  let error = -ENOMEM;
  let bit = -1;
  for (let from = 0; nrPages <= area.available; ) {
    bit = findClear(area, from, nrPages, alignPages);
    if (bit < 0) break;
    markTaken(area, bit, nrPages, true);
    const first = area.basePage + bit;
    const attempt = yield* allocContigRange(k, first, first + nrPages, 'cma');
    report.moved += attempt.moved;
    report.rounds += attempt.rounds;
    report.held.push(...attempt.held);
    error = attempt.error;
    if (error === 0) break;
    markTaken(area, bit, nrPages, false);
    if (error !== -EBUSY) break;
    // Linux goes on by one step; whatever has that page in it would fail again.
    const held = attempt.held.reduce((last, { page }) => Math.max(last, page), first);
    from = Math.max(bit + alignPages, held + 1 - area.basePage);
  }
  setField(area, 'allocating', false);
  report.error = error;
  countStat(k, error === 0 ? 'cma_alloc_success' : 'cma_alloc_fail');
  if (error === 0) setField(area, 'allocSuccess', area.allocSuccess + nrPages);
  else setField(area, 'allocFail', area.allocFail + nrPages);
  return error === 0 ? area.basePage + bit : error;
}

/**
 * Gives back what cmaAlloc() returned, or a part of it.
 * @returns false: not in an area. Compare cma_release()
 */
export const cmaRelease = (k: Kernel, page: number, nrPages: number): boolean => {
  for (const area of k.state.cmaAreas) {
    const first = page - area.basePage;
    if (first < 0 || first + nrPages > area.nrPages) continue;
    freeContigRange(k, page, nrPages);
    markTaken(area, first, nrPages, false);
    setField(area, 'released', area.released + nrPages);
    return true;
  }
  return false;
};
