/**
 * virtio-pmem: memory of the guest that is a file of the host, and a queue for flushes. virtio 1.2, 5.19.
 *
 * Where the memory is says shared memory region 0 (VIRTIO_PMEM_F_SHMEM_REGION), or the configuration
 * space to a driver that does not know of regions. What the guest stores is durable when a flush that
 * was made available after the store is used; that is the backend's to see to.
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { readChain, type VirtioChain, writeChain } from './chain.ts';
import {
  VIRTIO_ID_PMEM,
  type VirtioDevice,
  type VirtioSharedMemory,
  type VirtioTransport,
  virtioFeature,
} from './device.ts';
import { JobList, type JobListState, type VirtioJob } from './jobs.ts';
import { putWord32, word32 } from './ring.ts';

/** The range is told by a shared memory region: a feature, as a bit number. */
const VIRTIO_PMEM_F_SHMEM_REGION = 0;
const VIRTIO_PMEM_REQ_TYPE_FLUSH = 0;
/** What a request returns: done, or not. */
const VIRTIO_PMEM_OK = 0;
const VIRTIO_PMEM_FAILED = 0xffff_ffff;

const QUEUE_SIZE = 64;
const REQ_VQ = 0;
/* struct virtio_pmem_config, struct virtio_pmem_req, struct virtio_pmem_resp */
const CONFIG_START = 0;
const CONFIG_SIZE = 8;
const CONFIG_BYTES = 16;
const REQ_BYTES = 4;
const RESP_BYTES = 4;

/** One flush, from the queue until it is used. Plain data. */
export interface PmemFlush extends VirtioJob {
  ret: number;
}

/** The device, as its backend sees it. */
export interface PmemClient {
  /** Flushes that nobody has begun. */
  readonly nrWaiting: number;
  /** The next one, which is under way from now on; undefined: there is none. */
  nextFlush(): PmemFlush | undefined;
  /** All that had been stored before nextFlush() is durable; or, with false, who knows. */
  complete(flush: PmemFlush, durable: boolean): void;
}

/** Who makes things durable. */
export interface PmemBackend {
  /** The client has flushes that wait. */
  post(client: PmemClient): void;
}

export interface VirtioPmemConfig {
  /** Memory that requests are in, by the driver's addresses. */
  port: DmaPort;
  backend: PmemBackend;
  /** Where the persistent memory is. */
  region: VirtioSharedMemory;
}

/** What a saved machine keeps of the device. */
export interface VirtioPmemState {
  config: Uint8Array;
  jobs: JobListState<PmemFlush>;
  flushes: number;
}

export class VirtioPmem implements VirtioDevice, PmemClient {
  readonly deviceId = VIRTIO_ID_PMEM;
  readonly features = virtioFeature(VIRTIO_PMEM_F_SHMEM_REGION);
  readonly queueSizes = [QUEUE_SIZE];
  readonly config: Uint8Array;
  readonly sharedMemory: readonly VirtioSharedMemory[];
  private readonly port: DmaPort;
  private readonly backend: PmemBackend;
  private readonly jobs: JobList<PmemFlush>;
  private readonly scratch: Uint8Array;
  private transport: VirtioTransport | undefined;
  /** Flushes that succeeded. */
  flushes: number;

  constructor({ port, backend, region }: VirtioPmemConfig) {
    this.port = port;
    this.backend = backend;
    this.sharedMemory = [region];
    this.config = new Uint8Array(CONFIG_BYTES);
    this.jobs = new JobList((flush) => this.answer(flush));
    this.scratch = new Uint8Array(REQ_BYTES);
    this.transport = undefined;
    this.flushes = 0;
    this.tellRange(region);
  }

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  notify(_queue: number): void {
    const queue = this.transport?.queue(REQ_VQ);
    if (queue === undefined || !this.jobs.finishWaiting()) return;
    for (;;) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) break;
      const ret = this.readRequest(chain);
      if (ret === DMA_WAIT) {
        queue.untake(chain);
        break;
      }
      const flush = { queue: REQ_VQ, chain, void: false, ret };
      if (ret === VIRTIO_PMEM_OK) this.jobs.push(flush);
      else this.jobs.finish(flush);
    }
    if (this.jobs.nrWaiting > 0) this.backend.post(this);
  }

  reset(): void {
    this.jobs.drop();
    const [region] = this.sharedMemory;
    if (region !== undefined) this.tellRange(region);
  }

  resetQueue(queue: number): void {
    this.jobs.drop(queue);
  }

  queueBusy(queue: number): boolean {
    return this.jobs.busy(queue);
  }

  featuresChosen(features: bigint): boolean {
    // 5.19.5.1: whoever asks for the region finds nothing here.
    if ((features & this.features) !== 0n) this.tellRange({ gpa: 0, lenBytes: 0 });
    return true;
  }

  get nrWaiting(): number {
    return this.jobs.nrWaiting;
  }

  nextFlush(): PmemFlush | undefined {
    return this.jobs.next();
  }

  complete(flush: PmemFlush, durable: boolean): void {
    flush.ret = durable ? VIRTIO_PMEM_OK : VIRTIO_PMEM_FAILED;
    this.jobs.over(flush);
  }

  /** @throws Error while a flush is under way */
  save(): VirtioPmemState {
    return { config: this.config.slice(), jobs: this.jobs.save(), flushes: this.flushes };
  }

  /** Flushes that had not been begun are posted again. */
  restore(state: VirtioPmemState): void {
    this.config.set(state.config);
    this.jobs.restore(state.jobs);
    this.flushes = state.flushes;
    if (this.jobs.nrWaiting > 0) this.backend.post(this);
  }

  private tellRange({ gpa, lenBytes }: VirtioSharedMemory): void {
    putWord32(this.config, CONFIG_START, gpa);
    putWord32(this.config, CONFIG_START + 4, Math.floor(gpa / 2 ** 32));
    putWord32(this.config, CONFIG_SIZE, lenBytes);
    putWord32(this.config, CONFIG_SIZE + 4, Math.floor(lenBytes / 2 ** 32));
  }

  /** @returns VIRTIO_PMEM_OK for a flush, VIRTIO_PMEM_FAILED for anything else, DMA_WAIT */
  private readRequest(chain: VirtioChain): number {
    if (chain.readableBytes < REQ_BYTES) return VIRTIO_PMEM_FAILED;
    const result = readChain(this.port, chain, 0, this.scratch, 0, REQ_BYTES);
    if (result === DMA_WAIT) return DMA_WAIT;
    const flush = word32(this.scratch, 0) === VIRTIO_PMEM_REQ_TYPE_FLUSH;
    return result === DMA_OK && flush ? VIRTIO_PMEM_OK : VIRTIO_PMEM_FAILED;
  }

  /** Without room for the answer a buffer goes back as it is. @returns false where memory has to be waited for */
  private answer({ chain, ret }: PmemFlush): boolean {
    let result = DMA_OK;
    if (chain.writableBytes >= RESP_BYTES) {
      putWord32(this.scratch, 0, ret);
      result = writeChain(this.port, chain, 0, this.scratch, 0, RESP_BYTES);
      if (result === DMA_WAIT) return false;
    }
    if (ret === VIRTIO_PMEM_OK) this.flushes++;
    const written = chain.writableBytes >= RESP_BYTES && result === DMA_OK ? RESP_BYTES : 0;
    this.transport?.queue(REQ_VQ).put(chain, written);
    return true;
  }
}
