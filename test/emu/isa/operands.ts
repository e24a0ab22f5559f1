/** Random operands for a row of the instruction table, as numbers and as the text that names them. */
import { csrName } from '../../../emu/isa/csr-names.ts';
import type { Format, Operand, RegisterField } from '../../../emu/isa/formats.ts';
import { registerName } from '../../../emu/isa/registers.ts';
import type { InstructionRow } from '../../../emu/isa/table.ts';
import type { Rng } from '../../support/rng.ts';

export interface Sample {
  text: string;
  rd: number;
  rs1: number;
  rs2: number;
  imm: number;
}

const ORDER = ['', '.rl', '.aq', '.aqrl'];

const sampleRegister = (field: RegisterField, random: Rng): number =>
  field.plus + random.below(field.mask + 1);

/** A value of the immediate: each of its bits by chance, with the ends of the range more often. */
const sampleImmediate = (f: Format, random: Rng): number => {
  const style = random.below(4);
  let imm = 0;
  for (const [, width, to] of f.imm)
    for (let bit = to; bit < to + width; bit++)
      if (style === 0 || (style !== 1 && random.chance(0.5))) imm |= 1 << bit;
  if (f.signedBits === 0 || f.signedBits === 32) return imm;
  const top = 1 << (f.signedBits - 1);
  return (imm & top) !== 0 ? imm - 2 * top : imm;
};

const fenceText = (bits: number): string =>
  bits === 0 ? '0' : ['i', 'o', 'r', 'w'].filter((_, i) => ((bits << i) & 8) !== 0).join('');

const operandText = (operand: Operand, s: Sample): string => {
  switch (operand) {
    case 'rd':
    case 'rs1':
    case 'rs2':
      return registerName(s[operand]);
    case 'imm':
      return `${s.imm}`;
    case 'upper':
      return `0x${(s.imm >>> 12).toString(16)}`;
    case 'target':
      return s.imm < 0 ? `.-${-s.imm}` : `.+${s.imm}`;
    case 'mem':
      return `${s.imm}(${registerName(s.rs1)})`;
    case 'base':
      return `(${registerName(s.rs1)})`;
    case 'csr':
      return csrName(s.imm) ?? `0x${s.imm.toString(16)}`;
    case 'uimm':
      return `${s.rs1}`;
    case 'pred':
      return fenceText((s.imm >>> 4) & 15);
    case 'succ':
      return fenceText(s.imm & 15);
  }
};

/** Operands that the row's format can hold; the combination may still be a reserved one. */
export const sample = ([mnemonic, , , f]: InstructionRow, random: Rng): Sample => {
  const rd = sampleRegister(f.rd, random);
  // One field of a compressed encoding may be both destination and source.
  const shared = f.rd.mask !== 0 && f.rs1.mask !== 0 && f.rd.shift === f.rs1.shift;
  const s: Sample = {
    text: '',
    rd,
    rs1: shared ? rd : sampleRegister(f.rs1, random),
    rs2: sampleRegister(f.rs2, random),
    imm: sampleImmediate(f, random),
  };
  // A fence's fm has no operand.
  if (f.operands.includes('pred')) s.imm &= 0xff;
  const suffix = f.ordered ? (ORDER[s.imm] ?? '') : '';
  const operands = f.operands.map((operand) => operandText(operand, s)).join(', ');
  s.text = `${mnemonic}${suffix} ${operands}`.trim();
  return s;
};
