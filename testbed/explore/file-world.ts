/**
 * The kernel that scenarios of files play in: a file of one page on the extent file system, mapped
 * shared and written once, so that the page is dirty and a block promised, and nothing is on the device.
 */
import { PAGE_SIZE, PhysMemory } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockBytes,
  blockDeviceCreate,
  createKernel,
  drive,
  type ExtentFs,
  extentCreate,
  extentMkfs,
  extentSetSize,
  folioTestDirty,
  MAP_SHARED,
  mmap,
  mmCreate,
  type Policy,
  PROT_READ,
  PROT_WRITE,
  pteDirty,
  ptePage,
  ptepGet,
  ptePresent,
  pteWrite,
  walkPte,
} from '#mm';
import type { Stage } from './scenario.ts';
import { type ExploredWorld, frameWord, storePath } from './world.ts';

const RAM_BYTES = 2 ** 20;
const DISK_BLOCKS = 64;

interface FileWorldOptions {
  policy: Policy;
  /** The file system keeps checksums of its data. */
  checksums: boolean;
  /** Nobody may change a page while it is written out. */
  stablePages: boolean;
  /** What was dirtied behind its back it throws away. */
  dropsBehind: boolean;
}

export interface FileWorld extends ExploredWorld {
  dev: BlockDevice;
  fs: ExtentFs;
  mapping: AddressSpace;
}

/** @param first what the first word of the page is */
export const createFileWorld = (options: FileWorldOptions, first: number): FileWorld => {
  const { policy, checksums, stablePages, dropsBehind } = options;
  const k = createKernel({
    memory: new PhysMemory(RAM_BYTES),
    tlb: { flushPage: () => {}, flushRange: () => {}, flushAsid: () => {} },
    policy,
  });
  const dev = blockDeviceCreate(k, 'disk', DISK_BLOCKS);
  // One turn in flight is as good as several, and there are fewer orders to try.
  dev.delay = 1;
  const fs = extentMkfs(k, dev, { checksums, stablePages, dropsBehind });
  const mapping = extentCreate(k, fs);
  if (drive(extentSetSize(k, mapping, PAGE_SIZE)) !== 0) throw new Error('explore: no file');
  const mm = mmCreate(k);
  const hva = drive(
    mmap(k, mm, {
      lenBytes: PAGE_SIZE,
      prot: PROT_READ | PROT_WRITE,
      flags: MAP_SHARED,
      mapping,
      pgoff: 0,
    }),
  );
  if (drive(storePath(k, mm, hva, first)) !== 0) throw new Error('explore: no memory for a page');
  const entry = walkPte(k, mm, hva, false);
  k.watched = true;
  return { k, mm, hva, page: ptePage(ptepGet(k, entry)), entry, dev, fs, mapping };
};

/** Block of the device that the file's page is in, -1: none yet. */
export const diskBlock = ({ mapping }: FileWorld): number => {
  const extent = mapping.inode?.extents.find(({ pgoff }) => pgoff === 0);
  return extent === undefined || extent.unwritten ? -1 : extent.block;
};

/** What the device has for the file's page; null: no block yet. */
export const diskBytes = (w: FileWorld): Uint8Array | null => {
  const block = diskBlock(w);
  return block < 0 ? null : (blockBytes(w.k, w.dev, block) ?? new Uint8Array(PAGE_SIZE));
};

/** A word of it, 0 where there is none. */
const diskWord = (w: FileWorld, offset: number): number => {
  const bytes = diskBytes(w);
  return bytes === null ? 0 : new DataView(bytes.buffer, bytes.byteOffset).getInt32(offset, true);
};

const promised = ({ mapping }: FileWorld): boolean => mapping.inode?.reserved.has(0) ?? false;

/**
 * I6: an entry that can be written to belongs to a page that the file system has promised to write.
 * I7: so does a dirty page. @returns what is wrong, or null
 */
export const promiseKept = (w: FileWorld): string | null => {
  if (promised(w)) return null;
  const { k, page, entry } = w;
  const pte = ptepGet(k, entry);
  if (ptePresent(pte) && pteWrite(pte))
    return 'I6: the entry can be written to, and the file system was not asked';
  return folioTestDirty(k, page)
    ? 'I7: the page is dirty, and the file system was not asked'
    : null;
};

/** I8: a word of the page is on the device, or will be: the page or its entry is dirty. @returns what is wrong, or null */
export const reachesDisk = (w: FileWorld, offset: number): string | null => {
  const { k, page, entry } = w;
  if (diskWord(w, offset) === frameWord(k, page, offset)) return null;
  if (folioTestDirty(k, page) || pteDirty(ptepGet(k, entry))) return null;
  return 'I8: the page is clean, and the device does not have its bytes';
};

/** What the scenarios of one page of a file turn on. */
export const watchedOfFile = (w: FileWorld, offset: number): Stage['watched'] => [
  { name: 'entry', words: w.k.memory.i32, index: w.entry, show: showEntry },
  { name: 'page', read: () => (folioTestDirty(w.k, w.page) ? 'dirty' : 'clean') },
  { name: 'promise', read: () => (promised(w) ? 'made' : 'none') },
  { name: 'in memory', read: () => hex(frameWord(w.k, w.page, offset)) },
  { name: 'on disk', read: () => hex(diskWord(w, offset)) },
];

const hex = (word: number): string => `0x${(word >>> 0).toString(16)}`;

const showEntry = (pte: number): string =>
  ptePresent(pte) ? `${pteWrite(pte) ? 'rw' : 'ro'} ${pteDirty(pte) ? 'dirty' : 'clean'}` : 'none';
