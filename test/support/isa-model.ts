/**
 * What each computing instruction does, in BigInt and as the manual says it: RV64IM, Zba, Zbb, Zbs,
 * the arithmetic of AMOs, and whether a branch is taken. Unprivileged ISA 20240411. Loads, stores,
 * CSRs and privileged instructions are left out. Shares no code with emu/.
 */

/** Operands: registers as 64-bit patterns, the immediate and pc as numbers of any sign. */
interface Operands {
  /** rs1 and rs2 unsigned, and signed. */
  u1: bigint;
  u2: bigint;
  s1: bigint;
  s2: bigint;
  /** The lower words, signed and unsigned. */
  w1: bigint;
  w2: bigint;
  uw1: bigint;
  uw2: bigint;
  imm: bigint;
  pc: bigint;
  /** Bytes of the instruction: JAL and JALR link to pc + length. */
  lengthBytes: bigint;
}

const u64 = (x: bigint): bigint => BigInt.asUintN(64, x);
const u32 = (x: bigint): bigint => BigInt.asUintN(32, x);
const s32 = (x: bigint): bigint => BigInt.asIntN(32, x);
const truth = (condition: boolean): bigint => (condition ? 1n : 0n);
const min = (a: bigint, b: bigint): bigint => (a < b ? a : b);
const max = (a: bigint, b: bigint): bigint => (a > b ? a : b);

/** The bits of an unsigned value, from bit 0 on. */
const bits = (x: bigint, width: number): bigint[] =>
  Array.from({ length: width }, (_, i) => (x >> BigInt(i)) & 1n);
const fromBits = (list: readonly bigint[]): bigint =>
  list.reduce((sum, bit, i) => sum + bit * 2n ** BigInt(i), 0n);
const bytesOf = (x: bigint): bigint[] =>
  Array.from({ length: 8 }, (_, i) => (x >> BigInt(8 * i)) & 255n);
const fromBytes = (list: readonly bigint[]): bigint =>
  list.reduce((sum, byte, i) => sum + byte * 256n ** BigInt(i), 0n);

const leadingZeros = (x: bigint, width: number): bigint => {
  const highest = bits(x, width).lastIndexOf(1n);
  return BigInt(width - 1 - highest);
};
const trailingZeros = (x: bigint, width: number): bigint => {
  const lowest = bits(x, width).indexOf(1n);
  return BigInt(lowest < 0 ? width : lowest);
};
const population = (x: bigint, width: number): bigint =>
  bits(x, width).reduce((sum, bit) => sum + bit, 0n);
/** Rotation to the right by any amount. */
const rotate = (x: bigint, amount: bigint, width: number): bigint => {
  const list = bits(x, width);
  const by = Number(((amount % BigInt(width)) + BigInt(width)) % BigInt(width));
  return fromBits([...list.slice(by), ...list.slice(0, by)]);
};

/** Division as 12.2's table has it; BigInt's own truncates towards zero, as DIV does. */
const quotient = (a: bigint, b: bigint): bigint => (b === 0n ? -1n : a / b);
const remainder = (a: bigint, b: bigint): bigint => (b === 0n ? a : a % b);

type Rule = (o: Operands) => bigint;

/** 2.4, 4.2: results may exceed 64 bits, model() wraps them. */
const BASE: Readonly<Record<string, Rule>> = {
  addi: (o) => o.u1 + o.imm,
  slti: (o) => truth(o.s1 < o.imm),
  sltiu: (o) => truth(o.u1 < u64(o.imm)),
  xori: (o) => o.s1 ^ o.imm,
  ori: (o) => o.s1 | o.imm,
  andi: (o) => o.s1 & o.imm,
  slli: (o) => o.u1 * 2n ** o.imm,
  srli: (o) => o.u1 / 2n ** o.imm,
  srai: (o) => o.s1 >> o.imm,
  add: (o) => o.u1 + o.u2,
  sub: (o) => o.u1 - o.u2,
  sll: (o) => o.u1 * 2n ** (o.u2 % 64n),
  slt: (o) => truth(o.s1 < o.s2),
  sltu: (o) => truth(o.u1 < o.u2),
  xor: (o) => o.u1 ^ o.u2,
  srl: (o) => o.u1 / 2n ** (o.u2 % 64n),
  sra: (o) => o.s1 >> (o.u2 % 64n),
  or: (o) => o.u1 | o.u2,
  and: (o) => o.u1 & o.u2,
  addiw: (o) => s32(o.u1 + o.imm),
  slliw: (o) => s32(o.u1 * 2n ** o.imm),
  srliw: (o) => s32(o.uw1 / 2n ** o.imm),
  sraiw: (o) => o.w1 >> o.imm,
  addw: (o) => s32(o.u1 + o.u2),
  subw: (o) => s32(o.u1 - o.u2),
  sllw: (o) => s32(o.u1 * 2n ** (o.u2 % 32n)),
  srlw: (o) => s32(o.uw1 / 2n ** (o.u2 % 32n)),
  sraw: (o) => o.w1 >> (o.u2 % 32n),
  lui: (o) => o.imm,
  auipc: (o) => o.pc + o.imm,
  jal: (o) => o.pc + o.lengthBytes,
  jalr: (o) => o.pc + o.lengthBytes,
};

/** 12.1, 12.2. */
const M: Readonly<Record<string, Rule>> = {
  mul: (o) => o.s1 * o.s2,
  mulh: (o) => (o.s1 * o.s2) >> 64n,
  mulhsu: (o) => (o.s1 * o.u2) >> 64n,
  mulhu: (o) => (o.u1 * o.u2) >> 64n,
  div: (o) => quotient(o.s1, o.s2),
  divu: (o) => quotient(o.u1, o.u2),
  rem: (o) => remainder(o.s1, o.s2),
  remu: (o) => remainder(o.u1, o.u2),
  mulw: (o) => s32(o.u1 * o.u2),
  divw: (o) => s32(quotient(o.w1, o.w2)),
  divuw: (o) => s32(quotient(o.uw1, o.uw2)),
  remw: (o) => s32(remainder(o.w1, o.w2)),
  remuw: (o) => s32(remainder(o.uw1, o.uw2)),
};

/** 28.4.1-28.4.4. */
const B: Readonly<Record<string, Rule>> = {
  'add.uw': (o) => o.uw1 + o.u2,
  'slli.uw': (o) => o.uw1 * 2n ** o.imm,
  sh1add: (o) => o.u1 * 2n + o.u2,
  sh2add: (o) => o.u1 * 4n + o.u2,
  sh3add: (o) => o.u1 * 8n + o.u2,
  'sh1add.uw': (o) => o.uw1 * 2n + o.u2,
  'sh2add.uw': (o) => o.uw1 * 4n + o.u2,
  'sh3add.uw': (o) => o.uw1 * 8n + o.u2,
  andn: (o) => o.s1 & ~o.s2,
  orn: (o) => o.s1 | ~o.s2,
  xnor: (o) => ~(o.s1 ^ o.s2),
  clz: (o) => leadingZeros(o.u1, 64),
  clzw: (o) => leadingZeros(o.uw1, 32),
  ctz: (o) => trailingZeros(o.u1, 64),
  ctzw: (o) => trailingZeros(o.uw1, 32),
  cpop: (o) => population(o.u1, 64),
  cpopw: (o) => population(o.uw1, 32),
  max: (o) => max(o.s1, o.s2),
  maxu: (o) => max(o.u1, o.u2),
  min: (o) => min(o.s1, o.s2),
  minu: (o) => min(o.u1, o.u2),
  'sext.b': (o) => BigInt.asIntN(8, o.u1),
  'sext.h': (o) => BigInt.asIntN(16, o.u1),
  'zext.h': (o) => BigInt.asUintN(16, o.u1),
  rol: (o) => rotate(o.u1, -o.u2, 64),
  ror: (o) => rotate(o.u1, o.u2, 64),
  rori: (o) => rotate(o.u1, o.imm, 64),
  rolw: (o) => s32(rotate(o.uw1, -o.u2, 32)),
  rorw: (o) => s32(rotate(o.uw1, o.u2, 32)),
  roriw: (o) => s32(rotate(o.uw1, o.imm, 32)),
  'orc.b': (o) => fromBytes(bytesOf(o.u1).map((byte) => (byte === 0n ? 0n : 255n))),
  rev8: (o) => fromBytes(bytesOf(o.u1).reverse()),
  bclr: (o) => o.s1 & ~(2n ** (o.u2 % 64n)),
  bclri: (o) => o.s1 & ~(2n ** o.imm),
  bext: (o) => (o.u1 / 2n ** (o.u2 % 64n)) % 2n,
  bexti: (o) => (o.u1 / 2n ** o.imm) % 2n,
  binv: (o) => o.s1 ^ (2n ** (o.u2 % 64n)),
  binvi: (o) => o.s1 ^ (2n ** o.imm),
  bset: (o) => o.s1 | (2n ** (o.u2 % 64n)),
  bseti: (o) => o.s1 | (2n ** o.imm),
};

/** 2.5.2: 1 where the branch is taken. */
const BRANCHES: Readonly<Record<string, Rule>> = {
  beq: (o) => truth(o.u1 === o.u2),
  bne: (o) => truth(o.u1 !== o.u2),
  blt: (o) => truth(o.s1 < o.s2),
  bge: (o) => truth(o.s1 >= o.s2),
  bltu: (o) => truth(o.u1 < o.u2),
  bgeu: (o) => truth(o.u1 >= o.u2),
};

/** 13.4: the value that goes to memory; rs1 stands for what was there, extended to 64 bits. */
const AMOS: Readonly<Record<string, Rule>> = {
  'amoswap.d': (o) => o.u2,
  'amoadd.d': (o) => o.u1 + o.u2,
  'amoxor.d': (o) => o.u1 ^ o.u2,
  'amoand.d': (o) => o.u1 & o.u2,
  'amoor.d': (o) => o.u1 | o.u2,
  'amomin.d': (o) => min(o.s1, o.s2),
  'amomax.d': (o) => max(o.s1, o.s2),
  'amominu.d': (o) => min(o.u1, o.u2),
  'amomaxu.d': (o) => max(o.u1, o.u2),
  'amoswap.w': (o) => o.uw2,
  'amoadd.w': (o) => u32(o.uw1 + o.uw2),
  'amoxor.w': (o) => o.uw1 ^ o.uw2,
  'amoand.w': (o) => o.uw1 & o.uw2,
  'amoor.w': (o) => o.uw1 | o.uw2,
  'amomin.w': (o) => u32(min(o.w1, o.w2)),
  'amomax.w': (o) => u32(max(o.w1, o.w2)),
  'amominu.w': (o) => min(o.uw1, o.uw2),
  'amomaxu.w': (o) => max(o.uw1, o.uw2),
};

const RULES = new Map([BASE, M, B, BRANCHES, AMOS].flatMap((rules) => Object.entries(rules)));

/** Mnemonics by what model() returns for them. */
export const MODEL_COMPUTES: readonly string[] = [BASE, M, B].flatMap((r) => Object.keys(r));
export const MODEL_BRANCHES: readonly string[] = Object.keys(BRANCHES);
export const MODEL_AMOS: readonly string[] = Object.keys(AMOS);

/**
 * The result of an instruction as an unsigned 64-bit value: what goes to rd; for a branch 1 where
 * it is taken; for an AMO what goes to memory (the low 32 bits of a .w, zero-extended).
 * @param rs1 any representation of the register, signed or not; for an AMO, the memory's old value
 * @param imm as the decoder has it: LUI's already shifted, shifts' the amount
 * @throws RangeError for a mnemonic that the model does not have
 */
export const model = (
  mnemonic: string,
  rs1: bigint,
  rs2: bigint,
  imm: bigint | number = 0,
  pc: bigint = 0n,
  lengthBytes: 2 | 4 = 4,
): bigint => {
  const rule = RULES.get(mnemonic);
  if (rule === undefined) throw new RangeError(`the model has no ${mnemonic}`);
  return u64(
    rule({
      u1: u64(rs1),
      u2: u64(rs2),
      s1: BigInt.asIntN(64, rs1),
      s2: BigInt.asIntN(64, rs2),
      w1: s32(rs1),
      w2: s32(rs2),
      uw1: u32(rs1),
      uw2: u32(rs2),
      imm: BigInt(imm),
      pc,
      lengthBytes: BigInt(lengthBytes),
    }),
  );
};
