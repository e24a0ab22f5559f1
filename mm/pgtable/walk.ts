/**
 * Walking and building an address space's page tables: pages of RAM in the format of Sv39 or Sv48.
 * Compare mm/memory.c:__pte_alloc(), free_pgd_range().
 *
 * A leaf entry is named by its index in memory.i32 (its low half). What Linux does under the lock
 * of a page-table page is done here without a yield in between; after one the entry is read again.
 * An entry of a directory may map memory by itself: 2 MiB at level 1 (Linux's PMD), 1 GiB at
 * level 2 (PUD, of hugetlb alone). walkPte finds nothing there, so whoever meets huge memory asks
 * pmdLeafAt or walkLeaf first.
 */
import { ATP_MODE_SV48, PAGE_SIZE, PTE_PPN_SHIFT, PTE_V, RAM_OFFSET, RAM_PFN_BASE } from '#emu';
import { listPush, listRemoveAt, readOnce, setField, writeOnce } from '#cells';
import { ENOMEM } from '../errno.ts';
import { allocPages, freePages, GFP_ZERO } from '../frames/buddy.ts';
import { PG_TABLE } from '../frames/table.ts';
import { folioSetFlags } from '../folio/folio.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mkPte, pteLeaf, pteNone, ptePage, pteTable } from './pte.ts';
import { flushTlbMm } from './tlb.ts';

/** Entries of one table, and i32 words of one entry. */
export const PTRS_PER_TABLE = 512;
export const PTE_WORDS = 2;
/** Bytes that one leaf table maps. */
export const PMD_SIZE = PAGE_SIZE * PTRS_PER_TABLE;
/** Bytes that one entry maps, by level: 4 KiB, 2 MiB, 1 GiB, 512 GiB, 256 TiB. */
const LEVEL_BYTES = [PAGE_SIZE, 2 ** 21, 2 ** 30, 2 ** 39, 2 ** 48] as const;

const topLevel = (k: Kernel): number => (k.satpMode === ATP_MODE_SV48 ? 3 : 2);

/** First address above user space. */
export const taskSize = (k: Kernel): number => (k.satpMode === ATP_MODE_SV48 ? 2 ** 47 : 2 ** 38);

const levelBytes = (level: number): number => LEVEL_BYTES[level] ?? 0;

/** Word of the entry for `hva` in a table of a level. */
const entryWord = (table: number, level: number, hva: number): number =>
  ((RAM_OFFSET + table * PAGE_SIZE) >>> 2) +
  ((hva / levelBytes(level)) & (PTRS_PER_TABLE - 1)) * PTE_WORDS;

/** A zeroed page-table page; -ENOMEM. */
const tableAlloc = (k: Kernel, mm: MmStruct): number => {
  const page = allocPages(k, 0, GFP_ZERO);
  if (page < 0) return page;
  folioSetFlags(k, page, PG_TABLE);
  setField(mm, 'nrTables', mm.nrTables + 1);
  return page;
};

/** Gives a table back that no entry points to any more, and no TLB. */
export const tableFree = (k: Kernel, mm: MmStruct, page: number): void => {
  setField(mm, 'nrTables', mm.nrTables - 1);
  freePages(k, page, 0);
};

/** Makes the root table of a new address space. @returns 0 or -ENOMEM */
export const pgdAlloc = (k: Kernel, mm: MmStruct): number => {
  const page = tableAlloc(k, mm);
  if (page < 0) return page;
  setField(mm, 'pgd', page);
  return 0;
};

/** Gives the root back; nothing may be left below it. */
export const pgdFree = (k: Kernel, mm: MmStruct): void => {
  tableFree(k, mm, mm.pgd);
  if (mm.nrTables !== 0) throw new Error(`mm ${mm.id}: ${mm.nrTables} page tables left at exit`);
};

/**
 * Finds the entry of an address at a level, whatever is in it.
 * @param level 0 = leaf table, 1 = PMD, 2 = PUD
 * @param alloc make the tables that are missing
 * @returns its index in memory.i32; 0 where a table is missing, or where a larger leaf is; -ENOMEM
 * @throws Error with `alloc` where a larger leaf is in the way: it is to be split before
 */
export const walkEntry = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  level: number,
  alloc: boolean,
): number => {
  const { i32 } = k.memory;
  let table = mm.pgd;
  for (let at = topLevel(k); at > level; at--) {
    const word = entryWord(table, at, hva);
    const entry = readOnce(i32, word);
    if (pteTable(entry)) {
      table = (entry >>> PTE_PPN_SHIFT) - RAM_PFN_BASE;
      continue;
    }
    if (!alloc) return 0;
    if (!pteNone(entry))
      throw new Error(`mm ${mm.id}: a huge entry at hva ${hva} is in the way of a table`);
    table = tableAlloc(k, mm);
    if (table < 0) return -ENOMEM;
    writeOnce(i32, word, mkPte(table, PTE_V));
  }
  return entryWord(table, level, hva);
};

/** walkEntry of the leaf table. */
export const walkPte = (k: Kernel, mm: MmStruct, hva: number, alloc: boolean): number =>
  walkEntry(k, mm, hva, 0, alloc);

/** Word of the PMD entry of `hva` where that maps 2 MiB by itself, else 0. */
export const pmdLeafAt = (k: Kernel, mm: MmStruct, hva: number): number => {
  const word = walkEntry(k, mm, hva, 1, false);
  return word > 0 && pteLeaf(readOnce(k.memory.i32, word)) ? word : 0;
};

/**
 * Finds the entry that ends the walk: at any level, a present leaf, one that is not present, or none.
 * @returns word and level in one number: leafWord() and leafLevel() take it apart
 */
export const walkLeaf = (k: Kernel, mm: MmStruct, hva: number): number => {
  let table = mm.pgd;
  for (let level = topLevel(k); ; level--) {
    const word = entryWord(table, level, hva);
    if (level === 0) return word * LEAF_LEVELS;
    const entry = readOnce(k.memory.i32, word);
    if (!pteTable(entry)) return word * LEAF_LEVELS + level;
    table = ptePage(entry);
  }
};

/** What a word and a level in one number are taken apart by. */
export const LEAF_LEVELS = 4;
export const leafWord = (leaf: number): number => Math.floor(leaf / LEAF_LEVELS);
export const leafLevel = (leaf: number): number => leaf % LEAF_LEVELS;
/** Pages that an entry of a level maps: 1, 512, 262144. */
export const levelPages = (level: number): number => levelBytes(level) / PAGE_SIZE;

/** Frame that `hva` itself is in, where the present leaf `entry` of `level` maps it. */
export const leafPage = (entry: number, level: number, hva: number): number =>
  ptePage(entry) + (Math.floor(hva / PAGE_SIZE) % levelPages(level));

/** The first address from `hva` on, below `end`, that has a leaf table or a huge leaf; `end` without one. */
export const nextMapped = (k: Kernel, mm: MmStruct, hva: number, end: number): number => {
  const { i32 } = k.memory;
  const top = topLevel(k);
  let at = hva;
  while (at < end) {
    let table = mm.pgd;
    let level = top;
    let entry = 0;
    for (; level > 0; level--) {
      entry = readOnce(i32, entryWord(table, level, at));
      if (!pteTable(entry)) break;
      table = ptePage(entry);
    }
    if (level === 0 || !pteNone(entry)) return at;
    at = at - (at % levelBytes(level)) + levelBytes(level);
  }
  return end;
};

/** A table kept back for the day the huge entry that is about to be made is split. @returns 0 or -ENOMEM */
export const depositTable = (k: Kernel, mm: MmStruct): number => {
  const table = tableAlloc(k, mm);
  if (table < 0) return table;
  listPush(mm.deposited, table);
  return 0;
};

/** Takes a table that was kept back, zeroed. @throws Error without one */
export const withdrawTable = (mm: MmStruct): number => {
  const table = listRemoveAt(mm.deposited, mm.deposited.length - 1);
  if (table === undefined) throw new Error(`mm ${mm.id}: no table was deposited`);
  return table;
};

/** A huge entry goes without a split: one table less to keep. */
export const freeDeposited = (k: Kernel, mm: MmStruct): void => tableFree(k, mm, withdrawTable(mm));

/** Hangs a table below a PMD entry that is none, or a huge leaf that it replaces. */
export const setPmdTable = (k: Kernel, word: number, table: number): void =>
  writeOnce(k.memory.i32, word, mkPte(table, PTE_V));

/** End of the part of [hva, end) that the leaf table of `hva` maps. */
export const tableEnd = (hva: number, end: number): number =>
  Math.min(end, hva - (hva % PMD_SIZE) + PMD_SIZE);

/** Reads a leaf entry. */
export const ptepGet = (k: Kernel, word: number): number => readOnce(k.memory.i32, word);

/** Stores a leaf entry. The high half stays zero (pte.ts). */
export const setPteAt = (k: Kernel, word: number, pte: number): void =>
  writeOnce(k.memory.i32, word, pte);

/** Clears a leaf entry; returns what it was, with the A and D bits that the hardware set. */
export const ptepGetAndClear = (k: Kernel, word: number): number => {
  const pte = readOnce(k.memory.i32, word);
  writeOnce(k.memory.i32, word, 0);
  return pte;
};

/**
 * Frees the tables that only map [start, end) and what lies between the mappings on either side.
 * Nothing is mapped in [start, end) any more.
 * @param floor end of the mapping below, or 0
 * @param ceiling start of the mapping above, or the end of user space
 */
export const freePgtables = (
  k: Kernel,
  mm: MmStruct,
  start: number,
  end: number,
  floor: number,
  ceiling: number,
): void => {
  const tables: number[] = [];
  unlinkTables(k, mm.pgd, topLevel(k), start, end, floor, ceiling, tables);
  if (tables.length === 0) return;
  // Harts cache pointers to tables too: they forget them before a table becomes something else.
  flushTlbMm(k, mm);
  for (const table of tables) tableFree(k, mm, table);
};

const unlinkTables = (
  k: Kernel,
  table: number,
  level: number,
  start: number,
  end: number,
  floor: number,
  ceiling: number,
  freed: number[],
): void => {
  const { i32 } = k.memory;
  const bytes = levelBytes(level);
  for (let at = start - (start % bytes); at < end; at += bytes) {
    const word = entryWord(table, level, at);
    const entry = readOnce(i32, word);
    if ((entry & PTE_V) === 0) continue;
    if (!pteTable(entry)) throw new Error(`a huge entry is left at hva ${at}`);
    const child = ptePage(entry);
    if (level > 1) {
      const from = Math.max(start, at);
      unlinkTables(k, child, level - 1, from, Math.min(end, at + bytes), floor, ceiling, freed);
    }
    if (at < floor || at + bytes > ceiling) continue;
    writeOnce(i32, word, 0);
    freed.push(child);
  }
};
