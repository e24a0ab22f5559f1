/**
 * Sanitizer, second half: what the frame table, the page caches and the buddy allocator must satisfy,
 * held against the census of the page tables.
 *
 * I2 (judged in sanitizer.ts) a pinned anonymous page is exclusive. I11 references = entries + cache + isolation + pins x
 * 1024 + plain references, and the pins are those that nr_foll_pin_* count. Besides: every frame is
 * either free, on one free list, or in use, and only one thing.
 */
import { readOnce } from '#cells';
import { folioNrPages, folioOf, folioTestFlags, pageIndex } from '../folio/folio.ts';
import { folioHasPincount, GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_HEAD,
  PG_ISOLATED,
  PG_LOCKED,
  PG_RESERVED,
  PG_TABLE,
  PG_TAIL,
} from '../frames/table.ts';
import { NR_PAGE_ORDERS } from '../frames/zone.ts';
import type { Kernel } from '../types.ts';
import type { Census } from './census.ts';

/** What the references say that neither tables nor caches account for. */
export interface Holders {
  pins: number;
  /** Plain references to pages that belong to an address space or a file. */
  gets: number;
  /** Frames that somebody allocated for himself: no table, no cache, no anonymous page. */
  allocations: number;
  locked: number;
  isolated: number;
  migrating: number;
  /** Anonymous folios that are pinned and not exclusive: allowed only to a GUP-fast that will undo it. */
  sharedPins: number[];
}

/** Page caches: both ways between the map and the frames. */
export const checkCaches = (k: Kernel, census: Census, report: string[]): void => {
  const { frames, mappings } = k.state;
  for (const [id, object] of mappings) {
    if (object.id !== id) report.push(`mapping ${object.id} is registered as ${id}`);
    if (object.kind === 'anon' || object.kind === 'ksm') continue;
    for (const [index, page] of object.pages) {
      census.cached[page] = census.cached[page]! + 1;
      const mapping = readOnce(frames.mapping, folioOf(k, page));
      if (mapping !== id || pageIndex(k, page) !== (index | 0))
        report.push(
          `cache: page ${page} is at ${id}:${index}, and says ${mapping}:${pageIndex(k, page)}`,
        );
    }
  }
};

/** The free lists. Marks every free frame in `free`. */
export const checkBuddy = (k: Kernel, free: Uint8Array, report: string[]): void => {
  const { frames, zones } = k.state;
  for (const zone of zones) {
    let nrFree = 0;
    for (let order = 0; order < NR_PAGE_ORDERS; order++) {
      let blocks = 0;
      let before = -1;
      for (
        let page = readOnce(zone.freeHead, order);
        page >= 0;
        page = readOnce(frames.next, page)
      ) {
        const where = `buddy ${zone.name} order ${order}: page ${page}`;
        if (free[page] !== 0) {
          report.push(`${where} is on a free list twice`);
          break;
        }
        if (
          (readOnce(frames.flags, page) & PG_BUDDY) === 0 ||
          readOnce(frames.private, page) !== order
        )
          report.push(`${where} does not say so itself`);
        if (readOnce(frames.prev, page) !== before) report.push(`${where}: broken back link`);
        if (
          page < zone.firstPage ||
          page + (1 << order) > zone.endPage ||
          page % (1 << order) !== 0
        )
          report.push(`${where} is outside the zone or not aligned`);
        for (let i = 0; i < 1 << order; i++) {
          if (readOnce(frames.refcount, page + i) !== 0)
            report.push(`buddy: free page ${page + i} has references`);
          free[page + i] = 1;
        }
        before = page;
        blocks++;
        nrFree += 1 << order;
      }
      if (blocks !== readOnce(zone.nrBlocks, order))
        report.push(
          `buddy ${zone.name} order ${order}: ${blocks} blocks, counted ${readOnce(zone.nrBlocks, order)}`,
        );
    }
    if (nrFree !== readOnce(zone.nrFree, 0))
      report.push(`buddy ${zone.name}: ${nrFree} free pages, counted ${readOnce(zone.nrFree, 0)}`);
  }
};

/** Every frame: free or used, and what its references are. */
export const checkFrames = (
  k: Kernel,
  census: Census,
  free: Uint8Array,
  report: string[],
): Holders => {
  const { frames } = k.state;
  const holders: Holders = {
    pins: 0,
    gets: 0,
    allocations: 0,
    locked: 0,
    isolated: 0,
    migrating: 0,
    sharedPins: [],
  };
  let blockEnd = 0; // of the allocated block that began before this page
  for (let page = 0; page < frames.nrPages; page++) {
    const flags = readOnce(frames.flags, page);
    const references = readOnce(frames.refcount, page);
    const mapcount = readOnce(frames.mapcount, page);
    if (mapcount !== census.mapcount[page]!)
      report.push(`page ${page}: mapcount ${mapcount}, ${census.mapcount[page]!} entries map it`);
    holders.migrating += census.migrating[page]!;
    if (free[page] !== 0) continue;
    if ((flags & PG_BUDDY) !== 0) report.push(`buddy: page ${page} is marked free and on no list`);
    if ((flags & PG_LOCKED) !== 0) holders.locked++;
    if (census.tables[page]! > 1) report.push(`page ${page} is a page table twice`);
    if ((flags & PG_TABLE) !== 0) {
      if (references < 1)
        report.push(`I11 page ${page}: a page table with ${references} references`);
      // A GUP-fast on its way may have counted what has become a table since it read the entry.
      holders.pins += Math.floor((references - 1) / GUP_PIN_COUNTING_BIAS);
      holders.gets += (references - 1) % GUP_PIN_COUNTING_BIAS;
      continue;
    }
    if ((flags & PG_TAIL) !== 0) continue;
    if (references <= 0) {
      // The rest of a block that was allocated as a whole has no references of its own.
      if (references < 0) report.push(`I11 page ${page}: ${references} references`);
      else if (page >= blockEnd)
        report.push(`buddy: page ${page} is lost: no references, on no free list`);
      continue;
    }
    blockEnd = page + (1 << readOnce(frames.private, page));
    countHolders(k, census, page, holders, report);
  }
  return holders;
};

/** One folio in use: subtracts what is accounted for, and sorts the rest into pins and gets. */
const countHolders = (
  k: Kernel,
  census: Census,
  folio: number,
  holders: Holders,
  report: string[],
): void => {
  const { frames } = k.state;
  const flags = readOnce(frames.flags, folio);
  let accounted = 0;
  for (let i = 0; i < folioNrPages(k, folio); i++)
    accounted += census.mapcount[folio + i]! + census.cached[folio + i]!;
  if ((flags & PG_ISOLATED) !== 0) {
    accounted++;
    holders.isolated++;
  }
  if ((flags & PG_RESERVED) !== 0) accounted++;
  const rest = readOnce(frames.refcount, folio) - accounted;
  if (rest < 0) {
    report.push(
      `I11 page ${folio}: ${accounted + rest} references, ${accounted} are accounted for`,
    );
    return;
  }
  const large = folioHasPincount(k, folio);
  const pins = large ? readOnce(frames.pincount, folio) : Math.floor(rest / GUP_PIN_COUNTING_BIAS);
  const gets = rest - pins * (large ? 1 : GUP_PIN_COUNTING_BIAS);
  holders.pins += pins;
  const owned = readOnce(frames.mapping, folio) !== 0 || accounted > 0;
  if (owned) holders.gets += gets;
  else if (gets > 0) holders.allocations++;
  if (pins > 0 && (flags & PG_ANON) !== 0 && !exclusive(k, folio)) holders.sharedPins.push(folio);
  if (census.cached[folio]! > 1) report.push(`cache: page ${folio} is in a page cache twice`);
};

/** Of a small folio its own flag; of a large one any page's. */
const exclusive = (k: Kernel, folio: number): boolean => {
  for (let i = 0; i < folioNrPages(k, folio); i++)
    if (folioTestFlags(k, folio + i, PG_ANON_EXCLUSIVE)) return true;
  return (readOnce(k.state.frames.flags, folio) & (PG_HEAD | PG_ANON)) === 0;
};
