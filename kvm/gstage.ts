/**
 * G-stage page tables: Sv39x4 in machine RAM, as the harts walk them. Privileged ISA 1.13, 15.5.1.
 *
 *   gpa  40     30 29    21 20    12 11         0
 *       | VPN[2]  | VPN[1] | VPN[0] |  offset    |     VPN[2] has 11 bits: the root is 16 KiB
 *
 * A leaf maps 4 KiB, at level 1 2 MiB, at level 2 1 GiB. A smaller mapping below a larger one takes it
 * apart first; a larger one over smaller ones takes their tables out, which are freed once the caller
 * has flushed TLBs. A table page stays otherwise until the VM goes. Nothing here flushes: the caller
 * does, because it knows the range. Everything runs with the VM's lock held, which here means between
 * two yields. Compare arch/riscv/kvm/gstage.c.
 */
import {
  atomicAddRelaxed,
  fetchOr,
  listPush,
  listRemoveAt,
  readOnce,
  setField,
  writeOnce,
} from '#cells';
import {
  PTE_A,
  PTE_BYTES,
  PTE_D,
  PTE_R,
  PTE_U,
  PTE_V,
  PTE_W,
  PTE_X,
  pteHi,
  pteLeaf,
  pteLo,
  ptePpn,
  RAM_PFN_BASE,
} from '#emu';
import { allocPages, freePages, GFP_ZERO, type Kernel, PG_TABLE, pageToPfn } from '#mm';

/** First gpa that Sv39x4 does not translate. */
export const GSTAGE_GPA_LIMIT = 2 ** 41;
/** The root: 2048 entries, 1 << 2 pages, aligned to their size. */
export const GSTAGE_ROOT_ORDER = 2;
/** Highest level of a leaf: 1 GiB. */
export const GSTAGE_MAX_LEVEL = 2;
const LEVELS = 3;
const VPN_BITS = 9;
const VPN_MASK = (1 << VPN_BITS) - 1;
const TABLE_ENTRIES = 1 << VPN_BITS;

/** Pages that a leaf of a level maps. */
const gstagePages = (level: number): number => 1 << (VPN_BITS * level);
/** Bytes that a leaf of a level maps. */
export const gstageBytes = (level: number): number => gstagePages(level) * 4096;

/** Leaf flags. U is set in all of them (15.5.1); A and D so that hardware has nothing to update. */
export const GSTAGE_READ_ONLY = PTE_V | PTE_R | PTE_X | PTE_U | PTE_A;
export const GSTAGE_READ_WRITE = GSTAGE_READ_ONLY | PTE_W | PTE_D;

/** What gstageMap did. */
export const GSTAGE_MAPPED = 0;
/** The same entry was there already, or a larger one that says as much. */
export const GSTAGE_UNCHANGED = 1;
/** Something else was there: TLBs may hold it. After the flush, gstageFreeDetached(). */
export const GSTAGE_REPLACED = 2;

/** One VM's tables. Plain data: the tables themselves are in RAM. */
export interface GStage {
  /** First page of the root. */
  root: number;
  /** Table pages below the root. */
  tables: number[];
  /** Table pages that nothing points to any more, except perhaps TLBs. */
  detached: number[];
  /** Pages of 4 KiB that are mapped. */
  nrMapped: number;
  /** Valid leaves by level. */
  leaves: Int32Array;
}

/** @returns tables that translate nothing, or -ENOMEM */
export const gstageCreate = (k: Kernel): GStage | number => {
  const root = allocPages(k, GSTAGE_ROOT_ORDER, GFP_ZERO);
  if (root < 0) return root;
  const { flags, refcount } = k.state.frames;
  for (let page = root; page < root + (1 << GSTAGE_ROOT_ORDER); page++) {
    fetchOr(flags, page, PG_TABLE);
    // Four table pages rather than one block: each has its reference. Compare split_page().
    writeOnce(refcount, page, 1);
  }
  return { root, tables: [], detached: [], nrMapped: 0, leaves: new Int32Array(LEVELS) };
};

/** Gives the table pages back. No hart may have them in hgatp any more. */
export const gstageFree = (k: Kernel, g: GStage): void => {
  gstageFreeDetached(k, g);
  for (const table of g.tables) freePages(k, table, 0);
  freePages(k, g.root, GSTAGE_ROOT_ORDER);
  setField(g, 'tables', []);
  setField(g, 'nrMapped', 0);
  setField(g, 'leaves', new Int32Array(LEVELS));
};

/** Gives back the tables that a huge leaf has replaced: no TLB has them any more. */
export const gstageFreeDetached = (k: Kernel, g: GStage): void => {
  for (const table of g.detached) freePages(k, table, 0);
  if (g.detached.length > 0) setField(g, 'detached', []);
};

/** Pages that the tables take. */
export const gstageNrTablePages = (g: GStage): number =>
  g.tables.length + g.detached.length + (1 << GSTAGE_ROOT_ORDER);

/** Page frame number of the root, as hgatp.PPN wants it. */
export const gstageRootPfn = (g: GStage): number => pageToPfn(g.root);

const gfnOf = (gpa: number): number => Math.floor(gpa / 4096);

const countLeaf = (g: GStage, level: number, delta: 1 | -1): void => {
  setField(g, 'nrMapped', g.nrMapped + delta * gstagePages(level));
  atomicAddRelaxed(g.leaves, level, delta);
};

/** Index of entry `gfn` of a table at `level`, in words of memory.i32. */
const entryIndex = (k: Kernel, table: number, gfn: number, level: number): number => {
  const vpn = gfn >>> (VPN_BITS * level);
  const slot = level === LEVELS - 1 ? vpn : vpn & VPN_MASK;
  return (k.memory.pageOffset(table) + slot * PTE_BYTES) >>> 2;
};

/** Stores an entry so that a walk between the two halves sees it invalid. */
const setEntry = (words: Int32Array, index: number, lo: number, hi: number): void => {
  writeOnce(words, index, 0);
  writeOnce(words, index + 1, hi);
  writeOnce(words, index, lo);
};

/** The table that a pointer leads to. */
const tableOf = (words: Int32Array, index: number, lo: number): number =>
  ptePpn(lo, readOnce(words, index + 1)) - RAM_PFN_BASE;

/** A page for a table. @returns -ENOMEM */
const tableAlloc = (k: Kernel, g: GStage): number => {
  const table = allocPages(k, 0, GFP_ZERO);
  if (table < 0) return table;
  fetchOr(k.state.frames.flags, table, PG_TABLE);
  listPush(g.tables, table);
  return table;
};

const pointTo = (k: Kernel, index: number, table: number): void => {
  const pfn = pageToPfn(table);
  setEntry(k.memory.i32, index, pteLo(pfn, PTE_V), pteHi(pfn));
};

/** A word and a level in one number, as findLeaf() gives them. */
const PLACE_LEVELS = 4;

/** The leaf that maps a page: its word and level in one number; -1 without one. */
const findLeaf = (k: Kernel, g: GStage, gfn: number): number => {
  const words = k.memory.i32;
  let table = g.root;
  for (let level = LEVELS - 1; ; level--) {
    const index = entryIndex(k, table, gfn, level);
    const lo = readOnce(words, index);
    if ((lo & PTE_V) === 0) return -1;
    if (pteLeaf(lo)) return index * PLACE_LEVELS + level;
    table = tableOf(words, index, lo);
  }
};
const placeWord = (place: number): number => Math.floor(place / PLACE_LEVELS);
const placeLevel = (place: number): number => place % PLACE_LEVELS;

/** The frame of a page below a leaf. */
const pfnInLeaf = (words: Int32Array, word: number, level: number, gfn: number): number =>
  ptePpn(readOnce(words, word), readOnce(words, word + 1)) + (gfn & (gstagePages(level) - 1));

/** A huge leaf becomes a table of the next level that says the same. @returns the table, or -ENOMEM */
const splitLeaf = (k: Kernel, g: GStage, index: number, level: number): number => {
  const words = k.memory.i32;
  const table = tableAlloc(k, g);
  if (table < 0) return table;
  const lo = readOnce(words, index);
  const first = ptePpn(lo, readOnce(words, index + 1));
  const step = gstagePages(level - 1);
  const base = k.memory.pageOffset(table) >>> 2;
  for (let i = 0; i < TABLE_ENTRIES; i++) {
    const pfn = first + i * step;
    writeOnce(words, base + 2 * i + 1, pteHi(pfn));
    writeOnce(words, base + 2 * i, pteLo(pfn, lo & FLAGS_MASK));
  }
  pointTo(k, index, table);
  atomicAddRelaxed(g.leaves, level, -1);
  atomicAddRelaxed(g.leaves, level - 1, TABLE_ENTRIES);
  return table;
};

/** The table and those below it leave the tree, with what they map. */
const detachTable = (k: Kernel, g: GStage, table: number, level: number): void => {
  const words = k.memory.i32;
  const base = k.memory.pageOffset(table) >>> 2;
  for (let i = 0; i < TABLE_ENTRIES; i++) {
    const lo = readOnce(words, base + 2 * i);
    if ((lo & PTE_V) === 0) continue;
    if (pteLeaf(lo)) countLeaf(g, level, -1);
    else detachTable(k, g, tableOf(words, base + 2 * i, lo), level - 1);
  }
  listRemoveAt(g.tables, g.tables.indexOf(table));
  listPush(g.detached, table);
};

/** Bits of an entry below its page number. */
const FLAGS_MASK = 0x3ff;

/** Does a leaf say all that `lo` says, so that nothing is to be done? It may have been aged meanwhile. */
const saysAsMuch = (oldLo: number, flags: number): boolean => ((oldLo | PTE_A) & flags) === flags;

/**
 * Maps the page at `gpa`, or the 2 MiB or 1 GiB from there on, to a frame.
 * @param gpa, pfn aligned to what a leaf of `level` maps
 * @param flags GSTAGE_READ_ONLY or GSTAGE_READ_WRITE
 * @returns GSTAGE_MAPPED, GSTAGE_UNCHANGED, GSTAGE_REPLACED, or -ENOMEM
 */
export const gstageMap = (
  k: Kernel,
  g: GStage,
  gpa: number,
  pfn: number,
  flags: number,
  level = 0,
): number => {
  const words = k.memory.i32;
  const gfn = gfnOf(gpa);
  let table = g.root;
  let result = GSTAGE_MAPPED;
  for (let at = LEVELS - 1; at > level; at--) {
    const index = entryIndex(k, table, gfn, at);
    const lo = readOnce(words, index);
    if ((lo & PTE_V) !== 0 && !pteLeaf(lo)) {
      table = tableOf(words, index, lo);
      continue;
    }
    if ((lo & PTE_V) !== 0) {
      if (pfnInLeaf(words, index, at, gfn) === pfn && saysAsMuch(lo, flags))
        return GSTAGE_UNCHANGED;
      table = splitLeaf(k, g, index, at);
      result = GSTAGE_REPLACED;
    } else {
      table = tableAlloc(k, g);
      if (table >= 0) pointTo(k, index, table);
    }
    if (table < 0) return table;
  }
  const index = entryIndex(k, table, gfn, level);
  const oldLo = readOnce(words, index);
  const lo = pteLo(pfn, flags);
  const hi = pteHi(pfn);
  if ((oldLo & PTE_V) !== 0) {
    result = GSTAGE_REPLACED;
    if (!pteLeaf(oldLo)) {
      detachTable(k, g, tableOf(words, index, oldLo), level - 1);
      countLeaf(g, level, 1);
    } else if (oldLo === lo && readOnce(words, index + 1) === hi) return GSTAGE_UNCHANGED;
  } else countLeaf(g, level, 1);
  setEntry(words, index, lo, hi);
  return result;
};

/** What is mapped at `gpa`: its flags (PTE_*), 0 for nothing. */
export const gstageFlags = (k: Kernel, g: GStage, gpa: number): number => {
  const place = findLeaf(k, g, gfnOf(gpa));
  return place < 0 ? 0 : readOnce(k.memory.i32, placeWord(place)) & FLAGS_MASK;
};

/** The frame that `gpa` is mapped to: its page frame number, or -1. */
export const gstagePfn = (k: Kernel, g: GStage, gpa: number): number => {
  const gfn = gfnOf(gpa);
  const place = findLeaf(k, g, gfn);
  return place < 0 ? -1 : pfnInLeaf(k.memory.i32, placeWord(place), placeLevel(place), gfn);
};

/** Level of the leaf that maps `gpa`, or -1. */
export const gstageLevel = (k: Kernel, g: GStage, gpa: number): number => {
  const place = findLeaf(k, g, gfnOf(gpa));
  return place < 0 ? -1 : placeLevel(place);
};

/**
 * The first mapped page in [gpa, endGpa). Skips what has no table, so that a sparse range is quick.
 * @returns its gpa, which may be in the middle of a huge leaf; or -1
 */
export const gstageNextMapped = (k: Kernel, g: GStage, gpa: number, endGpa: number): number => {
  const words = k.memory.i32;
  const end = gfnOf(endGpa + 4095);
  let gfn = gfnOf(gpa);
  while (gfn < end) {
    let table = g.root;
    let level = LEVELS - 1;
    for (; ; level--) {
      const index = entryIndex(k, table, gfn, level);
      const lo = readOnce(words, index);
      if ((lo & PTE_V) === 0) break;
      if (pteLeaf(lo)) return gfn * 4096;
      table = tableOf(words, index, lo);
    }
    const step = gstagePages(level);
    gfn = gfn - (gfn & (step - 1)) + step;
  }
  return -1;
};

/**
 * Removes the leaf that maps a page, all of it.
 * @returns the page frame number that `gpa` had, or -1 when there was none
 */
export const gstageUnmap = (k: Kernel, g: GStage, gpa: number): number => {
  const gfn = gfnOf(gpa);
  const place = findLeaf(k, g, gfn);
  if (place < 0) return -1;
  const words = k.memory.i32;
  const word = placeWord(place);
  const pfn = pfnInLeaf(words, word, placeLevel(place), gfn);
  writeOnce(words, word, 0);
  writeOnce(words, word + 1, 0);
  countLeaf(g, placeLevel(place), -1);
  return pfn;
};

/** First gpa behind the leaf that maps `gpa`, or behind its page where nothing does. */
const leafEnd = (k: Kernel, g: GStage, gpa: number): number => {
  const bytes = gstageBytes(Math.max(0, gstageLevel(k, g, gpa)));
  return gpa - (gpa % bytes) + bytes;
};

/** Removes every leaf that maps any of [gpa, endGpa). @returns how many there were */
export const gstageUnmapRange = (k: Kernel, g: GStage, gpa: number, endGpa: number): number => {
  let zapped = 0;
  let at = gstageNextMapped(k, g, gpa, endGpa);
  while (at >= 0) {
    const next = leafEnd(k, g, at);
    gstageUnmap(k, g, at);
    zapped++;
    at = gstageNextMapped(k, g, next, endGpa);
  }
  return zapped;
};

/** Takes W and D from the leaf that maps a page. @returns true when it was writable */
export const gstageWriteProtect = (k: Kernel, g: GStage, gpa: number): boolean => {
  const place = findLeaf(k, g, gfnOf(gpa));
  if (place < 0) return false;
  const word = placeWord(place);
  const lo = readOnce(k.memory.i32, word);
  if ((lo & PTE_W) === 0) return false;
  writeOnce(k.memory.i32, word, lo & ~(PTE_W | PTE_D));
  return true;
};

/** Takes W and D from every leaf that maps any of [gpa, endGpa). @returns how many were writable */
export const gstageWriteProtectRange = (
  k: Kernel,
  g: GStage,
  gpa: number,
  endGpa: number,
): number => {
  let changed = 0;
  let at = gstageNextMapped(k, g, gpa, endGpa);
  while (at >= 0) {
    if (gstageWriteProtect(k, g, at)) changed++;
    at = gstageNextMapped(k, g, leafEnd(k, g, at), endGpa);
  }
  return changed;
};

/** Gives W and D to the leaf that maps a page, if that is of 4 KiB. @returns false for another, or none */
export const gstageMakeWritable = (k: Kernel, g: GStage, gpa: number): boolean => {
  const place = findLeaf(k, g, gfnOf(gpa));
  if (place < 0 || placeLevel(place) > 0) return false;
  const word = placeWord(place);
  writeOnce(k.memory.i32, word, readOnce(k.memory.i32, word) | PTE_W | PTE_D);
  return true;
};

/**
 * Has the guest used any page of [gpa, endGpa), as the A bits of its leaves say?
 * @param clear it has not, from now on; TLBs may know better until they are flushed
 */
export const gstageAge = (
  k: Kernel,
  g: GStage,
  gpa: number,
  endGpa: number,
  clear: boolean,
): boolean => {
  let young = false;
  let at = gstageNextMapped(k, g, gpa, endGpa);
  while (at >= 0) {
    const place = findLeaf(k, g, gfnOf(at));
    const word = placeWord(place);
    const lo = readOnce(k.memory.i32, word);
    if ((lo & PTE_A) !== 0) {
      young = true;
      if (!clear) return true;
      writeOnce(k.memory.i32, word, lo & ~PTE_A);
    }
    at = gstageNextMapped(k, g, leafEnd(k, g, at), endGpa);
  }
  return young;
};
