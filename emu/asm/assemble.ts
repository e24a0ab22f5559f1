/**
 * The assembler: a program as text to its bytes. Two passes: the first fixes sizes and labels, the
 * second encodes. Syntax of the GNU assembler for RISC-V without sections, macros, relocation and
 * automatic compression: the output is flat, to be put at `origin`; c. mnemonics are written out.
 */
import { encode, instructionBytes, isInstruction } from './encode.ts';
import { evaluate, ExpressionError, type Scope } from './expression.ts';
import { expand, type Instruction } from './pseudo.ts';
import { AsmError, parseSource, type Statement, unescapeBytes } from './source.ts';

export interface AssembleOptions {
  /** Address of the first byte. Default 0. */
  origin?: bigint | number;
}

export interface Program {
  bytes: Uint8Array;
  /** Address of the first byte. */
  origin: bigint;
  /** Labels and .equ constants. */
  symbols: ReadonlyMap<string, bigint>;
  /** A symbol as a number. @throws RangeError where there is none, or it exceeds 2^53 */
  at(name: string): number;
}

/** Directives that store whole numbers of a size in bytes. */
const DATA_BYTES: ReadonlyMap<string, number> = new Map([
  ['.byte', 1],
  ['.half', 2],
  ['.short', 2],
  ['.2byte', 2],
  ['.word', 4],
  ['.long', 4],
  ['.4byte', 4],
  ['.dword', 8],
  ['.quad', 8],
  ['.8byte', 8],
]);
/** Accepted because programs for the GNU assembler have them; a flat program needs none. */
const IGNORED = new Set(['.text', '.data', '.globl', '.global', '.option', '.type', '.size']);
/** Most bytes a program may have. */
const MAX_BYTES = 1 << 28;

const NOP = 0x0000_0013;
const C_NOP = 0x0001;

/** A statement in its place. */
interface Placed {
  statement: Statement;
  /** Order in the program: which local labels are before and which behind. */
  ordinal: number;
  pc: bigint;
  sizeBytes: number;
  /** What an instruction statement stands for; empty for directives. */
  instructions: Instruction[];
}

class Assembly {
  readonly symbols: Map<string, bigint>;
  private readonly locals: { label: number; ordinal: number; pc: bigint }[];

  constructor() {
    this.symbols = new Map();
    this.locals = [];
  }

  scope(pc: bigint, ordinal: number): Scope {
    return {
      pc,
      symbol: (name) => this.symbols.get(name),
      local: (label, forward) => {
        const same = this.locals.filter((l) => l.label === label);
        return forward
          ? same.find((l) => l.ordinal > ordinal)?.pc
          : same.findLast((l) => l.ordinal <= ordinal)?.pc;
      },
    };
  }

  define(name: string, value: bigint): void {
    if (this.symbols.has(name)) throw new ExpressionError(`${name} is defined twice`);
    this.symbols.set(name, value);
  }

  label(name: string, ordinal: number, pc: bigint): void {
    if (/^\d/.test(name)) this.locals.push({ label: Number(name), ordinal, pc });
    else this.define(name, pc);
  }

  /** First pass: size of a statement, its labels and constants defined. */
  place(statement: Statement, ordinal: number, pc: bigint): Placed {
    for (const name of statement.labels) this.label(name, ordinal, pc);
    const placed: Placed = { statement, ordinal, pc, sizeBytes: 0, instructions: [] };
    const { mnemonic, operands } = statement;
    const scope = this.scope(pc, ordinal);
    if (mnemonic.startsWith('.')) placed.sizeBytes = this.directiveBytes(statement, scope);
    else if (mnemonic !== '') {
      placed.instructions = expand(mnemonic, operands, scope);
      for (const [name] of placed.instructions) {
        if (!isInstruction(name)) throw new ExpressionError('there is no such instruction');
        placed.sizeBytes += instructionBytes(name);
      }
    }
    return placed;
  }

  private directiveBytes({ mnemonic, operands }: Statement, scope: Scope): number {
    const value = (text: string | undefined): bigint => evaluate(text ?? '', scope);
    const unit = DATA_BYTES.get(mnemonic);
    if (unit !== undefined) return unit * operands.length;
    if (IGNORED.has(mnemonic)) return 0;
    switch (mnemonic) {
      case '.equ':
      case '.set':
        this.define(operands[0] ?? '', value(operands[1]));
        return 0;
      case '.ascii':
      case '.asciz':
      case '.string':
        return stringBytes(mnemonic, operands).length;
      case '.space':
      case '.zero':
      case '.skip':
        return checkedSize(value(operands[0]));
      case '.align':
      case '.p2align':
        return paddingBytes(scope.pc, 1n << BigInt(checkedSize(value(operands[0])) & 63));
      case '.balign':
        return paddingBytes(scope.pc, BigInt(checkedSize(value(operands[0]))));
      default:
        throw new ExpressionError('there is no such directive');
    }
  }

  /** Second pass: the bytes of a statement, into its place. */
  emit({ statement, ordinal, pc, sizeBytes, instructions }: Placed, into: Uint8Array): void {
    const { mnemonic, operands } = statement;
    const view = new DataView(into.buffer, into.byteOffset, into.byteLength);
    let offset = 0;
    for (const [name, ...args] of instructions) {
      const raw = encode(name, args, this.scope(pc + BigInt(offset), ordinal));
      if (instructionBytes(name) === 4) view.setUint32(offset, raw, true);
      else view.setUint16(offset, raw, true);
      offset += instructionBytes(name);
    }
    const unit = DATA_BYTES.get(mnemonic);
    if (unit !== undefined)
      for (const text of operands) {
        storeValue(view, offset, unit, evaluate(text, this.scope(pc, ordinal)));
        offset += unit;
      }
    else if (/^\.(ascii|asciz|string)$/.test(mnemonic)) into.set(stringBytes(mnemonic, operands));
    else if (/^\.(p2align|balign|align)$/.test(mnemonic)) padWithNops(view, sizeBytes);
    else if (/^\.(space|zero|skip)$/.test(mnemonic) && operands[1] !== undefined)
      into.fill(Number(BigInt.asUintN(8, evaluate(operands[1], this.scope(pc, ordinal)))));
  }
}

const checkedSize = (value: bigint): number => {
  if (value < 0n || value > BigInt(MAX_BYTES))
    throw new ExpressionError(`${value} is not in 0..${MAX_BYTES}`);
  return Number(value);
};

const paddingBytes = (pc: bigint, alignment: bigint): number =>
  alignment === 0n ? 0 : checkedSize((alignment - (pc % alignment)) % alignment);

/** Padding runs, should code fall into it. An odd number of bytes begins with a zero byte. */
const padWithNops = (view: DataView, sizeBytes: number): void => {
  let offset = sizeBytes & 1;
  if ((sizeBytes & 2) !== 0) {
    view.setUint16(offset, C_NOP, true);
    offset += 2;
  }
  for (; offset < sizeBytes; offset += 4) view.setUint32(offset, NOP, true);
};

const stringBytes = (mnemonic: string, operands: readonly string[]): number[] =>
  operands.flatMap((text) => {
    const body = /^"(.*)"$/s.exec(text)?.[1];
    if (body === undefined) throw new ExpressionError(`${text} is not a string`);
    return mnemonic === '.ascii' ? unescapeBytes(body) : [...unescapeBytes(body), 0];
  });

const storeValue = (view: DataView, offset: number, unit: number, value: bigint): void => {
  const bits = unit * 8;
  if (value < -(1n << BigInt(bits - 1)) || value >= 1n << BigInt(bits))
    throw new ExpressionError(`${value} does not fit in ${unit} bytes`);
  for (let i = 0; i < unit; i++)
    view.setUint8(offset + i, Number((value >> BigInt(8 * i)) & 0xffn));
};

/** Runs `step`; what it finds wrong gets the statement's line. */
const inLine = <T>({ line, mnemonic }: Statement, step: () => T): T => {
  try {
    return step();
  } catch (error) {
    if (!(error instanceof ExpressionError)) throw error;
    throw new AsmError(line, mnemonic === '' ? error.message : `${mnemonic}: ${error.message}`);
  }
};

/**
 * Assembles a program.
 * @throws AsmError with the line and what is wrong in it
 */
export const assemble = (text: string, options: AssembleOptions = {}): Program => {
  const origin = BigInt.asUintN(64, BigInt(options.origin ?? 0));
  const assembly = new Assembly();
  let pc = origin;
  const program = parseSource(text).map((statement, ordinal) => {
    const placed = inLine(statement, () => assembly.place(statement, ordinal, pc));
    pc += BigInt(placed.sizeBytes);
    if (pc - origin > BigInt(MAX_BYTES)) throw new AsmError(statement.line, 'program too large');
    return placed;
  });
  const bytes = new Uint8Array(Number(pc - origin));
  for (const placed of program) {
    const start = Number(placed.pc - origin);
    const into = bytes.subarray(start, start + placed.sizeBytes);
    inLine(placed.statement, () => assembly.emit(placed, into));
  }
  const symbols: ReadonlyMap<string, bigint> = assembly.symbols;
  return {
    bytes,
    origin,
    symbols,
    at: (name) => {
      const value = Number(symbols.get(name) ?? Number.NaN);
      if (!Number.isSafeInteger(value)) throw new RangeError(`no symbol ${name} below 2^53`);
      return value;
    },
  };
};
