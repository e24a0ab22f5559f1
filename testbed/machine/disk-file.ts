/**
 * Images: files of the user as files of the model's host, each on a disk of its own.
 *
 * What is in the user's file is copied there when the guest is made, and at the end of the run the
 * whole of it is written back. In between the user's file is not touched: what is durable in the model
 * is a matter of its disk, with a volatile cache and a journal.
 */
import { closeSync, fstatSync, openSync, readSync, realpathSync } from 'node:fs';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockBytes,
  blockCrashImage,
  blockDeviceCreate,
  blockDeviceRemove,
  drive,
  type ExtentFs,
  extentCreate,
  extentForget,
  extentMkfs,
  extentMount,
  extentOpen,
  extentSetSize,
  extentWrite,
  invalidateInodePages2Range,
  type Kernel,
  mappingPut,
  vfsFsync,
} from '#mm';
import { fileById } from '../actors/targets.ts';
import { must } from './must.ts';
import { writeWhole } from './snapshot.ts';

/** An image: bytes of a file, or zeroes. Plain data, of a part's config. */
export interface ImageConfig {
  /** The user's file, read at the start and written at the end; null: an image of zeroes, which goes. */
  file: string | null;
  sizeBytes: number;
}

/** A file system has so many blocks at most. */
export const IMAGE_BYTES_MAX = 640 * 2 ** 20;

/** RAM of the host while an image is filled. */
export const IMAGE_HOST_RAM_BYTES = 4 * 2 ** 20;

/** Bytes that are copied in one go. */
const COPY_BYTES = 2 ** 20;

/** A file on a disk of its own. Plain data, saved with its part. */
export interface DiskFile {
  device: number;
  filesystem: number;
  mappingId: number;
  ino: number;
  sizeBytes: number;
}

const isZero = (bytes: Uint8Array): boolean => bytes.every((byte) => byte === 0);

/** Copies the user's file. @throws Error where it has another size, or cannot be read */
const fill = (k: Kernel, file: AddressSpace, { file: path, sizeBytes }: ImageConfig): void => {
  if (path === null) return;
  const fd = openSync(path, 'r');
  try {
    if (fstatSync(fd).size !== sizeBytes)
      throw new Error(`${path}: not ${sizeBytes} bytes any more`);
    const buffer = new Uint8Array(COPY_BYTES);
    for (let at = 0; at < sizeBytes; ) {
      const n = readSync(fd, buffer, 0, Math.min(COPY_BYTES, sizeBytes - at), at);
      if (n === 0) throw new Error(`${path}: it ends after ${at} of ${sizeBytes} bytes`);
      const bytes = buffer.subarray(0, n);
      if (!isZero(bytes)) {
        must('write of an image', drive(extentWrite(k, file, at, bytes)));
        must('fsync of an image', drive(vfsFsync(k, file)));
        const end = Math.ceil((at + n) / PAGE_SIZE);
        must('cache of an image', drive(invalidateInodePages2Range(k, file, 0, end)));
      }
      at += n;
    }
  } finally {
    closeSync(fd);
  }
};

/**
 * Makes the disk, the file system and the file, durable and with nothing of it in the page cache.
 * @throws Error where the user's file cannot be read
 */
export const makeDiskFile = (k: Kernel, name: string, image: ImageConfig): DiskFile => {
  const nrPages = Math.ceil(image.sizeBytes / PAGE_SIZE);
  const device = blockDeviceCreate(k, name, nrPages + Math.ceil(nrPages / 16) + 2048);
  const fs = extentMkfs(k, device);
  const file = extentCreate(k, fs);
  must('ftruncate of an image', drive(extentSetSize(k, file, image.sizeBytes)));
  fill(k, file, image);
  must('fsync of an image', drive(vfsFsync(k, file)));
  return {
    device: device.id,
    filesystem: fs.id,
    mappingId: file.id,
    ino: file.inode?.ino ?? 0,
    sizeBytes: image.sizeBytes,
  };
};

/** The file itself. @throws Error when it is gone */
export const diskFileMapping = (k: Kernel, { mappingId }: DiskFile): AddressSpace =>
  fileById(k, mappingId);

/**
 * All bytes of a file as a reader would see them now: what is in its page cache, else what the disk
 * has, volatile or not. Looks and changes nothing, so that it may be asked in the middle of anything.
 */
const bytesOf = (
  k: Kernel,
  device: BlockDevice,
  file: AddressSpace,
  sizeBytes: number,
): Uint8Array => {
  const bytes = new Uint8Array(Math.ceil(sizeBytes / PAGE_SIZE) * PAGE_SIZE);
  for (const { pgoff, block, nr, unwritten } of file.inode?.extents ?? [])
    for (let i = 0; i < nr && !unwritten; i++) {
      const at = (pgoff + i) * PAGE_SIZE;
      const found = at < bytes.length ? blockBytes(k, device, block + i) : undefined;
      if (found !== undefined) bytes.set(found, at);
    }
  for (const [pgoff, page] of file.pages) {
    const at = pgoff * PAGE_SIZE;
    const offset = k.memory.pageOffset(page);
    if (at < bytes.length) bytes.set(k.memory.u8.subarray(offset, offset + PAGE_SIZE), at);
  }
  return bytes.subarray(0, sizeBytes);
};

/** The same of a DiskFile. */
export const diskFileBytes = (k: Kernel, disk: DiskFile): Uint8Array =>
  bytesOf(k, deviceOf(k, disk), diskFileMapping(k, disk), disk.sizeBytes);

/**
 * What the file would be after a loss of power now and the next mount, while the machine goes on.
 * @param keeps blocks of the disk's volatile cache that reach its media all the same
 * @throws Error where what is left does not mount: a bug of the file system
 */
export const diskFileAfterPowerFail = (
  k: Kernel,
  disk: DiskFile,
  keeps: (block: number) => boolean,
): Uint8Array => {
  const { nrBlocks } = deviceOf(k, disk);
  const copy = blockDeviceCreate(k, 'after a loss of power', nrBlocks);
  for (const [block, bytes] of blockCrashImage(deviceOf(k, disk), keeps))
    copy.media.set(block, bytes);
  const fs = extentMount(k, copy);
  if (typeof fs === 'number') throw new Error(`an image does not mount: errno ${-fs}`);
  const file = extentOpen(k, fs, disk.ino);
  const bytes = new Uint8Array(disk.sizeBytes);
  if (typeof file !== 'number') {
    bytes.set(bytesOf(k, copy, file, disk.sizeBytes));
    drive(mappingPut(k, file));
  }
  drive(extentForget(k, fs));
  blockDeviceRemove(k, copy);
  return bytes;
};

/** Nobody has the file mapped any more: it goes, with its file system and its disk. */
export const releaseDiskFile = (k: Kernel, disk: DiskFile): void => {
  drive(mappingPut(k, diskFileMapping(k, disk)));
  const fs: ExtentFs | undefined = k.state.filesystems.get(disk.filesystem);
  if (fs !== undefined) drive(extentForget(k, fs));
  blockDeviceRemove(k, deviceOf(k, disk));
};

/** Puts an image into the user's file, whole or not at all. @throws Error of the user's file system */
export const writeImage = (path: string, bytes: Uint8Array): void =>
  writeWhole(realpathSync(path), bytes);

const deviceOf = (k: Kernel, { device }: DiskFile): BlockDevice => {
  const found = k.state.blockDevices.get(device);
  if (found === undefined) throw new Error(`no disk ${device}`);
  return found;
};
