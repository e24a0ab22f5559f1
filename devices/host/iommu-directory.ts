/**
 * The directories of the RISC-V IOMMU in RAM, as its driver keeps them: of devices, and of a device's
 * processes. RISC-V IOMMU 1.0, "Device-Directory-Table" and "Process-Directory-Table"; compare
 * drivers/iommu/riscv/iommu.c:riscv_iommu_get_dc().
 *
 *   device context                          process context
 *    0  translation control (DC_TC_*)        0  valid, PSCID
 *    8  second stage: iohgatp                8  first stage: iosatp
 *   16  PSCID
 *   24  first stage: iosatp, or the process directory (with DC_TC_PDTV)
 *   32  MSI tables, in the extended format only: not used
 *
 * Whoever changes an entry makes it invalid first, and invalidates what the IOMMU has of it.
 */
import { fetchOr, readOnce, writeOnce } from '#cells';
import { PAGE_SIZE, RAM_PFN_BASE } from '#emu';
import { allocPages, freePages, GFP_ZERO, type Kernel, PG_TABLE, pageToPfn } from '#mm';

/** Translation control of a device context. */
export const DC_TC_V = 1 << 0;
export const DC_TC_EN_ATS = 1 << 1;
export const DC_TC_EN_PRI = 1 << 2;
export const DC_TC_PDTV = 1 << 5;
export const DC_TC_SADE = 1 << 8;
export const DC_TC_DPE = 1 << 9;

/** MODE of a pointer to a process directory of one level: process_id has 8 bits. */
export const PDTP_MODE_PD8 = 1;
/** Process ids that a directory of one level has. */
export const NR_PROCESS_IDS = 256;

const ENTRY_V = 1 << 0;
const PPN_SHIFT = 10;
const PC_BYTES = 16;
/** A pointer field: MODE in bits 63..60, an id in 59..44 or none, PPN below. */
const MODE_SHIFT_HI = 28;
const GSCID_SHIFT_HI = 12;
const PSCID_SHIFT = 12;

/** The directory of devices. Plain data. */
export interface DeviceDirectory {
  root: number;
  /** 1 to 3. */
  levels: number;
  /** Contexts of 64 bytes, which have MSI tables. */
  extended: boolean;
}

/** A device's context; a stage with root -1 is Bare. */
export interface DeviceContext {
  /** DC_TC_* but V. */
  control: number;
  firstMode: number;
  firstRootPfn: number;
  pscid: number;
  secondMode: number;
  secondRootPfn: number;
  gscid: number;
}

/** Bits of a device_id below each level, level 0 first. */
const shiftsOf = (extended: boolean): readonly number[] =>
  extended ? [0, 6, 15, 24] : [0, 7, 16, 24];

/** A zeroed page that counts as a table. @returns -ENOMEM */
export const allocIommuPage = (k: Kernel): number => {
  const page = allocPages(k, 0, GFP_ZERO);
  if (page >= 0) fetchOr(k.state.frames.flags, page, PG_TABLE);
  return page;
};

/** @returns an empty directory, or -ENOMEM */
export const createDirectory = (
  k: Kernel,
  levels: number,
  extended: boolean,
): DeviceDirectory | number => {
  const root = allocIommuPage(k);
  return root < 0 ? root : { root, levels, extended };
};

/** Gives its pages back; the IOMMU is off. */
export const freeDirectory = (k: Kernel, { root, levels }: DeviceDirectory): void =>
  freeTable(k, root, levels - 1);

const freeTable = (k: Kernel, table: number, level: number): void => {
  for (let word = wordOf(k, table, 0); level > 0 && word < wordOf(k, table, PAGE_SIZE); word += 2) {
    const lo = readOnce(k.memory.i32, word);
    if ((lo & ENTRY_V) !== 0) freeTable(k, (lo >>> PPN_SHIFT) - RAM_PFN_BASE, level - 1);
  }
  freePages(k, table, 0);
};

const wordOf = (k: Kernel, table: number, offset: number): number =>
  (k.memory.pageOffset(table) + offset) >>> 2;

/**
 * Where the context of a device is, in words of memory.i32; made on the way.
 * @returns -ENOMEM; RangeError is thrown for an id that the directory has no bits for
 */
const contextWord = (k: Kernel, dir: DeviceDirectory, deviceId: number): number => {
  const shifts = shiftsOf(dir.extended);
  if (deviceId < 0 || deviceId >= 2 ** shifts[dir.levels]!)
    throw new RangeError(`device id ${deviceId}: the directory has ${dir.levels} levels`);
  let table = dir.root;
  for (let level = dir.levels - 1; level > 0; level--) {
    const index =
      (deviceId >>> shifts[level]!) & ((1 << (shifts[level + 1]! - shifts[level]!)) - 1);
    const word = wordOf(k, table, index * 8);
    const lo = readOnce(k.memory.i32, word);
    if ((lo & ENTRY_V) !== 0) {
      table = (lo >>> PPN_SHIFT) - RAM_PFN_BASE;
      continue;
    }
    const below = allocIommuPage(k);
    if (below < 0) return below;
    writeOnce(k.memory.i32, word, (pageToPfn(below) << PPN_SHIFT) | ENTRY_V);
    table = below;
  }
  const index = deviceId & ((1 << shifts[1]!) - 1);
  return wordOf(k, table, index * (dir.extended ? 64 : 32));
};

/** Stores a pointer: PPN below 2^22 (RAM ends below 2^34), an id above it, MODE on top. */
const putPointer = (k: Kernel, word: number, mode: number, id: number, pfn: number): void => {
  writeOnce(k.memory.i32, word, mode === 0 ? 0 : pfn);
  writeOnce(k.memory.i32, word + 1, (mode << MODE_SHIFT_HI) | (id << GSCID_SHIFT_HI));
};

/** Makes the context of a device invalid. The caller invalidates what the IOMMU has of it. @returns 0, or -ENOMEM */
export const clearDeviceContext = (k: Kernel, dir: DeviceDirectory, deviceId: number): number => {
  const word = contextWord(k, dir, deviceId);
  if (word < 0) return word;
  writeOnce(k.memory.i32, word, 0);
  return 0;
};

/** Writes the context of a device, valid last; it was invalid. */
export const setDeviceContext = (
  k: Kernel,
  dir: DeviceDirectory,
  deviceId: number,
  context: Readonly<DeviceContext>,
): void => {
  const word = contextWord(k, dir, deviceId);
  if (word < 0) throw new Error(`device ${deviceId} has no place in the directory`);
  const { i32 } = k.memory;
  writeOnce(i32, word + 1, 0);
  putPointer(k, word + 2, context.secondMode, context.gscid, context.secondRootPfn);
  writeOnce(i32, word + 4, context.pscid << PSCID_SHIFT);
  writeOnce(i32, word + 5, 0);
  putPointer(k, word + 6, context.firstMode, 0, context.firstRootPfn);
  writeOnce(i32, word, context.control | DC_TC_V);
};

/** Writes the context of a process of a device, valid last; or makes it invalid. Requests of users only. */
export const setProcessContext = (
  k: Kernel,
  table: number,
  processId: number,
  mode: number,
  rootPfn: number,
  pscid: number,
): void => {
  const word = wordOf(k, table, processId * PC_BYTES);
  writeOnce(k.memory.i32, word, 0);
  putPointer(k, word + 2, mode, 0, rootPfn);
  writeOnce(k.memory.i32, word, (pscid << PSCID_SHIFT) | ENTRY_V);
};

export const clearProcessContext = (k: Kernel, table: number, processId: number): void =>
  writeOnce(k.memory.i32, wordOf(k, table, processId * PC_BYTES), 0);
