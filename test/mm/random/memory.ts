/**
 * Memory of the random driver that is taken in one piece, whoever was in it: CMA, ranges, compaction,
 * reclaim. No byte may notice.
 */
import {
  allocContigRange,
  cmaAlloc,
  cmaRelease,
  compactZone,
  freeContigRange,
  lruAddDrainAll,
  lruSetCpu,
  MEMORY_BLOCK_PAGES,
  MIGRATE_CMA,
  offlinePages,
  onlinePages,
  pageblockType,
  pageOnline,
  tryToFreePages,
  ZONE_MOVABLE,
} from '#mm';
import type { RandomDriver } from './driver.ts';
import { WORD } from './model.ts';

const PAGEBLOCK_PAGES = 512;
const MAX_TAKEN = 3;
/** What its owner has in every page of it: no value that a process ever stores. */
const OWN = 0x7fff_0000;

/** Pages that somebody has taken in one piece. */
export interface Taken {
  page: number;
  nrPages: number;
  kind: 'cma' | 'range';
}

const wordOf = (driver: RandomDriver, page: number): number =>
  (driver.k.memory.pageOffset(page) + WORD) / 4;

/** From now on nobody else may write there. */
const own = (driver: RandomDriver, taken: Taken): void => {
  const { i32 } = driver.k.memory;
  for (let i = 0; i < taken.nrPages; i++) i32[wordOf(driver, taken.page + i)] = OWN + (i & 0xffff);
  driver.k.memory.mayBeWritten(taken.page, taken.nrPages);
  driver.taken.push(taken);
};

/** cma_alloc(): of pages that are lent to whoever can move. */
export const beginCma = (driver: RandomDriver): void => {
  if (driver.taken.length >= MAX_TAKEN) return;
  const { random, k } = driver;
  const nrPages = random.chance(0.5) ? 1 << random.below(10) : 1 + random.below(300);
  const align = 1 << random.below(10);
  driver.start('cma', null, cmaAlloc(k, nrPages, align), (page) => {
    if (page >= 0) own(driver, { page, nrPages, kind: 'cma' });
  });
};

/** alloc_contig_range(), of one pageblock or two. */
export const beginRange = (driver: RandomDriver): void => {
  if (driver.taken.length >= MAX_TAKEN) return;
  const { random, k } = driver;
  const { nrPages } = k.state.frames;
  const blocks = 1 + random.below(2);
  const start = random.below(nrPages / PAGEBLOCK_PAGES - blocks + 1) * PAGEBLOCK_PAGES;
  // What CMA lends is for its own callers.
  for (let page = start; page < start + blocks * PAGEBLOCK_PAGES; page += PAGEBLOCK_PAGES)
    if (pageblockType(k, page) === MIGRATE_CMA) return;
  const end = start + blocks * PAGEBLOCK_PAGES;
  const path = allocContigRange(k, start, end);
  driver.start('contig range', null, path, ({ error }) => {
    driver.count(error === 0 ? 'contig range moved' : 'contig range busy');
    if (error === 0) own(driver, { page: start, nrPages: end - start, kind: 'range' });
  });
};

/** @throws Error where somebody else has written there */
export const giveBack = (driver: RandomDriver, i: number): void => {
  const [taken] = driver.taken.splice(i, 1);
  if (taken === undefined) return;
  const { page, nrPages, kind } = taken;
  for (let j = 0; j < nrPages; j++) {
    const value = driver.k.memory.i32[wordOf(driver, page + j)]!;
    if (value !== OWN + (j & 0xffff))
      throw new Error(`page ${page + j}, taken by ${kind}, has ${value}, which is somebody else's`);
  }
  driver.count(`release ${kind}`);
  if (kind === 'range') freeContigRange(driver.k, page, nrPages);
  else if (!cmaRelease(driver.k, page, nrPages)) throw new Error(`CMA does not know ${page}`);
};

export const beginGiveBack = (driver: RandomDriver): void => {
  if (driver.taken.length > 0) giveBack(driver, driver.random.below(driver.taken.length));
};

export const beginCompact = (driver: RandomDriver): void => {
  const zone = driver.random.pick(driver.k.state.zones);
  driver.start('compact', null, compactZone(driver.k, zone, 9));
};

/** Direct reclaim, as if a fault had found no page. */
export const beginShrink = (driver: RandomDriver): void => {
  const path = tryToFreePages(driver.k, 0, 1 + driver.random.below(32));
  driver.start('shrink', null, path);
};

/** The kernel goes on on another CPU; now and then every batch goes on its list. */
export const beginCpu = (driver: RandomDriver): void => {
  const { random, k } = driver;
  if (random.chance(0.3)) lruAddDrainAll(k);
  else lruSetCpu(k, random.below(k.state.lru.cpus.length));
  driver.count('cpu');
};

/** A memory block of zone MOVABLE goes offline, or comes back: where RAM has as much. */
export const beginHotplug = (driver: RandomDriver): void => {
  const { k } = driver;
  const { nrPages } = k.state.frames;
  const block = nrPages - MEMORY_BLOCK_PAGES;
  if (block < MEMORY_BLOCK_PAGES || driver.hotplugging) return;
  if (!pageOnline(k, block)) {
    const error = onlinePages(k, block, MEMORY_BLOCK_PAGES, ZONE_MOVABLE);
    if (error !== 0) throw new Error(`online: ${error}`);
    driver.count('online');
    return;
  }
  driver.hotplugging = true;
  const path = offlinePages(k, block, MEMORY_BLOCK_PAGES, { maxRounds: 4 });
  driver.start('offline', null, path, ({ error }) => {
    driver.hotplugging = false;
    driver.count(error === 0 ? 'offline done' : 'offline busy');
  });
};
