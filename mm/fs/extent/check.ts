/** Does a mounted extent file system agree with itself? Compare e2fsck, xfs_scrub. */
import { readOnce } from '#cells';
import type { Kernel } from '../../types.ts';
import { inodeOf } from './images.ts';
import { blockInUse, spaceLeft } from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';

/** A file's extents: in order, apart, in the data area. Adds who has which block. */
const checkExtents = (
  fs: ExtentFs,
  inode: ExtentInode,
  owners: Map<number, number>,
  wrong: string[],
): void => {
  let end = 0;
  for (const { pgoff, block, nr } of inode.extents) {
    if (pgoff < end || nr < 1)
      wrong.push(`inode ${inode.ino}: the extent at ${pgoff} is out of order`);
    if (block < fs.firstBlock || block + nr > fs.nrBlocks)
      wrong.push(`inode ${inode.ino}: blocks ${block} to ${block + nr} are not of the data area`);
    end = pgoff + nr;
    for (let at = block; at < block + nr; at++) {
      const owner = owners.get(at);
      if (owner !== undefined) wrong.push(`block ${at} is of inode ${owner} and of ${inode.ino}`);
      owners.set(at, inode.ino);
    }
  }
};

/** What is used, on its way and free, block by block, against the counts. */
const checkSpace = (fs: ExtentFs, owners: ReadonlyMap<number, number>, wrong: string[]): void => {
  let free = 0;
  for (let block = fs.firstBlock; block < fs.nrBlocks; block++) {
    const used = blockInUse(fs, block);
    const busy = ((readOnce(fs.busy, block >>> 5) >>> (block & 31)) & 1) !== 0;
    if (used !== owners.has(block))
      wrong.push(`block ${block}: the bitmap says ${used ? 'used' : 'free'}, the extents do not`);
    if (used && busy) wrong.push(`block ${block} is used, and on its way`);
    if (!used && !busy) free++;
  }
  if (free !== fs.nrFree) wrong.push(`${free} blocks are free, and counted ${fs.nrFree}`);
};

/** Promises of one file. @returns the blocks that it was promised */
const checkPromises = (fs: ExtentFs, inode: ExtentInode, wrong: string[]): number => {
  let promised = 0;
  for (const [pgoff, how] of inode.reserved) {
    if (how === 'delalloc') promised++;
    else if (fs.checksums !== null)
      wrong.push(`inode ${inode.ino}: page ${pgoff} is to be written over, with checksums`);
  }
  return promised;
};

/**
 * Every rule of the file system's own state: the bitmap is what the extents say, no block has two
 * owners, counts and promises agree. True at every moment.
 * @returns what is wrong, a line each
 */
export const extentCheck = (k: Kernel, fs: ExtentFs): string[] => {
  const wrong: string[] = [];
  const owners = new Map<number, number>();
  let promised = 0;
  for (const ino of fs.inodes.keys()) {
    const inode = inodeOf(k, fs, ino);
    if (inode === null) {
      wrong.push(`inode ${ino} has no mapping`);
      continue;
    }
    checkExtents(fs, inode, owners, wrong);
    promised += checkPromises(fs, inode, wrong);
    if (!inode.lock.writer && inode.diskSizeBytes > inode.sizeBytes)
      wrong.push(`inode ${ino}: the size in the journal is beyond the file's`);
  }
  checkSpace(fs, owners, wrong);
  if (promised !== fs.nrReserved)
    wrong.push(`${promised} blocks are promised, and counted ${fs.nrReserved}`);
  if (spaceLeft(fs) < 0) wrong.push(`${fs.nrReserved} blocks are promised of ${fs.nrFree}`);
  return wrong;
};
