/**
 * Direct I/O as NFS does it: requests of rsize or wsize bytes, all sent before the first answer is
 * waited for; a short answer that is not the end of the file is asked for again. Compare
 * fs/nfs/direct.c, nfs_direct_read_schedule_iovec(), nfs_direct_write_schedule_iovec().
 *
 * Pages are taken by the row nfs-dio. What was read is marked dirty after the answer, of large folios
 * never. Linux lets a waiter who is killed go before the answers come; here he waits.
 */
import { PAGE_SIZE } from '#emu';
import { setField } from '#cells';
import { folioMarkDirty, folioOf } from '../../folio/folio.ts';
import { folioTestLarge } from '../../folio/large.ts';
import { iovHoldOf, iovHoldPages, iovReleasePages, type PageHold } from '../../iov/hold.ts';
import { type IovIter, iovIterIsUser, iovIterRevert } from '../../iov/iter.ts';
import { type Path, YP_DIO_MAPPED } from '../../path.ts';
import type { Kernel, MmStruct } from '../../types.ts';
import { remoteRequest, remoteSend, remoteWait } from './server.ts';
import type { RemoteFile, RemoteRequest, RemoteServer } from './state.ts';

const USER = 'nfs-dio';

/** Takes pages and sends requests until the iterator is empty or gives no more. @returns 0, or what stopped it */
function* schedule(
  k: Kernel,
  server: RemoteServer,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
  sent: RemoteRequest[],
): Path<number> {
  const op = it.direction === 0 ? 'read' : 'write';
  const size = op === 'read' ? server.rsize : server.wsize;
  for (let at = offset; it.count > 0; ) {
    const got = yield* iovHoldPages(k, USER, mm, it, size, Math.ceil(size / PAGE_SIZE) + 1);
    if (typeof got === 'number') return got;
    if (k.watched) yield YP_DIO_MAPPED;
    const request = remoteRequest(op, file, at, got);
    remoteSend(server, request);
    sent.push(request);
    at += got.lenBytes;
  }
  return 0;
}

/** Waits for a request, and asks again for what a short answer left out. @returns bytes moved */
function* finish(k: Kernel, server: RemoteServer, request: RemoteRequest): Path<number> {
  yield* remoteWait(k, server, request);
  let moved = request.moved;
  let last = request;
  while (last.status === 0 && !last.eof && moved < request.lenBytes) {
    const inPages = request.firstOffset + moved;
    const skip = Math.floor(inPages / PAGE_SIZE);
    last = remoteRequest(request.op, request.file, request.offset + moved, {
      pages: request.pages.subarray(skip),
      nrPages: request.nrPages - skip,
      offset: inPages % PAGE_SIZE,
      lenBytes: request.lenBytes - moved,
    });
    remoteSend(server, last);
    yield* remoteWait(k, server, last);
    moved += last.moved;
  }
  setField(request, 'status', last.status);
  return moved;
}

/** Pages of an answer to a read that hold bytes of it: they are not what they were. */
const markDirty = (k: Kernel, { pages, firstOffset }: RemoteRequest, moved: number): void => {
  const nr = moved === 0 ? 0 : Math.ceil((firstOffset + moved) / PAGE_SIZE);
  for (let i = 0; i < nr; i++) {
    const folio = folioOf(k, pages[i]!);
    if (!folioTestLarge(k, folio)) folioMarkDirty(k, folio);
  }
};

/**
 * Direct I/O of one file. The file's lock is held by the caller.
 * @returns bytes moved, up to the first that was not; with none the error
 */
export function* nfsDirect(
  k: Kernel,
  server: RemoteServer,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> {
  const hold: PageHold = iovHoldOf(k, USER, it);
  const shouldDirty = it.direction === 0 && iovIterIsUser(it);
  const sent: RemoteRequest[] = [];
  let error = yield* schedule(k, server, mm, file, offset, it, sent);
  let done = 0;
  let taken = 0;
  let ended = false;
  for (const request of sent) {
    const moved = yield* finish(k, server, request);
    if (shouldDirty) markDirty(k, request, moved);
    iovReleasePages(k, USER, hold, request.pages, request.nrPages);
    taken += request.lenBytes;
    if (ended) continue;
    done += moved;
    if (moved < request.lenBytes) {
      ended = true;
      error = request.status;
    }
  }
  iovIterRevert(it, taken - done);
  return done > 0 ? done : error;
}
