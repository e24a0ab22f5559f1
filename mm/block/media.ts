/**
 * What a block device keeps its bytes in, and what a loss of power leaves of them.
 *
 * Of a disk: maps of blocks, what is durable and what is in the device's volatile cache. Persistent
 * memory is frames instead, which mappings of DAX files show; its `media` is what has been flushed.
 */
import { listPush, listRemoveAt, mapDelete, mapSet, noteBytes, setField } from '#cells';
import type { Kernel } from '../types.ts';
import { frameBytes, pmemPersist } from './pmem.ts';
import { BLOCK_SIZE, type BlockDevice } from './state.ts';

/** The bytes that a read sees, undefined where there are only zeroes. Valid until the block is written again. */
export const blockBytes = (k: Kernel, dev: BlockDevice, block: number): Uint8Array | undefined => {
  if (dev.pmemPage >= 0) return frameBytes(k, dev, block);
  return dev.cache.get(block) ?? dev.media.get(block);
};

/** From the device to memory. @param offset byte on the device @param to offset in memory */
export const blockRead = (
  k: Kernel,
  dev: BlockDevice,
  offset: number,
  to: number,
  lenBytes: number,
): void => {
  for (let done = 0; done < lenBytes; ) {
    const block = Math.floor((offset + done) / BLOCK_SIZE);
    const within = (offset + done) % BLOCK_SIZE;
    const n = Math.min(lenBytes - done, BLOCK_SIZE - within);
    const bytes = blockBytes(k, dev, block);
    if (bytes === undefined) k.memory.zeroBytes(to + done, n);
    else k.memory.setBytes(to + done, bytes.subarray(within, within + n));
    done += n;
  }
};

/** From memory to the device. @param offset byte on the device @param from offset in memory */
export const blockWrite = (
  k: Kernel,
  dev: BlockDevice,
  offset: number,
  from: number,
  lenBytes: number,
): void => {
  for (let done = 0; done < lenBytes; ) {
    const block = Math.floor((offset + done) / BLOCK_SIZE);
    const within = (offset + done) % BLOCK_SIZE;
    const n = Math.min(lenBytes - done, BLOCK_SIZE - within);
    const at = from + done;
    if (dev.pmemPage >= 0) {
      k.memory.copyWithin(k.memory.pageOffset(dev.pmemPage + block) + within, at, n);
      pmemPersist(k, dev, offset + done, n);
    } else storeBytes(dev, block, within, k.memory.u8.subarray(at, at + n));
    done += n;
  }
};

/** Blocks for which there is room at once, when there is none left. */
const SLAB_BLOCKS = 64;

/** Room for a block, with anything in it. */
const takeRoom = (dev: BlockDevice): Uint8Array => {
  if (dev.spare.length === 0) {
    const slab = new Uint8Array(SLAB_BLOCKS * BLOCK_SIZE);
    for (let at = slab.length - BLOCK_SIZE; at >= 0; at -= BLOCK_SIZE)
      listPush(dev.spare, slab.subarray(at, at + BLOCK_SIZE));
  }
  const room = listRemoveAt(dev.spare, dev.spare.length - 1);
  if (room === undefined) throw new Error(`${dev.name}: no room for a block`);
  return room;
};

/** The block of the volatile cache, to be written to: new, it has what the media has. */
const cachedBlock = (dev: BlockDevice, block: number, whole: boolean): Uint8Array => {
  const cached = dev.cache.get(block);
  if (cached !== undefined) return cached;
  const room = takeRoom(dev);
  if (!whole) {
    noteBytes(room, 0, BLOCK_SIZE);
    const old = dev.media.get(block);
    if (old === undefined) room.fill(0);
    else room.set(old);
  }
  mapSet(dev.cache, block, room);
  return room;
};

/** Stores a part of a block, or all, in the volatile cache. */
const storeBytes = (dev: BlockDevice, block: number, within: number, bytes: Uint8Array): void => {
  const to = cachedBlock(dev, block, bytes.length === BLOCK_SIZE);
  noteBytes(to, within, bytes.length);
  to.set(bytes, within);
};

/** Whole blocks that the kernel has made up. @param offset byte on the device */
export const blockWriteBytes = (
  k: Kernel,
  dev: BlockDevice,
  offset: number,
  bytes: Uint8Array,
): void => {
  for (let done = 0; done < bytes.length; done += BLOCK_SIZE) {
    const block = Math.floor((offset + done) / BLOCK_SIZE);
    const part = bytes.subarray(done, done + BLOCK_SIZE);
    if (dev.pmemPage >= 0) {
      k.memory.setBytes(k.memory.pageOffset(dev.pmemPage + block), part);
      pmemPersist(k, dev, block * BLOCK_SIZE, part.length);
    } else storeBytes(dev, block, 0, part);
  }
};

/** A block of the volatile cache is durable. */
const harden = (dev: BlockDevice, block: number, bytes: Uint8Array): void => {
  const old = dev.media.get(block);
  if (old !== undefined) listPush(dev.spare, old);
  mapSet(dev.media, block, bytes);
};

/** The volatile cache is empty: all of it is durable. */
export const blockFlushAll = (dev: BlockDevice): void => {
  for (const [block, bytes] of dev.cache) harden(dev, block, bytes);
  setField(dev, 'cache', new Map());
};

/** Blocks that a range of bytes touches are durable. */
export const blockFlushRange = (dev: BlockDevice, offset: number, lenBytes: number): void => {
  const end = Math.ceil((offset + lenBytes) / BLOCK_SIZE);
  for (let block = Math.floor(offset / BLOCK_SIZE); block < end; block++) {
    const bytes = dev.cache.get(block);
    if (bytes === undefined) continue;
    harden(dev, block, bytes);
    mapDelete(dev.cache, block);
  }
};

/**
 * What a loss of power at this moment would leave, while the machine goes on.
 * @param keeps blocks of the volatile cache that reach the media all the same
 * @returns block -> a copy of its bytes
 */
export const blockCrashImage = (
  dev: BlockDevice,
  keeps: (block: number) => boolean,
): Map<number, Uint8Array> => {
  if (dev.pmemPage >= 0)
    throw new Error(`${dev.name} is memory: pmemCrashImage() knows of its caches`);
  const image = new Map<number, Uint8Array>();
  for (const [block, bytes] of dev.media) image.set(block, bytes.slice());
  for (const [block, bytes] of dev.cache) if (keeps(block)) image.set(block, bytes.slice());
  return image;
};

/**
 * Power fails: what was in flight never completes, of the volatile cache only what `keeps` says is
 * left. What the kernel knows of the device is its own affair (extentForget()).
 * @throws Error for persistent memory, as blockCrashImage (pmem.ts)
 */
export const blockPowerFail = (dev: BlockDevice, keeps: (block: number) => boolean): void => {
  if (dev.pmemPage >= 0) throw new Error(`${dev.name} is memory: it takes pmemPowerFail()`);
  for (const [block, bytes] of dev.cache) {
    if (keeps(block)) harden(dev, block, bytes);
    else listPush(dev.spare, bytes);
  }
  setField(dev, 'cache', new Map());
  setField(dev, 'inFlight', []);
};
