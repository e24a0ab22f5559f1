/**
 * iov_iter: where the bytes of a read or write are to go, or come from, and how far that has got.
 * Compare include/linux/uio.h, lib/iov_iter.c.
 *
 *   ubuf, iovec     memory of a process: one piece, or several
 *   kvec            the kernel's own memory, in runs of frames that follow each other
 *   bvec, folioq    parts of pages; whole folios
 *   xarray          the pages that a file has in its cache, from a byte on
 *   discard         nowhere
 *
 * The pieces stay as they are; the iterator moves over them. Of pipes there is none: Linux has none
 * any more either.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import type { BioVec } from '../block/state.ts';
import { folioNrPages } from '../folio/folio.ts';
import type { AddressSpace, Kernel } from '../types.ts';

/** Data flows from the memory: of a write(). */
export const ITER_SOURCE = 1;
/** Data flows into the memory: of a read(). */
export const ITER_DEST = 0;
export type IterDirection = typeof ITER_SOURCE | typeof ITER_DEST;

export type IovKind = 'ubuf' | 'iovec' | 'kvec' | 'bvec' | 'folioq' | 'xarray' | 'discard';

/** struct iovec: a piece of user memory. */
export interface IoVec {
  hva: number;
  lenBytes: number;
}

/** Plain data. */
export interface IovIter {
  kind: IovKind;
  direction: IterDirection;
  /** No fault may be taken on its behalf: what is not there cannot be reached. */
  nofault: boolean;
  /** Bytes that are left. */
  count: number;
  /** ubuf, iovec: the pieces. */
  user: readonly IoVec[];
  /** kvec, bvec, folioq: the pieces; one may reach beyond its first page, into the frames that follow. */
  kernel: readonly BioVec[];
  /** xarray: the file, and the byte that the iterator began at. */
  mapping: AddressSpace | null;
  startByte: number;
  /** The piece that is next, and how many bytes of it are done; of xarray and discard all bytes that are. */
  piece: number;
  done: number;
}

const iter = (
  kind: IovKind,
  direction: IterDirection,
  count: number,
  of: Partial<Pick<IovIter, 'user' | 'kernel' | 'mapping' | 'startByte'>>,
): IovIter => ({
  kind,
  direction,
  nofault: false,
  count,
  user: of.user ?? [],
  kernel: of.kernel ?? [],
  mapping: of.mapping ?? null,
  startByte: of.startByte ?? 0,
  piece: 0,
  done: 0,
});

const sumOf = (pieces: readonly { lenBytes: number }[]): number =>
  pieces.reduce((sum, { lenBytes }) => sum + lenBytes, 0);

/** One piece of user memory. Compare iov_iter_ubuf(). */
export const iovIterUbuf = (direction: IterDirection, hva: number, lenBytes: number): IovIter =>
  iter('ubuf', direction, lenBytes, { user: [{ hva, lenBytes }] });

/** Several, any of them empty. Compare iov_iter_init(). */
export const iovIterIovec = (direction: IterDirection, user: readonly IoVec[]): IovIter =>
  iter('iovec', direction, sumOf(user), { user });

/** Memory of the kernel's own, by frame. Compare iov_iter_kvec(). */
export const iovIterKvec = (direction: IterDirection, kernel: readonly BioVec[]): IovIter =>
  iter('kvec', direction, sumOf(kernel), { kernel });

/** Parts of pages that the caller keeps alive. Compare iov_iter_bvec(). */
export const iovIterBvec = (direction: IterDirection, kernel: readonly BioVec[]): IovIter =>
  iter('bvec', direction, sumOf(kernel), { kernel });

/** Whole folios, from a byte of the first on. Compare iov_iter_folio_queue(). */
export const iovIterFolioq = (
  k: Kernel,
  direction: IterDirection,
  folios: readonly number[],
  firstOffset: number,
  lenBytes: number,
): IovIter => {
  const kernel = folios.map((page) => ({
    page,
    offset: 0,
    lenBytes: folioNrPages(k, page) * PAGE_SIZE,
  }));
  const all = iter('folioq', direction, sumOf(kernel), { kernel });
  iovIterAdvance(all, firstOffset);
  iovIterTruncate(all, lenBytes);
  return all;
};

/** Pages of a file's cache, which the caller keeps there. Compare iov_iter_xarray(). */
export const iovIterXarray = (
  direction: IterDirection,
  mapping: AddressSpace,
  startByte: number,
  lenBytes: number,
): IovIter => iter('xarray', direction, lenBytes, { mapping, startByte });

/** What is read is thrown away. Compare iov_iter_discard(). */
export const iovIterDiscard = (lenBytes: number): IovIter =>
  iter('discard', ITER_DEST, lenBytes, {});

/** Is it memory of a process? Then pages of it are got by GUP. Compare user_backed_iter(). */
export const iovIterIsUser = ({ kind }: IovIter): boolean => kind === 'ubuf' || kind === 'iovec';

/** Its pieces; xarray and discard have none. */
const piecesOf = (it: IovIter): readonly { lenBytes: number }[] =>
  iovIterIsUser(it) ? it.user : it.kernel;

const hasPieces = ({ kind }: IovIter): boolean => kind !== 'xarray' && kind !== 'discard';

/** Goes on by `bytes`, or to the end where there are fewer. */
export const iovIterAdvance = (it: IovIter, bytes: number): void => {
  const by = Math.min(bytes, it.count);
  let done = it.done + by;
  setField(it, 'count', it.count - by);
  if (hasPieces(it)) {
    const pieces = piecesOf(it);
    let piece = it.piece;
    for (let own = pieces[piece]; own !== undefined && done >= own.lenBytes; own = pieces[piece]) {
      done -= own.lenBytes;
      piece++;
    }
    setField(it, 'piece', piece);
  }
  setField(it, 'done', done);
};

/**
 * Goes back by `bytes`: what was advanced over and not used after all.
 * @throws Error for more than the iterator has come
 */
export const iovIterRevert = (it: IovIter, bytes: number): void => {
  let done = it.done - bytes;
  let piece = it.piece;
  while (done < 0) {
    const own = hasPieces(it) && piece > 0 ? piecesOf(it)[--piece] : undefined;
    if (own === undefined) throw new Error(`iov_iter: ${bytes} bytes back leave its beginning`);
    done += own.lenBytes;
  }
  setField(it, 'piece', piece);
  setField(it, 'done', done);
  setField(it, 'count', it.count + bytes);
};

/** No more than `bytes` from here on. */
export const iovIterTruncate = (it: IovIter, bytes: number): void => {
  if (it.count > bytes) setField(it, 'count', bytes);
};

/** Ends where it ended before it was truncated. */
export const iovIterReexpand = (it: IovIter, bytes: number): void => setField(it, 'count', bytes);

/** What of a piece is left, within `count`: 0 at the end, and of kinds without pieces. */
export const iovIterPieceLeft = (it: IovIter): number => {
  const own = piecesOf(it)[it.piece];
  return own === undefined ? 0 : Math.min(own.lenBytes - it.done, it.count);
};

/** Calls `use` with the first byte (an hva, or an offset in a page or file) and the length of each piece that is left. */
const eachRest = (it: IovIter, use: (first: number, lenBytes: number) => void): void => {
  if (!hasPieces(it)) {
    if (it.count > 0) use(it.startByte + it.done, it.count);
    return;
  }
  let left = it.count;
  for (let i = it.piece, skip = it.done; left > 0; i++, skip = 0) {
    const piece = it.user[i] ?? it.kernel[i];
    if (piece === undefined) return;
    const own = Math.min(left, piece.lenBytes - skip);
    if (own > 0) use(('hva' in piece ? piece.hva : piece.offset) + skip, own);
    left -= own;
  }
};

/**
 * All that is left begins and ends at multiples of `unit` bytes, a power of two. Compare
 * iov_iter_is_aligned().
 */
export const iovIterIsAligned = (it: IovIter, unit: number): boolean => {
  let bits = 0;
  eachRest(it, (first, lenBytes) => {
    bits |= (first | lenBytes) & (unit - 1);
  });
  return bits === 0;
};

/** Pages that what is left touches, at most `most`. Compare iov_iter_npages(). */
export const iovIterNpages = (it: IovIter, most: number): number => {
  let nr = 0;
  eachRest(it, (first, lenBytes) => {
    nr += Math.ceil(((first % PAGE_SIZE) + lenBytes) / PAGE_SIZE);
  });
  return Math.min(nr, most);
};
