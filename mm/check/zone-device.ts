/**
 * Sanitizer: memory of devices. Free pages of a device are with its driver; a block of a DAX file is
 * used by the file that has it, or by nobody, and whoever holds it holds it while it is the file's. I8 at
 * rest: what a DAX file does not remember as written to is durable as it is.
 */
import { pmemIsVolatile } from '../block/pmem.ts';
import { PG_DEVDAX, PG_FSDAX } from '../frames/table.ts';
import type { ZoneDevice } from '../frames/zone-device.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { FREE_POOL } from './buddy.ts';
import type { Census } from './census.ts';

/** Checks the pages of every device, and marks the free ones; those in use are counted with the frames. */
export const checkZoneDevices = (
  k: Kernel,
  census: Census,
  settled: boolean,
  report: string[],
): void => {
  const { flags } = k.state.frames;
  for (const device of k.state.zoneDevices) {
    const { id, type, firstPage, nrPages } = device;
    checkFree(k, device, census, report);
    if (type === PG_FSDAX) checkBlocks(k, device, census, report);
    for (let page = firstPage; page < firstPage + nrPages; page++) {
      if ((flags[page]! & type) === 0) report.push(`device ${id}: page ${page} is none of it`);
      // The driver of device-dax has a reference of each page.
      if (type === PG_DEVDAX) census.held[page] = census.held[page]! + 1;
    }
  }
  for (const object of k.state.mappings.values())
    if (object.kind === 'fsdax') {
      checkDaxFile(k, object, report);
      if (settled) checkDurable(k, object, report);
    }
};

/** Pages that the driver has not handed out. */
const checkFree = (k: Kernel, device: ZoneDevice, { free }: Census, report: string[]): void => {
  const { flags, refcount } = k.state.frames;
  for (const page of device.free) {
    const say = (what: string): void => {
      report.push(`device ${device.id}: free page ${page}${what}`);
    };
    if (free[page] !== 0) say(' is free twice');
    if (refcount[page] !== 0) say(` has ${refcount[page]!} references`);
    if (flags[page] !== device.type) say(` says 0x${flags[page]!.toString(16)}, not what it is`);
    free[page] = FREE_POOL;
  }
};

/** Blocks of DAX files: idle without references; with some they are a file's, and that file's alone. */
const checkBlocks = (k: Kernel, device: ZoneDevice, { free }: Census, report: string[]): void => {
  const { refcount, mapping, index } = k.state.frames;
  const { id, firstPage, nrPages } = device;
  for (let page = firstPage; page < firstPage + nrPages; page++) {
    if (refcount[page] === 0) free[page] = FREE_POOL;
    const owner = mapping[page]!;
    if (owner === 0) {
      if (refcount[page] !== 0)
        report.push(`device ${id}: page ${page} is held, and its block is no file's any more`);
      continue;
    }
    const file = k.state.mappings.get(owner);
    if (file?.kind !== 'fsdax' || file.dax?.entries.get(index[page]!) !== page)
      report.push(`device ${id}: page ${page} says ${owner}:${index[page]!}, which is not so`);
  }
};

/** What a DAX file shows is its blocks, and a hole where it has none. */
const checkDaxFile = (k: Kernel, file: AddressSpace, report: string[]): void => {
  const { dax, inode, id } = file;
  if (dax === null || inode === null) return;
  const { mapping, index } = k.state.frames;
  const fs = k.state.filesystems.get(inode.fs);
  const dev = fs === undefined ? undefined : k.state.blockDevices.get(fs.device);
  for (const [pgoff, page] of dax.entries) {
    const say = (what: string): void => {
      report.push(`dax ${id}:${pgoff} ${what}`);
    };
    const extent = inode.extents.find((e) => e.pgoff <= pgoff && pgoff < e.pgoff + e.nr);
    if (page === k.state.zeroPage) continue;
    if (mapping[page] !== id || index[page] !== pgoff)
      say(`shows page ${page}, which says ${mapping[page]!}:${index[page]!}`);
    if (extent === undefined) say(`shows page ${page}, and the file has no block there`);
    else if (dev !== undefined && dev.pmemPage + extent.block + pgoff - extent.pgoff !== page)
      say(`shows page ${page}, which is not its block`);
  }
  for (const pgoff of dax.dirty.keys())
    if (!dax.entries.has(pgoff)) report.push(`dax ${id}:${pgoff} is dirty, and shows nothing`);
};

/** I8. Blocks that are clean: the media has their bytes, or, where it has none, they are zeroes. */
const checkDurable = (k: Kernel, { dax, inode }: AddressSpace, report: string[]): void => {
  const fs = k.state.filesystems.get(inode?.fs ?? -1);
  const dev = fs === undefined ? undefined : k.state.blockDevices.get(fs.device);
  if (dax === null || inode === null || dev === undefined) return;
  for (const { pgoff, block, nr, unwritten } of inode.extents)
    for (let i = 0; i < nr && !unwritten; i++)
      if (!dax.dirty.has(pgoff + i) && pmemIsVolatile(k, dev, block + i))
        report.push(`I8 page ${pgoff + i} of inode ${inode.ino}: clean, and not durable as it is`);
};
