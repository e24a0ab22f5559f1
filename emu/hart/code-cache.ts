/**
 * Decoded instructions, by physical page: one slot of 2048 records, one per half-word, for each frame
 * that code was fetched from. Shared by the harts of a machine.
 *
 * A record of zeros is one not decoded yet. A frame that owns a slot has its code flag set, so no TLB
 * write entry reaches it, and every change to it comes through PhysMemory.wrote(): the records that
 * cover the changed bytes go back to zero, and so does the one before, whose second half they may be.
 * The record behind the last one stops the interpreter at the end of the page.
 */
import { OP_PAGE_END } from '../isa/ops.ts';
import { DECODE_BASE, DECODE_SLOT_BYTES, DECODE_SLOTS, FRAME_CODE } from '../layout.ts';
import type { PhysMemory } from '../memory.ts';

/** Words of a slot that are records of the page; the end marks follow. */
export const SLOT_RECORD_WORDS = 4096;
const SLOT_WORDS = DECODE_SLOT_BYTES / 4;

/** What is saved: which frame owns which slot. Records are decoded again when they are reached. */
export interface CodeCacheState {
  pages: Int32Array;
  next: number;
}

const caches = new WeakMap<PhysMemory, CodeCache>();

export class CodeCache {
  /** By frame: word index of its slot's first record, or 0. */
  readonly baseOfPage: Int32Array;
  /** Slots taken away from a frame because all were in use. */
  recycled: number;
  private readonly memory: PhysMemory;
  /** By slot: the frame that owns it, or -1. */
  private readonly pages: Int32Array;
  /** The slot to be given out next. */
  private next: number;

  /** The cache of a machine, made on first use: its harts find each other by their memory. */
  static of(memory: PhysMemory): CodeCache {
    let cache = caches.get(memory);
    if (cache === undefined) {
      cache = new CodeCache(memory);
      caches.set(memory, cache);
    }
    return cache;
  }

  constructor(memory: PhysMemory) {
    this.memory = memory;
    this.baseOfPage = new Int32Array(memory.nrPages);
    this.pages = new Int32Array(DECODE_SLOTS).fill(-1);
    this.next = 0;
    this.recycled = 0;
    memory.onCodeWrite((page, offsetInPage, lenBytes) => {
      this.invalidate(page, offsetInPage, lenBytes);
    });
  }

  /** Gives a frame a slot with nothing decoded. Returns the word index of its first record. */
  enterSlow(page: number): number {
    const slot = this.next;
    this.next = (slot + 1) % DECODE_SLOTS;
    const before = this.pages[slot]!;
    if (before >= 0) {
      this.baseOfPage[before] = 0;
      this.memory.unflagFrames(before, 1, FRAME_CODE);
      this.recycled++;
    }
    return this.give(slot, page);
  }

  save(): CodeCacheState {
    return { pages: this.pages.slice(), next: this.next };
  }

  restore(state: CodeCacheState): void {
    for (const page of this.pages)
      if (page >= 0) {
        this.baseOfPage[page] = 0;
        this.memory.unflagFrames(page, 1, FRAME_CODE);
      }
    this.pages.fill(-1);
    state.pages.forEach((page, slot) => {
      if (page >= 0) this.give(slot, page);
    });
    this.next = state.next;
  }

  private give(slot: number, page: number): number {
    const base = (DECODE_BASE >>> 2) + slot * SLOT_WORDS;
    const i32 = this.memory.i32;
    i32.fill(0, base, base + SLOT_RECORD_WORDS);
    i32.fill(OP_PAGE_END, base + SLOT_RECORD_WORDS, base + SLOT_WORDS);
    this.pages[slot] = page;
    this.baseOfPage[page] = base;
    this.memory.flagFrames(page, 1, FRAME_CODE);
    return base;
  }

  private invalidate(page: number, offsetInPage: number, lenBytes: number): void {
    const base = this.baseOfPage[page]!;
    if (base === 0) return;
    const first = Math.max(0, (offsetInPage >>> 1) - 1);
    const last = (offsetInPage + lenBytes - 1) >>> 1;
    this.memory.i32.fill(0, base + first * 2, base + (last + 1) * 2);
  }
}
