/**
 * access_remote_vm(): a debugger or /proc/pid/mem reads and writes another process's memory.
 * Compare mm/memory.c, __access_remote_vm() and generic_access_phys().
 *
 * Page by page, by the API that the policy gives it: a FOLL_GET reference, the copy, the folio marked
 * dirty under its lock after a write, the reference dropped; the same with a pin; or through the page
 * tables, holding nothing (remote-copy.ts). mmap_lock is held all the way, which does not keep
 * writeback or migration out: between lookup and copy they find a reference, or a pin.
 */
import { PAGE_SIZE } from '#emu';
import {
  folioLock,
  folioMarkDirty,
  folioOf,
  folioPut,
  folioTrylock,
  folioUnlock,
} from '../folio/folio.ts';
import { type Path, YP_REMOTE_COPIED } from '../path.ts';
import { ptePage, pteWrite } from '../pgtable/pte.ts';
import { nameGupUser, noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapReadLockKillable, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { FOLL_FORCE, FOLL_WRITE } from './flags.ts';
import { followPfnmap } from './follow.ts';
import { accessThroughTables } from './remote-copy.ts';
import { getUserPagesRemote, pinUserPagesRemote } from './slow.ts';
import { unpinUserPagesDirtyLock } from './unpin.ts';
import { checkGetUser } from './users.ts';
import { vmaCanGup } from './vma-check.ts';

const USER = 'access-remote-vm';

/** Bytes of `buf` from `done` on that lie in one page of the process. */
const bytesInPage = (hva: number, buf: Uint8Array, done: number): number =>
  Math.min(buf.length - done, PAGE_SIZE - ((hva + done) % PAGE_SIZE));

/** The bytes of one page, to `buf` or from it. */
const copyPart = (
  k: Kernel,
  page: number,
  at: number,
  buf: Uint8Array,
  done: number,
  write: boolean,
): void => {
  const lenBytes = bytesInPage(at - done, buf, done);
  const offset = k.memory.pageOffset(page) + (at % PAGE_SIZE);
  if (write) k.memory.setBytes(offset, buf.subarray(done, done + lenBytes));
  else buf.set(k.memory.u8.subarray(offset, offset + lenBytes), done);
};

/** One page's part, by reference or pin. The caller holds mmap_lock. @returns bytes, 0 where GUP gets nothing */
function* accessPage(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  done: number,
  flags: number,
  pages: Int32Array,
): Path<number> {
  const at = hva + done;
  const lenBytes = bytesInPage(hva, buf, done);
  const write = (flags & FOLL_WRITE) !== 0;
  const api = k.policy.apis[USER];
  if (api === 'copy') {
    const copied = yield* accessThroughTables(k, mm, at, flags, (page) =>
      copyPart(k, page, at, buf, done, write),
    );
    return copied ? lenBytes : 0;
  }
  if (api === 'pin') nameGupUser(k, USER);
  const n =
    api === 'pin'
      ? yield* pinUserPagesRemote(k, mm, at, 1, flags, pages, null)
      : yield* getUserPagesRemote(k, USER, mm, at, 1, flags, pages, null);
  if (n !== 1) return 0;
  const page = pages[0]!;
  const folio = folioOf(k, page);
  copyPart(k, page, at, buf, done, write);
  if (k.watched && write) yield YP_REMOTE_COPIED;
  if (api === 'pin') {
    nameGupUser(k, USER);
    yield* unpinUserPagesDirtyLock(k, pages, 1, write);
    return lenBytes;
  }
  if (write) {
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    folioMarkDirty(k, folio);
    folioUnlock(k, folio);
  }
  noteReleasePage(k, 'get', page, 1, USER);
  folioPut(k, folio);
  return lenBytes;
}

/**
 * One page's part of memory without page structs (VM_IO, VM_PFNMAP), which GUP refuses: what the
 * entry maps is reached directly, if it is there and allows it. Every such VMA has this as its
 * vm_ops->access. @returns bytes, 0 where there is nothing
 */
const accessPhys = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  done: number,
  write: boolean,
): number => {
  const at = hva + done;
  const vma = findVma(mm, at);
  if (vma === null || vmaCanGup(vma)) return 0;
  const pte = followPfnmap(k, vma, at);
  if (pte === 0 || (write && !pteWrite(pte))) return 0;
  const page = ptePage(pte);
  if (page < 0 || page >= k.memory.nrPages) return 0;
  copyPart(k, page, at, buf, done, write);
  return bytesInPage(hva, buf, done);
};

/**
 * Copies buf.length bytes at `hva` to `buf`, or with FOLL_WRITE from it.
 * @param flags FOLL_WRITE, FOLL_FORCE
 * @returns bytes copied: what stopped it earlier is not said; 0 also when a fatal signal came first
 * @throws Error when the policy gives access-remote-vm none of FOLL_GET, FOLL_PIN and copying
 */
export function* accessRemoteVmFlags(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  flags: number,
): Path<number> {
  const api = k.policy.apis[USER];
  if (api !== 'pin' && api !== 'copy') checkGetUser(k.policy, USER);
  const pages = new Int32Array(1);
  if (!mmapReadTrylock(mm) && (yield* mmapReadLockKillable(k, mm)) !== 0) return 0;
  let done = 0;
  while (done < buf.length) {
    let n = yield* accessPage(k, mm, hva, buf, done, flags, pages);
    if (n === 0) n = accessPhys(k, mm, hva, buf, done, (flags & FOLL_WRITE) !== 0);
    if (n === 0) break;
    done += n;
  }
  mmapReadUnlock(mm);
  return done;
}

/** The same with FOLL_FORCE: permissions of private mappings are overridden. Compare access_process_vm(). */
export const accessRemoteVm = (
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  write: boolean,
): Path<number> => accessRemoteVmFlags(k, mm, hva, buf, FOLL_FORCE | (write ? FOLL_WRITE : 0));
