/**
 * Sanitizer: what the frame table must satisfy, held against the census.
 *
 * I2 (judged in sanitizer.ts) a pinned anonymous folio is exclusive. I11 references = entries +
 * caches + isolation + pins + plain references; a pin is 1024 of a small folio and 1 of a large one,
 * which counts its pins apart. Besides: every frame is free or in use, and only one thing; the
 * mapcounts are those of the entries.
 */
import { folioHasPincount, GUP_PIN_COUNTING_BIAS } from '../folio/pin.ts';
import {
  PG_ANON,
  PG_ANON_EXCLUSIVE,
  PG_BUDDY,
  PG_HEAD,
  PG_HUGETLB,
  PG_HWPOISON,
  PG_ISOLATED,
  PG_LOCKED,
  PG_RESERVED,
  PG_TABLE,
  PG_TAIL,
} from '../frames/table.ts';
import type { Kernel } from '../types.ts';
import { FREE_POOL } from './buddy.ts';
import { missingFromSwapCache } from './caches.ts';
import type { Census } from './census.ts';

/** What the references say that neither tables nor caches account for. */
export interface Holders {
  pins: number;
  /** Plain references, of nobody who is known by name, to pages that belong to an address space or a file. */
  gets: number;
  /** Folios with a pin of nobody known by name, and how many; or with fewer pins than are known: negative. */
  strangePins: Map<number, number>;
  /** Frames that somebody allocated for himself: no table, no cache, no anonymous page. */
  allocations: number;
  locked: number;
  isolated: number;
  migrating: number;
  /** Anonymous folios that are pinned and not exclusive: allowed only to a GUP-fast that will undo it. */
  sharedPins: number[];
  /** Huge pages of hugetlb in use, by order. */
  hugetlb: Map<number, number>;
}

/** Every frame: free or used, and what its references are. */
export const checkFrames = (k: Kernel, census: Census, report: string[]): Holders => {
  const { flags, refcount, mapcount, private: orders, nrPages } = k.state.frames;
  const { free, mapcount: entries, migrating, tables } = census;
  const holders: Holders = {
    pins: 0,
    gets: 0,
    allocations: 0,
    locked: 0,
    isolated: 0,
    migrating: 0,
    strangePins: new Map(),
    sharedPins: [],
    hugetlb: new Map(),
  };
  let blockEnd = 0; // of the allocated block that began before this page
  for (let page = 0; page < nrPages; page++) {
    if (mapcount[page] !== entries[page])
      report.push(`page ${page}: mapcount ${mapcount[page]!}, ${entries[page]!} entries map it`);
    if (free[page] !== 0) continue;
    const word = flags[page]!;
    holders.migrating += migrating[page]!;
    if ((word & PG_TAIL) !== 0) {
      checkTail(k, page, report);
      continue;
    }
    const references = refcount[page]!;
    if ((word & PG_BUDDY) !== 0) report.push(`buddy: page ${page} is marked free and on no list`);
    if ((word & PG_LOCKED) !== 0) holders.locked++;
    if (tables[page]! > 1) report.push(`page ${page} is a page table twice`);
    if ((word & PG_TABLE) !== 0) {
      countTable(page, references, holders, report);
      continue;
    }
    if (references <= 0) {
      // The rest of a block that was allocated as a whole has no references of its own.
      if (references < 0) report.push(`I11 page ${page}: ${references} references`);
      else if (page >= blockEnd)
        report.push(`buddy: page ${page} is lost: no references, on no free list`);
      continue;
    }
    blockEnd = page + (1 << orders[page]!);
    countHolders(k, census, page, holders, report);
  }
  return holders;
};

/** A GUP-fast on its way may have counted what has become a table since it read the entry. */
const countTable = (page: number, references: number, holders: Holders, report: string[]): void => {
  if (references < 1) report.push(`I11 page ${page}: a page table with ${references} references`);
  holders.pins += Math.floor((references - 1) / GUP_PIN_COUNTING_BIAS);
  holders.gets += (references - 1) % GUP_PIN_COUNTING_BIAS;
};

const checkTail = (k: Kernel, page: number, report: string[]): void => {
  const { flags, head, private: orders, refcount } = k.state.frames;
  const folio = head[page]!;
  if ((flags[folio]! & PG_HEAD) === 0 || folio >= page || page >= folio + (1 << orders[folio]!))
    report.push(`page ${page} is a tail, and ${folio} not its head`);
  if (refcount[page] !== 0)
    report.push(`I11 page ${page}: a tail with ${refcount[page]!} references`);
};

/** Entire and large mapcount, where they are kept (mm/folio/large.ts). */
const checkLargeCounts = (k: Kernel, census: Census, folio: number, report: string[]): void => {
  const { index, pincount } = k.state.frames;
  const entire = index[folio + 1]!;
  const large = pincount[folio + 1]!;
  if (entire !== census.entire[folio])
    report.push(
      `folio ${folio}: entire mapcount ${entire}, ${census.entire[folio]!} entries map all of it`,
    );
  if (large !== census.entries[folio])
    report.push(
      `folio ${folio}: large mapcount ${large}, ${census.entries[folio]!} entries map something of it`,
    );
};

/** One folio in use: subtracts what is accounted for, and sorts the rest into pins and gets. */
const countHolders = (
  k: Kernel,
  census: Census,
  folio: number,
  holders: Holders,
  report: string[],
): void => {
  const { flags, refcount, pincount, mapping, private: orders } = k.state.frames;
  const word = flags[folio]!;
  const large = folioHasPincount(k, folio);
  if (large) checkLargeCounts(k, census, folio, report);
  if ((word & PG_HUGETLB) !== 0) {
    const order = orders[folio]!;
    holders.hugetlb.set(order, (holders.hugetlb.get(order) ?? 0) + 1);
  }
  if (missingFromSwapCache(k, folio))
    report.push(`swap: page ${folio} says that it is cached, and is not`);
  let accounted = census.entries[folio]! + census.held[folio]!;
  if ((word & PG_ISOLATED) !== 0) {
    accounted++;
    holders.isolated++;
  }
  if ((word & PG_RESERVED) !== 0) accounted++;
  const rest = refcount[folio]! - accounted;
  if (rest < 0) {
    report.push(
      `I11 page ${folio}: ${accounted + rest} references, ${accounted} are accounted for`,
    );
    return;
  }
  const pins = large ? pincount[folio]! : Math.floor(rest / GUP_PIN_COUNTING_BIAS);
  let gets = rest - pins * (large ? 1 : GUP_PIN_COUNTING_BIAS);
  // Whoever found it broken keeps it for ever.
  if (gets > 0 && (word & PG_HWPOISON) !== 0) gets--;
  holders.pins += pins;
  if (pins !== census.pinned[folio]) holders.strangePins.set(folio, pins - census.pinned[folio]!);
  const owned = mapping[folio] !== 0 || accounted > 0;
  if (owned) holders.gets += gets;
  else if (gets > 0) holders.allocations++;
  if (pins > 0 && (word & PG_ANON) !== 0 && !exclusive(k, folio)) holders.sharedPins.push(folio);
};

/** Of a large folio which page is pinned is not counted: any page's flag will do. */
const exclusive = (k: Kernel, folio: number): boolean => {
  const { flags, private: orders } = k.state.frames;
  const nr = folioHasPincount(k, folio) ? 1 << orders[folio]! : 1;
  for (let page = folio; page < folio + nr; page++)
    if ((flags[page]! & PG_ANON_EXCLUSIVE) !== 0) return true;
  return false;
};

/** The pools again, with the huge pages in use: all of them are the pool's. */
export const checkPoolSizes = (
  k: Kernel,
  { free }: Census,
  { hugetlb }: Holders,
  report: string[],
): void => {
  for (const { order, nrPages, free: heads } of k.state.hugetlb.hstates) {
    const own = heads.filter((folio) => free[folio] === FREE_POOL).length;
    const used = hugetlb.get(order) ?? 0;
    if (own + used !== nrPages)
      report.push(
        `hugetlb order ${order}: ${own} free and ${used} in use, the pool counts ${nrPages}`,
      );
  }
};
