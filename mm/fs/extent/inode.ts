/**
 * Files of the extent file system: made, opened by number, unlinked. Compare fs/ext4/ialloc.c,
 * fs/ext4/inode.c:ext4_evict_inode().
 *
 * There are no directories: a file is its number. All files of a mounted file system are in memory; it
 * is a user of each that is linked, so that pages stay cached while nobody has a file open.
 */
import { listPush, mapDelete, mapSet, setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import { ENOENT } from '../../errno.ts';
import type { Path } from '../../path.ts';
import type { AddressSpace, Kernel } from '../../types.ts';
import { mappingCreate, mappingGet, mappingPut } from '../mapping.ts';
import { inodeCredits, journalDirtyInode, journalDropInode } from './handle.ts';
import { journalStart, journalStop } from './journal.ts';
import { geometryOf, type InodeRecord } from './layout.ts';
import { freeBlocks, unreserveBlocks } from './space.ts';
import type { ExtentFs, ExtentInode } from './state.ts';

/** The inode of a file of the extent file system. @throws Error for another kind */
export const inodeOfMapping = (mapping: AddressSpace): ExtentInode => {
  if (mapping.inode === null) throw new Error(`a file of kind ${mapping.kind} has no inode`);
  return mapping.inode;
};

/** The file system that a file is of. @throws Error when it is mounted no more */
export const fsOfInode = (k: Kernel, inode: ExtentInode): ExtentFs => {
  const fs = k.state.filesystems.get(inode.fs);
  if (fs === undefined)
    throw new Error(`file ${inode.ino}: file system ${inode.fs} is not mounted`);
  return fs;
};

/** i_size and what the page cache knows of it. */
export const setInodeSize = (mapping: AddressSpace, sizeBytes: number): void => {
  setField(inodeOfMapping(mapping), 'sizeBytes', sizeBytes);
  setField(mapping, 'nrPages', Math.ceil(sizeBytes / PAGE_SIZE));
};

/** A file that is on the device, or about to be, with the file system as its only user. */
export const inodeAttach = (k: Kernel, fs: ExtentFs, record: InodeRecord): AddressSpace => {
  const mapping = mappingCreate(k, fs.dax ? 'fsdax' : 'extent', 0);
  const inode: ExtentInode = {
    ino: record.ino,
    fs: fs.id,
    mapping: mapping.id,
    sizeBytes: 0,
    diskSizeBytes: record.sizeBytes,
    extents: record.extents,
    reserved: new Map(),
    transaction: 0,
    pool: record.pool,
    linked: true,
    lock: { readers: 0, writer: false },
  };
  setField(mapping, 'inode', inode);
  setInodeSize(mapping, record.sizeBytes);
  mapSet(fs.inodes, inode.ino, mapping.id);
  return mapping;
};

/**
 * A new empty file; the caller is a user of it. It is there after a crash once it was fsynced.
 * @throws Error when there are no inodes left, or the file system has been aborted
 */
export const extentCreate = (k: Kernel, fs: ExtentFs): AddressSpace => {
  let ino = 1;
  while (fs.inodes.has(ino)) ino++;
  if (ino > geometryOf(fs.nrBlocks, fs.checksums !== null).nrInodes)
    throw new Error(`file system ${fs.id}: all ${ino - 1} inodes are in use`);
  const record = { ino, sizeBytes: 0, extents: [], pool: [], orphan: false };
  const mapping = inodeAttach(k, fs, record);
  setField(inodeOfMapping(mapping), 'transaction', -1);
  mappingGet(mapping);
  return mapping;
};

/** Opens a file by its number; the caller is a user of it. @returns -ENOENT */
export const extentOpen = (k: Kernel, fs: ExtentFs, ino: number): AddressSpace | number => {
  const mapping = k.state.mappings.get(fs.inodes.get(ino) ?? 0);
  if (mapping === undefined || !('inode' in mapping) || mapping.inode?.linked !== true)
    return -ENOENT;
  mappingGet(mapping);
  return mapping;
};

/** A file goes, with the last who has it open or mapped. @returns 0, -ENOENT, -EIO */
export function* extentUnlink(k: Kernel, fs: ExtentFs, ino: number): Path<number> {
  const mapping = extentOpen(k, fs, ino);
  if (typeof mapping === 'number') return mapping;
  const inode = inodeOfMapping(mapping);
  setField(inode, 'linked', false);
  const status = yield* journalStart(k, fs, () => inodeCredits(fs, inode, 0));
  if (status === 0) {
    journalDirtyInode(fs, inode);
    journalStop(fs);
  }
  // The file system's use of it, and the one of this call.
  yield* mappingPut(k, mapping);
  yield* mappingPut(k, mapping);
  return status;
}

/**
 * The last user of a file has gone, and its pages: so do its promises, its blocks and its record. Of a
 * file system that is mounted no more only the memory.
 */
export function* extentEvict(k: Kernel, mapping: AddressSpace): Path<void> {
  const inode = inodeOfMapping(mapping);
  const fs = k.state.filesystems.get(inode.fs);
  if (fs === undefined) return;
  if (inode.linked) throw new Error(`file ${inode.ino}: more puts than users`);
  for (const how of inode.reserved.values()) if (how === 'delalloc') unreserveBlocks(fs, 1);
  setField(inode, 'reserved', new Map());
  const { nrBitmap } = geometryOf(fs.nrBlocks, fs.checksums !== null);
  const status = yield* journalStart(k, fs, () => 1 + nrBitmap);
  if (status === 0) {
    for (const { block, nr } of inode.extents) freeBlocks(fs, block, nr);
    for (const block of inode.pool) listPush(fs.poolFree, block);
    mapDelete(fs.inodes, inode.ino);
    journalDropInode(fs, inode.ino);
    journalStop(fs);
  }
}
