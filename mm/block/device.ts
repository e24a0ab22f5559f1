/** Block devices come and go. Compare block/genhd.c. */
import { mapDelete, mapSet } from '#cells';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel } from '../types.ts';
import type { BlockDevice } from './state.ts';

/** A disk of zeroes. Its bios are in flight for two yields, while somebody watches. */
export const blockDeviceCreate = (k: Kernel, name: string, nrBlocks: number): BlockDevice => {
  const dev: BlockDevice = {
    id: newId(k),
    name,
    nrBlocks,
    pmemPage: -1,
    media: new Map(),
    cache: new Map(),
    spare: [],
    inFlight: [],
    delay: 2,
    badReads: new Set(),
    badWrites: new Set(),
    nrReads: 0,
    nrWrites: 0,
    nrFlushes: 0,
  };
  mapSet(k.state.blockDevices, dev.id, dev);
  return dev;
};

/** @throws Error where there is no such device */
export const blockDeviceOf = (k: Kernel, id: number): BlockDevice => {
  const dev = k.state.blockDevices.get(id);
  if (dev === undefined) throw new Error(`no block device ${id}`);
  return dev;
};

/** The device goes, with what is on it. @throws Error while bios are in flight */
export const blockDeviceRemove = (k: Kernel, dev: BlockDevice): void => {
  if (dev.inFlight.length > 0)
    throw new Error(`block device ${dev.name}: removed with ${dev.inFlight.length} bios in flight`);
  mapDelete(k.state.blockDevices, dev.id);
};
