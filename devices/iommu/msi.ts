/**
 * MSIs of a guest's device: which addresses are virtual interrupt files, and where their MSI page table
 * sends a write to them: to a real interrupt file, or into one that lies in memory (MRIF). RISC-V IOMMU
 * 1.0, "Process to translate addresses of MSIs"; the MRIF's format and what is done to it are the
 * Advanced Interrupt Architecture's.
 *
 *   MSI page-table entry, basic          and MRIF
 *    0  V, M = 3, PPN, C                 0  V, M = 1, address of the MRIF / 512 at bits 53..7, C
 *    8  reserved                         8  N[9:0], NPPN, N[10]: number and page of the notice MSI
 */
import { DMA_FAULT, DMA_WAIT, type DmaPort, type Need, PAGE_SIZE, PTE_X } from '#emu';
import {
  CAUSE_IO_INSTRUCTION_ACCESS,
  CAUSE_MRIF_ACCESS,
  CAUSE_MRIF_CORRUPT,
  CAUSE_MSI_LOAD_ACCESS,
  CAUSE_MSI_MISCONFIGURED,
  CAUSE_MSI_NOT_VALID,
  CAUSE_MSI_PT_CORRUPT,
  type DeviceContext,
  MSIPTE_BYTES,
  MSIPTE_HI_C,
  MSIPTE_M_BASIC,
  MSIPTE_M_MRIF,
  MSIPTE_M_SHIFT,
  MSIPTE_V,
} from './structures.ts';
import { causeOf, type TwoStageWalk } from './two-stage.ts';

/** Kinds of a target. */
export const MSI_NONE = 0;
export const MSI_BASIC = 1;
export const MSI_MRIF = 2;

/** Where an MSI goes. */
export interface MsiTarget {
  kind: typeof MSI_NONE | typeof MSI_BASIC | typeof MSI_MRIF;
  /** Basic: physical address that the write goes to. MRIF: of the file, 512 bytes. */
  spa: number;
  /** MRIF: physical address and data of the notice. */
  noticeSpa: number;
  notice: number;
}

export const createMsiTarget = (): MsiTarget => ({
  kind: MSI_NONE,
  spa: 0,
  noticeSpa: 0,
  notice: 0,
});

/* Word 0 of either kind: bits that are reserved. Word 1: above the PPN, and below C. */
const BASIC_RESERVED_LO = 0x3f8;
const MRIF_RESERVED_LO = 0x78;
const RESERVED_HI = 0x7fc0_0000;
/* Words 2 and 3 of an MRIF entry. */
const NOTICE_RESERVED_HI = 0xefc0_0000;
const NOTICE_N10 = 1 << 28;

/** The guest physical address is of a virtual interrupt file. */
export const isMsiAddress = (dc: DeviceContext, gpa: number): boolean => {
  if (!dc.msiFlat) return false;
  const page = Math.floor(gpa / PAGE_SIZE);
  const hi = Math.floor(page / 2 ** 32);
  return (
    ((page ^ dc.msiPatternLo) & ~dc.msiMaskLo) === 0 &&
    ((hi ^ dc.msiPatternHi) & ~dc.msiMaskHi & 0xf_ffff) === 0
  );
};

/** Number of an interrupt file: the bits of the page number where the mask has ones, close together. */
const fileNumber = (dc: DeviceContext, gpa: number): number => {
  const page = Math.floor(gpa / PAGE_SIZE);
  const hi = Math.floor(page / 2 ** 32);
  let number = 0;
  let place = 1;
  for (let bit = 0; bit < 52; bit++) {
    const mask = bit < 32 ? dc.msiMaskLo >>> bit : dc.msiMaskHi >>> (bit - 32);
    if ((mask & 1) === 0) continue;
    if (((bit < 32 ? page >>> bit : hi >>> (bit - 32)) & 1) !== 0) number += place;
    place *= 2;
  }
  return number;
};

/** `a | b` of addresses, whose low 53 bits count. */
const orAddress = (a: number, b: number): number =>
  ((Math.floor(a / 2 ** 32) | Math.floor(b / 2 ** 32)) >>> 0) * 2 ** 32 + ((a | b) >>> 0);

/**
 * Where an access to a guest physical address goes if that is of an interrupt file.
 * @param target filled; MSI_NONE where it is none
 * @returns 0, the cause of a fault, or DMA_WAIT
 */
export const translateMsi = (
  stages: TwoStageWalk,
  dc: DeviceContext,
  gpa: number,
  need: Need,
  target: MsiTarget,
): number => {
  target.kind = MSI_NONE;
  if (!isMsiAddress(dc, gpa)) return 0;
  const at = orAddress(dc.msiPpn * PAGE_SIZE, fileNumber(dc, gpa) * MSIPTE_BYTES);
  const p = stages.wordAt(at, false, MSIPTE_BYTES, CAUSE_MSI_LOAD_ACCESS, CAUSE_MSI_PT_CORRUPT);
  if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
  const { i32 } = stages;
  const lo = i32[p]!;
  const hi = i32[p + 1]!;
  if ((lo & MSIPTE_V) === 0) return CAUSE_MSI_NOT_VALID;
  // C is for custom use; we have none.
  if ((hi & MSIPTE_HI_C) !== 0) return CAUSE_MSI_MISCONFIGURED;
  const mode = (lo >>> MSIPTE_M_SHIFT) & 3;
  if (mode === MSIPTE_M_BASIC) {
    if ((lo & BASIC_RESERVED_LO) !== 0 || (hi & RESERVED_HI) !== 0) return CAUSE_MSI_MISCONFIGURED;
    if (i32[p + 2] !== 0 || i32[p + 3] !== 0) return CAUSE_MSI_MISCONFIGURED;
    target.spa = ((hi & 0x3f_ffff) * 2 ** 22 + (lo >>> 10)) * PAGE_SIZE + (gpa % PAGE_SIZE);
  } else if (mode === MSIPTE_M_MRIF) {
    const noticeHi = i32[p + 3]!;
    if ((lo & MRIF_RESERVED_LO) !== 0 || (hi & RESERVED_HI) !== 0) return CAUSE_MSI_MISCONFIGURED;
    if ((noticeHi & NOTICE_RESERVED_HI) !== 0) return CAUSE_MSI_MISCONFIGURED;
    const noticeLo = i32[p + 2]!;
    target.spa = ((hi & 0x3f_ffff) * 2 ** 25 + (lo >>> 7)) * 512;
    target.noticeSpa = ((noticeHi & 0x3f_ffff) * 2 ** 22 + (noticeLo >>> 10)) * PAGE_SIZE;
    target.notice = (noticeLo & 0x3ff) | ((noticeHi & NOTICE_N10) !== 0 ? 0x400 : 0);
  } else return CAUSE_MSI_MISCONFIGURED;
  if (need === PTE_X) return CAUSE_IO_INSTRUCTION_ACCESS;
  target.kind = mode === MSIPTE_M_BASIC ? MSI_BASIC : MSI_MRIF;
  return 0;
};

/** Identities that an MRIF has: 1 to 2047. */
const MRIF_IDENTITIES = 2048;
/** 64 identities have 16 bytes: 8 of pending bits, 8 of enable bits. */
const MRIF_GROUP_BYTES = 16;
const MRIF_ENABLE = 8;

/**
 * Stores an MSI into an MRIF: its pending bit is set, and where its enable bit is set the notice is
 * sent. A write that is no MSI (not 32 bits at the page's first two words, an identity that does not
 * exist) is dropped.
 * @param offsetInPage of the write, `data` its 32 bits
 * @returns 0, DMA_WAIT with nothing done, or the cause of a fault
 */
export const storeMrif = (
  stages: TwoStageWalk,
  port: DmaPort,
  target: Readonly<MsiTarget>,
  offsetInPage: number,
  data: number,
): number => {
  const identity = offsetInPage === 4 ? swap32(data) : data >>> 0;
  if (offsetInPage > 4 || identity === 0 || identity >= MRIF_IDENTITIES) return 0;
  const group = target.spa + (identity >>> 6) * MRIF_GROUP_BYTES + ((identity >>> 5) & 1) * 4;
  const bit = 1 << (identity & 31);
  const p = stages.wordAt(group, true, 4, CAUSE_MRIF_ACCESS, CAUSE_MRIF_CORRUPT);
  if (p < 0) return p === DMA_WAIT ? DMA_WAIT : causeOf(p);
  const enabled = (stages.i32[p + MRIF_ENABLE / 4]! & bit) !== 0;
  // The notice's place too has to be reachable before anything is done.
  const notice = enabled ? port.translate(target.noticeSpa, true) : DMA_FAULT;
  if (notice === DMA_WAIT) return DMA_WAIT;
  port.write(group, wordBytes(stages.i32[p]! | bit), 0, 4);
  if (notice >= 0) port.write(target.noticeSpa, wordBytes(target.notice), 0, 4);
  return 0;
};

const wordBytes = (word: number): Uint8Array =>
  Uint8Array.of(word & 0xff, (word >>> 8) & 0xff, (word >>> 16) & 0xff, word >>> 24);

const swap32 = (n: number): number =>
  (((n & 0xff) << 24) | ((n & 0xff00) << 8) | ((n >>> 8) & 0xff00) | (n >>> 24)) >>> 0;
