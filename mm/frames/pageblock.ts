/**
 * Pageblocks: 2 MiB each, with a word that says what the allocator keeps it for. Compare
 * mm/page_alloc.c, get_pfnblock_migratetype(), and include/linux/page-isolation.h.
 *
 *   bits 0..2  migratetype, one of UNMOVABLE, MOVABLE, RECLAIMABLE, CMA
 *   bit 3      isolated: nothing of it is handed out, and the type comes back afterwards
 *   bits 4..5  zone
 *   bit 6      offline: its frames belong to nobody
 */
import { fetchAndNot, fetchOr, readOnce, writeOnce } from '#cells';
import type { Kernel } from '../types.ts';
import { PAGEBLOCK_ORDER, PAGEBLOCK_PAGES } from './table.ts';

/** Pages that stay where they are: the kernel's own. */
export const MIGRATE_UNMOVABLE = 0;
/** Pages of users and of page caches. */
export const MIGRATE_MOVABLE = 1;
/** The kernel's own that it can do without when asked to. */
export const MIGRATE_RECLAIMABLE = 2;
/** Reserved for cmaAlloc(), lent to pages that can be moved away. */
export const MIGRATE_CMA = 3;
/** Not to be handed out. */
export const MIGRATE_ISOLATE = 4;
export const NR_MIGRATETYPES = 5;

/** As /proc/pagetypeinfo spells them. */
export const MIGRATETYPE_NAMES = ['Unmovable', 'Movable', 'Reclaimable', 'CMA', 'Isolate'] as const;

const TYPE_MASK = 7;
const ISOLATED = 1 << 3;
const ZONE_SHIFT = 4;
const ZONE_MASK = 3;
const OFFLINE = 1 << 6;

const wordOf = (k: Kernel, page: number): number =>
  readOnce(k.state.frames.blocks, page >>> PAGEBLOCK_ORDER);

/** MIGRATE_* of the pageblock of a page; MIGRATE_ISOLATE while it is isolated. */
export const pageblockType = (k: Kernel, page: number): number => {
  const word = wordOf(k, page);
  return (word & ISOLATED) !== 0 ? MIGRATE_ISOLATE : word & TYPE_MASK;
};

/** The same, as if it were not isolated. */
export const pageblockOwnType = (k: Kernel, page: number): number => wordOf(k, page) & TYPE_MASK;

/** The pageblock of a page is for pages of another type from now on. Its free pages are the caller's to move. */
export const setPageblockType = (k: Kernel, page: number, type: number): void =>
  writeOnce(k.state.frames.blocks, page >>> PAGEBLOCK_ORDER, (wordOf(k, page) & ~TYPE_MASK) | type);

export const setPageblockIsolated = (k: Kernel, page: number, isolated: boolean): void => {
  const { blocks } = k.state.frames;
  if (isolated) fetchOr(blocks, page >>> PAGEBLOCK_ORDER, ISOLATED);
  else fetchAndNot(blocks, page >>> PAGEBLOCK_ORDER, ISOLATED);
};

/** ZONE_* of a page. */
export const pageZoneIndex = (k: Kernel, page: number): number =>
  (wordOf(k, page) >>> ZONE_SHIFT) & ZONE_MASK;

/** False for a frame that memory offlining has taken out of use, and for one that does not exist. */
export const pageOnline = (k: Kernel, page: number): boolean =>
  page >= 0 && page < k.state.frames.nrPages && (wordOf(k, page) & OFFLINE) === 0;

/** A pageblock as it is when its memory comes into use, or goes out of it. */
export const setPageblock = (
  k: Kernel,
  page: number,
  zone: number,
  type: number,
  online: boolean,
): void =>
  writeOnce(
    k.state.frames.blocks,
    page >>> PAGEBLOCK_ORDER,
    (zone << ZONE_SHIFT) | type | (online ? 0 : OFFLINE),
  );

/** First page of the pageblock of a page; first page after it, where `page` is not its first. */
export const pageblockStart = (page: number): number => page & -PAGEBLOCK_PAGES;
export const pageblockAlign = (page: number): number =>
  (page + PAGEBLOCK_PAGES - 1) & -PAGEBLOCK_PAGES;

/** May free blocks of two neighbouring pageblocks of these types become one? Compare migratetype_is_mergeable(). */
export const migratetypeIsMergeable = (type: number): boolean => type < MIGRATE_CMA;
