/**
 * Pipes: a ring of buffers, each a part of a page. Compare fs/pipe.c, include/linux/pipe_fs_i.h.
 *
 * A buffer's page is the pipe's own (written by write()), or a user's that vmsplice() put there by
 * reference or pin (vmsplice.ts); the reader copies from whatever it is at that moment. Whoever
 * writes into a full pipe, or reads an empty one, gets -EAGAIN: there are no sleepers.
 */
import { PAGE_SIZE } from '#emu';
import { listPush, listRemoveAt, mapDelete, mapSet, setField } from '#cells';
import { EAGAIN, EFAULT, EINVAL, ENOMEM } from '../errno.ts';
import { folioAlloc, folioOf, folioPut, folioTryGet } from '../folio/folio.ts';
import { GFP_KERNEL } from '../frames/buddy.ts';
import { unpinUserPage } from '../gup/unpin.ts';
import { nameGupUser, noteGrabPage, noteReleasePage } from '../provenance/provenance.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel } from '../types.ts';

/** Buffers of a pipe (PIPE_DEF_BUFFERS). */
export const PIPE_BUFFERS = 16;

/** By what a buffer holds its page: the pipe allocated it, a plain reference, a pin. */
export type PipeHold = 'own' | 'get' | 'pin';

/** One buffer. Plain data. */
export interface PipeBuffer {
  page: number;
  /** Of the bytes in the page. */
  offset: number;
  lenBytes: number;
  hold: PipeHold;
  /** SPLICE_F_GIFT: whoever takes the buffer may have the page. */
  gift: boolean;
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

/** Appends a buffer. @throws Error where the pipe is full */
export const pipePush = (pipe: Pipe, buffer: PipeBuffer): void => {
  if (pipeIsFull(pipe)) throw new Error(`pipe ${pipe.id} is full`);
  listPush(pipe.buffers, buffer);
};

/**
 * write(): copies bytes into pages of the pipe's own.
 * @returns bytes written, fewer than given where the pipe filled up; -EAGAIN full; -ENOMEM
 */
export const pipeWrite = (k: Kernel, pipe: Pipe, from: Uint8Array): number => {
  let done = 0;
  while (done < from.length && !pipeIsFull(pipe)) {
    const page = folioAlloc(k, GFP_KERNEL);
    if (page < 0) return done > 0 ? done : -ENOMEM;
    const lenBytes = Math.min(PAGE_SIZE, from.length - done);
    const offset = k.memory.pageOffset(page);
    k.memory.u8.set(from.subarray(done, done + lenBytes), offset);
    k.memory.wrote(offset, lenBytes);
    pipePush(pipe, { page, offset: 0, lenBytes, hold: 'own', gift: false });
    done += lenBytes;
  }
  return done > 0 || from.length === 0 ? done : -EAGAIN;
};

/**
 * read(): copies the oldest bytes out and lets go of every buffer that is used up.
 * @returns bytes read; -EAGAIN where the pipe is empty
 */
export const pipeRead = (k: Kernel, pipe: Pipe, into: Uint8Array): number => {
  let done = 0;
  for (let first = pipe.buffers[0]; first !== undefined && done < into.length; ) {
    const n = Math.min(first.lenBytes, into.length - done);
    const from = k.memory.pageOffset(first.page) + first.offset;
    into.set(k.memory.u8.subarray(from, from + n), done);
    done += n;
    if (n === first.lenBytes) {
      listRemoveAt(pipe.buffers, 0);
      pipeBufRelease(k, first);
    } else {
      setField(first, 'offset', first.offset + n);
      setField(first, 'lenBytes', first.lenBytes - n);
    }
    first = pipe.buffers[0];
  }
  return done > 0 || into.length === 0 ? done : -EAGAIN;
};

/**
 * tee(): the bytes of one pipe in another as well, by more references to the same pages. A gift is
 * not given twice. Compare fs/splice.c:link_pipe(), generic_pipe_buf_get().
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
    const hold = buffer.hold === 'own' ? 'own' : 'get';
    if (hold === 'get') noteGrabPage(k, 'get', 'tee', 'vmsplice', buffer.page, 1);
    pipePush(to, { ...buffer, lenBytes: n, hold, gift: false });
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
