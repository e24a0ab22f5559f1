/**
 * In-memory structures of the RDMA NIC: work requests and completions (registers.ts).
 *
 *   send queue entry, 128 bytes                   receive queue entry, 64 bytes
 *    0  u64 wr_id                                  0  u64 wr_id
 *    8  u32 opcode                                 8  u32 number of pieces, 0 .. 3
 *   12  u32 flags: bit 0 signaled,                16  3 pieces
 *           bit 1 solicited, bit 2 fence,
 *           bit 3 inline data                     completion, 32 bytes
 *   16  u32 immediate data                         0  u64 wr_id
 *   20  u32 number of pieces, 0 .. 4;              8  u32 status
 *           or bytes of inline data, 0 .. 64      12  u32 opcode
 *   24  u64 remote address                        16  u32 bytes: of a receive, of what came
 *   32  u32 rkey                                  20  u32 immediate data
 *   36  u32 flush: bit 0 for all to see,          24  u32 QP
 *           bit 1 for power to fail, bit 8 all    28  u32 bit 0 immediate data came,
 *           of the region                             bit 31 phase: 1 in the first pass over the
 *   40  u32 flush: bytes                              queue, 0 in the second, and so on
 *   48  u64 value to compare, or to add
 *   56  u64 value to swap in                      piece, 16 bytes
 *   64  4 pieces, or inline data                   0  u64 address in the region
 *                                                  8  u32 length    12  u32 lkey
 *
 * All little endian; queues are aligned to their entries. An atomic operation stores what was there
 * before into its pieces, which are 8 bytes; an atomic write takes 8 bytes from there. A request that
 * is not signaled has a completion only if it fails. Entries of a queue belong to the NIC from the
 * doorbell to the completion of theirs or of a later one; it reads each once.
 */
import { dmaAddress, dmaWord, putDmaWord } from '../dma-ring.ts';

export const SQ_ENTRY_BYTES = 128;
export const RQ_ENTRY_BYTES = 64;
export const CQ_ENTRY_BYTES = 32;
const SGE_BYTES = 16;
const SQ_MAX_SGE = 4;
const RQ_MAX_SGE = 3;
const MAX_INLINE = 64;
const SQ_DATA = 64;
const RQ_DATA = 16;

/* ---- enum ib_wr_opcode ---- */
export const WR_RDMA_WRITE = 0;
export const WR_RDMA_WRITE_WITH_IMM = 1;
export const WR_SEND = 2;
export const WR_SEND_WITH_IMM = 3;
export const WR_RDMA_READ = 4;
export const WR_ATOMIC_CMP_AND_SWP = 5;
export const WR_ATOMIC_FETCH_AND_ADD = 6;
export const WR_FLUSH = 14;
export const WR_ATOMIC_WRITE = 15;

export const WR_SIGNALED = 1 << 0;
export const WR_SOLICITED = 1 << 1;
export const WR_FENCE = 1 << 2;
export const WR_INLINE = 1 << 3;
const WR_FLAGS = WR_SIGNALED | WR_SOLICITED | WR_FENCE | WR_INLINE;

export const FLUSH_GLOBAL = 1 << 0;
export const FLUSH_PERSISTENT = 1 << 1;
export const FLUSH_WHOLE_REGION = 1 << 8;

/* ---- enum ib_wc_status ---- */
export const WC_SUCCESS = 0;
export const WC_LOC_LEN_ERR = 1;
export const WC_LOC_QP_OP_ERR = 2;
export const WC_LOC_PROT_ERR = 4;
export const WC_WR_FLUSH_ERR = 5;
export const WC_BAD_RESP_ERR = 7;
export const WC_REM_INV_REQ_ERR = 9;
export const WC_REM_ACCESS_ERR = 10;
export const WC_REM_OP_ERR = 11;
export const WC_RETRY_EXC_ERR = 12;
export const WC_RNR_RETRY_EXC_ERR = 13;

/* ---- enum ib_wc_opcode ---- */
export const WC_SEND = 0;
export const WC_RDMA_WRITE = 1;
export const WC_RDMA_READ = 2;
export const WC_COMP_SWAP = 3;
export const WC_FETCH_ADD = 4;
export const WC_FLUSH = 8;
export const WC_ATOMIC_WRITE = 9;
export const WC_RECV = 128;
export const WC_RECV_RDMA_WITH_IMM = 129;

const WC_WITH_IMM = 1 << 0;
const WC_PHASE = 1 << 31;

/** A list of pieces of local memory. Plain data, allocated once. */
export interface Pieces {
  count: number;
  address: number[];
  lenBytes: number[];
  key: number[];
  totalBytes: number;
}

/** A work request of a send queue, and how far it has come. Plain data, allocated once per place. */
export interface SendWork {
  wrIdLo: number;
  wrIdHi: number;
  opcode: number;
  flags: number;
  immediate: number;
  remoteAddress: number;
  rkey: number;
  flush: number;
  operandLo: number;
  operandHi: number;
  swapLo: number;
  swapHi: number;
  pieces: Pieces;
  /** Inline data, where flagged. */
  inline: Uint8Array;
  /** Bytes that go to the other end, or come from there. */
  lenBytes: number;
  /** Packet sequence numbers: the first of the request, and how many it takes. */
  firstPsn: number;
  nrPsn: number;
  /** Packets of the answer that have come. */
  answered: number;
  /** Of its completion; -1: it is not over. */
  status: number;
}

/** A receive request that packets are going into. */
export interface RecvWork {
  wrIdLo: number;
  wrIdHi: number;
  pieces: Pieces;
}

const createPieces = (most: number): Pieces => ({
  count: 0,
  address: new Array<number>(most).fill(0),
  lenBytes: new Array<number>(most).fill(0),
  key: new Array<number>(most).fill(0),
  totalBytes: 0,
});

export const createSendWork = (): SendWork => ({
  wrIdLo: 0,
  wrIdHi: 0,
  opcode: 0,
  flags: 0,
  immediate: 0,
  remoteAddress: 0,
  rkey: 0,
  flush: 0,
  operandLo: 0,
  operandHi: 0,
  swapLo: 0,
  swapHi: 0,
  pieces: createPieces(SQ_MAX_SGE),
  inline: new Uint8Array(MAX_INLINE),
  lenBytes: 0,
  firstPsn: 0,
  nrPsn: 1,
  answered: 0,
  status: -1,
});

export const createRecvWork = (): RecvWork => ({
  wrIdLo: 0,
  wrIdHi: 0,
  pieces: createPieces(RQ_MAX_SGE),
});

const readPieces = (bytes: Uint8Array, at: number, count: number, into: Pieces): void => {
  into.count = count;
  into.totalBytes = 0;
  for (let i = 0; i < count; i++) {
    const piece = at + i * SGE_BYTES;
    into.address[i] = dmaAddress(bytes, piece);
    into.lenBytes[i] = dmaWord(bytes, piece + 8);
    into.key[i] = dmaWord(bytes, piece + 12);
    into.totalBytes += dmaWord(bytes, piece + 8);
  }
};

/**
 * Takes a send queue entry apart; PSNs are left to the caller.
 * @returns false for one that makes no sense: of it there are only wr_id and flags
 */
export const readSendWork = (bytes: Uint8Array, work: SendWork): boolean => {
  work.wrIdLo = dmaWord(bytes, 0);
  work.wrIdHi = dmaWord(bytes, 4);
  work.opcode = dmaWord(bytes, 8);
  work.flags = dmaWord(bytes, 12);
  work.immediate = dmaWord(bytes, 16);
  work.remoteAddress = dmaAddress(bytes, 24);
  work.rkey = dmaWord(bytes, 32);
  work.flush = dmaWord(bytes, 36);
  work.operandLo = dmaWord(bytes, 48);
  work.operandHi = dmaWord(bytes, 52);
  work.swapLo = dmaWord(bytes, 56);
  work.swapHi = dmaWord(bytes, 60);
  work.lenBytes = 0;
  work.answered = 0;
  work.nrPsn = 1;
  work.status = -1;
  const count = dmaWord(bytes, 20);
  const isInline = (work.flags & WR_INLINE) !== 0;
  const fits = count <= (isInline ? MAX_INLINE : SQ_MAX_SGE);
  readPieces(bytes, SQ_DATA, isInline || !fits ? 0 : count, work.pieces);
  if (isInline && fits) work.inline.set(bytes.subarray(SQ_DATA, SQ_DATA + MAX_INLINE));
  work.lenBytes = isInline && fits ? count : work.pieces.totalBytes;
  return fits && (work.flags & ~WR_FLAGS) === 0 && isSendable(work, isInline, dmaWord(bytes, 40));
};

/** Does the opcode allow such a request? Sets the length of a flush. */
const isSendable = (work: SendWork, isInline: boolean, flushBytes: number): boolean => {
  switch (work.opcode) {
    case WR_RDMA_WRITE:
    case WR_RDMA_WRITE_WITH_IMM:
    case WR_SEND:
    case WR_SEND_WITH_IMM:
      return true;
    case WR_RDMA_READ:
      return !isInline;
    case WR_ATOMIC_CMP_AND_SWP:
    case WR_ATOMIC_FETCH_AND_ADD:
      return !isInline && work.lenBytes === 8;
    case WR_ATOMIC_WRITE:
      return work.lenBytes === 8;
    case WR_FLUSH: {
      const none = isInline || work.pieces.count > 0;
      work.lenBytes = flushBytes;
      const known = FLUSH_GLOBAL | FLUSH_PERSISTENT | FLUSH_WHOLE_REGION;
      return !none && (work.flush & ~known) === 0 && (work.flush & ~FLUSH_WHOLE_REGION) !== 0;
    }
    default:
      return false;
  }
};

/** Takes a receive queue entry apart. @returns false for one with too many pieces */
export const readRecvWork = (bytes: Uint8Array, work: RecvWork): boolean => {
  work.wrIdLo = dmaWord(bytes, 0);
  work.wrIdHi = dmaWord(bytes, 4);
  const count = dmaWord(bytes, 8);
  readPieces(bytes, RQ_DATA, count <= RQ_MAX_SGE ? count : 0, work.pieces);
  return count <= RQ_MAX_SGE;
};

/** Is its answer awaited by itself: a read, an atomic operation, a flush? */
export const isReadLike = (work: SendWork): boolean =>
  work.opcode >= WR_RDMA_READ && work.opcode <= WR_ATOMIC_WRITE;

/** Opcode of the completion of a send queue's request. */
export const completionOpcode = (opcode: number): number => {
  switch (opcode) {
    case WR_RDMA_WRITE:
    case WR_RDMA_WRITE_WITH_IMM:
      return WC_RDMA_WRITE;
    case WR_RDMA_READ:
      return WC_RDMA_READ;
    case WR_ATOMIC_CMP_AND_SWP:
      return WC_COMP_SWAP;
    case WR_ATOMIC_FETCH_AND_ADD:
      return WC_FETCH_ADD;
    case WR_FLUSH:
      return WC_FLUSH;
    case WR_ATOMIC_WRITE:
      return WC_ATOMIC_WRITE;
    default:
      return WC_SEND;
  }
};

/** What a completion says. Plain data. */
export interface Completion {
  wrIdLo: number;
  wrIdHi: number;
  status: number;
  opcode: number;
  lenBytes: number;
  immediate: number;
  qpn: number;
  withImm: boolean;
  solicited: boolean;
}

/** Puts a completion into 32 bytes. */
export const writeCompletion = (bytes: Uint8Array, done: Completion, phase: boolean): void => {
  putDmaWord(bytes, 0, done.wrIdLo);
  putDmaWord(bytes, 4, done.wrIdHi);
  putDmaWord(bytes, 8, done.status);
  putDmaWord(bytes, 12, done.opcode);
  putDmaWord(bytes, 16, done.lenBytes);
  putDmaWord(bytes, 20, done.immediate);
  putDmaWord(bytes, 24, done.qpn);
  putDmaWord(bytes, 28, (done.withImm ? WC_WITH_IMM : 0) | (phase ? WC_PHASE : 0));
};
