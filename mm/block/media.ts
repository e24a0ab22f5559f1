/**
 * What a block device keeps its bytes in, and what a loss of power leaves of them.
 *
 * Of a disk: maps of blocks, what is durable and what is in the device's volatile cache. Persistent
 * memory is frames instead, which mappings of DAX files show; its `media` is what has been flushed.
 */
import { mapDelete, mapSet, noteBytes, setField } from '#cells';
import type { Kernel } from '../types.ts';
import { BLOCK_SIZE, type BlockDevice } from './state.ts';

/** The bytes that a read sees, undefined where there are only zeroes. Never to be changed. */
export const blockBytes = (k: Kernel, dev: BlockDevice, block: number): Uint8Array | undefined => {
  if (dev.pmemPage < 0) return dev.cache.get(block) ?? dev.media.get(block);
  const at = k.memory.pageOffset(dev.pmemPage + block);
  return k.memory.u8.subarray(at, at + BLOCK_SIZE);
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
    if (bytes === undefined) zeroMemory(k, to + done, n);
    else k.memory.setBytes(to + done, bytes.subarray(within, within + n));
    done += n;
  }
};

const zeroMemory = (k: Kernel, at: number, lenBytes: number): void => {
  noteBytes(k.memory.u8, at, lenBytes);
  k.memory.u8.fill(0, at, at + lenBytes);
  k.memory.wrote(at, lenBytes);
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
    if (dev.pmemPage >= 0)
      k.memory.copyWithin(k.memory.pageOffset(dev.pmemPage + block) + within, at, n);
    else mapSet(dev.cache, block, written(k, dev, block, within, at, n));
    done += n;
  }
};

/** The bytes of a block once a part of it has been written, or all. */
const written = (
  k: Kernel,
  dev: BlockDevice,
  block: number,
  within: number,
  from: number,
  lenBytes: number,
): Uint8Array => {
  if (lenBytes === BLOCK_SIZE) return k.memory.u8.slice(from, from + BLOCK_SIZE);
  const old = blockBytes(k, dev, block);
  const bytes = old === undefined ? new Uint8Array(BLOCK_SIZE) : old.slice();
  bytes.set(k.memory.u8.subarray(from, from + lenBytes), within);
  return bytes;
};

/** Whole blocks that the kernel has made up. @param offset byte on the device @param bytes never to be changed from now on */
export const blockWriteBytes = (
  k: Kernel,
  dev: BlockDevice,
  offset: number,
  bytes: Uint8Array,
): void => {
  for (let done = 0; done < bytes.length; done += BLOCK_SIZE) {
    const block = Math.floor((offset + done) / BLOCK_SIZE);
    const part = bytes.subarray(done, done + BLOCK_SIZE);
    if (dev.pmemPage >= 0) k.memory.setBytes(k.memory.pageOffset(dev.pmemPage + block), part);
    else mapSet(dev.cache, block, part);
  }
};

/** The volatile cache is empty: all of it is durable. */
export const blockFlushAll = (dev: BlockDevice): void => {
  for (const [block, bytes] of dev.cache) mapSet(dev.media, block, bytes);
  setField(dev, 'cache', new Map());
};

/** Blocks that a range of bytes touches are durable. */
export const blockFlushRange = (dev: BlockDevice, offset: number, lenBytes: number): void => {
  const end = Math.ceil((offset + lenBytes) / BLOCK_SIZE);
  for (let block = Math.floor(offset / BLOCK_SIZE); block < end; block++) {
    const bytes = dev.cache.get(block);
    if (bytes === undefined) continue;
    mapSet(dev.media, block, bytes);
    mapDelete(dev.cache, block);
  }
};

/**
 * What a loss of power at this moment would leave, while the machine goes on.
 * @param keeps blocks of the volatile cache that reach the media all the same
 * @returns block -> its bytes, which are never to be changed
 */
export const blockCrashImage = (
  dev: BlockDevice,
  keeps: (block: number) => boolean,
): Map<number, Uint8Array> => {
  const image = new Map(dev.media);
  for (const [block, bytes] of dev.cache) if (keeps(block)) image.set(block, bytes);
  return image;
};

/**
 * Power fails: what was in flight never completes, of the volatile cache only what `keeps` says is
 * left. What the kernel knows of the device is its own affair (extentForget()).
 */
export const blockPowerFail = (dev: BlockDevice, keeps: (block: number) => boolean): void => {
  setField(dev, 'media', blockCrashImage(dev, keeps));
  setField(dev, 'cache', new Map());
  setField(dev, 'inFlight', []);
};
