/** Checksums of data, a word for each block. Compare fs/btrfs/file-item.c:btrfs_csum_one_bio(). */
import { addField, readOnce, writeOnce } from '#cells';
import { BLOCK_SIZE } from '../../block/state.ts';
import type { Kernel } from '../../types.ts';
import { journalDirtySum } from './handle.ts';
import { WORDS_PER_BLOCK } from './layout.ts';
import { checksumWords } from './records.ts';
import { EIO } from '../../errno.ts';
import type { ExtentFs } from './state.ts';

/** Checksum of a page of memory as it is now. */
export const checksumPage = (k: Kernel, page: number): number =>
  checksumWords(k.memory.i32, k.memory.pageOffset(page) >>> 2, WORDS_PER_BLOCK);

/** Checksum of a block's bytes. @param bytes 4096 of them, at a multiple of 4 in their buffer */
export const extentChecksumOf = (bytes: Uint8Array): number =>
  checksumWords(
    new Int32Array(bytes.buffer, bytes.byteOffset, WORDS_PER_BLOCK),
    0,
    bytes.length / (BLOCK_SIZE / WORDS_PER_BLOCK),
  );

/** A block has new bytes, whose checksum this is. In a handle. */
export const setChecksum = (fs: ExtentFs, block: number, sum: number): void => {
  if (fs.checksums === null) return;
  writeOnce(fs.checksums, block, sum);
  journalDirtySum(fs, block);
};

/** Are the bytes that were read from a block into a page what was written there? Counts where not. @returns 0 or -EIO */
export const checkBlock = (k: Kernel, fs: ExtentFs, block: number, page: number): number => {
  const sum = fs.checksums === null ? 0 : readOnce(fs.checksums, block);
  if (sum === 0 || sum === checksumPage(k, page)) return 0;
  addField(fs, 'checksumErrors', 1);
  return -EIO;
};
