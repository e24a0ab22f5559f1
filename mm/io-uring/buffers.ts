/**
 * Fixed buffers as io_uring has them: user memory that is pinned once, and used by number from then
 * on. Compare io_uring/rsrc.c, io_sqe_buffer_register(), io_buffer_unmap().
 *
 * What matters here is how they are taken: FOLL_PIN | FOLL_LONGTERM | FOLL_WRITE, whatever they will
 * be used for, so that COW is broken once and the process and the buffer stay one.
 */
import { PAGE_SIZE } from '#emu';
import { mapDelete, mapSet, setField } from '#cells';
import { EFAULT, ENOMEM, EOVERFLOW } from '../errno.ts';
import { folioMarkDirty, folioOf } from '../folio/folio.ts';
import { pinUserPagesFast } from '../gup/fast.ts';
import { FOLL_LONGTERM, FOLL_WRITE } from '../gup/flags.ts';
import { readPinnedPage, writePinnedPage } from '../gup/pinned.ts';
import { unpinUserPages } from '../gup/unpin.ts';
import type { Path } from '../path.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import { newId } from '../rmap/anon-vma.ts';
import type { Kernel, MmStruct } from '../types.ts';

/** Largest buffer: 1 GiB. */
const MAX_BYTES = 2 ** 30;

/** One registered buffer. Plain data. */
export interface FixedBuffer {
  id: number;
  mm: MmStruct;
  /** Where it was when it was registered. */
  hva: number;
  lenBytes: number;
  /** Its pages, each pinned once. */
  pages: Int32Array;
}

/** Pages of a mm that may be pinned besides: RLIMIT_MEMLOCK. */
const mayPin = (mm: MmStruct, nr: number): boolean =>
  mm.pinnedVm + nr <= Math.floor(mm.rlimitMemlock / PAGE_SIZE);

/**
 * Registers [hva, hva + lenBytes): pins every page, for writing.
 * @returns the buffer; -EFAULT empty, or not all of it can be pinned; -EOVERFLOW; -ENOMEM over
 *   RLIMIT_MEMLOCK, or over 1 GiB. After an error nothing is pinned
 */
export function* ioUringRegisterBuffer(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  lenBytes: number,
): Path<FixedBuffer | number> {
  if (lenBytes <= 0) return -EFAULT;
  if (lenBytes > MAX_BYTES) return -ENOMEM;
  if (hva + lenBytes >= 2 ** 64) return -EOVERFLOW;
  const nr = Math.ceil(((hva % PAGE_SIZE) + lenBytes) / PAGE_SIZE);
  if (!mayPin(mm, nr)) return -ENOMEM;
  const pages = new Int32Array(nr);
  nameGupUser(k, 'io-uring-buffers');
  const got = yield* pinUserPagesFast(k, mm, hva, nr, FOLL_WRITE | FOLL_LONGTERM, pages);
  if (got !== nr) {
    nameGupUser(k, 'io-uring-buffers');
    if (got > 0) unpinUserPages(k, pages, got);
    return got < 0 ? got : -EFAULT;
  }
  setField(mm, 'pinnedVm', mm.pinnedVm + nr);
  const buffer: FixedBuffer = { id: newId(k), mm, hva, lenBytes, pages };
  mapSet(k.state.fixedBuffers, buffer.id, buffer);
  return buffer;
}

/** Unpins it. The process may have gone before. */
export const ioUringUnregisterBuffer = (k: Kernel, buffer: FixedBuffer): void => {
  nameGupUser(k, 'io-uring-buffers');
  unpinUserPages(k, buffer.pages, buffer.pages.length);
  setField(buffer.mm, 'pinnedVm', buffer.mm.pinnedVm - buffer.pages.length);
  mapDelete(k.state.fixedBuffers, buffer.id);
};

/** Calls `use` for each page's part of [offset, offset + lenBytes) of a buffer. @throws RangeError outside of it */
const eachPart = (
  buffer: FixedBuffer,
  offset: number,
  lenBytes: number,
  use: (page: number, inPage: number, done: number, n: number) => void,
): void => {
  if (offset < 0 || offset + lenBytes > buffer.lenBytes)
    throw new RangeError(`[${offset}, +${lenBytes}) leaves the buffer of ${buffer.lenBytes} bytes`);
  for (let done = 0; done < lenBytes; ) {
    const at = (buffer.hva % PAGE_SIZE) + offset + done;
    const inPage = at % PAGE_SIZE;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inPage);
    use(buffer.pages[Math.floor(at / PAGE_SIZE)]!, inPage, done, n);
    done += n;
  }
};

/** What a WRITE_FIXED request sends: the buffer's bytes -> `into`. */
export const fixedBufferRead = (
  k: Kernel,
  buffer: FixedBuffer,
  offset: number,
  into: Uint8Array,
): void =>
  eachPart(buffer, offset, into.length, (page, inPage, done, n) =>
    readPinnedPage(k, page, inPage, into, done, n),
  );

/** What a READ_FIXED request delivers: `from` -> the buffer, and its folios are dirty. */
export const fixedBufferWrite = (
  k: Kernel,
  buffer: FixedBuffer,
  offset: number,
  from: Uint8Array,
): void =>
  eachPart(buffer, offset, from.length, (page, inPage, done, n) => {
    writePinnedPage(k, page, inPage, from, done, n);
    folioMarkDirty(k, folioOf(k, page));
  });
