/**
 * The M extension on pairs of 32-bit words: Unprivileged ISA 20240411, chapter 12. Division by zero
 * and overflow give the values of table 12.1; nothing traps.
 */
import * as op from '../isa/ops.ts';

const TWO_32 = 2 ** 32;
/** Quotients and remainders of numbers up to here are exact in double arithmetic. */
const EXACT = 2 ** 53;

/** High word of the unsigned product of two words. */
const mulHighU = (x: number, y: number): number => {
  const xl = x & 0xffff;
  const xh = x >>> 16;
  const yl = y & 0xffff;
  const yh = y >>> 16;
  const t = (Math.imul(xh, yl) + (Math.imul(xl, yl) >>> 16)) | 0;
  const u = (Math.imul(xl, yh) + (t & 0xffff)) | 0;
  return (Math.imul(xh, yh) + (t >>> 16) + (u >>> 16)) | 0;
};

/**
 * Executes one instruction of M. `a`, `b` and `d` are the word indexes of rs1, rs2 and rd in R.
 */
export const executeMulDiv = (
  R: Int32Array,
  code: number,
  a: number,
  b: number,
  d: number,
): void => {
  switch (code) {
    case op.OP_MUL: {
      const x = R[a]!;
      const y = R[b]!;
      const hi = mulHighU(x, y) + Math.imul(x, R[b + 1]!) + Math.imul(R[a + 1]!, y);
      R[d] = Math.imul(x, y);
      R[d + 1] = hi;
      return;
    }
    case op.OP_MULW:
      word(R, d, Math.imul(R[a]!, R[b]!));
      return;
    case op.OP_MULHU:
      mulHigh(R, a, b, d, false, false);
      return;
    case op.OP_MULH:
      mulHigh(R, a, b, d, true, true);
      return;
    case op.OP_MULHSU:
      mulHigh(R, a, b, d, true, false);
      return;
    case op.OP_DIVW:
      word(R, d, R[b]! === 0 ? -1 : (R[a]! / R[b]!) | 0);
      return;
    case op.OP_DIVUW:
      word(R, d, R[b]! === 0 ? -1 : ((R[a]! >>> 0) / (R[b]! >>> 0)) | 0);
      return;
    case op.OP_REMW:
      word(R, d, R[b]! === 0 ? R[a]! : (R[a]! % R[b]!) | 0);
      return;
    case op.OP_REMUW:
      word(R, d, R[b]! === 0 ? R[a]! : ((R[a]! >>> 0) % (R[b]! >>> 0)) | 0);
      return;
    case op.OP_DIV:
      divide(R, a, b, d, true, false);
      return;
    case op.OP_DIVU:
      divide(R, a, b, d, false, false);
      return;
    case op.OP_REM:
      divide(R, a, b, d, true, true);
      return;
    default:
      divide(R, a, b, d, false, true);
      return;
  }
};

/** Sign-extends a word into a register. */
const word = (R: Int32Array, d: number, value: number): void => {
  R[d] = value;
  R[d + 1] = value >> 31;
};

const setNumber = (R: Int32Array, d: number, value: number): void => {
  R[d] = value % TWO_32;
  R[d + 1] = Math.floor(value / TWO_32);
};

/** Upper 64 bits of a product: the unsigned one, corrected for negative operands. */
const mulHigh = (
  R: Int32Array,
  a: number,
  b: number,
  d: number,
  aSigned: boolean,
  bSigned: boolean,
): void => {
  const al = R[a]!;
  const ah = R[a + 1]!;
  const bl = R[b]!;
  const bh = R[b + 1]!;
  const middle = (mulHighU(al, bl) >>> 0) + (Math.imul(al, bh) >>> 0) + (Math.imul(ah, bl) >>> 0);
  const low =
    (mulHighU(al, bh) >>> 0) +
    (mulHighU(ah, bl) >>> 0) +
    (Math.imul(ah, bh) >>> 0) +
    Math.floor(middle / TWO_32);
  let lo = low | 0;
  let hi = (mulHighU(ah, bh) + Math.floor(low / TWO_32)) | 0;
  if (aSigned && ah < 0) {
    hi = (hi - bh - (lo >>> 0 < bl >>> 0 ? 1 : 0)) | 0;
    lo = (lo - bl) | 0;
  }
  if (bSigned && bh < 0) {
    hi = (hi - ah - (lo >>> 0 < al >>> 0 ? 1 : 0)) | 0;
    lo = (lo - al) | 0;
  }
  R[d] = lo;
  R[d + 1] = hi;
};

const divide = (
  R: Int32Array,
  a: number,
  b: number,
  d: number,
  signed: boolean,
  remainder: boolean,
): void => {
  const al = R[a]!;
  const ah = R[a + 1]!;
  const bl = R[b]!;
  const bh = R[b + 1]!;
  if ((bl | bh) === 0) {
    R[d] = remainder ? al : -1;
    R[d + 1] = remainder ? ah : -1;
    return;
  }
  const x = (signed ? ah : ah >>> 0) * TWO_32 + (al >>> 0);
  const y = (signed ? bh : bh >>> 0) * TWO_32 + (bl >>> 0);
  if (Math.abs(x) < EXACT && Math.abs(y) < EXACT) {
    const q = Math.trunc(x / y);
    setNumber(R, d, remainder ? x - q * y : q);
    return;
  }
  divideLong(R, d, al, ah, bl, bh, signed, remainder);
};

/** Shift and subtract, on magnitudes: for operands beyond what a double holds. */
const divideLong = (
  R: Int32Array,
  d: number,
  al: number,
  ah: number,
  bl: number,
  bh: number,
  signed: boolean,
  remainder: boolean,
): void => {
  const aNegative = signed && ah < 0;
  const bNegative = signed && bh < 0;
  const nl = aNegative ? -al | 0 : al;
  const nh = aNegative ? (~ah + (al === 0 ? 1 : 0)) | 0 : ah;
  const dl = bNegative ? -bl | 0 : bl;
  const dh = bNegative ? (~bh + (bl === 0 ? 1 : 0)) | 0 : bh;
  let ql = 0;
  let qh = 0;
  let rl = 0;
  let rh = 0;
  for (let i = 63; i >= 0; i--) {
    // The remainder is below the divisor, so what its doubling shifts out says that it is above.
    const out = rh < 0;
    rh = (rh << 1) | (rl >>> 31);
    rl = (rl << 1) | ((i >= 32 ? nh >>> (i - 32) : nl >>> i) & 1);
    const notBelow = out || rh >>> 0 > dh >>> 0 || (rh === dh && rl >>> 0 >= dl >>> 0);
    if (notBelow) {
      rh = (rh - dh - (rl >>> 0 < dl >>> 0 ? 1 : 0)) | 0;
      rl = (rl - dl) | 0;
      if (i >= 32) qh |= 1 << (i - 32);
      else ql |= 1 << i;
    }
  }
  const lo = remainder ? rl : ql;
  const hi = remainder ? rh : qh;
  // The remainder has the dividend's sign; -2^63 / -1 comes out as itself (table 12.1).
  const negate = remainder ? aNegative : aNegative !== bNegative;
  R[d] = negate ? -lo | 0 : lo;
  R[d + 1] = negate ? (~hi + (lo === 0 ? 1 : 0)) | 0 : hi;
};
