/**
 * Copies between the kernel and what an iterator describes: copy_to_iter(), copy_from_iter(). User
 * memory is reached as by copy_to_user(), with its faults, unless the iterator forbids them; nothing
 * is held. Compare lib/iov_iter.c.
 */
import { PAGE_SIZE } from '#emu';
import { mappingPageAt } from '../fs/mapping.ts';
import type { Path } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { copyFromUser, copyToUser } from '../uaccess.ts';
import { type IovIter, iovIterAdvance, iovIterIsUser, iovIterPieceLeft } from './iter.ts';

/** The address space of user-backed iterators. @throws Error where there is none */
export const iterMm = (it: IovIter, mm: MmStruct | null): MmStruct => {
  if (mm === null) throw new Error(`an iterator over ${it.kind} without an address space`);
  return mm;
};

/** Offset in RAM of the iterator's next byte, not of user memory; -1: a file has no page there. */
const nextOffset = (k: Kernel, it: IovIter): number => {
  if (it.mapping !== null) {
    const at = it.startByte + it.done;
    const page = mappingPageAt(it.mapping, Math.floor(at / PAGE_SIZE));
    return page === undefined ? -1 : k.memory.pageOffset(page) + (at % PAGE_SIZE);
  }
  const piece = it.kernel[it.piece];
  return piece === undefined ? -1 : k.memory.pageOffset(piece.page) + piece.offset + it.done;
};

/** Bytes that can be reached in one go: of a file those in one page, of RAM those of one piece. */
const inOneGo = (it: IovIter, wanted: number): number => {
  if (it.kind === 'discard') return Math.min(wanted, it.count);
  if (it.kind !== 'xarray') return Math.min(wanted, iovIterPieceLeft(it));
  return Math.min(wanted, it.count, PAGE_SIZE - ((it.startByte + it.done) % PAGE_SIZE));
};

/** One go of kernel memory, or of nothing at all. @returns false: a file has no page there */
const copyKernel = (k: Kernel, it: IovIter, bytes: Uint8Array, toIter: boolean): boolean => {
  if (it.kind === 'discard') return true;
  const at = nextOffset(k, it);
  if (at < 0) return false;
  if (toIter) k.memory.setBytes(at, bytes);
  else bytes.set(k.memory.u8.subarray(at, at + bytes.length));
  return true;
};

/** One go of user memory. @returns bytes copied */
function* copyUser(
  k: Kernel,
  mm: MmStruct,
  it: IovIter,
  bytes: Uint8Array,
  toIter: boolean,
): Path<number> {
  const hva = (it.user[it.piece]?.hva ?? 0) + it.done;
  const left = toIter
    ? yield* copyToUser(k, mm, hva, bytes, it.nofault)
    : yield* copyFromUser(k, mm, hva, bytes, it.nofault);
  return bytes.length - left;
}

function* copy(
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  bytes: Uint8Array,
  toIter: boolean,
): Path<number> {
  let done = 0;
  while (done < bytes.length && it.count > 0) {
    const n = inOneGo(it, bytes.length - done);
    if (n === 0) {
      // An empty piece that nobody has moved over yet.
      iovIterAdvance(it, 0);
      continue;
    }
    const part = bytes.subarray(done, done + n);
    let copied = n;
    if (iovIterIsUser(it)) copied = yield* copyUser(k, iterMm(it, mm), it, part, toIter);
    else if (!copyKernel(k, it, part, toIter)) break;
    iovIterAdvance(it, copied);
    done += copied;
    if (copied < n) break;
  }
  return done;
}

/**
 * `from` -> the iterator, which goes on by what was copied.
 * @param mm of a user-backed iterator
 * @returns bytes copied: fewer than given where the iterator ends, or its memory cannot be written.
 *   Compare copy_to_iter()
 */
export const copyToIter = (
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  from: Uint8Array,
): Path<number> => copy(k, mm, it, from, true);

/** The iterator -> `into`. @returns as copyToIter; of discard nothing can be read. Compare copy_from_iter() */
export const copyFromIter = (
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  into: Uint8Array,
): Path<number> => copy(k, mm, it, into, false);

/** Bytes of one page -> the iterator. @returns as copyToIter. Compare copy_page_to_iter() */
export const copyPageToIter = (
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  page: number,
  offset: number,
  lenBytes: number,
): Path<number> => {
  const at = k.memory.pageOffset(page) + offset;
  return copy(k, mm, it, k.memory.u8.subarray(at, at + lenBytes), true);
};

/** The iterator -> bytes of one page. @returns as copyToIter. Compare copy_page_from_iter() */
export function* copyPageFromIter(
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  page: number,
  offset: number,
  lenBytes: number,
): Path<number> {
  const at = k.memory.pageOffset(page) + offset;
  const copied = yield* copy(k, mm, it, k.memory.u8.subarray(at, at + lenBytes), false);
  k.memory.wrote(at, copied);
  return copied;
}

const ZEROES = new Uint8Array(PAGE_SIZE);

/** Zeroes -> the iterator. @returns bytes, as copyToIter. Compare iov_iter_zero() */
export function* iovIterZero(
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  lenBytes: number,
): Path<number> {
  let done = 0;
  while (done < lenBytes) {
    const n = Math.min(PAGE_SIZE, lenBytes - done);
    const copied = yield* copy(k, mm, it, ZEROES.subarray(0, n), true);
    done += copied;
    if (copied < n) break;
  }
  return done;
}
