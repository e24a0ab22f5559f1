/**
 * Everything that an RDMA NIC remembers: its registers, and its tables of protection domains, memory
 * regions, completion queues and queue pairs. Plain data: what a saved machine keeps of the NIC.
 */
import type { Clock, DmaPort } from '#emu';
import type { RdmaRegions } from './regions.ts';
import {
  QPS_RESET,
  RDMA_MAX_RD_ATOMIC,
  RDMA_NR_ARGS,
  RDMA_NR_CQS,
  RDMA_NR_MRS,
  RDMA_NR_PDS,
  RDMA_NR_QPS,
} from './registers.ts';
import type { RdmaLink } from './wire.ts';
import {
  type Completion,
  createRecvWork,
  createSendWork,
  type RecvWork,
  type SendWork,
} from './work.ts';

/** A memory region. */
export interface RdmaMr {
  /** Its number in bits 31..8, and below that how often the number was used. */
  key: number;
  /** Its name at the memory behind the NIC. */
  handle: number;
  pd: number;
  access: number;
  iova: number;
  /** Bus address of the byte at `iova`. */
  address: number;
  lenBytes: number;
  /** Keys reach it. */
  ready: boolean;
}

export const ARM_NONE = 0;
export const ARM_SOLICITED = 1;
export const ARM_ANY = 2;

/** A completion queue. */
export interface RdmaCq {
  cqn: number;
  address: number;
  shift: number;
  /** Completions put in, and taken out as the driver says: counts modulo 2^16. */
  producer: number;
  consumer: number;
  /** ARM_*. */
  armed: number;
  /** It cannot be written, or was full: nothing is reported in it any more. */
  broken: boolean;
}

/** Work requests of a queue that are on their way at a time: a power of two. */
export const MAX_WORKS = 16;

/** A read, an atomic operation or a flush that this end answers; kept to answer it again. */
export interface RdmaAnswer {
  firstPsn: number;
  nrPsn: number;
  /** Packets of the answer that are sent, all with nrPsn; and where they began, when it was asked for again. */
  sent: number;
  sentFrom: number;
  /** OP_* of the request. */
  opcode: number;
  /** Of a read: where from. */
  key: number;
  address: number;
  lenBytes: number;
  /** Of an atomic operation: what was there. */
  oldLo: number;
  oldHi: number;
}

/** A queue pair. */
export interface RdmaQp {
  qpn: number;
  /** QPS_*. */
  state: number;
  pd: number;
  sendCq: number;
  recvCq: number;
  /** Queues: bus address and log2 of entries. */
  sqAddress: number;
  sqShift: number;
  rqAddress: number;
  rqShift: number;

  /* ---- of MODIFY_QP ---- */
  access: number;
  destQpn: number;
  mtuShift: number;
  answersMax: number;
  rnrTimer: number;
  timeout: number;
  retries: number;
  rnrRetries: number;
  readsMax: number;

  /* ---- requester ---- */
  /** Entries of the send queue: posted, read, and over. Counts modulo 2^16. */
  sqPosted: number;
  sqRead: number;
  sqDone: number;
  /** Requests on their way, at their count modulo MAX_WORKS: [workHead, workTail), of which those before `sending` are sent. */
  works: SendWork[];
  workHead: number;
  sending: number;
  workTail: number;
  /** Packets of the request at `sending` that are sent. */
  sentPackets: number;
  /** First packet sequence number of the next request; first that nothing was sent with, answers counted; oldest that is not acknowledged. */
  nextPsn: number;
  sentPsn: number;
  unackedPsn: number;
  retriesLeft: number;
  rnrLeft: number;
  /** Something is being sent again, and nothing has been heard since. */
  retrying: boolean;
  /** An event for the timeout is on the clock. */
  timerSet: boolean;
  /** The other end was not ready: nothing is sent before an event. */
  rnrWait: boolean;

  /* ---- responder ---- */
  expectedPsn: number;
  /** A request was refused, or did not come: everything is dropped until the expected one does. */
  refused: boolean;
  rqPosted: number;
  rqRead: number;
  /** Receive request that is being filled: it is taken, and `recvBytes` have come. */
  recv: RecvWork;
  recvTaken: boolean;
  recvBytes: number;
  /** A message is being received: OP_SEND_FIRST, OP_WRITE_FIRST, or -1. */
  message: number;
  /** Rest of the write that is being received. */
  writeKey: number;
  writeAddress: number;
  writeLeft: number;
  /** All of its bytes. */
  writeBytes: number;
  /** The first answersMax of these are used in turn; the next one to use is the oldest. */
  answers: RdmaAnswer[];
  answerNext: number;
  /** An acknowledgement waits to be sent behind the answers: its syndrome, or -1. */
  ackSyndrome: number;
  ackPsn: number;
  established: boolean;
}

interface RdmaCounters {
  sent: number;
  received: number;
  retries: number;
  notReady: number;
  waits: number;
}

export interface RdmaNicState {
  control: number;
  irqStatus: number;
  events: number[];
  eventsLost: boolean;
  completionsLo: number;
  completionsHi: number;
  args: number[];
  /** In progress, or 0. */
  command: number;
  commandHandle: number;
  commandStatus: number;
  resultLo: number;
  resultHi: number;
  nextHandle: number;
  keyVariant: number;
  pds: boolean[];
  mrs: (RdmaMr | null)[];
  cqs: (RdmaCq | null)[];
  qps: (RdmaQp | null)[];
  counters: RdmaCounters;
}

/** After power-on; a reset keeps what `before` has of names and counts. */
export const createNicState = (before?: RdmaNicState): RdmaNicState => ({
  control: 0,
  irqStatus: 0,
  events: [],
  eventsLost: false,
  completionsLo: 0,
  completionsHi: 0,
  args: new Array<number>(RDMA_NR_ARGS).fill(0),
  command: 0,
  commandHandle: -1,
  commandStatus: 0,
  resultLo: 0,
  resultHi: 0,
  nextHandle: before?.nextHandle ?? 0,
  keyVariant: before?.keyVariant ?? 0,
  pds: new Array<boolean>(RDMA_NR_PDS).fill(false),
  mrs: new Array<RdmaMr | null>(RDMA_NR_MRS).fill(null),
  cqs: new Array<RdmaCq | null>(RDMA_NR_CQS).fill(null),
  qps: new Array<RdmaQp | null>(RDMA_NR_QPS).fill(null),
  counters: before?.counters ?? { sent: 0, received: 0, retries: 0, notReady: 0, waits: 0 },
});

const createAnswer = (): RdmaAnswer => ({
  firstPsn: 0,
  nrPsn: 0,
  sent: 0,
  sentFrom: 0,
  opcode: 0,
  key: 0,
  address: 0,
  lenBytes: 0,
  oldLo: 0,
  oldHi: 0,
});

/** A queue pair in RESET. */
export const createQp = (qpn: number): RdmaQp => ({
  qpn,
  state: QPS_RESET,
  pd: 0,
  sendCq: 0,
  recvCq: 0,
  sqAddress: 0,
  sqShift: 0,
  rqAddress: 0,
  rqShift: 0,
  access: 0,
  destQpn: 0,
  mtuShift: 0,
  answersMax: 0,
  rnrTimer: 0,
  timeout: 0,
  retries: 0,
  rnrRetries: 0,
  readsMax: 0,
  sqPosted: 0,
  sqRead: 0,
  sqDone: 0,
  works: Array.from({ length: MAX_WORKS }, createSendWork),
  workHead: 0,
  sending: 0,
  workTail: 0,
  sentPackets: 0,
  nextPsn: 0,
  sentPsn: 0,
  unackedPsn: 0,
  retriesLeft: 0,
  rnrLeft: 0,
  retrying: false,
  timerSet: false,
  rnrWait: false,
  expectedPsn: 0,
  refused: false,
  rqPosted: 0,
  rqRead: 0,
  recv: createRecvWork(),
  recvTaken: false,
  recvBytes: 0,
  message: -1,
  writeKey: 0,
  writeAddress: 0,
  writeLeft: 0,
  writeBytes: 0,
  answers: Array.from({ length: RDMA_MAX_RD_ATOMIC }, createAnswer),
  answerNext: 0,
  ackSyndrome: -1,
  ackPsn: 0,
  established: false,
});

/** What the parts of the NIC share: its state, its wires, and what any of them may have to say. */
export interface NicContext {
  readonly s: RdmaNicState;
  readonly clock: Clock;
  /** For the clock's events. */
  readonly name: string;
  /** Queues in memory. */
  readonly port: DmaPort;
  /** What memory regions reach. */
  readonly regions: RdmaRegions;
  readonly link: RdmaLink;
  /** Room for one entry of a queue, for the completion that is made, and for 64 bits of memory. */
  readonly scratch: Uint8Array;
  readonly done: Completion;
  readonly old: Uint32Array;
  /** An asynchronous event about an object. */
  raise(type: number, number: number): void;
  /** A completion queue that was armed has a completion. */
  notify(cqn: number): void;
}

/** Events of the clock; the argument is the QP. */
export const EVENT_TIMEOUT = 0;
export const EVENT_RNR = 1;
