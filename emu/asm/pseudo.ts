/**
 * Pseudo-instructions: what they stand for. Unprivileged ISA 20240411, chapter 37 (tables of
 * pseudo-instructions). `call` and `tail` are a single JAL, with its reach of 1 MiB.
 */
import { memoryOperand } from './encode.ts';
import { evaluate, ExpressionError, highPart, lowPart, type Scope } from './expression.ts';

/** An instruction of the table, its operands as text. */
export type Instruction = readonly [mnemonic: string, ...operands: string[]];

/** By mnemonic and number of operands; $1, $2, $3 are the operands as written. */
const TEMPLATES: Readonly<Record<string, string>> = {
  'nop/0': 'addi zero, zero, 0',
  'mv/2': 'addi $1, $2, 0',
  'not/2': 'xori $1, $2, -1',
  'neg/2': 'sub $1, zero, $2',
  'negw/2': 'subw $1, zero, $2',
  'sext.w/2': 'addiw $1, $2, 0',
  'zext.b/2': 'andi $1, $2, 255',
  'zext.w/2': 'add.uw $1, $2, zero',
  'seqz/2': 'sltiu $1, $2, 1',
  'snez/2': 'sltu $1, zero, $2',
  'sltz/2': 'slt $1, $2, zero',
  'sgtz/2': 'slt $1, zero, $2',
  'beqz/2': 'beq $1, zero, $2',
  'bnez/2': 'bne $1, zero, $2',
  'blez/2': 'bge zero, $1, $2',
  'bgez/2': 'bge $1, zero, $2',
  'bltz/2': 'blt $1, zero, $2',
  'bgtz/2': 'blt zero, $1, $2',
  'bgt/3': 'blt $2, $1, $3',
  'ble/3': 'bge $2, $1, $3',
  'bgtu/3': 'bltu $2, $1, $3',
  'bleu/3': 'bgeu $2, $1, $3',
  'j/1': 'jal zero, $1',
  'jal/1': 'jal ra, $1',
  'jr/1': 'jalr zero, 0($1)',
  'jalr/1': 'jalr ra, 0($1)',
  'jalr/3': 'jalr $1, $3($2)',
  'ret/0': 'jalr zero, 0(ra)',
  'call/1': 'jal ra, $1',
  'tail/1': 'jal zero, $1',
  'fence/0': 'fence iorw, iorw',
  'csrr/2': 'csrrs $1, $2, zero',
  'csrw/2': 'csrrw zero, $1, $2',
  'csrs/2': 'csrrs zero, $1, $2',
  'csrc/2': 'csrrc zero, $1, $2',
  'csrwi/2': 'csrrwi zero, $1, $2',
  'csrsi/2': 'csrrsi zero, $1, $2',
  'csrci/2': 'csrrci zero, $1, $2',
  'rdcycle/1': 'csrrs $1, cycle, zero',
  'rdtime/1': 'csrrs $1, time, zero',
  'rdinstret/1': 'csrrs $1, instret, zero',
  // Illegal on every hart: the CSR is read-only.
  'unimp/0': 'csrrw zero, cycle, zero',
  'sfence.vma/0': 'sfence.vma zero, zero',
  'sfence.vma/1': 'sfence.vma $1, zero',
  'hfence.vvma/0': 'hfence.vvma zero, zero',
  'hfence.vvma/1': 'hfence.vvma $1, zero',
  'hfence.gvma/0': 'hfence.gvma zero, zero',
  'hfence.gvma/1': 'hfence.gvma $1, zero',
};

const LOADS = /^l[bhwd]u?$/;
const STORES = /^s[bhwd]$/;

/**
 * The instructions that put `value`, any 64 bits, into a register: LUI and ADDIW where 32 bits do,
 * else the upper part by the same rule, a shift, and the rest; eight at most.
 */
export const loadConstant = (rd: string, value: bigint): Instruction[] => {
  const v = BigInt.asIntN(64, value);
  if (v === lowPart(v)) return [['addi', rd, 'zero', `${v}`]];
  const low = lowPart(v);
  if (v === BigInt.asIntN(32, v)) {
    const lui: Instruction = ['lui', rd, `${highPart(v) & 0xf_ffffn}`];
    return low === 0n ? [lui] : [lui, ['addiw', rd, rd, `${low}`]];
  }
  let upper = BigInt.asIntN(64, v - low) >> 12n;
  let shift = 12;
  for (; (upper & 1n) === 0n; upper >>= 1n) shift++;
  const sequence: Instruction[] = [...loadConstant(rd, upper), ['slli', rd, rd, `${shift}`]];
  return low === 0n ? sequence : [...sequence, ['addi', rd, rd, `${low}`]];
};

const constantForLi = (text: string, scope: Scope): bigint => {
  const value = evaluate(text, scope);
  if (value < -(1n << 63n) || value >= 1n << 64n)
    throw new ExpressionError(`${value} has more than 64 bits`);
  return value;
};

/**
 * What a statement stands for: itself, where it is an instruction of the table. The number of
 * instructions must be known in the first pass, so `li` takes only what is defined above it.
 * @throws ExpressionError
 */
export const expand = (
  mnemonic: string,
  operands: readonly string[],
  scope: Scope,
): Instruction[] => {
  const [first = '', second = '', third = ''] = operands;
  const key = `${mnemonic}/${operands.length}`;
  // auipc and its partner: the distance is counted from the auipc, which is 4 bytes earlier.
  const upper = (register: string): Instruction => ['auipc', register, `%hi((${second}) - .)`];
  const lower = `%lo((${second}) - (. - 4))`;
  if (key === 'li/2') return loadConstant(first, constantForLi(second, scope));
  if (key === 'la/2') return [upper(first), ['addi', first, first, lower]];
  if (LOADS.test(mnemonic) && operands.length === 2 && !/[()[\]]/.test(second))
    return [upper(first), [mnemonic, first, `${lower}(${first})`]];
  if (STORES.test(mnemonic) && operands.length === 3)
    return [upper(third), [mnemonic, first, `${lower}(${third})`]];
  if (key === 'jalr/2' && memoryOperand(second) === undefined)
    return [['jalr', first, `0(${second})`]];
  const template = TEMPLATES[key];
  if (template === undefined) return [[mnemonic, ...operands]];
  const [name = '', ...parts] = template.split(/,? /);
  return [[name, ...parts.map((part) => part.replace(/\$(\d)/g, (_, n) => operands[n - 1] ?? ''))]];
};
