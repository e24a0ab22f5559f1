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

/** The candidates of all buckets, one bucket after the other; the most specific ones first. */
const bucketStart = new Uint16Array(BUCKETS + 1);
let candidateMask: Int32Array;
let candidateMatch: Int32Array;
let candidateOp: Int32Array;
let candidateFormat: Int32Array;
const candidateRow: InstructionRow[] = [];

/** A format in flat form: three fields of shift, mask, plus; sign shift; first and last+1 part. */
const F_RD = 0;
const F_RS1 = 3;
const F_RS2 = 6;
const F_SIGN_SHIFT = 9;
const F_PARTS = 10;
const F_PARTS_END = 11;
let formatWords: Int32Array;
/** Parts of immediates: bit position, mask of the width, target bit. */
let partWords: Int32Array;

buildBuckets();
buildFormats();

function bitCount(x: number): number {
  let n = 0;
  for (let rest = x >>> 0; rest !== 0; rest = (rest & (rest - 1)) >>> 0) n++;
  return n;
}

/** Puts a row into every bucket that its mask leaves open. */
function buildBuckets(): void {
  const rows = [...INSTRUCTIONS, ...COMPRESSED].sort((a, b) => bitCount(b[2]) - bitCount(a[2]));
  const probes: [raw: number, bucketOf: (raw: number) => number][] = [];
  for (let i = 0; i < COMPRESSED_BUCKETS; i++)
    probes.push([((i & 31) << 2) | ((i & 0xe0) << 7) | 3, bucketOf32]);
  for (let i = 0; i < BUCKETS - COMPRESSED_BUCKETS; i++)
    probes.push([(i & 3) | ((i & 0x1c) << 11), bucketOf16]);
  probes.forEach(([raw, bucketOf], bucket) => {
    const fields = bucketOf === bucketOf32 ? 0x707f : 0xe003;
    for (const row of rows) {
      const [, match, mask] = row;
      const sameLength = ((match & 3) === 3) === (bucketOf === bucketOf32);
      if (sameLength && ((raw ^ match) & mask & fields) === 0) candidateRow.push(row);
    }
    bucketStart[bucket + 1] = candidateRow.length;
  });
  candidateMatch = Int32Array.from(candidateRow, (row) => row[1]);
  candidateMask = Int32Array.from(candidateRow, (row) => row[2]);
  candidateOp = Int32Array.from(candidateRow, (row) => row[4]);
}

function buildFormats(): void {
  const indexOf = new Map<Format, number>();
  const words: number[] = [];
  const parts: number[] = [];
  for (const [, , , format] of candidateRow) {
    if (indexOf.has(format)) continue;
    indexOf.set(format, words.length);
    for (const { shift, mask, plus } of [format.rd, format.rs1, format.rs2])
      words.push(shift, mask, plus);
    words.push(format.signedBits === 0 ? 0 : 32 - format.signedBits, parts.length);
    for (const [at, width, to] of format.imm) parts.push(at, (1 << width) - 1, to);
    words.push(parts.length);
  }
  formatWords = Int32Array.from(words);
  partWords = Int32Array.from(parts);
  candidateFormat = Int32Array.from(candidateRow, (row) => indexOf.get(row[3]) ?? 0);
}

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
  const partsEnd = formatWords[f + F_PARTS_END]!;
  for (let p = formatWords[f + F_PARTS]!; p < partsEnd; p += 3)
    imm |= ((raw >>> partWords[p]!) & partWords[p + 1]!) << partWords[p + 2]!;
  const signShift = formatWords[f + F_SIGN_SHIFT]!;
  out[at + 1] = (imm << signShift) >> signShift;
  return length;
};

/** A register field, described by three words of formatWords. */
function field(raw: number, word: number): number {
  return ((raw >>> formatWords[word]!) & formatWords[word + 1]!) + formatWords[word + 2]!;
}
