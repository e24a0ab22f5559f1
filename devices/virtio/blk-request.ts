/**
 * Requests of virtio-blk: what a buffer of the driver asks for, and what is wrong with it.
 * virtio 1.2, 5.2.6.
 *
 *   device-readable    le32 type, le32 reserved, le64 sector, then the data of a write,
 *                      or segments of le64 sector, le32 num_sectors, le32 flags
 *   device-writable    the data of a read or of GET_ID, then one byte of status
 */
import { DMA_OK, DMA_WAIT, type DmaPort } from '#emu';
import { readChain, type VirtioChain } from './chain.ts';
import type { VirtioJob } from './jobs.ts';
import { word32 } from './ring.ts';

/** Bytes of a sector, whatever the disk has. */
export const BLK_SECTOR_BYTES = 512;

const VIRTIO_BLK_T_IN = 0;
const VIRTIO_BLK_T_OUT = 1;
const VIRTIO_BLK_T_FLUSH = 4;
const VIRTIO_BLK_T_GET_ID = 8;
const VIRTIO_BLK_T_DISCARD = 11;
const VIRTIO_BLK_T_WRITE_ZEROES = 13;

export const VIRTIO_BLK_S_OK = 0;
export const VIRTIO_BLK_S_IOERR = 1;
const VIRTIO_BLK_S_UNSUPP = 2;

/** Segments of one discard or write-zeroes request, and sectors of one segment, at most. */
export const BLK_RANGES_MAX = 32;
export const BLK_RANGE_SECTORS_MAX = 2 ** 22;

const HEADER_BYTES = 16;
const RANGE_BYTES = 16;
const RANGE_F_UNMAP = 1;

/** Sectors to discard or to zero. */
export interface BlkRange {
  sector: number;
  nrSectors: number;
  /** They may be given up. */
  unmap: boolean;
}

/** A run of the driver's memory, by its address. */
export interface BlkPiece {
  address: number;
  lenBytes: number;
}

export type BlkOp = 'read' | 'write' | 'flush' | 'discard' | 'write-zeroes' | 'get-id';

/** One request, from the queue until it is used. Plain data. */
export interface BlkRequest extends VirtioJob {
  op: BlkOp;
  /** Of a read or write: where it begins, how much it is, and where in memory the bytes are. */
  sector: number;
  lenBytes: number;
  pieces: BlkPiece[];
  /** Of a write: completes when it is durable. */
  durable: boolean;
  /** Of discard and write-zeroes. */
  ranges: BlkRange[];
  /** What the driver will read, once it is known; -1 before. */
  status: number;
}

/** What a disk is, to its requests. */
export interface BlkLimits {
  nrSectors: number;
  readOnly: boolean;
  /** Have VIRTIO_BLK_F_DISCARD and VIRTIO_BLK_F_WRITE_ZEROES been negotiated? */
  discard: boolean;
  writeZeroes: boolean;
}

/** A part of a chain's readable or writable bytes, run by run. */
const piecesOf = (chain: VirtioChain, writable: boolean, from: number, to: number): BlkPiece[] => {
  const pieces: BlkPiece[] = [];
  const first = writable ? chain.nrReadable : 0;
  const end = writable ? chain.nrSegments : chain.nrReadable;
  for (let i = first, at = 0; i < end && at < to; i++) {
    const len = chain.lenBytes[i] ?? 0;
    const skip = Math.max(0, from - at);
    const lenBytes = Math.min(len, to - at) - skip;
    if (lenBytes > 0) pieces.push({ address: (chain.address[i] ?? 0) + skip, lenBytes });
    at += len;
  }
  return pieces;
};

/** The ranges of a discard or write-zeroes. @returns them; a status; DMA_WAIT */
const readRanges = (
  port: DmaPort,
  chain: VirtioChain,
  op: BlkOp,
  nrSectors: number,
): BlkRange[] | number => {
  const lenBytes = chain.readableBytes - HEADER_BYTES;
  const count = lenBytes / RANGE_BYTES;
  if (count < 1 || count > BLK_RANGES_MAX || !Number.isInteger(count)) return VIRTIO_BLK_S_IOERR;
  const bytes = new Uint8Array(lenBytes);
  const result = readChain(port, chain, HEADER_BYTES, bytes, 0, lenBytes);
  if (result === DMA_WAIT) return DMA_WAIT;
  if (result !== DMA_OK) return VIRTIO_BLK_S_IOERR;
  const ranges: BlkRange[] = [];
  for (let at = 0; at < lenBytes; at += RANGE_BYTES) {
    const flags = word32(bytes, at + 12);
    const unmap = (flags & RANGE_F_UNMAP) !== 0;
    if ((flags & ~RANGE_F_UNMAP) !== 0 || (op === 'discard' && unmap)) return VIRTIO_BLK_S_UNSUPP;
    const sector = word32(bytes, at + 4) * 2 ** 32 + word32(bytes, at);
    const nr = word32(bytes, at + 8);
    if (nr > BLK_RANGE_SECTORS_MAX || sector + nr > nrSectors) return VIRTIO_BLK_S_IOERR;
    ranges.push({ sector, nrSectors: nr, unmap });
  }
  return ranges;
};

const OPS = new Map<number, BlkOp>([
  [VIRTIO_BLK_T_IN, 'read'],
  [VIRTIO_BLK_T_OUT, 'write'],
  [VIRTIO_BLK_T_FLUSH, 'flush'],
  [VIRTIO_BLK_T_GET_ID, 'get-id'],
  [VIRTIO_BLK_T_DISCARD, 'discard'],
  [VIRTIO_BLK_T_WRITE_ZEROES, 'write-zeroes'],
]);

const WRITES: readonly BlkOp[] = ['write', 'discard', 'write-zeroes'];

/** Has a chain the bytes that every request has, header and status? */
export const hasFrame = (chain: VirtioChain): boolean =>
  chain.readableBytes >= HEADER_BYTES && chain.writableBytes >= 1;

const scratch = new Uint8Array(HEADER_BYTES);

/**
 * Reads a request from its chain, which has a frame. One that is refused has its status already.
 * @returns the request; DMA_WAIT: its memory is not reachable yet
 */
export const readBlkRequest = (
  port: DmaPort,
  chain: VirtioChain,
  queue: number,
  limits: BlkLimits,
  durable: boolean,
): BlkRequest | typeof DMA_WAIT => {
  const request: BlkRequest = {
    queue,
    chain,
    op: 'flush',
    sector: 0,
    lenBytes: 0,
    pieces: [],
    durable,
    ranges: [],
    status: -1,
    void: false,
  };
  const result = readChain(port, chain, 0, scratch, 0, HEADER_BYTES);
  if (result === DMA_WAIT) return DMA_WAIT;
  if (result !== DMA_OK) {
    request.status = VIRTIO_BLK_S_IOERR;
    return request;
  }
  const op = OPS.get(word32(scratch, 0));
  if (
    op === undefined ||
    (op === 'discard' && !limits.discard) ||
    (op === 'write-zeroes' && !limits.writeZeroes)
  ) {
    request.status = VIRTIO_BLK_S_UNSUPP;
    return request;
  }
  request.op = op;
  // Beyond 2^53 it is not exact, and far behind the end of every disk.
  request.sector = word32(scratch, 12) * 2 ** 32 + word32(scratch, 8);
  if (limits.readOnly && WRITES.includes(op)) request.status = VIRTIO_BLK_S_IOERR;
  else if (op === 'read' || op === 'write') findData(request, limits.nrSectors);
  else if (op === 'discard' || op === 'write-zeroes') {
    const ranges = readRanges(port, chain, op, limits.nrSectors);
    if (ranges === DMA_WAIT) return DMA_WAIT;
    if (typeof ranges === 'number') request.status = ranges;
    else request.ranges = ranges;
  }
  return request;
};

/** Where the data of a read or write is; the status, where it cannot be. */
const findData = (request: BlkRequest, nrSectors: number): void => {
  const { chain, op, sector } = request;
  const read = op === 'read';
  const from = read ? 0 : HEADER_BYTES;
  const to = read ? chain.writableBytes - 1 : chain.readableBytes;
  request.lenBytes = to - from;
  const whole = request.lenBytes % BLK_SECTOR_BYTES === 0;
  if (!whole || sector + request.lenBytes / BLK_SECTOR_BYTES > nrSectors)
    request.status = VIRTIO_BLK_S_IOERR;
  else request.pieces = piecesOf(chain, read, from, to);
};
