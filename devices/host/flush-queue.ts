/**
 * Mappings that are gone from a domain's tables while the IOMMU may still have them: their bus
 * addresses wait here for an invalidation of everything, so that unmapping costs none of its own.
 * Compare drivers/iommu/dma-iommu.c: queue_iova(), fq_flush_iotlb(), fq_flush_timeout().
 *
 * Until then is a window in which the device reaches the old frames, and those may belong to
 * somebody else by then. The window is counted, and pages in it are found by stale().
 */
import type { DmaMapping } from './dma-mapping.ts';

/** Mappings that it holds: IOVA_DEFAULT_FQ_SIZE. */
export const FLUSH_QUEUE_SIZE = 256;

/** Bus pages are counted by so many of their lowest bits: 0 there means that none of them waits. */
const FILTER_SIZE = 1 << 12;

export interface FlushQueueConfig {
  /** Everything of the domain is to be invalidated, now. */
  invalidate(): void;
  /** The bus addresses of a mapping can be given out again. */
  free(mapping: DmaMapping): void;
  /** The queue has an entry, and had none: it is to be flushed after a while. */
  startTimer(): void;
}

/** How many, since the beginning. */
export interface FlushQueueCounts {
  /** Mappings that were queued, and pages of them. */
  queued: number;
  queuedPages: number;
  /** Most pages that waited at a time. */
  mostPages: number;
  /** Invalidations because it was full, and because the time had come. */
  byRoom: number;
  byTime: number;
}

export const createFlushQueueCounts = (): FlushQueueCounts => ({
  queued: 0,
  queuedPages: 0,
  mostPages: 0,
  byRoom: 0,
  byTime: 0,
});

/** What a saved machine keeps of it. */
export interface FlushQueueState {
  waiting: DmaMapping[];
  counts: FlushQueueCounts;
}

export class FlushQueue {
  private readonly config: FlushQueueConfig;
  private waiting: DmaMapping[];
  private readonly filter: Uint16Array;
  /** Pages that wait. */
  nrPages: number;
  readonly counts: FlushQueueCounts;

  constructor(config: FlushQueueConfig) {
    this.config = config;
    this.waiting = [];
    this.filter = new Uint16Array(FILTER_SIZE);
    this.nrPages = 0;
    this.counts = createFlushQueueCounts();
  }

  /** Takes a mapping that was cleared from the tables. */
  add(mapping: DmaMapping): void {
    if (this.waiting.length === FLUSH_QUEUE_SIZE) {
      this.counts.byRoom++;
      this.flush();
    }
    if (this.waiting.length === 0) this.config.startTimer();
    this.waiting.push(mapping);
    this.count(mapping, 1);
    this.counts.queued++;
    this.counts.queuedPages += mapping.nrPages;
    this.counts.mostPages = Math.max(this.counts.mostPages, this.nrPages);
  }

  /** The time has come. */
  timeout(): void {
    if (this.waiting.length === 0) return;
    this.counts.byTime++;
    this.flush();
  }

  /** Invalidates, and gives every bus address back. */
  flush(): void {
    if (this.waiting.length === 0) return;
    this.config.invalidate();
    const done = this.waiting;
    this.waiting = [];
    for (const mapping of done) {
      this.count(mapping, -1);
      this.config.free(mapping);
    }
  }

  /** The mapping in the window that a page of bus addresses belonged to; undefined: none. */
  stale(pfn: number): Readonly<DmaMapping> | undefined {
    if (this.filter[pfn % FILTER_SIZE] === 0) return undefined;
    return this.waiting.find((m) => pfn >= m.pfn && pfn < m.pfn + m.nrPages);
  }

  save(): FlushQueueState {
    return { waiting: this.waiting.map((m) => ({ ...m })), counts: { ...this.counts } };
  }

  restore(state: FlushQueueState): void {
    for (const mapping of state.waiting) {
      this.waiting.push({ ...mapping });
      this.count(mapping, 1);
    }
    Object.assign(this.counts, state.counts);
  }

  private count(mapping: DmaMapping, change: 1 | -1): void {
    this.nrPages += change * mapping.nrPages;
    for (let pfn = mapping.pfn; pfn < mapping.pfn + mapping.nrPages; pfn++) {
      const i = pfn % FILTER_SIZE;
      this.filter[i] = this.filter[i]! + change;
    }
  }
}
