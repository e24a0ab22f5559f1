/**
 * A domain of the IOMMU: what one device, or several, reach by bus addresses. Its tables, which of
 * its bus addresses are in use, and when those that are given up can be used again.
 * Compare struct iommu_domain and drivers/iommu/dma-iommu.c: __iommu_dma_map(), __iommu_dma_unmap().
 *
 *                        tables        IOMMU's cache     bus addresses    frames
 *   map                  entries       -                 taken            the caller's, pinned
 *   clear                none          may have them     taken            still pinned
 *   finish, strict       none          invalidated       free             the caller lets go
 *   finish, deferred     none          MAY HAVE THEM     in the queue     the caller lets go
 *   the queue flushes    none          invalidated       free             -
 */
import { PAGE_SIZE } from '#emu';
import { ENOMEM, freePages, type Kernel } from '#mm';
import type { DmaMapping, DmaRun } from './dma-mapping.ts';
import { nrDmaPages } from './dma-mapping.ts';
import { FlushQueue, type FlushQueueState } from './flush-queue.ts';
import {
  IO_READ,
  IO_READ_WRITE,
  ioEntry,
  ioLimit,
  ioMap,
  type IoTables,
  ioTablesCreate,
  ioTablesFree,
  ioUnmap,
} from './io-tables.ts';
import { IovaAllocator, type IovaState } from './iova.ts';

/** Who invalidates for a domain: the IOMMU's driver. Done when it returns. */
export interface DomainInvalidator {
  /** The ranges of all mappings. */
  invalidateMappings(domain: IoDomain, mappings: readonly DmaMapping[]): void;
  /** Everything of the domain, pointers to tables too. */
  invalidateDomain(domain: IoDomain): void;
  /** Calls the domain's timeout() after a while. */
  startTimer(domain: IoDomain): void;
}

export interface IoDomainConfig {
  kernel: Kernel;
  /** PSCID of a first stage, GSCID of a second one. */
  id: number;
  stage: 1 | 2;
  deferred: boolean;
  invalidator: DomainInvalidator;
}

/** What a saved machine keeps of a domain; its tables are in RAM. */
export interface IoDomainState {
  id: number;
  stage: 1 | 2;
  deferred: boolean;
  tables: IoTables;
  iova: IovaState;
  mappings: DmaMapping[];
  cleared: DmaMapping[];
  past: DmaMapping[];
  queue: FlushQueueState;
}

/** Bus addresses begin here: page 0 is never given out, so that a null pointer of a device faults. */
const FIRST_PFN = 1;
/** Unmapped ranges that are remembered. */
const PAST_KEPT = 64;

export class IoDomain {
  readonly id: number;
  readonly stage: 1 | 2;
  readonly deferred: boolean;
  readonly tables: IoTables;
  /** First page -> what is mapped there now. */
  readonly mappings: Map<number, DmaMapping>;
  readonly queue: FlushQueue;
  private readonly kernel: Kernel;
  private readonly invalidator: DomainInvalidator;
  private readonly iova: IovaAllocator;
  /** Cleared from the tables, not yet invalidated or queued. */
  private cleared: DmaMapping[];
  /** The last ones that were unmapped, oldest first: to say whose address a late access goes to. */
  private past: DmaMapping[];

  private constructor(config: IoDomainConfig, tables: IoTables) {
    this.kernel = config.kernel;
    this.id = config.id;
    this.stage = config.stage;
    this.deferred = config.deferred;
    this.invalidator = config.invalidator;
    this.tables = tables;
    this.mappings = new Map();
    this.iova = new IovaAllocator(FIRST_PFN, ioLimit(config.stage) / PAGE_SIZE - 1);
    this.cleared = [];
    this.past = [];
    this.queue = new FlushQueue({
      invalidate: () => this.invalidator.invalidateDomain(this),
      free: ({ pfn, nrPages }) => this.iova.free(pfn, nrPages),
      startTimer: () => this.invalidator.startTimer(this),
    });
  }

  /** @returns a domain without mappings, or -ENOMEM */
  static create(config: IoDomainConfig): IoDomain | number {
    const tables = ioTablesCreate(config.kernel, config.stage);
    return typeof tables === 'number' ? tables : new IoDomain(config, tables);
  }

  /** The domain that save() has described. */
  static restore(
    kernel: Kernel,
    invalidator: DomainInvalidator,
    { id, stage, deferred, ...state }: IoDomainState,
  ): IoDomain {
    const config = { kernel, id, stage, deferred, invalidator };
    const domain = new IoDomain(config, { ...state.tables });
    for (const mapping of state.mappings) domain.mappings.set(mapping.pfn, { ...mapping });
    domain.cleared = state.cleared.map((mapping) => ({ ...mapping }));
    domain.past = state.past.map((mapping) => ({ ...mapping }));
    domain.iova.restore(state.iova);
    domain.queue.restore(state.queue);
    return domain;
  }

  /**
   * Maps frames at bus addresses of the domain's choice, one after the other.
   * @returns the mapping; -ENOMEM: no bus addresses, or no frame for a table
   */
  map(runs: readonly DmaRun[], writable: boolean, user: string): DmaMapping | number {
    const nrPages = nrDmaPages(runs);
    const pfn = this.iova.alloc(nrPages);
    if (pfn < 0) return -ENOMEM;
    const mapping = this.enter(pfn, runs, nrPages, writable, user);
    if (typeof mapping === 'number') this.iova.free(pfn, nrPages);
    return mapping;
  }

  /**
   * Maps frames where the caller says; the domain's own choice must not be used beside it.
   * @returns as map()
   */
  mapAt(
    pfn: number,
    runs: readonly DmaRun[],
    writable: boolean,
    user: string,
  ): DmaMapping | number {
    return this.enter(pfn, runs, nrDmaPages(runs), writable, user);
  }

  private enter(
    pfn: number,
    runs: readonly DmaRun[],
    nrPages: number,
    writable: boolean,
    user: string,
  ): DmaMapping | number {
    const dropped: number[] = [];
    const prot = writable ? IO_READ_WRITE : IO_READ;
    let done = 0;
    let error = 0;
    for (const { page, nr } of runs) {
      error = ioMap(this.kernel, this.tables, pfn + done, page, nr, prot, dropped);
      if (error < 0) break;
      done += nr;
    }
    if (error < 0) ioUnmap(this.kernel, this.tables, pfn, nrPages);
    // Tables that were replaced, and what a device may have reached of a half-made mapping.
    if (dropped.length > 0 || error < 0) this.invalidator.invalidateDomain(this);
    for (const table of dropped) freePages(this.kernel, table, 0);
    if (error < 0) return error;
    const mapping = { pfn, nrPages, writable, user };
    this.mappings.set(pfn, mapping);
    return mapping;
  }

  /**
   * Takes a mapping out of the tables; the IOMMU may go on using it until finish().
   * @throws Error for one that is not there: it is unmapped twice, or by the wrong address
   */
  clear(pfn: number): void {
    const mapping = this.mappings.get(pfn);
    if (mapping === undefined)
      throw new Error(`domain ${this.id}: iova 0x${(pfn * PAGE_SIZE).toString(16)} is not mapped`);
    this.mappings.delete(pfn);
    ioUnmap(this.kernel, this.tables, pfn, mapping.nrPages);
    this.cleared.push(mapping);
    this.past.push(mapping);
    if (this.past.length > PAST_KEPT) this.past.shift();
  }

  /** What was cleared is invalidated, and its bus addresses free; or, deferred, queued for that. */
  finish(): void {
    const done = this.cleared;
    if (done.length === 0) return;
    this.cleared = [];
    if (this.deferred) {
      for (const mapping of done) this.queue.add(mapping);
      return;
    }
    this.invalidator.invalidateMappings(this, done);
    for (const { pfn, nrPages } of done) this.iova.free(pfn, nrPages);
  }

  /** As finish() for mappings that mapAt() made, whose bus addresses are the caller's. Never deferred. */
  finishFixed(): void {
    if (this.cleared.length > 0) this.invalidator.invalidateMappings(this, this.cleared);
    this.cleared = [];
  }

  /** The mapping that a page of bus addresses belongs to, of those in the tables. */
  mappingAt(pfn: number): Readonly<DmaMapping> | undefined {
    for (const mapping of this.mappings.values())
      if (pfn >= mapping.pfn && pfn < mapping.pfn + mapping.nrPages) return mapping;
    return undefined;
  }

  /** A mapping that the tables do not have any more, and the IOMMU may have. */
  staleAt(pfn: number): Readonly<DmaMapping> | undefined {
    const found = this.queue.stale(pfn);
    return found ?? this.cleared.find((m) => pfn >= m.pfn && pfn < m.pfn + m.nrPages);
  }

  /** The mapping that a page belonged to last, of those that were unmapped lately. */
  pastAt(pfn: number): Readonly<DmaMapping> | undefined {
    return this.past.findLast((m) => pfn >= m.pfn && pfn < m.pfn + m.nrPages);
  }

  /** Some are waiting to be invalidated. */
  get hasStale(): boolean {
    return this.queue.nrPages > 0 || this.cleared.length > 0;
  }

  /** Frame that the tables give for a page of bus addresses, -1: none. */
  frameAt(pfn: number): number {
    return ioEntry(this.kernel, this.tables, pfn).page;
  }

  /** The domain goes. No device may be attached, nothing mapped, the IOMMU's caches invalidated. */
  destroy(): void {
    if (this.mappings.size > 0)
      throw new Error(`domain ${this.id}: ${this.mappings.size} mappings are left`);
    this.finish();
    this.queue.flush();
    ioTablesFree(this.kernel, this.tables);
  }

  save(): IoDomainState {
    return {
      id: this.id,
      stage: this.stage,
      deferred: this.deferred,
      tables: { ...this.tables },
      iova: this.iova.save(),
      mappings: [...this.mappings.values()].map((mapping) => ({ ...mapping })),
      cleared: this.cleared.map((mapping) => ({ ...mapping })),
      past: this.past.map((mapping) => ({ ...mapping })),
      queue: this.queue.save(),
    };
  }
}
