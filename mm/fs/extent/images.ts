/**
 * What a transaction writes: each block of metadata that it changed, as it is when the commit begins.
 * Changes from then on are the next transaction's. Compare fs/jbd2/journal.c:jbd2_journal_write_metadata_buffer().
 */
import { listPush, listRemoveAt } from '#cells';
import { BLOCK_SIZE } from '../../block/state.ts';
import type { Kernel } from '../../types.ts';
import { geometryOf, inodeBlocks, inodeToBytes, WORDS_PER_BLOCK, wordsToBytes } from './layout.ts';
import type { ExtentFs, ExtentInode, Transaction } from './state.ts';

/** A block of metadata, and where it belongs. */
export interface HomeImage {
  home: number;
  bytes: Uint8Array;
}

/** A file of the file system that is in memory, null where it has gone. */
export const inodeOf = (k: Kernel, fs: ExtentFs, ino: number): ExtentInode | null => {
  const mapping = k.state.mappings.get(fs.inodes.get(ino) ?? 0);
  return mapping !== undefined && 'inode' in mapping ? mapping.inode : null;
};

/** A record takes no more of the pool than it needs from now on. */
const shrinkPool = (fs: ExtentFs, inode: ExtentInode): void => {
  const need = inodeBlocks(inode.extents.length) - 1;
  for (let i = inode.pool.length - 1; i >= need; i--) {
    const block = listRemoveAt(inode.pool, i);
    if (block !== undefined) listPush(fs.poolFree, block);
  }
};

/** A record gets of the pool what it needs. There is enough: each extent has a block of the device. */
const growPool = (fs: ExtentFs, inode: ExtentInode): void => {
  const need = inodeBlocks(inode.extents.length) - 1;
  while (inode.pool.length < need) {
    const block = listRemoveAt(fs.poolFree, fs.poolFree.length - 1);
    if (block === undefined) throw new Error(`file system ${fs.id}: the pool of extents is empty`);
    listPush(inode.pool, block);
  }
};

/** Every block that a transaction has changed. */
export const imagesOf = (k: Kernel, fs: ExtentFs, transaction: Transaction): HomeImage[] => {
  const { bitmap, inodes, sums } = geometryOf(fs.nrBlocks, fs.checksums !== null);
  const images: HomeImage[] = [];
  const files = [...transaction.inodes.keys()].map((ino) => ({ ino, inode: inodeOf(k, fs, ino) }));
  for (const { inode } of files) if (inode !== null) shrinkPool(fs, inode);
  for (const { ino, inode } of files) {
    if (inode !== null) growPool(fs, inode);
    const blocks = inode === null ? [new Uint8Array(BLOCK_SIZE)] : inodeToBytes(inode, inode.pool);
    blocks.forEach((bytes, i) => {
      images.push({ home: i === 0 ? inodes + ino - 1 : (inode?.pool[i - 1] ?? 0), bytes });
    });
  }
  for (const i of transaction.bitmapBlocks.keys())
    images.push({ home: bitmap + i, bytes: wordsToBytes(fs.bitmap, i * WORDS_PER_BLOCK) });
  if (fs.checksums !== null)
    for (const i of transaction.sumBlocks.keys())
      images.push({ home: sums + i, bytes: wordsToBytes(fs.checksums, i * WORDS_PER_BLOCK) });
  return images;
};
