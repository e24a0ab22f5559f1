/** A DAX file system over persistent memory, and a process that maps a file of it. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  drive,
  type ExtentFs,
  extentCreate,
  extentMkfs,
  extentMount,
  extentForget,
  extentOpen,
  fileTruncate,
  fileWrite,
  type HostProcess,
  type Kernel,
  MAP_SHARED,
  mmap,
  pmemDeviceCreate,
  pmemPowerFail,
} from '#mm';
import { createProcess, createWorld, RW, type World } from './support.ts';

export const AT = 0x1000_0000;
export const PMEM_PAGES = 512;

export interface DaxWorld {
  w: World;
  k: Kernel;
  dev: BlockDevice;
  fs: ExtentFs;
  file: AddressSpace;
  p: HostProcess;
}

/** Maps pages of a file at an address. */
export const mapFile = (
  p: HostProcess,
  mapping: AddressSpace,
  nrPages: number,
  { prot = RW, flags = MAP_SHARED, hva = AT, pgoff = 0 } = {},
): number =>
  drive(mmap(p.k, p.mm, { hva, lenBytes: nrPages * PAGE_SIZE, prot, flags, mapping, pgoff }));

/**
 * A file of `nrPages` pages, each of which begins with its number and 100, mapped shared at AT.
 * @param written false: all of it is a hole
 */
export const daxWorld = (nrPages = 8, written = true): DaxWorld => {
  const w = createWorld(8 << 20);
  const { k } = w;
  const dev = pmemDeviceCreate(k, 'pmem0', PMEM_PAGES);
  if (typeof dev === 'number') throw new Error(`pmemDeviceCreate: ${dev}`);
  const fs = extentMkfs(k, dev, { dax: true });
  const file = extentCreate(k, fs);
  if (written)
    for (let i = 0; i < nrPages; i++) drive(fileWrite(k, file, i * PAGE_SIZE, pageOf(100 + i)));
  else drive(fileTruncate(k, file, nrPages * PAGE_SIZE));
  const p = createProcess(w);
  mapFile(p, file, nrPages);
  return { w, k, dev, fs, file, p };
};

/** A page whose first word is `value`. */
export const pageOf = (value: number): Uint8Array => {
  const bytes = new Uint8Array(PAGE_SIZE);
  new DataView(bytes.buffer).setUint32(0, value, true);
  return bytes;
};

export const wordOf = (bytes: Uint8Array): number =>
  new DataView(bytes.buffer, bytes.byteOffset).getUint32(0, true);

/** The page of persistent memory that is a block of the file. */
export const blockPage = ({ file, dev }: DaxWorld, pgoff: number): number => {
  for (const extent of file.inode?.extents ?? [])
    if (pgoff >= extent.pgoff && pgoff < extent.pgoff + extent.nr)
      return dev.pmemPage + extent.block + pgoff - extent.pgoff;
  return -1;
};

/**
 * Power fails and the file system is mounted again; nobody may map or hold anything of it.
 * @param keeps blocks with stores in the caches that survive all the same
 * @returns the file with the same number, as far as there is one
 */
export const powerFail = (
  { k, dev, fs, file }: DaxWorld,
  keeps: (block: number) => boolean,
): AddressSpace | number => {
  const ino = file.inode?.ino ?? 0;
  file.users--;
  drive(extentForget(k, fs));
  pmemPowerFail(k, dev, keeps);
  const again = extentMount(k, dev);
  return typeof again === 'number' ? again : extentOpen(k, again, ino);
};
