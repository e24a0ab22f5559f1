/**
 * The table of a mirror: for each page of a process's memory, the frame behind it and what may be
 * done with it. Leaves of 512 pages, made when the first page of them is entered, as in a page table.
 */
import { PAGE_SHIFT, PAGE_SIZE } from '#emu';

/** Flags of an entry; the page number (frame) stands above them. 0: nothing is known of the page. */
export const MIRROR_VALID = 1;
export const MIRROR_WRITE = 2;
export const MIRROR_YOUNG = 4;
const FRAME_SHIFT = 3;

const LEAF_SHIFT = 9;
const LEAF_PAGES = 1 << LEAF_SHIFT;
const LEAF_BYTES = LEAF_PAGES * PAGE_SIZE;

/** hva of a leaf's first page / LEAF_BYTES -> its entries. What a saved machine keeps. */
export type MirrorLeaves = Map<number, Int32Array>;

export const mirrorFrame = (entry: number): number => entry >>> FRAME_SHIFT;

export class MirrorTable {
  private leaves: MirrorLeaves;
  /** The leaf that was found last: accesses stay near one another. */
  private lastNumber: number;
  private lastLeaf: Int32Array | undefined;
  /** Entries that are not 0. */
  nrEntries: number;

  constructor() {
    this.leaves = new Map();
    this.lastNumber = -1;
    this.lastLeaf = undefined;
    this.nrEntries = 0;
  }

  /** The entry of a page, made young if it allows the access; 0 when it does not. */
  use(hva: number, write: boolean): number {
    const leaf = this.leafOf(hva);
    if (leaf === undefined) return 0;
    const index = indexOf(hva);
    const entry = leaf[index]!;
    const wanted = write ? MIRROR_VALID | MIRROR_WRITE : MIRROR_VALID;
    if ((entry & wanted) !== wanted) return 0;
    if ((entry & MIRROR_YOUNG) === 0) leaf[index] = entry | MIRROR_YOUNG;
    return entry;
  }

  set(hva: number, page: number, writable: boolean): void {
    let leaf = this.leafOf(hva);
    if (leaf === undefined) {
      leaf = new Int32Array(LEAF_PAGES);
      this.leaves.set(leafNumber(hva), leaf);
      this.lastNumber = -1;
    }
    const index = indexOf(hva);
    if (leaf[index]! === 0) this.nrEntries++;
    leaf[index] =
      (page << FRAME_SHIFT) | MIRROR_VALID | MIRROR_YOUNG | (writable ? MIRROR_WRITE : 0);
  }

  /** Forgets the pages of [start, end). @returns how many there were */
  drop(start: number, end: number): number {
    const before = this.nrEntries;
    this.each(start, end, (leaf, index) => {
      leaf[index] = 0;
      this.nrEntries--;
      return true;
    });
    return before - this.nrEntries;
  }

  /** Has any page of [start, end) been used since this was asked last? @param clear from now on none has */
  young(start: number, end: number, clear: boolean): boolean {
    let young = false;
    this.each(start, end, (leaf, index) => {
      const entry = leaf[index]!;
      if ((entry & MIRROR_YOUNG) === 0) return true;
      young = true;
      if (clear) leaf[index] = entry & ~MIRROR_YOUNG;
      return clear;
    });
    return young;
  }

  visit(start: number, end: number, visit: (hva: number, entry: number) => void): void {
    this.each(start, end, (leaf, index, number) => {
      visit((number * LEAF_PAGES + index) * PAGE_SIZE, leaf[index]!);
      return true;
    });
  }

  save(): MirrorLeaves {
    return new Map([...this.leaves].map(([number, leaf]) => [number, leaf.slice()]));
  }

  restore(leaves: MirrorLeaves): void {
    this.leaves = new Map(leaves);
    this.lastNumber = -1;
    this.nrEntries = 0;
    for (const leaf of leaves.values()) for (const entry of leaf) if (entry !== 0) this.nrEntries++;
  }

  private leafOf(hva: number): Int32Array | undefined {
    const number = leafNumber(hva);
    if (number === this.lastNumber) return this.lastLeaf;
    this.lastNumber = number;
    this.lastLeaf = this.leaves.get(number);
    return this.lastLeaf;
  }

  /** Every entry of [start, end) that is not 0, until one says false. */
  private each(
    start: number,
    end: number,
    visit: (leaf: Int32Array, index: number, number: number) => boolean,
  ): void {
    if (this.nrEntries === 0) return;
    for (const [number, leaf] of this.leaves) {
      const firstHva = number * LEAF_BYTES;
      if (firstHva >= end || firstHva + LEAF_BYTES <= start) continue;
      const first = Math.max(0, Math.floor((start - firstHva) / PAGE_SIZE));
      const last = Math.min(LEAF_PAGES, Math.ceil((end - firstHva) / PAGE_SIZE));
      for (let index = first; index < last; index++)
        if (leaf[index]! !== 0 && !visit(leaf, index, number)) return;
    }
  }
}

const leafNumber = (hva: number): number => Math.floor(hva / LEAF_BYTES);

const indexOf = (hva: number): number => Math.floor((hva % LEAF_BYTES) / 2 ** PAGE_SHIFT);
