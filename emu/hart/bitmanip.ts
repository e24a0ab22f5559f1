/**
 * Zba, Zbb and Zbs on pairs of 32-bit words: Unprivileged ISA 20240411, chapter 28 (B).
 */
import * as op from '../isa/ops.ts';

/** Ones in a word. */
const popCount = (x: number): number => {
  let v = x - ((x >>> 1) & 0x5555_5555);
  v = (v & 0x3333_3333) + ((v >>> 2) & 0x3333_3333);
  v = (v + (v >>> 4)) & 0x0f0f_0f0f;
  return Math.imul(v, 0x0101_0101) >>> 24;
};
/** Trailing zeros of a word; 32 for 0. */
const trailingZeros = (x: number): number => (x === 0 ? 32 : 31 - Math.clz32(x & -x));
/** 0xff in each byte that has a bit set. */
const orBytes = (x: number): number => {
  let v = x | (x >>> 4);
  v |= v >>> 2;
  v |= v >>> 1;
  return Math.imul(v & 0x0101_0101, 0xff);
};
const reverseBytes = (x: number): number =>
  (x << 24) | ((x & 0xff00) << 8) | ((x >>> 8) & 0xff00) | (x >>> 24);

const set = (R: Int32Array, d: number, lo: number, hi: number): void => {
  R[d] = lo;
  R[d + 1] = hi;
};
const word = (R: Int32Array, d: number, value: number): void => {
  R[d] = value;
  R[d + 1] = value >> 31;
};

/** rd = rs2 + (pair << shift). */
const addShifted = (
  R: Int32Array,
  lo: number,
  hi: number,
  shift: number,
  b: number,
  d: number,
): void => {
  const l = lo << shift;
  const h = shift === 0 ? hi : (hi << shift) | (lo >>> (32 - shift));
  const sum = (l + R[b]!) | 0;
  R[d + 1] = h + R[b + 1]! + (sum >>> 0 < l >>> 0 ? 1 : 0);
  R[d] = sum;
};

const rotateRight = (R: Int32Array, a: number, d: number, amount: number): void => {
  const swap = (amount & 32) !== 0;
  const lo = R[swap ? a + 1 : a]!;
  const hi = R[swap ? a : a + 1]!;
  const n = amount & 31;
  if (n === 0) set(R, d, lo, hi);
  else set(R, d, (lo >>> n) | (hi << (32 - n)), (hi >>> n) | (lo << (32 - n)));
};
const rotateRightWord = (R: Int32Array, a: number, d: number, amount: number): void => {
  const n = amount & 31;
  const x = R[a]!;
  word(R, d, n === 0 ? x : (x >>> n) | (x << (32 - n)));
};

/** Is rs1 below rs2? */
const lessSigned = (R: Int32Array, a: number, b: number): boolean =>
  R[a + 1]! < R[b + 1]! || (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0);
const lessUnsigned = (R: Int32Array, a: number, b: number): boolean =>
  R[a + 1]! >>> 0 < R[b + 1]! >>> 0 || (R[a + 1]! === R[b + 1]! && R[a]! >>> 0 < R[b]! >>> 0);

/**
 * Executes one instruction of Zba, Zbb or Zbs. `a`, `b` and `d` are the word indexes of rs1, rs2 and
 * rd in R; `imm` is the shift amount of the immediate forms.
 */
export const executeBitmanip = (
  R: Int32Array,
  code: number,
  a: number,
  b: number,
  d: number,
  imm: number,
): void => {
  const lo = R[a]!;
  const hi = R[a + 1]!;
  switch (code) {
    /* Zba */
    case op.OP_ADD_UW:
      addShifted(R, lo, 0, 0, b, d);
      return;
    case op.OP_SLLI_UW:
      if (imm >= 32) {
        set(R, d, 0, lo << (imm - 32));
        return;
      }
      set(R, d, lo << imm, imm === 0 ? 0 : lo >>> (32 - imm));
      return;
    case op.OP_SH1ADD:
      addShifted(R, lo, hi, 1, b, d);
      return;
    case op.OP_SH2ADD:
      addShifted(R, lo, hi, 2, b, d);
      return;
    case op.OP_SH3ADD:
      addShifted(R, lo, hi, 3, b, d);
      return;
    case op.OP_SH1ADD_UW:
      addShifted(R, lo, 0, 1, b, d);
      return;
    case op.OP_SH2ADD_UW:
      addShifted(R, lo, 0, 2, b, d);
      return;
    case op.OP_SH3ADD_UW:
      addShifted(R, lo, 0, 3, b, d);
      return;
    /* Zbb: logic with complement */
    case op.OP_ANDN:
      set(R, d, lo & ~R[b]!, hi & ~R[b + 1]!);
      return;
    case op.OP_ORN:
      set(R, d, lo | ~R[b]!, hi | ~R[b + 1]!);
      return;
    case op.OP_XNOR:
      set(R, d, ~(lo ^ R[b]!), ~(hi ^ R[b + 1]!));
      return;
    /* Zbb: counting */
    case op.OP_CLZ:
      set(R, d, hi !== 0 ? Math.clz32(hi) : 32 + Math.clz32(lo), 0);
      return;
    case op.OP_CLZW:
      set(R, d, Math.clz32(lo), 0);
      return;
    case op.OP_CTZ:
      set(R, d, lo !== 0 ? trailingZeros(lo) : 32 + trailingZeros(hi), 0);
      return;
    case op.OP_CTZW:
      set(R, d, trailingZeros(lo), 0);
      return;
    case op.OP_CPOP:
      set(R, d, popCount(lo) + popCount(hi), 0);
      return;
    case op.OP_CPOPW:
      set(R, d, popCount(lo), 0);
      return;
    /* Zbb: minimum and maximum */
    case op.OP_MAX:
      choose(R, lessSigned(R, a, b) ? b : a, d);
      return;
    case op.OP_MAXU:
      choose(R, lessUnsigned(R, a, b) ? b : a, d);
      return;
    case op.OP_MIN:
      choose(R, lessSigned(R, a, b) ? a : b, d);
      return;
    case op.OP_MINU:
      choose(R, lessUnsigned(R, a, b) ? a : b, d);
      return;
    /* Zbb: extension */
    case op.OP_SEXT_B:
      word(R, d, (lo << 24) >> 24);
      return;
    case op.OP_SEXT_H:
      word(R, d, (lo << 16) >> 16);
      return;
    case op.OP_ZEXT_H:
      set(R, d, lo & 0xffff, 0);
      return;
    /* Zbb: rotation */
    case op.OP_ROL:
      rotateRight(R, a, d, -R[b]! & 63);
      return;
    case op.OP_ROLW:
      rotateRightWord(R, a, d, -R[b]!);
      return;
    case op.OP_ROR:
      rotateRight(R, a, d, R[b]! & 63);
      return;
    case op.OP_RORW:
      rotateRightWord(R, a, d, R[b]!);
      return;
    case op.OP_RORI:
      rotateRight(R, a, d, imm);
      return;
    case op.OP_RORIW:
      rotateRightWord(R, a, d, imm);
      return;
    /* Zbb: bytes */
    case op.OP_ORC_B:
      set(R, d, orBytes(lo), orBytes(hi));
      return;
    case op.OP_REV8:
      set(R, d, reverseBytes(hi), reverseBytes(lo));
      return;
    default:
      executeSingleBit(R, code, lo, hi, d, code & 1 ? R[b]! : imm);
      return;
  }
};

const choose = (R: Int32Array, from: number, d: number): void => set(R, d, R[from]!, R[from + 1]!);

/** Zbs: the bit numbered by rs2 or the immediate. */
const executeSingleBit = (
  R: Int32Array,
  code: number,
  lo: number,
  hi: number,
  d: number,
  amount: number,
): void => {
  const n = amount & 63;
  const bitLo = n < 32 ? 1 << n : 0;
  const bitHi = n < 32 ? 0 : 1 << (n - 32);
  switch (code) {
    case op.OP_BCLR:
    case op.OP_BCLRI:
      set(R, d, lo & ~bitLo, hi & ~bitHi);
      return;
    case op.OP_BINV:
    case op.OP_BINVI:
      set(R, d, lo ^ bitLo, hi ^ bitHi);
      return;
    case op.OP_BSET:
    case op.OP_BSETI:
      set(R, d, lo | bitLo, hi | bitHi);
      return;
    default:
      set(R, d, ((n < 32 ? lo : hi) >>> (n & 31)) & 1, 0);
      return;
  }
};
