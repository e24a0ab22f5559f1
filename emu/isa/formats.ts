/**
 * Instruction formats: where an encoding keeps its registers and the parts of its immediate, and how
 * its operands are written in assembly. Unprivileged ISA 20240411, 2.2 (base), 13.1 (A), 26.2-26.8
 * (C). A format says everything once; extraction and insertion below are the only code that reads it.
 */

/** A register field: (raw >>> shift & mask) + plus. A mask of 0 is the fixed register `plus`. */
export interface RegisterField {
  shift: number;
  mask: number;
  plus: number;
}

/** `width` bits of the encoding from bit `at` are bits `to`, `to`+1, ... of the immediate. */
export type ImmediatePart = readonly [at: number, width: number, to: number];

/**
 * One operand as assembly text has it:
 * rd rs1 rs2 - a register; imm - a number; upper - bits 31..12 of the immediate, as LUI has them;
 * target - a place in the code, the immediate being its distance; mem - imm(rs1); base - (rs1);
 * csr - a CSR's name or number; uimm - the rs1 field as a number; pred succ - a set out of `iorw`.
 */
export type Operand =
  | 'rd'
  | 'rs1'
  | 'rs2'
  | 'imm'
  | 'upper'
  | 'target'
  | 'mem'
  | 'base'
  | 'csr'
  | 'uimm'
  | 'pred'
  | 'succ';

export interface Format {
  operands: readonly Operand[];
  rd: RegisterField;
  rs1: RegisterField;
  rs2: RegisterField;
  imm: readonly ImmediatePart[];
  /** Bits of a signed immediate, its sign included; 0 = unsigned. */
  signedBits: number;
  /** The mnemonic takes .aq, .rl or .aqrl, which is the immediate. */
  ordered: boolean;
}

const fixed = (register: number): RegisterField => ({ shift: 0, mask: 0, plus: register });
const full = (shift: number): RegisterField => ({ shift, mask: 31, plus: 0 });
/** Three bits that name x8..x15: rd', rs1', rs2' of the compressed formats. */
const short = (shift: number): RegisterField => ({ shift, mask: 7, plus: 8 });

const NONE = fixed(0);
const RA = fixed(1);
const SP = fixed(2);
const RD = full(7);
const RS1 = full(15);
const RS2 = full(20);
const C_RS2 = full(2);

const format = (
  operands: readonly Operand[],
  fields: Partial<Omit<Format, 'operands'>> = {},
): Format => ({
  operands,
  rd: NONE,
  rs1: NONE,
  rs2: NONE,
  imm: [],
  signedBits: 0,
  ordered: false,
  ...fields,
});

/* ---- 32-bit formats ---- */
const IMM_I = { imm: [[20, 12, 0]], signedBits: 12 } as const;

export const FORMAT_NONE = format([]);
export const FORMAT_R = format(['rd', 'rs1', 'rs2'], { rd: RD, rs1: RS1, rs2: RS2 });
/** One source: CLZ, SEXT.B, REV8. */
export const FORMAT_UNARY = format(['rd', 'rs1'], { rd: RD, rs1: RS1 });
export const FORMAT_I = format(['rd', 'rs1', 'imm'], { rd: RD, rs1: RS1, ...IMM_I });
/** Loads and JALR. */
export const FORMAT_LOAD = format(['rd', 'mem'], { rd: RD, rs1: RS1, ...IMM_I });
export const FORMAT_SHIFT = format(['rd', 'rs1', 'imm'], { rd: RD, rs1: RS1, imm: [[20, 6, 0]] });
export const FORMAT_SHIFT_W = format(['rd', 'rs1', 'imm'], {
  rd: RD,
  rs1: RS1,
  imm: [[20, 5, 0]],
});
export const FORMAT_S = format(['rs2', 'mem'], {
  rs1: RS1,
  rs2: RS2,
  imm: [
    [7, 5, 0],
    [25, 7, 5],
  ],
  signedBits: 12,
});
export const FORMAT_B = format(['rs1', 'rs2', 'target'], {
  rs1: RS1,
  rs2: RS2,
  imm: [
    [8, 4, 1],
    [25, 6, 5],
    [7, 1, 11],
    [31, 1, 12],
  ],
  signedBits: 13,
});
export const FORMAT_U = format(['rd', 'upper'], { rd: RD, imm: [[12, 20, 12]], signedBits: 32 });
export const FORMAT_J = format(['rd', 'target'], {
  rd: RD,
  imm: [
    [21, 10, 1],
    [20, 1, 11],
    [12, 8, 12],
    [31, 1, 20],
  ],
  signedBits: 21,
});
export const FORMAT_FENCE = format(['pred', 'succ'], { imm: [[20, 12, 0]] });
/** A fence whose sets its mnemonic names. */
export const FORMAT_FENCE_NAMED = format([], { imm: [[20, 12, 0]] });
/** Cache-block operations. */
export const FORMAT_CBO = format(['base'], { rs1: RS1 });
export const FORMAT_CSR = format(['rd', 'csr', 'rs1'], { rd: RD, rs1: RS1, imm: [[20, 12, 0]] });
export const FORMAT_CSR_I = format(['rd', 'csr', 'uimm'], {
  rd: RD,
  rs1: RS1,
  imm: [[20, 12, 0]],
});

const ORDER = { imm: [[25, 2, 0]], ordered: true } as const;
export const FORMAT_LR = format(['rd', 'base'], { rd: RD, rs1: RS1, ...ORDER });
export const FORMAT_AMO = format(['rd', 'rs2', 'base'], { rd: RD, rs1: RS1, rs2: RS2, ...ORDER });
/** SFENCE.VMA and HFENCE: an address or guest page, and an ASID or VMID. */
export const FORMAT_FENCE_VMA = format(['rs1', 'rs2'], { rs1: RS1, rs2: RS2 });
export const FORMAT_HLV = format(['rd', 'base'], { rd: RD, rs1: RS1 });
export const FORMAT_HSV = format(['rs2', 'base'], { rs1: RS1, rs2: RS2 });

/* ---- 16-bit formats: registers as the expansion has them (26.4-26.8) ---- */
const IMM_C_WORD: readonly ImmediatePart[] = [
  [6, 1, 2],
  [10, 3, 3],
  [5, 1, 6],
];
const IMM_C_DOUBLE: readonly ImmediatePart[] = [
  [10, 3, 3],
  [5, 2, 6],
];
const IMM_CI: readonly ImmediatePart[] = [
  [2, 5, 0],
  [12, 1, 5],
];

export const FORMAT_CIW = format(['rd', 'rs1', 'imm'], {
  rd: short(2),
  rs1: SP,
  imm: [
    [6, 1, 2],
    [5, 1, 3],
    [11, 2, 4],
    [7, 4, 6],
  ],
});
export const FORMAT_CL_W = format(['rd', 'mem'], { rd: short(2), rs1: short(7), imm: IMM_C_WORD });
export const FORMAT_CL_D = format(['rd', 'mem'], {
  rd: short(2),
  rs1: short(7),
  imm: IMM_C_DOUBLE,
});
export const FORMAT_CS_W = format(['rs2', 'mem'], {
  rs2: short(2),
  rs1: short(7),
  imm: IMM_C_WORD,
});
export const FORMAT_CS_D = format(['rs2', 'mem'], {
  rs2: short(2),
  rs1: short(7),
  imm: IMM_C_DOUBLE,
});
/** C.ADDI, C.ADDIW: rd is also the source. */
export const FORMAT_CI = format(['rd', 'imm'], { rd: RD, rs1: RD, imm: IMM_CI, signedBits: 6 });
export const FORMAT_C_LI = format(['rd', 'imm'], { rd: RD, imm: IMM_CI, signedBits: 6 });
export const FORMAT_C_LUI = format(['rd', 'upper'], {
  rd: RD,
  imm: [
    [2, 5, 12],
    [12, 1, 17],
  ],
  signedBits: 18,
});
export const FORMAT_C_ADDI16SP = format(['rd', 'imm'], {
  rd: SP,
  rs1: SP,
  imm: [
    [6, 1, 4],
    [2, 1, 5],
    [5, 1, 6],
    [3, 2, 7],
    [12, 1, 9],
  ],
  signedBits: 10,
});
export const FORMAT_C_SLLI = format(['rd', 'imm'], { rd: RD, rs1: RD, imm: IMM_CI });
/** C.SRLI, C.SRAI. */
export const FORMAT_CB_SHIFT = format(['rd', 'imm'], {
  rd: short(7),
  rs1: short(7),
  imm: IMM_CI,
});
export const FORMAT_C_ANDI = format(['rd', 'imm'], {
  rd: short(7),
  rs1: short(7),
  imm: IMM_CI,
  signedBits: 6,
});
export const FORMAT_CA = format(['rd', 'rs2'], { rd: short(7), rs1: short(7), rs2: short(2) });
export const FORMAT_CJ = format(['target'], {
  imm: [
    [3, 3, 1],
    [11, 1, 4],
    [2, 1, 5],
    [7, 1, 6],
    [6, 1, 7],
    [9, 2, 8],
    [8, 1, 10],
    [12, 1, 11],
  ],
  signedBits: 12,
});
export const FORMAT_CB = format(['rs1', 'target'], {
  rs1: short(7),
  imm: [
    [3, 2, 1],
    [10, 2, 3],
    [2, 1, 5],
    [5, 2, 6],
    [12, 1, 8],
  ],
  signedBits: 9,
});
export const FORMAT_C_LWSP = format(['rd', 'mem'], {
  rd: RD,
  rs1: SP,
  imm: [
    [4, 3, 2],
    [12, 1, 5],
    [2, 2, 6],
  ],
});
export const FORMAT_C_LDSP = format(['rd', 'mem'], {
  rd: RD,
  rs1: SP,
  imm: [
    [5, 2, 3],
    [12, 1, 5],
    [2, 3, 6],
  ],
});
export const FORMAT_C_SWSP = format(['rs2', 'mem'], {
  rs2: C_RS2,
  rs1: SP,
  imm: [
    [9, 4, 2],
    [7, 2, 6],
  ],
});
export const FORMAT_C_SDSP = format(['rs2', 'mem'], {
  rs2: C_RS2,
  rs1: SP,
  imm: [
    [10, 3, 3],
    [7, 3, 6],
  ],
});
/** C.MV: ADD rd, x0, rs2. */
export const FORMAT_C_MV = format(['rd', 'rs2'], { rd: RD, rs2: C_RS2 });
export const FORMAT_C_ADD = format(['rd', 'rs2'], { rd: RD, rs1: RD, rs2: C_RS2 });
/** C.JR: JALR x0, 0(rs1). */
export const FORMAT_C_JR = format(['rs1'], { rs1: RD });
/** C.JALR: JALR ra, 0(rs1). */
export const FORMAT_C_JALR = format(['rs1'], { rd: RA, rs1: RD });

/** The register number that a field of `raw` holds. */
export const extractRegister = (field: RegisterField, raw: number): number =>
  ((raw >>> field.shift) & field.mask) + field.plus;

/** Bits of an encoding for a register, or undefined where the field cannot name it. */
export const insertRegister = (field: RegisterField, register: number): number | undefined => {
  const bits = register - field.plus;
  return bits >= 0 && bits <= field.mask ? bits << field.shift : undefined;
};

/** The immediate of `raw`, as an int32. */
export const extractImmediate = (f: Format, raw: number): number => {
  let imm = 0;
  for (const [at, width, to] of f.imm) imm |= ((raw >>> at) & ((1 << width) - 1)) << to;
  return f.signedBits === 0 ? imm : (imm << (32 - f.signedBits)) >> (32 - f.signedBits);
};

/** Bits of an encoding for an immediate, or undefined where the format cannot hold it. */
export const insertImmediate = (f: Format, imm: number): number | undefined => {
  let raw = 0;
  for (const [at, width, to] of f.imm) raw |= ((imm >>> to) & ((1 << width) - 1)) << at;
  return extractImmediate(f, raw) === imm ? raw : undefined;
};
