/**
 * Bios: what is submitted to a block device, waited for, and moved. Compare block/bio.c,
 * block/blk-core.c:submit_bio().
 *
 * A device has no time of its own: whoever waits for a bio gives it its turns. While somebody watches,
 * the bio stays in flight for dev.delay yields, then its bytes move in one go, then it completes.
 */
import { addField, listPush, listRemoveAt, setField } from '#cells';
import { EIO, EINVAL, ENOSPC } from '../errno.ts';
import { type Path, YP_BIO_SUBMITTED, YP_BIO_TRANSFERRED, YP_WAIT } from '../path.ts';
import type { Kernel } from '../types.ts';
import { blockFlushAll, blockFlushRange, blockRead, blockWrite, blockWriteBytes } from './media.ts';
import { BLOCK_SIZE, type Bio, type BioVec, type BlockDevice, SECTOR_SIZE } from './state.ts';

/**
 * A bio that has not been submitted. @param offset byte on the device, a multiple of 512
 * @param bytes to be written instead of pages: metadata, which nobody but the file system can reach
 */
export const bioAlloc = (
  op: Bio['op'],
  offset = 0,
  vec: BioVec[] = [],
  fua = false,
  bytes: Uint8Array | null = null,
): Bio => ({
  op,
  offset,
  vec,
  bytes,
  fua,
  status: 0,
  transferred: false,
  done: false,
});

const bioBytes = (bio: Bio): number => {
  let bytes = bio.bytes?.length ?? 0;
  for (const { lenBytes } of bio.vec) bytes += lenBytes;
  return bytes;
};

/** What is wrong with a bio: 0; -EINVAL where it is not of whole sectors; past the end -EIO, of a write -ENOSPC. */
const checkBio = (dev: BlockDevice, bio: Bio): number => {
  const bytes = bioBytes(bio);
  if (bio.offset < 0 || bio.offset % SECTOR_SIZE !== 0 || bytes % SECTOR_SIZE !== 0) return -EINVAL;
  if (bio.offset + bytes > dev.nrBlocks * BLOCK_SIZE) return bio.op === 'write' ? -ENOSPC : -EIO;
  return 0;
};

/** The bio is in flight from now on, unless it is refused: then it is done, and says why. */
export const bioSubmit = (_k: Kernel, dev: BlockDevice, bio: Bio): void => {
  const status = checkBio(dev, bio);
  if (status === 0) {
    listPush(dev.inFlight, bio);
  } else {
    setField(bio, 'status', status);
    setField(bio, 'done', true);
  }
};

/** Does a block of the bio fail? */
const hitsBadBlock = (dev: BlockDevice, bio: Bio): boolean => {
  const bad = bio.op === 'write' ? dev.badWrites : dev.badReads;
  if (bad.size === 0) return false;
  const last = Math.floor((bio.offset + bioBytes(bio) - 1) / BLOCK_SIZE);
  for (let block = Math.floor(bio.offset / BLOCK_SIZE); block <= last; block++)
    if (bad.has(block)) return true;
  return false;
};

/** The bytes move, between memory and the device as both are now. Of a bio with a bad block none do. */
const transfer = (k: Kernel, dev: BlockDevice, bio: Bio): void => {
  setField(bio, 'transferred', true);
  if (bio.op === 'flush') {
    blockFlushAll(dev);
    return;
  }
  if (hitsBadBlock(dev, bio)) {
    setField(bio, 'status', -EIO);
    return;
  }
  if (bio.bytes !== null) {
    blockWriteBytes(k, dev, bio.offset, bio.bytes);
    return;
  }
  const move = bio.op === 'write' ? blockWrite : blockRead;
  let at = bio.offset;
  for (const { page, offset, lenBytes } of bio.vec) {
    move(k, dev, at, k.memory.pageOffset(page) + offset, lenBytes);
    at += lenBytes;
  }
};

const complete = (dev: BlockDevice, bio: Bio): void => {
  if (bio.fua && bio.status === 0) blockFlushRange(dev, bio.offset, bioBytes(bio));
  if (bio.op === 'read') addField(dev, 'nrReads', 1);
  else if (bio.op === 'write') addField(dev, 'nrWrites', 1);
  else addField(dev, 'nrFlushes', 1);
  listRemoveAt(dev.inFlight, dev.inFlight.indexOf(bio));
  setField(bio, 'done', true);
};

/**
 * Waits for a bio that has been submitted, and has the device do it. Several may wait for one bio; the
 * first to come gives it its turns.
 * @returns its status: 0, -EIO, -ENOSPC, -EINVAL. Compare submit_bio_wait()
 */
export function* bioWait(k: Kernel, dev: BlockDevice, bio: Bio): Path<number> {
  for (let i = 0; k.watched && i < dev.delay && !bio.transferred && !bio.done; i++)
    yield YP_BIO_SUBMITTED;
  if (bio.transferred) while (!bio.done && dev.inFlight.includes(bio)) yield YP_WAIT;
  if (bio.done) return bio.status;
  // A loss of power has taken it: nobody will ever complete it.
  if (!dev.inFlight.includes(bio)) return -EIO;
  transfer(k, dev, bio);
  if (k.watched) yield YP_BIO_TRANSFERRED;
  if (!dev.inFlight.includes(bio)) return -EIO;
  complete(dev, bio);
  return bio.status;
}

/** Everything that had been written when it was called is durable. @returns 0 or -EIO. Compare blkdev_issue_flush() */
export function* blockDeviceFlush(k: Kernel, dev: BlockDevice): Path<number> {
  const bio = bioAlloc('flush');
  bioSubmit(k, dev, bio);
  return yield* bioWait(k, dev, bio);
}
