/**
 * Pipes: a ring of buffers, each a part of a page. Compare fs/pipe.c, include/linux/pipe_fs_i.h.
 *
 * A buffer's page is the pipe's own (written by write()), a user's that vmsplice() put there by
 * reference or pin (vmsplice.ts), or one of a file's cache (splice.ts); the reader copies from whatever
 * it is at that moment. Only to a page of its own a pipe ever writes, and only behind what nobody else
 * has of it: `canMerge`. Whoever writes into a full pipe, or reads an empty one or a page that is still
 * on its way, gets -EAGAIN: there are no sleepers.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, listRemoveAt, mapDelete, mapSet, readOnce, setField } from '#cells';
import { EAGAIN, EFAULT, EINVAL, EIO, ENODATA, ENOMEM } from '../errno.ts';
import { folioAlloc, folioOf, folioPut, folioTestFlags, folioTryGet } from '../folio/folio.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { PG_LOCKED, PG_UPTODATE } from '../frames/table.ts';
import { unpinUserPage } from '../gup/unpin.ts';
import { nameGupUser, noteGrabPage, noteReleasePage } from '../provenance/provenance.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel } from '../types.ts';

/** Buffers of a pipe (PIPE_DEF_BUFFERS). */
export const PIPE_BUFFERS = 16;

/**
 * By what a buffer holds its page: the pipe allocated it; a user's by FOLL_GET or FOLL_PIN; a file's
 * cache, by a reference that is not GUP's.
 */
export type PipeHold = 'own' | 'get' | 'pin' | 'cache';

/** Has GUP handed out the page? Then provenance knows of it. */
export const pipeHoldIsGup = (hold: PipeHold): boolean => hold === 'get' || hold === 'pin';

/** One buffer. Plain data. */
export interface PipeBuffer {
  page: number;
  /** Of the bytes in the page. */
  offset: number;
  lenBytes: number;
  hold: PipeHold;
  /** SPLICE_F_GIFT: whoever takes the buffer may have the page. */
  gift: boolean;
  /** write() may append to it (PIPE_BUF_FLAG_CAN_MERGE). Invariant: of the pipe's own pages only. */
  canMerge: boolean;
}

/** Plain data. */
export interface Pipe {
  id: number;
  /** Oldest first. */
  buffers: PipeBuffer[];
}

/** An empty pipe, known to the kernel until pipeRelease. */
export const createPipe = (k: Kernel): Pipe => {
  const pipe: Pipe = { id: newId(k), buffers: [] };
  mapSet(k.state.pipes, pipe.id, pipe);
  return pipe;
};

export const pipeIsFull = (pipe: Pipe): boolean => pipe.buffers.length >= PIPE_BUFFERS;

/** Bytes that can be read. */
export const pipeBytes = (pipe: Pipe): number =>
  pipe.buffers.reduce((sum, { lenBytes }) => sum + lenBytes, 0);

/** Lets go of a buffer's page, the way it was taken. */
export const pipeBufRelease = (k: Kernel, { page, hold }: PipeBuffer): void => {
  if (hold === 'pin') {
    nameGupUser(k, 'vmsplice');
    unpinUserPage(k, page);
    return;
  }
  if (hold === 'get') noteReleasePage(k, 'get', page, 1, 'vmsplice');
  folioPut(k, folioOf(k, page));
};

/**
 * Appends a buffer.
 * @throws Error where the pipe is full, or the buffer would let write() change a page that is not the pipe's
 */
export const pipePush = (k: Kernel, pipe: Pipe, buffer: PipeBuffer): void => {
  if (pipeIsFull(pipe)) throw new Error(`pipe ${pipe.id} is full`);
  if (buffer.canMerge && buffer.hold !== 'own' && !k.sabotage.spliceKeepsMerge)
    throw new Error(
      `pipe ${pipe.id}: write() might append to a page that is held by ${buffer.hold}`,
    );
  listPush(pipe.buffers, buffer);
};

/** Bytes that go into the last buffer, behind what is there: all that do not fill a page, or none. */
const mergeable = ({ buffers }: Pipe, lenBytes: number): number => {
  const last = buffers.at(-1);
  const chars = lenBytes % PAGE_SIZE;
  if (last === undefined || !last.canMerge) return 0;
  return last.offset + last.lenBytes + chars <= PAGE_SIZE ? chars : 0;
};

const append = (k: Kernel, { buffers }: Pipe, bytes: Uint8Array): void => {
  const last = buffers.at(-1);
  if (last === undefined || bytes.length === 0) return;
  k.memory.setBytes(k.memory.pageOffset(last.page) + last.offset + last.lenBytes, bytes);
  setField(last, 'lenBytes', last.lenBytes + bytes.length);
};

/**
 * write(): copies bytes behind those of the last buffer, if that is the pipe's own and has room, and
 * into fresh pages.
 * @returns bytes written, fewer than given where the pipe filled up; -EAGAIN full; -ENOMEM
 */
export const pipeWrite = (k: Kernel, pipe: Pipe, from: Uint8Array): number => {
  let done = mergeable(pipe, from.length);
  append(k, pipe, from.subarray(0, done));
  while (done < from.length && !pipeIsFull(pipe)) {
    const page = folioAlloc(k, GFP_KERNEL);
    if (page < 0) return done > 0 ? done : -ENOMEM;
    const lenBytes = Math.min(PAGE_SIZE, from.length - done);
    k.memory.setBytes(k.memory.pageOffset(page), from.subarray(done, done + lenBytes));
    pipePush(k, pipe, { page, offset: 0, lenBytes, hold: 'own', gift: false, canMerge: true });
    done += lenBytes;
  }
  return done > 0 || from.length === 0 ? done : -EAGAIN;
};

/**
 * Has the page of a buffer its bytes? One that a file's cache had may be read in only now, or never.
 * @returns 0; -EAGAIN not yet; -ENODATA: the file has been truncated meanwhile; -EIO. Compare
 *   page_cache_pipe_buf_confirm()
 */
export const pipeBufConfirm = (k: Kernel, { page, hold }: PipeBuffer): number => {
  const folio = folioOf(k, page);
  if (hold !== 'cache' || folioTestFlags(k, folio, PG_UPTODATE)) return 0;
  if (folioTestFlags(k, folio, PG_LOCKED)) return -EAGAIN;
  return readOnce(k.state.frames.mapping, folio) === 0 ? -ENODATA : -EIO;
};

/** The first `n` bytes of the oldest buffer have been taken. */
export const pipeConsume = (k: Kernel, pipe: Pipe, first: PipeBuffer, n: number): void => {
  if (n === first.lenBytes) {
    listRemoveAt(pipe.buffers, 0);
    pipeBufRelease(k, first);
  } else {
    setField(first, 'offset', first.offset + n);
    setField(first, 'lenBytes', first.lenBytes - n);
  }
};

/**
 * read(): copies the oldest bytes out and lets go of every buffer that is used up.
 * @returns bytes read; -EAGAIN where the pipe is empty; with none errors of pipeBufConfirm
 */
export const pipeRead = (k: Kernel, pipe: Pipe, into: Uint8Array): number => {
  let done = 0;
  for (let first = pipe.buffers[0]; first !== undefined && done < into.length; ) {
    const error = pipeBufConfirm(k, first);
    if (error !== 0) return done > 0 ? done : error;
    const n = Math.min(first.lenBytes, into.length - done);
    const from = k.memory.pageOffset(first.page) + first.offset;
    into.set(k.memory.u8.subarray(from, from + n), done);
    done += n;
    pipeConsume(k, pipe, first, n);
    first = pipe.buffers[0];
  }
  return done > 0 || into.length === 0 ? done : -EAGAIN;
};

/**
 * tee(): the bytes of one pipe in another as well, by more references to the same pages. A gift is
 * not given twice, and nobody appends to the copy. Compare fs/splice.c:link_pipe(), generic_pipe_buf_get().
 * @returns bytes; -EINVAL for one pipe twice; -EAGAIN nothing to read or no room; -EFAULT where the
 *   first buffer can be counted no further
 */
export const tee = (k: Kernel, from: Pipe, to: Pipe, lenBytes: number): number => {
  if (from === to) return -EINVAL;
  let done = 0;
  for (const buffer of from.buffers) {
    if (done >= lenBytes || pipeIsFull(to)) break;
    // Also of a pinned page a plain reference: the copy keeps it alive, the pin stays the first's.
    if (!folioTryGet(k, folioOf(k, buffer.page))) return done > 0 ? done : -EFAULT;
    const n = Math.min(buffer.lenBytes, lenBytes - done);
    const hold = buffer.hold === 'pin' ? 'get' : buffer.hold;
    if (hold === 'get') noteGrabPage(k, 'get', 'tee', 'vmsplice', buffer.page, 1);
    pipePush(k, to, { ...buffer, lenBytes: n, hold, gift: false, canMerge: false });
    done += n;
  }
  return done > 0 || lenBytes === 0 ? done : -EAGAIN;
};

/** The last user closes the pipe: every buffer goes unread. */
export const pipeRelease = (k: Kernel, pipe: Pipe): void => {
  while (pipe.buffers.length > 0) {
    const buffer = listRemoveAt(pipe.buffers, 0);
    if (buffer !== undefined) pipeBufRelease(k, buffer);
  }
  mapDelete(k.state.pipes, pipe.id);
};
