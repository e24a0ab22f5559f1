/**
 * read() and write() with O_DIRECT of files at a server: which client, and the file's lock around it.
 * Compare fs/nfs/io.c:nfs_start_io_direct(), fs/ceph/io.c, fs/fuse/file.c:fuse_dio_lock().
 */
import { downRead, downWrite, upRead, upWrite } from '../../cache/rwsem.ts';
import { EINVAL } from '../../errno.ts';
import { ITER_DEST, ITER_SOURCE, type IovIter } from '../../iov/iter.ts';
import type { Path } from '../../path.ts';
import type { Kernel, MmStruct } from '../../types.ts';
import { cephDirect } from './ceph.ts';
import { fuseDirect } from './fuse.ts';
import { nfsDirect } from './nfs.ts';
import type { RemoteFile } from './state.ts';

const CLIENTS = { nfs: nfsDirect, ceph: cephDirect, fuse: fuseDirect };

/** @throws Error for a file whose server has gone */
const direct = (
  k: Kernel,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> => {
  const server = k.state.remoteServers.get(file.server);
  if (server === undefined) throw new Error(`file ${file.ino} has no server ${file.server}`);
  return CLIENTS[server.kind](k, server, mm, file, offset, it);
};

/**
 * read(): bytes of the file from `offset` on, into the iterator, which goes on by what was read.
 * @param mm of a user-backed iterator
 * @returns bytes, 0 at the end of the file; with none: -EIO, -EFAULT and what else GUP returns; -EINVAL
 */
export function* remoteDirectRead(
  k: Kernel,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_DEST) return -EINVAL;
  yield* downRead(file.lock);
  const n = yield* direct(k, mm, file, offset, it);
  upRead(file.lock);
  return n;
}

/**
 * write(): the iterator's bytes, to the file from `offset` on. Of FUSE one writer at a time; of the
 * others writers meet at the server. @returns bytes; with none: -EIO, -ENOSPC, as remoteDirectRead
 */
export function* remoteDirectWrite(
  k: Kernel,
  mm: MmStruct | null,
  file: RemoteFile,
  offset: number,
  it: IovIter,
): Path<number> {
  if (offset < 0 || it.direction !== ITER_SOURCE) return -EINVAL;
  const alone = k.state.remoteServers.get(file.server)?.kind === 'fuse';
  yield* alone ? downWrite(file.lock) : downRead(file.lock);
  const n = yield* direct(k, mm, file, offset, it);
  if (alone) upWrite(file.lock);
  else upRead(file.lock);
  return n;
}
