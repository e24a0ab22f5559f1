/**
 * The census behind the sanitizer: what every page table of every address space says, counted
 * anew and compared with nothing. Reads all, changes nothing.
 */
import {
  ATP_MODE_SV39,
  PAGE_SIZE,
  PTE_BYTES,
  PTE_PPN_SHIFT,
  PTE_R,
  PTE_V,
  PTE_W,
  PTE_X,
  RAM_PFN_BASE,
} from '#emu';
import { readOnce } from '#cells';
import type { Kernel, MmStruct } from '../types.ts';

/** One entry that is not none, as the census meets it. */
export type EntryVisitor = (mm: MmStruct, hva: number, entry: number) => void;
/** One page-table page, the root among them. */
export type TableVisitor = (mm: MmStruct, page: number) => void;

const PTRS_PER_TABLE = 512;

/** Levels of the host's page tables. */
const levelsOf = (k: Kernel): number => (k.satpMode === ATP_MODE_SV39 ? 3 : 4);

/** Visits every table and every entry of an address space, in order of address. */
export const visitTables = (
  k: Kernel,
  mm: MmStruct,
  onTable: TableVisitor,
  onEntry: EntryVisitor,
): void => visitTable(k, mm, mm.pgd, levelsOf(k) - 1, 0, onTable, onEntry);

const visitTable = (
  k: Kernel,
  mm: MmStruct,
  table: number,
  level: number,
  hva: number,
  onTable: TableVisitor,
  onEntry: EntryVisitor,
): void => {
  onTable(mm, table);
  const word = k.memory.pageOffset(table) / 4;
  const span = PAGE_SIZE * PTRS_PER_TABLE ** level;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = readOnce(k.memory.i32, word + (i * PTE_BYTES) / 4);
    if (entry === 0) continue;
    const at = hva + i * span;
    const pointer = (entry & (PTE_V | PTE_R | PTE_W | PTE_X)) === PTE_V;
    const below = (entry >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
    if (level === 0) onEntry(mm, at, entry);
    else if (pointer && below >= 0 && below < k.memory.nrPages)
      visitTable(k, mm, below, level - 1, at, onTable, onEntry);
    else throw new Error(`mm ${mm.id}: hva 0x${at.toString(16)} level ${level}: bad table entry`);
  }
};

/** Counts per frame that the tables and caches give, to be held against the frame table. */
export interface Census {
  /** Present entries that map the frame and are counted (not special). */
  mapcount: Int32Array;
  /** Migration entries that name the frame. */
  migrating: Int32Array;
  /** Frames that are page-table pages of some address space. */
  tables: Int32Array;
  /** Frames in a page cache. */
  cached: Int32Array;
  /** Id of the first address space that maps the frame, 0 = none. */
  firstMm: Int32Array;
}

export const createCensus = (nrPages: number): Census => ({
  mapcount: new Int32Array(nrPages),
  migrating: new Int32Array(nrPages),
  tables: new Int32Array(nrPages),
  cached: new Int32Array(nrPages),
  firstMm: new Int32Array(nrPages),
});
