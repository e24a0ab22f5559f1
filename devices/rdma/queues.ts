/**
 * The RDMA NIC's queues in memory: requests are taken from them, completions put into them; and what a
 * queue pair that ends in error leaves there.
 *
 * A completion is written where the queue's producer stands; when the entry before it has not been
 * taken by the driver the queue is broken, as is one that cannot be written, and every queue pair that
 * reports there goes to the error state without being able to say so.
 */
import { DMA_OK, DMA_WAIT } from '#emu';
import { QPS_ERR, RDMA_EVENT_CQ_ERR, RDMA_EVENT_QP_FATAL } from './registers.ts';
import {
  ARM_ANY,
  ARM_NONE,
  ARM_SOLICITED,
  EVENT_RNR,
  EVENT_TIMEOUT,
  MAX_WORKS,
  type NicContext,
  type RdmaCq,
  type RdmaQp,
} from './state.ts';
import {
  CQ_ENTRY_BYTES,
  completionOpcode,
  readRecvWork,
  readSendWork,
  RQ_ENTRY_BYTES,
  SQ_ENTRY_BYTES,
  type SendWork,
  WC_LOC_QP_OP_ERR,
  WC_RECV,
  WC_SUCCESS,
  WC_WR_FLUSH_ERR,
  WR_SIGNALED,
  writeCompletion,
} from './work.ts';

const COUNT_MASK = 0xffff;

/** Puts the completion at the queue's producer. @returns false where it has to be tried again */
const putCompletion = (nic: NicContext, cqn: number): boolean => {
  const { done } = nic;
  const cq = nic.s.cqs[cqn];
  if (!cq || cq.broken) return true;
  if (((cq.producer - cq.consumer) & COUNT_MASK) >= 1 << cq.shift) {
    breakCq(nic, cq);
    return true;
  }
  const index = cq.producer & ((1 << cq.shift) - 1);
  writeCompletion(nic.scratch, done, ((cq.producer >>> cq.shift) & 1) === 0);
  const at = cq.address + index * CQ_ENTRY_BYTES;
  const result = nic.port.write(at, nic.scratch, 0, CQ_ENTRY_BYTES);
  if (result === DMA_WAIT) {
    nic.s.counters.waits++;
    return false;
  }
  if (result !== DMA_OK) {
    breakCq(nic, cq);
    return true;
  }
  cq.producer = (cq.producer + 1) & COUNT_MASK;
  const wanted = cq.armed === ARM_ANY || (cq.armed === ARM_SOLICITED && done.solicited);
  if (wanted) {
    cq.armed = ARM_NONE;
    nic.notify(cqn);
  }
  return true;
};

const breakCq = (nic: NicContext, cq: RdmaCq): void => {
  cq.broken = true;
  nic.raise(RDMA_EVENT_CQ_ERR, cq.cqn);
  for (const qp of nic.s.qps)
    if (qp && (qp.sendCq === cq.cqn || qp.recvCq === cq.cqn)) enterError(nic, qp);
};

/** Reports a request of the send queue. @returns false where it has to be tried again */
const completeSend = (nic: NicContext, qp: RdmaQp, work: SendWork): boolean => {
  if (work.status === WC_SUCCESS && (work.flags & WR_SIGNALED) === 0) return true;
  const { done } = nic;
  done.wrIdLo = work.wrIdLo;
  done.wrIdHi = work.wrIdHi;
  done.status = work.status;
  done.opcode = completionOpcode(work.opcode);
  done.lenBytes = work.lenBytes;
  done.immediate = 0;
  done.qpn = qp.qpn;
  done.withImm = false;
  done.solicited = work.status !== WC_SUCCESS;
  return putCompletion(nic, qp.sendCq);
};

/**
 * Reports the receive request that is taken, with what came into it.
 * @param immediate immediate data, or undefined
 * @returns false where it has to be tried again
 */
export const completeRecv = (
  nic: NicContext,
  qp: RdmaQp,
  status: number,
  opcode: number,
  lenBytes: number,
  immediate: number | undefined,
  solicited: boolean,
): boolean => {
  const { done } = nic;
  done.wrIdLo = qp.recv.wrIdLo;
  done.wrIdHi = qp.recv.wrIdHi;
  done.status = status;
  done.opcode = opcode;
  done.lenBytes = lenBytes;
  done.immediate = immediate ?? 0;
  done.qpn = qp.qpn;
  done.withImm = immediate !== undefined;
  done.solicited = solicited || status !== WC_SUCCESS;
  return putCompletion(nic, qp.recvCq);
};

/**
 * The queue pair stops. What is posted to it, now and later, comes back with WC_WR_FLUSH_ERR by
 * flushQueues(); requests that have a status already keep it.
 */
export const enterError = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.state === QPS_ERR) return;
  qp.state = QPS_ERR;
  stopTimers(nic, qp);
  qp.ackSyndrome = -1;
  for (let n = qp.workHead; n !== qp.workTail; n = (n + 1) & COUNT_MASK) {
    const work = qp.works[n % MAX_WORKS];
    if (work !== undefined && work.status < 0) work.status = WC_WR_FLUSH_ERR;
  }
  qp.sending = qp.workTail;
};

/** As enterError(), because a queue itself cannot be used. */
export const enterFatal = (nic: NicContext, qp: RdmaQp): void => {
  nic.raise(RDMA_EVENT_QP_FATAL, qp.qpn);
  enterError(nic, qp);
};

export const stopTimers = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.timerSet) nic.clock.cancel(nic.name, EVENT_TIMEOUT, qp.qpn);
  if (qp.rnrWait) nic.clock.cancel(nic.name, EVENT_RNR, qp.qpn);
  qp.timerSet = false;
  qp.rnrWait = false;
};

/** Requests that are over leave in their order, one after the other, with their completions. */
export const reap = (nic: NicContext, qp: RdmaQp): void => {
  while (qp.workHead !== qp.workTail) {
    const work = qp.works[qp.workHead % MAX_WORKS];
    if (work === undefined || work.status < 0 || !completeSend(nic, qp, work)) return;
    qp.workHead = (qp.workHead + 1) & COUNT_MASK;
    qp.sqDone = (qp.sqDone + 1) & COUNT_MASK;
    if (work.status !== WC_SUCCESS) enterError(nic, qp);
  }
};

/** In the error state: everything that is posted comes back, as far as completions can be written. */
export const flushQueues = (nic: NicContext, qp: RdmaQp): void => {
  if (qp.workHead !== qp.workTail) return;
  const work = qp.works[qp.workTail % MAX_WORKS];
  while (work !== undefined && qp.sqRead !== qp.sqPosted) {
    if (fetchSend(nic, qp, work) !== DMA_OK) break;
    work.status = WC_WR_FLUSH_ERR;
    if (!completeSend(nic, qp, work)) break;
    qp.sqRead = (qp.sqRead + 1) & COUNT_MASK;
    qp.sqDone = qp.sqRead;
  }
  while (qp.recvTaken || qp.rqRead !== qp.rqPosted) {
    if (!qp.recvTaken && takeRecv(nic, qp) !== DMA_OK) return;
    if (!completeRecv(nic, qp, WC_WR_FLUSH_ERR, WC_RECV, 0, undefined, false)) return;
    qp.recvTaken = false;
  }
};

/**
 * Reads the next entry of the send queue; the caller moves on behind it.
 * @returns DMA_OK, with a status in `work` for an entry that makes no sense; DMA_WAIT; DMA_FAULT: the
 *   queue is not there, and the queue pair in the error state
 */
export const fetchSend = (nic: NicContext, qp: RdmaQp, work: SendWork): number => {
  const index = qp.sqRead & ((1 << qp.sqShift) - 1);
  const result = fetch(nic, qp.sqAddress + index * SQ_ENTRY_BYTES, SQ_ENTRY_BYTES);
  if (result === DMA_OK) {
    if (!readSendWork(nic.scratch, work)) work.status = WC_LOC_QP_OP_ERR;
  } else if (result !== DMA_WAIT) {
    // What cannot be read is not there: nobody asks for it again.
    qp.sqRead = qp.sqPosted;
    enterFatal(nic, qp);
  }
  return result;
};

/**
 * Takes the next receive request, which there is. @returns as fetchSend; a request that makes no sense
 * has -1 pieces
 */
export const takeRecv = (nic: NicContext, qp: RdmaQp): number => {
  const index = qp.rqRead & ((1 << qp.rqShift) - 1);
  const result = fetch(nic, qp.rqAddress + index * RQ_ENTRY_BYTES, RQ_ENTRY_BYTES);
  if (result === DMA_OK) {
    if (!readRecvWork(nic.scratch, qp.recv)) qp.recv.pieces.count = -1;
    qp.recvTaken = true;
    qp.recvBytes = 0;
    qp.rqRead = (qp.rqRead + 1) & COUNT_MASK;
  } else if (result !== DMA_WAIT) {
    qp.rqRead = qp.rqPosted;
    enterFatal(nic, qp);
  }
  return result;
};

const fetch = (nic: NicContext, address: number, lenBytes: number): number => {
  const result = nic.port.read(address, nic.scratch, 0, lenBytes);
  if (result === DMA_WAIT) nic.s.counters.waits++;
  return result;
};
