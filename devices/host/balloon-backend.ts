/**
 * The host side of virtio-balloon: memory that the guest has given is given up by the VMM, as
 * ram_block_discard_range() of QEMU does it. Private memory by MADV_DONTNEED, of a shared file its
 * pages by a hole (MADV_REMOVE); what the guest touches again comes back as zeroes.
 *
 * Of huge pages of hugetlbfs only whole ones go. Memory that cannot be given up stays, and its buffer
 * is used all the same: the guest has promised nothing but to leave it alone.
 */
import type { BalloonBackend, BalloonClient, BalloonRange } from '#devices';
import {
  findVma,
  HPAGE_PMD_SIZE,
  type Kernel,
  MADV_DONTNEED,
  MADV_REMOVE,
  type MmStruct,
  madvise,
  type Path,
  type Vma,
} from '#mm';
import { addGuestRuns, type GuestRun } from './guest-runs.ts';

export interface BalloonHostConfig {
  kernel: Kernel;
  /** The VMM process. */
  mm: MmStruct;
  /** The guest's RAM: nothing else is given up, whatever the guest says. */
  ram: readonly BalloonRange[];
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory has changed: the dirty log. */
  onWritten(gpa: number, lenBytes: number): void;
}

/** It keeps nothing that would have to be saved. */
export class BalloonHost implements BalloonBackend {
  private readonly config: BalloonHostConfig;
  private client: BalloonClient | undefined;
  private working: boolean;
  /** What of the job in hand is memory of the guest. */
  private runs: readonly GuestRun[];
  /** Bytes that were given up, and those that could not be. */
  discardedBytes: number;
  keptBytes: number;

  constructor(config: BalloonHostConfig) {
    this.config = config;
    this.client = undefined;
    this.working = false;
    this.runs = [];
    this.discardedBytes = 0;
    this.keptBytes = 0;
  }

  post(client: BalloonClient): void {
    this.client = client;
  }

  /** Jobs that wait; 0 while work() runs. */
  pendingWork(): number {
    return this.working ? 0 : (this.client?.nrWaiting ?? 0);
  }

  /** Gives memory up until no job waits. */
  *work(): Path<void> {
    const { client } = this;
    if (client === undefined) return;
    this.working = true;
    for (let job = client.nextJob(); job !== undefined; job = client.nextJob()) {
      this.runs = this.runsOf(job.ranges);
      for (const run of this.runs) yield* this.discard(run);
      this.markUnderWay();
      this.runs = [];
      client.complete(job);
    }
    this.working = false;
  }

  /** Says what may be changing at this moment, for whoever is about to look at the dirty log. */
  markUnderWay(): void {
    for (const { gpa, lenBytes } of this.runs) this.config.onWritten(gpa, lenBytes);
  }

  /** What of the ranges is RAM of the guest. */
  private runsOf(ranges: readonly BalloonRange[]): GuestRun[] {
    const runs: GuestRun[] = [];
    for (const range of ranges)
      for (const ram of this.config.ram) {
        const from = Math.max(range.gpa, ram.gpa);
        const end = Math.min(range.gpa + range.lenBytes, ram.gpa + ram.lenBytes);
        if (from < end) addGuestRuns(runs, this.config.hvaOf, from, end - from);
      }
    return runs;
  }

  private *discard({ hva, lenBytes }: GuestRun): Path<void> {
    const { kernel, mm } = this.config;
    for (let at = hva, next = 0; at < hva + lenBytes; at = next) {
      const vma = findVma(mm, at);
      if (vma === null || vma.start > at) return;
      next = Math.min(hva + lenBytes, vma.end);
      const unit = isHugetlb(vma) ? HPAGE_PMD_SIZE : 1;
      const from = Math.ceil(at / unit) * unit;
      const to = Math.floor(next / unit) * unit;
      // What a VMM maps of a file it maps shared.
      const advice = vma.mapping === null ? MADV_DONTNEED : MADV_REMOVE;
      const gone = from < to && (yield* madvise(kernel, mm, from, to - from, advice)) === 0;
      if (gone) this.discardedBytes += to - from;
      this.keptBytes += next - at - (gone ? to - from : 0);
    }
  }
}

const isHugetlb = ({ mapping }: Vma): boolean => mapping?.kind === 'hugetlbfs';
