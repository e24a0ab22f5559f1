/**
 * What memory holds: a block of bytes, repeated for as long as the memory is.
 *
 * No two pages of a block of 2 MiB are alike, so that a page in another one's place is found too.
 */
import { PAGE_SIZE } from '#emu';

const BLOCK_BYTES = 2 * 2 ** 20;

/** Bytes of memory by their offset in it, modulo the length. */
export type Content = Uint8Array;

/** Every byte is below 0x80; each word of a page says which page it is. */
const written = (): Content => {
  const words = new Uint32Array(BLOCK_BYTES / 4);
  for (let i = 0; i < words.length; i++) {
    const page = Math.floor((4 * i) / PAGE_SIZE);
    words[i] = 0x0100_0001 | ((page & 0x7f) << 8) | ((page >>> 7) << 16);
  }
  return new Uint8Array(words.buffer);
};

/** What memory is filled with before anything happens to it. */
export const WRITTEN: Content = written();
/** What it is filled with later: every byte differs from the one before. */
export const MODIFIED: Content = new Uint8Array(BLOCK_BYTES).fill(0xff);
/** What nobody has written yet. */
export const ZEROES: Content = new Uint8Array(BLOCK_BYTES);

/** The content's bytes from an offset on: at most `lenBytes`, fewer where the block ends. */
export const contentAt = (content: Content, offset: number, lenBytes: number): Uint8Array => {
  const from = offset % content.length;
  return content.subarray(from, Math.min(content.length, from + lenBytes));
};

/**
 * Compares bytes with the content from an offset on.
 * @returns index of the first byte that differs, -1 when none does
 */
export const differsFrom = (bytes: Uint8Array, content: Content, offset: number): number => {
  for (let at = 0; at < bytes.length; ) {
    const expected = contentAt(content, offset + at, bytes.length - at);
    const part = bytes.subarray(at, at + expected.length);
    if (Buffer.compare(part, expected) !== 0)
      return at + expected.findIndex((byte, i) => byte !== part[i]);
    at += part.length;
  }
  return -1;
};
