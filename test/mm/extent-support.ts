/** What the tests of the extent file system share: a kernel with a disk and a file system on it, and files on it. */
import { atomicAdd } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockDeviceCreate,
  drive,
  type ExtentFs,
  type ExtentInode,
  extentCreate,
  extentMkfs,
  extentMount,
  extentRead,
  extentWrite,
  type Kernel,
  type MkfsOptions,
  type Path,
  vfsFsync,
  writebackMapping,
} from '#mm';
import { folioMarkDirty, folioOf, folioPut, folioUnlock } from '../../mm/folio/folio.ts';
import { GUP_PIN_COUNTING_BIAS } from '../../mm/folio/pin.ts';
import { operationsOf } from '../../mm/fs/operations.ts';
import { createWorld, type World } from './support.ts';

export interface DiskOptions extends MkfsOptions {
  nrBlocks?: number;
  ramBytes?: number;
}

export interface DiskWorld extends World {
  dev: BlockDevice;
  fs: ExtentFs;
}

/** A kernel with an empty file system on a disk of 256 blocks. */
export const createDiskWorld = (options: DiskOptions = {}): DiskWorld => {
  const { nrBlocks = 256, ramBytes, ...mkfs } = options;
  const w = createWorld(ramBytes);
  const dev = blockDeviceCreate(w.k, 'disk', nrBlocks);
  return { ...w, dev, fs: extentMkfs(w.k, dev, mkfs) };
};

export const inodeOf = (mapping: AddressSpace): ExtentInode => {
  if (mapping.inode === null) throw new Error('no file of a file system');
  return mapping.inode;
};

/** Mounts what is on a device. @throws Error where it does not mount */
export const mounted = (k: Kernel, dev: BlockDevice): ExtentFs => {
  const fs = extentMount(k, dev);
  if (typeof fs === 'number') throw new Error(`${dev.name} does not mount: ${fs}`);
  return fs;
};

/** A page of bytes that tell pages and contents apart. */
export const pageOf = (value: number): Uint8Array => new Uint8Array(PAGE_SIZE).fill(value);

/** Writes, and nothing goes wrong. */
export const write = (
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  bytes: Uint8Array,
): void => {
  const n = drive(extentWrite(k, mapping, offset, bytes));
  if (n !== bytes.length) throw new Error(`write: ${n}`);
};

/** A file of pages, each filled with the value of its place in the list, in the page cache alone. */
export const fileOf = (k: Kernel, fs: ExtentFs, ...values: number[]): AddressSpace => {
  const mapping = extentCreate(k, fs);
  values.forEach((value, i) => {
    write(k, mapping, i * PAGE_SIZE, pageOf(value));
  });
  return mapping;
};

/** Everything of a file, by read(). */
export const contents = (k: Kernel, mapping: AddressSpace): Uint8Array => {
  const into = new Uint8Array(inodeOf(mapping).sizeBytes);
  const n = drive(extentRead(k, mapping, 0, into));
  if (n !== into.length) throw new Error(`read: ${n} of ${into.length}`);
  return into;
};

/** The value that each page of a file begins with. */
export const firstBytes = (k: Kernel, mapping: AddressSpace): number[] => {
  const bytes = contents(k, mapping);
  return Array.from({ length: mapping.nrPages }, (_, i) => bytes[i * PAGE_SIZE] ?? -1);
};

export const fsync = (k: Kernel, mapping: AddressSpace): number => drive(vfsFsync(k, mapping));

export const writeback = (k: Kernel, mapping: AddressSpace): number =>
  drive(writebackMapping(k, mapping));

/** The cached page of a file. @throws Error where it is not cached */
export const cachedPage = (mapping: AddressSpace, pgoff: number): number => {
  const page = mapping.pages.get(pgoff);
  if (page === undefined) throw new Error(`page ${pgoff} is not cached`);
  return page;
};

/** What a first store through a shared mapping does, without a mapping: page_mkwrite, bytes, dirty. @returns 0 or -errno */
export function* storeMapped(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  bytes: Uint8Array,
): Path<number> {
  const { getPage, pageMkwrite } = operationsOf(mapping);
  const page = yield* getPage(k, mapping, Math.floor(offset / PAGE_SIZE), 0);
  if (page < 0) return page;
  const folio = folioOf(k, page);
  folioUnlock(k, folio);
  const error = (yield* pageMkwrite?.(k, mapping, page) ?? none()) as number;
  if (error === 0) {
    k.memory.setBytes(k.memory.pageOffset(page) + (offset % PAGE_SIZE), bytes);
    folioMarkDirty(k, folio);
    folioUnlock(k, folio);
  }
  folioPut(k, folio);
  return error;
}

// biome-ignore lint/correctness/useYield: a path that does nothing
function* none(): Path<number> {
  return 0;
}

export interface OneFile extends DiskWorld {
  file: AddressSpace;
}

/** A file whose pages are on the device. */
export const onDisk = (options: DiskOptions = {}, ...values: number[]): OneFile => {
  const w = createDiskWorld(options);
  const file = fileOf(w.k, w.fs, ...values);
  if (fsync(w.k, file) !== 0) throw new Error('fsync');
  return { ...w, file };
};

/** Takes the clean pages of a file out of the cache, so that they come from the device again. */
export const dropCache = (k: Kernel, file: AddressSpace): void => {
  for (const [pgoff, page] of [...file.pages]) {
    file.pages.delete(pgoff);
    k.state.frames.mapping.fill(0, page, page + 1);
    atomicAdd(k.state.frames.refcount, page, -1);
  }
};

/** Blocks left to promise. */
export const room = (fs: ExtentFs): number => fs.nrFree - fs.nrReserved;

/** Fills the file system with another file, but for so many blocks. */
export const fillUp = ({ k, fs }: DiskWorld, but: number): AddressSpace => {
  const big = extentCreate(k, fs);
  const nr = room(fs) - but;
  write(k, big, 0, new Uint8Array(nr * PAGE_SIZE).fill(0xee));
  if (fsync(k, big) !== 0) throw new Error('fsync');
  if (room(fs) !== but) throw new Error(`${room(fs)} blocks left`);
  return big;
};

/** Dirties a page as a user of FOLL_GET does, who holds it while writeback cleans it: without a word to the file system. */
export const dirtyBehind = (k: Kernel, file: AddressSpace, pgoff: number, value: number): void => {
  const page = cachedPage(file, pgoff);
  k.memory.setBytes(k.memory.pageOffset(page), pageOf(value));
  folioMarkDirty(k, page);
};

/** One pin of a page, as the counts have it, for as long as the body runs. */
export const pinned = (k: Kernel, page: number, body: () => void): void => {
  atomicAdd(k.state.frames.refcount, page, GUP_PIN_COUNTING_BIAS);
  body();
  atomicAdd(k.state.frames.refcount, page, -GUP_PIN_COUNTING_BIAS);
};
