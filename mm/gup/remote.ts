/**
 * access_remote_vm(): a debugger or /proc/pid/mem reads and writes another process's memory.
 * Compare mm/memory.c, __access_remote_vm().
 *
 * Page by page: a FOLL_GET reference, the copy, the folio marked dirty under its lock after a
 * write, the reference dropped. The mmap lock is held all the way, which does not keep writeback
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
import { noteGrab, noteReleasePage } from '../provenance/provenance.ts';
import type { Kernel, MmStruct } from '../types.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { FOLL_FORCE, FOLL_GET, FOLL_REMOTE, FOLL_TOUCH, FOLL_WRITE } from './flags.ts';
import { getUserPagesLocked } from './slow.ts';
import { checkGetUser } from './users.ts';

/**
 * Copies buf.length bytes at `hva` to `buf`, or from it if `write`, overriding the VMA's
 * permissions as FOLL_FORCE does (private mappings only).
 * @returns bytes copied: what stopped it earlier is not said
 * @throws Error when the policy does not give access-remote-vm FOLL_GET
 */
export function* accessRemoteVm(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  buf: Uint8Array,
  write: boolean,
): Path<number> {
  checkGetUser(k.policy, 'access-remote-vm');
  const flags = FOLL_GET | FOLL_TOUCH | FOLL_REMOTE | FOLL_FORCE | (write ? FOLL_WRITE : 0);
  const pages = new Int32Array(1);
  let done = 0;
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  while (done < buf.length) {
    const at = hva + done;
    if ((yield* getUserPagesLocked(k, mm, at, 1, flags, pages)) !== 1) break;
    const page = pages[0]!;
    noteGrab(k, flags, 'get_user_pages_remote', 'access-remote-vm', mm, at, pages, 1);
    const inPage = at % PAGE_SIZE;
    const lenBytes = Math.min(buf.length - done, PAGE_SIZE - inPage);
    const offset = k.memory.pageOffset(page) + inPage;
    const folio = folioOf(k, page);
    if (write) {
      k.memory.setBytes(offset, buf.subarray(done, done + lenBytes));
      if (!folioTrylock(k, folio)) yield* folioLock(k, folio);
      folioMarkDirty(k, folio);
      folioUnlock(k, folio);
    } else {
      buf.set(k.memory.u8.subarray(offset, offset + lenBytes), done);
    }
    noteReleasePage(k, 'get', page, 1, 'access-remote-vm');
    folioPut(k, folio);
    done += lenBytes;
  }
  mmapReadUnlock(mm);
  return done;
}
