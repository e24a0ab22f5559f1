/**
 * process_vm_readv() and process_vm_writev(): from one process's memory to another's without a
 * detour. Compare mm/process_vm_access.c.
 *
 * The other process's pages are pinned in batches under its mmap_lock, which is dropped before
 * anything is copied; one's own memory is reached as by any copy_to_user(). No permission is
 * overridden. Whether the caller may do that to the other process at all is not asked.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL } from '../errno.ts';
import { copyPageFromIter, copyPageToIter } from '../iov/copy.ts';
import { type IoVec, type IovIter, iovIterIovec, ITER_DEST, ITER_SOURCE } from '../iov/iter.ts';
import { type Path, YP_REMOTE_COPIED } from '../path.ts';
import { nameGupUser } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { FOLL_WRITE } from './flags.ts';
import { pinUserPagesRemote } from './slow.ts';
import { unpinUserPagesDirtyLock } from './unpin.ts';

/** Pieces in one call (UIO_MAXIOV). */
const MAX_IOV = 1024;
/** Pages pinned at once: what two pages of pointers have room for (PVM_MAX_KMALLOC_PAGES). */
const MAX_PAGES = 1024;

/** Pinned pages against the local side. @returns 0, or -EFAULT where the local side faults */
function* copyPages(
  k: Kernel,
  localMm: MmStruct,
  iter: IovIter,
  pages: Int32Array,
  firstOffset: number,
  lenBytes: number,
  write: boolean,
): Path<number> {
  for (let done = 0, i = 0; done < lenBytes; i++) {
    const inPage = i === 0 ? firstOffset : 0;
    const n = Math.min(lenBytes - done, PAGE_SIZE - inPage);
    const copied = write
      ? yield* copyPageFromIter(k, localMm, iter, pages[i]!, inPage, n)
      : yield* copyPageToIter(k, localMm, iter, pages[i]!, inPage, n);
    if (copied < n) return iter.count > 0 ? -EFAULT : 0;
    done += copied;
  }
  return 0;
}

/** One piece of the other process's memory. @returns 0 or -EFAULT. Compare process_vm_rw_single_vec(). */
function* copyRemotePiece(
  k: Kernel,
  localMm: MmStruct,
  iter: IovIter,
  mm: MmStruct,
  { hva, lenBytes }: IoVec,
  pages: Int32Array,
  write: boolean,
): Path<number> {
  let error = 0;
  for (let done = 0; done < lenBytes && error === 0 && iter.count > 0; ) {
    const at = hva + done;
    const inPage = at % PAGE_SIZE;
    const wanted = Math.min(pages.length, Math.ceil((inPage + lenBytes - done) / PAGE_SIZE));
    if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
    const lock = { locked: 1 };
    const flags = write ? FOLL_WRITE : 0;
    nameGupUser(k, 'process-vm');
    const pinned = yield* pinUserPagesRemote(k, mm, at - inPage, wanted, flags, pages, lock);
    if (lock.locked === 1) mmapReadUnlock(mm);
    if (pinned <= 0) return -EFAULT;
    const n = Math.min(pinned * PAGE_SIZE - inPage, lenBytes - done);
    error = yield* copyPages(k, localMm, iter, pages, inPage, n, write);
    if (k.watched && write) yield YP_REMOTE_COPIED;
    nameGupUser(k, 'process-vm');
    yield* unpinUserPagesDirtyLock(k, pages, pinned, write);
    done += n;
  }
  return error;
}

const iovIsLegal = (iov: readonly IoVec[]): boolean =>
  iov.length <= MAX_IOV && iov.every(({ lenBytes }) => lenBytes >= 0);

function* processVmRw(
  k: Kernel,
  localMm: MmStruct,
  local: readonly IoVec[],
  remoteMm: MmStruct,
  remote: readonly IoVec[],
  flags: number,
  write: boolean,
): Path<number> {
  if (flags !== 0 || !iovIsLegal(local) || !iovIsLegal(remote)) return -EINVAL;
  const iter = iovIterIovec(write ? ITER_SOURCE : ITER_DEST, local);
  const total = iter.count;
  const nrPages = remote.reduce(
    (most, { hva, lenBytes }) =>
      Math.max(most, Math.ceil(((hva % PAGE_SIZE) + lenBytes) / PAGE_SIZE)),
    0,
  );
  const pages = new Int32Array(Math.min(nrPages, MAX_PAGES));
  let error = 0;
  for (const piece of remote) {
    if (error !== 0 || iter.count === 0) break;
    error = yield* copyRemotePiece(k, localMm, iter, remoteMm, piece, pages, write);
  }
  const copied = total - iter.count;
  return copied > 0 ? copied : error;
}

/**
 * process_vm_readv(): the other process's memory -> one's own.
 * @param flags must be 0
 * @returns bytes copied, fewer where either side ended or faulted; with none -EFAULT; -EINVAL
 */
export const processVmReadv = (
  k: Kernel,
  localMm: MmStruct,
  local: readonly IoVec[],
  remoteMm: MmStruct,
  remote: readonly IoVec[],
  flags = 0,
): Path<number> => processVmRw(k, localMm, local, remoteMm, remote, flags, false);

/** process_vm_writev(): one's own memory -> the other process's. @returns as processVmReadv */
export const processVmWritev = (
  k: Kernel,
  localMm: MmStruct,
  local: readonly IoVec[],
  remoteMm: MmStruct,
  remote: readonly IoVec[],
  flags = 0,
): Path<number> => processVmRw(k, localMm, local, remoteMm, remote, flags, true);
