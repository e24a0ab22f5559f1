/**
 * A file's extents: finding, adding and taking away runs of blocks. Compare fs/ext4/extents.c,
 * fs/xfs/libxfs/xfs_bmap.c.
 *
 * Nothing here knows of the bitmap or the journal, and nothing yields.
 */
import { listInsert, listRemoveAt, setField } from '#cells';
import type { Extent, ExtentInode } from './state.ts';

/** Index of the first extent that ends beyond `pgoff`; the number of extents where none does. */
const extentIndex = (extents: readonly Extent[], pgoff: number): number => {
  let low = 0;
  let high = extents.length;
  while (low < high) {
    const middle = (low + high) >>> 1;
    const extent = extents[middle];
    if (extent !== undefined && extent.pgoff + extent.nr <= pgoff) low = middle + 1;
    else high = middle;
  }
  return low;
};

/** The extent that has a page of the file, undefined for a hole. */
export const extentAt = (inode: ExtentInode, pgoff: number): Extent | undefined => {
  const extent = inode.extents[extentIndex(inode.extents, pgoff)];
  return extent !== undefined && extent.pgoff <= pgoff ? extent : undefined;
};

/** The device's block of a page of the file, -1 for a hole. */
export const blockAt = (inode: ExtentInode, pgoff: number): number => {
  const extent = extentAt(inode, pgoff);
  return extent === undefined ? -1 : extent.block + (pgoff - extent.pgoff);
};

/** Pages from `pgoff`, a hole, to the next extent, `nr` at most. */
export const holeLength = (inode: ExtentInode, pgoff: number, nr: number): number => {
  const next = inode.extents[extentIndex(inode.extents, pgoff)];
  return next === undefined ? nr : Math.min(nr, next.pgoff - pgoff);
};

/** A block near which the page at `pgoff` is best put: after the one before it; -1 where there is none. */
export const goalFor = (inode: ExtentInode, pgoff: number): number => {
  const i = extentIndex(inode.extents, pgoff);
  const before = inode.extents[i - 1];
  if (before === undefined) return -1;
  return before.block + before.nr + (pgoff - before.pgoff - before.nr);
};

/** Are two runs one, the second following the first? */
const follows = (first: Extent, second: Extent): boolean =>
  first.pgoff + first.nr === second.pgoff &&
  first.block + first.nr === second.block &&
  first.unwritten === second.unwritten;

/** A run of blocks becomes part of the file where it has a hole. @throws Error where it has none */
export const insertExtent = (inode: ExtentInode, added: Extent): void => {
  const { extents } = inode;
  const i = extentIndex(extents, added.pgoff);
  const next = extents[i];
  const previous = extents[i - 1];
  if (next !== undefined && next.pgoff < added.pgoff + added.nr)
    throw new Error(`inode ${inode.ino}: page ${added.pgoff} has a block already`);
  const joinsNext = next !== undefined && follows(added, next);
  if (previous !== undefined && follows(previous, added)) {
    const nr = previous.nr + added.nr + (joinsNext ? next.nr : 0);
    setField(previous, 'nr', nr);
    if (joinsNext) listRemoveAt(extents, i);
  } else if (joinsNext) {
    setField(next, 'pgoff', added.pgoff);
    setField(next, 'block', added.block);
    setField(next, 'nr', next.nr + added.nr);
  } else {
    listInsert(extents, i, { ...added });
  }
};

/**
 * Pages [pgoff, pgoff + nr) become a hole.
 * @returns the runs that the file had there
 */
export const removeExtents = (inode: ExtentInode, pgoff: number, nr: number): Extent[] => {
  const { extents } = inode;
  const end = pgoff + nr;
  const removed: Extent[] = [];
  for (let i = extentIndex(extents, pgoff); ; ) {
    const extent = extents[i];
    if (extent === undefined || extent.pgoff >= end) return removed;
    const from = Math.max(pgoff, extent.pgoff);
    const to = Math.min(end, extent.pgoff + extent.nr);
    removed.push(partOf(extent, from, to));
    const left = partOf(extent, extent.pgoff, from);
    const right = partOf(extent, to, extent.pgoff + extent.nr);
    listRemoveAt(extents, i);
    if (left.nr > 0) listInsert(extents, i++, left);
    if (right.nr > 0) listInsert(extents, i++, right);
  }
};

/** The pages [from, to) of an extent. */
const partOf = (extent: Extent, from: number, to: number): Extent => ({
  pgoff: from,
  block: extent.block + (from - extent.pgoff),
  nr: to - from,
  unwritten: extent.unwritten,
});
