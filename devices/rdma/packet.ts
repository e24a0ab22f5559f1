/**
 * Packets of the reliable connected service between two RDMA NICs, as they stand on the wire.
 *
 * Opcodes and syndromes are InfiniBand's (Architecture Specification 1.7, 9.2.1 and 9.7.5.2); the headers
 * are fields of one record, so that a packet is sent without an allocation: a wire has a number of
 * records that it uses again and again.
 */
import { RDMA_MAX_MTU } from './registers.ts';

export const OP_SEND_FIRST = 0;
export const OP_SEND_MIDDLE = 1;
export const OP_SEND_LAST = 2;
export const OP_SEND_LAST_IMM = 3;
export const OP_SEND_ONLY = 4;
export const OP_SEND_ONLY_IMM = 5;
export const OP_WRITE_FIRST = 6;
export const OP_WRITE_MIDDLE = 7;
export const OP_WRITE_LAST = 8;
export const OP_WRITE_LAST_IMM = 9;
export const OP_WRITE_ONLY = 10;
export const OP_WRITE_ONLY_IMM = 11;
export const OP_READ_REQUEST = 12;
export const OP_READ_RESPONSE_FIRST = 13;
export const OP_READ_RESPONSE_MIDDLE = 14;
export const OP_READ_RESPONSE_LAST = 15;
export const OP_READ_RESPONSE_ONLY = 16;
export const OP_ACK = 17;
export const OP_ATOMIC_ACK = 18;
export const OP_COMPARE_SWAP = 19;
export const OP_FETCH_ADD = 20;
export const OP_FLUSH = 28;
export const OP_ATOMIC_WRITE = 29;

/** Does a packet answer one of this end's requests? */
export const isResponse = (opcode: number): boolean =>
  opcode >= OP_READ_RESPONSE_FIRST && opcode <= OP_ATOMIC_ACK;

/* ---- syndromes: bits 6..5 say what, bits 4..0 more of it ---- */
export const SYNDROME_ACK = 0x00;
/** With the code of the time to wait. */
export const SYNDROME_RNR = 0x20;
export const SYNDROME_NAK_SEQUENCE = 0x60;
export const SYNDROME_NAK_INVALID = 0x61;
export const SYNDROME_NAK_ACCESS = 0x62;
export const SYNDROME_NAK_OPERATION = 0x63;

const PSN_MASK = 0xff_ffff;

/** The next packet sequence numbers, of 24 bits. */
export const psnAdd = (psn: number, n: number): number => (psn + n) & PSN_MASK;

/** How far `a` is ahead of `b`: -2^23 .. 2^23 - 1. */
export const psnDiff = (a: number, b: number): number => ((a - b) << 8) >> 8;

/** One packet; which fields mean something depends on the opcode. Plain data. */
export interface RdmaPacket {
  opcode: number;
  /** QP of the end that it goes to. */
  destQpn: number;
  psn: number;
  ackRequest: boolean;
  solicited: boolean;
  immediate: number;
  /** Of a write, a read, an atomic operation, a flush: where, by which key, how many bytes. */
  address: number;
  rkey: number;
  lenBytes: number;
  flush: number;
  /** To add or compare, and to swap in; of an answer, what was there before. */
  operandLo: number;
  operandHi: number;
  swapLo: number;
  swapHi: number;
  syndrome: number;
  payloadBytes: number;
  payload: Uint8Array;
}

export const createPacket = (): RdmaPacket => ({
  opcode: 0,
  destQpn: 0,
  psn: 0,
  ackRequest: false,
  solicited: false,
  immediate: 0,
  address: 0,
  rkey: 0,
  lenBytes: 0,
  flush: 0,
  operandLo: 0,
  operandHi: 0,
  swapLo: 0,
  swapHi: 0,
  syndrome: 0,
  payloadBytes: 0,
  payload: new Uint8Array(RDMA_MAX_MTU),
});

/** Makes a record ready for another packet. */
export const startPacket = (
  packet: RdmaPacket,
  opcode: number,
  destQpn: number,
  psn: number,
): void => {
  packet.opcode = opcode;
  packet.destQpn = destQpn;
  packet.psn = psn;
  packet.ackRequest = false;
  packet.solicited = false;
  packet.payloadBytes = 0;
};

/** A copy for a saved machine, with as much payload as there is. */
export const savePacket = (packet: RdmaPacket): RdmaPacket => ({
  ...packet,
  payload: packet.payload.slice(0, packet.payloadBytes),
});

export const restorePacket = (packet: RdmaPacket, state: RdmaPacket): void => {
  const { payload } = packet;
  payload.set(state.payload);
  Object.assign(packet, state, { payload });
};
