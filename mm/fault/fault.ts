/**
 * Page faults: from an address that cannot be used to an entry that can.
 * Compare mm/memory.c:handle_mm_fault(), do_anonymous_page(), do_fault().
 *
 * An entry that has changed while a path yielded means that somebody else came first: the fault is
 * done, and the access tries again. A fault that has to wait keeps mmap_lock, as one without
 * FAULT_FLAG_ALLOW_RETRY does. The write faults of present entries are in wp.ts.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINVAL } from '../errno.ts';
import { shmemGetFolio } from '../fs/shmem.ts';
import {
  folioAddLru,
  folioAlloc,
  folioMarkDirty,
  folioPut,
  folioSetFlags,
  folioUnlock,
} from '../folio/folio.ts';
import { GFP_KERNEL, GFP_ZERO } from '../frames/buddy.ts';
import { PG_UPTODATE } from '../frames/table.ts';
import {
  type Path,
  YP_FAULT_ALLOCATED,
  YP_FAULT_COPIED,
  YP_FAULT_DONE,
  YP_FAULT_LOCKED,
  YP_WAIT,
} from '../path.ts';
import {
  maybeMkwrite,
  mkPte,
  pteMkdirty,
  pteMkspecial,
  pteMkyoung,
  pteNone,
  ptePresent,
  pteWrite,
  vmPageProt,
} from '../pgtable/pte.ts';
import { ptepGet, setPteAt, walkPte } from '../pgtable/walk.ts';
import { anonVmaPrepare } from '../rmap/anon-vma.ts';
import { folioAddFileRmap, folioAddNewAnonRmap } from '../rmap/rmap.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import {
  isCowMapping,
  linearPageIndex,
  VM_EXEC,
  VM_MAYWRITE,
  VM_READ,
  VM_SHARED,
  VM_WRITE,
} from '../vma/flags.ts';
import { mmapReadLock, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { addRss } from '../vma/zap.ts';
import { FAULT_FLAG_INSTRUCTION, FAULT_FLAG_UNSHARE, FAULT_FLAG_WRITE } from './flags.ts';
import { doWpPage } from './wp.ts';

export {
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_REMOTE,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_USER,
  FAULT_FLAG_WRITE,
} from './flags.ts';

/** Flags that make sense for the VMA, or -EFAULT. Compare sanitize_fault_flags(). */
const sanitizeFlags = (vma: Vma, flags: number): number => {
  if ((flags & FAULT_FLAG_UNSHARE) !== 0) {
    if ((flags & FAULT_FLAG_WRITE) !== 0) return -EFAULT;
    if (!isCowMapping(vma.flags)) return flags & ~FAULT_FLAG_UNSHARE;
  } else if ((flags & FAULT_FLAG_WRITE) !== 0) {
    if ((vma.flags & VM_MAYWRITE) === 0) return -EFAULT;
    // FOLL_FORCE writes to private mappings that are not writable; to nothing else.
    if ((vma.flags & VM_WRITE) === 0 && !isCowMapping(vma.flags)) return -EFAULT;
  }
  return flags;
};

/**
 * Handles one fault. The caller holds mmap_lock for reading and has checked the VMA's permissions;
 * it keeps the lock.
 * @param faultFlags FAULT_FLAG_*
 * @returns 0: try the access (or the walk) again; -EFAULT: no VMA, or beyond the file's end; -ENOMEM
 */
export function* handleMmFault(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  faultFlags: number,
): Path<number> {
  const vma = findVma(mm, hva);
  if (vma === null) return -EFAULT;
  const flags = sanitizeFlags(vma, faultFlags);
  if (flags < 0) return flags;
  countStat(k, 'pgfault');
  if (k.watched) yield YP_FAULT_LOCKED;
  const at = hva - (hva % PAGE_SIZE);
  const word = walkPte(k, mm, at, true);
  if (word < 0) return word;
  const pte = ptepGet(k, word);
  let error = 0;
  if (pteNone(pte)) {
    error =
      vma.mapping === null
        ? yield* doAnonymousPage(k, vma, at, word, flags)
        : yield* doFileFault(k, vma, at, word, flags);
  } else if (!ptePresent(pte)) {
    yield* migrationEntryWait(k, word, pte);
  } else if ((flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE)) === 0 || pteWrite(pte)) {
    const written = (flags & FAULT_FLAG_WRITE) !== 0 ? pteMkdirty(pte) : pte;
    setPteAt(k, word, pteMkyoung(written));
  } else {
    error = yield* doWpPage(k, vma, at, word, pte, flags);
  }
  if (k.watched) yield YP_FAULT_DONE;
  return error;
}

/** Until whoever moves the folio has put entries back. Compare migration_entry_wait(). */
function* migrationEntryWait(k: Kernel, word: number, entry: number): Path<void> {
  while (ptepGet(k, word) === entry) yield YP_WAIT;
}

/** First touch of anonymous memory: a read maps the zero page, a write a page of its own. */
function* doAnonymousPage(
  k: Kernel,
  vma: Vma,
  hva: number,
  word: number,
  flags: number,
): Path<number> {
  const prot = vmPageProt(vma.flags);
  if ((flags & FAULT_FLAG_WRITE) === 0) {
    // Also for UNSHARE, as in Linux: the walk that asked for it looks again and faults again.
    setPteAt(k, word, pteMkyoung(pteMkspecial(mkPte(k.state.zeroPage, prot))));
    return 0;
  }
  anonVmaPrepare(k, vma);
  const page = folioAlloc(k, GFP_ZERO);
  if (page < 0) return page;
  if (k.watched) yield YP_FAULT_ALLOCATED;
  if (!pteNone(ptepGet(k, word))) folioPut(k, page);
  else installAnon(k, vma, hva, word, page);
  return 0;
}

/** Maps a new anonymous page, for writing where the VMA allows it. */
const installAnon = (k: Kernel, vma: Vma, hva: number, word: number, page: number): void => {
  folioSetFlags(k, page, PG_UPTODATE);
  folioAddNewAnonRmap(k, page, vma, hva);
  folioAddLru(k, page);
  addRss(vma.mm, true, 1);
  const pte = pteMkyoung(pteMkdirty(mkPte(page, vmPageProt(vma.flags))));
  setPteAt(k, word, maybeMkwrite(pte, vma.flags));
};

/** First touch of a file's page. Compare do_read_fault(), do_cow_fault(), do_shared_fault(). */
function* doFileFault(k: Kernel, vma: Vma, hva: number, word: number, flags: number): Path<number> {
  const { mapping } = vma;
  if (mapping === null) throw new Error('a file fault without a file');
  const write = (flags & FAULT_FLAG_WRITE) !== 0;
  const shared = (vma.flags & VM_SHARED) !== 0;
  let copy = -1;
  if (write && !shared) {
    anonVmaPrepare(k, vma);
    copy = folioAlloc(k, GFP_KERNEL);
    if (copy < 0) return copy;
  }
  const folio = yield* shmemGetFolio(k, mapping, linearPageIndex(vma, hva));
  if (folio < 0) {
    if (copy >= 0) folioPut(k, copy);
    // Beyond the end of the file: SIGBUS.
    return folio === -EINVAL ? -EFAULT : folio;
  }
  if (copy >= 0) {
    k.memory.copyPage(copy, folio);
    countStat(k, 'cow_copied');
    if (k.watched) yield YP_FAULT_COPIED;
  }
  if (!pteNone(ptepGet(k, word))) {
    if (copy >= 0) folioPut(k, copy);
  } else if (copy >= 0) {
    installAnon(k, vma, hva, word, copy);
  } else {
    installFile(k, vma, word, folio, write);
    folioUnlock(k, folio);
    // The caller's reference has become the entry's.
    return 0;
  }
  folioUnlock(k, folio);
  folioPut(k, folio);
  return 0;
}

/** Maps a page of the file; it needs no writenotify, so a shared writable VMA gets W at once. */
const installFile = (k: Kernel, vma: Vma, word: number, page: number, write: boolean): void => {
  let pte = pteMkyoung(mkPte(page, vmPageProt(vma.flags)));
  if (write) {
    pte = maybeMkwrite(pteMkdirty(pte), vma.flags);
    folioMarkDirty(k, page);
  }
  folioAddFileRmap(k, page);
  addRss(vma.mm, false, 1);
  setPteAt(k, word, pte);
};

/** May user code do this here? Compare arch/riscv/mm/fault.c:access_error(): W implies R. */
const accessAllowed = (vma: Vma, flags: number): boolean => {
  if ((flags & FAULT_FLAG_INSTRUCTION) !== 0) return (vma.flags & VM_EXEC) !== 0;
  if ((flags & FAULT_FLAG_WRITE) !== 0) return (vma.flags & VM_WRITE) !== 0;
  return (vma.flags & (VM_READ | VM_WRITE)) !== 0;
};

/**
 * A fault of user code: takes mmap_lock, checks the access, handles the fault.
 * @returns 0: do the access again; -EFAULT: SIGSEGV or SIGBUS; -ENOMEM
 */
export function* userFault(k: Kernel, mm: MmStruct, hva: number, flags: number): Path<number> {
  if (!mmapReadTrylock(mm)) yield* mmapReadLock(mm);
  const vma = findVma(mm, hva);
  const allowed = vma !== null && accessAllowed(vma, flags);
  const error = allowed ? yield* handleMmFault(k, mm, hva, flags) : -EFAULT;
  mmapReadUnlock(mm);
  return error;
}
