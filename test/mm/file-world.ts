/** What the tests of files that are written back share: a device, a file system on it, a process that maps a file. */
import { PAGE_SIZE } from '#emu';
import { type AddressSpace, drive, type HostProcess } from '#mm';
import { blockDeviceCreate } from '../../mm/block/device.ts';
import { blockBytes } from '../../mm/block/media.ts';
import type { BlockDevice } from '../../mm/block/state.ts';
import { vfsFsync } from '../../mm/cache/fsync.ts';
import { provenanceStart } from '../../mm/provenance/provenance.ts';
import { folioTestDirty } from '../../mm/folio/folio.ts';
import { fileWrite } from '../../mm/fs/file.ts';
import { blockAt } from '../../mm/fs/extent/extents.ts';
import { extentCreate } from '../../mm/fs/extent/inode.ts';
import { extentMkfs, type MkfsOptions } from '../../mm/fs/extent/mount.ts';
import type { ExtentFs, ExtentInode } from '../../mm/fs/extent/state.ts';
import { createProcess, createWorld, type World, mapOf, settled } from './support.ts';

export interface FileWorld {
  w: World;
  p: HostProcess;
  dev: BlockDevice;
  fs: ExtentFs;
  file: AddressSpace;
  inode: ExtentInode;
  /** All of the file, mapped shared. */
  hva: number;
}

/** A page of bytes that begin with a word. */
export const pageOfBytes = (word: number, lenBytes = PAGE_SIZE): Uint8Array => {
  const bytes = new Uint8Array(lenBytes);
  new DataView(bytes.buffer).setUint32(0, word, true);
  return bytes;
};

/** A file of `nrPages` pages that are on the device: page i begins with i + 1. @param nrBlocks of the device */
export const withFile = (
  nrPages = 4,
  options: MkfsOptions & { nrBlocks?: number } = {},
): FileWorld => {
  const { nrBlocks = 512, ...mkfs } = options;
  const w = createWorld();
  const { k } = w;
  provenanceStart(k);
  const dev = blockDeviceCreate(k, 'disk', nrBlocks);
  const fs = extentMkfs(k, dev, mkfs);
  const file = extentCreate(k, fs);
  const { inode } = file;
  if (inode === null) throw new Error('a file without an inode');
  for (let i = 0; i < nrPages; i++) {
    const n = drive(fileWrite(k, file, i * PAGE_SIZE, pageOfBytes(i + 1)));
    if (n !== PAGE_SIZE) throw new Error(`write: ${n}`);
  }
  const p = createProcess(w);
  const fw: FileWorld = { w, p, dev, fs, file, inode, hva: 0 };
  sync(fw);
  if (nrPages > 0) fw.hva = mapOf(p, file);
  return fw;
};

/** fsync() of the file, which must work. */
export const sync = ({ w, file }: FileWorld): void => {
  const error = drive(vfsFsync(w.k, file));
  if (error !== 0) throw new Error(`fsync: ${error}`);
};

/** First word of a page of the file as the device has it; 0 for a hole. */
export const onDevice = ({ w, dev, inode }: FileWorld, pgoff: number, word = 0): number => {
  const block = blockAt(inode, pgoff);
  const bytes = block < 0 ? undefined : blockBytes(w.k, dev, block);
  if (bytes === undefined) return 0;
  return new DataView(bytes.buffer, bytes.byteOffset).getUint32(word * 4, true);
};

/** The page of the file that is cached at an offset, -1 for none. */
export const cached = ({ file }: FileWorld, pgoff: number): number => file.pages.get(pgoff) ?? -1;

export const isDirty = (fw: FileWorld, pgoff: number): boolean =>
  folioTestDirty(fw.w.k, cached(fw, pgoff));

/** All invariants hold, and nobody is on his way. */
export const quiet = ({ w }: FileWorld, gets = 0): void => settled(w, gets);
