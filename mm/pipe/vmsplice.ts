/**
 * vmsplice(): user memory in a pipe without a copy. Compare fs/splice.c, vmsplice_to_pipe() and
 * iter_to_pipe().
 *
 * Which API it takes is a row of the users table. `get` is what Linux does: a plain reference, read
 * only, for as long as the pipe pleases. `pin-longterm` is what the mail that this project comes from
 * asks for: the page is unshared first and may not stay in memory that has to be movable. `copy` is
 * what was queued for 7.2: the bytes as they are now.
 */
import { PAGE_SIZE } from '#emu';
import { EAGAIN, EFAULT, EINVAL } from '../errno.ts';
import { getUserPagesFast, pinUserPagesFast } from '../gup/fast.ts';
import { FOLL_LONGTERM } from '../gup/flags.ts';
import type { Path } from '../path.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { copyFromUser, copyToUser } from '../uaccess.ts';
import {
  type Pipe,
  PIPE_BUFFERS,
  pipeBufRelease,
  pipeBytes,
  pipeIsFull,
  pipePush,
  pipeRead,
  pipeWrite,
} from './pipe.ts';

export const SPLICE_F_MOVE = 1;
export const SPLICE_F_NONBLOCK = 2;
export const SPLICE_F_MORE = 4;
/** The pages are a gift: the caller will not write to them any more. Nobody checks. */
export const SPLICE_F_GIFT = 8;
const SPLICE_F_ALL = SPLICE_F_MOVE | SPLICE_F_NONBLOCK | SPLICE_F_MORE | SPLICE_F_GIFT;

export const spliceFlagsLegal = (flags: number): boolean => (flags & ~SPLICE_F_ALL) === 0;

/**
 * vmsplice() to the write end: [hva, hva + lenBytes) of a process goes into the pipe. Does not wait:
 * it stops where the pipe is full.
 * @param flags SPLICE_F_*
 * @returns bytes; -EINVAL flags; -EAGAIN full; -EFAULT, -ENOMEM where not even the first page could be had
 */
export function* vmspliceToPipe(
  k: Kernel,
  mm: MmStruct,
  pipe: Pipe,
  hva: number,
  lenBytes: number,
  flags: number,
): Path<number> {
  if (!spliceFlagsLegal(flags) || lenBytes < 0) return -EINVAL;
  if (lenBytes === 0) return 0;
  if (pipeIsFull(pipe)) return -EAGAIN;
  if (k.policy.apis.vmsplice === 'copy') return yield* copyToPipe(k, mm, pipe, hva, lenBytes);
  return yield* iterToPipe(k, mm, pipe, hva, lenBytes, (flags & SPLICE_F_GIFT) !== 0);
}

/** Page by page by reference or pin, as many in a round as a pipe has buffers. */
function* iterToPipe(
  k: Kernel,
  mm: MmStruct,
  pipe: Pipe,
  hva: number,
  lenBytes: number,
  gift: boolean,
): Path<number> {
  const pin = k.policy.apis.vmsplice === 'pin-longterm';
  const hold = pin ? 'pin' : 'get';
  const buffer = { page: -1, offset: 0, lenBytes: 0, hold, gift, canMerge: false } as const;
  const pages = new Int32Array(PIPE_BUFFERS);
  let done = 0;
  while (done < lenBytes && !pipeIsFull(pipe)) {
    const at = hva + done;
    const nr = Math.min(PIPE_BUFFERS, Math.ceil(((at % PAGE_SIZE) + lenBytes - done) / PAGE_SIZE));
    if (pin) nameGupUser(k, 'vmsplice');
    const got = pin
      ? yield* pinUserPagesFast(k, mm, at, nr, FOLL_LONGTERM, pages)
      : yield* getUserPagesFast(k, 'vmsplice', mm, at, nr, 0, pages);
    if (got <= 0) return done > 0 ? done : got === 0 ? -EFAULT : got;
    for (let i = 0; i < got; i++) {
      const page = pages[i]!;
      if (pipeIsFull(pipe)) {
        // What does not fit any more is given back at once.
        pipeBufRelease(k, { ...buffer, page });
        continue;
      }
      const offset = (hva + done) % PAGE_SIZE;
      const n = Math.min(PAGE_SIZE - offset, lenBytes - done);
      pipePush(k, pipe, { ...buffer, page, offset, lenBytes: n });
      done += n;
    }
  }
  return done;
}

/** The bytes as they are now, in pages of the pipe's own. */
function* copyToPipe(
  k: Kernel,
  mm: MmStruct,
  pipe: Pipe,
  hva: number,
  lenBytes: number,
): Path<number> {
  const room = (PIPE_BUFFERS - pipe.buffers.length) * PAGE_SIZE;
  const bytes = new Uint8Array(Math.min(room, lenBytes));
  const got = bytes.length - (yield* copyFromUser(k, mm, hva, bytes));
  return got === 0 ? -EFAULT : pipeWrite(k, pipe, bytes.subarray(0, got));
}

/**
 * vmsplice() from the read end: always a copy. Compare vmsplice_to_user().
 * @returns bytes; -EAGAIN nothing to read; -EFAULT
 */
export function* vmspliceToUser(
  k: Kernel,
  mm: MmStruct,
  pipe: Pipe,
  hva: number,
  lenBytes: number,
): Path<number> {
  if (lenBytes > 0 && pipeBytes(pipe) === 0) return -EAGAIN;
  const bytes = new Uint8Array(Math.min(lenBytes, pipeBytes(pipe)));
  const n = pipeRead(k, pipe, bytes);
  if (n <= 0) return n;
  const left = yield* copyToUser(k, mm, hva, bytes.subarray(0, n));
  return left === n ? -EFAULT : n - left;
}
