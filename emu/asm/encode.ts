/**
 * One machine instruction from mnemonic and operand texts to its encoding, by the rows and formats
 * of emu/isa/.
 */
import { csrNumber } from '../isa/csr-names.ts';
import { findRow } from '../isa/decode.ts';
import { FENCE_LETTERS, ORDER_SUFFIXES } from '../isa/disassemble.ts';
import {
  type Format,
  insertImmediate,
  insertRegister,
  type Operand,
  type RegisterField,
} from '../isa/formats.ts';
import { registerNumber } from '../isa/registers.ts';
import { COMPRESSED, INSTRUCTIONS, type InstructionRow } from '../isa/table.ts';
import { evaluate, ExpressionError, type Scope } from './expression.ts';

const rows = new Map<string, InstructionRow>();
for (const row of [...INSTRUCTIONS, ...COMPRESSED]) if (row[0] !== '') rows.set(row[0], row);

/** A mnemonic's row, and what its .aq and .rl say: bit 1 and bit 0. */
interface Found {
  row: InstructionRow;
  order: number;
}

const findMnemonic = (mnemonic: string): Found | undefined => {
  const plain = rows.get(mnemonic);
  if (plain !== undefined) return { row: plain, order: 0 };
  for (let order = 1; order < ORDER_SUFFIXES.length; order++) {
    const suffix = ORDER_SUFFIXES[order] ?? '';
    const row = mnemonic.endsWith(suffix) ? rows.get(mnemonic.slice(0, -suffix.length)) : undefined;
    if (row?.[3].ordered === true) return { row, order };
  }
  return undefined;
};

/** Whether the table has the mnemonic, .aq and .rl included. */
export const isInstruction = (mnemonic: string): boolean => findMnemonic(mnemonic) !== undefined;

/** Bytes that an instruction of the table takes. */
export const instructionBytes = (mnemonic: string): number =>
  ((findMnemonic(mnemonic)?.row[1] ?? 3) & 3) === 3 ? 4 : 2;

/** imm(reg), (reg): the parts of a memory operand; undefined where the text is not one. */
export const memoryOperand = (text: string): { offset: string; base: number } | undefined => {
  const match = /^(.*)\(\s*(\w+)\s*\)$/s.exec(text);
  const base = registerNumber(match?.[2] ?? '');
  if (match === null || base === undefined) return undefined;
  return { offset: (match[1] ?? '').trim(), base };
};

const fenceBits = (text: string): number => {
  if (text === '0') return 0;
  const indexes = [...text].map((letter) => FENCE_LETTERS.indexOf(letter));
  if (indexes.includes(-1)) throw new ExpressionError(`${text} is not a set out of iorw`);
  return indexes.reduce((bits, i) => bits | (8 >> i), 0);
};

/** The value, if it lies in [min, max]. */
const within = (value: bigint, min: bigint, max: bigint): number => {
  if (value < min || value > max) throw new ExpressionError(`${value} is not in ${min}..${max}`);
  return Number(value);
};

/** An instruction while its operands are read. */
class Encoding {
  bits: number;
  imm: number;
  private readonly format: Format;
  private readonly scope: Scope;

  constructor(match: number, format: Format, order: number, scope: Scope) {
    this.bits = match;
    this.imm = order;
    this.format = format;
    this.scope = scope;
  }

  operand(kind: Operand, text: string): void {
    switch (kind) {
      case 'rd':
      case 'rs1':
      case 'rs2':
        this.register(this.format[kind], registerNumber(text), text);
        return;
      case 'imm':
        this.imm = within(evaluate(text, this.scope), -(1n << 31n), (1n << 31n) - 1n);
        return;
      case 'upper':
        this.imm = within(evaluate(text, this.scope), -0x8_0000n, 0xf_ffffn) << 12;
        return;
      case 'target': {
        const distance = BigInt.asIntN(64, evaluate(text, this.scope) - this.scope.pc);
        this.imm = within(distance, -(1n << 31n), (1n << 31n) - 1n);
        return;
      }
      case 'mem':
      case 'base':
        this.memory(kind, text);
        return;
      case 'csr':
        this.imm = csrNumber(text) ?? within(evaluate(text, this.scope), 0n, 4095n);
        return;
      case 'uimm':
        this.register(this.format.rs1, within(evaluate(text, this.scope), 0n, 31n), text);
        return;
      case 'pred':
        this.imm |= fenceBits(text) << 4;
        return;
      case 'succ':
        this.imm |= fenceBits(text);
        return;
    }
  }

  private register(field: RegisterField, register: number | undefined, text: string): void {
    if (register === undefined) throw new ExpressionError(`${text} is not a register`);
    const bits = insertRegister(field, register);
    if (bits === undefined) throw new ExpressionError(`${text} cannot stand here`);
    this.bits |= bits;
  }

  private memory(kind: 'mem' | 'base', text: string): void {
    const memory = memoryOperand(text);
    if (memory === undefined) throw new ExpressionError(`${text} does not read offset(register)`);
    this.register(this.format.rs1, memory.base, text);
    if (kind === 'mem') this.operand('imm', memory.offset === '' ? '0' : memory.offset);
    else if (memory.offset !== '' && memory.offset !== '0')
      throw new ExpressionError(`${text}: no offset is possible`);
  }
}

/**
 * The encoding of an instruction: 32 bits, or 16 for a c. mnemonic.
 * @throws ExpressionError where mnemonic, number of operands, a register or a value is wrong
 */
export const encode = (mnemonic: string, operands: readonly string[], scope: Scope): number => {
  const found = findMnemonic(mnemonic);
  if (found === undefined) throw new ExpressionError('there is no such instruction');
  const [, match, , format, op] = found.row;
  if (operands.length !== format.operands.length)
    throw new ExpressionError(`${format.operands.length} operands, not ${operands.length}`);
  const encoding = new Encoding(match, format, found.order, scope);
  format.operands.forEach((kind, i) => {
    encoding.operand(kind, operands[i] ?? '');
  });
  const imm = insertImmediate(format, encoding.imm);
  if (imm === undefined) throw new ExpressionError(`${encoding.imm} does not fit the encoding`);
  const raw = (encoding.bits | imm) >>> 0;
  // c.mv a0, zero would be c.jr a0; c.lui sp would be c.addi16sp; some are reserved.
  if (findRow(raw)?.[4] !== op)
    throw new ExpressionError('these operands are reserved or another instruction');
  return raw;
};
