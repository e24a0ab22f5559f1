/**
 * The pages that one transfer holds pinned, and where in the bus address space they are.
 *
 * A window is a run of bus pages that were pinned together; an address is found by searching the
 * windows from the one that matched last, because a transfer walks them in order. Everything is
 * allocated once: nothing here grows with the number of transfers.
 */
import { PAGE_MASK, PAGE_SIZE } from '#emu';
import type { DmaSg } from './dma-mapping.ts';

/**
 * Most pages of one transfer. A descriptor moves 1 MiB in at most 1024 pieces a side, so that a
 * side is 256 whole pages and two more for each piece; then the lists and the descriptor.
 */
export const PINNED_PAGES_MAX = 2 * (256 + 2 * 1024) + 64;

/** What a saved machine keeps of a transfer's pins. */
export interface PinnedPagesState {
  windowGpa: Float64Array;
  windowFirst: Int32Array;
  windowWrite: Uint8Array;
  pages: Int32Array;
  mapped: (DmaSg | null)[];
}

export class PinnedPages {
  /** Page numbers (frames), in the order they were pinned. */
  readonly pages: Int32Array;
  nrPages: number;
  /** Pinned runs: bus address of the first page, index of its frame in `pages`, pinned for writing. */
  private readonly windowGpa: Float64Array;
  private readonly windowFirst: Int32Array;
  private readonly windowWrite: Uint8Array;
  nrWindows: number;
  /** By window: what an IOMMU has been given of it; null: nothing. */
  private mapped: (DmaSg | null)[];
  /** Window that the last look-up for reading [0] and for writing [1] found. */
  private readonly recent: Int32Array;

  constructor() {
    this.pages = new Int32Array(PINNED_PAGES_MAX);
    this.nrPages = 0;
    this.windowGpa = new Float64Array(PINNED_PAGES_MAX);
    this.windowFirst = new Int32Array(PINNED_PAGES_MAX);
    this.windowWrite = new Uint8Array(PINNED_PAGES_MAX);
    this.nrWindows = 0;
    this.mapped = [];
    this.recent = new Int32Array(2);
  }

  /** Room for more pages. */
  get room(): number {
    return PINNED_PAGES_MAX - this.nrPages;
  }

  /** Adds a window over frames[0 .. nrPages), which the caller has pinned. */
  add(gpa: number, write: boolean, frames: Int32Array, nrPages: number): void {
    const window = this.nrWindows++;
    this.mapped.push(null);
    this.windowGpa[window] = gpa - (gpa % PAGE_SIZE);
    this.windowFirst[window] = this.nrPages;
    this.windowWrite[window] = write ? 1 : 0;
    for (let i = 0; i < nrPages; i++) this.pages[this.nrPages++] = frames[i]!;
  }

  /** The last window is mapped. */
  setMapped(sg: DmaSg): void {
    this.mapped[this.nrWindows - 1] = sg;
  }

  /** Everything that is mapped. */
  allMapped(): DmaSg[] {
    return this.mapped.filter((sg) => sg !== null);
  }

  /** Bus address, at the IOMMU, of the byte at `gpa`; -1: it is not mapped, or not held as `write` wants it. */
  busAddressAt(gpa: number, write: boolean): number {
    const window = this.windowAt(gpa, write);
    const mapping = window < 0 ? undefined : this.mapped[window]?.mappings[0];
    return mapping === undefined ? -1 : mapping.pfn * PAGE_SIZE + gpa - this.windowGpa[window]!;
  }

  clear(): void {
    this.nrPages = 0;
    this.nrWindows = 0;
    this.mapped = [];
    this.recent.fill(0);
  }

  /** Frame that holds the byte at `gpa`, pinned for writing if `write`; -1 when none is held. */
  frameAt(gpa: number, write: boolean): number {
    const window = this.windowAt(gpa, write);
    if (window < 0) return -1;
    const page = Math.floor((gpa - this.windowGpa[window]!) / PAGE_SIZE);
    return this.pages[this.windowFirst[window]! + page]!;
  }

  /** Window that holds the byte at `gpa`, pinned for writing if `write`; -1: none. */
  private windowAt(gpa: number, write: boolean): number {
    const wanted = write ? 1 : 0;
    let window = this.recent[wanted]!;
    for (let n = this.nrWindows; n > 0; n--) {
      if (window >= this.nrWindows) window = 0;
      const page = (gpa - this.windowGpa[window]!) / PAGE_SIZE;
      if (page >= 0 && page < this.windowPages(window) && this.windowWrite[window]! >= wanted) {
        this.recent[wanted] = window;
        return window;
      }
      window++;
    }
    return -1;
  }

  /** Are all of [gpa, gpa + lenBytes) in the window that was pinned last? */
  lastCovers(gpa: number, lenBytes: number, write: boolean): boolean {
    const last = this.nrWindows - 1;
    if (last < 0 || (write && this.windowWrite[last] === 0)) return false;
    const from = gpa - this.windowGpa[last]!;
    return from >= 0 && from + lenBytes <= this.windowPages(last) * PAGE_SIZE;
  }

  private windowPages(window: number): number {
    const end = window + 1 < this.nrWindows ? this.windowFirst[window + 1]! : this.nrPages;
    return end - this.windowFirst[window]!;
  }

  /** Is this frame among them? */
  holds(page: number): boolean {
    for (let i = 0; i < this.nrPages; i++) if (this.pages[i] === page) return true;
    return false;
  }

  /** First window from `window` on that was pinned in the other way; nrWindows without one. */
  endOfAlike(window: number): number {
    let end = window + 1;
    while (end < this.nrWindows && this.windowWrite[end] === this.windowWrite[window]) end++;
    return end;
  }

  /** View of the frames of windows [first, end). */
  framesOf(first: number, end: number): Int32Array {
    const from = this.windowFirst[first]!;
    const to = end < this.nrWindows ? this.windowFirst[end]! : this.nrPages;
    return this.pages.subarray(from, to);
  }

  isWriteWindow(window: number): boolean {
    return this.windowWrite[window] === 1;
  }

  save(): PinnedPagesState {
    return {
      windowGpa: this.windowGpa.slice(0, this.nrWindows),
      windowFirst: this.windowFirst.slice(0, this.nrWindows),
      windowWrite: this.windowWrite.slice(0, this.nrWindows),
      pages: this.pages.slice(0, this.nrPages),
      mapped: this.mapped.map((sg) => sg && structuredClone(sg)),
    };
  }

  restore(state: PinnedPagesState): void {
    this.clear();
    this.windowGpa.set(state.windowGpa);
    this.windowFirst.set(state.windowFirst);
    this.windowWrite.set(state.windowWrite);
    this.nrWindows = state.windowGpa.length;
    this.mapped = state.mapped.map((sg) => sg && structuredClone(sg));
    this.pages.set(state.pages);
    this.nrPages = state.pages.length;
  }
}

/** Pages that [gpa, gpa + lenBytes) touches. */
export const pagesTouched = (gpa: number, lenBytes: number): number =>
  Math.ceil(((gpa & PAGE_MASK) + lenBytes) / PAGE_SIZE);
