/**
 * Commands of the RDMA NIC (registers.ts): protection domains, memory regions, completion queues and
 * queue pairs are made, changed and unmade.
 */
import { psnAdd } from './packet.ts';
import { enterError, stopTimers } from './queues.ts';
import {
  QPS_ERR,
  QPS_INIT,
  QPS_RESET,
  QPS_RTR,
  QPS_RTS,
  RDMA_ACCESS_LOCAL_WRITE,
  RDMA_ACCESS_REMOTE,
  RDMA_ACCESS_REMOTE_ATOMIC,
  RDMA_ACCESS_REMOTE_WRITE,
  RDMA_CMD_ALLOC_PD,
  RDMA_CMD_CREATE_CQ,
  RDMA_CMD_CREATE_QP,
  RDMA_CMD_DEREG_MR,
  RDMA_CMD_DESTROY_CQ,
  RDMA_CMD_DESTROY_QP,
  RDMA_CMD_FREE_PD,
  RDMA_CMD_MODIFY_QP,
  RDMA_CMD_QUERY_QP,
  RDMA_CMD_REG_MR,
  RDMA_EBUSY,
  RDMA_EINVAL,
  RDMA_ENOMEM,
  RDMA_MAX_CQ_SHIFT,
  RDMA_MAX_MTU_SHIFT,
  RDMA_MAX_QUEUE_SHIFT,
  RDMA_MAX_RD_ATOMIC,
  RDMA_MIN_MTU_SHIFT,
  RDMA_NR_QPS,
} from './registers.ts';
import { ARM_NONE, createQp, type NicContext, type RdmaQp } from './state.ts';
import { CQ_ENTRY_BYTES, RQ_ENTRY_BYTES, SQ_ENTRY_BYTES } from './work.ts';

/** The command goes on: its end will be told. */
export const COMMAND_PENDING = -1;

/** Carries out a command with the arguments in the registers. @returns 0, an errno, or COMMAND_PENDING */
export const runCommand = (nic: NicContext, command: number): number => {
  const { s } = nic;
  const arg = (n: number): number => s.args[n] ?? 0;
  switch (command) {
    case RDMA_CMD_ALLOC_PD:
      return allocPd(nic);
    case RDMA_CMD_FREE_PD:
      return freePd(nic, arg(0));
    case RDMA_CMD_REG_MR:
      return regMr(nic);
    case RDMA_CMD_DEREG_MR:
      return deregMr(nic, arg(0));
    case RDMA_CMD_CREATE_CQ:
      return createCq(nic, wide(nic, 0), arg(2));
    case RDMA_CMD_DESTROY_CQ:
      return destroyCq(nic, arg(0));
    case RDMA_CMD_CREATE_QP:
      return newQp(nic);
    case RDMA_CMD_MODIFY_QP:
      return modifyQp(nic, s.qps[arg(0)], arg(1));
    case RDMA_CMD_DESTROY_QP:
      return destroyQp(nic, arg(0));
    case RDMA_CMD_QUERY_QP:
      return queryQp(nic, s.qps[arg(0)]);
    default:
      return RDMA_EINVAL;
  }
};

/** A 64-bit argument. */
const wide = (nic: NicContext, n: number): number =>
  (nic.s.args[n + 1] ?? 0) * 2 ** 32 + (nic.s.args[n] ?? 0);

/** @returns 0, with the number as result */
const made = (nic: NicContext, number: number): number => {
  nic.s.resultLo = number;
  return 0;
};

const allocPd = (nic: NicContext): number => {
  const pd = nic.s.pds.indexOf(false);
  if (pd < 0) return RDMA_ENOMEM;
  nic.s.pds[pd] = true;
  return made(nic, pd);
};

const freePd = (nic: NicContext, pd: number): number => {
  const { s } = nic;
  if (s.pds[pd] !== true) return RDMA_EINVAL;
  const used = s.mrs.some((mr) => mr?.pd === pd) || s.qps.some((qp) => qp?.pd === pd);
  if (used) return RDMA_EBUSY;
  s.pds[pd] = false;
  return 0;
};

/* ---- memory regions ---- */

const KNOWN_ACCESS = RDMA_ACCESS_LOCAL_WRITE | RDMA_ACCESS_REMOTE;
/** What the other end may change, this end must be able to. */
const CHANGES = RDMA_ACCESS_REMOTE_WRITE | RDMA_ACCESS_REMOTE_ATOMIC;

const accessMakesSense = (access: number): boolean =>
  (access & ~KNOWN_ACCESS) === 0 &&
  ((access & CHANGES) === 0 || (access & RDMA_ACCESS_LOCAL_WRITE) !== 0);

const regMr = (nic: NicContext): number => {
  const { s } = nic;
  const [pd = 0, access = 0] = s.args;
  const iova = wide(nic, 2);
  const address = wide(nic, 4);
  const lenBytes = wide(nic, 6);
  const fits = lenBytes > 0 && iova + lenBytes <= 2 ** 53 && address + lenBytes <= 2 ** 53;
  if (s.pds[pd] !== true || !fits || !accessMakesSense(access)) return RDMA_EINVAL;
  if (iova % 4096 !== address % 4096) return RDMA_EINVAL;
  const index = s.mrs.indexOf(null);
  if (index < 0) return RDMA_ENOMEM;
  s.keyVariant = (s.keyVariant + 1) & 0xff;
  const handle = s.nextHandle++;
  const key = ((index << 8) | s.keyVariant) >>> 0;
  s.mrs[index] = { key, handle, pd, access, iova, address, lenBytes, ready: false };
  s.commandHandle = handle;
  nic.regions.register({ handle, address, lenBytes, access });
  return COMMAND_PENDING;
};

/** The memory behind the NIC has answered REG_MR. @returns the status of the command */
export const regMrDone = (nic: NicContext, handle: number, errno: number): number => {
  const { s } = nic;
  const index = s.mrs.findIndex((mr) => mr?.handle === handle);
  const mr = s.mrs[index];
  if (!mr) throw new Error(`rdma: region ${handle} is registered, and nobody asked for it`);
  if (errno !== 0) {
    s.mrs[index] = null;
    return errno;
  }
  mr.ready = true;
  s.resultLo = mr.key;
  s.resultHi = (mr.access & RDMA_ACCESS_REMOTE) !== 0 ? mr.key : 0;
  return 0;
};

const deregMr = (nic: NicContext, key: number): number => {
  const { s } = nic;
  const mr = s.mrs[key >>> 8];
  if (!mr || mr.key !== key) return RDMA_EINVAL;
  mr.ready = false;
  s.commandHandle = mr.handle;
  nic.regions.release(mr.handle);
  return COMMAND_PENDING;
};

/** The memory behind the NIC holds nothing for the region any more. */
export const deregMrDone = (nic: NicContext, handle: number): void => {
  const index = nic.s.mrs.findIndex((mr) => mr?.handle === handle);
  if (index >= 0) nic.s.mrs[index] = null;
};

/* ---- completion queues ---- */

const createCq = (nic: NicContext, address: number, shift: number): number => {
  if (shift > RDMA_MAX_CQ_SHIFT || address % CQ_ENTRY_BYTES !== 0) return RDMA_EINVAL;
  const cqn = nic.s.cqs.indexOf(null);
  if (cqn < 0) return RDMA_ENOMEM;
  nic.s.cqs[cqn] = {
    cqn,
    address,
    shift,
    producer: 0,
    consumer: 0,
    armed: ARM_NONE,
    broken: false,
  };
  return made(nic, cqn);
};

const destroyCq = (nic: NicContext, cqn: number): number => {
  if (!nic.s.cqs[cqn]) return RDMA_EINVAL;
  if (nic.s.qps.some((qp) => qp && (qp.sendCq === cqn || qp.recvCq === cqn))) return RDMA_EBUSY;
  nic.s.cqs[cqn] = null;
  return 0;
};

/* ---- queue pairs ---- */

const newQp = (nic: NicContext): number => {
  const { s } = nic;
  const [pd = 0, sendCq = 0, recvCq = 0, , , sqShift = 0, , , rqShift = 0] = s.args;
  const sqAddress = wide(nic, 3);
  const rqAddress = wide(nic, 6);
  if (s.pds[pd] !== true || !s.cqs[sendCq] || !s.cqs[recvCq]) return RDMA_EINVAL;
  if (sqShift > RDMA_MAX_QUEUE_SHIFT || rqShift > RDMA_MAX_QUEUE_SHIFT) return RDMA_EINVAL;
  if (sqAddress % SQ_ENTRY_BYTES !== 0 || rqAddress % RQ_ENTRY_BYTES !== 0) return RDMA_EINVAL;
  const qpn = s.qps.indexOf(null);
  if (qpn < 0) return RDMA_ENOMEM;
  const queues = { pd, sendCq, recvCq, sqAddress, sqShift, rqAddress, rqShift };
  s.qps[qpn] = Object.assign(createQp(qpn), queues);
  return made(nic, qpn);
};

/** @returns 0; EINVAL for a change that there is not, or an argument out of its range */
const modifyQp = (nic: NicContext, qp: RdmaQp | null | undefined, state: number): number => {
  if (!qp) return RDMA_EINVAL;
  const change = `${qp.state} ${state}`;
  if (state === QPS_RESET) return resetQp(nic, qp);
  if (state === QPS_ERR && qp.state !== QPS_RESET) {
    enterError(nic, qp);
    return 0;
  }
  if (change === `${QPS_RESET} ${QPS_INIT}`) return toInit(nic, qp);
  if (change === `${QPS_INIT} ${QPS_RTR}`) return toRtr(nic, qp);
  if (change === `${QPS_RTR} ${QPS_RTS}`) return toRts(nic, qp);
  return RDMA_EINVAL;
};

const toInit = (nic: NicContext, qp: RdmaQp): number => {
  const access = nic.s.args[2] ?? 0;
  if ((access & ~KNOWN_ACCESS) !== 0) return RDMA_EINVAL;
  qp.access = access;
  qp.state = QPS_INIT;
  return 0;
};

const toRtr = (nic: NicContext, qp: RdmaQp): number => {
  const [, , destQpn = 0, psn = 0, mtuShift = 0, answersMax = 0, rnrTimer = 0] = nic.s.args;
  const known =
    destQpn < RDMA_NR_QPS &&
    mtuShift >= RDMA_MIN_MTU_SHIFT &&
    mtuShift <= RDMA_MAX_MTU_SHIFT &&
    answersMax <= RDMA_MAX_RD_ATOMIC &&
    rnrTimer < 32;
  if (!known) return RDMA_EINVAL;
  Object.assign(qp, { destQpn, mtuShift, answersMax, rnrTimer });
  qp.expectedPsn = psnAdd(psn, 0);
  qp.state = QPS_RTR;
  return 0;
};

const toRts = (nic: NicContext, qp: RdmaQp): number => {
  const [, , psn = 0, timeout = 0, retries = 0, rnrRetries = 0, readsMax = 0] = nic.s.args;
  const known = timeout < 32 && retries <= 7 && rnrRetries <= 7 && readsMax <= RDMA_MAX_RD_ATOMIC;
  if (!known) return RDMA_EINVAL;
  Object.assign(qp, { timeout, retries, rnrRetries, readsMax });
  qp.retriesLeft = retries;
  qp.rnrLeft = rnrRetries;
  qp.nextPsn = psnAdd(psn, 0);
  qp.sentPsn = qp.nextPsn;
  qp.unackedPsn = qp.nextPsn;
  qp.state = QPS_RTS;
  return 0;
};

/** Forgets everything but what CREATE_QP said: requests are given up and not reported. */
const resetQp = (nic: NicContext, qp: RdmaQp): number => {
  stopTimers(nic, qp);
  const { pd, sendCq, recvCq, sqAddress, sqShift, rqAddress, rqShift } = qp;
  const queues = { pd, sendCq, recvCq, sqAddress, sqShift, rqAddress, rqShift };
  nic.s.qps[qp.qpn] = Object.assign(createQp(qp.qpn), queues);
  return 0;
};

const destroyQp = (nic: NicContext, qpn: number): number => {
  const qp = nic.s.qps[qpn];
  if (!qp) return RDMA_EINVAL;
  stopTimers(nic, qp);
  nic.s.qps[qpn] = null;
  return 0;
};

const queryQp = (nic: NicContext, qp: RdmaQp | null | undefined): number => {
  if (!qp) return RDMA_EINVAL;
  nic.s.resultLo = qp.state;
  nic.s.resultHi = qp.destQpn;
  return 0;
};
