/**
 * Fetching and decoding for the interpreter: translation of code pages, records not decoded yet, and
 * 4-byte instructions that lie in two pages.
 */
import { decode } from '../isa/decode.ts';
import { instructionLength } from '../isa/record.ts';
import { HART_FETCH_HASH, HART_FETCH_KEY, HART_SCRATCH, PAGE_MASK, PAGE_SHIFT } from '../layout.ts';
import { MMU_FAULT, MMU_MMIO } from '../mmu/mmu.ts';
import { TAG_PAGE_MASK, TLB_INDEX_MASK } from '../mmu/tlb.ts';
import {
  CAUSE_FETCH_ACCESS,
  CAUSE_ILLEGAL_INSTRUCTION,
  CAUSE_VIRTUAL_INSTRUCTION,
} from './bits.ts';
import { SLOT_RECORD_WORDS } from './code-cache.ts';
import type { HartCore } from './core.ts';

/** The fetch raised an exception, which is set up in the core. */
export const FETCH_FAULT = -1;

/** Offset of the code byte at a virtual address, or FETCH_FAULT. Code runs from RAM only. */
export const fetchOffset = (core: HartCore, vaLo: number, vaHi: number): number => {
  const i32 = core.i32;
  const hash = i32[core.blockBase + (HART_FETCH_HASH >>> 2)]!;
  const key = i32[core.blockBase + (HART_FETCH_KEY >>> 2)]!;
  const t = core.execBase + (((vaLo >>> PAGE_SHIFT) ^ hash) & TLB_INDEX_MASK) * 4;
  if (i32[t]! === ((vaLo & TAG_PAGE_MASK) | key) && i32[t + 1]! === vaHi)
    return (vaLo + i32[t + 2]!) >>> 0;
  const offset = core.mmu.fetchSlow(vaLo, vaHi);
  if (offset >= 0) return offset;
  if (offset === MMU_FAULT) core.raiseMmu();
  else if (offset === MMU_MMIO) core.raise(CAUSE_FETCH_ACCESS, vaLo, vaHi, core.virt);
  return FETCH_FAULT;
};

/**
 * Decodes the instruction whose record is at word index `p`, in the page at byte offset `frame` with
 * the virtual address `pageLo`, `pageHi`. Returns the record's first word, with the second one in
 * core.valueLo; or 0 when the second half could not be fetched.
 *
 * The record of an instruction that lies in two pages is not kept: what the second page is depends
 * on the translation, and its bytes change without this page's changing.
 */
export const decodeAt = (
  core: HartCore,
  frame: number,
  base: number,
  p: number,
  pageLo: number,
  pageHi: number,
): number => {
  const at = (frame + (p - base)) >>> 1;
  const first = core.u16[at]!;
  if (instructionLength(first) === 1 || p + 2 < base + SLOT_RECORD_WORDS) {
    decode(instructionLength(first) === 1 ? first : first | (core.u16[at + 1]! << 16), core.i32, p);
    core.valueLo = core.i32[p + 1]!;
    return core.i32[p]!;
  }
  const lo = (pageLo + PAGE_MASK + 1) | 0;
  const second = fetchOffset(core, lo, (pageHi + (lo === 0 ? 1 : 0)) | 0);
  if (second === FETCH_FAULT) return 0;
  const scratch = core.blockBase + (HART_SCRATCH >>> 2);
  decode(first | (core.u16[second >>> 1]! << 16), core.i32, scratch);
  core.valueLo = core.i32[scratch + 1]!;
  return core.i32[scratch]!;
};

/**
 * Gives an illegal- or virtual-instruction exception its tval, the bits of the instruction at pc in
 * the hart block (3.1.16); `frame` is the byte offset of its page, `record` its record's first word.
 */
export const rawInstruction = (core: HartCore, frame: number, record: number): void => {
  if (core.excCause !== CAUSE_ILLEGAL_INSTRUCTION && core.excCause !== CAUSE_VIRTUAL_INSTRUCTION)
    return;
  const pcLo = core.i32[core.pcAt]!;
  const inPage = pcLo & PAGE_MASK;
  let raw = core.u16[(frame + inPage) >>> 1]!;
  if (record >>> 26 === 2) {
    if (inPage + 2 <= PAGE_MASK) raw |= core.u16[(frame + inPage + 2) >>> 1]! << 16;
    else {
      // Decoding it has translated the second page: this finds it again.
      const lo = (pcLo + 2) | 0;
      const second = fetchOffset(core, lo, (core.i32[core.pcAt + 1]! + (lo === 0 ? 1 : 0)) | 0);
      raw |= core.u16[second >>> 1]! << 16;
    }
  }
  core.excTvalLo = raw;
  core.excTvalHi = 0;
};
