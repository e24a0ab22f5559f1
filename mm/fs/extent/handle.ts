/**
 * Handles of the journal: what a change of metadata puts into the running transaction, and the credits
 * that it does so with. Compare fs/jbd2/transaction.c:jbd2_journal_get_write_access().
 *
 * A handle is open from journalStart() to journalStop() (journal.ts), and nothing yields in between: so
 * a transaction has all of a change or nothing of it, and nobody need wait for a handle.
 */
import { mapSet, setField } from '#cells';
import { BLOCKS_PER_BITMAP_BLOCK, inodeBlocks, WORDS_PER_BLOCK } from './layout.ts';
import type { ExtentFs, ExtentInode, Journal, Transaction } from './state.ts';

export const freshTransaction = (seq: number): Transaction => ({
  seq,
  inodes: new Map(),
  bitmapBlocks: new Map(),
  sumBlocks: new Map(),
  nrBlocks: 0,
  freed: [],
});

/** Blocks that the running transaction did not have so far. @throws Error beyond the handle's credits */
const useCredits = (fs: ExtentFs, nr: number): void => {
  const { journal } = fs;
  if (journal.credits < nr)
    throw new Error(
      journal.credits < 0
        ? `file system ${fs.id}: metadata changes outside a handle`
        : `file system ${fs.id}: a handle needs ${nr} blocks and has ${journal.credits} credits`,
    );
  setField(journal, 'credits', journal.credits - nr);
  setField(journal.running, 'nrBlocks', journal.running.nrBlocks + nr);
};

const blocksInRunning = ({ running }: Journal, inode: ExtentInode): number =>
  running.inodes.get(inode.ino) ?? 0;

/** Credits that changing a file needs, where `added` extents may come to it. */
export const inodeCredits = (fs: ExtentFs, inode: ExtentInode, added: number): number =>
  Math.max(0, inodeBlocks(inode.extents.length + added) - blocksInRunning(fs.journal, inode));

/** A file's size or extents have changed. */
export const journalDirtyInode = (fs: ExtentFs, inode: ExtentInode): void => {
  const { running } = fs.journal;
  const had = blocksInRunning(fs.journal, inode);
  const nr = inodeBlocks(inode.extents.length);
  if (nr > had) {
    useCredits(fs, nr - had);
    mapSet(running.inodes, inode.ino, nr);
  }
  setField(inode, 'transaction', running.seq);
};

/** A file has gone, with its record. */
export const journalDropInode = (fs: ExtentFs, ino: number): void => {
  const { running } = fs.journal;
  if (!running.inodes.has(ino)) {
    useCredits(fs, 1);
    mapSet(running.inodes, ino, 1);
  }
};

const dirtyBlock = (fs: ExtentFs, blocks: Map<number, boolean>, i: number): void => {
  if (blocks.has(i)) return;
  useCredits(fs, 1);
  mapSet(blocks, i, true);
};

/** A block's bit in the bitmap has changed. */
export const journalDirtyBitmap = (fs: ExtentFs, block: number): void =>
  dirtyBlock(fs, fs.journal.running.bitmapBlocks, Math.floor(block / BLOCKS_PER_BITMAP_BLOCK));

/** A block's checksum has changed. */
export const journalDirtySum = (fs: ExtentFs, block: number): void =>
  dirtyBlock(fs, fs.journal.running.sumBlocks, Math.floor(block / WORDS_PER_BLOCK));
