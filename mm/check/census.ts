/**
 * The census behind the sanitizer: what page tables, caches and other known holders say about every
 * frame and swap slot, counted anew and compared with nothing; and the walk over the tables.
 *
 * The sanitizer is nobody's actor: it reads the arrays themselves, not through #cells, so that it
 * sees memory and not a store buffer, and leaves no trace in the access sets of the explorer.
 */
import { ATP_MODE_SV39, PAGE_SIZE, PTE_BYTES, PTE_PPN_SHIFT, RAM_OFFSET, RAM_PFN_BASE } from '#emu';
import { pteTable } from '../pgtable/pte.ts';
import type { Kernel, MmStruct } from '../types.ts';

/**
 * Counts per frame and per slot. Of a folio the counts are on its head, but for `mapcount`,
 * `migrating` and `tables`, which are each page's own.
 */
export interface Census {
  /** Last-level entries that map the page and are counted (not special). */
  mapcount: Int32Array;
  /** Entries of a directory that map the whole folio. */
  entire: Int32Array;
  /** Entries of both kinds that map something of the folio: as many references. */
  entries: Int32Array;
  /** Migration entries that name the page. */
  migrating: Int32Array;
  /** References of page caches, the swap cache, and others that are known by name. */
  held: Int32Array;
  /** Pins that are known by name. */
  pinned: Int32Array;
  /** Frames that are page-table pages of some address space. */
  tables: Uint8Array;
  /** 1: free, by the lists of the buddy allocator; 2: free in a hugetlb pool. */
  free: Uint8Array;
  /** Folios that are on an LRU list. */
  listed: Uint8Array;
  /** Id of the first address space that maps the page, 0 = none. */
  firstMm: Int32Array;
  /** By swap slot: entries that name it, and those of them that say they are the only one. */
  swapEntries: Int32Array;
  swapExclusive: Int32Array;
}

const createCensus = (nrPages: number, nrSlots: number): Census => ({
  mapcount: new Int32Array(nrPages),
  entire: new Int32Array(nrPages),
  entries: new Int32Array(nrPages),
  migrating: new Int32Array(nrPages),
  held: new Int32Array(nrPages),
  pinned: new Int32Array(nrPages),
  tables: new Uint8Array(nrPages),
  free: new Uint8Array(nrPages),
  listed: new Uint8Array(nrPages),
  firstMm: new Int32Array(nrPages),
  swapEntries: new Int32Array(nrSlots + 1),
  swapExclusive: new Int32Array(nrSlots + 1),
});

/** One set of arrays for each kernel, used again in every pass. */
const scratch = new WeakMap<Kernel, Census>();

/** A census with nothing counted yet. Valid until the next call for the same kernel. */
export const freshCensus = (k: Kernel): Census => {
  const { nrPages } = k.state.frames;
  const { nrSlots } = k.state.swap;
  const used = scratch.get(k);
  if (used !== undefined && used.free.length === nrPages && used.swapEntries.length > nrSlots) {
    for (const column of Object.values(used) as (Int32Array | Uint8Array)[]) column.fill(0);
    return used;
  }
  const census = createCensus(nrPages, nrSlots);
  scratch.set(k, census);
  return census;
};

/** What a walk calls for: every table, and every entry that is neither none nor a table. */
export interface TableVisitor {
  onTable: (page: number) => void;
  /** @param level 0 = last level; 1, 2: the entry of a directory */
  onEntry: (hva: number, entry: number, level: number) => void;
}

const PTRS_PER_TABLE = 512;
const WORDS_PER_PTE = PTE_BYTES / 4;

/** Visits every table and every entry of an address space, in order of address. @throws Error for a pointer out of RAM */
export const visitTables = (k: Kernel, mm: MmStruct, visitor: TableVisitor): void =>
  visitTable(k, mm, mm.pgd, k.satpMode === ATP_MODE_SV39 ? 2 : 3, 0, visitor);

const visitTable = (
  k: Kernel,
  mm: MmStruct,
  table: number,
  level: number,
  hva: number,
  visitor: TableVisitor,
): void => {
  visitor.onTable(table);
  const { i32, nrPages } = k.memory;
  const first = (RAM_OFFSET + table * PAGE_SIZE) / 4;
  const span = PAGE_SIZE * PTRS_PER_TABLE ** level;
  for (let i = 0; i < PTRS_PER_TABLE; i++) {
    const entry = i32[first + i * WORDS_PER_PTE]!;
    const at = hva + i * span;
    if (entry === 0) {
      // A collapse has taken the table off for a while: what it maps is still mapped by it.
      if (level === 1 && mm.collapsing?.hva === at)
        visitTable(k, mm, mm.collapsing.table, 0, at, visitor);
      continue;
    }
    if (level === 0 || !pteTable(entry)) {
      visitor.onEntry(at, entry, level);
      continue;
    }
    const below = (entry >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
    if (below < 0 || below >= nrPages)
      throw new Error(`mm ${mm.id}: hva 0x${at.toString(16)} level ${level}: bad table entry`);
    visitTable(k, mm, below, level - 1, at, visitor);
  }
};
