/**
 * Direct I/O that is none: the bytes are copied between the iterator and the file, by way of its page
 * cache where it has one, and are on the device afterwards. Compare fs/libfs.c:direct_write_fallback().
 */
import { PAGE_SIZE } from '#emu';
import { invalidateInodePages2Range } from '../cache/truncate.ts';
import { writebackMapping } from '../cache/writeback.ts';
import { EFAULT } from '../errno.ts';
import { fileRead, fileWrite } from '../fs/file.ts';
import { copyFromIter, copyToIter } from '../iov/copy.ts';
import { type IovIter, iovIterRevert } from '../iov/iter.ts';
import type { Path } from '../path.ts';
import type { AddressSpace, Kernel, MmStruct } from '../types.ts';

/** Bytes up to the end of the page that `at` lies in, of those that are left. */
const inPage = (at: number, it: IovIter): number =>
  Math.min(it.count, PAGE_SIZE - (at % PAGE_SIZE));

/** @returns bytes read, fewer at the end of the file or where memory faults; with none the error */
export function* bufferedRead(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  const bytes = new Uint8Array(PAGE_SIZE);
  for (let done = 0; ; ) {
    const wanted = inPage(offset + done, it);
    if (wanted === 0) return done;
    const n = yield* fileRead(k, mapping, offset + done, bytes.subarray(0, wanted));
    if (n <= 0) return done > 0 ? done : n;
    const copied = yield* copyToIter(k, mm, it, bytes.subarray(0, n));
    done += copied;
    if (copied < n) return done > 0 ? done : -EFAULT;
    if (n < wanted) return done;
  }
}

/** Page by page into the file. @returns as bufferedRead */
function* copyIn(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  const bytes = new Uint8Array(PAGE_SIZE);
  for (let done = 0; ; ) {
    const wanted = inPage(offset + done, it);
    if (wanted === 0) return done;
    const copied = yield* copyFromIter(k, mm, it, bytes.subarray(0, wanted));
    if (copied === 0) return done > 0 ? done : -EFAULT;
    const n = yield* fileWrite(k, mapping, offset + done, bytes.subarray(0, copied));
    iovIterRevert(it, copied - Math.max(0, n));
    if (n <= 0) return done > 0 ? done : n;
    done += n;
    if (n < wanted) return done;
  }
}

/** @returns bytes written and on the device; with none, or where they do not get there, the error */
export function* bufferedWrite(
  k: Kernel,
  mm: MmStruct | null,
  mapping: AddressSpace,
  offset: number,
  it: IovIter,
): Path<number> {
  const done = yield* copyIn(k, mm, mapping, offset, it);
  if (done <= 0 || mapping.kind !== 'extent') return done;
  const error = yield* writebackMapping(k, mapping, offset, offset + done);
  if (error < 0) return error;
  const first = Math.floor(offset / PAGE_SIZE);
  const end = Math.ceil((offset + done) / PAGE_SIZE);
  yield* invalidateInodePages2Range(k, mapping, first, end);
  return done;
}
