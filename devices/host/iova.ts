/**
 * Which bus addresses of a domain are in use: ranges of pages, given out from the top down.
 * Compare drivers/iommu/iova.c: alloc_iova(), alloc_iova_fast(), reserve_iova().
 *
 * Ranges of up to 32 pages are rounded up to a power of two and, when they are given back, kept in
 * stacks by size (the range caches), so that mapping a buffer again and again searches nothing.
 * Linux has a stack for every CPU and a depot behind them; here there is one of each size.
 */

/** Sizes of 1, 2, 4 ... 32 pages are cached: IOVA_RANGE_CACHE_MAX_SIZE of them. */
const CACHED_SIZES = 6;
/** Ranges of one size that are kept: two magazines of 127. */
const CACHE_DEPTH = 254;

/** What a saved machine keeps of it. Plain data, in pages. */
export interface IovaState {
  first: number[];
  last: number[];
  caches: number[][];
}

export class IovaAllocator {
  /** First page that is given out, and the last one. */
  readonly startPfn: number;
  readonly limitPfn: number;
  /** Ranges in use or cached, ascending, no two overlapping: first and last page of each. */
  private first: number[];
  private last: number[];
  /** By order: first pages of ranges that were given back. They stand in `first` and `last` still. */
  private caches: number[][];
  /** Ranges that a cache gave, and searches. */
  cacheHits: number;
  searches: number;

  /** Pages [startPfn, limitPfn] of bus addresses, nothing of them in use. */
  constructor(startPfn: number, limitPfn: number) {
    if (startPfn < 0 || limitPfn < startPfn)
      throw new RangeError(`iova: pages ${startPfn}..${limitPfn}`);
    this.startPfn = startPfn;
    this.limitPfn = limitPfn;
    this.first = [];
    this.last = [];
    this.caches = Array.from({ length: CACHED_SIZES }, () => []);
    this.cacheHits = 0;
    this.searches = 0;
  }

  /**
   * A range of pages, aligned to its size rounded up to a power of two. Compare alloc_iova_fast().
   * @returns its first page, or -1: no room, even when the caches are emptied
   */
  alloc(nrPages: number): number {
    const size = roundedSize(nrPages);
    const cached = this.cacheOf(size)?.pop();
    if (cached !== undefined) {
      this.cacheHits++;
      return cached;
    }
    const found = this.search(size);
    if (found >= 0) return found;
    this.flushCaches();
    return this.search(size);
  }

  /**
   * Gives a range back. Compare free_iova_fast().
   * @param pfn what alloc() returned for `nrPages`
   * @throws Error for a range that is not in use
   */
  free(pfn: number, nrPages: number): void {
    const size = roundedSize(nrPages);
    const at = this.indexOf(pfn);
    if (this.first[at] !== pfn || this.last[at] !== pfn + size - 1)
      throw new Error(`iova: pages ${pfn}..${pfn + size - 1} are not in use`);
    const cache = this.cacheOf(size);
    if (cache !== undefined && cache.length < CACHE_DEPTH) cache.push(pfn);
    else this.removeAt(at);
  }

  /**
   * Takes [firstPfn, lastPfn] out for good; what of it is taken already is merged. To be done before
   * anything is given out there. Compare reserve_iova().
   */
  reserve(firstPfn: number, lastPfn: number): void {
    let from = firstPfn;
    let to = lastPfn;
    let at = this.indexOf(from);
    const before = this.last[at - 1];
    if (before !== undefined && before >= from) at--;
    while (at < this.first.length && this.first[at]! <= to) {
      from = Math.min(from, this.first[at]!);
      to = Math.max(to, this.last[at]!);
      this.removeAt(at);
    }
    this.insertAt(at, from, to);
  }

  /** Is the page in a range that is given out, cached or reserved? */
  isTaken(pfn: number): boolean {
    const at = this.indexOf(pfn);
    return this.first[at] === pfn || (at > 0 && this.last[at - 1]! >= pfn);
  }

  /** Pages that are given out or reserved; those in the caches are not. */
  get nrTaken(): number {
    const all = this.first.reduce((sum, first, i) => sum + this.last[i]! - first + 1, 0);
    return this.caches.reduce((sum, cache, order) => sum - cache.length * (1 << order), all);
  }

  save(): IovaState {
    return {
      first: [...this.first],
      last: [...this.last],
      caches: this.caches.map((cache) => [...cache]),
    };
  }

  restore(state: IovaState): void {
    this.first = [...state.first];
    this.last = [...state.last];
    this.caches = state.caches.map((cache) => [...cache]);
  }

  /** Takes the highest aligned gap of `size` pages. @returns its first page, or -1 */
  private search(size: number): number {
    this.searches++;
    const align = alignOf(size);
    let end = this.limitPfn + 1; // of the gap below range `at`
    for (let at = this.first.length; at >= 0; at--) {
      const floor = at > 0 ? this.last[at - 1]! + 1 : this.startPfn;
      const pfn = Math.floor((end - size) / align) * align;
      if (pfn >= Math.max(floor, this.startPfn)) {
        this.insertAt(at, pfn, pfn + size - 1);
        return pfn;
      }
      if (at > 0) end = Math.min(end, this.first[at - 1]!);
    }
    return -1;
  }

  /** What the caches keep can be given out in other sizes again. */
  private flushCaches(): void {
    for (const cache of this.caches) {
      for (const pfn of cache) this.removeAt(this.indexOf(pfn));
      cache.length = 0;
    }
  }

  private cacheOf(size: number): number[] | undefined {
    return size < 1 << CACHED_SIZES && alignOf(size) === size
      ? this.caches[31 - Math.clz32(size)]
      : undefined;
  }

  /** Index of the first range that begins at `pfn` or above. */
  private indexOf(pfn: number): number {
    let from = 0;
    let to = this.first.length;
    while (from < to) {
      const middle = (from + to) >>> 1;
      if (this.first[middle]! < pfn) from = middle + 1;
      else to = middle;
    }
    return from;
  }

  private insertAt(at: number, first: number, last: number): void {
    this.first.splice(at, 0, first);
    this.last.splice(at, 0, last);
  }

  private removeAt(at: number): void {
    this.first.splice(at, 1);
    this.last.splice(at, 1);
  }
}

/** 1, 2, 4 ... : the smallest that is not below `size`. Sizes here are below 2^31. */
const alignOf = (size: number): number => (size <= 1 ? 1 : 2 ** (32 - Math.clz32(size - 1)));

/** Sizes that are cached are powers of two: others would never fit again. */
const roundedSize = (nrPages: number): number =>
  nrPages < 1 << (CACHED_SIZES - 1) ? alignOf(nrPages) : nrPages;
