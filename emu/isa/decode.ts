/**
 * The decoder: an encoding of 16 or 32 bits into the record of emu/isa/record.ts. Unprivileged ISA
 * 20240411. Reads emu/isa/table.ts once, into flat arrays; decoding allocates nothing. Encodings
 * longer than 32 bits are treated as illegal 32-bit ones.
 */
import type { Format } from './formats.ts';
import { OP_ILLEGAL } from './ops.ts';
import {
  RECORD_LENGTH_SHIFT,
  RECORD_RD_SHIFT,
  RECORD_RS1_SHIFT,
  RECORD_RS2_SHIFT,
} from './record.ts';
import { COMPRESSED, INSTRUCTIONS, type InstructionRow } from './table.ts';

/**
 * Rows are found through 288 buckets: 256 of major opcode and funct3 (bits 6..2 and 14..12), then
 * 32 of quadrant and funct3 of a compressed encoding (bits 1..0 and 15..13).
 */
const COMPRESSED_BUCKETS = 256;
const BUCKETS = COMPRESSED_BUCKETS + 32;

const bucketOf32 = (raw: number): number => ((raw >>> 2) & 31) | ((raw >>> 7) & 0xe0);
const bucketOf16 = (raw: number): number => COMPRESSED_BUCKETS | (raw & 3) | ((raw >>> 11) & 0x1c);

const bitCount = (x: number): number => {
  let n = 0;
  for (let rest = x >>> 0; rest !== 0; rest = (rest & (rest - 1)) >>> 0) n++;
  return n;
};

/** An encoding of each bucket: the bits that choose it, all others zero. */
const bucketProbes: readonly number[] = Array.from({ length: BUCKETS }, (_, i) =>
  i < COMPRESSED_BUCKETS ? ((i & 31) << 2) | ((i & 0xe0) << 7) | 3 : (i & 3) | ((i & 0x1c) << 11),
);

/** The rows a bucket's encodings can be: those whose mask leaves it open; most specific first. */
const candidatesOf = (probe: number): InstructionRow[] => {
  const [rows, fields] = (probe & 3) === 3 ? [INSTRUCTIONS, 0x707f] : [COMPRESSED, 0xe003];
  return rows
    .filter(([, match, mask]) => ((probe ^ match) & mask & fields) === 0)
    .sort((a, b) => bitCount(b[2]) - bitCount(a[2]));
};

// In this file the tables that decoding reads are constants, because V8 then knows their addresses.

/** The candidates of all buckets, one bucket after the other. */
const candidateRow: readonly InstructionRow[] = bucketProbes.flatMap(candidatesOf);
const candidateMatch = Int32Array.from(candidateRow, (row) => row[1]);
const candidateMask = Int32Array.from(candidateRow, (row) => row[2]);
const candidateOp = Int32Array.from(candidateRow, (row) => row[4]);
/** Index of the first candidate of a bucket; that of the next bucket ends the range. */
const bucketStart = new Int32Array(BUCKETS + 1);
bucketProbes.forEach((probe, bucket) => {
  bucketStart[bucket + 1] = bucketStart[bucket]! + candidatesOf(probe).length;
});

/** A format in flat form: three fields of shift, mask, plus; sign shift; first and last+1 part. */
const F_RD = 0;
const F_RS1 = 3;
const F_RS2 = 6;
const F_SIGN_SHIFT = 9;
const F_PARTS = 10;
const F_PARTS_END = 11;
const FORMAT_WORDS = 12;

const formats: readonly Format[] = [...new Set(candidateRow.map(([, , , format]) => format))];
/** Parts of the immediates of all formats: bit position, mask of the width, target bit. */
const partWords = Int32Array.from(
  formats.flatMap((f) => f.imm.flatMap(([at, width, to]) => [at, (1 << width) - 1, to])),
);
const formatWords = new Int32Array(formats.length * FORMAT_WORDS);
let partsEnd = 0;
formats.forEach((f, i) => {
  const parts = partsEnd;
  partsEnd += f.imm.length * 3;
  formatWords.set(
    [
      ...[f.rd, f.rs1, f.rs2].flatMap(({ shift, mask, plus }) => [shift, mask, plus]),
      ...[f.signedBits === 0 ? 0 : 32 - f.signedBits, parts, partsEnd],
    ],
    i * FORMAT_WORDS,
  );
});
const candidateFormat = Int32Array.from(
  candidateRow,
  ([, , , format]) => formats.indexOf(format) * FORMAT_WORDS,
);

/** Index of the candidate that fits, or -1. */
function findCandidate(raw: number): number {
  const bucket = (raw & 3) === 3 ? bucketOf32(raw) : bucketOf16(raw);
  const end = bucketStart[bucket + 1]!;
  for (let i = bucketStart[bucket]!; i < end; i++)
    if ((raw & candidateMask[i]!) === candidateMatch[i]!) return i;
  return -1;
}

/**
 * Row of the table for an encoding; undefined where it is illegal. Of a compressed encoding only
 * bits 15..0 count.
 */
export const findRow = (raw: number): InstructionRow | undefined => {
  const row = candidateRow[findCandidate(raw)];
  return row === undefined || row[4] === OP_ILLEGAL ? undefined : row;
};

/**
 * Decodes the instruction that begins with the low bits of `raw` into out[at] and out[at + 1].
 * @param raw 32 bits from the instruction stream; of a compressed instruction only 15..0 count
 * @returns its length in half-words, 1 or 2
 */
export const decode = (raw: number, out: Int32Array, at: number): number => {
  const length = (raw & 3) === 3 ? 2 : 1;
  const i = findCandidate(raw);
  const op = i < 0 ? OP_ILLEGAL : candidateOp[i]!;
  if (op === OP_ILLEGAL) {
    out[at] = OP_ILLEGAL | (32 << RECORD_RD_SHIFT) | (length << RECORD_LENGTH_SHIFT);
    out[at + 1] = length === 2 ? raw : raw & 0xffff;
    return length;
  }
  const f = candidateFormat[i]!;
  const rd = field(raw, f + F_RD);
  out[at] =
    op |
    ((rd === 0 ? 32 : rd) << RECORD_RD_SHIFT) |
    (field(raw, f + F_RS1) << RECORD_RS1_SHIFT) |
    (field(raw, f + F_RS2) << RECORD_RS2_SHIFT) |
    (length << RECORD_LENGTH_SHIFT);

  let imm = 0;
  const end = formatWords[f + F_PARTS_END]!;
  for (let p = formatWords[f + F_PARTS]!; p < end; p += 3)
    imm |= ((raw >>> partWords[p]!) & partWords[p + 1]!) << partWords[p + 2]!;
  const signShift = formatWords[f + F_SIGN_SHIFT]!;
  out[at + 1] = (imm << signShift) >> signShift;
  return length;
};

/** A register field, described by three words of formatWords. */
function field(raw: number, word: number): number {
  return ((raw >>> formatWords[word]!) & formatWords[word + 1]!) + formatWords[word + 2]!;
}
