/** Block devices as plain data. Compare include/linux/blk_types.h, Documentation/block/writeback_cache_control.rst. */

/** Bytes of a block. The unit of everything but the offsets of bios. */
export const BLOCK_SIZE = 4096;

/** Bios begin and end at multiples of so many bytes. */
export const SECTOR_SIZE = 512;

/** A part of a page of memory. Compare struct bio_vec. */
export interface BioVec {
  page: number;
  offset: number;
  lenBytes: number;
}

/**
 * One request to a block device. It is in flight from bioSubmit() until `done`; when its bytes move,
 * memory is read (or written) as it is at that moment. Compare struct bio.
 */
export interface Bio {
  op: 'read' | 'write' | 'flush';
  /** Byte on the device that the first vector begins at; a multiple of 512. */
  offset: number;
  vec: BioVec[];
  /** Of a write of the kernel's own: what is written, instead of pages. */
  bytes: Uint8Array | null;
  /** Of a write: durable when it completes (REQ_FUA). */
  fua: boolean;
  /** 0, -EIO, -ENOSPC: valid once `done`. */
  status: number;
  /** Its bytes have moved. */
  transferred: boolean;
  done: boolean;
}

/** One device. What is written is volatile until a flush, and in any order. */
export interface BlockDevice {
  id: number;
  name: string;
  /** Of 4096 bytes. */
  nrBlocks: number;
  /** Persistent memory: the frame that block 0 is, and the others after it. -1: a disk. */
  pmemPage: number;
  /** What a loss of power leaves: block -> its bytes; one that is not there has zeroes. */
  media: Map<number, Uint8Array>;
  /** Completed and not yet flushed: block -> its bytes. Reads see it. */
  cache: Map<number, Uint8Array>;
  /** Room for blocks that holds none at the moment. */
  spare: Uint8Array[];
  /** Oldest first. */
  inFlight: Bio[];
  /** Yields between submission and transfer, while somebody watches. */
  delay: number;
  /** Blocks that fail, for tests: -EIO. */
  badReads: Set<number>;
  badWrites: Set<number>;
  /** Completed so far. */
  nrReads: number;
  nrWrites: number;
  nrFlushes: number;
}
