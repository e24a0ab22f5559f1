/**
 * splice() between files and pipes. Compare fs/splice.c, mm/filemap.c:filemap_splice_read(),
 * mm/shmem.c:shmem_file_splice_read().
 *
 * From a file a pipe gets the pages of its cache themselves, by reference: to be read, and never to be
 * written to, whatever comes later. What is written to the file meanwhile the reader sees. To a file
 * the bytes are copied; with SPLICE_F_MOVE a page that nobody else has is put into the file's cache
 * instead, which Linux did for all files until 2.6.21, and does for FUSE's device still
 * (fuse_try_move_folio()).
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EINVAL } from '../errno.ts';
import { folioGet, folioOf, folioTestFlags, folioUnlock } from '../folio/folio.ts';
import { PG_UPTODATE } from '../frames/table.ts';
import { fileRead, fileWrite } from '../fs/file.ts';
import { mappingPageAt } from '../fs/mapping.ts';
import { operationsOf } from '../fs/operations.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel } from '../types.ts';
import { moveIntoFile } from './move.ts';
import {
  type Pipe,
  type PipeBuffer,
  PIPE_BUFFERS,
  pipeBufConfirm,
  pipeConsume,
  pipeIsFull,
  pipePush,
  pipeWrite,
} from './pipe.ts';
import { SPLICE_F_MOVE, SPLICE_F_NONBLOCK, spliceFlagsLegal } from './vmsplice.ts';

/** Where a file ends. Files in memory have whole pages. */
const fileSizeBytes = ({ inode, nrPages }: AddressSpace): number =>
  inode === null ? nrPages * PAGE_SIZE : inode.sizeBytes;

/** Files whose pages a pipe can have. hugetlbfs, secretmem and drivers' files cannot be spliced at all. */
const hasPageCache = ({ kind }: AddressSpace): boolean => kind === 'shmem' || kind === 'extent';

/**
 * The page at an offset, with a reference. One that the cache has is taken as it is, if it is up to
 * date or need not be: not the first, so that somebody else will look again (pipeBufConfirm). Linux has
 * waited for every page since 4.9.
 * @returns the page; -EAGAIN it would have to be waited for, and may not; errors of getPage
 */
function* pageToSplice(
  k: Kernel,
  mapping: AddressSpace,
  pgoff: number,
  first: boolean,
  nonblock: boolean,
): Path<number> {
  const cached = mappingPageAt(mapping, pgoff);
  if (cached !== undefined && (!first || folioTestFlags(k, folioOf(k, cached), PG_UPTODATE))) {
    folioGet(k, folioOf(k, cached));
    return cached;
  }
  if (cached === undefined && mapping.kind === 'shmem' && !mapping.swapped.has(pgoff)) {
    folioGet(k, k.state.zeroPage);
    return k.state.zeroPage;
  }
  if (nonblock) return -EAGAIN;
  const page = yield* operationsOf(mapping).getPage(k, mapping, pgoff, 0);
  if (page >= 0) folioUnlock(k, folioOf(k, page));
  return page;
}

/** What a pipe cannot have by reference: copied into pages of its own. Compare copy_splice_read() */
function* copyToPipe(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  pipe: Pipe,
  lenBytes: number,
): Path<number> {
  const room = (PIPE_BUFFERS - pipe.buffers.length) * PAGE_SIZE;
  const bytes = new Uint8Array(Math.min(room, lenBytes));
  const n = yield* fileRead(k, mapping, offset, bytes);
  return n <= 0 ? n : pipeWrite(k, pipe, bytes.subarray(0, n));
}

/**
 * splice() from a file: its bytes from `offset` on are in the pipe, as references to the pages of its
 * cache; of a hole of shmem to the zero page; of a DAX file as a copy.
 * @param flags SPLICE_F_*
 * @returns bytes, fewer than asked for where the pipe is full or the file ends, 0 at its end; with none
 *   -EAGAIN full, or with SPLICE_F_NONBLOCK not in the cache; -EINVAL flags, or such a file cannot be
 *   spliced; -ENOMEM, -EIO
 */
export function* spliceFileToPipe(
  k: Kernel,
  mapping: AddressSpace,
  offset: number,
  pipe: Pipe,
  lenBytes: number,
  flags = 0,
): Path<number> {
  if (!spliceFlagsLegal(flags) || offset < 0 || lenBytes < 0) return -EINVAL;
  if (!hasPageCache(mapping) && mapping.kind !== 'fsdax') return -EINVAL;
  if (lenBytes === 0) return 0;
  if (pipeIsFull(pipe)) return -EAGAIN;
  if (mapping.kind === 'fsdax') return yield* copyToPipe(k, mapping, offset, pipe, lenBytes);
  const nonblock = (flags & SPLICE_F_NONBLOCK) !== 0;
  let done = 0;
  while (done < lenBytes && !pipeIsFull(pipe)) {
    const at = offset + done;
    if (at >= fileSizeBytes(mapping)) break;
    const pgoff = Math.floor(at / PAGE_SIZE);
    const page = yield* pageToSplice(k, mapping, pgoff, done === 0, nonblock);
    if (page < 0) return done > 0 ? done : page;
    // Looked at again: the file may have become shorter while the page was waited for.
    const left = Math.min(lenBytes - done, Math.max(0, fileSizeBytes(mapping) - at));
    const inPage = at % PAGE_SIZE;
    const n = Math.min(PAGE_SIZE - inPage, left);
    const canMerge = k.sabotage.spliceKeepsMerge;
    pipePush(k, pipe, { page, offset: inPage, lenBytes: n, hold: 'cache', gift: false, canMerge });
    done += n;
  }
  return done;
}

/** One buffer's bytes into a file: the page itself, or a copy. @returns bytes that went, or -errno */
function* bufferToFile(
  k: Kernel,
  pipe: Pipe,
  buffer: PipeBuffer,
  mapping: AddressSpace,
  offset: number,
  lenBytes: number,
  move: boolean,
): Path<number> {
  const error = pipeBufConfirm(k, buffer);
  if (error !== 0) return error;
  if (move && lenBytes === PAGE_SIZE && (yield* moveIntoFile(k, pipe, buffer, mapping, offset)))
    return PAGE_SIZE;
  const from = k.memory.pageOffset(buffer.page) + buffer.offset;
  const bytes = k.memory.u8.subarray(from, from + lenBytes);
  const n = yield* fileWrite(k, mapping, offset, bytes);
  if (n > 0) pipeConsume(k, pipe, buffer, n);
  return n;
}

/**
 * splice() to a file: the oldest bytes of the pipe go to the file from `offset` on. With SPLICE_F_MOVE
 * a whole page that was a gift, or the pipe's own, is moved if nobody else has it and the file has
 * nothing there.
 * @param flags SPLICE_F_*
 * @returns bytes; with none -EAGAIN the pipe is empty; -ENODATA, -EIO as pipeBufConfirm; errors of writing
 */
export function* splicePipeToFile(
  k: Kernel,
  pipe: Pipe,
  mapping: AddressSpace,
  offset: number,
  lenBytes: number,
  flags = 0,
): Path<number> {
  if (!spliceFlagsLegal(flags) || offset < 0 || lenBytes < 0) return -EINVAL;
  const move = (flags & SPLICE_F_MOVE) !== 0;
  let done = 0;
  for (let first = pipe.buffers[0]; first !== undefined && done < lenBytes; ) {
    const wanted = Math.min(first.lenBytes, lenBytes - done);
    const n = yield* bufferToFile(k, pipe, first, mapping, offset + done, wanted, move);
    if (n <= 0) return done > 0 ? done : n;
    done += n;
    if (n < wanted) break;
    first = pipe.buffers[0];
  }
  return done > 0 || lenBytes === 0 ? done : -EAGAIN;
}
