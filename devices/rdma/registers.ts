/**
 * The RDMA NIC: its registers, commands and numbers. With work.ts for the queues in memory, packet.ts
 * for what goes over the wire and responder.ts for what the other end does, this is its specification.
 *
 * Our own device, in the terms of InfiniBand verbs: protection domains (PD) hold memory regions (MR)
 * and queue pairs (QP); a QP of the reliable connected kind takes work requests from a send queue and
 * a receive queue in memory and reports in a completion queue (CQ). Numbers of statuses, opcodes, states
 * and access rights are those of Linux (include/rdma/ib_verbs.h), timers those of InfiniBand, at 10 ns
 * an instruction. Left out: datagrams, shared receive queues, memory windows, address handles (a NIC has
 * one wire, and whoever is at its other end), end-to-end credits, the states SQD and SQE.
 *
 * Registers are words at these offsets (any other access reads 0 and writes nothing):
 *
 *   0x00 ID           RO   0x6d647247
 *   0x04 VERSION      RO   1
 *   0x08 CONTROL      RW   bit 0 enable, bit 1 interrupt enable; writing bit 31 resets everything
 *   0x0c STATUS       RO   bit 0 link up, bit 1 a command is in progress, bit 2 events were lost
 *   0x10 IRQ_STATUS   W1C  bit 0 a command is done; bits 1 and 2, read-only, follow COMPLETIONS and EVENT
 *   0x14 EVENT        RO   oldest asynchronous event: bit 31 there is one, 23..16 type, 15..0 number of
 *                          the object; any write takes it off the queue, which holds 64
 *   0x18 COMPLETIONS  W1C  two words, bit n: CQ n was armed and has had a completion since
 *   0x20 SQ_DOORBELL  WO   31..16 QP, 15..0 work requests posted to its send queue so far, mod 2^16
 *   0x24 RQ_DOORBELL  WO   the same for its receive queue
 *   0x28 CQ_DOORBELL  WO   31..16 CQ, 15..0 completions taken from it so far, mod 2^16
 *   0x2c CQ_ARM       WO   15..0 CQ: say when it next has one; bit 16: only a solicited one, or an error
 *   0x40 ARG          RW   twelve words
 *   0x70 COMMAND      WO   starts a command; ignored while one is in progress
 *   0x74 CMD_STATUS   RO   of the last command that is done: 0, or the errno
 *   0x78 RESULT       RO   two words
 *   0x80 COUNTERS     RO   packets sent, packets received, timeouts and sequence errors, times told that a
 *                          receiver was not ready, accesses that had to wait for memory: a word each, since power-on
 *
 * The line is high while a bit of IRQ_STATUS is set and interrupts are enabled. While the NIC is not
 * enabled, doorbells do nothing and packets that arrive are lost.
 *
 *   command         arguments                                                   results
 *    1 ALLOC_PD                                                                  PD
 *    2 FREE_PD      PD                                  EBUSY while it is used
 *    3 REG_MR       PD, access, iova (2), bus address (2), length (2)            lkey, rkey
 *    4 DEREG_MR     lkey
 *    5 CREATE_CQ    bus address (2), log2 of entries                             CQ
 *    6 DESTROY_CQ   CQ                                  EBUSY while it is used
 *    7 CREATE_QP    PD, send CQ, receive CQ, bus address (2) and log2 of entries
 *                   of the send queue, the same of the receive queue             QP
 *    8 MODIFY_QP    QP, new state, and for a change to
 *                   INIT: access that the other end has
 *                   RTR:  QP of the other end, first PSN it sends, log2 of the MTU, reads and atomics
 *                         to answer at a time, code of the time it waits for a receive request
 *                   RTS:  first PSN to send, code of the timeout, retries, RNR retries (7: for ever),
 *                         reads and atomics on their way at a time
 *    9 DESTROY_QP   QP
 *   10 QUERY_QP     QP                                                           state, other end's QP
 *
 * (2) = low word, high word. An unknown command and a number that names nothing are EINVAL, a full
 * table ENOMEM. REG_MR and DEREG_MR take as long as the memory behind the NIC takes; a region reaches
 * [iova, iova + length), whose byte at iova is the one at the bus address, and the two lie at the same
 * place of a page. lkey and rkey are one number; rkey is 0 for a region without remote access. From
 * DEREG_MR on, no key reaches the region, and when the command is done nothing holds its memory.
 */

export const RDMA_ID = 0x00;
export const RDMA_VERSION = 0x04;
export const RDMA_CONTROL = 0x08;
export const RDMA_STATUS = 0x0c;
export const RDMA_IRQ_STATUS = 0x10;
export const RDMA_EVENT = 0x14;
export const RDMA_COMPLETIONS = 0x18;
export const RDMA_SQ_DOORBELL = 0x20;
export const RDMA_RQ_DOORBELL = 0x24;
export const RDMA_CQ_DOORBELL = 0x28;
export const RDMA_CQ_ARM = 0x2c;
export const RDMA_ARG = 0x40;
export const RDMA_NR_ARGS = 12;
export const RDMA_COMMAND = 0x70;
export const RDMA_CMD_STATUS = 0x74;
export const RDMA_RESULT = 0x78;
export const RDMA_COUNTERS = 0x80;

export const RDMA_ID_VALUE = 0x6d64_7247;
export const RDMA_CONTROL_ENABLE = 1 << 0;
export const RDMA_CONTROL_IRQ = 1 << 1;
export const RDMA_CONTROL_RESET = 1 << 31;
export const RDMA_STATUS_LINK = 1 << 0;
export const RDMA_STATUS_COMMAND = 1 << 1;
export const RDMA_STATUS_EVENTS_LOST = 1 << 2;
export const RDMA_IRQ_COMMAND = 1 << 0;
export const RDMA_IRQ_COMPLETION = 1 << 1;
export const RDMA_IRQ_EVENT = 1 << 2;
export const RDMA_ARM_SOLICITED = 1 << 16;

export const RDMA_CMD_ALLOC_PD = 1;
export const RDMA_CMD_FREE_PD = 2;
export const RDMA_CMD_REG_MR = 3;
export const RDMA_CMD_DEREG_MR = 4;
export const RDMA_CMD_CREATE_CQ = 5;
export const RDMA_CMD_DESTROY_CQ = 6;
export const RDMA_CMD_CREATE_QP = 7;
export const RDMA_CMD_MODIFY_QP = 8;
export const RDMA_CMD_DESTROY_QP = 9;
export const RDMA_CMD_QUERY_QP = 10;

/* ---- how many of each there are ---- */
export const RDMA_NR_PDS = 64;
export const RDMA_NR_CQS = 64;
export const RDMA_NR_QPS = 64;
export const RDMA_NR_MRS = 256;
export const RDMA_MAX_CQ_SHIFT = 14;
export const RDMA_MAX_QUEUE_SHIFT = 10;
export const RDMA_MAX_EVENTS = 64;
/** Most bytes of one work request. */
export const RDMA_MAX_MESSAGE = 1 << 24;
export const RDMA_MIN_MTU_SHIFT = 8;
export const RDMA_MAX_MTU_SHIFT = 12;
export const RDMA_MAX_MTU = 1 << RDMA_MAX_MTU_SHIFT;
/** Most reads and atomics of a QP that are answered, or on their way, at a time. */
export const RDMA_MAX_RD_ATOMIC = 16;

/* ---- access rights: enum ib_access_flags ---- */
export const RDMA_ACCESS_LOCAL_WRITE = 1 << 0;
export const RDMA_ACCESS_REMOTE_WRITE = 1 << 1;
export const RDMA_ACCESS_REMOTE_READ = 1 << 2;
export const RDMA_ACCESS_REMOTE_ATOMIC = 1 << 3;
export const RDMA_ACCESS_FLUSH_GLOBAL = 1 << 8;
export const RDMA_ACCESS_FLUSH_PERSISTENT = 1 << 9;
/** Those that give the other end something. */
export const RDMA_ACCESS_REMOTE =
  RDMA_ACCESS_REMOTE_WRITE |
  RDMA_ACCESS_REMOTE_READ |
  RDMA_ACCESS_REMOTE_ATOMIC |
  RDMA_ACCESS_FLUSH_GLOBAL |
  RDMA_ACCESS_FLUSH_PERSISTENT;

/* ---- states of a QP: enum ib_qp_state ---- */
export const QPS_RESET = 0;
export const QPS_INIT = 1;
export const QPS_RTR = 2;
export const QPS_RTS = 3;
export const QPS_ERR = 6;

/* ---- asynchronous events: enum ib_event_type ---- */
export const RDMA_EVENT_CQ_ERR = 0;
/** A queue cannot be read: nothing can be reported in it. */
export const RDMA_EVENT_QP_FATAL = 1;
/** The other end sent what makes no sense, or what it had no right to. */
export const RDMA_EVENT_QP_REQ_ERR = 2;
export const RDMA_EVENT_QP_ACCESS_ERR = 3;
/** The first packet of a connection that is not ready to send yet. */
export const RDMA_EVENT_COMM_EST = 4;
export const RDMA_EVENT_PORT_ACTIVE = 9;
export const RDMA_EVENT_PORT_ERR = 10;

/* ---- the errno of a command ---- */
export const RDMA_EBUSY = 16;
export const RDMA_EINVAL = 22;
export const RDMA_ENOMEM = 12;
export const RDMA_EFAULT = 14;

/** A local ACK timeout of code n is 4.096 microseconds << n; code 0: never. In instructions of 10 ns. */
export const ackTimeout = (code: number): number => Math.ceil(409.6 * 2 ** code);

/** What a receiver that is not ready asks for, by code, in units of 10 microseconds (InfiniBand 9.7.5.2.8). */
const RNR_TIMERS = [
  65536, 1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512, 768, 1024, 1536,
  2048, 3072, 4096, 6144, 8192, 12288, 16384, 24576, 32768, 49152,
];

/** In instructions of 10 ns. */
export const rnrTimeout = (code: number): number => (RNR_TIMERS[code & 31] ?? 1) * 1000;
