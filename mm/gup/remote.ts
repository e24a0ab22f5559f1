/**
 * access_remote_vm(): a debugger or /proc/pid/mem reads and writes another process's memory.
 * Compare mm/memory.c, __access_remote_vm() and generic_access_phys().
 *
 * Page by page: a FOLL_GET reference, the copy, the folio marked dirty under its lock after a
 * write, the reference dropped. mmap_lock is held all the way, which does not keep writeback
 * or migration out: between lookup and copy they find a reference, and no pin.
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
import type { Path } from '../path.ts';
import { ptePage, pteWrite } from '../pgtable/pte.ts';
import { noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapReadLockKillable, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { FOLL_FORCE, FOLL_WRITE } from './flags.ts';
import { followPfnmap } from './follow.ts';
import { getUserPagesRemote } from './slow.ts';
import { checkGetUser } from './users.ts';
import { vmaCanGup } from './vma-check.ts';

/** Bytes of `buf` from `done` on that lie in one page of the process. */
const bytesInPage = (hva: number, buf: Uint8Array, done: number): number =>
  Math.min(buf.length - done, PAGE_SIZE - ((hva + done) % PAGE_SIZE));

/** One page's part, by reference. The caller holds mmap_lock. @returns bytes, 0 where GUP gets nothing */
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
  if ((yield* getUserPagesRemote(k, 'access-remote-vm', mm, at, 1, flags, pages, null)) !== 1)
    return 0;
  const page = pages[0]!;
  const lenBytes = bytesInPage(hva, buf, done);
  const offset = k.memory.pageOffset(page) + (at % PAGE_SIZE);
  const folio = folioOf(k, page);
  if ((flags & FOLL_WRITE) !== 0) {
    k.memory.setBytes(offset, buf.subarray(done, done + lenBytes));
    if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
    folioMarkDirty(k, folio);
    folioUnlock(k, folio);
  } else {
    buf.set(k.memory.u8.subarray(offset, offset + lenBytes), done);
  }
  noteReleasePage(k, 'get', page, 1, 'access-remote-vm');
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
  const lenBytes = bytesInPage(hva, buf, done);
  const offset = k.memory.pageOffset(page) + (at % PAGE_SIZE);
  if (write) k.memory.setBytes(offset, buf.subarray(done, done + lenBytes));
  else buf.set(k.memory.u8.subarray(offset, offset + lenBytes), done);
  return lenBytes;
};

/**
 * Copies buf.length bytes at `hva` to `buf`, or with FOLL_WRITE from it.
 * @param flags FOLL_WRITE, FOLL_FORCE
 * @returns bytes copied: what stopped it earlier is not said; 0 also when a fatal signal came first
 * @throws Error when the policy does not give access-remote-vm FOLL_GET
 */
export function* accessRemoteVmFlags(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  flags: number,
): Path<number> {
  checkGetUser(k.policy, 'access-remote-vm');
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
