/**
 * Assembly text to statements: comments, labels, mnemonic, operands. The syntax is that of the GNU
 * assembler for RISC-V, as far as emu/asm/ goes: `#` and `//` comments, `;` between statements.
 */

/** What is wrong with a program, and in which line of its text (the first is 1). */
export class AsmError extends Error {
  readonly line: number;

  constructor(line: number, what: string) {
    super(`line ${line}: ${what}`);
    this.name = 'AsmError';
    this.line = line;
  }
}

export interface Statement {
  line: number;
  /** Names before a colon; digits alone are a local label. */
  labels: readonly string[];
  /** Instruction or directive in lower case; '' where there are labels only. */
  mnemonic: string;
  operands: readonly string[];
}

/** Cuts `text` at each `separator` that is outside of quotes and parentheses. */
const splitOutside = (text: string, isSeparator: (rest: string) => boolean): string[] => {
  const pieces: string[] = [];
  let quote = '';
  let depth = 0;
  let start = 0;
  for (let i = 0; i < text.length; i++) {
    const c = text[i];
    if (quote !== '') {
      if (c === '\\') i++;
      else if (c === quote) quote = '';
    } else if (c === '"' || c === "'") quote = c;
    else if (c === '(') depth++;
    else if (c === ')') depth--;
    else if (depth === 0 && isSeparator(text.slice(i, i + 2))) {
      pieces.push(text.slice(start, i));
      start = i + 1;
    }
  }
  pieces.push(text.slice(start));
  return pieces;
};

const isComment = (rest: string): boolean => rest[0] === '#' || rest === '//';
const isSemicolon = (rest: string): boolean => rest[0] === ';';
const isComma = (rest: string): boolean => rest[0] === ',';

const LABEL = /^\s*([A-Za-z_.$][\w.$]*|\d+)\s*:/;
/** `name = value` is another way to write `.equ name, value`. */
const ASSIGNMENT = /^([A-Za-z_.$][\w.$]*)\s*=(?!=)(.*)$/s;

const parseStatement = (text: string, line: number): Statement => {
  const labels: string[] = [];
  let rest = text;
  for (let label = LABEL.exec(rest); label !== null; label = LABEL.exec(rest)) {
    labels.push(label[1] ?? '');
    rest = rest.slice(label[0].length);
  }
  rest = rest.trim();
  const assignment = ASSIGNMENT.exec(rest);
  if (assignment !== null)
    return {
      line,
      labels,
      mnemonic: '.equ',
      operands: [assignment[1] ?? '', (assignment[2] ?? '').trim()],
    };
  const gap = rest.search(/\s/);
  const mnemonic = (gap < 0 ? rest : rest.slice(0, gap)).toLowerCase();
  const tail = gap < 0 ? '' : rest.slice(gap).trim();
  const operands = tail === '' ? [] : splitOutside(tail, isComma).map((o) => o.trim());
  if (operands.includes('')) throw new AsmError(line, `${mnemonic}: an operand is empty`);
  return { line, labels, mnemonic, operands };
};

/** All statements of a program, in order. @throws AsmError */
export const parseSource = (text: string): Statement[] =>
  text.split('\n').flatMap((lineText, i) => {
    const code = splitOutside(lineText, isComment)[0] ?? '';
    return splitOutside(code, isSemicolon)
      .map((piece) => parseStatement(piece, i + 1))
      .filter(({ labels, mnemonic }) => labels.length > 0 || mnemonic !== '');
  });

const ESCAPES: Readonly<Record<string, number>> = { n: 10, t: 9, r: 13, 0: 0 };

/** Bytes of a string or character constant without its quotes: UTF-8, with C's usual escapes. */
export const unescapeBytes = (body: string): number[] => {
  const bytes: number[] = [];
  for (const [piece] of body.matchAll(/\\x[0-9a-fA-F]{1,2}|\\.|[^\\]+/gsu)) {
    if (piece.startsWith('\\x') && piece.length > 2)
      bytes.push(Number.parseInt(piece.slice(2), 16));
    else if (piece.startsWith('\\')) {
      const c = piece.slice(1);
      bytes.push(...(c in ESCAPES ? [ESCAPES[c] ?? 0] : new TextEncoder().encode(c)));
    } else bytes.push(...new TextEncoder().encode(piece));
  }
  return bytes;
};
