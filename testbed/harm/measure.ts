/**
 * What can still be done on a host while somebody holds pages of it: CMA, taking memory out of use,
 * compaction, and pinning the same memory for long. Nothing here lets the holder go on.
 */
import { PAGE_SIZE } from '#emu';
import {
  cmaAlloc,
  cmaDefaultArea,
  cmaRelease,
  compactZone,
  createMoveReport,
  drive,
  type HeldPage,
  ibUmemGet,
  ibUmemRelease,
  type Kernel,
  MEMORY_BLOCK_PAGES,
  nrFreeBlocks,
  offlinePages,
  onlinePages,
  type Umem,
  ZONE_MOVABLE,
} from '#mm';
import { type HarmHost, must } from './host.ts';

const MIB = 2 ** 20;
/** CMA is taken in pieces of so many bytes. */
export const CMA_PIECE_BYTES = 16 * MIB;
const CMA_PIECE_PAGES = CMA_PIECE_BYTES / PAGE_SIZE;
/** Linux goes over a block for ever; after so many rounds nothing is different any more. */
export const OFFLINE_ROUNDS = 8;
/** What is registered with an adapter, from each place on where pages are held. */
export const REGION_BYTES = MIB / 4;
const HUGE_ORDER = 9;
const HUGE_PAGES = 1 << HUGE_ORDER;
/** The order to compact for. */
const AS_FAR_AS_IT_GOES = -1;

/** Pages that could not be moved, and who had them: name -> pages. */
export interface Stuck {
  pages: number;
  holders: Record<string, number>;
}

/** Pieces of CMA that could be had, of those that there are. */
export interface CmaHarm extends Stuck {
  pieces: number;
  allocated: number;
  moved: number;
}

/** A memory block that went offline, or not. */
export interface OfflineHarm extends Stuck {
  offline: boolean;
  /** Times that the whole block was gone over. */
  rounds: number;
  moved: number;
}

export interface CompactionHarm extends Stuck {
  /** Free blocks of 2 MiB before and after. */
  before: number;
  after: number;
  moved: number;
}

export interface LongtermHarm {
  regions: number;
  registered: number;
}

/** Why a page is in a report that is mapped, and nothing else. */
const NOT_TRIED = 'busy';

const stuckOf = (held: readonly HeldPage[]): Stuck => {
  const stuck: Stuck = { pages: 0, holders: {} };
  const seen = new Set<number>();
  for (const { page, reason, holders } of held) {
    // What nobody holds was not tried any more, once it was known to be for nothing.
    if (seen.has(page) || (holders.length === 0 && reason === NOT_TRIED)) continue;
    seen.add(page);
    stuck.pages++;
    // Without numbers and functions: `vmsplice (get_user_pages_fast())` is vmsplice.
    const names = holders.length === 0 ? [reason] : holders.map((name) => name.split(' (')[0]!);
    for (const name of new Set(names)) stuck.holders[name] = (stuck.holders[name] ?? 0) + 1;
  }
  return stuck;
};

/** Takes all of CMA, piece by piece, until one cannot be had, and gives it back. */
export function* measureCma({ k }: HarmHost): Generator<void, CmaHarm, undefined> {
  const area = cmaDefaultArea(k);
  if (area === null) throw new Error('the host has no CMA');
  const pieces = Math.floor(area.nrPages / CMA_PIECE_PAGES);
  const report = createMoveReport();
  const taken: number[] = [];
  while (taken.length < pieces) {
    const page = drive(cmaAlloc(k, CMA_PIECE_PAGES, CMA_PIECE_PAGES, report));
    if (page < 0) break;
    taken.push(page);
    yield;
  }
  for (const page of taken) cmaRelease(k, page, CMA_PIECE_PAGES);
  return { pieces, allocated: taken.length, moved: report.moved, ...stuckOf(report.held) };
}

/** First whole memory block of MOVABLE. */
const movableBlock = (k: Kernel): number => {
  const { firstPage, endPage } = k.state.zones[ZONE_MOVABLE]!;
  const block = Math.ceil(firstPage / MEMORY_BLOCK_PAGES) * MEMORY_BLOCK_PAGES;
  if (block + MEMORY_BLOCK_PAGES > endPage) throw new Error('MOVABLE has no whole memory block');
  return block;
};

/** Takes a memory block out of use, and brings it back. */
export const measureOffline = ({ k }: HarmHost): OfflineHarm => {
  const block = movableBlock(k);
  const { error, scans, moved, held } = drive(
    offlinePages(k, block, MEMORY_BLOCK_PAGES, { maxRounds: OFFLINE_ROUNDS }),
  );
  if (error === 0) must('online_pages', onlinePages(k, block, MEMORY_BLOCK_PAGES));
  return { offline: error === 0, rounds: scans, moved, ...stuckOf(held) };
};

const hugeBlocks = (k: Kernel): number =>
  k.state.zones.reduce(
    (sum, zone) => sum + nrFreeBlocks(zone, HUGE_ORDER) + 2 * nrFreeBlocks(zone, HUGE_ORDER + 1),
    0,
  );

/** Compacts every zone as far as it goes, as `echo 1 > /proc/sys/vm/compact_memory` does. */
export function* measureCompaction({ k }: HarmHost): Generator<void, CompactionHarm, undefined> {
  const before = hugeBlocks(k);
  const held: HeldPage[] = [];
  let moved = 0;
  for (const zone of k.state.zones) {
    if (zone.managedPages < HUGE_PAGES) continue;
    const report = drive(compactZone(k, zone, AS_FAR_AS_IT_GOES));
    moved += report.moved;
    held.push(...report.held);
    yield;
  }
  return { before, after: hugeBlocks(k), moved, ...stuckOf(held) };
}

/** Registers memory that is held, and what is around it, with an adapter, all of it at once. */
export function* measureLongterm(host: HarmHost): Generator<void, LongtermHarm, undefined> {
  const { k, mm, units } = host;
  const umems: Umem[] = [];
  for (const [i, hva] of units.entries()) {
    const umem = drive(ibUmemGet(k, mm, hva, REGION_BYTES, true));
    if (typeof umem !== 'number') umems.push(umem);
    if (i % 8 === 0) yield;
  }
  for (const umem of umems) drive(ibUmemRelease(k, umem));
  return { regions: units.length, registered: umems.length };
}
