/**
 * The receiving half of a queue pair: what it does with the requests of the other end. InfiniBand
 * Architecture 1.7, 9.7; compare drivers/infiniband/sw/rxe/rxe_resp.c.
 *
 * Requests are executed in the order of their sequence numbers. One that comes too early is refused, and
 * everything behind it dropped until the missing one comes; one that has come before is answered again
 * and not done again, though a read reads again. A send, or a write with immediate
 * data, without a receive request is refused with the time after which it may be tried again. A request
 * that makes no sense, or that a key does not allow, is refused for good, and the queue pair stops.
 * Where memory has to be waited for, the packet is left on the wire: it comes again as if for the first
 * time.
 */
import { DMA_FAULT, DMA_OK, DMA_WAIT } from '#emu';
import { counted, mrFor, mrOf, movePieces } from './access.ts';
import {
  OP_ACK,
  OP_ATOMIC_ACK,
  OP_ATOMIC_WRITE,
  OP_COMPARE_SWAP,
  OP_FETCH_ADD,
  OP_FLUSH,
  OP_READ_REQUEST,
  OP_READ_RESPONSE_FIRST,
  OP_READ_RESPONSE_LAST,
  OP_READ_RESPONSE_MIDDLE,
  OP_READ_RESPONSE_ONLY,
  OP_SEND_FIRST,
  OP_WRITE_FIRST,
  OP_WRITE_ONLY_IMM,
  psnAdd,
  psnDiff,
  type RdmaPacket,
  SYNDROME_ACK,
  SYNDROME_NAK_ACCESS,
  SYNDROME_NAK_INVALID,
  SYNDROME_NAK_OPERATION,
  SYNDROME_NAK_SEQUENCE,
  SYNDROME_RNR,
  startPacket,
} from './packet.ts';
import { completeRecv, enterError, takeRecv } from './queues.ts';
import {
  QPS_ERR,
  QPS_RTR,
  RDMA_ACCESS_FLUSH_GLOBAL,
  RDMA_ACCESS_FLUSH_PERSISTENT,
  RDMA_ACCESS_LOCAL_WRITE,
  RDMA_ACCESS_REMOTE_ATOMIC,
  RDMA_ACCESS_REMOTE_READ,
  RDMA_ACCESS_REMOTE_WRITE,
  RDMA_EVENT_COMM_EST,
  RDMA_EVENT_QP_ACCESS_ERR,
  RDMA_EVENT_QP_REQ_ERR,
  RDMA_MAX_MESSAGE,
} from './registers.ts';
import type { NicContext, RdmaAnswer, RdmaQp } from './state.ts';
import {
  FLUSH_GLOBAL,
  FLUSH_PERSISTENT,
  FLUSH_WHOLE_REGION,
  WC_LOC_LEN_ERR,
  WC_LOC_PROT_ERR,
  WC_LOC_QP_OP_ERR,
  WC_RECV,
  WC_RECV_RDMA_WITH_IMM,
  WC_SUCCESS,
} from './work.ts';

/** What became of a packet: it is done with; or it has to come again. */
const TAKEN = true;
const AGAIN = false;

/** A request has come. @returns false: not now, it has to come again */
export const receiveRequest = (
  nic: NicContext,
  qp: RdmaQp,
  packet: Readonly<RdmaPacket>,
): boolean => {
  if (qp.state === QPS_RTR && !qp.established) {
    qp.established = true;
    nic.raise(RDMA_EVENT_COMM_EST, qp.qpn);
  }
  const ahead = psnDiff(packet.psn, qp.expectedPsn);
  if (ahead < 0) return repeat(qp, packet);
  if (ahead > 0) {
    if (!qp.refused) refuse(qp, SYNDROME_NAK_SEQUENCE);
    return TAKEN;
  }
  qp.refused = false;
  if (packet.opcode <= OP_WRITE_ONLY_IMM) return receiveMessage(nic, qp, packet);
  // Only a message can be in the middle of itself.
  if (qp.message >= 0) return stop(nic, qp, SYNDROME_NAK_INVALID);
  switch (packet.opcode) {
    case OP_READ_REQUEST:
      return receiveRead(nic, qp, packet);
    case OP_COMPARE_SWAP:
    case OP_FETCH_ADD:
      return receiveAtomic(nic, qp, packet);
    case OP_ATOMIC_WRITE:
      return receiveAtomicWrite(nic, qp, packet);
    case OP_FLUSH:
      return receiveFlush(nic, qp, packet);
    default:
      return stop(nic, qp, SYNDROME_NAK_INVALID);
  }
};

/* ---- sends and writes ---- */

interface MessagePart {
  first: boolean;
  last: boolean;
  immediate: boolean;
}

/** By opcode, counted from FIRST on, which is the same for sends and writes. */
const PARTS: readonly MessagePart[] = [
  { first: true, last: false, immediate: false },
  { first: false, last: false, immediate: false },
  { first: false, last: true, immediate: false },
  { first: false, last: true, immediate: true },
  { first: true, last: true, immediate: false },
  { first: true, last: true, immediate: true },
];

/** A packet of a send or a write, in sequence. */
const receiveMessage = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  const kind = packet.opcode < OP_WRITE_FIRST ? OP_SEND_FIRST : OP_WRITE_FIRST;
  const part = PARTS[packet.opcode - kind];
  const inOrder = part !== undefined && (part.first ? qp.message < 0 : qp.message === kind);
  if (part === undefined || !inOrder || !isWholeUnlessLast(qp, packet, part))
    return stop(nic, qp, SYNDROME_NAK_INVALID);
  if (kind === OP_SEND_FIRST || part.immediate) {
    const ready = haveRecv(nic, qp);
    if (ready !== DMA_OK) return ready === DMA_WAIT ? AGAIN : TAKEN;
  }
  const done =
    kind === OP_SEND_FIRST ? storeSend(nic, qp, packet, part) : storeWrite(nic, qp, packet, part);
  if (done !== DMA_OK) return done === DMA_WAIT ? AGAIN : TAKEN;
  qp.message = part.last ? -1 : kind;
  accept(qp, packet, 1);
  return TAKEN;
};

/** All packets but the last are as long as the MTU says. */
const isWholeUnlessLast = (
  qp: RdmaQp,
  { payloadBytes }: Readonly<RdmaPacket>,
  { first, last }: MessagePart,
): boolean => {
  const mtu = 1 << qp.mtuShift;
  if (!last) return payloadBytes === mtu;
  return payloadBytes <= mtu && (first || payloadBytes > 0);
};

/** Is a receive request taken? @returns DMA_OK; DMA_WAIT; DMA_FAULT: no, and the packet is done with */
const haveRecv = (nic: NicContext, qp: RdmaQp): number => {
  if (!qp.recvTaken) {
    if (qp.rqRead === qp.rqPosted) {
      refuse(qp, SYNDROME_RNR | qp.rnrTimer);
      return DMA_FAULT;
    }
    const result = takeRecv(nic, qp);
    if (result === DMA_WAIT) return result;
    if (result !== DMA_OK) {
      stop(nic, qp, SYNDROME_NAK_OPERATION);
      return DMA_FAULT;
    }
  }
  if (qp.recv.pieces.count >= 0) return DMA_OK;
  return failRecv(nic, qp, WC_LOC_QP_OP_ERR, SYNDROME_NAK_OPERATION);
};

/** @returns DMA_OK; DMA_WAIT; DMA_FAULT: it was refused */
const storeSend = (
  nic: NicContext,
  qp: RdmaQp,
  packet: Readonly<RdmaPacket>,
  part: MessagePart,
): number => {
  const { payload, payloadBytes } = packet;
  const { pieces } = qp.recv;
  const total = qp.recvBytes + payloadBytes;
  if (total > pieces.totalBytes || total > RDMA_MAX_MESSAGE)
    return failRecv(nic, qp, WC_LOC_LEN_ERR, SYNDROME_NAK_INVALID);
  const rights = RDMA_ACCESS_LOCAL_WRITE;
  const at = qp.recvBytes;
  const result = movePieces(nic, qp.pd, pieces, at, payload, payloadBytes, rights, true);
  if (result === DMA_WAIT) return result;
  if (result !== DMA_OK) return failRecv(nic, qp, WC_LOC_PROT_ERR, SYNDROME_NAK_OPERATION);
  if (part.last) {
    const immediate = part.immediate ? packet.immediate : undefined;
    if (!completeRecv(nic, qp, WC_SUCCESS, WC_RECV, total, immediate, packet.solicited))
      return DMA_WAIT;
    qp.recvTaken = false;
  }
  qp.recvBytes = total;
  return DMA_OK;
};

/** @returns DMA_OK; DMA_WAIT; DMA_FAULT: it was refused */
const storeWrite = (
  nic: NicContext,
  qp: RdmaQp,
  packet: Readonly<RdmaPacket>,
  part: MessagePart,
): number => {
  if (part.first) {
    qp.writeKey = packet.rkey;
    qp.writeAddress = packet.address;
    qp.writeLeft = packet.lenBytes;
    qp.writeBytes = packet.lenBytes;
  }
  const { payload, payloadBytes } = packet;
  const fits = part.last ? payloadBytes === qp.writeLeft : payloadBytes < qp.writeLeft;
  if (!fits || (part.first && packet.lenBytes > RDMA_MAX_MESSAGE)) {
    stop(nic, qp, SYNDROME_NAK_INVALID);
    return DMA_FAULT;
  }
  // Nothing is written by a write of nothing: no key is looked at.
  if (qp.writeLeft > 0) {
    const right = RDMA_ACCESS_REMOTE_WRITE;
    const mr = mrFor(nic, qp.writeKey, qp.pd, qp.writeAddress, qp.writeLeft, right);
    if (mr === undefined || (qp.access & right) === 0) {
      stop(nic, qp, SYNDROME_NAK_ACCESS);
      return DMA_FAULT;
    }
    const at = mr.address + (qp.writeAddress - mr.iova);
    const result = counted(nic, nic.regions.write(mr.handle, at, payload, 0, payloadBytes));
    if (result === DMA_WAIT) return result;
    if (result !== DMA_OK) {
      stop(nic, qp, SYNDROME_NAK_OPERATION);
      return DMA_FAULT;
    }
  }
  if (part.immediate) {
    const op = WC_RECV_RDMA_WITH_IMM;
    const { writeBytes } = qp;
    if (!completeRecv(nic, qp, WC_SUCCESS, op, writeBytes, packet.immediate, packet.solicited))
      return DMA_WAIT;
    qp.recvTaken = false;
  }
  qp.writeAddress += payloadBytes;
  qp.writeLeft -= payloadBytes;
  return DMA_OK;
};

/* ---- reads, atomics, flushes ---- */

/** Room to remember an answer, or undefined: the other end has more on their way than was agreed. */
const freeAnswer = (qp: RdmaQp): RdmaAnswer | undefined => {
  if (qp.answersMax === 0) return undefined;
  const answer = qp.answers[qp.answerNext % qp.answersMax];
  return answer !== undefined && answer.sent === answer.nrPsn ? answer : undefined;
};

/** The request is done, and will be answered behind those before it. */
const remember = (qp: RdmaQp, answer: RdmaAnswer, packet: Readonly<RdmaPacket>): boolean => {
  answer.firstPsn = packet.psn;
  answer.nrPsn = 1;
  answer.sent = 0;
  answer.sentFrom = 0;
  answer.opcode = packet.opcode;
  qp.answerNext = (qp.answerNext + 1) % qp.answersMax;
  // An acknowledgement that waits says nothing that the answer does not.
  qp.ackSyndrome = -1;
  return TAKEN;
};

const receiveRead = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  const { address, rkey, lenBytes } = packet;
  const answer = freeAnswer(qp);
  if (answer === undefined || lenBytes > RDMA_MAX_MESSAGE)
    return stop(nic, qp, SYNDROME_NAK_INVALID);
  const right = RDMA_ACCESS_REMOTE_READ;
  const allowed =
    (qp.access & right) !== 0 && mrFor(nic, rkey, qp.pd, address, lenBytes, right) !== undefined;
  if (lenBytes > 0 && !allowed) return stop(nic, qp, SYNDROME_NAK_ACCESS);
  remember(qp, answer, packet);
  answer.key = rkey;
  answer.address = address;
  answer.lenBytes = lenBytes;
  answer.nrPsn = Math.max(1, Math.ceil(lenBytes / (1 << qp.mtuShift)));
  accept(qp, packet, answer.nrPsn);
  return TAKEN;
};

const receiveAtomic = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  const { address, rkey, operandLo, operandHi, swapLo, swapHi } = packet;
  const answer = freeAnswer(qp);
  if (answer === undefined || address % 8 !== 0) return stop(nic, qp, SYNDROME_NAK_INVALID);
  const right = RDMA_ACCESS_REMOTE_ATOMIC;
  const mr = mrFor(nic, rkey, qp.pd, address, 8, right);
  if (mr === undefined || (qp.access & right) === 0) return stop(nic, qp, SYNDROME_NAK_ACCESS);
  const at = mr.address + (address - mr.iova);
  const { regions, old } = nic;
  const result =
    packet.opcode === OP_FETCH_ADD
      ? regions.fetchAdd64(mr.handle, at, operandLo, operandHi, old)
      : regions.compareSwap64(mr.handle, at, operandLo, operandHi, swapLo, swapHi, old);
  if (counted(nic, result) === DMA_WAIT) return AGAIN;
  if (result !== DMA_OK) return stop(nic, qp, SYNDROME_NAK_OPERATION);
  remember(qp, answer, packet);
  answer.oldLo = old[0]!;
  answer.oldHi = old[1]!;
  accept(qp, packet, 1);
  return TAKEN;
};

const receiveAtomicWrite = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  const { address, rkey, payload, payloadBytes } = packet;
  const answer = freeAnswer(qp);
  if (answer === undefined || payloadBytes !== 8 || address % 8 !== 0)
    return stop(nic, qp, SYNDROME_NAK_INVALID);
  const right = RDMA_ACCESS_REMOTE_WRITE;
  const mr = mrFor(nic, rkey, qp.pd, address, 8, right);
  if (mr === undefined || (qp.access & right) === 0) return stop(nic, qp, SYNDROME_NAK_ACCESS);
  const at = mr.address + (address - mr.iova);
  const result = counted(nic, nic.regions.write(mr.handle, at, payload, 0, 8));
  if (result === DMA_WAIT) return AGAIN;
  if (result !== DMA_OK) return stop(nic, qp, SYNDROME_NAK_OPERATION);
  remember(qp, answer, packet);
  accept(qp, packet, 1);
  return TAKEN;
};

const receiveFlush = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  const { rkey, flush } = packet;
  const answer = freeAnswer(qp);
  if (answer === undefined) return stop(nic, qp, SYNDROME_NAK_INVALID);
  const rights =
    ((flush & FLUSH_GLOBAL) !== 0 ? RDMA_ACCESS_FLUSH_GLOBAL : 0) |
    ((flush & FLUSH_PERSISTENT) !== 0 ? RDMA_ACCESS_FLUSH_PERSISTENT : 0);
  const whole = (flush & FLUSH_WHOLE_REGION) !== 0 ? mrOf(nic, rkey) : undefined;
  const address = whole?.iova ?? packet.address;
  const lenBytes = whole?.lenBytes ?? packet.lenBytes;
  const mr = mrFor(nic, rkey, qp.pd, address, lenBytes, rights);
  if (mr === undefined || (qp.access & rights) !== rights)
    return stop(nic, qp, SYNDROME_NAK_ACCESS);
  const at = mr.address + (address - mr.iova);
  const persistent = (flush & FLUSH_PERSISTENT) !== 0;
  const result = counted(nic, nic.regions.flush(mr.handle, at, lenBytes, persistent));
  if (result === DMA_WAIT) return AGAIN;
  if (result !== DMA_OK) return stop(nic, qp, SYNDROME_NAK_OPERATION);
  remember(qp, answer, packet);
  accept(qp, packet, 1);
  return TAKEN;
};

/* ---- acknowledgements ---- */

/** In sequence, and done: the next one may come. */
const accept = (qp: RdmaQp, packet: Readonly<RdmaPacket>, nrPsn: number): void => {
  qp.expectedPsn = psnAdd(packet.psn, nrPsn);
  const isMessage = packet.opcode <= OP_WRITE_ONLY_IMM;
  // The completion of what it brought may have shown that the queue pair is broken.
  if (isMessage && packet.ackRequest && qp.state !== QPS_ERR) acknowledgeAll(qp);
};

const acknowledgeAll = (qp: RdmaQp): void => {
  qp.ackSyndrome = SYNDROME_ACK;
  qp.ackPsn = psnAdd(qp.expectedPsn, -1);
};

/** The expected request cannot be taken now. */
const refuse = (qp: RdmaQp, syndrome: number): void => {
  qp.refused = true;
  qp.ackSyndrome = syndrome;
  qp.ackPsn = qp.expectedPsn;
};

/** The expected request cannot be taken ever. */
const stop = (nic: NicContext, qp: RdmaQp, syndrome: number): boolean => {
  if (syndrome === SYNDROME_NAK_ACCESS) nic.raise(RDMA_EVENT_QP_ACCESS_ERR, qp.qpn);
  if (syndrome === SYNDROME_NAK_INVALID) nic.raise(RDMA_EVENT_QP_REQ_ERR, qp.qpn);
  enterError(nic, qp);
  refuse(qp, syndrome);
  return TAKEN;
};

/** As stop(), for the message that the taken receive request is for. @returns DMA_FAULT; DMA_WAIT: it cannot be reported yet */
const failRecv = (nic: NicContext, qp: RdmaQp, status: number, syndrome: number): number => {
  if (!completeRecv(nic, qp, status, WC_RECV, qp.recvBytes, undefined, false)) return DMA_WAIT;
  qp.recvTaken = false;
  stop(nic, qp, syndrome);
  return DMA_FAULT;
};

/** A request that was done before: the other end has not heard of it. */
const repeat = (qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  if (packet.opcode <= OP_WRITE_ONLY_IMM) {
    if (packet.ackRequest && qp.ackSyndrome < 0) acknowledgeAll(qp);
    return TAKEN;
  }
  for (let i = 0; i < qp.answersMax; i++) {
    const answer = qp.answers[i];
    if (answer === undefined || answer.nrPsn === 0 || answer.opcode !== packet.opcode) continue;
    const into = psnDiff(packet.psn, answer.firstPsn);
    if (into < 0 || into >= answer.nrPsn) continue;
    answer.sent = into;
    answer.sentFrom = into;
  }
  return TAKEN;
};

/**
 * Sends the answers that are due, in the order of the requests, and behind them the acknowledgement. In
 * the error state: if there is a refusal at their end.
 */
export const answer = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.state === QPS_ERR && qp.ackSyndrome < 0) return;
  for (let i = 0; i < qp.answersMax; i++) {
    const due = qp.answers[(qp.answerNext + i) % qp.answersMax];
    while (due !== undefined && due.sent < due.nrPsn) {
      const result = sendAnswer(nic, qp, due);
      if (result === DMA_WAIT) return;
      if (result !== DMA_OK) {
        // What could be read when it was asked for cannot any more.
        const psn = psnAdd(due.firstPsn, due.sent);
        for (const other of qp.answers) other.sent = other.nrPsn;
        stop(nic, qp, SYNDROME_NAK_OPERATION);
        qp.ackPsn = psn;
      }
    }
  }
  sendAck(nic, qp);
};

/** One packet of an answer. @returns DMA_OK; DMA_WAIT: not now; DMA_FAULT: its bytes cannot be read */
const sendAnswer = (nic: NicContext, qp: RdmaQp, due: RdmaAnswer): number => {
  const packet = nic.link.claim();
  if (packet === undefined) return DMA_WAIT;
  startPacket(packet, answerOpcode(due), qp.destQpn, psnAdd(due.firstPsn, due.sent));
  packet.syndrome = SYNDROME_ACK;
  packet.operandLo = due.oldLo;
  packet.operandHi = due.oldHi;
  if (due.opcode === OP_READ_REQUEST && due.lenBytes > 0) {
    const mtu = 1 << qp.mtuShift;
    const address = due.address + due.sent * mtu;
    const lenBytes = Math.min(mtu, due.lenBytes - due.sent * mtu);
    const right = RDMA_ACCESS_REMOTE_READ;
    const mr = mrFor(nic, due.key, qp.pd, address, lenBytes, right);
    if (mr === undefined) return DMA_FAULT;
    const at = mr.address + (address - mr.iova);
    const result = nic.regions.read(mr.handle, at, packet.payload, 0, lenBytes);
    if (result !== DMA_OK) return counted(nic, result);
    packet.payloadBytes = lenBytes;
  }
  nic.link.push();
  nic.s.counters.sent++;
  due.sent++;
  return DMA_OK;
};

const answerOpcode = ({ opcode, sent, sentFrom, nrPsn }: RdmaAnswer): number => {
  if (opcode === OP_COMPARE_SWAP || opcode === OP_FETCH_ADD) return OP_ATOMIC_ACK;
  if (sent === nrPsn - 1) return sent === sentFrom ? OP_READ_RESPONSE_ONLY : OP_READ_RESPONSE_LAST;
  return sent === sentFrom ? OP_READ_RESPONSE_FIRST : OP_READ_RESPONSE_MIDDLE;
};

const sendAck = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.ackSyndrome < 0) return;
  const packet = nic.link.claim();
  if (packet === undefined) return;
  startPacket(packet, OP_ACK, qp.destQpn, qp.ackPsn);
  packet.syndrome = qp.ackSyndrome;
  qp.ackSyndrome = -1;
  nic.link.push();
  nic.s.counters.sent++;
};
