/**
 * The disassembler: one instruction as the text that emu/asm/ assembles to the same bits. Mnemonics
 * are those of emu/isa/table.ts; pseudo-instructions are not recognised.
 */
import { csrName } from './csr-names.ts';
import { findRow } from './decode.ts';
import {
  extractImmediate,
  extractRegister,
  type Format,
  insertImmediate,
  insertRegister,
  type Operand,
} from './formats.ts';
import { registerName } from './registers.ts';

/** Mnemonic suffix by aq (2) and rl (1). */
export const ORDER_SUFFIXES: readonly string[] = ['', '.rl', '.aq', '.aqrl'];
/** Letters of a FENCE's sets, for bits 3..0. */
export const FENCE_LETTERS = 'iorw';

const fenceSet = (bits: number): string =>
  bits === 0 ? '0' : [...FENCE_LETTERS].filter((_, i) => (bits & (8 >> i)) !== 0).join('');

const hex = (x: bigint | number): string => `0x${x.toString(16)}`;

/** Where a jump goes: an absolute place where the pc is known, else relative to the instruction. */
const targetText = (imm: number, pc: bigint | undefined): string => {
  if (pc !== undefined) return hex(BigInt.asUintN(64, pc + BigInt(imm)));
  return imm < 0 ? `.-${-imm}` : `.+${imm}`;
};

const operandText = (operand: Operand, f: Format, raw: number, pc: bigint | undefined): string => {
  const imm = extractImmediate(f, raw);
  switch (operand) {
    case 'rd':
      return registerName(extractRegister(f.rd, raw));
    case 'rs1':
      return registerName(extractRegister(f.rs1, raw));
    case 'rs2':
      return registerName(extractRegister(f.rs2, raw));
    case 'imm':
      return String(imm);
    case 'upper':
      return hex(imm >>> 12);
    case 'target':
      return targetText(imm, pc);
    case 'mem':
      return `${imm}(${registerName(extractRegister(f.rs1, raw))})`;
    case 'base':
      return `(${registerName(extractRegister(f.rs1, raw))})`;
    case 'csr':
      return csrName(imm) ?? hex(imm);
    case 'uimm':
      return String(extractRegister(f.rs1, raw));
    case 'pred':
      return fenceSet((imm >>> 4) & 15);
    case 'succ':
      return fenceSet(imm & 15);
  }
};

/** The bits that an encoding has by its match and its operands: those that the text will carry. */
const canonical = (match: number, f: Format, raw: number): number => {
  // A FENCE's fm is in its immediate and not in its text.
  const imm = extractImmediate(f, raw) & (f.operands.includes('pred') ? 0xff : -1);
  let bits = match | (insertImmediate(f, imm) ?? 0);
  for (const field of [f.rd, f.rs1, f.rs2])
    bits |= insertRegister(field, extractRegister(field, raw)) ?? 0;
  return bits >>> 0;
};

/**
 * Text of one instruction, for example `addi a0, a0, -1`. An illegal encoding becomes data
 * (`.half`, `.word`); so does one whose ignored fields are not zero, with its mnemonic as a comment.
 * @param raw 32 bits; of a compressed instruction only 15..0 count
 * @param pc where it is, for the targets of jumps; without it they read `.+8`
 */
export const disassemble = (raw: number, pc?: bigint | number): string => {
  const bits = ((raw & 3) === 3 ? raw : raw & 0xffff) >>> 0;
  const data =
    (raw & 3) === 3
      ? `.word 0x${bits.toString(16).padStart(8, '0')}`
      : `.half 0x${bits.toString(16).padStart(4, '0')}`;
  const row = findRow(raw);
  if (row === undefined) return data;
  const [mnemonic, match, , f] = row;
  if (canonical(match, f, bits) !== bits) return `${data} # ${mnemonic}`;
  const suffix = f.ordered ? (ORDER_SUFFIXES[extractImmediate(f, bits)] ?? '') : '';
  const at = pc === undefined ? undefined : BigInt(pc);
  const operands = f.operands.map((operand) => operandText(operand, f, bits, at)).join(', ');
  return operands === '' ? mnemonic : `${mnemonic}${suffix} ${operands}`;
};
