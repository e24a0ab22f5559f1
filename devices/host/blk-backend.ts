/**
 * The host side of a virtio disk: a file of the model's file system, read and written with O_DIRECT
 * straight from and to the guest's memory, as a VMM does with cache=none.
 *
 *   nextRequest() ─> gpa to hva ─> read or write with O_DIRECT, fsync(), fallocate() ─> complete()
 *
 * The guest's pages are pinned while the device of the host is at them (the row block-dio of the users
 * of GUP), and nobody holds anything between two requests. A buffer that does not begin and end at
 * multiples of 512 bytes goes through one of the VMM's own. Several workers take requests, so that they
 * may overtake each other.
 */
import {
  BLK_SECTOR_BYTES,
  type BlkBackend,
  type BlkClient,
  type BlkRange,
  type BlkRequest,
  VIRTIO_BLK_S_IOERR,
  VIRTIO_BLK_S_OK,
} from '#devices';
import {
  type AddressSpace,
  copyFromIter,
  copyToIter,
  fileDirectRead,
  fileDirectWrite,
  filePunchHole,
  fileZeroRange,
  ITER_DEST,
  ITER_SOURCE,
  type IovIter,
  iovIterIovec,
  iovIterIsAligned,
  iovIterReexpand,
  iovIterTruncate,
  iovIterUbuf,
  type Kernel,
  type MmStruct,
  type Path,
  vfsFsync,
} from '#mm';
import { addGuestRuns, type GuestRun } from './guest-runs.ts';

/** Bytes of a VMM's own buffer, of which each worker needs one. */
export const BLK_BOUNCE_BYTES = 65_536;
/** Bytes of one system call at most: so many are pinned at once. */
const CALL_BYTES = 2 ** 20;

export interface FileDiskConfig {
  kernel: Kernel;
  /** The VMM process. */
  mm: MmStruct;
  /** The image, of `nrSectors` at least. */
  file: AddressSpace;
  nrSectors: number;
  readOnly: boolean;
  serial: string;
  /** Requests that may be under way at once. */
  nrWorkers: number;
  /** Where the VMM's own buffers are, one behind the other: mapped, private. */
  bounceHva: number;
  /** Host virtual address of a guest physical one, or -1 where the guest has no memory. */
  hvaOf(gpa: number): number;
  /** Guest memory has changed: the dirty log. */
  onWritten(gpa: number, lenBytes: number): void;
}

/** A disk and those who do its requests; it keeps nothing that would have to be saved. */
export class FileDisk implements BlkBackend {
  readonly nrSectors: number;
  readonly readOnly: boolean;
  readonly serial: string;
  /** Each for a scheduler of its own. */
  readonly workers: readonly BlkWorker[];

  constructor(config: FileDiskConfig) {
    this.nrSectors = config.nrSectors;
    this.readOnly = config.readOnly;
    this.serial = config.serial;
    this.workers = Array.from(
      { length: config.nrWorkers },
      (_, i) => new BlkWorker(config, config.bounceHva + i * BLK_BOUNCE_BYTES),
    );
  }

  post(client: BlkClient): void {
    for (const worker of this.workers) worker.client = client;
  }

  /** Says what may be changing at this moment, for whoever is about to look at the dirty log. */
  markUnderWay(): void {
    for (const worker of this.workers) worker.markUnderWay();
  }
}

/** Does requests one after the other. */
export class BlkWorker {
  client: BlkClient | undefined;
  private readonly config: FileDiskConfig;
  private readonly bounceHva: number;
  private working: boolean;
  /** Memory of the guest that is being read into. */
  private reading: readonly GuestRun[];

  constructor(config: FileDiskConfig, bounceHva: number) {
    this.config = config;
    this.bounceHva = bounceHva;
    this.client = undefined;
    this.working = false;
    this.reading = [];
  }

  markUnderWay(): void {
    for (const { gpa, lenBytes } of this.reading) this.config.onWritten(gpa, lenBytes);
  }

  /** Requests that wait; 0 while this worker is at one. */
  pendingWork(): number {
    return this.working ? 0 : (this.client?.nrWaiting ?? 0);
  }

  /** Does requests until none waits. */
  *work(): Path<void> {
    const { client } = this;
    if (client === undefined) return;
    this.working = true;
    for (;;) {
      const request = client.nextRequest();
      if (request === undefined) break;
      const done = yield* this.perform(request);
      client.complete(request, done ? VIRTIO_BLK_S_OK : VIRTIO_BLK_S_IOERR);
    }
    this.working = false;
  }

  /** @returns false for an error of the file, or memory that the guest does not have */
  private *perform(request: BlkRequest): Path<boolean> {
    const { kernel, file } = this.config;
    switch (request.op) {
      case 'read':
        return yield* this.read(request);
      case 'write':
        if (!(yield* this.write(request))) return false;
        return !request.durable || (yield* vfsFsync(kernel, file)) === 0;
      case 'flush':
        return (yield* vfsFsync(kernel, file)) === 0;
      case 'discard':
      case 'write-zeroes':
        if (!(yield* this.clear(request.ranges, request.op === 'discard'))) return false;
        return !request.durable || (yield* vfsFsync(kernel, file)) === 0;
      default:
        throw new Error(`virtio-blk: a ${request.op} is no request of the disk`);
    }
  }

  private *read(request: BlkRequest): Path<boolean> {
    const runs = this.runsOf(request);
    if (runs === null) return false;
    this.reading = runs;
    const it = iovIterIovec(ITER_DEST, runs);
    const offset = request.sector * BLK_SECTOR_BYTES;
    const done = iovIterIsAligned(it, BLK_SECTOR_BYTES)
      ? yield* this.direct(offset, it)
      : yield* this.readBounced(offset, it);
    // Also after an error: a part of it may have been read.
    this.markUnderWay();
    this.reading = [];
    return done;
  }

  private *write(request: BlkRequest): Path<boolean> {
    const runs = this.runsOf(request);
    if (runs === null) return false;
    const it = iovIterIovec(ITER_SOURCE, runs);
    const offset = request.sector * BLK_SECTOR_BYTES;
    return iovIterIsAligned(it, BLK_SECTOR_BYTES)
      ? yield* this.direct(offset, it)
      : yield* this.writeBounced(offset, it);
  }

  /** Where a request's data is, null where some of it is in no memory of the guest. */
  private runsOf({ pieces, lenBytes }: BlkRequest): GuestRun[] | null {
    const runs: GuestRun[] = [];
    for (const piece of pieces)
      addGuestRuns(runs, this.config.hvaOf, piece.address, piece.lenBytes);
    return sumOf(runs) === lenBytes ? runs : null;
  }

  /** All of the iterator, from `offset` of the file on. @returns false where not all was moved */
  private *direct(offset: number, it: IovIter): Path<boolean> {
    const { kernel, mm, file } = this.config;
    const move = it.direction === ITER_DEST ? fileDirectRead : fileDirectWrite;
    for (let at = offset; it.count > 0; ) {
      const rest = it.count;
      const wanted = Math.min(rest, CALL_BYTES);
      iovIterTruncate(it, wanted);
      const n = yield* move(kernel, mm, file, at, it);
      iovIterReexpand(it, rest - Math.max(0, n));
      if (n !== wanted) return false;
      at += n;
    }
    return true;
  }

  private *readBounced(offset: number, it: IovIter): Path<boolean> {
    const { kernel, mm } = this.config;
    const bytes = new Uint8Array(BLK_BOUNCE_BYTES);
    for (let at = offset; it.count > 0; ) {
      const part = bytes.subarray(0, Math.min(it.count, BLK_BOUNCE_BYTES));
      const into = iovIterUbuf(ITER_DEST, this.bounceHva, part.length);
      if (!(yield* this.direct(at, into))) return false;
      const own = iovIterUbuf(ITER_SOURCE, this.bounceHva, part.length);
      if ((yield* copyFromIter(kernel, mm, own, part)) !== part.length) return false;
      if ((yield* copyToIter(kernel, mm, it, part)) !== part.length) return false;
      at += part.length;
    }
    return true;
  }

  private *writeBounced(offset: number, it: IovIter): Path<boolean> {
    const { kernel, mm } = this.config;
    const bytes = new Uint8Array(BLK_BOUNCE_BYTES);
    for (let at = offset; it.count > 0; ) {
      const part = bytes.subarray(0, Math.min(it.count, BLK_BOUNCE_BYTES));
      if ((yield* copyFromIter(kernel, mm, it, part)) !== part.length) return false;
      const own = iovIterUbuf(ITER_DEST, this.bounceHva, part.length);
      if ((yield* copyToIter(kernel, mm, own, part)) !== part.length) return false;
      const from = iovIterUbuf(ITER_SOURCE, this.bounceHva, part.length);
      if (!(yield* this.direct(at, from))) return false;
      at += part.length;
    }
    return true;
  }

  /** Zeroes ranges: as holes where that is allowed, or with their blocks. */
  private *clear(ranges: readonly BlkRange[], discard: boolean): Path<boolean> {
    const { kernel, file } = this.config;
    for (const { sector, nrSectors, unmap } of ranges) {
      if (nrSectors === 0) continue;
      const start = sector * BLK_SECTOR_BYTES;
      const end = start + nrSectors * BLK_SECTOR_BYTES;
      const fallocate = discard || unmap ? filePunchHole : fileZeroRange;
      if ((yield* fallocate(kernel, file, start, end)) !== 0) return false;
    }
    return true;
  }
}

const sumOf = (runs: readonly GuestRun[]): number => {
  let sum = 0;
  for (const { lenBytes } of runs) sum += lenBytes;
  return sum;
};
