/**
 * What a fresh machine does with its frames: which zone and pageblock they are of, what is set aside
 * for CMA, and then all of them are free. Compare mm/mm_init.c and mm/cma.c:cma_init_reserved_areas().
 */
import { freeRange } from './buddy.ts';
import { MIGRATE_CMA, MIGRATE_MOVABLE, setPageblock } from './pageblock.ts';
import { readOnce } from '#cells';
import type { CmaArea } from '../cma/state.ts';
import { createCmaArea } from '../cma/state.ts';
import type { Kernel } from '../types.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './table.ts';
import { ZONE_DMA32 } from './zone.ts';

/** Every pageblock of every zone: for pages that can be moved, until others claim it. */
const initPageblocks = (k: Kernel): void => {
  for (const { index, firstPage, endPage } of k.state.zones)
    for (let page = firstPage; page < endPage; page += PAGEBLOCK_PAGES)
      setPageblock(k, page, index, MIGRATE_MOVABLE, true);
};

/**
 * Sets memory aside for CMA, at the top of DMA32: what needs contiguous memory are devices.
 * @throws RangeError when there is not so much, or nothing would be left below it
 */
const reserveCma = (k: Kernel, cmaPages: number): CmaArea | null => {
  const nrPages = Math.ceil(cmaPages / PAGEBLOCK_PAGES) * PAGEBLOCK_PAGES;
  if (nrPages === 0) return null;
  const top = k.state.zones[ZONE_DMA32]?.endPage ?? 0;
  const base = (top & -PAGEBLOCK_PAGES) - nrPages;
  if (base <= 0) throw new RangeError(`CMA of ${nrPages} pages does not fit below page ${top}`);
  for (let page = base; page < base + nrPages; page += PAGEBLOCK_PAGES)
    setPageblock(k, page, ZONE_DMA32, MIGRATE_CMA, true);
  return createCmaArea('reserved', base, nrPages);
};

/**
 * Builds the free lists of a fresh machine.
 * @param cmaPages rounded up to whole pageblocks
 * @throws RangeError where CMA does not fit
 */
export const freeAllPages = (k: Kernel, cmaPages: number): void => {
  initPageblocks(k);
  const area = reserveCma(k, cmaPages);
  if (area !== null) k.state.cmaAreas.push(area);
  const { blocks } = k.state.frames;
  for (const { firstPage, endPage } of k.state.zones) {
    // From the top, so that the lowest block ends up first on its list.
    let end = endPage;
    while (end > firstPage) {
      const word = readOnce(blocks, (end - 1) >>> PAGEBLOCK_ORDER);
      let first = (end - 1) & -PAGEBLOCK_PAGES;
      while (first > firstPage && readOnce(blocks, (first - 1) >>> PAGEBLOCK_ORDER) === word)
        first -= PAGEBLOCK_PAGES;
      freeRange(k, first, end);
      end = first;
    }
  }
};
