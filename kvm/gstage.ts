/**
 * G-stage page tables: Sv39x4 in machine RAM, as the harts walk them. Privileged ISA 1.13, 15.5.1.
 *
 *   gpa  40     30 29    21 20    12 11         0
 *       | VPN[2]  | VPN[1] | VPN[0] |  offset    |     VPN[2] has 11 bits: the root is 16 KiB
 *
 * Only 4 KiB leaves are made. A table page stays until the VM goes. Nothing here flushes a TLB:
 * the caller does, because it knows the range. Everything runs with the VM's lock held, which here
 * means between two yields. Compare arch/riscv/kvm/gstage.c.
 */
import { fetchOr, listPush, readOnce, setField, writeOnce } from '#cells';
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
  pteLo,
  ptePpn,
  RAM_PFN_BASE,
} from '#emu';
import { allocPages, freePages, GFP_ZERO, type Kernel, PG_TABLE, pageToPfn } from '#mm';

/** First gpa that Sv39x4 does not translate. */
export const GSTAGE_GPA_LIMIT = 2 ** 41;
/** The root: 2048 entries, 1 << 2 pages, aligned to their size. */
export const GSTAGE_ROOT_ORDER = 2;
const LEVELS = 3;
const VPN_BITS = 9;
const VPN_MASK = (1 << VPN_BITS) - 1;
/** Pages under one entry of a level. */
const pagesOf = (level: number): number => 1 << (VPN_BITS * level);

/** Leaf flags. U is set in all of them (15.5.1); A and D so that hardware has nothing to update. */
export const GSTAGE_READ_ONLY = PTE_V | PTE_R | PTE_X | PTE_U | PTE_A;
export const GSTAGE_READ_WRITE = GSTAGE_READ_ONLY | PTE_W | PTE_D;

/** What gstageMap did. */
export const GSTAGE_MAPPED = 0;
/** The same entry was there already. */
export const GSTAGE_UNCHANGED = 1;
/** Another valid entry was there: TLBs may hold it. */
export const GSTAGE_REPLACED = 2;

/** One VM's tables. Plain data: the tables themselves are in RAM. */
export interface GStage {
  /** First page of the root. */
  root: number;
  /** Table pages below the root, in order of allocation. */
  tables: number[];
  /** Valid leaves. */
  nrMapped: number;
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
  return { root, tables: [], nrMapped: 0 };
};

/** Gives the table pages back. No hart may have them in hgatp any more. */
export const gstageFree = (k: Kernel, g: GStage): void => {
  for (const table of g.tables) freePages(k, table, 0);
  freePages(k, g.root, GSTAGE_ROOT_ORDER);
  setField(g, 'tables', []);
  setField(g, 'nrMapped', 0);
};

/** Pages that the tables take. */
export const gstageNrTablePages = (g: GStage): number => g.tables.length + (1 << GSTAGE_ROOT_ORDER);

/** Page frame number of the root, as hgatp.PPN wants it. */
export const gstageRootPfn = (g: GStage): number => pageToPfn(g.root);

const gfnOf = (gpa: number): number => Math.floor(gpa / 4096);

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

/**
 * The leaf entry of a gpa.
 * @param alloc make the tables on the way
 * @returns its index in words of memory.i32; 0 when a table is missing; -ENOMEM
 */
const walk = (k: Kernel, g: GStage, gfn: number, alloc: boolean): number => {
  const words = k.memory.i32;
  let table = g.root;
  for (let level = LEVELS - 1; level > 0; level--) {
    const index = entryIndex(k, table, gfn, level);
    const lo = readOnce(words, index);
    if ((lo & PTE_V) !== 0) {
      table = ptePpn(lo, readOnce(words, index + 1)) - RAM_PFN_BASE;
      continue;
    }
    if (!alloc) return 0;
    const next = allocPages(k, 0, GFP_ZERO);
    if (next < 0) return next;
    fetchOr(k.state.frames.flags, next, PG_TABLE);
    listPush(g.tables, next);
    setEntry(words, index, pteLo(pageToPfn(next), PTE_V), pteHi(pageToPfn(next)));
    table = next;
  }
  return entryIndex(k, table, gfn, 0);
};

/**
 * Maps the page at `gpa` to a frame.
 * @param flags GSTAGE_READ_ONLY or GSTAGE_READ_WRITE
 * @returns GSTAGE_MAPPED, GSTAGE_UNCHANGED, GSTAGE_REPLACED, or -ENOMEM
 */
export const gstageMap = (
  k: Kernel,
  g: GStage,
  gpa: number,
  pfn: number,
  flags: number,
): number => {
  const index = walk(k, g, gfnOf(gpa), true);
  if (index < 0) return index;
  const words = k.memory.i32;
  const lo = pteLo(pfn, flags);
  const hi = pteHi(pfn);
  const oldLo = readOnce(words, index);
  if ((oldLo & PTE_V) === 0) {
    setEntry(words, index, lo, hi);
    setField(g, 'nrMapped', g.nrMapped + 1);
    return GSTAGE_MAPPED;
  }
  if (oldLo === lo && readOnce(words, index + 1) === hi) return GSTAGE_UNCHANGED;
  setEntry(words, index, lo, hi);
  return GSTAGE_REPLACED;
};

/** What is mapped at `gpa`: its flags (PTE_*), 0 for nothing. */
export const gstageFlags = (k: Kernel, g: GStage, gpa: number): number => {
  const index = walk(k, g, gfnOf(gpa), false);
  const lo = index > 0 ? readOnce(k.memory.i32, index) : 0;
  return (lo & PTE_V) !== 0 ? lo & 0x3ff : 0;
};

/** The frame that `gpa` is mapped to: its page frame number, or -1. */
export const gstagePfn = (k: Kernel, g: GStage, gpa: number): number => {
  const index = walk(k, g, gfnOf(gpa), false);
  if (index <= 0) return -1;
  const lo = readOnce(k.memory.i32, index);
  return (lo & PTE_V) !== 0 ? ptePpn(lo, readOnce(k.memory.i32, index + 1)) : -1;
};

/**
 * The first mapped page in [gpa, endGpa). Skips what has no table, so that a sparse range is quick.
 * @returns its gpa, or -1
 */
export const gstageNextMapped = (k: Kernel, g: GStage, gpa: number, endGpa: number): number => {
  const words = k.memory.i32;
  const end = gfnOf(endGpa + 4095);
  let gfn = gfnOf(gpa);
  while (gfn < end) {
    let table = g.root;
    let level = LEVELS - 1;
    for (; level >= 0; level--) {
      const index = entryIndex(k, table, gfn, level);
      const lo = readOnce(words, index);
      if ((lo & PTE_V) === 0) break;
      if (level === 0) return gfn * 4096;
      table = ptePpn(lo, readOnce(words, index + 1)) - RAM_PFN_BASE;
    }
    const step = pagesOf(level);
    gfn = gfn - (gfn & (step - 1)) + step;
  }
  return -1;
};

/**
 * Removes the mapping of one page.
 * @returns the page frame number it had, or -1 when there was none
 */
export const gstageUnmap = (k: Kernel, g: GStage, gpa: number): number => {
  const index = walk(k, g, gfnOf(gpa), false);
  if (index <= 0) return -1;
  const words = k.memory.i32;
  const lo = readOnce(words, index);
  if ((lo & PTE_V) === 0) return -1;
  const pfn = ptePpn(lo, readOnce(words, index + 1));
  writeOnce(words, index, 0);
  writeOnce(words, index + 1, 0);
  setField(g, 'nrMapped', g.nrMapped - 1);
  return pfn;
};

/** Removes every mapping in [gpa, endGpa). @returns how many there were */
export const gstageUnmapRange = (k: Kernel, g: GStage, gpa: number, endGpa: number): number => {
  let zapped = 0;
  let at = gstageNextMapped(k, g, gpa, endGpa);
  while (at >= 0) {
    gstageUnmap(k, g, at);
    zapped++;
    at = gstageNextMapped(k, g, at + 4096, endGpa);
  }
  return zapped;
};

/** Takes W and D from one page. @returns true when it was writable */
export const gstageWriteProtect = (k: Kernel, g: GStage, gpa: number): boolean => {
  const index = walk(k, g, gfnOf(gpa), false);
  if (index <= 0) return false;
  const lo = readOnce(k.memory.i32, index);
  if ((lo & (PTE_V | PTE_W)) !== (PTE_V | PTE_W)) return false;
  writeOnce(k.memory.i32, index, lo & ~(PTE_W | PTE_D));
  return true;
};

/** Takes W and D from every page in [gpa, endGpa). @returns how many were writable */
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
    at = gstageNextMapped(k, g, at + 4096, endGpa);
  }
  return changed;
};
