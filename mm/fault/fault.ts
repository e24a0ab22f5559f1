/**
 * Page faults: from an address that cannot be used to an entry that can.
 * Compare mm/memory.c:handle_mm_fault(), do_anonymous_page(), do_fault().
 *
 * An entry that has changed while a path yielded means that somebody else came first: the fault is
 * done, and the access tries again. How a fault waits is in retry.ts. What the entry says decides who goes on: anon.ts, file.ts, swap.ts,
 * wp.ts, huge.ts for what one entry of a directory maps, mm/hugetlb/.
 */
import { PAGE_SIZE } from '#emu';
import { EFAULT, EINTR, ENOMEM } from '../errno.ts';
import { hugetlbFault } from '../hugetlb/fault.ts';
import { type Path, YP_FAULT_DONE, YP_FAULT_LOCKED } from '../path.ts';
import { pteMkdirty, pteMkyoung, pteNone, ptePresent, pteTable, pteWrite } from '../pgtable/pte.ts';
import { ptepGet, setPteAt, walkEntry, walkPte } from '../pgtable/walk.ts';
import { MAX_RECLAIM_RETRIES, reclaimForFault } from '../reclaim/reclaim.ts';
import { countStat } from '../stat.ts';
import type { Kernel, MmStruct, Vma } from '../types.ts';
import { isCowMapping, VM_EXEC, VM_HUGETLB, VM_MAYWRITE, VM_READ, VM_WRITE } from '../vma/flags.ts';
import { mmapReadLockKillable, mmapReadTrylock, mmapReadUnlock } from '../vma/lock.ts';
import { findVma } from '../vma/vma.ts';
import { doAnonymousPage } from './anon.ts';
import { doFileFault } from './file.ts';
import {
  FAULT_FLAG_DEFAULT,
  FAULT_FLAG_INSTRUCTION,
  FAULT_FLAG_TRIED,
  FAULT_FLAG_UNSHARE,
  FAULT_FLAG_WRITE,
  VM_FAULT_COMPLETED,
  VM_FAULT_RETRY,
} from './flags.ts';
import { HUGE_FALLBACK, handlePmd } from './huge.ts';
import { doNumaPage, isNumaHint } from './numa.ts';
import { faultSignalPending } from './retry.ts';
import { doSwapPage } from './swap.ts';
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
 * it keeps the lock, unless the flags allow to drop it.
 * @param faultFlags FAULT_FLAG_*
 * @returns 0: try the access (or the walk) again; -EFAULT: no VMA, or beyond the file's end; -ENOMEM;
 *   -EHWPOISON; VM_FAULT_RETRY, VM_FAULT_COMPLETED: the lock is gone (flags.ts)
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
  let error =
    (vma.flags & VM_HUGETLB) !== 0
      ? yield* hugetlbFault(k, vma, hva, flags)
      : yield* handleEntry(k, vma, hva - (hva % PAGE_SIZE), flags);
  if (error === -ENOMEM && (vma.flags & VM_HUGETLB) === 0)
    error = yield* retryWithMemory(k, vma, hva - (hva % PAGE_SIZE), flags);
  if (k.watched) yield YP_FAULT_DONE;
  return error;
}

/** Reclaims, and tries the fault again, while that frees anything. @returns as handleMmFault */
function* retryWithMemory(k: Kernel, vma: Vma, at: number, flags: number): Path<number> {
  for (let retries = 0; retries < MAX_RECLAIM_RETRIES; retries++) {
    if (!(yield* reclaimForFault(k))) break;
    const error = yield* handleEntry(k, vma, at, flags);
    if (error !== -ENOMEM) return error;
  }
  return -ENOMEM;
}

/** By what the tables say about the address. Compare __handle_mm_fault(), handle_pte_fault(). */
function* handleEntry(k: Kernel, vma: Vma, at: number, flags: number): Path<number> {
  const { mm } = vma;
  const pmd = walkEntry(k, mm, at, 1, true);
  if (pmd < 0) return pmd;
  const entry = ptepGet(k, pmd);
  if (!pteTable(entry)) {
    if (isNumaHint(vma, entry)) {
      doNumaPage(k, vma, pmd, entry);
      return 0;
    }
    const error = yield* handlePmd(k, vma, at, pmd, flags);
    if (error !== HUGE_FALLBACK) return error;
    // A file's page brings its table, or needs none.
    if (vma.mapping !== null && !pteTable(ptepGet(k, pmd)))
      return yield* doFileFault(k, vma, at, flags);
  }
  const word = walkPte(k, mm, at, true);
  if (word < 0) return word;
  const pte = ptepGet(k, word);
  if (pteNone(pte))
    return vma.mapping === null
      ? yield* doAnonymousPage(k, vma, at, word, flags)
      : yield* doFileFault(k, vma, at, flags);
  if (!ptePresent(pte)) return yield* doSwapPage(k, vma, at, word, pte, flags);
  if (isNumaHint(vma, pte)) {
    doNumaPage(k, vma, word, pte);
    return 0;
  }
  if ((flags & (FAULT_FLAG_WRITE | FAULT_FLAG_UNSHARE)) !== 0 && !pteWrite(pte))
    return yield* doWpPage(k, vma, at, word, pte, flags);
  const written = (flags & FAULT_FLAG_WRITE) !== 0 ? pteMkdirty(pte) : pte;
  setPteAt(k, word, pteMkyoung(written));
  return 0;
}

/** May user code do this here? Compare arch/riscv/mm/fault.c:access_error(): W implies R. */
const accessAllowed = (vma: Vma, flags: number): boolean => {
  if ((flags & FAULT_FLAG_INSTRUCTION) !== 0) return (vma.flags & VM_EXEC) !== 0;
  if ((flags & FAULT_FLAG_WRITE) !== 0) return (vma.flags & VM_WRITE) !== 0;
  return (vma.flags & (VM_READ | VM_WRITE)) !== 0;
};

/**
 * A fault of user code: takes mmap_lock, checks the access, handles the fault, again where that had
 * to wait.
 * @returns 0: do the access again; -EFAULT: SIGSEGV or SIGBUS; -EHWPOISON: SIGBUS; -ENOMEM; -EINTR: a
 *   signal is to be handled first
 */
export function* userFault(
  k: Kernel,
  mm: MmStruct,
  hva: number,
  accessFlags: number,
): Path<number> {
  let flags = accessFlags | FAULT_FLAG_DEFAULT;
  for (;;) {
    if (!mmapReadTrylock(mm) && (yield* mmapReadLockKillable(k, mm)) !== 0) return -EINTR;
    const vma = findVma(mm, hva);
    const allowed = vma !== null && accessAllowed(vma, flags);
    const outcome = allowed ? yield* handleMmFault(k, mm, hva, flags) : -EFAULT;
    if (outcome === VM_FAULT_COMPLETED) return 0;
    if (outcome !== VM_FAULT_RETRY) {
      mmapReadUnlock(mm);
      return outcome;
    }
    if (faultSignalPending(k, flags)) return -EINTR;
    flags |= FAULT_FLAG_TRIED;
  }
}
