/**
 * What the RISC-V IOMMU reads in memory: device contexts, process contexts, MSI page-table entries;
 * their fields, and which of them are misconfigured. RISC-V IOMMU 1.0, "Data Structures".
 *
 *   device context                                process context
 *    0  tc       translation control               0  ta   V, ENS, SUM, PSCID
 *    8  iohgatp  MODE, GSCID, PPN: second stage    8  fsc  MODE, PPN: first stage
 *   16  ta       PSCID
 *   24  fsc      MODE, PPN: first stage (iosatp),
 *                or the process directory (pdtp)
 *   32  msiptp, 40 msi_addr_mask, 48 msi_addr_pattern, 56 reserved: in the extended format only
 */
import { ATP_MODE_BARE, ATP_MODE_SV39, ATP_MODE_SV57 } from '#emu';

/* ---- tc ---- */
export const TC_V = 1 << 0;
export const TC_EN_ATS = 1 << 1;
export const TC_EN_PRI = 1 << 2;
export const TC_T2GPA = 1 << 3;
export const TC_DTF = 1 << 4;
export const TC_PDTV = 1 << 5;
export const TC_PRPR = 1 << 6;
export const TC_GADE = 1 << 7;
export const TC_SADE = 1 << 8;
export const TC_DPE = 1 << 9;
export const TC_SBE = 1 << 10;
export const TC_SXL = 1 << 11;
/** Bits 23..12. 31..24 are for custom use: we have none, and do not look at them. */
const TC_RESERVED = 0x00ff_f000;

/* ---- ta of a process context ---- */
export const PC_TA_V = 1 << 0;
export const PC_TA_ENS = 1 << 1;
export const PC_TA_SUM = 1 << 2;
/** Bits 31..12 of both ta fields. */
export const TA_PSCID_SHIFT = 12;
const DC_TA_RESERVED = 0xfff;
const PC_TA_RESERVED = 0xff8;

/** pdtp.MODE: levels of the process directory. */
export const PDTP_MODE_BARE = 0;
export const PDTP_MODE_PD8 = 1;
export const PDTP_MODE_PD17 = 2;
export const PDTP_MODE_PD20 = 3;
/** msiptp.MODE */
export const MSIPTP_MODE_OFF = 0;
export const MSIPTP_MODE_FLAT = 1;

/* ---- entries of the directories above the contexts ---- */
export const DIRECTORY_V = 1 << 0;
const DIRECTORY_RESERVED_LO = 0x3fe;
const DIRECTORY_RESERVED_HI = 0xffc0_0000;

/* ---- MSI page-table entries, 16 bytes ---- */
export const MSIPTE_V = 1 << 0;
export const MSIPTE_M_SHIFT = 1;
export const MSIPTE_M_MRIF = 1;
export const MSIPTE_M_BASIC = 3;
export const MSIPTE_HI_C = 1 << 31;
export const MSIPTE_BYTES = 16;

export const DC_BYTES_BASE = 32;
export const DC_BYTES_EXTENDED = 64;
export const PC_BYTES = 16;
export const NON_LEAF_BYTES = 8;

/* ---- causes of faults ---- */
export const CAUSE_IO_INSTRUCTION_ACCESS = 1;
export const CAUSE_IO_READ_ACCESS = 5;
export const CAUSE_IO_WRITE_ACCESS = 7;
export const CAUSE_IO_INSTRUCTION_PAGE = 12;
export const CAUSE_IO_READ_PAGE = 13;
export const CAUSE_IO_WRITE_PAGE = 15;
export const CAUSE_IO_INSTRUCTION_GUEST_PAGE = 20;
export const CAUSE_IO_READ_GUEST_PAGE = 21;
export const CAUSE_IO_WRITE_GUEST_PAGE = 23;
export const CAUSE_ALL_DISALLOWED = 256;
export const CAUSE_DDT_LOAD_ACCESS = 257;
export const CAUSE_DDT_NOT_VALID = 258;
export const CAUSE_DDT_MISCONFIGURED = 259;
export const CAUSE_TYPE_DISALLOWED = 260;
export const CAUSE_MSI_LOAD_ACCESS = 261;
export const CAUSE_MSI_NOT_VALID = 262;
export const CAUSE_MSI_MISCONFIGURED = 263;
export const CAUSE_MRIF_ACCESS = 264;
export const CAUSE_PDT_LOAD_ACCESS = 265;
export const CAUSE_PDT_NOT_VALID = 266;
export const CAUSE_PDT_MISCONFIGURED = 267;
export const CAUSE_DDT_CORRUPT = 268;
export const CAUSE_PDT_CORRUPT = 269;
export const CAUSE_MSI_PT_CORRUPT = 270;
export const CAUSE_MRIF_CORRUPT = 271;
export const CAUSE_MSI_WRITE_ACCESS = 273;
export const CAUSE_PT_CORRUPT = 274;

/* ---- types of inbound transactions, as fault records name them ---- */
export const TTYP_NONE = 0;
export const TTYP_UNTRANSLATED_EXEC = 1;
export const TTYP_UNTRANSLATED_READ = 2;
export const TTYP_UNTRANSLATED_WRITE = 3;
export const TTYP_TRANSLATED_EXEC = 5;
export const TTYP_TRANSLATED_READ = 6;
export const TTYP_TRANSLATED_WRITE = 7;
export const TTYP_ATS_REQUEST = 8;
export const TTYP_MESSAGE = 9;

/** A stage that translates nothing has 0 levels. */
export interface StageRoot {
  levels: number;
  ppn: number;
}

/** What the IOMMU keeps of a device context. Plain data. */
export interface DeviceContext {
  deviceId: number;
  /** The low word of tc. */
  tc: number;
  second: StageRoot;
  gscid: number;
  /** First stage, or none where there is a process directory. */
  first: StageRoot;
  pscid: number;
  /** With TC_PDTV: the process directory; 0 levels: Bare. */
  directory: StageRoot;
  /** MSI page table; mask and pattern of page numbers are 52 bits. */
  msiFlat: boolean;
  msiPpn: number;
  msiMaskLo: number;
  msiMaskHi: number;
  msiPatternLo: number;
  msiPatternHi: number;
}

/** What the IOMMU keeps of a process context. Plain data. */
export interface ProcessContext {
  deviceId: number;
  processId: number;
  ens: boolean;
  sum: boolean;
  pscid: number;
  first: StageRoot;
}

/** MODE of a 64-bit pointer field. */
const modeOf = (hi: number): number => hi >>> 28;
/** PPN of a 64-bit pointer field: bits 43..0. */
const ppnOf = (lo: number, hi: number): number => (hi & 0xfff) * 2 ** 32 + (lo >>> 0);
/** Bits 59..44 of a pointer field: GSCID, or reserved. */
const middleOf = (hi: number): number => (hi >>> 12) & 0xffff;

/** Levels of a MODE of iosatp or iohgatp with 64-bit entries; -1: not one of ours. */
const levelsOf = (mode: number): number => {
  if (mode === ATP_MODE_BARE) return 0;
  return mode >= ATP_MODE_SV39 && mode <= ATP_MODE_SV57 ? mode - ATP_MODE_SV39 + 3 : -1;
};

/** PPN of a valid entry above the contexts, or -1: reserved bits are set. */
export const directoryPpn = (lo: number, hi: number): number => {
  if ((lo & DIRECTORY_RESERVED_LO) !== 0 || (hi & DIRECTORY_RESERVED_HI) !== 0) return -1;
  return (hi & 0x3f_ffff) * 2 ** 22 + (lo >>> 10);
};

/**
 * Reads a device context whose V is set.
 * @param words where it begins in `i32`
 * @returns undefined where it is misconfigured ("Device-context configuration checks"); of what the
 *   list there asks, our capabilities leave only what is tested here
 */
export const decodeDeviceContext = (
  i32: Int32Array,
  words: number,
  extended: boolean,
  deviceId: number,
): DeviceContext | undefined => {
  const tc = i32[words]!;
  const pdtv = (tc & TC_PDTV) !== 0;
  if ((tc & TC_RESERVED) !== 0 || i32[words + 1] !== 0) return undefined;
  if ((tc & TC_EN_ATS) === 0 && (tc & (TC_T2GPA | TC_EN_PRI)) !== 0) return undefined;
  if ((tc & TC_EN_PRI) === 0 && (tc & TC_PRPR) !== 0) return undefined;
  if (!pdtv && (tc & TC_DPE) !== 0) return undefined;
  // One endianness, and GXL is 0 for ever.
  if ((tc & (TC_SBE | TC_SXL)) !== 0) return undefined;

  const gLo = i32[words + 2]!;
  const gHi = i32[words + 3]!;
  const second = { levels: levelsOf(modeOf(gHi)), ppn: ppnOf(gLo, gHi) };
  if (second.levels < 0) return undefined;
  if (second.levels === 0 && (tc & TC_T2GPA) !== 0) return undefined;
  if (second.levels > 0 && (gLo & 3) !== 0) return undefined;

  const ta = i32[words + 4]!;
  if ((ta & DC_TA_RESERVED) !== 0 || i32[words + 5] !== 0) return undefined;

  const fLo = i32[words + 6]!;
  const fHi = i32[words + 7]!;
  if (middleOf(fHi) !== 0) return undefined;
  const pointer = { levels: pdtv ? modeOf(fHi) : levelsOf(modeOf(fHi)), ppn: ppnOf(fLo, fHi) };
  if (pointer.levels < 0 || (pdtv && pointer.levels > PDTP_MODE_PD20)) return undefined;
  const none = { levels: 0, ppn: 0 };

  const context: DeviceContext = {
    deviceId,
    tc,
    second,
    gscid: middleOf(gHi),
    first: pdtv ? none : pointer,
    pscid: ta >>> TA_PSCID_SHIFT,
    directory: pdtv ? pointer : none,
    msiFlat: false,
    msiPpn: 0,
    msiMaskLo: 0,
    msiMaskHi: 0,
    msiPatternLo: 0,
    msiPatternHi: 0,
  };
  return !extended || decodeMsi(i32, words + 8, context) ? context : undefined;
};

/** The second half of an extended context. @returns false where it is misconfigured */
const decodeMsi = (i32: Int32Array, words: number, context: DeviceContext): boolean => {
  const hi = i32[words + 1]!;
  const mode = modeOf(hi);
  if (mode > MSIPTP_MODE_FLAT || middleOf(hi) !== 0) return false;
  const maskHi = i32[words + 3]!;
  const patternHi = i32[words + 5]!;
  // Mask and pattern have 52 bits; the last doubleword is reserved.
  if (((maskHi | patternHi) & 0xfff0_0000) !== 0) return false;
  if (i32[words + 6] !== 0 || i32[words + 7] !== 0) return false;
  context.msiFlat = mode === MSIPTP_MODE_FLAT;
  context.msiPpn = ppnOf(i32[words]!, hi);
  context.msiMaskLo = i32[words + 2]!;
  context.msiMaskHi = maskHi;
  context.msiPatternLo = i32[words + 4]!;
  context.msiPatternHi = patternHi;
  return true;
};

/** Reads a process context whose V is set. @returns undefined where it is misconfigured */
export const decodeProcessContext = (
  i32: Int32Array,
  words: number,
  deviceId: number,
  processId: number,
): ProcessContext | undefined => {
  const ta = i32[words]!;
  const fLo = i32[words + 2]!;
  const fHi = i32[words + 3]!;
  const first = { levels: levelsOf(modeOf(fHi)), ppn: ppnOf(fLo, fHi) };
  if ((ta & PC_TA_RESERVED) !== 0 || i32[words + 1] !== 0) return undefined;
  if (first.levels < 0 || middleOf(fHi) !== 0) return undefined;
  return {
    deviceId,
    processId,
    ens: (ta & PC_TA_ENS) !== 0,
    sum: (ta & PC_TA_SUM) !== 0,
    pscid: ta >>> TA_PSCID_SHIFT,
    first,
  };
};

/** device_id is wider than a directory of so many levels has bits for. */
export const deviceIdTooWide = (deviceId: number, levels: number, extended: boolean): boolean =>
  deviceId >= 2 ** (extended ? [6, 15, 24] : [7, 16, 24])[levels - 1]!;

/** Index at a level of the device directory. */
export const deviceIndex = (deviceId: number, level: number, extended: boolean): number => {
  if (level === 0) return deviceId & (extended ? 0x3f : 0x7f);
  const shift = (extended ? 6 : 7) + 9 * (level - 1);
  // The root of a base-format directory of three levels has 8 bits, which is what is left.
  return (deviceId >>> shift) & 0x1ff;
};

/** process_id is wider than a directory of so many levels has bits for. */
export const processIdTooWide = (processId: number, levels: number): boolean =>
  processId >= 2 ** (levels === 1 ? 8 : levels === 2 ? 17 : 20);

/** Index at a level of the process directory. */
export const processIndex = (processId: number, level: number): number =>
  level === 0 ? processId & 0xff : (processId >>> (8 + 9 * (level - 1))) & 0x1ff;

/** Cause of a fault of an access, by what it needs: page, guest-page or access fault. */
export const accessCauseOf = (write: boolean, exec: boolean): number =>
  exec ? CAUSE_IO_INSTRUCTION_ACCESS : write ? CAUSE_IO_WRITE_ACCESS : CAUSE_IO_READ_ACCESS;
