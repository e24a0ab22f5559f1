/**
 * Direct I/O: bios whose bytes are a process's own pages. What block devices and file systems share of
 * it: taking the pages, dirtying those that are read into, letting go when the bio is done. Compare
 * block/bio.c, bio_iov_iter_get_pages(), bio_set_pages_dirty(), bio_check_pages_dirty().
 *
 * Pages are taken by the row block-dio. What a device reads into is dirty before it begins, so that
 * nobody throws it away meanwhile, and looked at again when it has ended: writeback may have cleaned it
 * in between.
 */
import { PAGE_SIZE } from '#emu';
import { bioAlloc, bioSubmit, bioWait } from '../block/bio.ts';
import type { Bio, BioVec, BlockDevice } from '../block/state.ts';
import type { ExtractedPages } from '../iov/extract.ts';
import {
  iovHoldOf,
  iovHoldPages,
  iovReleasePages,
  markPagesDirtyLock,
  type PageHold,
} from '../iov/hold.ts';
import {
  ITER_DEST,
  type IovIter,
  iovIterIsUser,
  iovIterReexpand,
  iovIterRevert,
  iovIterTruncate,
} from '../iov/iter.ts';
import { type Path, YP_DIO_MAPPED } from '../path.ts';
import type { Kernel, MmStruct } from '../types.ts';

/** Pages of one bio at most (BIO_MAX_VECS). */
export const BIO_MAX_PAGES = 256;

const USER = 'block-dio';

/** One bio and its pages, page by page: the bio itself may have runs of them. */
interface DioBio {
  bio: Bio;
  pages: Int32Array;
  nrPages: number;
  lenBytes: number;
}

/** One read or write, in as many bios as it takes. Compare struct iomap_dio. */
export interface Dio {
  dev: BlockDevice;
  op: 'read' | 'write';
  hold: PageHold;
  /** Memory of a process is read into: its pages are marked dirty. */
  shouldDirty: boolean;
  bios: DioBio[];
  /** Bytes in bios. */
  sizeBytes: number;
  /** The first error, of taking pages or of a bio. */
  error: number;
}

/** A read or write that has nothing to do yet. */
export const dioCreate = (k: Kernel, dev: BlockDevice, it: IovIter): Dio => {
  const op = it.direction === ITER_DEST ? 'read' : 'write';
  return {
    dev,
    op,
    hold: iovHoldOf(k, USER, it),
    shouldDirty: op === 'read' && iovIterIsUser(it),
    bios: [],
    sizeBytes: 0,
    error: 0,
  };
};

/** Appends pages to a bio; frames that follow each other become one vector. Compare bio_iov_add_folio(). */
const addPages = (to: DioBio, { pages, nrPages, offset, lenBytes }: ExtractedPages): void => {
  let vec: BioVec | undefined = to.bio.vec.at(-1);
  for (let i = 0, done = 0; i < nrPages; i++) {
    const page = pages[i]!;
    const inPage = i === 0 ? offset : 0;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inPage);
    to.pages[to.nrPages++] = page;
    const end = vec === undefined ? -1 : vec.page * PAGE_SIZE + vec.offset + vec.lenBytes;
    if (vec !== undefined && end === page * PAGE_SIZE + inPage) {
      vec.lenBytes += n;
    } else {
      vec = { page, offset: inPage, lenBytes: n };
      to.bio.vec.push(vec);
    }
    done += n;
  }
  to.lenBytes += lenBytes;
};

/**
 * As many of the iterator's pages as a bio has room for.
 * @returns 0 where it has any, then an error is kept back; or the error
 */
function* getPages(k: Kernel, mm: MmStruct | null, it: IovIter, to: DioBio): Path<number> {
  while (it.count > 0 && to.nrPages < BIO_MAX_PAGES) {
    const room = BIO_MAX_PAGES - to.nrPages;
    const got = yield* iovHoldPages(k, USER, mm, it, it.count, room);
    if (typeof got === 'number') return to.nrPages > 0 ? 0 : got;
    addPages(to, got);
  }
  return 0;
}

/**
 * Sends off the next `lenBytes` bytes of the iterator, to the device's bytes from `offset` on.
 * @returns bytes sent off, fewer where pages could not be had; with none the error. Compare
 *   iomap_dio_bio_iter()
 */
export function* dioSubmit(
  k: Kernel,
  mm: MmStruct | null,
  dio: Dio,
  offset: number,
  it: IovIter,
  lenBytes: number,
): Path<number> {
  const rest = it.count - Math.min(lenBytes, it.count);
  iovIterTruncate(it, lenBytes);
  let done = 0;
  let error = 0;
  while (it.count > 0) {
    const nrPages = Math.min(BIO_MAX_PAGES, Math.ceil(it.count / PAGE_SIZE) + 1);
    const one: DioBio = {
      bio: bioAlloc(dio.op, offset + done),
      pages: new Int32Array(it.kind === 'ubuf' ? nrPages : BIO_MAX_PAGES),
      nrPages: 0,
      lenBytes: 0,
    };
    error = yield* getPages(k, mm, it, one);
    if (one.nrPages === 0) break;
    if (k.watched) yield YP_DIO_MAPPED;
    if (dio.shouldDirty) yield* markPagesDirtyLock(k, one.pages, one.nrPages);
    bioSubmit(k, dio.dev, one.bio);
    dio.bios.push(one);
    dio.sizeBytes += one.lenBytes;
    done += one.lenBytes;
  }
  iovIterReexpand(it, it.count + rest);
  return done > 0 ? done : error;
}

/** Waits for every bio, and lets go of its pages. Afterwards `error` is the first one's that failed. */
export function* dioWait(k: Kernel, dio: Dio): Path<void> {
  for (const { bio, pages, nrPages } of dio.bios) {
    const status = yield* bioWait(k, dio.dev, bio);
    if (status !== 0 && dio.error === 0) dio.error = status;
    if (dio.shouldDirty) yield* markPagesDirtyLock(k, pages, nrPages);
    iovReleasePages(k, USER, dio.hold, pages, nrPages);
  }
}

/**
 * Nothing of it is under way any more: the iterator stands behind what was moved, after an error where
 * it began.
 * @param taken bytes that the iterator had left before
 * @param moved bytes that are done if there is no error
 * @returns those, or the error. Compare iomap_dio_complete()
 */
export const dioComplete = (dio: Dio, it: IovIter, taken: number, moved: number): number => {
  const done = dio.error === 0 ? moved : 0;
  iovIterRevert(it, taken - it.count - done);
  return dio.error === 0 ? done : dio.error;
};
