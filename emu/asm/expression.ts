/**
 * Constant expressions of the assembler: numbers, characters, symbols, `.`, local labels (1f, 1b),
 * C's operators with C's precedence, %hi() and %lo(). Values are BigInts of any size; who stores one
 * checks that it fits.
 */
import { unescapeBytes } from './source.ts';

/** What names stand for at the place of an expression; undefined = not known (yet). */
export interface Scope {
  pc: bigint;
  symbol(name: string): bigint | undefined;
  /** The nearest local label of that number, forwards or backwards. */
  local(label: number, forward: boolean): bigint | undefined;
}

/** An expression that does not parse, or a name in it that stands for nothing. */
export class ExpressionError extends Error {}

const TOKEN =
  /\s*(?:(0[xX][0-9a-fA-F][0-9a-fA-F_]*|0[bB][01][01_]*)|(\d+)([bf])(?![\w.$])|(\d[\d_]*)|'((?:\\x[0-9a-fA-F]{1,2}|\\.|[^\\']))'|(%(?:hi|lo)(?=\s*\())|([A-Za-z_.$][\w.$]*)|(<<|>>|[-+*/%&|^~()]))/y;

/** Binary operators, by precedence from loosest to tightest. */
const LEVELS: readonly (readonly string[])[] = [
  ['|'],
  ['^'],
  ['&'],
  ['<<', '>>'],
  ['+', '-'],
  ['*', '/', '%'],
];

const apply = (operator: string, a: bigint, b: bigint): bigint => {
  switch (operator) {
    case '|':
      return a | b;
    case '^':
      return a ^ b;
    case '&':
      return a & b;
    case '+':
      return a + b;
    case '-':
      return a - b;
    case '*':
      return a * b;
    case '<<':
    case '>>':
      if (b < 0n || b > 128n) throw new ExpressionError(`cannot shift by ${b}`);
      return operator === '<<' ? a << b : a >> b;
    default:
      if (b === 0n) throw new ExpressionError('division by zero');
      return operator === '/' ? a / b : a % b;
  }
};

/** Bits 31..12 of what LUI or AUIPC adds, so that a sign-extended %lo makes up the rest. */
export const highPart = (value: bigint): bigint => (BigInt.asIntN(64, value) + 0x800n) >> 12n;
/** The low 12 bits, as ADDI and loads sign-extend them. */
export const lowPart = (value: bigint): bigint => BigInt.asIntN(12, value);

/** Value of an expression. @throws ExpressionError */
export const evaluate = (text: string, scope: Scope): bigint => {
  let at = 0;
  let token = next();

  function next(): RegExpExecArray | undefined {
    if (text.slice(at).trim() === '') return undefined;
    TOKEN.lastIndex = at;
    const match = TOKEN.exec(text);
    if (match === null) throw new ExpressionError(`cannot read ${JSON.stringify(text.slice(at))}`);
    at = TOKEN.lastIndex;
    return match;
  }
  function operator(): string | undefined {
    return token?.[8];
  }
  function expect(what: string): void {
    if (operator() !== what) throw new ExpressionError(`${what} is missing in ${text}`);
    token = next();
  }
  function known(value: bigint | undefined, name: string): bigint {
    if (value === undefined) throw new ExpressionError(`${name} is not defined`);
    return value;
  }
  function primary(): bigint {
    const t = token;
    if (t === undefined) throw new ExpressionError('a value is missing');
    token = next();
    const [, radix, local, direction, decimal, character, part, name, op] = t;
    if (radix !== undefined || decimal !== undefined)
      return BigInt((radix ?? decimal ?? '').replaceAll('_', ''));
    if (local !== undefined)
      return known(scope.local(Number(local), direction === 'f'), `${local}${direction}`);
    if (character !== undefined) return BigInt(unescapeBytes(character)[0] ?? 0);
    if (name !== undefined) return name === '.' ? scope.pc : known(scope.symbol(name), name);
    if (op === '-') return -primary();
    if (op === '+') return primary();
    if (op === '~') return ~primary();
    if (part === undefined && op !== '(') throw new ExpressionError(`${op} has no left side`);
    if (part !== undefined) expect('(');
    const value = binary(0);
    expect(')');
    if (part === undefined) return value;
    return part === '%hi' ? highPart(value) : lowPart(value);
  }
  function binary(level: number): bigint {
    const operators = LEVELS[level];
    if (operators === undefined) return primary();
    let value = binary(level + 1);
    for (let op = operator(); op !== undefined && operators.includes(op); op = operator()) {
      token = next();
      value = apply(op, value, binary(level + 1));
    }
    return value;
  }

  const value = binary(0);
  if (token !== undefined)
    throw new ExpressionError(`${token[0].trim()} is out of place in ${text}`);
  return value;
};
