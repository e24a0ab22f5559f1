/**
 * Direct I/O as FUSE does it: requests of max_pages pages at most, one after the other, until one
 * comes back short. Compare fs/fuse/file.c, fuse_direct_io(), fuse_get_user_pages(),
 * fuse_release_user_pages().
 *
 * Pages are taken by the row fuse-dio. Memory of the kernel's own is handed on by its address, under
 * either API: nobody takes anything of it.
 */
import type { ExtractedPages } from '../../iov/extract.ts';
import { iovIterExtractPages } from '../../iov/extract.ts';
import { iovHoldOf, iovHoldPages, iovReleasePages, markPagesDirtyLock } from '../../iov/hold.ts';
import { type IovIter, iovIterIsUser, iovIterRevert } from '../../iov/iter.ts';
import { type Path, YP_DIO_MAPPED } from '../../path.ts';
import type { Kernel, MmStruct } from '../../types.ts';
import { remoteRequest, remoteSend, remoteWait } from './server.ts';
import type { RemoteFile, RemoteServer } from './state.ts';

const USER = 'fuse-dio';

const getPages = (
  k: Kernel,
  server: RemoteServer,
  mm: MmStruct | null,
  it: IovIter,
): Path<ExtractedPages | number> =>
  it.kind === 'kvec'
    ? iovIterExtractPages(k, mm, it, it.count, server.maxPages, 0)
    : iovHoldPages(k, USER, mm, it, it.count, server.maxPages);

/**
 * Direct I/O of one file. The file's lock is held by the caller.
 * @returns bytes moved, up to the first short answer; with none the error
 */
export function* fuseDirect(
  k: Kernel,
  server: RemoteServer,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> {
  const op = it.direction === 0 ? 'read' : 'write';
  const hold = it.kind === 'kvec' ? 'none' : iovHoldOf(k, USER, it);
  const shouldDirty = op === 'read' && iovIterIsUser(it);
  let total = 0;
  while (it.count > 0) {
    const got = yield* getPages(k, server, mm, it);
    if (typeof got === 'number') return total > 0 ? total : got;
    if (k.watched) yield YP_DIO_MAPPED;
    const request = remoteRequest(op, file, offset + total, got);
    remoteSend(server, request);
    yield* remoteWait(k, server, request);
    if (shouldDirty) yield* markPagesDirtyLock(k, got.pages, got.nrPages);
    iovReleasePages(k, USER, hold, got.pages, got.nrPages);
    iovIterRevert(it, got.lenBytes - request.moved);
    total += request.moved;
    if (request.moved < got.lenBytes) return total > 0 ? total : request.status;
  }
  return total;
}
