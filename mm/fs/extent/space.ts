/**
 * Free space of the extent file system: what is promised, what is taken, what comes back. Compare
 * fs/ext4/balloc.c:ext4_claim_free_clusters(), fs/ext4/mballoc.c.
 *
 * A block goes from free to busy when data is sent to it, to used when its file has it; freed it is
 * busy until that is committed. The bitmap alone is what the journal has, so that a crash leaks nothing.
 */
import { clearBits, listPush, readOnce, setBits, setField } from '#cells';
import { ENOSPC } from '../../errno.ts';
import { journalDirtyBitmap } from './handle.ts';
import type { ExtentFs } from './state.ts';

const bitOf = (block: number): number => 1 << (block & 31);

/** May anybody have the block? */
const isFree = (fs: ExtentFs, block: number): boolean => {
  const word = block >>> 5;
  return ((readOnce(fs.bitmap, word) | readOnce(fs.busy, word)) & bitOf(block)) === 0;
};

/** Blocks that are neither taken nor promised. */
export const spaceLeft = (fs: ExtentFs): number => fs.nrFree - fs.nrReserved;

/** Promises a block to a dirty page. @returns false: there is none left to promise */
export const reserveBlock = (fs: ExtentFs): boolean => {
  if (spaceLeft(fs) < 1) return false;
  setField(fs, 'nrReserved', fs.nrReserved + 1);
  return true;
};

/** A promise is given back, or is about to be used. */
export const unreserveBlocks = (fs: ExtentFs, nr: number): void => {
  if (nr > fs.nrReserved)
    throw new Error(`file system ${fs.id}: ${nr} promises given back of ${fs.nrReserved}`);
  setField(fs, 'nrReserved', fs.nrReserved - nr);
};

/** The first free block from `from` up to `end`, -1 for none; whole words of taken ones at a time. */
const findFree = (fs: ExtentFs, from: number, end: number): number => {
  for (let block = from; block < end; ) {
    const word = block >>> 5;
    if ((readOnce(fs.bitmap, word) | readOnce(fs.busy, word)) === -1) block = (word + 1) << 5;
    else if (isFree(fs, block)) return block;
    else block++;
  }
  return -1;
};

/**
 * Takes free blocks that nobody was promised: they are busy from now on. A promise that is to be used
 * is given back first.
 * @param goal the block that is best, -1: any
 * @param nr wanted in a row
 * @returns the first block and how many there are, one at least; or -ENOSPC and none
 */
export const takeBlocks = (
  fs: ExtentFs,
  goal: number,
  nr: number,
): { block: number; nr: number } => {
  const wanted = Math.min(nr, spaceLeft(fs));
  if (wanted < 1) return { block: -ENOSPC, nr: 0 };
  const first = findFirst(fs, goal);
  let end = first;
  while (end < first + wanted && end < fs.nrBlocks && isFree(fs, end)) setBusy(fs, end++);
  setField(fs, 'nrFree', fs.nrFree - (end - first));
  setField(fs, 'cursor', end);
  return { block: first, nr: end - first };
};

/** The same for one block, without a record of it. @returns the block or -ENOSPC */
export const takeBlock = (fs: ExtentFs, goal: number): number => {
  if (spaceLeft(fs) < 1) return -ENOSPC;
  const block = findFirst(fs, goal);
  setBusy(fs, block);
  setField(fs, 'nrFree', fs.nrFree - 1);
  setField(fs, 'cursor', block + 1);
  return block;
};

const findFirst = (fs: ExtentFs, goal: number): number => {
  const from = goal >= fs.firstBlock && goal < fs.nrBlocks ? goal : fs.cursor;
  let block = findFree(fs, from, fs.nrBlocks);
  if (block < 0) block = findFree(fs, fs.firstBlock, from);
  if (block < 0)
    throw new Error(`file system ${fs.id}: ${fs.nrFree} free blocks, and none is found`);
  return block;
};

const setBusy = (fs: ExtentFs, block: number): void => setBits(fs.busy, block >>> 5, bitOf(block));

/** Blocks that were taken for nothing are free again. */
export const returnBlocks = (fs: ExtentFs, block: number, nr: number): void => {
  for (let at = block; at < block + nr; at++) clearBits(fs.busy, at >>> 5, bitOf(at));
  setField(fs, 'nrFree', fs.nrFree + nr);
  if (block < fs.cursor) setField(fs, 'cursor', block);
};

/** Blocks that were taken are in use: a file has them. In a handle. */
export const useBlocks = (fs: ExtentFs, block: number, nr: number): void => {
  for (let at = block; at < block + nr; at++) {
    clearBits(fs.busy, at >>> 5, bitOf(at));
    setBits(fs.bitmap, at >>> 5, bitOf(at));
    journalDirtyBitmap(fs, at);
  }
};

/** Blocks that a file had are nobody's; anybody's once the transaction is committed. In a handle. */
export const freeBlocks = (fs: ExtentFs, block: number, nr: number): void => {
  for (let at = block; at < block + nr; at++) {
    if ((readOnce(fs.bitmap, at >>> 5) & bitOf(at)) === 0)
      throw new Error(`file system ${fs.id}: block ${at} is freed and was not in use`);
    clearBits(fs.bitmap, at >>> 5, bitOf(at));
    setBusy(fs, at);
    journalDirtyBitmap(fs, at);
  }
  const { freed } = fs.journal.running;
  const last = freed[freed.length - 1];
  if (last !== undefined && last.block + last.nr === block) setField(last, 'nr', last.nr + nr);
  else listPush(freed, { block, nr });
};

/** Is the block in use, by what the bitmap says? */
export const blockInUse = (fs: ExtentFs, block: number): boolean =>
  (readOnce(fs.bitmap, block >>> 5) & bitOf(block)) !== 0;
