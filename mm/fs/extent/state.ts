/**
 * The extent file system as plain data. A file system of the kind that ext4, xfs and btrfs are, as far
 * as get_user_pages() meets it: blocks are promised when a page is first dirtied and chosen when it is
 * written; what has not been promised cannot be written.
 */
import type { RwLock } from '../../types.ts';

/** A run of a file's blocks on the device, all in units of 4096 bytes. */
export interface Extent {
  /** First block in the file, first block on the device, how many. */
  pgoff: number;
  block: number;
  nr: number;
  /** Allocated and never written: reads as zeroes. */
  unwritten: boolean;
}

/** What a dirty page was promised: a block, or that the one it has may be written over. */
export type Reservation = 'delalloc' | 'mapped';

/** One file. */
export interface ExtentInode {
  ino: number;
  /** Id of the file system, and of the mapping that has its pages. */
  fs: number;
  mapping: number;
  /** i_size, in bytes. */
  sizeBytes: number;
  /**
   * The size that goes into the journal: grows when data beyond it has reached the device. Invariant:
   * at most sizeBytes. Compare i_disksize of ext4.
   */
  diskSizeBytes: number;
  /** Sorted by pgoff, never overlapping, runs that can be one are one. */
  extents: Extent[];
  /**
   * Pages whose dirtying the file system knows of, by pgoff: what page_mkwrite() and write() make, and
   * writeback uses up. Of 'delalloc' a block is promised besides, of 'mapped' it has one.
   */
  reserved: Map<number, Reservation>;
  /**
   * Number of the transaction that its size or extents last changed in; 0: none since mount; -1: it is
   * new, and in none yet.
   */
  transaction: number;
  /** Blocks of the pool that its record takes on the device (layout.ts). */
  pool: number[];
  /** False once it is unlinked: its blocks go with the last user. */
  linked: boolean;
  /** i_rwsem. */
  lock: RwLock;
}

/** Blocks of the device that a transaction lets go. */
export interface BlockRun {
  block: number;
  nr: number;
}

/** What has changed since the last commit, and is to be committed as one. Compare struct transaction_s of jbd2. */
export interface Transaction {
  /** From 1. */
  seq: number;
  /** Inode number -> blocks that its record takes. */
  inodes: Map<number, number>;
  /** Blocks of the bitmap, and of the checksums, that change; counted from the first of each. */
  bitmapBlocks: Map<number, boolean>;
  sumBlocks: Map<number, boolean>;
  /** Blocks of metadata that all of that makes: the credits that have been used. */
  nrBlocks: number;
  /** Nobody may have them before it is committed: until then a crash brings their old owner back. */
  freed: BlockRun[];
}

/** The journal: a ring of blocks. */
export interface Journal {
  firstBlock: number;
  nrBlocks: number;
  /** Where the oldest transaction that is not all home begins, its number; blocks in use from there. */
  tail: number;
  tailSeq: number;
  nrUsed: number;
  running: Transaction;
  /** Number of the last transaction that a crash cannot take back. */
  committedSeq: number;
  /** Somebody commits, or writes committed blocks home. */
  busy: boolean;
  /** What an open handle may still change, in blocks; -1: none is open. */
  credits: number;
  /** Home block -> bytes, of what is committed and not yet written home. */
  unwritten: Map<number, Uint8Array>;
  /** A write to it failed: nothing is committed any more. */
  aborted: boolean;
}

/** Writeback has found a page dirty that nobody was promised anything for. */
export interface DirtiedBehind {
  ino: number;
  pgoff: number;
  /** Who wrote it last by GUP; null: provenance does not know. */
  writer: string | null;
  /** Who held the page by GUP at that moment, as far as provenance knows. */
  holders: string[];
  /** 0: a block was found for it; otherwise its data is lost, -errno or -EIO for a dropped page. */
  status: number;
}

/** One mounted file system. */
export interface ExtentFs {
  id: number;
  /** Id of its block device; of a DAX file system also its pages are that memory. */
  device: number;
  dax: boolean;
  /** First block of the data area. */
  firstBlock: number;
  nrBlocks: number;
  /** A bit for each block of the device: an extent names it, or it is no data block. */
  bitmap: Int32Array;
  /** A bit for each: nobody may have it, since data is on its way to it, or it was freed and that is not committed. */
  busy: Int32Array;
  /** Blocks that neither says anything of. */
  nrFree: number;
  /** Of those, promised to dirty pages (delayed allocation). */
  nrReserved: number;
  /** Where the next file looks for room. */
  cursor: number;
  /** Checksums of data by block, 0: none, as btrfs has them; null: none are kept. */
  checksums: Int32Array | null;
  /** Nobody may change a page while it is written out (stable pages). */
  stablePages: boolean;
  /** What was dirtied behind its back is thrown away, as ext4 does, and not written if there is room. */
  dropsBehind: boolean;
  /** Inode number -> id of its mapping, of files that are open or linked. */
  inodes: Map<number, number>;
  nrInodes: number;
  /** Blocks of the pool that no record takes. */
  poolFree: number[];
  journal: Journal;
  /** Pages that were found dirty at writeback with nothing reserved: what FOLL_GET did behind its back. */
  dirtiedBehind: number;
  /** Data of such pages that could not be written (ENOSPC, or dropped as ext4 does). */
  lostPages: number;
  /** Which they were, the last of them at the end. */
  behind: DirtiedBehind[];
  /** Reads that did not match their checksum. */
  checksumErrors: number;
}
