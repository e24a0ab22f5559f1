/**
 * The journal: transactions of metadata, committed as one, written home later. Compare
 * fs/jbd2/commit.c, fs/jbd2/checkpoint.c, Documentation/filesystems/journalling.rst.
 *
 *   descriptor   magic, number, count, home block of each of
 *   images       count blocks, as they were when the commit began
 *   -- flush: they are durable, and so is all data that they refer to --
 *   commit       magic, number, checksum of the images; durable when written (FUA)
 *
 * Data is ordered by when metadata changes: a block becomes part of a file when its data has reached
 * the device, so that no transaction refers to one whose data is still on its way.
 */
import { mapSet, setField } from '#cells';
import { blockDeviceFlush, bioAlloc, bioSubmit, bioWait } from '../../block/bio.ts';
import { blockDeviceOf } from '../../block/device.ts';
import { BLOCK_SIZE } from '../../block/state.ts';
import { EIO } from '../../errno.ts';
import { type Path, YP_WAIT } from '../../path.ts';
import type { Kernel } from '../../types.ts';
import { freshTransaction } from './handle.ts';
import { type HomeImage, imagesOf } from './images.ts';
import { superOf, superToBytes, TRANSACTION_BLOCKS_MAX } from './layout.ts';
import { checksumOf, commitToBytes, descriptorToBytes } from './records.ts';
import { returnBlocks } from './space.ts';
import type { ExtentFs, Journal, Transaction } from './state.ts';

/** Blocks of metadata that one transaction can have. */
const transactionMax = (journal: Journal): number =>
  Math.min(TRANSACTION_BLOCKS_MAX, journal.nrBlocks - 2);

/** Opens a handle where the running transaction has room for it. @returns false: journalStart() has to make room */
export const journalTryStart = (fs: ExtentFs, credits: number): boolean => {
  const { journal } = fs;
  if (journal.credits >= 0) throw new Error(`file system ${fs.id}: a handle is open already`);
  if (journal.aborted || journal.running.nrBlocks + credits > transactionMax(journal)) return false;
  setField(journal, 'credits', credits);
  return true;
};

/**
 * Opens a handle; commits first where the running transaction has no room. Nothing may yield until
 * journalStop().
 * @param credits blocks of metadata that the change needs at most, asked for again after a commit
 * @returns 0, or -EIO when the journal has been aborted. Compare jbd2_journal_start()
 */
export function* journalStart(k: Kernel, fs: ExtentFs, credits: () => number): Path<number> {
  while (!journalTryStart(fs, credits())) {
    if (fs.journal.aborted) return -EIO;
    if (fs.journal.running.nrBlocks === 0)
      throw new Error(`file system ${fs.id}: ${credits()} blocks do not fit into a transaction`);
    yield* journalCommit(k, fs);
  }
  return 0;
}

export const journalStop = (fs: ExtentFs): void => {
  if (fs.journal.credits < 0) throw new Error(`file system ${fs.id}: no handle is open`);
  setField(fs.journal, 'credits', -1);
};

/**
 * Commits what runs: when it is done, a crash cannot take back what was changed before the call. A
 * commit that is on its way is waited for first.
 * @returns 0 or -EIO. Compare jbd2_journal_commit_transaction()
 */
export function* journalCommit(k: Kernel, fs: ExtentFs): Path<number> {
  const { journal } = fs;
  while (journal.busy) yield YP_WAIT;
  if (journal.aborted) return -EIO;
  const transaction = journal.running;
  if (transaction.nrBlocks === 0) return 0;
  setField(journal, 'busy', true);
  setField(journal, 'running', freshTransaction(transaction.seq + 1));
  const images = imagesOf(k, fs, transaction);
  let status = 0;
  if (images.length + 2 > journal.nrBlocks - journal.nrUsed) status = yield* writeHome(k, fs);
  if (status === 0) status = yield* writeTransaction(k, fs, transaction.seq, images);
  if (status === 0) committed(fs, transaction, images);
  else setField(journal, 'aborted', true);
  setField(journal, 'busy', false);
  return status;
}

/** Everything that is committed is written home, and the journal is empty. @returns 0 or -EIO. Compare jbd2_log_do_checkpoint() */
export function* journalCheckpoint(k: Kernel, fs: ExtentFs): Path<number> {
  const { journal } = fs;
  while (journal.busy) yield YP_WAIT;
  if (journal.aborted) return -EIO;
  setField(journal, 'busy', true);
  const status = yield* writeHome(k, fs);
  if (status !== 0) setField(journal, 'aborted', true);
  setField(journal, 'busy', false);
  return status;
}

/** The transaction stands: what it has freed may be had by others, its blocks have to go home some time. */
const committed = (fs: ExtentFs, transaction: Transaction, images: readonly HomeImage[]): void => {
  const { journal } = fs;
  for (const { home, bytes } of images) mapSet(journal.unwritten, home, bytes);
  setField(journal, 'nrUsed', journal.nrUsed + images.length + 2);
  setField(journal, 'committedSeq', transaction.seq);
  for (const { block, nr } of transaction.freed) returnBlocks(fs, block, nr);
};

/** Blocks of the device, one after the other. @returns 0 or -EIO */
function* writeBlocks(
  k: Kernel,
  fs: ExtentFs,
  block: number,
  bytes: Uint8Array,
  fua = false,
): Path<number> {
  const dev = blockDeviceOf(k, fs.device);
  const bio = bioAlloc('write', block * BLOCK_SIZE, [], fua, bytes);
  bioSubmit(k, dev, bio);
  return yield* bioWait(k, dev, bio);
}

/** The device's block that is `i` blocks after the journal's tail. */
const ringBlock = ({ firstBlock, nrBlocks, tail }: Journal, i: number): number =>
  firstBlock + ((tail + i) % nrBlocks);

function* writeTransaction(
  k: Kernel,
  fs: ExtentFs,
  seq: number,
  images: readonly HomeImage[],
): Path<number> {
  const { journal } = fs;
  const blocks = [descriptorToBytes(seq, images), ...images.map(({ bytes }) => bytes)];
  for (let i = 0; i < blocks.length; ) {
    const first = ringBlock(journal, journal.nrUsed + i);
    const nr = Math.min(blocks.length - i, journal.firstBlock + journal.nrBlocks - first);
    const status = yield* writeBlocks(k, fs, first, joined(blocks.slice(i, i + nr)));
    if (status !== 0) return status;
    i += nr;
  }
  const status = yield* blockDeviceFlush(k, blockDeviceOf(k, fs.device));
  if (status !== 0) return status;
  const at = ringBlock(journal, journal.nrUsed + blocks.length);
  return yield* writeBlocks(k, fs, at, commitToBytes(seq, checksumOf(blocks)), true);
}

const joined = (blocks: readonly Uint8Array[]): Uint8Array => {
  const all = new Uint8Array(blocks.length * BLOCK_SIZE);
  blocks.forEach((bytes, i) => {
    all.set(bytes, i * BLOCK_SIZE);
  });
  return all;
};

/** Every committed block home, durable; then the superblock says that the journal begins after them. */
function* writeHome(k: Kernel, fs: ExtentFs): Path<number> {
  const { journal } = fs;
  for (const [home, bytes] of journal.unwritten) {
    const status = yield* writeBlocks(k, fs, home, bytes);
    if (status !== 0) return status;
  }
  const status = yield* blockDeviceFlush(k, blockDeviceOf(k, fs.device));
  if (status !== 0) return status;
  setField(journal, 'tail', (journal.tail + journal.nrUsed) % journal.nrBlocks);
  setField(journal, 'tailSeq', journal.committedSeq + 1);
  setField(journal, 'nrUsed', 0);
  setField(journal, 'unwritten', new Map());
  return yield* writeBlocks(k, fs, 0, superToBytes(superOf(fs)), true);
}
