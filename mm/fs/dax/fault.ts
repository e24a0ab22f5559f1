/**
 * Faults on files of a DAX file system: what is mapped is the block. Compare fs/dax.c:dax_iomap_pte_fault(),
 * dax_fault_iter(), fs/ext4/file.c:ext4_dax_huge_fault().
 *
 *   read     the block, read-only; of a hole the zero page
 *   write    shared: the block, chosen and zeroed if there was none; its entry is dirty from here on, and
 *            only then the process's own becomes writable
 *            private: a copy, as of any file
 *
 * mmap_lock is held, then the file's invalidate_lock for reading, then the entry (entries.ts). Pages are
 * mapped one by one.
 */
import { PAGE_SIZE } from '#emu';
import { downRead, downReadTrylock, upRead } from '../../cache/rwsem.ts';
import { unmapMappingRange } from '../../cache/unmap.ts';
import { EFAULT, EIO, ENOENT, ENOSPC } from '../../errno.ts';
import { installAnon } from '../../fault/anon.ts';
import { FAULT_FLAG_WRITE } from '../../fault/flags.ts';
import { folioAlloc, folioPut } from '../../folio/folio.ts';
import { GFP_MOVABLE } from '../../frames/buddy.ts';
import { type Path, YP_FAULT_COPIED, YP_MKWRITE } from '../../path.ts';
import { pteMkuffdWp, pteNone, ptePresent } from '../../pgtable/pte.ts';
import { isPteMarker } from '../../pgtable/swapops.ts';
import { ptepGet, setPteAt, walkPte } from '../../pgtable/walk.ts';
import { anonVmaPrepare } from '../../rmap/anon-vma.ts';
import { countStat } from '../../stat.ts';
import type { AddressSpace, Kernel, Vma } from '../../types.ts';
import { linearPageIndex, VM_SHARED } from '../../vma/flags.ts';
import { daxMapPage } from './blocks.ts';
import { daxOf, lockEntry, markEntryDirty, setEntry, unlockEntry } from './entries.ts';
import { insertPageMkwrite, insertZeroPage } from './insert.ts';

const fileOf = (vma: Vma): AddressSpace => {
  if (vma.mapping === null) throw new Error('a DAX fault without a file');
  return vma.mapping;
};

/** What the process is told: SIGBUS where there is no room, or the file system has failed. */
const faultError = (error: number): number =>
  error === -ENOSPC || error === -EIO ? -EFAULT : error;

/** The page is shown, and mapped. The entry is locked. @returns 0, -EFAULT, -ENOMEM */
function* mapEntry(
  k: Kernel,
  vma: Vma,
  mapping: AddressSpace,
  hva: number,
  write: boolean,
): Path<number> {
  const pgoff = linearPageIndex(vma, hva);
  const page = yield* daxMapPage(k, mapping, pgoff, write);
  if (page === -ENOENT) {
    setEntry(k, mapping, pgoff, k.state.zeroPage);
    return insertZeroPage(k, vma, hva);
  }
  if (page < 0) return faultError(page);
  // Whoever has read the hole goes on reading zeroes, and must see what is written from now on.
  if (daxOf(mapping).entries.get(pgoff) === k.state.zeroPage)
    yield* unmapMappingRange(k, mapping, pgoff, 1, false);
  setEntry(k, mapping, pgoff, page);
  if (write) {
    markEntryDirty(mapping, pgoff);
    if (k.watched) yield YP_MKWRITE;
  }
  const error = insertPageMkwrite(k, vma, hva, page, write);
  if (error !== -EFAULT) return error;
  // The zero page has been moved behind the walk: it goes now, and the access tries again.
  yield* unmapMappingRange(k, mapping, pgoff, 1, false);
  return 0;
}

/** The copy of a private mapping gets the file's bytes, and is mapped unless somebody came first. @returns 1: mapped; 0; -errno. Compare dax_fault_cow_page() */
function* copyEntry(
  k: Kernel,
  vma: Vma,
  mapping: AddressSpace,
  hva: number,
  copy: number,
): Path<number> {
  const page = yield* daxMapPage(k, mapping, linearPageIndex(vma, hva), false);
  if (page < 0 && page !== -ENOENT) return faultError(page);
  if (page < 0) k.memory.zeroPage(copy);
  else k.memory.copyPage(copy, page);
  countStat(k, 'cow_copied');
  if (k.watched) yield YP_FAULT_COPIED;
  const word = walkPte(k, vma.mm, hva, true);
  if (word < 0) return word;
  const was = ptepGet(k, word);
  if (!pteNone(was) && (ptePresent(was) || !isPteMarker(was))) return 0;
  installAnon(k, vma, hva, word, copy);
  if (isPteMarker(was)) setPteAt(k, word, pteMkuffdWp(ptepGet(k, word)));
  return 1;
}

/** With the file's locks. @param copy of a private mapping that is written to, otherwise -1 @returns as copyEntry or mapEntry */
function* lockedFault(
  k: Kernel,
  vma: Vma,
  hva: number,
  write: boolean,
  copy: number,
): Path<number> {
  const mapping = fileOf(vma);
  const pgoff = linearPageIndex(vma, hva);
  if (!downReadTrylock(mapping.invalidateLock)) yield* downRead(mapping.invalidateLock);
  let outcome: number = -EFAULT;
  if (pgoff < mapping.nrPages) {
    yield* lockEntry(mapping, pgoff);
    outcome =
      copy >= 0
        ? yield* copyEntry(k, vma, mapping, hva, copy)
        : yield* mapEntry(k, vma, mapping, hva, write);
    unlockEntry(mapping, pgoff);
  }
  upRead(mapping.invalidateLock);
  return outcome;
}

/**
 * First touch: nothing is mapped, or a marker.
 * @param hva page-aligned
 * @returns 0; -EFAULT: SIGBUS (beyond the end, no space, an error); -ENOMEM
 */
export function* daxFileFault(k: Kernel, vma: Vma, hva: number, flags: number): Path<number> {
  const write = (flags & FAULT_FLAG_WRITE) !== 0;
  if (!write || (vma.flags & VM_SHARED) !== 0) return yield* lockedFault(k, vma, hva, write, -1);
  anonVmaPrepare(k, vma);
  const copy = folioAlloc(k, GFP_MOVABLE);
  if (copy < 0) return copy;
  const outcome = yield* lockedFault(k, vma, hva, write, copy);
  if (outcome !== 1) folioPut(k, copy);
  return outcome === 1 ? 0 : outcome;
}

/**
 * A write to a page of a shared mapping that is read-only: a block, or the zero page of a hole. The file
 * system is asked, as at first touch, and the entry made writable where it still is the block's.
 * @param hva of the page, any byte of it
 * @returns 0: try the access again; -EFAULT; -ENOMEM. Compare wp_pfn_shared(), vm_ops->pfn_mkwrite()
 */
export const daxPfnMkwrite = (k: Kernel, vma: Vma, hva: number): Path<number> =>
  lockedFault(k, vma, hva - (hva % PAGE_SIZE), true, -1);
