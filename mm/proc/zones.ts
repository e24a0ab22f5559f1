/**
 * What /proc says of zones and their free lists: buddyinfo, pagetypeinfo, zoneinfo. Compare mm/vmstat.c.
 *
 * zoneinfo has the lines that there is something behind: no watermarks, no per-CPU lists, no
 * statistics of the node.
 */
import { RAM_PFN_BASE } from '#emu';
import {
  MIGRATETYPE_NAMES,
  NR_MIGRATETYPES,
  pageblockType,
  pageOnline,
  pageZoneIndex,
} from '../frames/pageblock.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from '../frames/table.ts';
import { freeListOf, NR_PAGE_ORDERS, nrFreeBlocks, type Zone } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';

/** Zones that have or had memory. */
const populated = (k: Kernel): Zone[] =>
  k.state.zones.filter(({ firstPage, endPage }) => endPage > firstPage);

const orders = (count: (order: number) => number): string =>
  Array.from({ length: NR_PAGE_ORDERS }, (_, order) => `${String(count(order)).padStart(6)} `).join(
    '',
  );

/** Free blocks by zone and order. */
export const procBuddyinfo = (k: Kernel): string =>
  populated(k)
    .map(
      (zone) =>
        `Node 0, zone ${zone.name.padStart(8)} ${orders((order) => nrFreeBlocks(zone, order))}\n`,
    )
    .join('');

/** Pageblocks of a zone by what they are for. */
const blocksByType = (k: Kernel, { index, firstPage, endPage }: Zone): number[] => {
  const blocks: number[] = Array.from({ length: NR_MIGRATETYPES }, () => 0);
  for (let page = firstPage; page < endPage; page += PAGEBLOCK_PAGES)
    if (pageOnline(k, page) && pageZoneIndex(k, page) === index)
      blocks[pageblockType(k, page)]! += 1;
  return blocks;
};

/** Free blocks by zone, migratetype and order; and how many pageblocks each type has. */
export const procPagetypeinfo = (k: Kernel): string => {
  const zones = populated(k);
  const free = zones.flatMap((zone) =>
    MIGRATETYPE_NAMES.map(
      (name, type) =>
        `Node    0, zone ${zone.name.padStart(8)}, type ${name.padStart(12)} ` +
        `${orders((order) => zone.nrBlocks[freeListOf(type, order)]!)}\n`,
    ),
  );
  const wide = (items: readonly (string | number)[]): string =>
    items.map((item) => `${String(item).padStart(12)} `).join('');
  return [
    `Page block order: ${PAGEBLOCK_ORDER}\nPages per block:  ${PAGEBLOCK_PAGES}\n\n`,
    `${'Free pages count per migrate type at order'.padEnd(43)} ${orders((order) => order)}\n`,
    ...free,
    `\n${'Number of blocks type'.padEnd(23)}${wide(MIGRATETYPE_NAMES)}\n`,
    ...zones.map(
      (zone) => `Node 0, zone ${zone.name.padStart(8)} ${wide(blocksByType(k, zone))}\n`,
    ),
  ].join('');
};

/** Frames of a zone's span that are its own, online or not. */
const presentPages = (k: Kernel, { index, firstPage, endPage }: Zone): number => {
  let pages = 0;
  for (let page = firstPage; page < endPage; page += PAGEBLOCK_PAGES)
    if (pageZoneIndex(k, page) === index && pageOnline(k, page))
      pages += Math.min(PAGEBLOCK_PAGES, endPage - page);
  return pages;
};

/** Pages of each zone: free, spanned, there, in use by the allocator, and of CMA. */
export const procZoneinfo = (k: Kernel): string =>
  k.state.zones
    .map((zone) => {
      const cma = k.state.cmaAreas
        .filter(({ basePage }) => pageZoneIndex(k, basePage) === zone.index)
        .reduce((sum, { nrPages }) => sum + nrPages, 0);
      return [
        `Node 0, zone ${zone.name.padStart(8)}\n`,
        `  pages free     ${zone.nrFree[0]!}\n`,
        `        spanned  ${zone.endPage - zone.firstPage}\n`,
        `        present  ${presentPages(k, zone)}\n`,
        `        managed  ${zone.managedPages}\n`,
        `        cma      ${cma}\n`,
        `      nr_free_pages ${zone.nrFree[0]!}\n`,
        `      nr_free_cma  ${zone.nrFreeCma[0]!}\n`,
        `  start_pfn:           ${zone.firstPage + RAM_PFN_BASE}\n`,
      ].join('');
    })
    .join('');
