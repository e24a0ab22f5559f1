/**
 * The frame table: what the kernel knows of each frame of RAM, as one Int32Array per field.
 *
 * A `page` is an index into these arrays and stands for a `struct page *`; `pfn = page +
 * RAM_PFN_BASE`. A `folio` is the page number of its head. Compare include/linux/mm_types.h and
 * include/linux/page-flags.h. Of a large folio the first tail holds two counts more (mm/folio/large.ts).
 * 44 bytes per frame, and a word for each pageblock; pages of the table that nothing touches cost
 * nothing.
 */
import { RAM_PFN_BASE } from '#emu';

/* page flags */
export const PG_LOCKED = 1 << 0;
export const PG_REFERENCED = 1 << 1;
export const PG_UPTODATE = 1 << 2;
export const PG_DIRTY = 1 << 3;
export const PG_LRU = 1 << 4;
export const PG_ACTIVE = 1 << 5;
export const PG_WRITEBACK = 1 << 6;
export const PG_HEAD = 1 << 7; // first page of a large folio
export const PG_TAIL = 1 << 8; // any other page of one; `head` says which folio
export const PG_ANON = 1 << 9; // `mapping` is the id of an anon_vma, not of an address space
export const PG_ANON_EXCLUSIVE = 1 << 10;
export const PG_SWAPBACKED = 1 << 11;
export const PG_SWAPCACHE = 1 << 12;
export const PG_UNEVICTABLE = 1 << 13;
export const PG_HWPOISON = 1 << 14;
export const PG_RESERVED = 1 << 15; // never freed: zero page, pages outside the allocator
export const PG_BUDDY = 1 << 16; // free, head of a block of 1 << `private` pages
export const PG_TABLE = 1 << 17; // a page-table page
export const PG_KSM = 1 << 18;
export const PG_ISOLATED = 1 << 19; // taken off its LRU list by migration or reclaim: one reference more
export const PG_HUGETLB = 1 << 20; // head of a folio of a hugetlb pool
export const PG_P2PDMA = 1 << 21; // ZONE_DEVICE: memory of a PCI peer
export const PG_DEVICE_COHERENT = 1 << 22; // ZONE_DEVICE: coherent memory of a device
export const PG_RESTORE_RESERVE = 1 << 23; // hugetlb: a reservation was used up, and comes back if the folio is freed
export const PG_MIGRATABLE = 1 << 24; // hugetlb: in use and on its pool's active list, where migration finds it
export const PG_TEMPORARY = 1 << 25; // hugetlb: no page of the pool's own; freed it is ordinary memory again
export const PG_FSDAX = 1 << 26; // ZONE_DEVICE: a block of persistent memory under a DAX file system
export const PG_DEVDAX = 1 << 27; // ZONE_DEVICE: memory of a device-dax file
export const PG_MLOCKED = 1 << 28; // a VMA that maps it is VM_LOCKED

/** One machine's frame table. Plain data: it is saved and restored as it is. */
export interface FrameTable {
  nrPages: number;
  flags: Int32Array;
  /** References. 0 = free. Small folios count 1024 for each pin. */
  refcount: Int32Array;
  /** Last-level entries that map the page (plain count, not Linux's count minus one). */
  mapcount: Int32Array;
  /** Pins of a large folio, on its head. */
  pincount: Int32Array;
  /** Id of the anon_vma (PG_ANON) or the address space, 0 = none. */
  mapping: Int32Array;
  /** Offset in the mapping, in pages. */
  index: Int32Array;
  /** Links of free lists and LRU lists, -1 = none. */
  next: Int32Array;
  prev: Int32Array;
  /** Buddy: order. Head of a folio: order. */
  private: Int32Array;
  /** Tail pages: the folio. */
  head: Int32Array;
  /** Swap cache (PG_SWAPCACHE): the swap slot of the folio's first page. */
  swap: Int32Array;
  /** By pageblock: its zone, its migratetype, whether it is isolated or offline (pageblock.ts). */
  blocks: Int32Array;
}

export const FRAME_TABLE_BYTES_PER_PAGE = 44;

/** log2 of the pages of a pageblock, 2 MiB: what a migratetype is kept for. */
export const PAGEBLOCK_ORDER = 9;
export const PAGEBLOCK_PAGES = 1 << PAGEBLOCK_ORDER;

export const createFrameTable = (nrPages: number): FrameTable => ({
  nrPages,
  flags: new Int32Array(nrPages),
  refcount: new Int32Array(nrPages),
  mapcount: new Int32Array(nrPages),
  pincount: new Int32Array(nrPages),
  mapping: new Int32Array(nrPages),
  index: new Int32Array(nrPages),
  next: new Int32Array(nrPages),
  prev: new Int32Array(nrPages),
  private: new Int32Array(nrPages),
  head: new Int32Array(nrPages),
  swap: new Int32Array(nrPages),
  blocks: new Int32Array(Math.ceil(nrPages / PAGEBLOCK_PAGES)),
});

export const pageToPfn = (page: number): number => page + RAM_PFN_BASE;
export const pfnToPage = (pfn: number): number => pfn - RAM_PFN_BASE;
