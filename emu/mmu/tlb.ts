/**
 * The TLB arrays and the walk caches of one hart: entry formats, lookup, filling, dropping. All of
 * them are typed-array words in the machine's memory, so that generated code can use them as well.
 *
 *   READ, WRITE, EXEC   4096 entries each, direct-mapped, 4 words:
 *     tagLo   address bits 31..12 | key << 3 | 000     a misaligned access does not compare equal
 *     tagHi   address bits 63..32
 *     addend  byte offset in the memory = low word of the address + addend
 *     spare   0
 *   leaf tables 1   1024 entries: address >> 21 (two words, with the key) -> table of 4 KiB leaves
 *   leaf tables G   1024 entries: gpa >> 21, key of the G space           -> the same
 *   GPA             2048 entries: gpa >> 12, key of the G space           -> frame and permissions
 *
 * An entry with a first word 0 and second word 0 is empty: keys are never 0.
 */
import {
  RAM_OFFSET,
  TLB_BASE,
  TLB_ENTRIES,
  TLB_EXEC,
  TLB_READ,
  TLB_STRIDE,
  TLB_WALK_CACHES,
  TLB_WRITE,
} from '../layout.ts';
import type { PhysMemory } from '../memory.ts';
import { type Context, type GSpace, KEY_SHIFT } from './context.ts';

/** Address bits 31..12 of a tag. */
export const TAG_PAGE_MASK = 0xffff_f000 | 0;
export const TLB_INDEX_MASK = TLB_ENTRIES - 1;
export const LEAF1_ENTRIES = 1024;
export const LEAFG_ENTRIES = 1024;
export const GPA_ENTRIES = 2048;
/** Bytes from TLB_WALK_CACHES to each of them; entries are 16 bytes. */
const LEAF1_BYTES = 0x0000;
const LEAFG_BYTES = 0x4000;
const GPA_BYTES = 0x8000;

export class Tlb {
  readonly i32: Int32Array;
  /** Word indexes of the first entries. */
  readonly readBase: number;
  readonly writeBase: number;
  readonly execBase: number;
  readonly leaf1Base: number;
  readonly leafGBase: number;
  readonly gpaBase: number;
  private readonly end: number;

  constructor(memory: PhysMemory, hartIndex: number) {
    const base = (TLB_BASE + hartIndex * TLB_STRIDE) >>> 2;
    this.i32 = memory.i32;
    this.readBase = base + (TLB_READ >>> 2);
    this.writeBase = base + (TLB_WRITE >>> 2);
    this.execBase = base + (TLB_EXEC >>> 2);
    this.leaf1Base = base + ((TLB_WALK_CACHES + LEAF1_BYTES) >>> 2);
    this.leafGBase = base + ((TLB_WALK_CACHES + LEAFG_BYTES) >>> 2);
    this.gpaBase = base + ((TLB_WALK_CACHES + GPA_BYTES) >>> 2);
    this.end = base + (TLB_STRIDE >>> 2);
  }

  /** Enters a 4 KiB page into one array. `pageOffset` is the byte offset of its first byte. */
  fill(base: number, c: Context, lo: number, hi: number, pageOffset: number): void {
    const i32 = this.i32;
    const t = base + (((lo >>> 12) ^ c.hash) & TLB_INDEX_MASK) * 4;
    const page = lo & TAG_PAGE_MASK;
    i32[t] = page | (c.key << KEY_SHIFT);
    i32[t + 1] = hi;
    i32[t + 2] = pageOffset - page;
  }

  /** Drops the page of an address from the three arrays and the first-stage walk cache of a context. */
  dropPage(c: Context, lo: number, hi: number): void {
    const i32 = this.i32;
    const tag = (lo & TAG_PAGE_MASK) | (c.key << KEY_SHIFT);
    const at = (((lo >>> 12) ^ c.hash) & TLB_INDEX_MASK) * 4;
    if (i32[this.readBase + at] === tag && i32[this.readBase + at + 1] === hi)
      i32[this.readBase + at] = 0;
    if (i32[this.writeBase + at] === tag && i32[this.writeBase + at + 1] === hi)
      i32[this.writeBase + at] = 0;
    if (i32[this.execBase + at] === tag && i32[this.execBase + at + 1] === hi)
      i32[this.execBase + at] = 0;
    const t = this.leaf1Index(c, lo, hi);
    if (i32[t] === leafTag(lo, hi) && i32[t + 1] === leaf1TagHi(c, hi)) i32[t + 1] = 0;
  }

  /** Drops what the G-stage caches hold for the page of a GPA. */
  dropGpa(s: GSpace, lo: number, hi: number): void {
    const i32 = this.i32;
    const page = gpaTag(lo, hi);
    const t = this.gpaIndex(s, page);
    if (i32[t] === page && i32[t + 3] === hi >>> 12 && i32[t + 1] === s.key) i32[t + 1] = 0;
    const u = this.leafGIndex(s, lo, hi);
    if (i32[u] === leafTag(lo, hi) && i32[u + 3] === hi >>> 21 && i32[u + 1] === s.key)
      i32[u + 1] = 0;
  }

  leaf1Index(c: Context, lo: number, hi: number): number {
    return this.leaf1Base + ((leafTag(lo, hi) ^ c.hash) & (LEAF1_ENTRIES - 1)) * 4;
  }

  leafGIndex(s: GSpace, lo: number, hi: number): number {
    return this.leafGBase + ((leafTag(lo, hi) ^ s.hash) & (LEAFG_ENTRIES - 1)) * 4;
  }

  gpaIndex(s: GSpace, page: number): number {
    return this.gpaBase + ((page ^ s.hash) & (GPA_ENTRIES - 1)) * 4;
  }

  /** Remembers that the 2 MiB of an address are mapped by the table at `tableOffset`. */
  fillLeaf1(c: Context, lo: number, hi: number, tableOffset: number): void {
    const i32 = this.i32;
    const t = this.leaf1Index(c, lo, hi);
    i32[t] = leafTag(lo, hi);
    i32[t + 1] = leaf1TagHi(c, hi);
    i32[t + 2] = tableOffset;
  }

  fillLeafG(s: GSpace, lo: number, hi: number, tableOffset: number): void {
    const i32 = this.i32;
    const t = this.leafGIndex(s, lo, hi);
    i32[t] = leafTag(lo, hi);
    i32[t + 1] = s.key;
    i32[t + 2] = tableOffset;
    i32[t + 3] = hi >>> 21;
  }

  /** Remembers a G-stage leaf whose A is set: frame offset, and its R, W, X, D bits below. */
  fillGpa(s: GSpace, lo: number, hi: number, pageOffset: number, pteBits: number): void {
    const i32 = this.i32;
    const page = gpaTag(lo, hi);
    const t = this.gpaIndex(s, page);
    i32[t] = page;
    i32[t + 1] = s.key;
    i32[t + 2] = pageOffset | (pteBits & 0xff);
    i32[t + 3] = hi >>> 12;
  }

  /** Drops every write entry that reaches one of the frames; with `reads` every entry. */
  dropEntries(page: number, nrPages: number, reads: boolean): void {
    const i32 = this.i32;
    const first = (RAM_OFFSET >>> 12) + page;
    const begin = reads ? this.readBase : this.writeBase;
    const end = reads ? begin + 3 * TLB_ENTRIES * 4 : begin + TLB_ENTRIES * 4;
    for (let t = begin; t < end; t += 4) {
      const frame = this.frameOf(t);
      if (frame >= first && frame < first + nrPages) i32[t] = 0;
    }
  }

  /** Does an entry whose key is live reach the frame, in any of the arrays? */
  holdsPage(page: number, live: Uint8Array): boolean {
    const frame = (RAM_OFFSET >>> 12) + page;
    const end = this.readBase + 3 * TLB_ENTRIES * 4;
    for (let t = this.readBase; t < end; t += 4) {
      if (this.frameOf(t) !== frame) continue;
      if (live[(this.i32[t]! >>> KEY_SHIFT) & 0x1ff] === 1) return true;
    }
    return false;
  }

  /** Writes `stamp` at every frame of RAM that an entry with a live key reaches. */
  stampHeld(stamps: Int32Array, stamp: number, live: Uint8Array): void {
    const end = this.readBase + 3 * TLB_ENTRIES * 4;
    for (let t = this.readBase; t < end; t += 4)
      if (live[(this.i32[t]! >>> KEY_SHIFT) & 0x1ff] === 1)
        stamps[this.frameOf(t) - (RAM_OFFSET >>> 12)] = stamp;
  }

  /** Empties the three arrays and the first-stage walk cache: their keys start again. */
  clearKeyed(): void {
    this.i32.fill(0, this.readBase, this.leafGBase);
  }

  /** Empties the G-stage caches. */
  clearSpaces(): void {
    this.i32.fill(0, this.leafGBase, this.end);
  }

  private frameOf(t: number): number {
    return ((this.i32[t]! & TAG_PAGE_MASK) + this.i32[t + 2]!) >>> 12;
  }
}

/** Bits 52..21 of an address. */
export const leafTag = (lo: number, hi: number): number => (lo >>> 21) | (hi << 11);
/** Bits 63..53 of an address, and the key. */
export const leaf1TagHi = (c: Context, hi: number): number => ((hi >>> 21) << 9) | c.key;
/** Bits 43..12 of a guest physical address. */
export const gpaTag = (lo: number, hi: number): number => (lo >>> 12) | (hi << 20);
