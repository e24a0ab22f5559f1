/**
 * The sending half of a queue pair: requests leave in the order of the queue, packet by packet, and are
 * over when the other end has acknowledged or answered them. InfiniBand Architecture 1.7, 9.7.
 *
 * At most WINDOW packets are on their way without an acknowledgement, and at most as many reads, atomics
 * and flushes as was agreed. What is lost, refused for now, or not acknowledged in time, is sent again from
 * there on. A request that fails, here or there, is reported behind all that went before it, and the
 * queue pair stops.
 */
import { DMA_OK, DMA_WAIT } from '#emu';
import { movePieces } from './access.ts';
import {
  OP_ATOMIC_ACK,
  OP_ATOMIC_WRITE,
  OP_ACK,
  OP_COMPARE_SWAP,
  OP_FETCH_ADD,
  OP_FLUSH,
  OP_READ_REQUEST,
  OP_READ_RESPONSE_LAST,
  OP_READ_RESPONSE_ONLY,
  OP_SEND_FIRST,
  OP_SEND_LAST,
  OP_SEND_LAST_IMM,
  OP_SEND_MIDDLE,
  OP_SEND_ONLY,
  OP_SEND_ONLY_IMM,
  OP_WRITE_FIRST,
  psnAdd,
  psnDiff,
  type RdmaPacket,
  SYNDROME_NAK_ACCESS,
  SYNDROME_NAK_OPERATION,
  SYNDROME_NAK_SEQUENCE,
  SYNDROME_RNR,
  startPacket,
} from './packet.ts';
import { fetchSend } from './queues.ts';
import {
  ackTimeout,
  QPS_RTS,
  RDMA_ACCESS_LOCAL_WRITE,
  RDMA_MAX_MESSAGE,
  rnrTimeout,
} from './registers.ts';
import { EVENT_RNR, EVENT_TIMEOUT, MAX_WORKS, type NicContext, type RdmaQp } from './state.ts';
import {
  isReadLike,
  type SendWork,
  WC_BAD_RESP_ERR,
  WC_LOC_LEN_ERR,
  WC_LOC_QP_OP_ERR,
  WC_LOC_PROT_ERR,
  WC_REM_ACCESS_ERR,
  WC_REM_INV_REQ_ERR,
  WC_REM_OP_ERR,
  WC_RETRY_EXC_ERR,
  WC_RNR_RETRY_EXC_ERR,
  WC_SUCCESS,
  WR_ATOMIC_CMP_AND_SWP,
  WR_ATOMIC_FETCH_AND_ADD,
  WR_ATOMIC_WRITE,
  WR_FENCE,
  WR_FLUSH,
  WR_INLINE,
  WR_RDMA_READ,
  WR_RDMA_WRITE,
  WR_RDMA_WRITE_WITH_IMM,
  WR_SEND_WITH_IMM,
  WR_SOLICITED,
} from './work.ts';

const COUNT_MASK = 0xffff;
/** Packets without an acknowledgement. */
const WINDOW = 32;
/** Within a message, every so many packets ask for one. */
const ACK_EVERY = 8;
/** Any number of RNR retries. */
const FOR_EVER = 7;

const workAt = (qp: RdmaQp, n: number): SendWork => {
  const work = qp.works[n % MAX_WORKS];
  if (work === undefined) throw new Error(`rdma: QP ${qp.qpn} has no request ${n}`);
  return work;
};

const next = (n: number): number => (n + 1) & COUNT_MASK;

/** Reads, atomics and flushes before `n` whose answer is not complete. */
const answersAwaited = (qp: RdmaQp, n: number): number => {
  let count = 0;
  for (let i = qp.workHead; i !== n; i = next(i)) {
    const work = workAt(qp, i);
    if (isReadLike(work) && work.status < 0) count++;
  }
  return count;
};

/** Sends what can be sent. */
export const send = (nic: NicContext, qp: RdmaQp): void => {
  while (qp.state === QPS_RTS && !qp.rnrWait) {
    if (qp.sending === qp.workTail && !takeWork(nic, qp)) return;
    const work = workAt(qp, qp.sending);
    // It failed: nothing behind it is sent, and it is reported when its turn comes.
    if (work.status > WC_SUCCESS) return;
    const psn = psnAdd(work.firstPsn, isReadLike(work) ? work.answered : qp.sentPackets);
    if (qp.sentPackets === 0 && !mayStart(qp, work)) return;
    if (psnDiff(psn, qp.unackedPsn) >= WINDOW) return;
    if (!sendPacket(nic, qp, work, psn)) return;
    setTimer(nic, qp);
  }
};

const mayStart = (qp: RdmaQp, work: SendWork): boolean => {
  const awaited = answersAwaited(qp, qp.sending);
  if ((work.flags & WR_FENCE) !== 0 && awaited > 0) return false;
  return !isReadLike(work) || awaited < qp.readsMax;
};

/** Takes the next request from the queue. @returns false where there is none, or not now */
const takeWork = (nic: NicContext, qp: RdmaQp): boolean => {
  const full = ((qp.workTail - qp.workHead) & COUNT_MASK) === MAX_WORKS;
  if (full || qp.sqRead === qp.sqPosted) return false;
  const work = workAt(qp, qp.workTail);
  if (fetchSend(nic, qp, work) !== DMA_OK) return false;
  if (work.status < 0) {
    if (work.lenBytes > RDMA_MAX_MESSAGE && work.opcode !== WR_FLUSH) work.status = WC_LOC_LEN_ERR;
    else if (isReadLike(work) && qp.readsMax === 0) work.status = WC_LOC_QP_OP_ERR;
    else if (work.opcode !== WR_FLUSH)
      work.nrPsn = Math.max(1, Math.ceil(work.lenBytes / (1 << qp.mtuShift)));
  }
  work.firstPsn = qp.nextPsn;
  qp.nextPsn = psnAdd(qp.nextPsn, work.nrPsn);
  qp.sqRead = next(qp.sqRead);
  qp.workTail = next(qp.workTail);
  qp.sentPackets = 0;
  return true;
};

/** Sends one packet of the request, and moves on. @returns false where it cannot be sent now, or never */
const sendPacket = (nic: NicContext, qp: RdmaQp, work: SendWork, psn: number): boolean => {
  const packet = nic.link.claim();
  if (packet === undefined) return false;
  const result = isReadLike(work)
    ? fillRequest(nic, qp, work, psn, packet)
    : fillMessage(nic, qp, work, psn, packet);
  if (result === DMA_WAIT) return false;
  if (result !== DMA_OK) {
    work.status = WC_LOC_PROT_ERR;
    return false;
  }
  nic.link.push();
  nic.s.counters.sent++;
  // The packets of a read's answer count as sent with the request.
  qp.sentPackets = isReadLike(work) ? work.nrPsn : qp.sentPackets + 1;
  if (qp.sentPackets === work.nrPsn) {
    qp.sending = next(qp.sending);
    qp.sentPackets = 0;
  }
  const sent = isReadLike(work) ? psnAdd(work.firstPsn, work.nrPsn) : psnAdd(psn, 1);
  if (psnDiff(sent, qp.sentPsn) > 0) qp.sentPsn = sent;
  return true;
};

/** A packet of a send or a write. @returns DMA_OK, DMA_WAIT, DMA_FAULT */
const fillMessage = (
  nic: NicContext,
  qp: RdmaQp,
  work: SendWork,
  psn: number,
  packet: RdmaPacket,
): number => {
  const mtu = 1 << qp.mtuShift;
  const from = qp.sentPackets * mtu;
  const lenBytes = Math.min(mtu, work.lenBytes - from);
  const first = qp.sentPackets === 0;
  const last = qp.sentPackets === work.nrPsn - 1;
  startPacket(packet, messageOpcode(work.opcode, first, last), qp.destQpn, psn);
  packet.ackRequest = last || qp.sentPackets % ACK_EVERY === ACK_EVERY - 1;
  packet.solicited = last && (work.flags & WR_SOLICITED) !== 0;
  packet.immediate = work.immediate;
  packet.address = work.remoteAddress;
  packet.rkey = work.rkey;
  packet.lenBytes = work.lenBytes;
  packet.payloadBytes = lenBytes;
  return gather(nic, qp, work, from, packet);
};

/** The payload, from inline data or from memory. */
const gather = (
  nic: NicContext,
  qp: RdmaQp,
  work: SendWork,
  from: number,
  packet: RdmaPacket,
): number => {
  const { payload, payloadBytes } = packet;
  if ((work.flags & WR_INLINE) !== 0) {
    payload.set(work.inline.subarray(from, from + payloadBytes));
    return DMA_OK;
  }
  return movePieces(nic, qp.pd, work.pieces, from, payload, payloadBytes, 0, false);
};

const messageOpcode = (opcode: number, first: boolean, last: boolean): number => {
  const isWrite = opcode === WR_RDMA_WRITE || opcode === WR_RDMA_WRITE_WITH_IMM;
  const withImm = opcode === WR_RDMA_WRITE_WITH_IMM || opcode === WR_SEND_WITH_IMM;
  const base = isWrite ? OP_WRITE_FIRST : OP_SEND_FIRST;
  if (!last) return base + (first ? OP_SEND_FIRST : OP_SEND_MIDDLE);
  if (first) return base + (withImm ? OP_SEND_ONLY_IMM : OP_SEND_ONLY);
  return base + (withImm ? OP_SEND_LAST_IMM : OP_SEND_LAST);
};

/** The request of a read, an atomic operation or a flush; of a read, of what has not come yet. */
const fillRequest = (
  nic: NicContext,
  qp: RdmaQp,
  work: SendWork,
  psn: number,
  packet: RdmaPacket,
): number => {
  const have = work.answered * (1 << qp.mtuShift);
  startPacket(packet, requestOpcode(work.opcode), qp.destQpn, psn);
  packet.ackRequest = true;
  packet.address = work.remoteAddress + have;
  packet.rkey = work.rkey;
  packet.lenBytes = work.lenBytes - have;
  packet.flush = work.flush;
  packet.operandLo = work.operandLo;
  packet.operandHi = work.operandHi;
  packet.swapLo = work.swapLo;
  packet.swapHi = work.swapHi;
  if (work.opcode !== WR_ATOMIC_WRITE) return DMA_OK;
  packet.payloadBytes = work.lenBytes;
  return gather(nic, qp, work, 0, packet);
};

const requestOpcode = (opcode: number): number => {
  switch (opcode) {
    case WR_RDMA_READ:
      return OP_READ_REQUEST;
    case WR_ATOMIC_CMP_AND_SWP:
      return OP_COMPARE_SWAP;
    case WR_ATOMIC_FETCH_AND_ADD:
      return OP_FETCH_ADD;
    case WR_ATOMIC_WRITE:
      return OP_ATOMIC_WRITE;
    default:
      return OP_FLUSH;
  }
};

/* ---- answers ---- */

/**
 * An acknowledgement or an answer has come.
 * @returns false: an answer's bytes cannot be stored yet, and it has to come again
 */
export const receiveResponse = (
  nic: NicContext,
  qp: RdmaQp,
  packet: Readonly<RdmaPacket>,
): boolean => {
  const { psn } = packet;
  // Of something that is over, or that was never sent.
  if (psnDiff(psn, qp.unackedPsn) < 0 || psnDiff(psn, qp.sentPsn) >= 0) return true;
  if (packet.opcode !== OP_ACK) return receiveAnswer(nic, qp, packet);
  const { syndrome } = packet;
  if ((syndrome & SYNDROME_NAK_SEQUENCE) === 0) {
    acknowledge(nic, qp, psn);
    return true;
  }
  // What is refused stands behind all that was accepted.
  if (!acknowledge(nic, qp, psnAdd(psn, -1))) return true;
  if ((syndrome & SYNDROME_NAK_SEQUENCE) === SYNDROME_RNR) waitForReceiver(nic, qp, psn, syndrome);
  else if (syndrome === SYNDROME_NAK_SEQUENCE) retry(nic, qp, psn);
  else failAt(nic, qp, psn, nakStatus(syndrome));
  return true;
};

/** Number of the packet that is sent next. */
const cursorPsn = (qp: RdmaQp): number =>
  qp.sending === qp.workTail ? qp.nextPsn : psnAdd(workAt(qp, qp.sending).firstPsn, qp.sentPackets);

const nakStatus = (syndrome: number): number => {
  if (syndrome === SYNDROME_NAK_ACCESS) return WC_REM_ACCESS_ERR;
  return syndrome === SYNDROME_NAK_OPERATION ? WC_REM_OP_ERR : WC_REM_INV_REQ_ERR;
};

/**
 * Everything up to `psn` has reached the other end.
 * @returns false: an answer that should have come before is missing, and is asked for again
 */
const acknowledge = (nic: NicContext, qp: RdmaQp, psn: number): boolean => {
  for (let n = qp.workHead; n !== qp.workTail; n = next(n)) {
    const work = workAt(qp, n);
    if (work.status > WC_SUCCESS) break;
    if (work.status === WC_SUCCESS) continue;
    const upTo = psnDiff(psn, work.firstPsn);
    if (upTo < 0) break;
    if (isReadLike(work)) {
      // As far as the answer has come, it is known.
      if (upTo < work.answered) break;
      retry(nic, qp, psnAdd(work.firstPsn, work.answered));
      return false;
    }
    moveUnacked(nic, qp, psnAdd(work.firstPsn, Math.min(upTo + 1, work.nrPsn)));
    if (upTo < work.nrPsn - 1) break;
    work.status = WC_SUCCESS;
  }
  return true;
};

/** Something has reached the other end: all retries are free again. */
const moveUnacked = (nic: NicContext, qp: RdmaQp, psn: number): void => {
  if (psnDiff(psn, qp.unackedPsn) <= 0) return;
  qp.unackedPsn = psn;
  qp.retrying = false;
  qp.retriesLeft = qp.retries;
  qp.rnrLeft = qp.rnrRetries;
  clearTimer(nic, qp);
  // After a retry the place to send from may lie behind what is acknowledged by now.
  if (psnDiff(cursorPsn(qp), psn) < 0) sendFrom(qp, psn);
  if (psnDiff(qp.sentPsn, psn) > 0) setTimer(nic, qp);
};

/** A packet of the answer to a read, an atomic operation or a flush. @returns false: not yet */
const receiveAnswer = (nic: NicContext, qp: RdmaQp, packet: Readonly<RdmaPacket>): boolean => {
  let n = qp.workHead;
  while (n !== qp.workTail && (workAt(qp, n).status >= 0 || !isReadLike(workAt(qp, n))))
    n = next(n);
  if (n === qp.workTail) return true;
  const work = workAt(qp, n);
  const expected = psnAdd(work.firstPsn, work.answered);
  const ahead = psnDiff(packet.psn, expected);
  if (ahead < 0) return true;
  if (!acknowledge(nic, qp, psnAdd(work.firstPsn, -1))) return true;
  if (ahead > 0) {
    retry(nic, qp, expected);
    return true;
  }
  const isLast = work.answered === work.nrPsn - 1;
  if (!isAnswer(qp, work, packet, isLast)) {
    failAt(nic, qp, expected, WC_BAD_RESP_ERR);
    return true;
  }
  const result = scatter(nic, qp, work, packet);
  if (result === DMA_WAIT) return false;
  if (result !== DMA_OK) {
    failAt(nic, qp, expected, WC_LOC_PROT_ERR);
    return true;
  }
  work.answered++;
  if (isLast) work.status = WC_SUCCESS;
  moveUnacked(nic, qp, psnAdd(expected, 1));
  return true;
};

/** Is it the packet that should come, as long as it should be? */
const isAnswer = (
  qp: RdmaQp,
  work: SendWork,
  packet: Readonly<RdmaPacket>,
  isLast: boolean,
): boolean => {
  const isAtomic = work.opcode === WR_ATOMIC_CMP_AND_SWP || work.opcode === WR_ATOMIC_FETCH_AND_ADD;
  if (isAtomic) return packet.opcode === OP_ATOMIC_ACK;
  if (packet.opcode === OP_ATOMIC_ACK) return false;
  const isEnd = packet.opcode === OP_READ_RESPONSE_LAST || packet.opcode === OP_READ_RESPONSE_ONLY;
  if (work.opcode !== WR_RDMA_READ) return isEnd && packet.payloadBytes === 0;
  const mtu = 1 << qp.mtuShift;
  const left = work.lenBytes - work.answered * mtu;
  return isEnd === isLast && packet.payloadBytes === Math.min(mtu, left);
};

/** Stores what the answer brings. */
const scatter = (
  nic: NicContext,
  qp: RdmaQp,
  work: SendWork,
  packet: Readonly<RdmaPacket>,
): number => {
  const from = work.answered * (1 << qp.mtuShift);
  const { pieces } = work;
  if (packet.opcode !== OP_ATOMIC_ACK)
    return movePieces(
      nic,
      qp.pd,
      pieces,
      from,
      packet.payload,
      packet.payloadBytes,
      RDMA_ACCESS_LOCAL_WRITE,
      true,
    );
  const { scratch } = nic;
  for (let i = 0; i < 4; i++) {
    scratch[i] = packet.operandLo >>> (8 * i);
    scratch[4 + i] = packet.operandHi >>> (8 * i);
  }
  return movePieces(nic, qp.pd, pieces, 0, scratch, 8, RDMA_ACCESS_LOCAL_WRITE, true);
};

/* ---- what goes wrong ---- */

/** The request with this number has failed: everything before it may still succeed. */
const failAt = (nic: NicContext, qp: RdmaQp, psn: number, status: number): void => {
  for (let n = qp.workHead; n !== qp.workTail; n = next(n)) {
    const work = workAt(qp, n);
    if (work.status >= 0 || psnDiff(psn, psnAdd(work.firstPsn, work.nrPsn)) >= 0) continue;
    work.status = status;
    // Nothing is sent from here on.
    qp.sending = n;
    qp.sentPackets = 0;
    clearTimer(nic, qp);
    return;
  }
};

/**
 * Sends again from `psn` on, which the retries have to allow. Once for each loss: what is on its way
 * already would say the same again and again, until something comes that is new, or the time is over.
 */
const retry = (nic: NicContext, qp: RdmaQp, psn: number): void => {
  if (qp.retrying) return;
  qp.retrying = true;
  nic.s.counters.retries++;
  if (qp.retriesLeft === 0) {
    failAt(nic, qp, qp.unackedPsn, WC_RETRY_EXC_ERR);
    return;
  }
  qp.retriesLeft--;
  sendFrom(qp, psn);
};

/** The place to send from is the packet `psn`, which was sent before. */
const sendFrom = (qp: RdmaQp, psn: number): void => {
  for (let n = qp.workHead; n !== qp.workTail; n = next(n)) {
    const work = workAt(qp, n);
    const into = psnDiff(psn, work.firstPsn);
    if (into >= work.nrPsn) continue;
    qp.sending = n;
    qp.sentPackets = Math.max(0, into);
    return;
  }
  qp.sending = qp.workTail;
  qp.sentPackets = 0;
};

/** The other end has no receive request for what was sent. */
const waitForReceiver = (nic: NicContext, qp: RdmaQp, psn: number, syndrome: number): void => {
  nic.s.counters.notReady++;
  if (qp.rnrLeft === 0) {
    failAt(nic, qp, psn, WC_RNR_RETRY_EXC_ERR);
    return;
  }
  if (qp.rnrLeft !== FOR_EVER) qp.rnrLeft--;
  sendFrom(qp, psn);
  clearTimer(nic, qp);
  if (qp.rnrWait) return;
  qp.rnrWait = true;
  nic.clock.at(nic.clock.now + rnrTimeout(syndrome), nic.name, EVENT_RNR, qp.qpn);
};

/** The time that the other end has asked for is over. */
export const receiverMayBeReady = (qp: RdmaQp): void => {
  qp.rnrWait = false;
};

const setTimer = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.timerSet || qp.timeout === 0) return;
  qp.timerSet = true;
  nic.clock.at(nic.clock.now + ackTimeout(qp.timeout), nic.name, EVENT_TIMEOUT, qp.qpn);
};

const clearTimer = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.timerSet) nic.clock.cancel(nic.name, EVENT_TIMEOUT, qp.qpn);
  qp.timerSet = false;
};

/** Nothing has come back in time. */
export const timedOut = (nic: NicContext, qp: RdmaQp): void => {
  qp.timerSet = false;
  if (qp.state !== QPS_RTS || qp.rnrWait || psnDiff(qp.sentPsn, qp.unackedPsn) <= 0) return;
  qp.retrying = false;
  retry(nic, qp, qp.unackedPsn);
};
