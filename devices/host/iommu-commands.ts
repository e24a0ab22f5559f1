/**
 * Commands for the RISC-V IOMMU, as its driver writes them: 16 bytes each, as four 32-bit words.
 * RISC-V IOMMU 1.0, "Command-Queue (CQ)"; compare drivers/iommu/riscv/iommu-bits.h.
 */
import { PAGE_SHIFT } from '#emu';

export const COMMAND_BYTES = 16;
export const COMMAND_WORDS = 4;

const OPCODE_IOTINVAL = 1;
const OPCODE_IOFENCE = 2;
const OPCODE_IODIR = 3;
const OPCODE_ATS = 4;
const FUNC3_SHIFT = 7;
const FUNC3_VMA = 0;
const FUNC3_GVMA = 1;
const FUNC3_INVAL_DDT = 0;
const FUNC3_INVAL_PDT = 1;
const FUNC3_ATS_INVAL = 0;
const FUNC3_ATS_PRGR = 1;

/** In word 0: bits 31..12 are PSCID or PID. */
const AV = 1 << 10;
const ID_SHIFT = 12;
/** In word 1: bits 27..12 are GSCID, 31..8 the device id, 23..8 RID. */
const PSCV = 1 << 0;
const GV = 1 << 1;
const DV = 1 << 1;
const PV = 1 << 0;
const DEVICE_SHIFT = 8;
const GSCID_SHIFT = 12;

/** A page number at bits 61..10 of words 2 and 3, as IOTINVAL has it. */
const putPage = (words: Int32Array, pfn: number): void => {
  words[2] = (pfn % 2 ** 22) * 2 ** 10;
  words[3] = Math.floor(pfn / 2 ** 22);
};

/**
 * IOTINVAL.VMA: the first stage of a PSCID without second stage, but for global entries; or (-1) of every
 * one, with those. One page, or (-1) all.
 */
export const iotinvalVma = (words: Int32Array, pscid: number, pfn: number): void => {
  words.fill(0);
  words[0] = OPCODE_IOTINVAL | (FUNC3_VMA << FUNC3_SHIFT);
  if (pscid >= 0) {
    words[0] |= pscid << ID_SHIFT;
    words[1] = PSCV;
  }
  if (pfn < 0) return;
  words[0] |= AV;
  putPage(words, pfn);
};

/** IOTINVAL.GVMA: the second stage of GSCID, one guest page or (-1) all of it. */
export const iotinvalGvma = (words: Int32Array, gscid: number, pfn: number): void => {
  words.fill(0);
  words[0] = OPCODE_IOTINVAL | (FUNC3_GVMA << FUNC3_SHIFT);
  words[1] = GV | (gscid << GSCID_SHIFT);
  if (pfn < 0) return;
  words[0] |= AV;
  putPage(words, pfn);
};

/** IOFENCE.C: when all before it are done, `data` is stored at `pa`. Earlier reads and writes of devices too. */
export const iofenceC = (words: Int32Array, pa: number, data: number): void => {
  words.fill(0);
  words[0] = OPCODE_IOFENCE | AV | (1 << 12) | (1 << 13);
  words[1] = data;
  words[2] = Math.floor((pa % 2 ** 34) / 4);
  words[3] = Math.floor(pa / 2 ** 34);
};

/** IODIR.INVAL_DDT: the context of one device, and its process contexts. */
export const iodirInvalDdt = (words: Int32Array, deviceId: number): void => {
  words.fill(0);
  words[0] = OPCODE_IODIR | (FUNC3_INVAL_DDT << FUNC3_SHIFT);
  words[1] = DV | (deviceId << DEVICE_SHIFT);
};

/** IODIR.INVAL_PDT: one process context of one device. */
export const iodirInvalPdt = (words: Int32Array, deviceId: number, processId: number): void => {
  words.fill(0);
  words[0] = OPCODE_IODIR | (FUNC3_INVAL_PDT << FUNC3_SHIFT) | (processId << ID_SHIFT);
  words[1] = DV | (deviceId << DEVICE_SHIFT);
};

/**
 * ATS.INVAL: the device forgets translations. Payload as PCI says: bits 63..12 the page, with S (bit 11)
 * set its lowest bits in unary how many pages.
 * @param processId of a process; -1: those without
 * @param order log2 of the pages; -1: all
 */
export const atsInval = (
  words: Int32Array,
  deviceId: number,
  processId: number,
  pfn: number,
  order: number,
): void => {
  words.fill(0);
  words[0] = OPCODE_ATS | (FUNC3_ATS_INVAL << FUNC3_SHIFT);
  words[1] = deviceId << DEVICE_SHIFT;
  if (processId >= 0) {
    words[0] |= processId << ID_SHIFT;
    words[1] |= PV;
  }
  // A process's entries may be global; then they are so to the device.
  const g = processId >= 0 ? 1 : 0;
  if (order < 0) {
    // All of 2^64 bytes: every bit but the topmost is one.
    words[2] = 0xffff_f800 | g;
    words[3] = 0x7fff_ffff;
    return;
  }
  const lowest = order === 0 ? 0 : 2 ** (order - 1) - 1;
  const page = pfn + lowest;
  words[2] = ((page % 2 ** 20) * 2 ** PAGE_SHIFT) | (order === 0 ? 0 : 1 << 11) | g;
  words[3] = Math.floor(page / 2 ** 20);
};

/** ATS.PRGR: the answer to a group of page requests. */
export const atsPrgr = (
  words: Int32Array,
  deviceId: number,
  processId: number,
  group: number,
  response: number,
): void => {
  words.fill(0);
  words[0] = OPCODE_ATS | (FUNC3_ATS_PRGR << FUNC3_SHIFT) | (processId << ID_SHIFT);
  words[1] = PV | (deviceId << DEVICE_SHIFT);
  // Bits 40..32 the group, 47..44 the code, 63..48 who asked.
  words[3] = group | (response << 12) | (deviceId << 16);
};
