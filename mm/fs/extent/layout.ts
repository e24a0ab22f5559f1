/**
 * The extent file system on the device: what is where, and records of inodes as blocks.
 *
 *   block 0      superblock: magic, blocks, flags, where the journal begins
 *   journal      a ring of transactions (journal.ts)
 *   bitmap       a bit for each block of the device
 *   inodes       one block for each file: size, first extents
 *   pool         further extents of files that have many, linked from their inode
 *   checksums    a word for each block of the device, where they are kept
 *   data
 *
 * Everything follows from the number of blocks and the flags. Words are 32 bits, the machine's order.
 */
import { readOnce, writeOnce } from '#cells';
import { BLOCK_SIZE } from '../../block/state.ts';
import type { Extent, ExtentFs, ExtentInode } from './state.ts';

export const WORDS_PER_BLOCK = BLOCK_SIZE / 4;
export const BLOCKS_PER_BITMAP_BLOCK = BLOCK_SIZE * 8;

/** One transaction has at most so many blocks: its descriptor names them all. */
export const TRANSACTION_BLOCKS_MAX = WORDS_PER_BLOCK - 4;

/** So that a file of single blocks can be committed in one transaction. */
export const DEVICE_BLOCKS_MAX = 200_000;

/** A file's pages are numbered by 31 bits. */
export const FILE_BYTES_MAX = 2 ** 31 * BLOCK_SIZE;

const SUPER_MAGIC = 0x67757078;
const INODE_MAGIC = 0x67757069;
const FLAG_CHECKSUMS = 1;
const FLAG_STABLE = 2;
const FLAG_DAX = 4;
const FLAG_DROPS_BEHIND = 8;

/** Words before the extents, and words of one, in an inode's block and in one of the pool. */
const HEADER_WORDS = 8;
const EXTENT_WORDS = 4;
export const EXTENTS_PER_BLOCK = (WORDS_PER_BLOCK - HEADER_WORDS) / EXTENT_WORDS;

/** First block of each area, and how many it has. */
interface Geometry {
  journal: number;
  nrJournal: number;
  bitmap: number;
  nrBitmap: number;
  inodes: number;
  nrInodes: number;
  pool: number;
  nrPool: number;
  sums: number;
  nrSums: number;
  data: number;
}

const clamp = (low: number, value: number, high: number): number =>
  Math.max(low, Math.min(value, high));

/** Where everything is on a device of so many blocks. */
export const geometryOf = (nrBlocks: number, checksums: boolean): Geometry => {
  const nrJournal = clamp(16, Math.floor(nrBlocks / 32), TRANSACTION_BLOCKS_MAX + 2);
  const nrBitmap = Math.ceil(nrBlocks / BLOCKS_PER_BITMAP_BLOCK);
  const nrInodes = clamp(8, Math.floor(nrBlocks / 32), 256);
  // Every extent has a block at least, so there are never more of them than this holds.
  const nrPool = Math.ceil(nrBlocks / EXTENTS_PER_BLOCK);
  const nrSums = checksums ? Math.ceil(nrBlocks / WORDS_PER_BLOCK) : 0;
  const bitmap = 1 + nrJournal;
  const inodes = bitmap + nrBitmap;
  const pool = inodes + nrInodes;
  const sums = pool + nrPool;
  const data = sums + nrSums;
  return {
    journal: 1,
    nrJournal,
    bitmap,
    nrBitmap,
    inodes,
    nrInodes,
    pool,
    nrPool,
    sums,
    nrSums,
    data,
  };
};

/** What a superblock says. */
export interface SuperBlock {
  nrBlocks: number;
  checksums: boolean;
  stablePages: boolean;
  dax: boolean;
  dropsBehind: boolean;
  /** Where in the journal the oldest transaction that is not home begins, and its number. */
  tail: number;
  tailSeq: number;
}

const wordsOf = (bytes: Uint8Array): Int32Array =>
  new Int32Array(bytes.buffer, bytes.byteOffset, WORDS_PER_BLOCK);

export const superToBytes = (s: SuperBlock): Uint8Array => {
  const bytes = new Uint8Array(BLOCK_SIZE);
  const flagBits =
    (s.checksums ? FLAG_CHECKSUMS : 0) |
    (s.stablePages ? FLAG_STABLE : 0) |
    (s.dax ? FLAG_DAX : 0) |
    (s.dropsBehind ? FLAG_DROPS_BEHIND : 0);
  wordsOf(bytes).set([SUPER_MAGIC, s.nrBlocks, flagBits, s.tail, s.tailSeq]);
  return bytes;
};

/** @returns null where there is no file system of this kind */
export const superFromBytes = (bytes: Uint8Array): SuperBlock | null => {
  const [magic, nrBlocks = 0, flagBits = 0, tail = 0, tailSeq = 0] = wordsOf(bytes);
  if (magic !== SUPER_MAGIC) return null;
  return {
    nrBlocks,
    checksums: (flagBits & FLAG_CHECKSUMS) !== 0,
    stablePages: (flagBits & FLAG_STABLE) !== 0,
    dax: (flagBits & FLAG_DAX) !== 0,
    dropsBehind: (flagBits & FLAG_DROPS_BEHIND) !== 0,
    tail,
    tailSeq,
  };
};

/** Blocks that the record of a file with so many extents takes: its own, and of the pool. */
export const inodeBlocks = (nrExtents: number): number =>
  Math.max(1, Math.ceil(nrExtents / EXTENTS_PER_BLOCK));

/**
 * A file's record: its first block, and those of the pool after it.
 * @param pool blocks that it may use, on the device; as many as it needs are used
 */
export const inodeToBytes = (inode: ExtentInode, pool: readonly number[]): Uint8Array[] => {
  const nr = inodeBlocks(inode.extents.length);
  const blocks: Uint8Array[] = [];
  for (let i = 0; i < nr; i++) {
    const bytes = new Uint8Array(BLOCK_SIZE);
    const words = wordsOf(bytes);
    const part = inode.extents.slice(i * EXTENTS_PER_BLOCK, (i + 1) * EXTENTS_PER_BLOCK);
    const next = i + 1 < nr ? (pool[i] ?? 0) : 0;
    const size = inode.diskSizeBytes;
    const sizeWords = [size | 0, Math.floor(size / 2 ** 32)];
    words.set([INODE_MAGIC, inode.ino, part.length, next, ...sizeWords, inode.linked ? 0 : 1]);
    part.forEach((extent, j) => {
      const { pgoff, block, nr: length, unwritten } = extent;
      words.set([pgoff, block, length, unwritten ? 1 : 0], HEADER_WORDS + j * EXTENT_WORDS);
    });
    blocks.push(bytes);
  }
  return blocks;
};

/** What a file's record says, and the blocks of the pool that it takes. */
export interface InodeRecord {
  ino: number;
  sizeBytes: number;
  extents: Extent[];
  pool: number[];
  /** It was unlinked, and somebody had it open. */
  orphan: boolean;
}

/** @param read a block of the device @returns null: there is no file of that number */
export const inodeFromBytes = (
  bytes: Uint8Array,
  read: (block: number) => Uint8Array,
): InodeRecord | null => {
  const head = wordsOf(bytes);
  if (head[0] !== INODE_MAGIC) return null;
  const record: InodeRecord = {
    ino: head[1] ?? 0,
    sizeBytes: ((head[4] ?? 0) >>> 0) + (head[5] ?? 0) * 2 ** 32,
    extents: [],
    pool: [],
    orphan: head[6] === 1,
  };
  for (let words = head; ; ) {
    for (let i = 0; i < (words[2] ?? 0); i++) {
      const at = HEADER_WORDS + i * EXTENT_WORDS;
      const [pgoff = 0, block = 0, nr = 0, unwritten = 0] = words.subarray(at, at + EXTENT_WORDS);
      record.extents.push({ pgoff, block, nr, unwritten: unwritten !== 0 });
    }
    const next = words[3] ?? 0;
    if (next === 0) return record;
    record.pool.push(next);
    words = wordsOf(read(next));
  }
};

/** A block of the bitmap, or of the checksums: words from `first` on, zeroes beyond the end. */
export const wordsToBytes = (words: Int32Array, first: number): Uint8Array => {
  const bytes = new Uint8Array(BLOCK_SIZE);
  wordsOf(bytes).set(words.subarray(first, first + WORDS_PER_BLOCK));
  return bytes;
};

/** The other way round. */
export const bytesToWords = (bytes: Uint8Array, words: Int32Array, first: number): void => {
  const from = wordsOf(bytes);
  const end = Math.min(WORDS_PER_BLOCK, words.length - first);
  for (let i = 0; i < end; i++) writeOnce(words, first + i, readOnce(from, i));
};

/** The superblock of a mounted file system as it is now. */
export const superOf = (fs: ExtentFs): SuperBlock => ({
  nrBlocks: fs.nrBlocks,
  checksums: fs.checksums !== null,
  stablePages: fs.stablePages,
  dax: fs.dax,
  dropsBehind: fs.dropsBehind,
  tail: fs.journal.tail,
  tailSeq: fs.journal.tailSeq,
});
