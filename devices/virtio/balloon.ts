/**
 * virtio-balloon: memory that the guest lends to the host. virtio 1.2, 5.5; without free page hinting,
 * which is for live migration.
 *
 *   host wants num_pages ──> driver takes pages of its own away, tells their numbers on inflateq
 *                            backend gives their memory up, the buffer is used
 *   deflateq                 the driver wants them back: they read as zeroes
 *   reporting_vq             free pages, as buffers: given up likewise, and not asked for again
 *   statsq                   the device keeps the driver's buffer, and uses it when it wants news
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { readChain, type VirtioChain } from './chain.ts';
import {
  VIRTIO_ID_BALLOON,
  type VirtioDevice,
  type VirtioTransport,
  virtioFeature,
} from './device.ts';
import { JobList, type JobListState, type VirtioJob } from './jobs.ts';
import type { Virtqueue } from './queue.ts';
import { putWord32, word16, word32 } from './ring.ts';

/* ---- features, as bit numbers (5.5.3) ---- */
const VIRTIO_BALLOON_F_MUST_TELL_HOST = 0;
const VIRTIO_BALLOON_F_STATS_VQ = 1;
const VIRTIO_BALLOON_F_DEFLATE_ON_OOM = 2;
const VIRTIO_BALLOON_F_PAGE_POISON = 4;
const VIRTIO_BALLOON_F_PAGE_REPORTING = 5;

/* ---- struct virtio_balloon_config (5.5.4) ---- */
const BALLOON_CONFIG_NUM_PAGES = 0;
const BALLOON_CONFIG_ACTUAL = 4;
const BALLOON_CONFIG_POISON_VAL = 12;
const CONFIG_BYTES = 16;

/** Unit of num_pages, actual and page numbers, whatever the guest's pages have. */
export const BALLOON_PAGE_BYTES = 4096;

const BALLOON_INFLATEQ = 0;
const BALLOON_DEFLATEQ = 1;
const BALLOON_STATSQ = 2;
/**
 * The number of reporting_vq is 4. Drivers that leave out queues of features which are not offered, as
 * Linux does, have it at 3, free_page_vq's: that one is not there otherwise, so both are served.
 */
const BALLOON_REPORTING_VQ = 4;
const REPORTING_VQ_COMPACT = 3;
const QUEUE_SIZE = 128;

/** Names of statistics, by tag (5.5.6.4). */
export const BALLOON_STATS = [
  'swapIn',
  'swapOut',
  'majorFaults',
  'minorFaults',
  'free',
  'total',
  'available',
  'caches',
  'hugetlbAllocations',
  'hugetlbFailures',
] as const;
const STAT_BYTES = 10;
/** Of one buffer: more than there are tags. */
const STATS_MAX = 64;

/** Guest memory, by the driver's addresses; whole pages. */
export interface BalloonRange {
  gpa: number;
  lenBytes: number;
}

/** Pages whose memory is to be given up before their buffer is used. Plain data. */
export interface BalloonJob extends VirtioJob {
  ranges: BalloonRange[];
}

/** The balloon, as its backend sees it. */
export interface BalloonClient {
  /** Jobs that nobody has begun. */
  readonly nrWaiting: number;
  /** The next one, which is under way from now on; undefined: there is none. */
  nextJob(): BalloonJob | undefined;
  /** Nothing of it is touched any more. */
  complete(job: BalloonJob): void;
}

/** Who gives memory up. */
export interface BalloonBackend {
  /** The client has jobs that wait. */
  post(client: BalloonClient): void;
}

export interface VirtioBalloonConfig {
  /** Memory that requests are in, by the driver's addresses. */
  port: DmaPort;
  backend: BalloonBackend;
  /** Pages that the guest has: one buffer names no more of them. */
  guestPages: number;
}

/** What a saved machine keeps of the device. */
export interface VirtioBalloonState {
  config: Uint8Array;
  jobs: JobListState<BalloonJob>;
  statsChain: VirtioChain | null;
  statsWanted: boolean;
  stats: number[];
  inflated: number;
  deflated: number;
  reported: number;
}

export class VirtioBalloon implements VirtioDevice, BalloonClient {
  readonly deviceId = VIRTIO_ID_BALLOON;
  readonly features = [
    VIRTIO_BALLOON_F_MUST_TELL_HOST,
    VIRTIO_BALLOON_F_STATS_VQ,
    VIRTIO_BALLOON_F_DEFLATE_ON_OOM,
    VIRTIO_BALLOON_F_PAGE_POISON,
    VIRTIO_BALLOON_F_PAGE_REPORTING,
  ].reduce((mask, bit) => mask | virtioFeature(bit), 0n);
  readonly queueSizes = [QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE, QUEUE_SIZE];
  readonly config: Uint8Array;
  private readonly wires: VirtioBalloonConfig;
  private readonly jobs: JobList<BalloonJob>;
  private transport: VirtioTransport | undefined;
  /** The buffer for statistics, while the device has it. */
  private statsChain: VirtioChain | null;
  /** News were asked for when the device had no buffer to use. */
  private statsWanted: boolean;
  /** By tag, -1 = never told. */
  readonly stats: number[];
  /** Pages so far: given to the balloon, taken back, reported as free. */
  inflated: number;
  deflated: number;
  reported: number;

  constructor(wires: VirtioBalloonConfig) {
    this.wires = wires;
    this.config = new Uint8Array(CONFIG_BYTES);
    this.jobs = new JobList((job) => this.answer(job));
    this.transport = undefined;
    this.statsChain = null;
    this.statsWanted = false;
    this.stats = BALLOON_STATS.map(() => -1);
    this.inflated = 0;
    this.deflated = 0;
    this.reported = 0;
  }

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  /* ---- for the host ---- */

  /** Pages that the host wants. */
  get target(): number {
    return word32(this.config, BALLOON_CONFIG_NUM_PAGES);
  }

  /** Pages that the driver says it has given. */
  get actual(): number {
    return word32(this.config, BALLOON_CONFIG_ACTUAL);
  }

  setTarget(nrPages: number): void {
    putWord32(this.config, BALLOON_CONFIG_NUM_PAGES, nrPages);
    this.transport?.configChanged();
  }

  /** Asks the driver for new statistics. */
  askForStats(): void {
    if (this.statsChain === null) {
      this.statsWanted = true;
      return;
    }
    this.transport?.queue(BALLOON_STATSQ).put(this.statsChain, 0);
    this.statsChain = null;
    this.statsWanted = false;
  }

  get nrWaiting(): number {
    return this.jobs.nrWaiting;
  }

  nextJob(): BalloonJob | undefined {
    return this.jobs.next();
  }

  complete(job: BalloonJob): void {
    this.jobs.over(job);
  }

  /* ---- for the transport ---- */

  notify(index: number): void {
    const queue = this.transport?.queue(index);
    if (queue === undefined) return;
    for (;;) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) break;
      if (!this.take(queue, index, chain)) {
        queue.untake(chain);
        break;
      }
    }
    if (this.jobs.nrWaiting > 0) this.wires.backend.post(this);
  }

  reset(): void {
    this.jobs.drop();
    this.statsChain = null;
    this.statsWanted = false;
    putWord32(this.config, BALLOON_CONFIG_ACTUAL, 0);
    putWord32(this.config, BALLOON_CONFIG_POISON_VAL, 0);
  }

  resetQueue(queue: number): void {
    this.jobs.drop(queue);
    if (queue === BALLOON_STATSQ) this.statsChain = null;
  }

  queueBusy(queue: number): boolean {
    return this.jobs.busy(queue);
  }

  configWritten(offset: number, sizeBytes: number, value: number): void {
    for (let i = 0; i < sizeBytes; i++) {
      const at = offset + i;
      const actual = at >= BALLOON_CONFIG_ACTUAL && at < BALLOON_CONFIG_ACTUAL + 4;
      const poison = at >= BALLOON_CONFIG_POISON_VAL && at < BALLOON_CONFIG_POISON_VAL + 4;
      if (actual || poison) this.config[at] = value >>> (8 * i);
    }
  }

  /** @throws Error while a job is under way */
  save(): VirtioBalloonState {
    return {
      config: this.config.slice(),
      jobs: this.jobs.save(),
      statsChain: this.statsChain === null ? null : structuredClone(this.statsChain),
      statsWanted: this.statsWanted,
      stats: [...this.stats],
      inflated: this.inflated,
      deflated: this.deflated,
      reported: this.reported,
    };
  }

  /** Jobs that had not been begun are posted again. */
  restore(state: VirtioBalloonState): void {
    this.config.set(state.config);
    this.jobs.restore(state.jobs);
    this.statsChain = state.statsChain;
    this.statsWanted = state.statsWanted;
    this.stats.splice(0, this.stats.length, ...state.stats);
    this.inflated = state.inflated;
    this.deflated = state.deflated;
    this.reported = state.reported;
    if (this.jobs.nrWaiting > 0) this.wires.backend.post(this);
  }

  /** One buffer. @returns false where its memory has to be waited for */
  private take(queue: Virtqueue, index: number, chain: VirtioChain): boolean {
    switch (index) {
      case BALLOON_INFLATEQ:
      case BALLOON_DEFLATEQ:
        return this.takeNumbers(queue, index, chain);
      case BALLOON_STATSQ:
        return this.takeStats(queue, chain);
      case BALLOON_REPORTING_VQ:
      case REPORTING_VQ_COMPACT:
        this.takeReport(queue, index, chain);
        return true;
      default:
        return true;
    }
  }

  private takeNumbers(queue: Virtqueue, index: number, chain: VirtioChain): boolean {
    const nr = Math.min(Math.floor(chain.readableBytes / 4), this.wires.guestPages);
    const bytes = new Uint8Array(nr * 4);
    const result = readChain(this.wires.port, chain, 0, bytes, 0, bytes.length);
    if (result === DMA_WAIT) return false;
    const ranges = result === DMA_OK ? rangesOf(bytes) : [];
    const nrPages = ranges.reduce((sum, { lenBytes }) => sum + lenBytes / BALLOON_PAGE_BYTES, 0);
    if (index === BALLOON_INFLATEQ) {
      this.inflated += nrPages;
      this.jobs.push({ queue: index, chain, void: false, ranges });
      return true;
    }
    // What comes back is as it was left: zeroes, from the next touch on.
    this.deflated += nrPages;
    queue.put(chain, 0);
    return true;
  }

  private takeReport(queue: Virtqueue, index: number, chain: VirtioChain): void {
    const ranges: BalloonRange[] = [];
    for (let i = chain.nrReadable; i < chain.nrSegments; i++) {
      const start = chain.address[i] ?? 0;
      const first = Math.ceil(start / BALLOON_PAGE_BYTES);
      const end = Math.floor((start + (chain.lenBytes[i] ?? 0)) / BALLOON_PAGE_BYTES);
      if (end <= first) continue;
      const lenBytes = (end - first) * BALLOON_PAGE_BYTES;
      ranges.push({ gpa: first * BALLOON_PAGE_BYTES, lenBytes });
      this.reported += end - first;
    }
    // 5.5.6.7.2: given up they would be zeroes, and the driver counts on another value.
    if (this.keepsPoison()) queue.put(chain, 0);
    else this.jobs.push({ queue: index, chain, void: false, ranges });
  }

  private keepsPoison(): boolean {
    const poisoned = this.transport?.hasFeature(VIRTIO_BALLOON_F_PAGE_POISON) ?? false;
    return poisoned && word32(this.config, BALLOON_CONFIG_POISON_VAL) !== 0;
  }

  private takeStats(queue: Virtqueue, chain: VirtioChain): boolean {
    const lenBytes = Math.min(chain.readableBytes, STATS_MAX * STAT_BYTES);
    const bytes = new Uint8Array(lenBytes);
    const result = readChain(this.wires.port, chain, 0, bytes, 0, lenBytes);
    if (result === DMA_WAIT) return false;
    for (let at = 0; result === DMA_OK && at + STAT_BYTES <= lenBytes; at += STAT_BYTES) {
      const tag = word16(bytes, at);
      if (tag >= this.stats.length) continue;
      this.stats[tag] = word32(bytes, at + 6) * 2 ** 32 + word32(bytes, at + 2);
    }
    // One buffer is all that a driver may have here; of two the older goes back.
    if (this.statsChain !== null) queue.put(this.statsChain, 0);
    this.statsChain = chain;
    if (this.statsWanted) this.askForStats();
    return true;
  }

  private answer({ queue, chain }: BalloonJob): boolean {
    this.transport?.queue(queue).put(chain, 0);
    return true;
  }
}

/** Runs of pages, from page numbers; drivers tend to take them in order, up or down. */
const rangesOf = (bytes: Uint8Array): BalloonRange[] => {
  const ranges: BalloonRange[] = [];
  let last: BalloonRange | undefined;
  for (let at = 0; at < bytes.length; at += 4) {
    const gpa = word32(bytes, at) * BALLOON_PAGE_BYTES;
    if (last !== undefined && gpa === last.gpa + last.lenBytes) last.lenBytes += BALLOON_PAGE_BYTES;
    else if (last !== undefined && gpa === last.gpa - BALLOON_PAGE_BYTES) {
      last.gpa = gpa;
      last.lenBytes += BALLOON_PAGE_BYTES;
    } else {
      last = { gpa, lenBytes: BALLOON_PAGE_BYTES };
      ranges.push(last);
    }
  }
  return ranges;
};
