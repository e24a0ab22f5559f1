/**
 * Shifts by a register, and SLTI: the part of RV64I that programs use least, kept out of the
 * interpreter's loop. Unprivileged ISA 20240411, 2.4 and 4.2.
 */
import * as op from '../isa/ops.ts';

/** Executes SLL, SRL, SRA, their W forms, or SLTI. `a`, `b`, `d` are word indexes of rs1, rs2, rd in R. */
export const executeShift = (
  R: Int32Array,
  code: number,
  a: number,
  b: number,
  d: number,
  imm: number,
): void => {
  const lo = R[a]!;
  const hi = R[a + 1]!;
  const s = R[b]! & 63;
  switch (code) {
    case op.OP_SLL:
      R[d] = s < 32 ? lo << s : 0;
      R[d + 1] = s === 0 ? hi : s < 32 ? (hi << s) | (lo >>> (32 - s)) : lo << (s - 32);
      return;
    case op.OP_SRL:
      R[d] = s === 0 ? lo : s < 32 ? (lo >>> s) | (hi << (32 - s)) : hi >>> (s - 32);
      R[d + 1] = s < 32 ? hi >>> s : 0;
      return;
    case op.OP_SRA:
      R[d] = s === 0 ? lo : s < 32 ? (lo >>> s) | (hi << (32 - s)) : hi >> (s - 32);
      R[d + 1] = s < 32 ? hi >> s : hi >> 31;
      return;
    case op.OP_SLLW:
      word(R, d, lo << s);
      return;
    case op.OP_SRLW:
      word(R, d, (lo >>> s) | 0);
      return;
    case op.OP_SRAW:
      word(R, d, lo >> s);
      return;
    default: {
      const sign = imm >> 31;
      R[d] = hi < sign || (hi === sign && lo >>> 0 < imm >>> 0) ? 1 : 0;
      R[d + 1] = 0;
    }
  }
};

const word = (R: Int32Array, d: number, value: number): void => {
  R[d] = value;
  R[d + 1] = value >> 31;
};
