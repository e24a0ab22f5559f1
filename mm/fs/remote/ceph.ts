/**
 * Direct I/O as Ceph does it: one request after the other, none across the end of an object; where an
 * object ends before the file does the rest is zeroes. Compare fs/ceph/file.c,
 * ceph_direct_read_write(), __iter_get_bvecs(), put_bvecs().
 *
 * Pages are taken by the row ceph-dio, in as many goes as it takes to fill a request.
 */
import { PAGE_SIZE } from '#emu';
import type { ExtractedPages } from '../../iov/extract.ts';
import { iovHoldOf, iovHoldPages, iovReleasePages, markPagesDirtyLock } from '../../iov/hold.ts';
import { type IovIter, iovIterIsUser, iovIterRevert } from '../../iov/iter.ts';
import { type Path, YP_DIO_MAPPED } from '../../path.ts';
import type { Kernel, MmStruct } from '../../types.ts';
import { remoteRequest, remoteSend, remoteWait } from './server.ts';
import type { RemoteFile, RemoteRequest, RemoteServer } from './state.ts';

const USER = 'ceph-dio';

/** Zeroes behind the bytes that an answer had. */
const zeroRest = (k: Kernel, request: RemoteRequest, lenBytes: number): void => {
  for (let done = request.moved; done < lenBytes; ) {
    const inPages = request.firstOffset + done;
    const inPage = inPages % PAGE_SIZE;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inPage);
    const page = request.pages[Math.floor(inPages / PAGE_SIZE)]!;
    k.memory.zeroBytes(k.memory.pageOffset(page) + inPage, n);
    done += n;
  }
};

/** One request, from its pages to their release. @returns bytes done, or -errno */
function* oneRequest(
  k: Kernel,
  server: RemoteServer,
  file: RemoteFile,
  offset: number,
  it: IovIter,
  got: ExtractedPages,
): Path<number> {
  const hold = iovHoldOf(k, USER, it);
  const op = it.direction === 0 ? 'read' : 'write';
  if (k.watched) yield YP_DIO_MAPPED;
  const request = remoteRequest(op, file, offset, got);
  remoteSend(server, request);
  yield* remoteWait(k, server, request);
  let done = request.status < 0 ? request.status : request.moved;
  if (op === 'read' && done >= 0) {
    const inFile = Math.max(0, Math.min(got.lenBytes, file.sizeBytes - offset));
    zeroRest(k, request, inFile);
    done = inFile;
  }
  if (op === 'read' && iovIterIsUser(it)) yield* markPagesDirtyLock(k, got.pages, got.nrPages);
  iovReleasePages(k, USER, hold, got.pages, got.nrPages);
  return done;
}

/**
 * Direct I/O of one file. The file's lock is held by the caller.
 * @returns bytes moved, in requests that came before the first that failed; with none the error
 */
export function* cephDirect(
  k: Kernel,
  server: RemoteServer,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> {
  let total = 0;
  while (it.count > 0) {
    const at = offset + total;
    if (it.direction === 0 && at >= file.sizeBytes) break;
    const most = server.objectBytes - (at % server.objectBytes);
    const got = yield* iovHoldPages(k, USER, mm, it, most, Math.ceil(most / PAGE_SIZE) + 1);
    if (typeof got === 'number') return total > 0 ? total : got;
    const done = yield* oneRequest(k, server, file, at, it, got);
    iovIterRevert(it, got.lenBytes - Math.max(0, done));
    if (done < 0) return total > 0 ? total : done;
    total += done;
    if (done < got.lenBytes) break;
  }
  return total;
}
