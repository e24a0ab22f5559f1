/**
 * Persistent memory as a block device: its blocks are frames, which mappings of DAX files show and bios
 * reach as well. Compare drivers/nvdimm/pmem.c.
 *
 * What a CPU or a device stores is in the frame at once, and after a loss of power only if its line has
 * been written back before. The block driver writes past the caches (memcpy_flushcache()); stores to a
 * mapping are flushed by the writeback of DAX files (mm/fs/dax/writeback.ts). `media` keeps what is
 * durable, block by block; where it says nothing there are zeroes.
 *
 * Frames that a PersistDomain watches (emu/persist/) are its affair: what was flushed here is durable
 * there, and what is durable it knows line by line, of stores that CPUs have flushed themselves too.
 */
import { mapSet, setField } from '#cells';
import { PERSIST_LINE_BYTES, PersistDomain } from '#emu';
import { PG_FSDAX } from '../frames/table.ts';
import { zoneDeviceCreate, zoneDeviceRemove } from '../frames/zone-device.ts';
import type { Path } from '../path.ts';
import type { Kernel } from '../types.ts';
import { blockDeviceCreate, blockDeviceRemove } from './device.ts';
import { BLOCK_SIZE, type BlockDevice } from './state.ts';

/** A device of `nrPages` blocks of zeroes, taken out of RAM. @returns -ENOMEM without a free run of frames */
export const pmemDeviceCreate = (
  k: Kernel,
  name: string,
  nrPages: number,
): BlockDevice | number => {
  const memory = zoneDeviceCreate(k, PG_FSDAX, nrPages);
  if (typeof memory === 'number') return memory;
  const { firstPage } = memory;
  for (let page = firstPage; page < firstPage + memory.nrPages; page++) k.memory.zeroPage(page);
  const dev = blockDeviceCreate(k, name, nrPages);
  setField(dev, 'pmemPage', firstPage);
  return dev;
};

/** The device goes, once nobody holds or maps any of its pages. @throws Error while bios are in flight */
export function* pmemDeviceRemove(k: Kernel, dev: BlockDevice): Path<void> {
  const memory = k.state.zoneDevices.find(({ firstPage }) => firstPage === dev.pmemPage);
  if (memory === undefined) throw new Error(`block device ${dev.name} is no persistent memory`);
  yield* zoneDeviceRemove(k, memory);
  blockDeviceRemove(k, dev);
}

/** The bytes of a block's frame, as they are: a view. */
export const frameBytes = (k: Kernel, dev: BlockDevice, block: number): Uint8Array => {
  const at = k.memory.pageOffset(dev.pmemPage + block);
  return k.memory.u8.subarray(at, at + BLOCK_SIZE);
};

/** The domain that watches a block's frame, or undefined. */
const domainOf = (k: Kernel, dev: BlockDevice, block: number): PersistDomain | undefined =>
  PersistDomain.at(k.memory, k.memory.pageOffset(dev.pmemPage + block));

/** Where a block is in its domain. */
const atInDomain = (k: Kernel, dev: BlockDevice, domain: PersistDomain, block: number): number =>
  k.memory.pageOffset(dev.pmemPage + block) - domain.firstOffset;

/**
 * Bytes of the device are durable as they are now: written past the caches, or flushed out of them.
 * @param offset byte on the device. Compare dax_flush(), pmem_do_write()
 */
export const pmemPersist = (
  k: Kernel,
  dev: BlockDevice,
  offset: number,
  lenBytes: number,
): void => {
  for (let done = 0; done < lenBytes; ) {
    const block = Math.floor((offset + done) / BLOCK_SIZE);
    const within = (offset + done) % BLOCK_SIZE;
    const n = Math.min(lenBytes - done, BLOCK_SIZE - within);
    const now = frameBytes(k, dev, block);
    const durable = dev.media.get(block);
    const bytes = durable?.slice() ?? new Uint8Array(BLOCK_SIZE);
    bytes.set(now.subarray(within, within + n), within);
    mapSet(dev.media, block, bytes);
    const domain = domainOf(k, dev, block);
    domain?.persist(atInDomain(k, dev, domain, block) + within, n);
    done += n;
  }
};

/** Would a loss of power change the block, if its lines are not written back before? */
export const pmemIsVolatile = (k: Kernel, dev: BlockDevice, block: number): boolean => {
  const domain = domainOf(k, dev, block);
  if (domain !== undefined) return domain.isVolatile(atInDomain(k, dev, domain, block), BLOCK_SIZE);
  const now = frameBytes(k, dev, block);
  const durable = dev.media.get(block);
  for (let i = 0; i < BLOCK_SIZE; i++) if (now[i]! !== (durable?.[i] ?? 0)) return true;
  return false;
};

/**
 * What a loss of power at this moment would leave.
 * @param keeps blocks with stores in the caches that happen to have been written back
 * @returns block -> its bytes, which are never to be changed
 */
export const pmemCrashImage = (
  k: Kernel,
  dev: BlockDevice,
  keeps: (block: number) => boolean,
): Map<number, Uint8Array> => {
  const image = new Map(dev.media);
  for (let block = 0; block < dev.nrBlocks; block++) {
    const domain = domainOf(k, dev, block);
    if (pmemIsVolatile(k, dev, block) && keeps(block))
      image.set(block, frameBytes(k, dev, block).slice());
    else if (domain !== undefined) {
      const at = atInDomain(k, dev, domain, block);
      image.set(block, domain.media.slice(at, at + BLOCK_SIZE));
    }
  }
  return image;
};

/**
 * Power fails: the frames hold what the media had, and what `keeps` says. What the kernel knows of the
 * device is its own affair (extentForget()); nobody maps or holds a page of it any more.
 */
export const pmemPowerFail = (
  k: Kernel,
  dev: BlockDevice,
  keeps: (block: number) => boolean,
): void => {
  const image = pmemCrashImage(k, dev, keeps);
  const zeroes = new Uint8Array(BLOCK_SIZE);
  const domains = new Set<PersistDomain>();
  for (let block = 0; block < dev.nrBlocks; block++) {
    const domain = domainOf(k, dev, block);
    if (domain !== undefined) domains.add(domain);
  }
  for (const domain of domains) {
    const first = atInDomain(k, dev, domain, 0);
    domain.powerFail((line, choices) =>
      keeps(Math.floor((line * PERSIST_LINE_BYTES - first) / BLOCK_SIZE)) ? choices - 1 : 0,
    );
  }
  for (let block = 0; block < dev.nrBlocks; block++)
    if (domainOf(k, dev, block) === undefined)
      k.memory.setBytes(k.memory.pageOffset(dev.pmemPage + block), image.get(block) ?? zeroes);
  setField(dev, 'media', image);
  setField(dev, 'inFlight', []);
};
