/**
 * The pages behind an iterator, for whoever moves their bytes without the CPU: by pins
 * (iov_iter_extract_pages()), or by plain references (iov_iter_get_pages2()). Compare lib/iov_iter.c.
 *
 *   kind            extract          get
 *   ubuf, iovec     FOLL_PIN         FOLL_GET
 *   kvec            listed           -EFAULT
 *   bvec, folioq    listed           a reference each
 *   xarray          listed           a reference each
 *   discard         -EFAULT          -EFAULT
 *
 * What is listed is kept alive by whoever made the iterator. One call gives bytes that lie next to
 * each other, and may give fewer than there are: callers go on until the iterator is empty.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT } from '../errno.ts';
import { folioGet, folioOf, folioPut } from '../folio/folio.ts';
import { mappingPageAt } from '../fs/mapping.ts';
import { getUserPagesFast, pinUserPagesFast } from '../gup/fast.ts';
import { FOLL_NOFAULT, FOLL_PCI_P2PDMA, FOLL_WRITE } from '../gup/flags.ts';
import type { GupUserId } from '../gup/users.ts';
import type { Path } from '../path.ts';
import { noteGrabPage, noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { iterMm } from './copy.ts';
import {
  ITER_DEST,
  type IovIter,
  iovIterAdvance,
  iovIterIsUser,
  iovIterPieceLeft,
} from './iter.ts';

/** Extraction flag: pages of a PCI peer's memory are wanted too. */
export const ITER_ALLOW_P2PDMA = 1;

/** Bytes that lie next to each other in pages[0 .. nrPages). */
export interface ExtractedPages {
  pages: Int32Array;
  nrPages: number;
  /** Of the first byte in the first page. */
  offset: number;
  lenBytes: number;
}

/** Bytes of one call at most (MAX_RW_COUNT). */
const MAX_RW_COUNT = 0x7fff_f000;

/** After extracting: are the pages to be given back by unpinUserPages()? Otherwise by nobody. */
export const iovIterExtractWillPin = (it: IovIter): boolean => iovIterIsUser(it);

const gupFlags = (it: IovIter, flags: number): number =>
  (it.direction === ITER_DEST ? FOLL_WRITE : 0) |
  ((flags & ITER_ALLOW_P2PDMA) !== 0 ? FOLL_PCI_P2PDMA : 0) |
  (it.nofault ? FOLL_NOFAULT : 0);

/** Takes the pages of user memory from `hva` on; whose they are has been said. */
type TakePages = (
  mm: MmStruct,
  hva: number,
  nrPages: number,
  flags: number,
  pages: Int32Array,
) => Path<number>;

/** Of user memory: as many pages of the piece that is next as `take` can have. Moves the iterator on. */
function* userPages(
  it: IovIter,
  mm: MmStruct | null,
  maxBytes: number,
  maxPages: number,
  flags: number,
  take: TakePages,
): Path<ExtractedPages | number> {
  iovIterAdvance(it, 0);
  const most = Math.min(maxBytes, iovIterPieceLeft(it));
  const hva = (it.user[it.piece]?.hva ?? 0) + it.done;
  const offset = hva % PAGE_SIZE;
  const wanted = Math.min(maxPages, Math.ceil((offset + most) / PAGE_SIZE));
  const pages = new Int32Array(wanted);
  const n = yield* take(iterMm(it, mm), hva - offset, wanted, gupFlags(it, flags), pages);
  if (n <= 0) return n;
  const lenBytes = Math.min(most, n * PAGE_SIZE - offset);
  iovIterAdvance(it, lenBytes);
  return { pages, nrPages: n, offset, lenBytes };
}

/** Of a file's cache: pages that follow each other, up to the first that is not there. */
const filePages = (it: IovIter, maxBytes: number, maxPages: number): ExtractedPages => {
  const at = it.startByte + it.done;
  const offset = at % PAGE_SIZE;
  const pages = new Int32Array(Math.min(maxPages, Math.ceil((offset + maxBytes) / PAGE_SIZE)));
  let n = 0;
  for (; n < pages.length && it.mapping !== null; n++) {
    const page = mappingPageAt(it.mapping, Math.floor(at / PAGE_SIZE) + n);
    if (page === undefined) break;
    pages[n] = page;
  }
  return { pages, nrPages: n, offset, lenBytes: Math.min(maxBytes, n * PAGE_SIZE - offset) };
};

/** Of pieces in RAM: of the one that is next, and of those behind it that begin where a page does. */
const kernelPages = (it: IovIter, maxBytes: number, maxPages: number): ExtractedPages => {
  iovIterAdvance(it, 0);
  const first = (it.kernel[it.piece]?.offset ?? 0) + it.done;
  const offset = first % PAGE_SIZE;
  const pages = new Int32Array(Math.min(maxPages, Math.ceil((offset + maxBytes) / PAGE_SIZE)));
  let n = 0;
  let lenBytes = 0;
  let skip = it.done;
  for (let i = it.piece; lenBytes < maxBytes && n < pages.length; i++, skip = 0) {
    const piece = it.kernel[i];
    if (piece === undefined) break;
    const from = piece.offset + skip;
    if (n > 0 && from % PAGE_SIZE !== 0) break;
    const end = from + Math.min(piece.lenBytes - skip, maxBytes - lenBytes);
    let at = from;
    for (; at < end && n < pages.length; at += PAGE_SIZE - (at % PAGE_SIZE))
      pages[n++] = piece.page + Math.floor(at / PAGE_SIZE);
    lenBytes += Math.min(at, end) - from;
    // A piece that ends inside a page: what follows would begin inside of one.
    if (at < end || end % PAGE_SIZE !== 0 || it.kind === 'kvec') break;
  }
  return { pages, nrPages: n, offset, lenBytes };
};

const listPages = (it: IovIter, maxBytes: number, maxPages: number): ExtractedPages | number => {
  const found =
    it.kind === 'xarray' ? filePages(it, maxBytes, maxPages) : kernelPages(it, maxBytes, maxPages);
  if (found.nrPages === 0) return 0;
  iovIterAdvance(it, found.lenBytes);
  return found;
};

/**
 * The next bytes of the iterator, at most `maxBytes` in at most `maxPages` pages. User memory is
 * pinned, for writing where data flows into it; of every other kind the pages are listed. The
 * iterator goes on by what was extracted. Whose pins they are is said before (nameGupUser).
 * @param flags ITER_ALLOW_P2PDMA
 * @returns the pages; 0 where nothing is left; -EFAULT discard; errors of pinUserPagesFast
 */
export function* iovIterExtractPages(
  k: Kernel,
  mm: MmStruct | null,
  it: IovIter,
  maxBytes: number,
  maxPages: number,
  flags: number,
): Path<ExtractedPages | number> {
  const most = Math.min(maxBytes, it.count, MAX_RW_COUNT);
  if (most === 0 || maxPages === 0) return 0;
  if (it.kind === 'discard') return -EFAULT;
  if (!iovIterIsUser(it)) return listPages(it, most, maxPages);
  return yield* userPages(it, mm, most, maxPages, flags, (own, hva, nr, gup, pages) =>
    pinUserPagesFast(k, own, hva, nr, gup, pages),
  );
}

/**
 * The same by plain references, to be given back by iovIterPutPages(). Compare iov_iter_get_pages2().
 * @param user row of the users table
 * @returns as iovIterExtractPages; -EFAULT also of kvec
 * @throws Error where the policy does not give that user FOLL_GET, and the memory is a process's
 */
export function* iovIterGetPages2(
  k: Kernel,
  user: GupUserId,
  mm: MmStruct | null,
  it: IovIter,
  maxBytes: number,
  maxPages: number,
): Path<ExtractedPages | number> {
  const most = Math.min(maxBytes, it.count, MAX_RW_COUNT);
  if (most === 0 || maxPages === 0) return 0;
  if (it.kind === 'discard' || it.kind === 'kvec') return -EFAULT;
  if (iovIterIsUser(it))
    return yield* userPages(it, mm, most, maxPages, 0, (own, hva, nr, gup, pages) =>
      getUserPagesFast(k, user, own, hva, nr, gup, pages),
    );
  const found = listPages(it, most, maxPages);
  if (typeof found === 'number') return found;
  for (let i = 0; i < found.nrPages; i++) {
    const page = found.pages[i]!;
    folioGet(k, folioOf(k, page));
    noteGrabPage(k, 'get', 'iov_iter_get_pages2', user, page, 1);
  }
  return found;
}

/** As iovIterGetPages2, however many pages it takes. Compare iov_iter_get_pages_alloc2(). */
export const iovIterGetPagesAlloc2 = (
  k: Kernel,
  user: GupUserId,
  mm: MmStruct | null,
  it: IovIter,
  maxBytes: number,
): Path<ExtractedPages | number> => iovIterGetPages2(k, user, mm, it, maxBytes, MAX_RW_COUNT);

/** Gives back what iovIterGetPages2() has taken: one reference of each of pages[0 .. nrPages). */
export const iovIterPutPages = (
  k: Kernel,
  user: GupUserId,
  pages: Int32Array,
  nrPages: number,
): void => {
  for (let i = 0; i < nrPages; i++) {
    const page = pages[i]!;
    noteReleasePage(k, 'get', page, 1, user);
    folioPut(k, folioOf(k, page));
  }
};
