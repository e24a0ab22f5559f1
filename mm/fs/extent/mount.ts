/**
 * Making, mounting and letting go of an extent file system. Compare fs/ext4/super.c, fs/jbd2/recovery.c.
 *
 * Mounting reads the journal first: what was committed is written home. Then the inodes are read, all
 * of them, and the bitmap; files that were unlinked while open give their blocks back.
 */
import { clearBits, mapDelete, mapSet, setBits, setField } from '#cells';
import { blockBytes, blockFlushAll, blockWriteBytes } from '../../block/media.ts';
import { BLOCK_SIZE, type BlockDevice } from '../../block/state.ts';
import { EINVAL, EIO } from '../../errno.ts';
import type { Path } from '../../path.ts';
import { newId } from '../../rmap/anon-vma.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { mappingPut } from '../mapping.ts';
import { freshTransaction } from './handle.ts';
import { inodeAttach } from './inode.ts';
import { journalCheckpoint, journalCommit } from './journal.ts';
import {
  bytesToWords,
  DEVICE_BLOCKS_MAX,
  geometryOf,
  type InodeRecord,
  inodeFromBytes,
  type SuperBlock,
  superFromBytes,
  superToBytes,
  WORDS_PER_BLOCK,
  wordsToBytes,
} from './layout.ts';
import { checksumOf, descriptorFromBytes, isCommit } from './records.ts';
import type { ExtentFs } from './state.ts';

export interface MkfsOptions {
  /** Checksums of data; then nothing is written over, since bytes and checksum have to change as one. */
  checksums?: boolean;
  stablePages?: boolean;
  /** On persistent memory alone; files of it have no page cache. Not together with checksums. */
  dax?: boolean;
  /** Pages that were dirtied behind the file system's back are dropped, as ext4 does. */
  dropsBehind?: boolean;
}

/** A block as mounting reads it, without a bio. */
const readNow = (k: Kernel, dev: BlockDevice, block: number): Uint8Array => {
  const bytes = blockBytes(k, dev, block);
  return bytes === undefined ? new Uint8Array(BLOCK_SIZE) : bytes.slice();
};

const writeNow = (k: Kernel, dev: BlockDevice, block: number, bytes: Uint8Array): void =>
  blockWriteBytes(k, dev, block * BLOCK_SIZE, bytes);

/**
 * Makes an empty file system, durable, and mounts it.
 * @throws Error where the device is too small or too large, or the options do not go together
 */
export const extentMkfs = (k: Kernel, dev: BlockDevice, options: MkfsOptions = {}): ExtentFs => {
  const { checksums = false, stablePages = false, dax = false, dropsBehind = false } = options;
  const { nrBlocks } = dev;
  const geometry = geometryOf(nrBlocks, checksums);
  if (geometry.data >= nrBlocks || nrBlocks > DEVICE_BLOCKS_MAX)
    throw new Error(`${dev.name}: ${nrBlocks} blocks are too few or too many for a file system`);
  if (dax && checksums) throw new Error(`${dev.name}: a DAX file system has no checksums of data`);
  if (dax && dev.pmemPage < 0) throw new Error(`${dev.name} is not memory: it cannot be DAX`);
  const zeroes = new Uint8Array(BLOCK_SIZE);
  for (let block = 1; block < geometry.data; block++) writeNow(k, dev, block, zeroes);
  const bitmap = new Int32Array(geometry.nrBitmap * WORDS_PER_BLOCK);
  for (let block = 0; block < geometry.data; block++)
    setBits(bitmap, block >>> 5, 1 << (block & 31));
  for (let i = 0; i < geometry.nrBitmap; i++) {
    const words = bitmap.slice(i * WORDS_PER_BLOCK, (i + 1) * WORDS_PER_BLOCK);
    writeNow(k, dev, geometry.bitmap + i, new Uint8Array(words.buffer));
  }
  const flags = { checksums, stablePages, dax, dropsBehind };
  writeNow(k, dev, 0, superToBytes({ nrBlocks, ...flags, tail: 0, tailSeq: 1 }));
  blockFlushAll(dev);
  const fs = extentMount(k, dev);
  if (typeof fs === 'number')
    throw new Error(`${dev.name}: a new file system does not mount: ${fs}`);
  return fs;
};

/**
 * Mounts what is on a device: after a crash, what the journal says.
 * @returns the file system, its files open by nobody; -EINVAL where there is none; -EIO where a block of
 *   its metadata cannot be read
 * @throws Error where it is mounted already
 */
export const extentMount = (k: Kernel, dev: BlockDevice): ExtentFs | number => {
  for (const fs of k.state.filesystems.values())
    if (fs.device === dev.id) throw new Error(`${dev.name} is mounted already`);
  const found = superFromBytes(readNow(k, dev, 0));
  if (found === null || found.nrBlocks > dev.nrBlocks) return -EINVAL;
  const { data } = geometryOf(found.nrBlocks, found.checksums);
  for (let block = 0; block < data; block++) if (dev.badReads.has(block)) return -EIO;
  const replayed = replay(k, dev, found);
  const fs = fsOf(k, dev, replayed);
  mapSet(k.state.filesystems, fs.id, fs);
  readInodes(k, dev, fs);
  return fs;
};

/** Writes home what has been committed, in order, and empties the journal. @returns the superblock after it. Compare jbd2_journal_recover() */
const replay = (k: Kernel, dev: BlockDevice, found: SuperBlock): SuperBlock => {
  const { journal, nrJournal } = geometryOf(found.nrBlocks, found.checksums);
  const read = (at: number): Uint8Array => readNow(k, dev, journal + (at % nrJournal));
  let at = found.tail;
  let seq = found.tailSeq;
  for (;;) {
    const descriptor = read(at);
    const homes = descriptorFromBytes(descriptor, seq);
    if (homes === null) break;
    const images = homes.map((_, i) => read(at + 1 + i));
    const commit = read(at + 1 + homes.length);
    if (!isCommit(commit, seq, checksumOf([descriptor, ...images]))) break;
    images.forEach((bytes, i) => {
      writeNow(k, dev, homes[i] ?? 0, bytes);
    });
    at = (at + homes.length + 2) % nrJournal;
    seq++;
  }
  blockFlushAll(dev);
  const after = { ...found, tail: at, tailSeq: seq };
  writeNow(k, dev, 0, superToBytes(after));
  blockFlushAll(dev);
  return after;
};

/** The file system as its superblock, bitmap and checksums have it; no inodes yet. */
const fsOf = (k: Kernel, dev: BlockDevice, s: SuperBlock): ExtentFs => {
  const geometry = geometryOf(s.nrBlocks, s.checksums);
  const bitmap = new Int32Array(geometry.nrBitmap * WORDS_PER_BLOCK);
  for (let i = 0; i < geometry.nrBitmap; i++)
    bytesToWords(readNow(k, dev, geometry.bitmap + i), bitmap, i * WORDS_PER_BLOCK);
  const checksums = s.checksums ? new Int32Array(geometry.nrSums * WORDS_PER_BLOCK) : null;
  for (let i = 0; checksums !== null && i < geometry.nrSums; i++)
    bytesToWords(readNow(k, dev, geometry.sums + i), checksums, i * WORDS_PER_BLOCK);
  const nrUsed = countUsed(bitmap, s.nrBlocks);
  const poolFree: number[] = [];
  for (let i = geometry.nrPool - 1; i >= 0; i--) poolFree.push(geometry.pool + i);
  return {
    id: newId(k),
    device: dev.id,
    dax: s.dax,
    firstBlock: geometry.data,
    nrBlocks: s.nrBlocks,
    bitmap,
    busy: new Int32Array(bitmap.length),
    nrFree: s.nrBlocks - nrUsed,
    nrReserved: 0,
    cursor: geometry.data,
    checksums,
    stablePages: s.stablePages,
    dropsBehind: s.dropsBehind,
    inodes: new Map(),
    nrInodes: geometry.nrInodes,
    poolFree,
    journal: {
      firstBlock: geometry.journal,
      nrBlocks: geometry.nrJournal,
      tail: s.tail,
      tailSeq: s.tailSeq,
      nrUsed: 0,
      running: freshTransaction(s.tailSeq),
      committedSeq: s.tailSeq - 1,
      busy: false,
      credits: -1,
      unwritten: new Map(),
      aborted: false,
    },
    dirtiedBehind: 0,
    lostPages: 0,
    behind: [],
    checksumErrors: 0,
  };
};

const countUsed = (bitmap: Int32Array, nrBlocks: number): number => {
  let used = 0;
  for (let block = 0; block < nrBlocks; block++)
    used += (bitmap[block >>> 5]! >>> (block & 31)) & 1;
  return used;
};

const readInodes = (k: Kernel, dev: BlockDevice, fs: ExtentFs): void => {
  const { inodes, nrInodes } = geometryOf(fs.nrBlocks, fs.checksums !== null);
  const records: InodeRecord[] = [];
  for (let i = 0; i < nrInodes; i++) {
    const record = inodeFromBytes(readNow(k, dev, inodes + i), (block) => readNow(k, dev, block));
    if (record !== null) records.push(record);
  }
  const taken = new Set(records.flatMap(({ pool }) => pool));
  setField(
    fs,
    'poolFree',
    fs.poolFree.filter((block) => !taken.has(block)),
  );
  for (const record of records) {
    if (record.orphan) dropOrphan(k, dev, fs, record);
    else inodeAttach(k, fs, record);
  }
  blockFlushAll(dev);
};

/** Its blocks are free, its record goes, at once on the device: nothing else happens to it while it is mounted. */
const dropOrphan = (k: Kernel, dev: BlockDevice, fs: ExtentFs, record: InodeRecord): void => {
  const { bitmap, inodes } = geometryOf(fs.nrBlocks, fs.checksums !== null);
  for (const { block, nr } of record.extents) {
    for (let at = block; at < block + nr; at++) clearBits(fs.bitmap, at >>> 5, 1 << (at & 31));
    setField(fs, 'nrFree', fs.nrFree + nr);
  }
  setField(fs, 'poolFree', [...fs.poolFree, ...record.pool]);
  for (let i = 0; i * WORDS_PER_BLOCK < fs.bitmap.length; i++)
    writeNow(k, dev, bitmap + i, wordsToBytes(fs.bitmap, i * WORDS_PER_BLOCK));
  writeNow(k, dev, inodes + record.ino - 1, new Uint8Array(BLOCK_SIZE));
};

/**
 * Commits, writes all home, and lets go of a file system whose files nobody has open or mapped. Dirty
 * pages are the caller's to write first: what is still dirty is lost.
 * @returns 0 or -EIO, and then it is gone all the same
 * @throws Error while a file is in use
 */
export function* extentUnmount(k: Kernel, fs: ExtentFs): Path<number> {
  let status = yield* journalCommit(k, fs);
  if (status === 0) status = yield* journalCheckpoint(k, fs);
  yield* extentForget(k, fs);
  return status;
}

/**
 * The kernel forgets a file system, and writes nothing: what a loss of power does to its memory.
 * @throws Error while a file is in use
 */
export function* extentForget(k: Kernel, fs: ExtentFs): Path<void> {
  const files: AddressSpace[] = [];
  for (const id of fs.inodes.values()) {
    const mapping = k.state.mappings.get(id);
    if (mapping === undefined || !('inode' in mapping)) continue;
    if (mapping.users > 1)
      throw new Error(`file system ${fs.id}: file ${mapping.inode?.ino} is still in use`);
    files.push(mapping);
  }
  // From here on the files have no file system: their last put frees pages, and no blocks.
  mapDelete(k.state.filesystems, fs.id);
  for (const mapping of files) yield* mappingPut(k, mapping);
}
