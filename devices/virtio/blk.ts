/**
 * virtio-blk: a disk whose bytes a backend moves. virtio 1.2, 5.2; without secure erase, lifetime and
 * the obsolete geometry.
 *
 *   driver -> queue -> request ──nextRequest()──> backend: moves the bytes, at once or later
 *                      status  <────complete()──
 *
 * The model reads headers and writes the status; data goes between the driver's memory and the disk by
 * the backend alone. What is refused (a sector behind the end, a write to a disk that may only be read)
 * never gets there. Requests are done in any order. A buffer without room for header and status goes
 * back as it is.
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import {
  BLK_RANGE_SECTORS_MAX,
  BLK_RANGES_MAX,
  type BlkRequest,
  hasFrame,
  readBlkRequest,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
} from './blk-request.ts';
import { writeChain } from './chain.ts';
import {
  VIRTIO_ID_BLOCK,
  type VirtioDevice,
  type VirtioTransport,
  virtioFeature,
} from './device.ts';
import { JobList, type JobListState } from './jobs.ts';
import { putWord16, putWord32 } from './ring.ts';

/* ---- features, as bit numbers (5.2.3) ---- */
const VIRTIO_BLK_F_SEG_MAX = 2;
const VIRTIO_BLK_F_RO = 5;
const VIRTIO_BLK_F_BLK_SIZE = 6;
const VIRTIO_BLK_F_FLUSH = 9;
const VIRTIO_BLK_F_TOPOLOGY = 10;
const VIRTIO_BLK_F_CONFIG_WCE = 11;
const VIRTIO_BLK_F_MQ = 12;
const VIRTIO_BLK_F_DISCARD = 13;
const VIRTIO_BLK_F_WRITE_ZEROES = 14;

/* ---- struct virtio_blk_config (5.2.4) ---- */
const BLK_CONFIG_CAPACITY = 0;
const BLK_CONFIG_SEG_MAX = 12;
const BLK_CONFIG_BLK_SIZE = 20;
const BLK_CONFIG_PHYSICAL_BLOCK_EXP = 24;
const BLK_CONFIG_WRITEBACK = 32;
const BLK_CONFIG_NUM_QUEUES = 34;
const BLK_CONFIG_MAX_DISCARD_SECTORS = 36;
const BLK_CONFIG_MAX_DISCARD_SEG = 40;
const BLK_CONFIG_DISCARD_ALIGNMENT = 44;
const BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS = 48;
const BLK_CONFIG_MAX_WRITE_ZEROES_SEG = 52;
const BLK_CONFIG_MAY_UNMAP = 56;
const CONFIG_BYTES = 60;

const QUEUE_SIZE = 256;
const LOGICAL_BLOCK_BYTES = 512;
/** Blocks of the host's file systems have 4096 bytes: 2^3 logical ones. */
const PHYSICAL_BLOCK_EXP = 3;
const DISCARD_ALIGNMENT_SECTORS = 8;
/** Segments of data in one request: with header and status they fill a queue. */
const SEG_MAX = QUEUE_SIZE - 2;
/** Bytes of a device's name (5.2.6). */
const ID_BYTES = 20;

/** A disk, as its backend sees it. */
export interface BlkClient {
  /** Requests that nobody has begun. */
  readonly nrWaiting: number;
  /** The one to be done next, which is under way from now on; undefined: there is none. */
  nextRequest(): BlkRequest | undefined;
  /** A request that was under way is over. @param status one of VIRTIO_BLK_S_* */
  complete(request: BlkRequest, status: number): void;
}

/** What is behind a disk. */
export interface BlkBackend {
  /** Size in units of 512 bytes. */
  readonly nrSectors: number;
  /** Nothing may be written. */
  readonly readOnly: boolean;
  /** The disk's name: ASCII, 20 bytes at most. */
  readonly serial: string;
  /** The client has requests that wait: to be done at once, or later. */
  post(client: BlkClient): void;
}

export interface VirtioBlkConfig {
  /** Memory that headers and status are in, by the driver's addresses. */
  port: DmaPort;
  backend: BlkBackend;
  /** Default 1. */
  nrQueues?: number;
}

/** What a saved machine keeps of a disk. */
export interface VirtioBlkState {
  config: Uint8Array;
  writeback: boolean;
  jobs: JobListState<BlkRequest>;
  requests: number;
  errors: number;
}

export class VirtioBlk implements VirtioDevice, BlkClient {
  readonly deviceId = VIRTIO_ID_BLOCK;
  readonly features: bigint;
  readonly queueSizes: readonly number[];
  readonly config: Uint8Array;
  private readonly port: DmaPort;
  private readonly backend: BlkBackend;
  private transport: VirtioTransport | undefined;
  /** FLUSH or CONFIG_WCE was negotiated: the driver says when what it wrote has to be durable. */
  private writeback: boolean;
  private readonly jobs: JobList<BlkRequest>;
  /** Requests that were used, and those of them that failed. */
  requests: number;
  errors: number;

  constructor({ port, backend, nrQueues = 1 }: VirtioBlkConfig) {
    this.port = port;
    this.backend = backend;
    this.queueSizes = new Array<number>(nrQueues).fill(QUEUE_SIZE);
    this.features = [
      VIRTIO_BLK_F_SEG_MAX,
      VIRTIO_BLK_F_BLK_SIZE,
      VIRTIO_BLK_F_FLUSH,
      VIRTIO_BLK_F_TOPOLOGY,
      VIRTIO_BLK_F_CONFIG_WCE,
      ...(nrQueues > 1 ? [VIRTIO_BLK_F_MQ] : []),
      ...(backend.readOnly ? [VIRTIO_BLK_F_RO] : [VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_WRITE_ZEROES]),
    ].reduce((mask, bit) => mask | virtioFeature(bit), 0n);
    this.config = configOf(backend, nrQueues);
    this.transport = undefined;
    this.writeback = true;
    this.jobs = new JobList((request) => this.answer(request));
    this.requests = 0;
    this.errors = 0;
  }

  connect(transport: VirtioTransport): void {
    this.transport = transport;
  }

  /* ---- for the transport ---- */

  notify(index: number): void {
    const queue = this.transport?.queue(index);
    if (queue === undefined || !this.jobs.finishWaiting()) return;
    for (;;) {
      const chain = queue.take();
      if (chain === undefined || chain === DMA_WAIT) break;
      if (!hasFrame(chain)) {
        queue.put(chain, 0);
        continue;
      }
      const request = readBlkRequest(this.port, chain, index, this.limits(), !this.writeback);
      if (request === DMA_WAIT) {
        queue.untake(chain);
        break;
      }
      if (request.status >= 0 || request.op === 'get-id') this.jobs.finish(request);
      else this.jobs.push(request);
    }
    if (this.jobs.nrWaiting > 0) this.backend.post(this);
  }

  reset(): void {
    this.jobs.drop();
    this.writeback = true;
    this.config[BLK_CONFIG_WRITEBACK] = 1;
  }

  resetQueue(queue: number): void {
    this.jobs.drop(queue);
  }

  queueBusy(queue: number): boolean {
    return this.jobs.busy(queue);
  }

  featuresChosen(features: bigint): boolean {
    const flush = (features & virtioFeature(VIRTIO_BLK_F_FLUSH)) !== 0n;
    // 5.2.5.2: without FLUSH nobody could ask, so the mode begins as write-through.
    this.config[BLK_CONFIG_WRITEBACK] = flush ? 1 : 0;
    this.writeback = flush;
    return true;
  }

  configWritten(offset: number, sizeBytes: number, value: number): void {
    if (offset !== BLK_CONFIG_WRITEBACK || sizeBytes !== 1) return;
    if (this.transport?.hasFeature(VIRTIO_BLK_F_CONFIG_WCE) !== true) return;
    this.writeback = (value & 0xff) !== 0;
    this.config[BLK_CONFIG_WRITEBACK] = this.writeback ? 1 : 0;
  }

  /* ---- for the backend ---- */

  get nrWaiting(): number {
    return this.jobs.nrWaiting;
  }

  nextRequest(): BlkRequest | undefined {
    return this.jobs.next();
  }

  complete(request: BlkRequest, status: number): void {
    request.status = status;
    this.jobs.over(request);
  }

  /** @throws Error while a request is under way */
  save(): VirtioBlkState {
    return {
      config: this.config.slice(),
      writeback: this.writeback,
      jobs: this.jobs.save(),
      requests: this.requests,
      errors: this.errors,
    };
  }

  /** Requests that had not been begun are posted again. */
  restore(state: VirtioBlkState): void {
    this.config.set(state.config);
    this.writeback = state.writeback;
    this.jobs.restore(state.jobs);
    this.requests = state.requests;
    this.errors = state.errors;
    if (this.jobs.nrWaiting > 0) this.backend.post(this);
  }

  private limits(): Parameters<typeof readBlkRequest>[3] {
    const { nrSectors, readOnly } = this.backend;
    const has = (bit: number): boolean => this.transport?.hasFeature(bit) ?? false;
    return {
      nrSectors,
      readOnly,
      discard: has(VIRTIO_BLK_F_DISCARD),
      writeZeroes: has(VIRTIO_BLK_F_WRITE_ZEROES),
    };
  }

  /** The disk's name into the data of a request. @returns false where memory has to be waited for */
  private writeId(request: BlkRequest): boolean {
    const { chain } = request;
    const id = new Uint8Array(ID_BYTES);
    const { serial } = this.backend;
    for (let i = 0; i < Math.min(ID_BYTES, serial.length); i++) id[i] = serial.charCodeAt(i);
    request.lenBytes = Math.min(ID_BYTES, chain.writableBytes - 1);
    const result = writeChain(this.port, chain, 0, id, 0, request.lenBytes);
    if (result === DMA_WAIT) return false;
    request.status = result === DMA_OK ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR;
    return true;
  }

  /** Writes the status and gives the buffer back. @returns false where memory has to be waited for */
  private answer(request: BlkRequest): boolean {
    if (request.status < 0 && !this.writeId(request)) return false;
    const { queue, chain, op, status, lenBytes } = request;
    const last = chain.writableBytes - 1;
    const result = writeChain(this.port, chain, last, Uint8Array.of(status), 0, 1);
    if (result === DMA_WAIT) return false;
    this.requests++;
    if (status !== VIRTIO_BLK_S_OK) this.errors++;
    // Bytes written from the beginning on: how many of the data a failed read has, nobody knows.
    const filled = (op === 'read' || op === 'get-id') && status === VIRTIO_BLK_S_OK ? lenBytes : 0;
    this.transport
      ?.queue(queue)
      .put(chain, filled === last && result === DMA_OK ? last + 1 : filled);
    return true;
  }
}

const configOf = (backend: BlkBackend, nrQueues: number): Uint8Array => {
  const config = new Uint8Array(CONFIG_BYTES);
  putWord32(config, BLK_CONFIG_CAPACITY, backend.nrSectors);
  putWord32(config, BLK_CONFIG_CAPACITY + 4, Math.floor(backend.nrSectors / 2 ** 32));
  putWord32(config, BLK_CONFIG_SEG_MAX, SEG_MAX);
  putWord32(config, BLK_CONFIG_BLK_SIZE, LOGICAL_BLOCK_BYTES);
  config[BLK_CONFIG_PHYSICAL_BLOCK_EXP] = PHYSICAL_BLOCK_EXP;
  config[BLK_CONFIG_WRITEBACK] = 1;
  putWord16(config, BLK_CONFIG_NUM_QUEUES, nrQueues);
  if (backend.readOnly) return config;
  putWord32(config, BLK_CONFIG_MAX_DISCARD_SECTORS, BLK_RANGE_SECTORS_MAX);
  putWord32(config, BLK_CONFIG_MAX_DISCARD_SEG, BLK_RANGES_MAX);
  putWord32(config, BLK_CONFIG_DISCARD_ALIGNMENT, DISCARD_ALIGNMENT_SECTORS);
  putWord32(config, BLK_CONFIG_MAX_WRITE_ZEROES_SECTORS, BLK_RANGE_SECTORS_MAX);
  putWord32(config, BLK_CONFIG_MAX_WRITE_ZEROES_SEG, BLK_RANGES_MAX);
  config[BLK_CONFIG_MAY_UNMAP] = 1;
  return config;
};
