/**
 * Where a guest's memory comes from: which mappings of the VMM process are behind its memory slots.
 *
 *   mixed     the lower half private anonymous, the upper half shmem: COW and the page cache both
 *   anon      private anonymous, base pages            thp      the same, madvise(MADV_HUGEPAGE)
 *   shmem     a memfd, shared                          hugetlb  a file of 2 MiB pages, shared
 *   file      an ordinary file of the extent file system on a disk, shared: writes are tracked
 *   fsdax     a file on persistent memory              devdax   the whole of a persistent memory
 *   gmem      a guest_memfd, all of it shared: the guest's pages come from the file, not from the mapping
 */
import { setField } from '#cells';
import { PAGE_SIZE } from '#emu';
import {
  type AddressSpace,
  type BlockDevice,
  blockDeviceCreate,
  blockDeviceRemove,
  deviceDaxCreate,
  deviceDaxRemove,
  drive,
  type ExtentFs,
  extentCreate,
  extentForget,
  extentMkfs,
  extentSetSize,
  GUEST_MEMFD_FLAG_INIT_SHARED,
  GUEST_MEMFD_FLAG_MMAP,
  guestMemfdCreate,
  HPAGE_PMD_NR,
  HPAGE_PMD_ORDER,
  HPAGE_PMD_SIZE,
  HUGETLB_ORDER_2M,
  hugetlbFileSetup,
  hugetlbSetPool,
  type Kernel,
  MADV_HUGEPAGE,
  MAP_ANONYMOUS,
  MAP_FIXED,
  MAP_PRIVATE,
  MAP_SHARED,
  madvise,
  mappingPut,
  mmap,
  type MmStruct,
  pmemDeviceCreate,
  pmemDeviceRemove,
  PROT_READ,
  PROT_WRITE,
  shmemCreate,
} from '#mm';
import { fileById, type GuestRange } from '../actors/targets.ts';
import { must } from './must.ts';

/** Host virtual address of the first byte of guest memory in every guest's host process. */
export const GUEST_RAM_HVA = 0x10_0000_0000;

/** In the order of help texts and tables. */
export const BACKING_KINDS = [
  'mixed',
  'anon',
  'thp',
  'shmem',
  'hugetlb',
  'file',
  'fsdax',
  'devdax',
  'gmem',
] as const;

export type BackingKind = (typeof BACKING_KINDS)[number];

export const isBackingKind = (name: string): name is BackingKind =>
  (BACKING_KINDS as readonly string[]).includes(name);

/** What is behind a guest's memory. Plain data, saved with the guest. */
export interface Backing {
  kind: BackingKind;
  /** Mappings of the VMM, one after the other from GUEST_RAM_HVA on. */
  ranges: GuestRange[];
  /** Block device and file system that were made for it; 0: none. */
  device: number;
  filesystem: number;
  /** Pages of 2 MiB that the host's pool has for it. */
  hugePages: number;
}

/** Blocks that a file system on the device takes for itself, and some to choose from. */
const fsBlocks = (filePages: number): number => filePages + Math.ceil(filePages / 16) + 2048;

/** A file system has so many blocks at most; guest memory on one leaves room for its own. */
const FILE_MEMORY_MAX = 640 * 2 ** 20;

/** Guest memory of this kind has so many bytes at most, whatever the machine has. */
export const backingMemoryMax = (kind: BackingKind): number =>
  kind === 'file' || kind === 'fsdax' ? FILE_MEMORY_MAX : Number.POSITIVE_INFINITY;

/** RAM of the host that guest memory of this kind takes beside its own bytes. */
export const backingHostRamBytes = (kind: BackingKind, lenBytes: number): number => {
  switch (kind) {
    case 'fsdax':
      // Aligned to 4 MiB, and up to a whole number of them.
      return fsBlocks(lenBytes / PAGE_SIZE) * PAGE_SIZE - lenBytes + 8 * 2 ** 20;
    case 'devdax':
      return 8 * 2 ** 20;
    case 'hugetlb':
    case 'thp':
      return 2 * HPAGE_PMD_SIZE;
    default:
      return 0;
  }
};

/**
 * Maps memory of a kind into the VMM, from GUEST_RAM_HVA on; nothing is touched yet.
 * @param lenBytes whole pages
 * @param name of the device that is made for it
 * @throws Error when the host has too little memory, or the kind cannot be so large
 */
export const makeBacking = (
  k: Kernel,
  mm: MmStruct,
  kind: BackingKind,
  lenBytes: number,
  name: string,
): Backing => {
  if (lenBytes > backingMemoryMax(kind))
    throw new Error(`${name}: ${lenBytes} bytes are too many for memory of kind ${kind}`);
  const backing: Backing = { kind, ranges: [], device: 0, filesystem: 0, hugePages: 0 };
  const add = (rangeBytes: number, mapping: AddressSpace | null): GuestRange => {
    const hva = backing.ranges.reduce((end, range) => end + range.lenBytes, GUEST_RAM_HVA);
    mapRange(k, mm, hva, rangeBytes, mapping);
    const range = { hva, lenBytes: rangeBytes, mappingId: mapping?.id ?? null };
    backing.ranges.push(range);
    return range;
  };
  const nrPages = lenBytes / PAGE_SIZE;
  switch (kind) {
    case 'mixed': {
      const half = Math.floor(nrPages / 2) * PAGE_SIZE;
      add(half, null);
      add(lenBytes - half, shmemCreate(k, nrPages - half / PAGE_SIZE));
      break;
    }
    case 'anon':
      add(lenBytes, null);
      break;
    case 'thp': {
      const { thp } = k.state;
      setField(thp, 'madvise', thp.madvise | (1 << HPAGE_PMD_ORDER));
      const { hva } = add(lenBytes, null);
      must('madvise', drive(madvise(k, mm, hva, lenBytes, MADV_HUGEPAGE)));
      break;
    }
    case 'shmem':
      add(lenBytes, shmemCreate(k, nrPages));
      break;
    case 'hugetlb':
      add(lenBytes, hugetlbFile(k, backing, nrPages));
      break;
    case 'file':
      add(
        lenBytes,
        fileOnDevice(k, backing, blockDeviceCreate(k, name, fsBlocks(nrPages)), nrPages),
      );
      break;
    case 'fsdax': {
      const device = must('pmem', pmemDeviceCreate(k, name, fsBlocks(nrPages)));
      add(lenBytes, fileOnDevice(k, backing, device, nrPages));
      break;
    }
    case 'devdax':
      add(lenBytes, must('device-dax', deviceDaxCreate(k, nrPages)));
      break;
    case 'gmem': {
      const flags = GUEST_MEMFD_FLAG_MMAP | GUEST_MEMFD_FLAG_INIT_SHARED;
      add(lenBytes, must('guest_memfd', guestMemfdCreate(k, lenBytes, flags)));
      break;
    }
  }
  return backing;
};

const mapRange = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
  mapping: AddressSpace | null,
): void => {
  const how = mapping === null ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED;
  const request = {
    hva,
    lenBytes,
    prot: PROT_READ | PROT_WRITE,
    flags: MAP_FIXED | how,
    ...(mapping === null ? {} : { mapping, pgoff: 0 }),
  };
  must('mmap of guest memory', drive(mmap(k, mm, request)));
};

/** The pool grows by what the file needs, and the mapping is promised all of it. */
const hugetlbFile = (k: Kernel, backing: Backing, nrPages: number): AddressSpace => {
  const wanted = Math.ceil(nrPages / HPAGE_PMD_NR);
  backing.hugePages = wanted;
  const pool = poolPages(k) + wanted;
  if (hugetlbSetPool(k, HUGETLB_ORDER_2M, pool) < pool)
    throw new Error(`guest memory: the host has no ${wanted} free pages of 2 MiB`);
  return must('hugetlb file', hugetlbFileSetup(k, HUGETLB_ORDER_2M, nrPages));
};

const poolPages = (k: Kernel): number =>
  k.state.hugetlb.hstates.find(({ order }) => order === HUGETLB_ORDER_2M)?.nrPages ?? 0;

/** A file of holes on a file system of its own; DAX where the device is memory. */
const fileOnDevice = (
  k: Kernel,
  backing: Backing,
  device: BlockDevice,
  nrPages: number,
): AddressSpace => {
  const fs = extentMkfs(k, device, { dax: device.pmemPage >= 0 });
  const file = extentCreate(k, fs);
  must('ftruncate', drive(extentSetSize(k, file, nrPages * PAGE_SIZE)));
  backing.device = device.id;
  backing.filesystem = fs.id;
  return file;
};

/**
 * The process has exited: files are closed, devices and pools made for it go.
 * @throws Error while somebody still holds a page of a device
 */
export const releaseBacking = (k: Kernel, backing: Backing): void => {
  for (const { mappingId } of backing.ranges) {
    if (mappingId === null) continue;
    const file = fileById(k, mappingId);
    if (backing.kind === 'devdax') drive(deviceDaxRemove(k, file));
    drive(mappingPut(k, file));
  }
  const fs: ExtentFs | undefined = k.state.filesystems.get(backing.filesystem);
  if (fs !== undefined) drive(extentForget(k, fs));
  const device = k.state.blockDevices.get(backing.device);
  if (device !== undefined && device.pmemPage >= 0) drive(pmemDeviceRemove(k, device));
  else if (device !== undefined) blockDeviceRemove(k, device);
  if (backing.hugePages > 0) hugetlbSetPool(k, HUGETLB_ORDER_2M, poolPages(k) - backing.hugePages);
};
