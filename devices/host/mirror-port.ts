/**
 * A device's port into a VMM process that holds nothing: it follows the process's page tables as a
 * secondary MMU does. For rings and other small structures in guest memory, which a device looks at
 * again and again and for as long as the guest likes.
 *
 * Bus addresses are guest physical; the VMM's memory slots make host virtual addresses of them, and
 * the port keeps a table from these to frames. No pin, no reference: the notifier takes entries away
 * before the process's own change, so the page may be migrated, swapped, written back or given up.
 * Compare virt/kvm/pfncache.c, which does this for one page.
 *
 *   device                     port                                 scheduler
 *   read() ... DMA_WAIT        the page is wanted                   sees pendingWork(), runs work()
 *                              faults it in, enters it
 *   listener <-                something has changed
 *   read() again ... DMA_OK
 *
 * Bytes are moved by plain calls, between two yields of everybody else: an entry that is found is true
 * for the whole access. A writable entry makes its folio dirty when it is entered, under the port's
 * lock (what runs between two yields), so a store through it is behind no writeback: that has taken
 * the entry away first.
 */
import { atomicAdd } from '#cells';
import { DMA_FAULT, DMA_OK, DMA_WAIT, type DmaPort, PAGE_MASK, PAGE_SIZE } from '#emu';
import {
  createInvalidateState,
  createSecondaryPfns,
  faultInPfns,
  type InvalidateState,
  invalidateBegin,
  invalidateEnd,
  invalidateRetryRange,
  invalidateSeq,
  type Kernel,
  type MmStruct,
  pageToPfn,
  type Path,
  pfnToPage,
  registerSecondary,
  registerSecondaryOps,
  releasePfns,
  type SecondaryOps,
  type SecondaryPfns,
  unregisterSecondary,
  YP_WAIT,
} from '#mm/secondary';
import { MIRROR_WRITE, type MirrorLeaves, MirrorTable, mirrorFrame } from './mirror-table.ts';

export interface MirrorPortConfig {
  kernel: Kernel;
  /** The VMM process. */
  mm: MmStruct;
  /** Unique on the machine, and the same after a restore: names its subscription. */
  name: string;
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory has changed: the dirty log. Called for runs inside one page. */
  onWritten(gpa: number, lenBytes: number): void;
}

/** What a saved machine keeps of the port; its subscription is saved with the address space. */
export interface MirrorPortState {
  leaves: MirrorLeaves;
  wanted: Map<number, boolean>;
  faults: number;
  invalidations: number;
}

/** Pages that one access may ask for at once; a longer one gets the rest when it is tried again. */
const WANTED_MAX = 512;
/** Pages that are looked up at once, where they follow one another. */
const BATCH_PAGES = 64;

export class MirrorPort implements DmaPort {
  private readonly config: MirrorPortConfig;
  private readonly table: MirrorTable;
  /** In hva. */
  private readonly invalidate: InvalidateState;
  /** Pages that a device waits for: hva -> it is going to write. */
  private readonly wanted: Map<number, boolean>;
  /** Pages that cannot be had, while those who waited for them are being told. */
  private readonly failed: Set<number>;
  private readonly listeners: (() => void)[];
  private readonly scratch: SecondaryPfns;
  private working: boolean;
  /** The process has exited, or the device is gone. */
  private closed: boolean;
  /** Pages that were entered, and entries that were taken away again. */
  faults: number;
  invalidations: number;

  /** Subscribes, unless a saved machine's address space has the subscription already. */
  constructor(config: MirrorPortConfig) {
    const { kernel, mm } = config;
    this.config = config;
    this.table = new MirrorTable();
    this.invalidate = createInvalidateState();
    this.wanted = new Map();
    this.failed = new Set();
    this.listeners = [];
    this.scratch = createSecondaryPfns(BATCH_PAGES, 'mirror-port');
    this.working = false;
    this.closed = mm.exited;
    this.faults = 0;
    this.invalidations = 0;
    registerSecondaryOps(kernel, this.opsName, this.operations());
    const subscribed = mm.notifiers.some(({ ops }) => ops === this.opsName);
    if (!subscribed && !this.closed) registerSecondary(kernel, mm, this.opsName, 0);
  }

  private get opsName(): string {
    return `mirror ${this.config.name}`;
  }

  private operations(): SecondaryOps {
    const { invalidate, table } = this;
    return {
      invalidateRangeStart: (_owner, { start, end }) => {
        // Before the entries go: from here on work() may not enter what it has looked up.
        invalidateBegin(invalidate, start, end);
        this.invalidations += table.drop(start, end);
        return 0;
      },
      invalidateRangeEnd: () => invalidateEnd(invalidate),
      testYoung: (_owner, _mm, hva) => table.young(hva, hva + PAGE_SIZE, false),
      clearYoung: (_owner, _mm, start, end) => table.young(start, end, true),
      clearFlushYoung: (_owner, _mm, start, end) => table.young(start, end, true),
      release: () => this.dropAll(),
      visitEntries: (visit) =>
        table.visit(0, Number.POSITIVE_INFINITY, (hva, entry) =>
          visit(this.config.mm, hva, pageToPfn(mirrorFrame(entry)), (entry & MIRROR_WRITE) !== 0),
        ),
    };
  }

  /* ---- for the scheduler ---- */

  /** Pages that are waited for and that nobody looks up yet. While work() runs, 0. */
  pendingWork(): number {
    return this.working ? 0 : this.wanted.size;
  }

  /** Faults in what is waited for, and tells the device, until nothing is. */
  *work(): Path<void> {
    if (this.working) throw new Error(`${this.opsName}: work() is running already`);
    this.working = true;
    for (;;) {
      const next = this.wanted.entries().next();
      if (next.done === true) break;
      const [hva, write] = next.value;
      const n = yield* this.enter(hva, this.wantedFrom(hva, write), write);
      // Nothing yields from here until the device has been told: what was entered is still there.
      for (let at = hva; at < hva + Math.max(1, n) * PAGE_SIZE; at += PAGE_SIZE)
        if (this.wanted.get(at) === write) this.wanted.delete(at);
      if (n < 0) this.failed.add(hva);
      for (const listener of this.listeners) listener();
      this.failed.clear();
    }
    this.working = false;
  }

  /** The device is gone: nothing is followed any more, and every access is a fault. */
  close(): void {
    const { mm } = this.config;
    if (!this.closed && !mm.exited) unregisterSecondary(mm, this.opsName, 0);
    this.dropAll();
  }

  /** Pages that the port has entries for. */
  get nrEntries(): number {
    return this.table.nrEntries;
  }

  /* ---- for the device ---- */

  onReady(listener: () => void): void {
    this.listeners.push(listener);
  }

  read(gpa: number, into: Uint8Array, intoOffset: number, lenBytes: number): number {
    const { u8 } = this.config.kernel.memory;
    let outcome = DMA_OK;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(gpa + done));
      const offset = this.translate(gpa + done, false);
      if (offset === DMA_FAULT) return DMA_FAULT;
      // Whatever else of it is missing is asked for in the same round.
      if (offset === DMA_WAIT) outcome = DMA_WAIT;
      else if (outcome === DMA_OK) into.set(u8.subarray(offset, offset + run), intoOffset + done);
    }
    return outcome;
  }

  write(gpa: number, from: Uint8Array, fromOffset: number, lenBytes: number): number {
    const { memory } = this.config.kernel;
    let outcome = DMA_OK;
    for (let done = 0, run = 0; done < lenBytes; done += run) {
      run = Math.min(lenBytes - done, pageRest(gpa + done));
      const offset = this.translate(gpa + done, true);
      if (offset === DMA_FAULT) return DMA_FAULT;
      if (offset === DMA_WAIT) outcome = DMA_WAIT;
      if (outcome !== DMA_OK) continue;
      memory.setBytes(offset, from.subarray(fromOffset + done, fromOffset + done + run));
      this.config.onWritten(gpa + done, run);
    }
    return outcome;
  }

  /** @throws RangeError for a misaligned address: the device model has checked it */
  atomicAdd32(gpa: number, delta: number): number | undefined {
    if ((gpa & 3) !== 0) throw new RangeError(`atomicAdd32 at 0x${gpa.toString(16)}`);
    const offset = this.translate(gpa, true);
    if (offset < 0) return undefined;
    const { memory } = this.config.kernel;
    const sum = atomicAdd(memory.i32, offset >>> 2, delta);
    memory.wrote(offset, 4);
    this.config.onWritten(gpa, 4);
    return (sum - delta) >>> 0;
  }

  translate(gpa: number, write: boolean): number {
    const hva = this.closed ? -1 : this.config.hvaOf(gpa);
    if (hva < 0) return DMA_FAULT;
    const entry = this.table.use(hva, write);
    if (entry !== 0)
      return this.config.kernel.memory.pageOffset(mirrorFrame(entry)) + (hva & PAGE_MASK);
    const page = hva - (hva % PAGE_SIZE);
    if (this.failed.has(page)) return DMA_FAULT;
    const known = this.wanted.get(page);
    if (known === undefined ? this.wanted.size < WANTED_MAX : write && !known)
      this.wanted.set(page, write);
    return DMA_WAIT;
  }

  /** @throws Error while work() is suspended: a generator cannot be saved */
  save(): MirrorPortState {
    if (this.working) throw new Error(`${this.opsName}: saved in the middle of work()`);
    return {
      leaves: this.table.save(),
      wanted: new Map(this.wanted),
      faults: this.faults,
      invalidations: this.invalidations,
    };
  }

  restore(state: MirrorPortState): void {
    this.table.restore(state.leaves);
    for (const [hva, write] of state.wanted) this.wanted.set(hva, write);
    this.faults = state.faults;
    this.invalidations = state.invalidations;
  }

  private dropAll(): void {
    this.closed = true;
    this.table.drop(0, Number.POSITIVE_INFINITY);
    this.wanted.clear();
  }

  /** Pages from `hva` on that are wanted alike. */
  private wantedFrom(hva: number, write: boolean): number {
    let n = 1;
    while (n < BATCH_PAGES && this.wanted.get(hva + n * PAGE_SIZE) === write) n++;
    return n;
  }

  /** Looks pages up and enters them. @returns how many, from the first; 0: the port is closed; -errno */
  private *enter(hva: number, nrPages: number, write: boolean): Path<number> {
    const { kernel, mm } = this.config;
    const { invalidate, scratch } = this;
    for (;;) {
      if (this.closed) return 0;
      const seq = invalidateSeq(invalidate);
      const n = yield* faultInPfns(kernel, mm, hva, nrPages, write, scratch);
      if (n < 0) return n;
      const end = hva + n * PAGE_SIZE;
      if (!this.closed && !invalidateRetryRange(invalidate, seq, hva, end)) break;
      releasePfns(kernel, scratch, false, false);
      while (this.covers(hva, end)) yield YP_WAIT;
    }
    const n = scratch.nrPages;
    // For reading, they are entered for reading: a writable entry would make its folio dirty now.
    for (let i = 0; i < n; i++)
      this.table.set(hva + i * PAGE_SIZE, pfnToPage(scratch.pfns[i]!), write);
    this.faults += n;
    releasePfns(kernel, scratch, write, true);
    return n;
  }

  /** An invalidation that meets [start, end) is under way. */
  private covers(start: number, end: number): boolean {
    const { inProgress, rangeStart, rangeEnd } = this.invalidate;
    return inProgress > 0 && start < rangeEnd && end > rangeStart;
  }
}

/** Bytes from `gpa` to the end of its page. */
const pageRest = (gpa: number): number => PAGE_SIZE - (gpa % PAGE_SIZE);
