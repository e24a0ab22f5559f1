/** A disk, a file system on it, a file, and a process that reads and writes it with O_DIRECT. */
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockDeviceCreate,
  drive,
  type ExtentFs,
  extentCreate,
  extentMkfs,
  fileDirectRead,
  fileDirectWrite,
  fileRead,
  fileWrite,
  type HostProcess,
  ITER_DEST,
  ITER_SOURCE,
  iovIterUbuf,
  MAP_SHARED,
  type MkfsOptions,
  mmap,
  provenanceStart,
  setPolicyApi,
  vfsFsync,
} from '#mm';
import { createProcess, createWorld, mapAnon, RW, type World } from './support.ts';

export interface DioWorld {
  w: World;
  dev: BlockDevice;
  fs: ExtentFs;
  file: AddressSpace;
  p: HostProcess;
  /** Memory of the process. */
  hva: number;
}

/** @param bytes that the file has, written and on the device */
export const dioWorld = (
  bytes: Uint8Array = new Uint8Array(0),
  options: MkfsOptions = {},
  api: 'pin' | 'get' = 'pin',
  nrBlocks = 1024,
): DioWorld => {
  const w = createWorld(8 << 20);
  provenanceStart(w.k);
  if (api === 'get') setPolicyApi(w.k.policy, 'block-dio', 'get');
  const dev = blockDeviceCreate(w.k, 'disk', nrBlocks);
  const fs = extentMkfs(w.k, dev, options);
  const file = extentCreate(w.k, fs);
  if (bytes.length > 0) {
    const n = drive(fileWrite(w.k, file, 0, bytes));
    if (n !== bytes.length) throw new Error(`write: ${n}`);
    drive(vfsFsync(w.k, file));
  }
  const p = createProcess(w);
  return { w, dev, fs, file, p, hva: mapAnon(p, 64) };
};

/** O_DIRECT read into the process's memory at `hva + into`. */
export const directRead = (d: DioWorld, offset: number, n: number, into = 0): number =>
  drive(fileDirectRead(d.w.k, d.p.mm, d.file, offset, iovIterUbuf(ITER_DEST, d.hva + into, n)));

/** O_DIRECT write from the process's memory at `hva + from`. */
export const directWrite = (d: DioWorld, offset: number, n: number, from = 0): number =>
  drive(fileDirectWrite(d.w.k, d.p.mm, d.file, offset, iovIterUbuf(ITER_SOURCE, d.hva + from, n)));

/** What the file has, by read(). */
export const contents = ({ w, file }: DioWorld): Uint8Array => {
  const size = file.inode?.sizeBytes ?? file.nrPages * PAGE_SIZE;
  const into = new Uint8Array(size);
  const n = drive(fileRead(w.k, file, 0, into));
  if (n !== size) throw new Error(`read: ${n}`);
  return into;
};

/** Maps a file shared and writable. */
export const mapShared = (p: HostProcess, file: AddressSpace, nrPages: number): number =>
  drive(
    mmap(p.k, p.mm, {
      hva: 0,
      lenBytes: nrPages * PAGE_SIZE,
      prot: RW,
      flags: MAP_SHARED,
      mapping: file,
    }),
  );
