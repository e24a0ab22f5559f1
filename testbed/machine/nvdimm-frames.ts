/**
 * Frames of the host that are an NVDIMM's memory: a run of them, behind a file that the VMM maps.
 *
 * `devdax`: the whole of a device-dax. `fsdax`: a file on a DAX file system of its own, all of whose
 * blocks are written and durable before the guest begins, so that no store of the guest needs anything
 * of the file system (what MAP_SYNC is for).
 */
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import {
  type AddressSpace,
  deviceDaxCreate,
  deviceDaxRemove,
  drive,
  extentCreate,
  extentForget,
  extentMkfs,
  extentSetSize,
  fileWrite,
  type Kernel,
  mappingPut,
  pmemDeviceCreate,
  pmemDeviceRemove,
  vfsFsync,
} from '#mm';
import { fileById } from '../actors/targets.ts';
import { must } from './must.ts';

export type NvdimmBacking = 'devdax' | 'fsdax';

/** Plain data, saved with the part. */
export interface NvdimmFrames {
  backing: NvdimmBacking;
  mappingId: number;
  firstPage: number;
  nrPages: number;
  /** Of fsdax; 0: none. */
  device: number;
  filesystem: number;
}

const MIB = 2 ** 20;
/** Bytes that are written in one go. */
const CHUNK_BYTES = MIB;

/** Blocks for a file system's own use, and the journal. */
const fsBlocks = (nrPages: number): number => nrPages + Math.ceil(nrPages / 16) + 2048;

/** RAM of the host that an NVDIMM of this kind takes. */
export const nvdimmHostRamBytes = (backing: NvdimmBacking, lenBytes: number): number =>
  (backing === 'fsdax' ? fsBlocks(lenBytes / PAGE_SIZE) * PAGE_SIZE : lenBytes) + 8 * MIB;

/** Makes the frames, with these bytes in them. @throws Error where the host has no such run of memory */
export const makeNvdimmFrames = (
  k: Kernel,
  name: string,
  backing: NvdimmBacking,
  bytes: Uint8Array,
): NvdimmFrames => {
  const nrPages = bytes.length / PAGE_SIZE;
  if (backing === 'fsdax') return makeFsdax(k, name, bytes);
  const file = must('device-dax of an NVDIMM', deviceDaxCreate(k, nrPages));
  const firstPage = (file.device?.firstPfn ?? 0) - RAM_PFN_BASE;
  k.memory.setBytes(k.memory.pageOffset(firstPage), bytes);
  return { backing, mappingId: file.id, firstPage, nrPages, device: 0, filesystem: 0 };
};

const makeFsdax = (k: Kernel, name: string, bytes: Uint8Array): NvdimmFrames => {
  const nrPages = bytes.length / PAGE_SIZE;
  const device = must('pmem of an NVDIMM', pmemDeviceCreate(k, name, fsBlocks(nrPages)));
  const fs = extentMkfs(k, device, { dax: true });
  const file = extentCreate(k, fs);
  must('ftruncate of an NVDIMM', drive(extentSetSize(k, file, bytes.length)));
  for (let at = 0; at < bytes.length; at += CHUNK_BYTES)
    must('write of an NVDIMM', drive(fileWrite(k, file, at, bytes.subarray(at, at + CHUNK_BYTES))));
  must('fsync of an NVDIMM', drive(vfsFsync(k, file)));
  const extents = file.inode?.extents ?? [];
  const first = extents[0]?.block ?? -1;
  if (first < 0 || extents.some(({ pgoff, block }) => block !== first + pgoff))
    throw new Error(`${name}: the file is not one run of blocks`);
  return {
    backing: 'fsdax',
    mappingId: file.id,
    firstPage: device.pmemPage + first,
    nrPages,
    device: device.id,
    filesystem: fs.id,
  };
};

/** The file behind the memory. @throws Error when it is gone */
export const nvdimmFile = (k: Kernel, { mappingId }: NvdimmFrames): AddressSpace =>
  fileById(k, mappingId);

/** Nobody maps the memory any more: it is ordinary memory again. */
export const releaseNvdimmFrames = (k: Kernel, frames: NvdimmFrames): void => {
  const file = nvdimmFile(k, frames);
  if (frames.backing === 'devdax') drive(deviceDaxRemove(k, file));
  drive(mappingPut(k, file));
  const fs = k.state.filesystems.get(frames.filesystem);
  if (fs !== undefined) drive(extentForget(k, fs));
  const device = k.state.blockDevices.get(frames.device);
  if (device !== undefined) drive(pmemDeviceRemove(k, device));
};
