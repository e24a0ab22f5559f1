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

/** One file. */
export interface ExtentInode {
  ino: number;
  /** Id of the file system, and of the mapping that has its pages. */
  fs: number;
  mapping: number;
  /** i_size, in bytes. */
  sizeBytes: number;
  /** Sorted by pgoff, never overlapping. */
  extents: Extent[];
  /**
   * Pages whose dirtying the file system knows of, by pgoff: what page_mkwrite() and write() make, and
   * writeback uses up. Of 'delalloc' a block is promised besides, of 'mapped' it has one.
   */
  reserved: Map<number, 'delalloc' | 'mapped'>;
  /** Size, extents: not yet in the journal. */
  metadataDirty: boolean;
  /** i_rwsem. */
  lock: RwLock;
}

/** One mounted file system. */
export interface ExtentFs {
  id: number;
  /** Id of its block device; of a DAX file system also its pages are that memory. */
  device: number;
  dax: boolean;
  /** First block of the data area. */
  firstBlock: number;
  /** By block: 1 in use. */
  bitmap: Uint8Array;
  nrFree: number;
  /** Of those, promised to dirty pages (delayed allocation). */
  nrReserved: number;
  /** Checksums of data by block, as btrfs has them; null: none are kept. */
  checksums: Map<number, number> | null;
  /** Nobody may change a page while it is written out (stable pages). */
  stablePages: boolean;
  /** Inode number -> id of its mapping, of files that are open or linked. */
  inodes: Map<number, number>;
  nextIno: number;
  /** Pages that were found dirty at writeback with nothing reserved: what FOLL_GET did behind its back. */
  dirtiedBehind: number;
  /** Data of such pages that could not be written (ENOSPC, or dropped as ext4 does). */
  lostPages: number;
  /** Reads that did not match their checksum. */
  checksumErrors: number;
}
