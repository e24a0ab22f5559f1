/** Records of the journal as blocks, and the checksums of what it and files hold. Compare include/linux/jbd2.h. */
import { BLOCK_SIZE } from '../../block/state.ts';
import { TRANSACTION_BLOCKS_MAX, WORDS_PER_BLOCK } from './layout.ts';
import type { HomeImage } from './images.ts';

const DESCRIPTOR_MAGIC = 0x67756a64;
const COMMIT_MAGIC = 0x67756a63;
const HEADER_WORDS = 4;

const wordsOf = (bytes: Uint8Array): Int32Array =>
  new Int32Array(bytes.buffer, bytes.byteOffset, WORDS_PER_BLOCK);

export const descriptorToBytes = (seq: number, images: readonly HomeImage[]): Uint8Array => {
  const bytes = new Uint8Array(BLOCK_SIZE);
  wordsOf(bytes).set([DESCRIPTOR_MAGIC, seq, images.length, 0, ...images.map(({ home }) => home)]);
  return bytes;
};

/** @returns the home blocks of transaction `seq`, or null where no such transaction begins */
export const descriptorFromBytes = (bytes: Uint8Array, seq: number): number[] | null => {
  const words = wordsOf(bytes);
  const [magic, found, count = 0] = words;
  if (magic !== DESCRIPTOR_MAGIC || found !== seq) return null;
  if (count < 1 || count > TRANSACTION_BLOCKS_MAX) return null;
  return [...words.subarray(HEADER_WORDS, HEADER_WORDS + count)];
};

export const commitToBytes = (seq: number, checksum: number): Uint8Array => {
  const bytes = new Uint8Array(BLOCK_SIZE);
  wordsOf(bytes).set([COMMIT_MAGIC, seq, checksum]);
  return bytes;
};

/** Has transaction `seq`, of blocks with that checksum, been committed? */
export const isCommit = (bytes: Uint8Array, seq: number, checksum: number): boolean => {
  const words = wordsOf(bytes);
  return words[0] === COMMIT_MAGIC && words[1] === seq && words[2] === checksum;
};

const PRIME = 0x9e3779b1;

/** One step of a lane: never the same for two values of the word, and bits reach all others in time. */
const mix = (lane: number, word: number): number => {
  const product = Math.imul(lane ^ word, PRIME);
  return (product << 13) | (product >>> 19);
};

/**
 * Checksum of `nr` words, a multiple of 4: a change of one word always changes it. Never 0, which
 * stands for none.
 */
export const checksumWords = (words: Int32Array, first: number, nr: number): number => {
  let a = 1;
  let b = 2;
  let c = 3;
  let d = 4;
  for (let i = first; i < first + nr; i += 4) {
    a = mix(a, words[i]!);
    b = mix(b, words[i + 1]!);
    c = mix(c, words[i + 2]!);
    d = mix(d, words[i + 3]!);
  }
  return mix(mix(mix(a, b), c), d) || 1;
};

/** Checksum of blocks, one after the other. */
export const checksumOf = (blocks: readonly Uint8Array[]): number => {
  let sum = 0;
  for (const bytes of blocks) sum = mix(sum, checksumWords(wordsOf(bytes), 0, WORDS_PER_BLOCK));
  return sum;
};
