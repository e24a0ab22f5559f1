/**
 * Page tables of an IOMMU domain: Sv39 as a first stage, Sv39x4 as a second one, in RAM, as the IOMMU
 * walks them. Privileged ISA 1.13, 12.4 and 15.5.1; compare drivers/iommu/riscv/iommu.c,
 * riscv_iommu_map_pages() and riscv_iommu_unmap_pages().
 *
 * Leaves are as large as address, frame and length allow: 4 KiB, 2 MiB, 1 GiB. A table stays when its
 * last entry goes, until a larger leaf takes its place: then it is handed to the caller, who frees it
 * when no IOMMU can have a pointer to it any more. Nothing here invalidates anything.
 */
import { fetchOr, readOnce, writeOnce } from '#cells';
import {
  PAGE_SIZE,
  PTE_A,
  PTE_BYTES,
  PTE_D,
  PTE_R,
  PTE_U,
  PTE_V,
  PTE_W,
  pteHi,
  pteLeaf,
  pteLo,
  ptePpn,
  RAM_PFN_BASE,
} from '#emu';
import { allocPages, freePages, GFP_ZERO, type Kernel, PG_TABLE, pageToPfn } from '#mm';

const LEVELS = 3;
const VPN_BITS = 9;
const VPN_MASK = (1 << VPN_BITS) - 1;

/** The device may read; it may write too. A writable leaf is readable: W without R is reserved. */
export const IO_READ = PTE_V | PTE_R | PTE_U | PTE_A;
export const IO_READ_WRITE = IO_READ | PTE_W | PTE_D;

/** One domain's tables. Plain data: the tables themselves are in RAM. */
export interface IoTables {
  /** 1: IOVA to physical. 2: guest physical to physical, with two more bits of address. */
  stage: 1 | 2;
  /** First page of the root: one page, or four. */
  root: number;
  /** Pages that are mapped. */
  nrMapped: number;
}

/** Order of the root. */
const rootOrder = (stage: 1 | 2): number => (stage === 1 ? 0 : 2);

/** First address that is not translated. Of a first stage the upper half, sign-extended, is not used. */
export const ioLimit = (stage: 1 | 2): number => (stage === 1 ? 2 ** 38 : 2 ** 41);

const pagesOf = (level: number): number => 2 ** (VPN_BITS * level);

const allocTable = (k: Kernel, order: number): number => {
  const table = allocPages(k, order, GFP_ZERO);
  if (table < 0) return table;
  for (let page = table; page < table + (1 << order); page++) {
    fetchOr(k.state.frames.flags, page, PG_TABLE);
    writeOnce(k.state.frames.refcount, page, 1);
  }
  return table;
};

/** @returns tables that translate nothing, or -ENOMEM */
export const ioTablesCreate = (k: Kernel, stage: 1 | 2): IoTables | number => {
  const root = allocTable(k, rootOrder(stage));
  return root < 0 ? root : { stage, root, nrMapped: 0 };
};

/** Gives every table back. No IOMMU may have them any more. */
export const ioTablesFree = (k: Kernel, t: IoTables): void => {
  freeBelow(k, t, t.root, LEVELS - 1);
  freePages(k, t.root, rootOrder(t.stage));
  t.nrMapped = 0;
};

const freeBelow = (k: Kernel, t: IoTables, table: number, level: number): void => {
  if (level === 0) return;
  const entries = level === LEVELS - 1 && t.stage === 2 ? 2048 : 512;
  for (let slot = 0; slot < entries; slot++) {
    const below = tableAt(k, entryWord(k, table, slot));
    if (below < 0) continue;
    freeBelow(k, t, below, level - 1);
    freePages(k, below, 0);
  }
};

/** Page frame number of the root, as iosatp.PPN and iohgatp.PPN want it. */
export const ioRootPfn = (t: IoTables): number => pageToPfn(t.root);

/** Index of an entry in words of memory.i32. */
const entryWord = (k: Kernel, table: number, slot: number): number =>
  (k.memory.pageOffset(table) + slot * PTE_BYTES) >>> 2;

const slotOf = (t: IoTables, pfn: number, level: number): number => {
  const vpn = Math.floor(pfn / pagesOf(level));
  return level === LEVELS - 1 && t.stage === 2 ? vpn : vpn & VPN_MASK;
};

/** Table that the entry at `word` points to, -1: none. */
const tableAt = (k: Kernel, word: number): number => {
  const lo = readOnce(k.memory.i32, word);
  if ((lo & PTE_V) === 0 || pteLeaf(lo)) return -1;
  return ptePpn(lo, readOnce(k.memory.i32, word + 1)) - RAM_PFN_BASE;
};

/** Stores an entry so that a walk between the two halves sees it invalid. */
const setEntry = (k: Kernel, word: number, lo: number, hi: number): void => {
  const words = k.memory.i32;
  writeOnce(words, word, 0);
  writeOnce(words, word + 1, hi);
  writeOnce(words, word, lo);
};

/** The entry of `pfn` at `level`, made on the way if `alloc`. @returns its word; 0: a table is missing; -ENOMEM */
const walkTo = (k: Kernel, t: IoTables, pfn: number, level: number, alloc: boolean): number => {
  let table = t.root;
  for (let at = LEVELS - 1; ; at--) {
    const word = entryWord(k, table, slotOf(t, pfn, at));
    if (at === level) return word;
    const lo = readOnce(k.memory.i32, word);
    if ((lo & PTE_V) !== 0) {
      // Somebody else's leaf covers it.
      if (pteLeaf(lo)) return 0;
      table = ptePpn(lo, readOnce(k.memory.i32, word + 1)) - RAM_PFN_BASE;
      continue;
    }
    if (!alloc) return 0;
    const below = allocTable(k, 0);
    if (below < 0) return below;
    const ppn = pageToPfn(below);
    setEntry(k, word, pteLo(ppn, PTE_V), pteHi(ppn));
    table = below;
  }
};

/** Level of the largest leaf that can map `nrPages` from `pfn` on to frames from `page` on. */
const leafLevel = (pfn: number, page: number, nrPages: number): number => {
  let level = 0;
  while (level < LEVELS - 1) {
    const pages = pagesOf(level + 1);
    if (nrPages < pages || pfn % pages !== 0 || pageToPfn(page) % pages !== 0) break;
    level++;
  }
  return level;
};

/**
 * Maps a run of frames.
 * @param pfn first page of bus addresses
 * @param page first frame
 * @param prot IO_READ or IO_READ_WRITE
 * @param dropped told of tables that leaves have replaced
 * @returns 0, or -ENOMEM with a part of it mapped
 * @throws Error where something is mapped already
 */
export const ioMap = (
  k: Kernel,
  t: IoTables,
  pfn: number,
  page: number,
  nrPages: number,
  prot: number,
  dropped: number[],
): number => {
  for (let done = 0; done < nrPages; ) {
    const level = leafLevel(pfn + done, page + done, nrPages - done);
    const word = walkTo(k, t, pfn + done, level, true);
    if (word < 0) return word;
    if (word === 0 || (readOnce(k.memory.i32, word) & PTE_V) !== 0) {
      const table = word === 0 ? -1 : tableAt(k, word);
      if (table < 0 || !isEmpty(k, table, level - 1, dropped))
        throw new Error(`iova 0x${((pfn + done) * PAGE_SIZE).toString(16)} is mapped already`);
      dropped.push(table);
    }
    const ppn = pageToPfn(page + done);
    setEntry(k, word, pteLo(ppn, prot), pteHi(ppn));
    t.nrMapped += pagesOf(level);
    done += pagesOf(level);
  }
  return 0;
};

/** Nothing is mapped by the table; the empty ones below it go to `dropped`. */
const isEmpty = (k: Kernel, table: number, level: number, dropped: number[]): boolean => {
  for (let slot = 0; slot < 512; slot++) {
    const word = entryWord(k, table, slot);
    if ((readOnce(k.memory.i32, word) & PTE_V) === 0) continue;
    const below = tableAt(k, word);
    if (level === 0 || below < 0 || !isEmpty(k, below, level - 1, dropped)) return false;
    dropped.push(below);
  }
  return true;
};

/**
 * Clears the entries of [pfn, pfn + nrPages).
 * @returns pages that were mapped
 * @throws Error where a leaf reaches beyond the range: nobody maps a part of what he unmaps
 */
export const ioUnmap = (k: Kernel, t: IoTables, pfn: number, nrPages: number): number => {
  let unmapped = 0;
  for (let done = 0; done < nrPages; ) {
    const level = levelAt(k, t, pfn + done);
    const pages = pagesOf(level);
    const word = walkTo(k, t, pfn + done, level, false);
    const mapped = word > 0 && (readOnce(k.memory.i32, word) & PTE_V) !== 0;
    if (mapped) {
      if ((pfn + done) % pages !== 0 || done + pages > nrPages)
        throw new Error(`iova page ${pfn + done}: a part of a leaf of ${pages} pages is unmapped`);
      setEntry(k, word, 0, 0);
      unmapped += pages;
    }
    // What is not there is passed over entry by entry, as large as they are.
    done += mapped ? pages : pages - ((pfn + done) % pages);
  }
  t.nrMapped -= unmapped;
  return unmapped;
};

/** Level of the entry where the walk of `pfn` ends. */
const levelAt = (k: Kernel, t: IoTables, pfn: number): number => {
  let table = t.root;
  for (let level = LEVELS - 1; level > 0; level--) {
    table = tableAt(k, entryWord(k, table, slotOf(t, pfn, level)));
    if (table < 0) return level;
  }
  return 0;
};

/** Frame that a page of bus addresses reaches, -1: none; and whether it can be written to. */
export const ioEntry = (k: Kernel, t: IoTables, pfn: number): { page: number; write: boolean } => {
  const level = levelAt(k, t, pfn);
  const word = walkTo(k, t, pfn, level, false);
  const lo = word > 0 ? readOnce(k.memory.i32, word) : 0;
  if ((lo & PTE_V) === 0) return { page: -1, write: false };
  const first = ptePpn(lo, readOnce(k.memory.i32, word + 1)) - RAM_PFN_BASE;
  return { page: first + (pfn % pagesOf(level)), write: (lo & PTE_W) !== 0 };
};

/** Told of one leaf: pages of bus addresses from `pfn` on reach frames from `page` on. */
export type IoLeafVisitor = (pfn: number, page: number, nrPages: number, write: boolean) => void;

/** Visits every leaf, in ascending order. */
export const visitIoLeaves = (k: Kernel, t: IoTables, visit: IoLeafVisitor): void =>
  visitTable(k, t, t.root, LEVELS - 1, 0, visit);

const visitTable = (
  k: Kernel,
  t: IoTables,
  table: number,
  level: number,
  first: number,
  visit: IoLeafVisitor,
): void => {
  const entries = level === LEVELS - 1 && t.stage === 2 ? 2048 : 512;
  for (let slot = 0; slot < entries; slot++) {
    const word = entryWord(k, table, slot);
    const lo = k.memory.i32[word]!;
    if ((lo & PTE_V) === 0) continue;
    const pfn = first + slot * pagesOf(level);
    const page = ptePpn(lo, k.memory.i32[word + 1]!) - RAM_PFN_BASE;
    if (pteLeaf(lo)) visit(pfn, page, pagesOf(level), (lo & PTE_W) !== 0);
    else visitTable(k, t, page, level - 1, pfn, visit);
  }
};
