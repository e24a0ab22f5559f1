/**
 * A device's own cache of translations (ATC): what the IOMMU has granted it, 4 KiB at a time, until the
 * IOMMU asks it to forget. And its page requests: which are under way, which were refused. PCIe ATS and
 * PRI, as a small device has them: one page in a group, no stop markers.
 */
import { PAGE_SIZE } from '#emu';
import type { AtsCompletion, AtsDevice } from './ats.ts';
import { PRG_SUCCESS } from './ats.ts';
import type { AtsInvalidation } from './command-queue.ts';

const NR_ENTRIES = 1024;
/** Group indexes, and so requests under way at one time. */
const NR_GROUPS = 32;

const ATC_READ = 1 << 0;
const ATC_WRITE = 1 << 1;
const ATC_GLOBAL = 1 << 2;

/** A page request without an answer. Plain data. */
interface Asked {
  group: number;
  processId: number;
  page: number;
  write: boolean;
}

/** What a saved machine keeps of an ATC. */
export interface AtcState {
  page: Float64Array;
  process: Int32Array;
  target: Float64Array;
  flags: Uint8Array;
  asked: Asked[];
  refused: Asked[];
  hits: number;
  misses: number;
}

/** Told of one entry. */
export type AtcVisitor = (processId: number, iova: number, target: number, write: boolean) => void;

export class Atc implements AtsDevice {
  hits: number;
  misses: number;
  /** Called when a page request was answered: an access may be tried again. */
  onAnswer: () => void;
  /** Direct-mapped by page: page of the IOVA (-1: none), process_id, first byte that it is translated to. */
  private readonly page: Float64Array;
  private readonly process: Int32Array;
  private readonly target: Float64Array;
  private readonly flags: Uint8Array;
  private asked: Asked[];
  private refused: Asked[];

  constructor() {
    this.hits = 0;
    this.misses = 0;
    this.onAnswer = () => {};
    this.page = new Float64Array(NR_ENTRIES).fill(-1);
    this.process = new Int32Array(NR_ENTRIES);
    this.target = new Float64Array(NR_ENTRIES);
    this.flags = new Uint8Array(NR_ENTRIES);
    this.asked = [];
    this.refused = [];
  }

  /** Where an address is translated to, or -1: ask the IOMMU. */
  lookup(processId: number, iova: number, write: boolean): number {
    const page = Math.floor(iova / PAGE_SIZE);
    const at = page & (NR_ENTRIES - 1);
    const need = write ? ATC_WRITE : ATC_READ;
    if (
      this.page[at] === page &&
      this.process[at] === processId &&
      (this.flags[at]! & need) !== 0
    ) {
      this.hits++;
      return this.target[at]! + (iova - page * PAGE_SIZE);
    }
    this.misses++;
    return -1;
  }

  /** Enters the page of `iova` from what the IOMMU has granted. */
  fill(processId: number, iova: number, granted: Readonly<AtsCompletion>): void {
    const page = Math.floor(iova / PAGE_SIZE);
    const at = page & (NR_ENTRIES - 1);
    this.page[at] = page;
    this.process[at] = processId;
    this.target[at] = granted.translated + (page * PAGE_SIZE - granted.iova);
    this.flags[at] =
      (granted.read ? ATC_READ : 0) |
      (granted.write ? ATC_WRITE : 0) |
      (granted.global ? ATC_GLOBAL : 0);
  }

  invalidate({ processId, iova, lenBytes, global }: AtsInvalidation): boolean {
    for (let at = 0; at < NR_ENTRIES; at++) {
      const first = this.page[at]! * PAGE_SIZE;
      if (first < iova || first >= iova + lenBytes) continue;
      const everybody = global && (this.flags[at]! & ATC_GLOBAL) !== 0;
      if (everybody || this.process[at] === processId) this.page[at] = -1;
    }
    return true;
  }

  /* ---- page requests ---- */

  /**
   * The page has to be asked for.
   * @returns a group for the request; -1: it is under way, or nothing more can be asked now
   */
  ask(processId: number, iova: number, write: boolean): number {
    const page = Math.floor(iova / PAGE_SIZE);
    if (this.asked.some((a) => same(a, processId, page, write))) return -1;
    let group = 0;
    while (this.asked.some((a) => a.group === group)) group++;
    if (group >= NR_GROUPS) return -1;
    this.asked.push({ group, processId, page, write });
    return group;
  }

  /** The request could not be sent. */
  unask(group: number): void {
    this.asked = this.asked.filter((a) => a.group !== group);
  }

  /** The page was refused, since it was last asked for; said once. */
  takeRefused(processId: number, iova: number, write: boolean): boolean {
    const page = Math.floor(iova / PAGE_SIZE);
    const at = this.refused.findIndex((a) => same(a, processId, page, write));
    if (at >= 0) this.refused.splice(at, 1);
    return at >= 0;
  }

  pageGroupResponse(_processId: number, group: number, code: number): void {
    const answered = this.asked.find((a) => a.group === group);
    if (answered === undefined) return;
    this.unask(group);
    if (code !== PRG_SUCCESS) this.refused.push(answered);
    this.onAnswer();
  }

  /** Everything is forgotten: the device was reset. */
  clear(): void {
    this.page.fill(-1);
    this.asked = [];
    this.refused = [];
  }

  visit(visitor: AtcVisitor): void {
    for (let at = 0; at < NR_ENTRIES; at++)
      if (this.page[at]! >= 0)
        visitor(
          this.process[at]!,
          this.page[at]! * PAGE_SIZE,
          this.target[at]!,
          (this.flags[at]! & ATC_WRITE) !== 0,
        );
  }

  save(): AtcState {
    return structuredClone({
      page: this.page,
      process: this.process,
      target: this.target,
      flags: this.flags,
      asked: this.asked,
      refused: this.refused,
      hits: this.hits,
      misses: this.misses,
    });
  }

  restore(state: AtcState): void {
    this.page.set(state.page);
    this.process.set(state.process);
    this.target.set(state.target);
    this.flags.set(state.flags);
    this.asked = structuredClone(state.asked);
    this.refused = structuredClone(state.refused);
    this.hits = state.hits;
    this.misses = state.misses;
  }
}

const same = (a: Asked, processId: number, page: number, write: boolean): boolean =>
  a.page === page && a.processId === processId && a.write === write;
